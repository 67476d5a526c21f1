// y = x w^T as y^T = w x^T: a tile has kMR rows of w, which are read in place, and a panel of rows of x, which are
// packed. For rows that are not many, since to pack w, as blocked.h does, costs a tenth of 128 rows and more of fewer;
// and for few columns, which would leave lanes of vectors empty that rows fill.
#pragma once

#include "blocked.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr int64_t kBytesOfTurned = 256 << 10;  // of w, at a time: they stay in L2
constexpr int64_t kBytesOfPanels = 16 << 10;   // of rows, at a time, where they are many: they stay in L1
constexpr int64_t kNarrow = 64, kManyRows = 128;

// Whether rows that are so far apart, in bytes, lie about a multiple of a page apart: L1 has eight places for them all.
constexpr int64_t kPage = 4096, kNear = 128;
constexpr bool is_aliased(int64_t stride) { return (stride + kNear) % kPage < 2 * kNear; }

// Rows that are turned, at most: of w in its place; and where its rows alias, so that each tile of them is copied
// first, by lines. More are faster packed (a Zen 4, by AVX-512 and by AVX2, 2026-11-27).
template <class T> constexpr int64_t kRowsInPlace = FUSEGRAD_VECTOR_BYTES == 64 || sizeof(T) == 4 ? 256 : 64;
template <class T> constexpr int64_t kRowsCopied = sizeof(T) == 8 ? 0 : FUSEGRAD_VECTOR_BYTES == 64 ? 256 : 32;

// Whether w can be read in place, and rows are as few as that, and fill vectors to seven eighths.
template <class T> bool is_turned(const Gemm& g) {
  using P = Packed<T>;
  const int64_t most = is_aliased(g.b.column_stride * int64_t(sizeof(T))) ? kRowsCopied<T> : kRowsInPlace<T>;
  return sizeof(typename P::InPlace) == sizeof(T) && g.b.row_stride == 1 && g.split == 0 && g.k % P::kNumbers == 0 &&
         g.m <= most && 7 * round_up(g.m, kLanes<typename P::V>) <= 8 * g.m;
}

// Whether rows are many, and columns so few that they fill vectors to less than seven eighths (a Zen 4, 2026-11-26).
template <class V> bool is_narrow(const Gemm& g) {
  return g.split == 0 && g.m > kManyRows && g.n <= kNarrow && 8 * g.n <= 7 * round_up(g.n, kLanes<V>);
}

// to = a b + bias or to += a b + bias, of kRows rows of a, lda apart, and a panel of b; a bias of rows. From a line of
// a to the next in its row it is `hop`. Rows of `next`, ld_next apart, are brought nearer meanwhile.
template <int kRows, int kVectors, class P, class V = typename P::V, class S = ScalarOf<V>>
void turned_kernel(int64_t k, const typename P::InPlace* a, int64_t lda, int64_t hop, const typename P::InPlace* next,
                   int64_t ld_next, const typename P::Word* b, const S* bias, S* to, bool add) {
  V sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) sum[i][j] = V{};
  // a pointer for three rows: the second and third are lda and 2 lda past it, as an address can say
  constexpr int kEach = 3, kPointers = (kRows + kEach - 1) / kEach;
  const typename P::InPlace* rows[kPointers];
#pragma GCC unroll 5
  for (int i = 0; i < kPointers; i++) rows[i] = a + kEach * i * lda;
  const auto step = [&](int u) __attribute__((always_inline)) {
    asm("" : "+r"(lda));  // else GCC computes each address that takes a constant past a row, and keeps it in memory
    V row[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) row[j] = P::load(b + u * kNR<V> + j * kLanes<V>);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V factor = P::repeat_at(rows[i / kEach] + i % kEach * lda + u * P::kNumbers);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; j++) sum[i][j] = P::add_product(sum[i][j], factor, row[j]);
    }
  };
  const auto move = [&](int steps, int64_t further) __attribute__((always_inline)) {
#pragma GCC unroll 5
    for (int i = 0; i < kPointers; i++) rows[i] += further;
    b += steps * kNR<V>;
  };
  constexpr int kSteps = kLine / sizeof(typename P::Word);  // a line of each row of a
  constexpr int kBrought = (kRows + kSteps - 1) / kSteps;   // in each step
  for (; k >= kSteps; k -= kSteps) {
    const typename P::InPlace* line = next;
    next += kSteps * P::kNumbers;
#pragma GCC unroll 16
    for (int u = 0; u < kSteps; u++) {
      for (int i = u * kBrought; i < kRows && i < (u + 1) * kBrought; i++, line += ld_next) __builtin_prefetch(line);
      step(u);
    }
    move(kSteps, hop);
  }
  for (; k > 0; k--) {
    step(0);
    move(1, P::kNumbers);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) {
      S* at = to + i * kNR<V> + j * kLanes<V>;
      V s = bias ? sum[i][j] + all<V>(bias[i]) : sum[i][j];
      store<V>(at, add ? load<V>(at) + s : s);
    }
}

