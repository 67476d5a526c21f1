// Products that are bound by reading or writing a matrix once, and pack nothing.
#pragma once

#include "blocked.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr int64_t kSkinnyRows = 8, kSkinnySteps = 2;  // of c, and of k: measured on a Zen 3
// Columns of c for which dots are the fastest, at most, and k for each: adding up lanes takes as long whatever k is
// (a Zen 4, 2026-11-27). Where an instruction multiplies pairs, packing pays sooner.
template <class T> constexpr int64_t kSkinnyColumns = Packed<T>::kNumbers == 2      ? 5
                                                      : FUSEGRAD_VECTOR_BYTES == 64 ? 32
                                                                                    : 3;
constexpr int64_t kSumsForColumn = FUSEGRAD_VECTOR_BYTES == 64 ? 12 : 0;
constexpr int64_t kLongSums = 64;  // for which dots are faster than to pack few rows or columns

// --- few rows: y = x w^T is bound by reading w, once, in its own order ---------------------------------------------

constexpr int kDotRows = 4, kDotColumns = FUSEGRAD_VECTOR_BYTES == 64 ? 6 : 3;

// The sum of the lanes of each of n vectors: a transposition that adds on the way.
template <int H, class V> inline V sums_of_lanes(V* rows) {
  using All = typename Count<kLanes<V>>::type;
#pragma GCC unroll 16
  for (int i = 0; i < H; i++)
    rows[i] = exchange<H, false>(rows[i], rows[i + H], All{}) + exchange<H, true>(rows[i], rows[i + H], All{});
  if constexpr (H > 1) return sums_of_lanes<H / 2>(rows);
  return rows[0];
}

// Bits that keep the last r lanes of a vector, where read from `lanes + r` on.
template <class V> struct LastLanes {
  decltype(IntOf<V>{}[0] + 0) lanes[2 * kLanes<V>] = {};
  constexpr LastLanes() {
    for (int i = kLanes<V>; i < 2 * kLanes<V>; i++) lanes[i] = -1;
  }
};
template <class V> constexpr LastLanes<V> kLast;

template <class T> constexpr bool kIsBFloat16 = false;
template <> inline constexpr bool kIsBFloat16<BFloat16> = true;

// to = a b or to += a b, of kRows by kColumns.
template <int kRows, int kColumns, class T> inline void dot(const T* a, int64_t a_row, const T* b, int64_t b_column,
                                                            int64_t k, ScalarFor<T>* to, int64_t ld, bool add) {
  using V = VectorFor<T>;
  constexpr int n = kLanes<V>, kGroups = (kRows * kColumns + n - 1) / n;
  V sum[kGroups * n];
#pragma GCC unroll 32
  for (int q = 0; q < kGroups * n; q++) sum[q] = V{};
  const auto step = [&](auto&& read) __attribute__((always_inline)) {
    V column[kColumns];
#pragma GCC unroll 6
    for (int j = 0; j < kColumns; j++) column[j] = read(b + j * b_column);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; i++) {
      const V row = read(a + i * a_row);
#pragma GCC unroll 6
      for (int j = 0; j < kColumns; j++) sum[i * kColumns + j] += row * column[j];
    }
  };
  int64_t p = 0;
  if constexpr (kIsBFloat16<T>) {
    for (; p + 2 * n <= k; p += 2 * n) {
      step([&](const T* from) __attribute__((always_inline)) { return load_every_other<false>(from + p); });
      step([&](const T* from) __attribute__((always_inline)) { return load_every_other<true>(from + p); });
    }
  }
  for (; p + n <= k; p += n) step([&](const T* from) __attribute__((always_inline)) { return load_as(from + p); });
  if (p < k && k >= n) {  // the last n once more, those that are done already as zeros
    const auto rest = bits<IntOf<V>>(load<V>(reinterpret_cast<const ScalarFor<T>*>(kLast<V>.lanes + (k - p))));
    step([&](const T* from)
             __attribute__((always_inline)) { return bits<V>(bits<IntOf<V>>(load_as(from + k - n)) & rest); });
  } else if (p < k) {
    step([&](const T* from) __attribute__((always_inline)) { return load_some(from + p, k); });
  }
  ScalarFor<T> sums[kGroups * n];
#pragma GCC unroll 24
  for (int q = 0; q < kGroups; q++) store<V>(sums + q * n, sums_of_lanes<n / 2>(sum + q * n));
#pragma GCC unroll 4
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 6
    for (int j = 0; j < kColumns; j++) to[i * ld + j] = (add ? to[i * ld + j] : 0) + sums[i * kColumns + j];
}

