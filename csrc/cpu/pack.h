// Packing: a panel of W rows (or columns) of an operand, stored along k: to[k * W + i]. The micro-kernel then reads
// both operands in order, whatever their layout and type were.
#pragma once

#include "convert.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <int... I> struct Indices {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> {
  using type = Indices<I...>;
};

// Of two rows a, b of blocks of H lanes: {a0 b0 a2 b2 ...} if not odd, {a1 b1 a3 b3 ...} if odd.
template <int H, bool kOdd, class V, int... I> inline V exchange(V a, V b, Indices<I...>) {
  constexpr int n = kLanes<V>;
#if defined(__clang__)
  return __builtin_shufflevector(a, b, ((I / H % 2 ? n + I - H : I) + (kOdd ? H : 0))...);
#else
  return __builtin_shuffle(a, b, IntOf<V>{((I / H % 2 ? n + I - H : I) + (kOdd ? H : 0))...});
#endif
}

// Transposes a square of n x n lanes in registers: exchanges the off-diagonal blocks of halves, quarters, ...
template <int H, class V> inline void transpose(V* rows) {
  constexpr int n = kLanes<V>;
  using All = typename Count<n>::type;
#pragma GCC unroll 16
  for (int i = 0; i < n; i++) {
    if (i & H) continue;
    const V a = rows[i], b = rows[i + H];
    rows[i] = exchange<H, false>(a, b, All{});
    rows[i + H] = exchange<H, true>(a, b, All{});
  }
  if constexpr (H > 1) transpose<H / 2>(rows);
}

// `count` <= W rows, the rest is zeros. `across` is the stride from row to row, `along` the one along k. Writes up to a
// vector past the end of the panel.
template <int W, class T>
void pack_panel(const T* from, int64_t across, int64_t along, int count, int64_t k, ScalarFor<T>* to) {
  using V = VectorFor<T>;
  constexpr int n = kLanes<V>;
  int64_t done = 0;
  if (across == 1 && count == W) {
    for (; done < k; done++) {
      const T* row = from + done * along;
      int i = 0;
#pragma GCC unroll 8
      for (; i + n <= W; i += n) store<V>(to + done * W + i, load_as(row + i));
      for (; i < W; i++) to[done * W + i] = to_scalar(row[i]);
    }
    return;
  }
  if (along == 1) {
    for (; done + n <= k; done += n) {
      // from the last group of rows to the first: each runs over into the next k, which is written later
      for (int group = (W - 1) / n; group >= 0; group--) {
        V rows[n];
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
          const int row = group * n + i;
          rows[i] = row < count ? load_as(from + row * across + done) : V{};
        }
        transpose<n / 2>(rows);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) store<V>(to + (done + i) * W + group * n, rows[i]);
      }
    }
  }
  for (; done < k; done++) {
    for (int i = 0; i < W; i++) to[done * W + i] = i < count ? to_scalar(from[i * across + done * along]) : 0;
  }
}

// All rows of an operand, panel after panel.
template <int W, class T>
void pack(const T* from, int64_t across, int64_t along, int64_t count, int64_t k, ScalarFor<T>* to) {
  for (int64_t i = 0; i < count; i += W)
    pack_panel<W>(from + i * across, across, along, int(count - i < W ? count - i : W), k, to + i * k);
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