template <class P> struct TurnedKernel {  // for 1 to kMR rows, 1 or 2 vectors
  using Kernel = decltype(&turned_kernel<1, 1, P>);
  Kernel tile[2][kMR];

  constexpr TurnedKernel() : tile{} { fill(typename Count<kMR>::type{}); }
  template <int... I> constexpr void fill(Indices<I...>) {
    ((tile[0][I] = turned_kernel<I + 1, 1, P>, tile[1][I] = turned_kernel<I + 1, 2, P>), ...);
  }
};
template <class P> constexpr TurnedKernel<P> kTurnedKernel;

// (columns, kNR) as (rows, columns): square by square.
template <class T, class V = VectorFor<T>, class S = ScalarOf<V>>
void write_turned(const S* from, int64_t rows, int64_t columns, T* to, int64_t ld) {
  constexpr int64_t side = kLanes<V>;
  for (int64_t i = 0; i < columns; i += side) {
    const int64_t width = least(side, columns - i);
    for (int64_t r = 0; r < rows; r += side) {
      V square[side];
#pragma GCC unroll 16
      for (int64_t q = 0; q < side; q++) square[q] = q < width ? load<V>(from + (i + q) * kNR<V> + r) : V{};
      transpose<side / 2>(square);
      for (int64_t q = 0; q < least(side, rows - r); q++) {
        T* row = to + (r + q) * ld + i;
        if (width == side)
          store_as(row, square[q]);
        else
          store_some(row, square[q], width);
      }
    }
  }
}

