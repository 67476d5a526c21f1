// By which algorithm a product is computed.
#pragma once

#include "skinny.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr double kSerialCycles = 50000;  // less is not worth a second thread
constexpr int64_t kPartialRows = 4096;   // of 16-bit results, whose partial sums need room

void gemm(const Gemm& given) {
  Gemm g = given;
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) g.a = g.b = {};  // of no numbers, which may have no address to count rows from
  const double m = double(g.m), n = double(g.n), k = double(g.k), lanes = g.type == Type::f64 ? 8 : 16;
  const double cycles = (m * n * k + (m * n + n * k + m * k) / 2) / lanes;  // on AVX2; others are not far from it
  const int count = cycles < kSerialCycles ? 1 : threads();
  with_type(g.type, [&](auto t) {
    using T = decltype(t);
    using S = ScalarFor<T>;
    const bool along_k = g.a.column_stride == 1 && g.b.row_stride == 1;
    if (g.k == 0 || (along_k && (g.m <= kSkinnyRows || g.n <= kSkinnyColumns))) {
      DotProduct<T>{{g, 0, g.m, nullptr}}.run(count);
      return;
    }
    if constexpr (Product<T>::kDirect) {
      const bool plain = !g.bias && !g.activation && !g.saved;
      if (plain && g.b.column_stride == 1 && (g.m <= kSkinnyRows || g.k <= kSkinnySteps)) {
        RowProduct<T>{g}.run(count);
        return;
      }
      Product<T>{g, 0, g.m, static_cast<S*>(g.c)}.run(count);
      return;
    }
    for (int64_t first = 0; first < g.m; first += kPartialRows) {
      const int64_t m = least(kPartialRows, g.m - first);
      const Scratch partial(kSlotOfPartial, g.k > kKC<T> ? m * g.n * int64_t(sizeof(S)) : 0);
      Product<T>{g, first, m, static_cast<S*>(partial.data)}.run(count);
    }
  });
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
