// c = epilogue(a b). Each thread computes a part of c on its own, by the loops of Goto & van de Geijn
// (doi:10.1145/1356052.1356053): packed panels of b, kKC deep, stay in L3, a block of a in L2, one panel of b in L1,
// and a tile of c in registers. Two threads may pack the same panel: that costs less than waiting for one another.
#pragma once

#include "elementwise.h"
#include "tile.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

// Of AVX-512 by what a Zen 4 is fastest with (2026-11-26): c is read and written once for each block of k, which took a
// tenth of large products in float64 where blocks had 1.5 kB.
constexpr int64_t kMC = FUSEGRAD_VECTOR_BYTES == 64 ? 84 : 144;
constexpr int64_t kBytesOfK = FUSEGRAD_VECTOR_BYTES == 64 ? 4096 : 2048;        // at most, of a block
constexpr int64_t kBytesOfB = FUSEGRAD_VECTOR_BYTES == 64 ? 2 << 20 : 1 << 20;  // packed at a time, by each thread
constexpr int64_t kBytesOfA = 4 << 20;  // kept packed where columns of b are packed in turns, at most
constexpr int64_t kShortSums = 96, kBytesOfC = 128 << 10;  // (a Zen 4, 2026-11-26)
constexpr int64_t kBytesOfStreams = 2 << 20;               // of c, from which on it is written past the caches
constexpr int64_t kPackingCost = 8;   // of a number, in multiplications: for the choice of the parts
constexpr int64_t kLeastOfPart = 16;  // times what its packing costs, of a part that is halved
// Words that are added one after another. MKL's error is that of some 90; with 512 ours is 2.4 times as large.
constexpr int64_t kChain = 192;
constexpr int64_t kPartialRows = 4096;  // of results whose partial sums need room
template <class T> constexpr int64_t kKC = kBytesOfK / sizeof(typename Packed<T>::Word) * Packed<T>::kNumbers;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

template <class Body> void share(int count, int64_t tasks, const Body& body) {
  if (count == 1 || tasks == 1)
    body(0, tasks);
  else
    parallel(tasks, 1, body);
}

// The rows of b from p on, as far as one matrix has them, which is up to end_of_b.
template <class T> Operand rows_of_b(const Gemm& g, int64_t p) {
  const bool is_rest = g.split > 0 && p >= g.split;
  Operand b = is_rest ? g.rest : g.b;
  b.data = at(b.data, (is_rest ? p - g.split : p) * b.row_stride * int64_t(sizeof(T)));
  return b;
}
inline int64_t end_of_b(const Gemm& g, int64_t p) { return p < g.split ? g.split : g.k; }

// Calls body(i, m, j, n) for the parts of an (m, n) matrix, one for each thread: a grid, that which is done first if
// packing a row or a column costs as much as multiplying it by kPackingCost others. Each thread packs what it needs:
// nobody waits for another. Large ones are halved, so that a thread whose core is busy has less to be waited for.
template <class V, int64_t kRows = kMR, int64_t kColumns = kNR<V> / 2, class Body>
void in_parts(int count, int64_t m, int64_t n, const Body& body) {
  int64_t least_cost = 0, height = m, width = n;
  for (int64_t down = 1; down <= count; down++) {
    const int64_t rows = round_up(ceil_div(m, down), kRows), columns = round_up(ceil_div(n, count / down), kColumns);
    const int64_t cost = rows * columns + kPackingCost * (rows + columns);
    if (down == 1 || cost < least_cost) least_cost = cost, height = rows, width = columns;
  }
  for (int i = 0; i < 2 && count > 1 && kLeastOfPart * kPackingCost * (height + width) < height * width; i++) {
    if (height > width)
      height = round_up(ceil_div(height, 2), kRows);
    else
      width = round_up(ceil_div(width, 2), kColumns);
  }
  const int64_t across = ceil_div(n, width);
  share(count, ceil_div(m, height) * across, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; task++) {
      const int64_t i = task / across * height, j = task % across * width;
      body(i, least(height, m - i), j, least(width, n - j));
    }
  });
}

