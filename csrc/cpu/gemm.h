// By which algorithm a product is computed.
#pragma once

#include "gated.h"
#include "strips.h"
#include "turned.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr double kSerialCycles = 50000;  // less is not worth a second thread

inline int threads_for(const Gemm& g) {
  const double m = double(g.m), n = double(g.n), k = double(g.k), lanes = g.type == Type::f64 ? 8 : 16;
  const double cycles = (m * n * k + (m * n + n * k + m * k) / 2) / lanes;  // on AVX2; others are not far from it
  return cycles < kSerialCycles ? 1 : threads();
}

// Whether the numbers of each sum lie next to each other.
inline bool is_along_k(const Gemm& g) { return g.a.column_stride == 1 && g.b.row_stride == 1; }

// Whether sums are so short that it takes longer to add up the lanes of dot products than to pack (a Zen 3,
// 2026-11-26).
template <class T> bool are_short(const Gemm& g) {
  if (is_narrow<VectorFor<T>>(g)) return g.k < kLongSums;
  if (!Product<T>::kDirect || g.k == 0) return false;
  return g.k < (g.m < 3 || g.n <= 3 ? kLanes<VectorFor<T>> : kLongSums);
}

// Whether strips (strips.h) serve what nothing else does.
template <class T> bool has_strips(const Gemm& g) {
  return kHasStrips && Product<T>::kDirect && g.split == 0 && is_intel();
}

// Where they do, up to which size others are faster (Emerald Rapids, 2026-11-27): rows of x that are turned; rows of
// dots, of 9 to 13 in float64 by a half; rows by a b that stays in L2, 8 by 512 x 512 at half the speed of strips. Of
// dots as many columns as a vector has lanes: 592 x 1712 by 32 in float64 take half as long again.
constexpr int64_t kTurnedBesideStrips = 128, kDotsBesideStrips = 13, kRowsBesideStrips = 4,
                  kBytesBesideStrips = 2 << 20;

template <class T> bool suits_dots(const Gemm& g, bool by_strips) {
  const int64_t columns = by_strips ? kLanes<VectorFor<T>> : kSkinnyColumns<T>;
  const int64_t rows = by_strips && sizeof(T) == 8 ? kDotsBesideStrips : kRowsOfDots<T>;
  return g.m <= rows || (g.n <= columns && g.n * kSumsForColumn <= g.k);
}
template <class T> bool suits_rows(const Gemm& g, bool by_strips) {
  const bool small = g.n * g.k * int64_t(sizeof(T)) <= kBytesBesideStrips;
  return g.k <= kSkinnySteps || g.m <= (by_strips && small ? kRowsBesideStrips : kFewRows<T>);
}

// Of a product by MKL what is left to do with c takes a pass of its own, which pays where all sides are long, in
// float64 where sums are (Emerald Rapids, 2026-11-28).
template <class T> bool pays_a_pass(const Gemm& g) {
  if (sizeof(T) == 8) return g.m >= 16 && g.k >= 256;
  return g.m > 128 && g.n >= 128 && g.k >= 128 && double(g.m) * double(g.n) * double(g.k) >= 1 << 25;
}

constexpr int64_t kNumbersOfPass = 1024;  // at once, in L1

template <class V> void add_row(ScalarOf<V>* to, const ScalarOf<V>* row, int64_t n) {
  int64_t j = 0;
  for (; j + kLanes<V> <= n; j += kLanes<V>) store<V>(to + j, load<V>(to + j) + load<V>(row + j));
  for (; j < n; j++) to[j] += row[j];
}

// By MKL, into where the input of the activation is saved if it is; then bias and activation, by rows that stay in L1.
template <class T> bool multiplied_by_mkl(const Gemm& g, int count) {
  using V = VectorFor<T>;
  if (!g.bias && !g.activation && !g.saved) return multiply_by_mkl(g);
  if (g.split != 0 || !pays_a_pass<T>(g)) return false;
  Gemm plain{g.type, g.m, g.n, g.k, g.a, g.b, g.saved ? g.saved : g.c};
  if (!multiply_by_mkl(plain)) return false;
  const Scratch of_bias(kSlotOfA, g.bias ? g.n * int64_t(sizeof(T)) : 0);
  T* bias = static_cast<T*>(of_bias.data);
  for (int64_t j = 0; bias && j < g.n; j++) bias[j] = static_cast<const T*>(g.bias)[j * g.bias_stride];
  const int64_t block = kNumbersOfPass / g.n + 1;
  share(count, ceil_div(g.m, block), [&](int64_t i, int64_t end) {
    for (; i < end; i++) {
      const int64_t rows = least(block, g.m - i * block), size = rows * g.n;
      T *z = static_cast<T*>(plain.c) + i * block * g.n, *c = static_cast<T*>(g.c) + i * block * g.n;
      for (int64_t r = 0; bias && r < rows; r++) add_row<V>(z + r * g.n, bias, g.n);
      if (g.activation)
        g.activation({1, size, z, 0, nullptr, 0, c, 0}, g.param);
      else if (g.saved)
        __builtin_memcpy(c, z, size * sizeof(T));
    }
  });
  return true;
}

// Calls f with a value of a type that is multiplied here.
template <class F> void with_type_of_product(Type t, const F& f) {
#if defined(FUSEGRAD_AVX512_BF16)
  if (t == Type::bf16) f(BFloat16{});
#else
  with_type(t, f);
#endif
}

