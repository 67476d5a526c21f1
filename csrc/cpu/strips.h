// c = epilogue(a b) by strips of kMR rows, each through all columns, where all of b that is packed stays in L2: rows of
// a are read in place, and c is written in its own order. Blocks (blocked.h) read a panel of b for many rows, so that
// rows of a have to be packed: where columns are few, that takes a seventh of the time.
#pragma once

#include "turned.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr bool kHasStrips = FUSEGRAD_VECTOR_BYTES == 64;  // on Intel (kernels.h): not measured on others

// Measured on an Emerald Rapids, with 2 MB of L2 (2026-11-27).
constexpr int64_t kBytesOfStrips = 1 << 20;  // of b, at a time
// Of k, at a time, and where a is packed. There each number along k lies on a page of its own, as rows of a do that are
// packed at a time: fewer than the TLB has places for.
template <class T> constexpr int64_t kChainsOfStrip = sizeof(T) == 8 ? 1 : 3;
constexpr int64_t kChainsPacked = 1, kRowsPacked = 12 * kMR;
constexpr int64_t kBytesNear = 512 << 10;  // of a, that are in cache anyway
constexpr int64_t kColumnsInPlace = 256;   // of c, at most, for which a is not worth packing
// Rows of c, at most, for which b is not worth packing, and where its rows alias; how many rows of it are brought
// ahead of those that the first strip reads.
constexpr int64_t kRowsOfInPlace = 256, kRowsOfAliased = 64, kRowsBrought = 16;

// c = sums + a b + bias, of kRows rows of a and a panel of b, whose rows are ldb apart; there may be no sums, and no
// bias. In a `move` leads from row to row if kAlong, and numbers of a row are adjacent, up to a line, from which `hop`
// leads to the next. Else rows are adjacent, and `move` leads from one number of each to the next.
template <int kRows, int kVectors, bool kAlong, class V, class S = ScalarOf<V>>
void strip_kernel(int64_t k, const S* a, int64_t move, int64_t hop, const S* b, int64_t ldb, int64_t ahead,
                  const S* bias, const S* sums, int64_t ld, S* c, int64_t ldc, const Beside& beside) {
  V sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) sum[i][j] = V{};
  constexpr int kEach = 3, kPointers = kAlong ? (kRows + kEach - 1) / kEach : 1;  // as in turned.h
  const S* rows[kPointers];
#pragma GCC unroll 5
  for (int i = 0; i < kPointers; i++) rows[i] = a + kEach * i * move;
  const auto step = [&](int u) __attribute__((always_inline)) {
    if constexpr (kAlong) asm("" : "+r"(move));
    V row[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) row[j] = load<V>(b + j * kLanes<V>);
    __builtin_prefetch(b + ahead);
    __builtin_prefetch(b + ahead + kNR<V> - 1);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V factor = all<V>(kAlong ? rows[i / kEach][i % kEach * move + u] : rows[0][i]);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; j++) sum[i][j] += factor * row[j];
    }
    b += ldb;
    if constexpr (!kAlong) rows[0] += move;
  };
  const auto further = [&](int64_t by) __attribute__((always_inline)) {
#pragma GCC unroll 5
    for (int i = 0; kAlong && i < kPointers; i++) rows[i] += by;
  };
  constexpr int kSteps = kLine / sizeof(S);
  Beside next = beside;
  next.begin();
  for (; k >= kSteps; k -= kSteps) {
#pragma GCC unroll 16
    for (int u = 0; u < kSteps; u++) {
      if (u % 4 == 0) next.bring();
      step(u);
    }
    further(hop);
  }
  for (; k > 0; k--) {
    step(0);
    further(1);
  }
  if (bias) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; j++) sum[i][j] += load<V>(bias + j * kLanes<V>);
  }
  put(sum, sums, ld, c, ldc, false);
}

template <class V, bool kAlong> struct StripKernel {  // for 1 to kMR rows, 1 or 2 vectors
  using Kernel = decltype(&strip_kernel<1, 1, kAlong, V>);
  Kernel tile[2][kMR];

  constexpr StripKernel() : tile{} { fill(typename Count<kMR>::type{}); }
  template <int... I> constexpr void fill(Indices<I...>) {
    ((tile[0][I] = strip_kernel<I + 1, 1, kAlong, V>, tile[1][I] = strip_kernel<I + 1, 2, kAlong, V>), ...);
  }
};
template <class V, bool kAlong> constexpr StripKernel<V, kAlong> kStripKernel;