// Calls body(i, m, j, n) for the parts of an (m, n) matrix that are one tile wide.
template <class V, class Body> void in_strips(int count, int64_t m, int64_t n, const Body& body) {
  const int64_t panels = ceil_div(n, kNR<V>), blocks = ceil_div(m, kMC);
  share(count, panels * blocks, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; task++) {
      const int64_t j = task / blocks * kNR<V>, i = task % blocks * kMC;
      body(i, least(kMC, m - i), j, least(kNR<V>, n - j));
    }
  });
}

// Up to how many rows of c dots are the fastest: measured on a Zen 3.
template <class T> constexpr int64_t kRowsOfDots = kSkinnyRows;
template <> inline constexpr int64_t kRowsOfDots<float> = 12;

// Tiles of few columns pass through a strip of kNR, so that the epilogue is the same.
template <class T> struct DotProduct {
  using V = VectorFor<T>;
  using S = ScalarOf<V>;
  Product<T> whole;

  template <int kRows, int kColumns> void tile(int64_t i, int64_t j, S* to) const {
    const Gemm& g = whole.g;
    const T* b = static_cast<const T*>(g.b.data) + j * g.b.column_stride;
    constexpr int64_t kPiece = kChain * kLanes<V>;
    int64_t p = 0;
    do {
      dot<kRows, kColumns>(a(i) + p, g.a.row_stride, b + p, g.b.column_stride, least(kPiece, g.k - p), to, kNR<V>,
                           p > 0);
      p += kPiece;
    } while (p < g.k);
  }
  template <int kColumns> void rows(int64_t i, int64_t count, int64_t j, S* to) const {
    int64_t r = 0;
    for (; r + kDotRows <= count; r += kDotRows) tile<kDotRows, kColumns>(i + r, j, to + r * kNR<V>);
    if (count - r == 3) return tile<3, kColumns>(i + r, j, to + r * kNR<V>);
    if (count - r == 2) return tile<2, kColumns>(i + r, j, to + r * kNR<V>);
    if (count - r == 1) tile<1, kColumns>(i + r, j, to + r * kNR<V>);
  }
  // The columns that are left: fewer than a tile has.
  template <int kColumns> void rest(int64_t columns, int64_t i, int64_t count, int64_t j, S* to) const {
    if (columns == kColumns) return rows<kColumns>(i, count, j, to);
    if constexpr (kColumns > 1) rest<kColumns - 1>(columns, i, count, j, to);
  }
  const T* a(int64_t i) const { return static_cast<const T*>(whole.g.a.data) + i * whole.g.a.row_stride; }

  // a b + bias, of rows that are kNR apart.
  void sum(int64_t i, int64_t count, int64_t j, int64_t columns, S* sums) const {
    if (columns < kNR<V>) __builtin_memset(sums, 0, count * kNR<V> * sizeof(S));  // the activation sees it all
    int64_t q = 0;
    for (; q + kDotColumns <= columns; q += kDotColumns) rows<kDotColumns>(i, count, j + q, sums + q);
    rest<kDotColumns - 1>(columns - q, i, count, j + q, sums + q);
    S room[kNR<V>];
    const S* bias = whole.bias_of(j, columns, room);
    for (int64_t r = 0; bias && r < count; r++) whole.add_row(sums + r * kNR<V>, bias, columns);
  }
  void block(int64_t i, int64_t count, int64_t j, int64_t columns) const {
    alignas(64) S sums[kMC * kNR<V>];
    sum(i, count, j, columns, sums);
    whole.epilogue(sums, kNR<V>, i, j, count, columns, true, true);
  }

  void run(int count) const {
    in_strips<V>(count, whole.g.m, whole.g.n, [&](int64_t i, int64_t m, int64_t j, int64_t n) { block(i, m, j, n); });
  }
};

// --- few rows of c, or few numbers to a sum: bound by reading b or writing c, once, row by row ----------------------

constexpr int kSteps = 8;                   // rows of b at a time
constexpr int64_t kRowChain = 96 * kSteps;  // rows of b that are added to one another before they are to the rest
constexpr int64_t kRowBlock = 2048;         // columns of c, that stay in L1
// Rows of c, at most, as for dots.
template <class T> constexpr int64_t kFewRows = Packed<T>::kNumbers == 1 ? kSkinnyRows : 3;