// A multiplication in progress: the rows of c from `first` on.
template <class T> struct Product {
  using V = VectorFor<T>;
  using S = ScalarOf<V>;
  using P = Packed<T>;
  using Word = typename P::Word;
  const Gemm& g;
  int64_t first, m;
  S* partial;  // sums over the blocks of k so far, m rows of g.n

  static constexpr bool kDirect = sizeof(T) == sizeof(S);  // c itself can hold partial sums

  T* row(void* base, int64_t i) const { return static_cast<T*>(base) + (first + i) * g.n; }

  // The bias of columns [j, j + columns), as many as a tile has; nullptr if there is none.
  const S* bias_of(int64_t j, int64_t columns, S* room) const {
    if (!g.bias) return nullptr;
    for (int64_t q = 0; q < kNR<V>; q++)
      room[q] = q < columns ? to_scalar(static_cast<const T*>(g.bias)[(j + q) * g.bias_stride]) : 0;
    return room;
  }

  // What is left to do with sums of `rows` x `columns` at (i, j), `ld` apart, in L1.
  void epilogue(S* tile, int64_t ld, int64_t i, int64_t j, int64_t rows, int64_t columns, bool begins,
                bool ends) const {
    if (!begins) {
      for (int64_t r = 0; r < rows; r++) add_row(tile + r * ld, partial + (i + r) * g.n + j, columns);
    }
    if (!ends) {
      for (int64_t r = 0; r < rows; r++)
        __builtin_memcpy(partial + (i + r) * g.n + j, tile + r * ld, columns * sizeof(S));
      return;
    }
    const bool streams = columns == kNR<V> && streams_c(i, j);
    if (g.saved) put_rows(tile, ld, g.saved, i, j, rows, columns, streams);
    if (g.activation && kDirect && columns == ld && !streams)
      return g.activation({rows, ld, tile, ld, nullptr, 0, row(g.c, i) + j, g.n}, g.param);
    if (g.activation) g.activation({1, rows * ld, tile, 0, nullptr, 0, tile, 0}, g.param);
    put_rows(tile, ld, g.c, i, j, rows, columns, streams);
  }

  void put_rows(const S* from, int64_t ld, void* to, int64_t i, int64_t j, int64_t rows, int64_t columns,
                bool streams) const {
    for (int64_t r = 0; r < rows; r++, from += ld) {
      T* out = row(to, i + r) + j;
      if (streams) {
        const V whole[] = {load<V>(from), load<V>(from + kLanes<V>)};
        stream_row<2>(out, whole);
      } else {
        narrow_row(from, out, columns);
      }
    }
  }

  static S* copy_rows(const S* from, int64_t ld, int64_t rows, S* to, int64_t ld_to) {
    for (int64_t r = 0; r < rows; r++) __builtin_memcpy(to + r * ld_to, from + r * ld, kNR<V> * sizeof(S));
    return to;
  }

  static void add_row(S* to, const S* from, int64_t n) {
    int64_t q = 0;
    for (; q + kLanes<V> <= n; q += kLanes<V>) store<V>(to + q, load<V>(to + q) + load<V>(from + q));
    for (; q < n; q++) to[q] += from[q];
  }

  // A part of what lies ahead, for a kernel to bring nearer.
  static Beside beside_of(const Ahead& ahead, int64_t part, int64_t parts) {
    Beside beside;
    if (!ahead.from) return beside;
    const int64_t start = int64_t(reinterpret_cast<uintptr_t>(ahead.from) % kLine);
    const int64_t all = ahead.rows * ceil_div(start + ahead.bytes, 2 * kLine);
    const int64_t first = all * part / parts;
    beside.row = first % ahead.rows;
    beside.from = ahead.from - start + first / ahead.rows * 2 * kLine + beside.row * ahead.stride;
    beside.stride = ahead.stride, beside.rows = ahead.rows, beside.pairs = all * (part + 1) / parts - first;
    return beside;
  }

  // Whether c is so large that it leaves the caches before it is read, and can be written past them: whole lines. Not
  // on Intel: 12.8 MB of sums of 16 terms, float32, take 49 GFLOP/s so and 65 otherwise, in new memory, whose pages
  // were just cleared in cache, 10 and 15 (Emerald Rapids, 2026-11-27).
  bool streams_c(int64_t i, int64_t j) const {
    const auto starts_a_line = [](const T* at) { return reinterpret_cast<uintptr_t>(at) % kLine == 0; };
    return m * g.n * int64_t(sizeof(T)) >= kBytesOfStreams && g.n * sizeof(T) % kLine == 0 &&
           starts_a_line(row(g.c, i) + j) && (!g.saved || starts_a_line(row(g.saved, i) + j)) && !is_intel();
  }

  // What the kernel of the chain `at` of a tile brings nearer: the first sums that are added to, and all that is
  // written, unless past the caches.
  Near near(int64_t at, int64_t i, int64_t j, int64_t rows, int64_t columns, bool begins, bool ends,
            bool streams) const {
    if ((!begins || (kDirect ? !streams : !ends)) && at-- == 0)
      return Near::of(partial + i * g.n + j, g.n, rows, columns);
    if (streams) return {};
    if (!kDirect && ends && at-- == 0) return Near::of(row(g.c, i) + j, g.n, rows, columns);
    return ends && g.saved && at == 0 ? Near::of(row(g.saved, i) + j, g.n, rows, columns) : Near{};
  }

  // Rows [i, i + rows) of a, packed, times a panel of b for columns [j, j + columns), over k words. If it is still to
  // be packed, from rows of b that are b_row apart, the first tile does so. Partial sums are passed on in L1: rows of c
  // push one another out of it where they are a multiple of a page apart.
  void macro_kernel(const Word* a, Word* b, int64_t i, int64_t j, int64_t rows, int64_t columns, int64_t k, bool begins,
                    bool ends, const T* unpacked, int64_t b_row, const Ahead& ahead) const {
    alignas(64) S tile[kMC * kNR<V>], chained[kMR * kNR<V>];
    const int vectors = columns > kLanes<V> ? 2 : 1;
    const bool whole = columns == vectors * kLanes<V>;
    const bool direct = whole && (ends ? kDirect && !g.activation && !g.saved : true);
    constexpr bool kNarrows = P::kNumbers > 1;  // in registers: of others it would take as many kernels again
    const bool narrows = kNarrows && whole && ends && !g.activation && !g.saved;
    S room[kNR<V>];
    const S* bias = ends ? bias_of(j, columns, room) : nullptr;
    const bool streams = ends && whole && streams_c(i, j);
    S* to = direct ? partial + i * g.n + j : tile;
    const int64_t ld = direct ? g.n : vectors * kLanes<V>;
    const int64_t chains = ceil_div(k, kChain), parts = ceil_div(rows, kMR) * chains;
    for (int64_t r = 0; r < rows; r += kMR) {
      const int64_t height = least(kMR, rows - r);
      const auto kernel = kKernel<typename P::Multiplied>.tile[vectors - 1][height - 1];
      S* c = to + r * ld;
      const S* sums = begins ? nullptr : direct ? c : narrows ? partial + (i + r) * g.n + j : nullptr;
      for (int64_t q = 0, ld_sums = narrows ? g.n : ld; q < k; q += kChain, sums = chained, ld_sums = kNR<V>) {
        const int64_t steps = least(kChain, k - q);
        const bool last = q + kChain >= k;
        Beside beside = beside_of(ahead, r / kMR * chains + q / kChain, parts);
        beside.near = near(q / kChain, i + r, j, height, columns, begins, ends, streams);
        beside.streams = last && streams && (direct || narrows);
        S* out = last ? c : chained;
        const int64_t ld_out = last ? ld : kNR<V>;
        if constexpr (kNarrows) {
          if (last && narrows) {
            const auto narrowing = kKernel<P, false, T>.tile[vectors - 1][height - 1];
            narrowing(steps, a + r * k + q * kMR, b + q * kNR<V>, bias, sums, ld_sums, row(g.c, i + r) + j, g.n,
                      beside);
            continue;
          }
        }
        if constexpr (kDirect) {
          if (unpacked && r == 0) {
            const bool all = height == kMR;  // else it makes rows that there are not
            if (!all && q == 0 && sums) {
              __builtin_memset(chained, 0, sizeof chained);
              sums = copy_rows(sums, ld_sums, height, chained, kNR<V>);
              ld_sums = kNR<V>;
            }
            beside.streams &= all;
            packing_kernel<V>(steps, a + q * kMR, unpacked + q * b_row, b_row, b + q * kNR<V>, sums, ld_sums,
                              all ? out : chained, all ? ld_out : kNR<V>, beside);
            if (!all && last) copy_rows(chained, kNR<V>, height, c, ld);
            continue;
          }
        }
        kernel(steps, a + r * k + q * kMR, b + q * kNR<V>, last ? bias : nullptr, sums, ld_sums, out, ld_out, beside);
      }
    }
    if (!direct && !narrows) epilogue(tile, ld, i, j, rows, columns, begins, ends);
  }

  static int64_t words(int64_t k) { return ceil_div(k, P::kNumbers); }
  static Word* room(int slot, int64_t count) {
    return static_cast<Word*>(scratch(slot, (count + kLanes<V>)*int64_t(sizeof(Word))));
  }
  const T* b_at(const Operand& b, int64_t j) const { return static_cast<const T*>(b.data) + j * b.column_stride; }
  void pack_b(Word* to, int64_t p, int64_t j, int64_t k, int64_t columns) const {
    const Operand b = rows_of_b<T>(g, p);
    pack<kNR<V>>(b_at(b, j), b.column_stride, b.row_stride, columns, k, to);
  }
  Ahead panel_of_b(const Operand& b, int64_t j, int64_t k) const {
    constexpr int64_t size = sizeof(T);
    const char* from = reinterpret_cast<const char*>(b_at(b, j));
    if (b.row_stride == 1) return {from, b.column_stride * size, kNR<V>, k * size};
    return {b.column_stride == 1 ? from : nullptr, b.row_stride * size, k, kNR<V> * size};
  }
  const T* a_at(int64_t i, int64_t p) const {
    return static_cast<const T*>(g.a.data) + (first + i) * g.a.row_stride + p * g.a.column_stride;
  }
  void pack_a(Word* to, int64_t i, int64_t p, int64_t rows, int64_t k) const {
    pack<kMR>(a_at(i, p), g.a.row_stride, g.a.column_stride, rows, k, to, m - i);
  }

  // Blocks of k are all of about one size.
  static int64_t block_of_k(int64_t k) { return round_up(ceil_div(k, ceil_div(k, kKC<T>)), P::kNumbers); }

  // Where sums are short, what takes time is to write c: so few rows at a time that what a panel of columns begins, a
  // line or a page, is still in cache when the next goes on.
  int64_t rows_of_block(int64_t columns) const {
    if (g.k > kShortSums) return kMC;
    return least(kMC, round_up(ceil_div(kBytesOfC / int64_t(sizeof(S)), columns), kMR));
  }

  // Columns of b that are packed at a time: blocks of about one size.
  static int64_t columns_of_block(int64_t n, int64_t words) {
    const int64_t panels = ceil_div(n, kNR<V>), most = kBytesOfB / (words * int64_t(sizeof(Word)) * kNR<V>);
    return ceil_div(panels, ceil_div(panels, most > 1 ? most : 1)) * kNR<V>;
  }

  // Rows [i, i + m) and columns [j, j + n) of c, by this thread.
  void part(int64_t i0, int64_t m, int64_t j0, int64_t n) const {
    const int64_t mc = round_up(ceil_div(m, ceil_div(m, rows_of_block(n))), kMR);
    const int64_t kc = block_of_k(end_of_b(g, 0)), nc = columns_of_block(n, words(kc));
    const bool reused = mc < m;  // else a panel of b is packed just before use, and stays in L1
    const int64_t all_of_a = round_up(m, kMR) * words(g.k);
    const bool keeps_a = nc < n && g.split == 0 && all_of_a * int64_t(sizeof(Word)) <= kBytesOfA;
    for (int64_t j = j0; j < j0 + n; j += nc) {
      const int64_t columns = least(nc, j0 + n - j);
      Word* a = room(kSlotOfA, keeps_a ? all_of_a : mc * words(kc));
      for (int64_t p = 0, k; p < g.k; p += k) {
        k = least(kc, end_of_b(g, p) - p);
        Word* packed = room(kSlotOfB, (reused ? round_up(columns, kNR<V>) : kNR<V>)*words(k));
        const Operand b = rows_of_b<T>(g, p);
        for (int64_t i = i0; i < i0 + m; i += mc) {
          const int64_t rows = least(mc, i0 + m - i);
          if (!keeps_a || j == j0) pack_a(a, i, p, rows, k);
          for (int64_t q = 0; q < columns; q += kNR<V>) {
            const int64_t width = least(kNR<V>, columns - q);
            Word* panel = reused ? packed + q * words(k) : packed;
            const bool by_tile = kDirect && b.column_stride == 1 && width == kNR<V> && !g.bias;
            if (i == i0 && !by_tile) pack_b(panel, p, j + q, k, width);
            const T* unpacked = i == i0 && by_tile ? b_at(b, j + q) : nullptr;
            const bool packs_next = i == i0 && !by_tile && q + 2 * kNR<V> <= columns;
            const Ahead ahead = packs_next ? panel_of_b(b, j + q + kNR<V>, k) : Ahead{};
            macro_kernel(a, panel, i, j + q, rows, width, words(k), p == 0, p + k == g.k, unpacked, b.row_stride,
                         ahead);
          }
          if (keeps_a) a += round_up(rows, kMR) * words(k);
        }
      }
    }
    end_streams();
  }

  void run(int count) const {
    in_parts<V>(count, m, g.n, [&](int64_t i, int64_t rows, int64_t j, int64_t columns) { part(i, rows, j, columns); });
  }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