// Of a block of k: which it is, and where its strip of a and its columns of b are.
template <class S> struct StripBlock {
  int64_t k;
  bool begins, ends;
  const S* biases;  // of columns [j, j + n), whole vectors; nullptr if there are none
  int64_t j, n;
  const S* b;         // packed
  const S* in_place;  // b of column j, where whole panels are read; nullptr if they are packed
  int64_t ldb;
  int64_t i0;  // of c, the first row
};

template <class T> struct StripProduct {
  using V = VectorFor<T>;
  using S = ScalarOf<V>;
  using Block = StripBlock<S>;
  const Product<T> whole;

  // A strip of a, as a kernel reads it.
  struct Strip {
    bool along;
    const S* a;
    int64_t move, hop;

    const S* at(int64_t p) const { return a + (along ? p / kOfLine * hop : p * move); }
  };

  static constexpr int64_t kOfLine = kLine / int64_t(sizeof(S));
  // A line of each row, then the next of each.
  static void copy_lines(const T* from, int64_t row_stride, int64_t rows, int64_t k, S* to) {
    for (int64_t r = 0; r < rows; r++, to += kOfLine, from += row_stride) {
      int64_t q = 0;
      for (; q + kOfLine <= k; q += kOfLine) __builtin_memcpy(to + q * kMR, from + q, kLine);
      if (q < k) __builtin_memcpy(to + q * kMR, from + q, (k - q) * sizeof(S));
    }
  }

  // Rows [i, i + rows) of c, all columns of the block.
  void strip(const Strip& a, const Block& block, int64_t i, int64_t rows, const Ahead& ahead, int64_t part = 0,
             int64_t parts = 1) const {
    const Gemm& g = whole.g;
    const bool plain = !g.activation && !g.saved, adds = !block.begins;
    const int64_t k = block.k;
    alignas(64) S tile[kMR * kNR<V>], chained[kMR * kNR<V>];
    const auto& kernels = a.along ? kStripKernel<V, true>.tile : kStripKernel<V, false>.tile;
    const int64_t chains = ceil_div(k, kChain), all = ceil_div(block.n, kNR<V>) * chains;
    part *= all, parts *= all;
    for (int64_t q = 0; q < block.n; q += kNR<V>) {
      const int64_t j = block.j + q, columns = least(kNR<V>, block.n - q);
      const int vectors = columns > kLanes<V> ? 2 : 1;
      const bool packed = !block.in_place || columns < kNR<V>;
      const S* b = packed ? block.b + (block.in_place ? 0 : q * k) : block.in_place + q;
      const int64_t ldb = packed ? kNR<V> : block.ldb, ahead_b = packed || i > block.i0 ? 0 : kRowsBrought * ldb;
      const bool fits = columns == vectors * kLanes<V>, direct = fits && (!block.ends || plain);
      S* c = whole.partial + i * g.n + j;
      S* to = direct ? c : tile;
      const int64_t ld_to = direct ? g.n : vectors * kLanes<V>;
      const S* sums = fits && adds ? c : nullptr;
      for (int64_t p = 0, ld_sums = g.n; p < k; p += kChain, sums = chained, ld_sums = kNR<V>) {
        const int64_t steps = least(kChain, k - p);
        const bool last = p + kChain >= k;
        Beside beside = Product<T>::beside_of(ahead, part++, parts);
        beside.at_once = steps < 4 * kMR;
        if (p == 0) beside.near = Near::of(c, g.n, rows, columns);
        if (p == kChain && block.ends && g.saved) beside.near = Near::of(whole.row(g.saved, i) + j, g.n, rows, columns);
        const S* bias = last && block.biases ? block.biases + q : nullptr;
        S* out = last ? to : chained;
        const int64_t ld_out = last ? ld_to : kNR<V>;
        kernels[vectors - 1][rows - 1](steps, a.at(p), a.move, a.hop, b + p * ldb, ldb, ahead_b, bias, sums, ld_sums,
                                       out, ld_out, beside);
      }
      if (!direct) whole.epilogue(tile, ld_to, i, j, rows, columns, block.begins || fits, block.ends);
    }
  }

  static const char* start(const T* from) { return reinterpret_cast<const char*>(from); }
  static const S* numbers(const T* from) { return reinterpret_cast<const S*>(from); }

  // All strips of rows [i0, i0 + m), of columns of a from p on: of about one height, where they are not packed.
  void strips(const Block& block, int64_t i0, int64_t m, int64_t p) const {
    const Gemm& g = whole.g;
    constexpr int64_t size = sizeof(T);
    const int64_t k = block.k;
    const bool along = g.a.column_stride == 1, looks_ahead = m * k * size > kBytesNear;
    const bool in_place =
        along || (g.a.row_stride == 1 && g.n <= kColumnsInPlace && !is_aliased(g.a.column_stride * size));
    const bool copies = along && is_aliased(g.a.row_stride * size);
    // Where sums are short c is brought all at once, and where its rows alias L1 has no place for a line of all.
    const int64_t tall = is_aliased(g.n * size) && k < kShortSums ? kMR / 2 : kMR;
    S* room =
        copies || !in_place ? whole.room(kSlotOfA, (in_place ? kMR : kRowsPacked) * round_up(k, kOfLine)) : nullptr;
    if (!in_place) {
      for (int64_t i = 0; i < m; i += kRowsPacked) {
        const int64_t rows = least(kRowsPacked, m - i), after = least(kRowsPacked, m - i - rows);
        const int64_t count = ceil_div(rows, tall);
        whole.pack_a(room, i0 + i, p, rows, k);
        Ahead ahead{};
        if (looks_ahead && after > 0 && g.a.row_stride == 1)
          ahead = {start(whole.a_at(i0 + i + rows, p)), g.a.column_stride * size, k, after * size};
        for (int64_t s = 0, r = 0; s < count; s++, r += tall)
          strip({false, room + r / kMR * kMR * k + r % kMR, kMR, 0}, block, i0 + i + r, least(tall, rows - r), ahead, s,
                count);
      }
      return;
    }
    const int64_t count = ceil_div(m, tall);
    for (int64_t s = 0, i = 0, rows; s < count; s++, i += rows) {
      rows = ceil_div(m - i, count - s);
      const T* from = whole.a_at(i0 + i, p);
      if (copies) copy_lines(from, g.a.row_stride, rows, k, room);
      Ahead ahead{};
      if (along && looks_ahead && s + 1 < count)
        ahead = {start(from + rows * g.a.row_stride), g.a.row_stride * size, ceil_div(m - i - rows, count - s - 1),
                 k * size};
      const Strip copied{true, room, kOfLine, kMR * kOfLine};
      const Strip rest{along, numbers(from), along ? g.a.row_stride : g.a.column_stride, kOfLine};
      strip(copies ? copied : rest, block, i0 + i, rows, ahead);
    }
  }

  // Rows [i0, i0 + m) and columns [j0, j0 + n) of c, by this thread.
  void part(int64_t i0, int64_t m, int64_t j0, int64_t n) const {
    const Gemm& g = whole.g;
    constexpr int64_t size = sizeof(S);
    // the blocks of blocked.h, so that the bits are the same, in pieces of whole chains
    const int64_t block = Product<T>::block_of_k(g.k);
    const int64_t pieces = ceil_div(block, (g.a.column_stride == 1 ? kChainsOfStrip<T> : kChainsPacked) * kChain);
    const int64_t kc = least(block, round_up(ceil_div(block, pieces), kChain));
    const int64_t panels = ceil_div(n, kNR<V>), most = kBytesOfStrips / (kc * size * kNR<V>);
    const int64_t nc = ceil_div(panels, ceil_div(panels, most)) * kNR<V>;
    const bool few = m <= kRowsOfAliased || (m <= kRowsOfInPlace && !is_aliased(g.b.row_stride * size));
    const bool in_place = few && g.b.column_stride == 1 && kc * n * size <= kBytesOfStrips;
    const Scratch of_biases(kSlotOfPartial, g.bias ? nc * size : 0);
    S* biases = static_cast<S*>(of_biases.data);
    for (int64_t j = j0; j < j0 + n; j += nc) {
      const int64_t columns = least(nc, j0 + n - j), whole_panels = columns / kNR<V> * kNR<V>;
      const int64_t first = in_place ? whole_panels : 0;  // that is packed
      for (int64_t q = 0; g.bias && q < round_up(columns, kNR<V>); q++)
        biases[q] = q < columns ? to_scalar(static_cast<const T*>(g.bias)[(j + q) * g.bias_stride]) : 0;
      for (int64_t p = 0, k; p < g.k; p += k) {
        k = least(least(kc, block - p % block), g.k - p);
        const bool ends = p + k == g.k;
        S* b = nullptr;
        if (first < columns) {
          b = whole.room(kSlotOfB, round_up(columns - first, kNR<V>) * k);
          whole.pack_b(b, p, j + first, k, columns - first);
        }
        const S* from = in_place ? numbers(whole.b_at(g.b, j)) + p * g.b.row_stride : nullptr;
        strips({k, p == 0, ends, ends ? biases : nullptr, j, columns, b, from, g.b.row_stride, i0}, i0, m, p);
      }
    }
  }

  void run(int count) const {
    in_parts<V>(count, whole.m, whole.g.n,
                [&](int64_t i, int64_t rows, int64_t j, int64_t columns) { part(i, rows, j, columns); });
  }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