void gemm(const Gemm& given) {
#if defined(FUSEGRAD_AVX512_BF16)
  // no instruction is new for other types; pairs of a few columns, and short sums, take longer to pack
  const bool few = is_narrow<F32>(given) && given.n <= kSkinnyColumns<BFloat16> && given.k < kLongSums;
  if (given.type != Type::bf16 || few) return avx512::gemm(given);
#endif
  Gemm g = given;
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) g.a = g.b = {};  // of no numbers, which may have no address to count rows from
  const int count = threads_for(g);
  with_type_of_product(g.type, [&](auto t) {
    using T = decltype(t);
    using S = ScalarFor<T>;
    const bool by_strips = has_strips<T>(g);
    if constexpr (kHasStrips && Product<T>::kDirect) {
      if (is_intel() && multiplied_by_mkl<T>(g, count)) return;
    }
    if (g.k == 0 || (suits_dots<T>(g, by_strips) && !are_short<T>(g) && is_along_k(g) && g.split == 0)) {
      DotProduct<T>{{g, 0, g.m, nullptr}}.run(count);
      return;
    }
    if constexpr (Packed<T>::kNumbers == 1) {
      if (is_narrow<VectorFor<T>>(g)) {
        TurnedProduct<T>{g}.run_by_rows(count);
        return;
      }
    }
    const bool plain = !g.activation && !g.saved;
    const bool adjacent = g.b.column_stride == 1 && (g.split == 0 || g.rest.column_stride == 1);
    if (plain && adjacent && suits_rows<T>(g, by_strips)) {
      RowProduct<T>{g}.run(count);
      return;
    }
    if (is_turned<T>(g) && !(by_strips && g.m > kTurnedBesideStrips)) {
      TurnedProduct<T>{g}.run(count);
      return;
    }
    if constexpr (Product<T>::kDirect) {
      if constexpr (kHasStrips) {
        if (by_strips) {
          StripProduct<T>{{g, 0, g.m, static_cast<S*>(g.c)}}.run(count);
          return;
        }
      }
      Product<T>{g, 0, g.m, static_cast<S*>(g.c)}.run(count);
      return;
    }
    const bool by_blocks = g.k > kKC<T> || g.split > 0;
    for (int64_t first = 0; first < g.m; first += kPartialRows) {
      const int64_t m = least(kPartialRows, g.m - first);
      const Scratch partial(kSlotOfPartial, by_blocks ? m * g.n * int64_t(sizeof(S)) : 0);
      Product<T>{g, first, m, static_cast<S*>(partial.data)}.run(count);
    }
  });
}

constexpr int64_t kTurnedGate = FUSEGRAD_VECTOR_BYTES == 64 ? 256 : 128;  // rows, at most (a Zen 4, 2026-11-27)
constexpr int64_t kPart = 1 << 14;                                        // of what is multiplied, for a thread

// Whether the two products of a gate are faster one after the other: with weights in place, or by strips.
template <class T> bool are_apart(const Gated& g) {
  if (!Product<T>::kDirect || g.gate.k == 0 || g.gate.m <= kSkinnyRows) return false;
  if (has_strips<T>(g.gate)) return true;
  return g.gate.m <= kTurnedGate && is_turned<T>(g.gate) && is_turned<T>(g.up);
}

// So they are, and c = gate up after them.
template <class T> void gated_apart(const Gated& g, int count) {
  using V = VectorFor<T>;
  const int64_t n = g.gate.m * g.gate.n, bytes = n * int64_t(sizeof(T));
  const Scratch of_up(kSlotOfGz, g.up.c ? 0 : bytes);
  Gemm gate = g.gate, up = g.up;
  if (!up.c) up.c = of_up.data;
  if (!g.saves_input) gate.saved = nullptr;
  gemm(up);
  gemm(gate);
  T *c = static_cast<T*>(gate.c), *saved = g.saves_input ? nullptr : static_cast<T*>(g.gate.saved);
  const T* factor = static_cast<const T*>(up.c);
  share(count, ceil_div(n, kPart), [&](int64_t from, int64_t to) {
    int64_t i = from * kPart;
    const int64_t end = least(to * kPart, n);
    if (saved) __builtin_memcpy(saved + i, c + i, (end - i) * sizeof(T));
    for (; i + kLanes<V> <= end; i += kLanes<V>) store<V>(c + i, load<V>(c + i) * load<V>(factor + i));
    for (; i < end; i++) c[i] *= factor[i];
  });
}

void gated(const Gated& given) {
#if defined(FUSEGRAD_AVX512_BF16)
  if (given.gate.type != Type::bf16) return avx512::gated(given);
#endif
  Gated g = given;
  if (g.gate.m == 0 || g.gate.n == 0) return;
  if (g.gate.k == 0) g.gate.a = g.gate.b = g.up.a = g.up.b = {};
  const int count = threads_for(g.gate);
  with_type_of_product(g.gate.type, [&](auto t) {
    using T = decltype(t);
    if constexpr (Product<T>::kDirect) {
      if (are_apart<T>(g)) return gated_apart<T>(g, count);
    }
    const GatedProduct<T> product{g};
    const bool skinny = g.gate.m <= kSkinnyRows && is_along_k(g.gate) && is_along_k(g.up);
    if (g.gate.k == 0 || skinny)
      product.run_dots(count);
    else
      product.run(count);
  });
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