// to = factors b, or start + factors b, of n columns.
template <int kCount, class T, class V = VectorFor<T>, class S = ScalarOf<V>>
inline void combine(const T* factors, int64_t stride, const T* b, int64_t b_row, int64_t n, S* to, const S* start) {
  V factor[kCount];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i++) factor[i] = all<V>(to_scalar(factors[i * stride]));
  const auto sum = [&](int64_t j, auto&& read) __attribute__((always_inline)) {
    V s = factor[0] * read(b + j);
#pragma GCC unroll 8
    for (int i = 1; i < kCount; i++) s += factor[i] * read(b + i * b_row + j);
    return s;
  };
  int64_t j = 0;
  for (; j + kLanes<V> <= n; j += kLanes<V>) {
    const V s = sum(j, [&](const T* p) __attribute__((always_inline)) { return load_as(p); });
    store<V>(to + j, start ? load<V>(start + j) + s : s);
  }
  if (j < n) {
    const V s = sum(j, [&](const T* p) __attribute__((always_inline)) { return load_some(p, n - j); });
    store_some(to + j, start ? load_some(start + j, n - j) + s : s, n - j);
  }
}

template <class T> struct RowProduct {
  using V = VectorFor<T>;
  using S = ScalarOf<V>;
  const Gemm& g;

  void block(int64_t i, int64_t rows, int64_t j, int64_t columns) const {
    T* c = static_cast<T*>(g.c) + i * g.n + j;
    if constexpr (Product<T>::kDirect) {
      add_up(i, rows, j, columns, c, g.n);
    } else {
      const Scratch sums(kSlotOfPartial, least(rows, kSkinnyRows) * columns * int64_t(sizeof(S)));
      S* to = static_cast<S*>(sums.data);
      for (int64_t r = 0; r < rows; r += kSkinnyRows) {  // so many at a time, to stay in cache
        const int64_t some = least(kSkinnyRows, rows - r);
        add_up(i + r, some, j, columns, to, columns);
        for (int64_t q = 0; q < some; q++) narrow_row(to + q * columns, c + (r + q) * g.n, columns);
      }
    }
  }

  // to = a b + bias, by chains of kRowChain.
  void add_up(int64_t i, int64_t rows, int64_t j, int64_t columns, S* to, int64_t ld) const {
    int64_t p = least(kRowChain, end_of_b(g, 0));
    add_up(i, rows, j, columns, 0, p, to, ld);
    if (p == g.k) return;
    S* piece = static_cast<S*>(scratch(kSlotOfA, rows * columns * int64_t(sizeof(S))));
    for (int64_t end; p < g.k; p = end) {
      end = least(p + kRowChain, end_of_b(g, p));
      add_up(i, rows, j, columns, p, end, piece, columns);
      for (int64_t r = 0; r < rows; r++) Product<T>::add_row(to + r * ld, piece + r * columns, columns);
    }
  }

  // to = a b over k in [p, end), of rows of b that are in one matrix, and the bias with the first of them.
  void add_up(int64_t i, int64_t rows, int64_t j, int64_t columns, int64_t p, int64_t end, S* to, int64_t ld) const {
    const T* a = static_cast<const T*>(g.a.data) + i * g.a.row_stride;
    const Operand from = rows_of_b<T>(g, p);
    const T* b = static_cast<const T*>(from.data) + j;
    S bias[kRowBlock];
    const bool has_bias = g.bias && p == 0;
    for (int64_t q = 0; has_bias && q < columns; q++)
      bias[q] = to_scalar(static_cast<const T*>(g.bias)[(j + q) * g.bias_stride]);
    const S* first = has_bias ? bias : nullptr;
    bool add = false;
    const auto step = [&](auto kernel, int64_t count) __attribute__((always_inline)) {
      for (int64_t r = 0; r < rows; r++)
        kernel(a + r * g.a.row_stride + p * g.a.column_stride, g.a.column_stride, b, from.row_stride, columns,
               to + r * ld, add ? to + r * ld : first);
      add = true;
      p += count;
      b += count * from.row_stride;
    };
    while (p + kSteps <= end) step(combine<kSteps, T>, kSteps);
    while (p + 2 <= end) step(combine<2, T>, 2);
    if (p < end) step(combine<1, T>, 1);
  }

  void run(int count) const {
    const int64_t parts = g.m <= kSkinnyRows ? count : 1;
    const int64_t width = least(ceil_div(ceil_div(g.n, parts), kNR<V>) * kNR<V>, kRowBlock);
    const int64_t panels = ceil_div(g.n, width), rows = ceil_div(g.m, ceil_div(g.m, kMC)), blocks = ceil_div(g.m, rows);
    share(count, panels * blocks, [&](int64_t from, int64_t to) {
      for (int64_t task = from; task < to; task++) {
        const int64_t j = task / blocks * width, i = task % blocks * rows;
        block(i, least(rows, g.m - i), j, least(width, g.n - j));
      }
    });
  }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