template <class T> struct TurnedProduct {
  using V = VectorFor<T>;
  using S = ScalarOf<V>;
  using P = typename Packed<T>::Multiplied;
  using Word = typename P::Word;
  using W = typename P::InPlace;
  static constexpr int64_t kPanel = kNR<V>, kEach = P::kNumbers;
  const Gemm& g;

  const W* w(int64_t i) const { return static_cast<const W*>(g.b.data) + i * g.b.column_stride; }
  int64_t panels() const { return ceil_div(g.m, kPanel); }
  int64_t rows_in(int64_t panel) const { return least(kPanel, g.m - panel * kPanel); }

  static constexpr int64_t kOfLine = kLine / int64_t(sizeof(W));  // numbers
  bool copies() const { return is_aliased(g.b.column_stride * int64_t(sizeof(W))); }
  // Of a tile of w: a line of each row, then the next of each.
  static int64_t size_of_copy(int64_t k) { return ceil_div(k, kOfLine) * kMR * kOfLine; }
  void copy_tile(int64_t i, int64_t count, int64_t p, int64_t k, W* to) const {
    for (int64_t r = 0; r < count; r++, to += kOfLine) {
      const W* from = w(i + r) + p;
      int64_t q = 0;
      for (; q + kOfLine <= k; q += kOfLine) __builtin_memcpy(to + q * kMR, from + q, kLine);
      if (q < k) __builtin_memcpy(to + q * kMR, from + q, (k - q) * sizeof(W));
    }
  }

  // to = or += rows [i, i + count) of w times a panel of x, over [p, end) of k; from copies of tiles, if there is room
  // for them, which the first panel makes.
  void sums(int64_t i, int64_t count, int64_t panel, int64_t p, int64_t end, const Word* x, const S* bias, S* to,
            W* copy) const {
    const int64_t first = p / kEach, last = end / kEach;
    const int wide = rows_in(panel) > kLanes<V>;
    for (int64_t r = 0; r < count; r += kMR) {
      const int64_t height = least(kMR, count - r);
      const auto kernel = kTurnedKernel<P>.tile[wide][height - 1];
      const int64_t ld = copy ? kOfLine : g.b.column_stride, hop = copy ? kMR * kOfLine : kOfLine;
      const bool brings = r + kMR < count ? panel == 0 : panel + 1 == panels();  // the next tile of w, before its use
      for (int64_t q = first; q < last; q += kChain) {
        const int64_t steps = least(kChain, last - q), at = (q - first) * kEach;
        W* tile = copy ? copy + r / kMR * size_of_copy(end - p) + at * kMR : nullptr;
        if (copy && panel == 0) copy_tile(i + r, height, p + at, steps * kEach, tile);
        const W* rows = copy ? tile : w(i + r) + p + at;
        const bool more = brings && i + r + 2 * kMR <= g.n;
        kernel(steps, rows, ld, hop, more ? w(i + r + kMR) + p + at : rows, more ? g.b.column_stride : ld,
               x + q * kPanel, bias && end == g.k && q + kChain >= last ? bias + r : nullptr, to + r * kPanel, q > 0);
      }
    }
  }

  // What is left to do with columns [i, i + count) of a panel of c.
  void epilogue(int64_t i, int64_t count, int64_t panel, S* sums) const {
    const auto put = [&](void* to) {
      write_turned<T>(sums, rows_in(panel), count, static_cast<T*>(to) + panel * kPanel * g.n + i, g.n);
    };
    if (g.saved) put(g.saved);
    if (g.activation) g.activation({1, count * kPanel, sums, 0, nullptr, 0, sums, 0}, g.param);
    put(g.c);
  }

  // Columns [i0, i0 + n) of c. Where k takes several blocks, those of blocked.h, so that the bits are the same, the
  // sums so far wait in scratch.
  void part(int64_t i0, int64_t n, const Word* x) const {
    const int64_t kc = Product<T>::block_of_k(g.k);
    const int64_t height = least(kBytesOfTurned / int64_t(sizeof(W)) / kc / kMR * kMR, kMC);
    const Scratch waiting(kSlotOfPartial, kc < g.k ? panels() * kPanel * n * int64_t(sizeof(S)) : 0);
    alignas(64) S tile[kMC * kPanel], biases[kMC];
    const Scratch of_copy(kSlotOfA, copies() ? height / kMR * size_of_copy(kc) * int64_t(sizeof(W)) : 0);
    for (int64_t p = 0; p < g.k; p += kc) {
      const int64_t end = least(p + kc, g.k);
      for (int64_t i = i0; i < i0 + n; i += height) {
        const int64_t count = least(height, i0 + n - i);
        for (int64_t r = 0; g.bias && r < count; r++)
          biases[r] = to_scalar(static_cast<const T*>(g.bias)[(i + r) * g.bias_stride]);
        for (int64_t panel = 0; panel < panels(); panel++) {
          S* to = kc < g.k ? static_cast<S*>(waiting.data) + (panel * n + i - i0) * kPanel : tile;
          sums(i, count, panel, p, end, x + panel * kPanel * (g.k / kEach), g.bias ? biases : nullptr, to,
               static_cast<W*>(of_copy.data));
          if (end == g.k) epilogue(i, count, panel, to);
        }
      }
    }
  }

  // Of many rows, some panels at a time, and few of w, of which each thread has a copy: it may lie in any way.
  void run_by_rows(int count) const {
    const int64_t bytes = kPanel * g.k * int64_t(sizeof(S)),
                  group = bytes < kBytesOfPanels ? kBytesOfPanels / bytes : 1;
    // rows of its copy: k numbers apart at least, and no multiple of a page
    const int64_t ld = is_aliased(g.k * int64_t(sizeof(S))) ? g.k + 2 * kNear / int64_t(sizeof(S)) : g.k;
    share(count, ceil_div(panels(), group), [&](int64_t task, int64_t end) {
      const Scratch of_w(kSlotOfA, g.n * ld * int64_t(sizeof(S))),
          of_x(kSlotOfB, (group * kPanel * g.k + kPanel) * int64_t(sizeof(S)));
      S *w = static_cast<S*>(of_w.data), *packed = static_cast<S*>(of_x.data);
      for (int64_t i = 0; i < g.n; i++) {
        const T* from = static_cast<const T*>(g.b.data) + i * g.b.column_stride;
        if (g.b.row_stride == 1)
          widen_row(from, w + i * ld, g.k);
        else
          for (int64_t p = 0; p < g.k; p++) w[i * ld + p] = to_scalar(from[p * g.b.row_stride]);
      }
      for (; task < end; task++) {
        const int64_t first = task * group * kPanel;
        Gemm piece = g;
        piece.m = least(group * kPanel, g.m - first);
        piece.b = {w, 1, ld};
        piece.c = static_cast<T*>(g.c) + first * g.n;
        if (g.saved) piece.saved = static_cast<T*>(g.saved) + first * g.n;
        const T* x = static_cast<const T*>(g.a.data) + first * g.a.row_stride;
        pack<kPanel>(x, g.a.row_stride, g.a.column_stride, piece.m, g.k, packed);
        TurnedProduct{piece}.part(0, g.n, packed);
      }
    });
  }

  void run(int count) const {
    const Scratch room(kSlotOfB, (panels() * kPanel * (g.k / kEach) + kPanel) * int64_t(sizeof(Word)));
    Word* packed = static_cast<Word*>(room.data);
    pack<kPanel>(static_cast<const T*>(g.a.data), g.a.row_stride, g.a.column_stride, g.m, g.k, packed);
    const int64_t width = round_up(ceil_div(g.n, count), kMR);
    share(count, ceil_div(g.n, width), [&](int64_t task, int64_t end) {
      for (; task < end; task++) part(task * width, least(width, g.n - task * width), packed);
    });
  }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
