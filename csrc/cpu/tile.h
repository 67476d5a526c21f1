// A tile of c, in registers: kMR rows of 2 vectors. Its sums, one row of b and one number of a fill the registers.
#pragma once

#include "pack.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr int kMR = FUSEGRAD_VECTOR_BYTES == 64 ? 14 : 6;
template <class V> constexpr int kNR = 2 * kLanes<V>;

// What a kernel does beside its sums. Every few steps it brings nearer a row of `near`, and a pair of lines of what is
// read later: of all `rows`, from the given one on, then the next two of each. And it may write c past the caches.
struct Beside {
  Near near;
  const char* from = nullptr;
  int64_t stride = 0, rows = 0, row = 0, pairs = 0;
  bool streams = false;

  bool at_once = false;  // all of near, before the first step: of few steps there are fewer than rows

  void begin() {
    if (!at_once) return;
    if (near.rows != kMR) {
      while (near.rows > 0) near.bring_row();
      return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kMR; i++) near.bring_row_now();
    near.rows = 0;
  }
  void bring() {
    near.bring_row();
    if (pairs-- <= 0) return;
    __builtin_prefetch(from, 0, 2);
    __builtin_prefetch(from + kLine, 0, 2);
    from += stride;
    if (++row == rows) from += 2 * kLine - row * stride, row = 0;
  }
};
constexpr Beside kNothing;

// A row of a tile, to where it is aligned, past the caches where it is whole lines.
template <int kVectors, class V, class Out> inline void stream_row(Out* to, const V* row) {
  if constexpr (sizeof(Out) == sizeof(ScalarOf<V>)) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) stream(to + j * kLanes<V>, row[j]);
  } else if constexpr (kVectors == 2) {
    struct {
      U16 halves[2];
    } line = {{narrow(row[0], Out{}), narrow(row[1], Out{})}};
    stream(to, bits<V>(line));
  } else {
    store_as(to, row[0]);
  }
}

// c = sums + a tile, if there are sums.
template <int kRows, int kVectors, class V, class S, class Out>
__attribute__((always_inline)) inline void put(V (&sum)[kRows][kVectors], const S* sums, int64_t ld, Out* c,
                                               int64_t ldc, bool streams) {
  if (sums) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; j++) sum[i][j] = load<V>(sums + i * ld + j * kLanes<V>) + sum[i][j];
  }
  if (streams) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) stream_row<kVectors>(c + i * ldc, sum[i]);
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) store_as(c + i * ldc + j * kLanes<V>, sum[i][j]);
}

// c = sums + a b + bias, of a tile of kRows by kVectors and k words; a bias of columns, or of rows. There may be no
// sums, and no bias.
template <int kRows, int kVectors, class P, bool kBiasOfRows, class Out, class V = typename P::V, class S = ScalarOf<V>>
void micro_kernel(int64_t k, const typename P::Word* a, const typename P::Word* b, const S* bias, const S* sums,
                  int64_t ld, Out* c, int64_t ldc, const Beside& beside) {
  V sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) sum[i][j] = V{};
  const auto step = [&]() __attribute__((always_inline)) {
    V row[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) row[j] = P::load(b + j * kLanes<V>);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V factor = P::repeat(a[i]);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; j++) sum[i][j] = P::add_product(sum[i][j], factor, row[j]);
    }
    a += kMR;
    b += kNR<V>;
  };
  // from L1 on a Zen 3, 97 to 99 % of the FMA peak; without unrolling 87 to 99 %, as the loop happens to lie in memory
  for (Beside next = beside; k >= 4; k -= 4) {
    next.bring();
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) step();
  }
  for (; k > 0; k--) step();
  if (bias) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; j++) sum[i][j] += kBiasOfRows ? all<V>(bias[i]) : load<V>(bias + j * kLanes<V>);
  }
  put(sum, sums, ld, c, ldc, beside.streams);
}

constexpr int64_t kRowsAhead = 24;  // of b, brought nearer meanwhile

// The same of a whole tile, of rows of b that are where they are: it packs them while it multiplies.
template <class V, class S = ScalarOf<V>> void packing_kernel(int64_t k, const S* a, const S* b, int64_t ldb, S* packed,
                                                              const S* sums, int64_t ld, S* c, int64_t ldc,
                                                              const Beside& beside) {
  V sum[kMR][2];
#pragma GCC unroll 16
  for (int i = 0; i < kMR; i++) sum[i][0] = sum[i][1] = V{};
  const auto step = [&]() __attribute__((always_inline)) {
    const V left = load<V>(b), right = load<V>(b + kLanes<V>);
    const S* ahead = b + kRowsAhead * ldb;  // two lines, or three
    __builtin_prefetch(ahead);
    __builtin_prefetch(ahead + kLanes<V>);
    __builtin_prefetch(ahead + kNR<V> - 1);
    store<V>(packed, left);
    store<V>(packed + kLanes<V>, right);
#pragma GCC unroll 16
    for (int i = 0; i < kMR; i++) {
      const V factor = all<V>(a[i]);
      sum[i][0] += factor * left;
      sum[i][1] += factor * right;
    }
    a += kMR;
    b += ldb;
    packed += kNR<V>;
  };
  for (Beside next = beside; k >= 4; k -= 4) {
    next.bring();
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) step();
  }
  for (; k > 0; k--) step();
  put(sum, sums, ld, c, ldc, beside.streams);
}

template <class P, bool kBiasOfRows, class Out> struct Kernel {  // for 1 to kMR rows, 1 or 2 vectors
  using MicroKernel = decltype(&micro_kernel<1, 1, P, kBiasOfRows, Out>);
  MicroKernel tile[2][kMR];

  constexpr Kernel() : tile{} { fill(typename Count<kMR>::type{}); }
  template <int... I> constexpr void fill(Indices<I...>) {
    ((tile[0][I] = micro_kernel<I + 1, 1, P, kBiasOfRows, Out>,
      tile[1][I] = micro_kernel<I + 1, 2, P, kBiasOfRows, Out>),
     ...);
  }
};
template <class P, bool kBiasOfRows = false, class Out = ScalarOf<typename P::V>>
constexpr Kernel<P, kBiasOfRows, Out> kKernel;

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
