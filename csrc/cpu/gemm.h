// c = epilogue(a b). The loops of Goto & van de Geijn (doi:10.1145/1356052.1356053): panels of b, kKC deep, are packed
// once for all threads and stay in L3, blocks of a stay in L2, one panel of b in L1, and a tile of c in registers.
// Where one block of a covers all rows, no two threads share a panel of b, and each packs its own just before use.
#pragma once

#include "elementwise.h"
#include "pack.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

// The tile: kMR rows of 2 vectors. Its sums, one row of b and one number of a fill the registers.
constexpr int kMR = FUSEGRAD_VECTOR_BYTES == 64 ? 14 : 6;
constexpr int64_t kMC = FUSEGRAD_VECTOR_BYTES == 64 ? 168 : 144;
constexpr int64_t kBytesOfK = FUSEGRAD_VECTOR_BYTES == 64 ? 1536 : 2048;  // at most, of a block
constexpr int64_t kBytesOfB = 4 << 20;                                    // packed at a time, for all threads
constexpr int64_t kPartialRows = 4096;    // of 16-bit results, whose partial sums need room
constexpr double kSerialFlops = 1 << 20;  // less is not worth a second thread
// Numbers that are added one after another. MKL's error is that of some 90; with 512 ours is 2.4 times as large.
constexpr int64_t kChain = 192;
template <class V> constexpr int kNR = 2 * kLanes<V>;
template <class V> constexpr int64_t kKC = kBytesOfK / sizeof(ScalarOf<V>);

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// c = a b or c += a b, of a tile of kRows by kVectors.
template <int kRows, int kVectors, class V>
void multiply(int64_t k, const ScalarOf<V>* a, const ScalarOf<V>* b, ScalarOf<V>* c, int64_t ldc, bool add) {
  V sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) sum[i][j] = V{};
  const auto step = [&]() __attribute__((always_inline)) {
    V row[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) row[j] = load<V>(b + j * kLanes<V>);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V factor = all<V>(a[i]);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; j++) sum[i][j] += factor * row[j];
    }
    a += kMR;
    b += kNR<V>;
  };
  // from L1 on a Zen 3, 97 to 99 % of the FMA peak; without unrolling 87 to 99 %, as the loop happens to lie in memory
  for (; k >= 4; k -= 4) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) step();
  }
  for (; k > 0; k--) step();
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; j++) {
      ScalarOf<V>* to = c + i * ldc + j * kLanes<V>;
      store<V>(to, add ? load<V>(to) + sum[i][j] : sum[i][j]);
    }
}

template <class V>
using Multiply = void (*)(int64_t, const ScalarOf<V>*, const ScalarOf<V>*, ScalarOf<V>*, int64_t, bool);

template <class V, int kVectors, int... I>  // kernels for 1 to kMR rows
constexpr void tiles_of(Multiply<V>* to, Indices<I...>) {
  ((to[I] = multiply<I + 1, kVectors, V>), ...);
}
template <class V> struct Kernel {
  Multiply<V> tile[2][kMR];
  constexpr Kernel() : tile{} {
    tiles_of<V, 1>(tile[0], typename Count<kMR>::type{});
    tiles_of<V, 2>(tile[1], typename Count<kMR>::type{});
  }
};
template <class V> constexpr Kernel<V> kKernel;

// A multiplication in progress: the rows of c from `first` on.
template <class T> struct Product {
  using V = VectorFor<T>;
  using S = ScalarOf<V>;
  const Gemm& g;
  int64_t first, m;
  S* partial;  // sums over the blocks of k so far, m rows of g.n

  static constexpr bool kDirect = sizeof(T) == sizeof(S);  // c itself can hold partial sums

  T* row(void* base, int64_t i) const { return static_cast<T*>(base) + (first + i) * g.n; }
  bool fuses() const { return g.bias || g.activation || g.kept; }

  // What is left to do with sums of `rows` x `columns` at (i, j), kNR<V> apart, in L1.
  void finish(S* tile, int64_t i, int64_t j, int64_t rows, int64_t columns, bool begins, bool ends) const {
    constexpr int64_t ld = kNR<V>;
    if (!begins) {
      for (int64_t r = 0; r < rows; r++) add_row(tile + r * ld, partial + (i + r) * g.n + j, columns);
    }
    if (!ends) {
      for (int64_t r = 0; r < rows; r++)
        __builtin_memcpy(partial + (i + r) * g.n + j, tile + r * ld, columns * sizeof(S));
      return;
    }
    if (g.bias) {
      S bias[ld] = {};
      for (int64_t q = 0; q < columns; q++) bias[q] = to_scalar(static_cast<const T*>(g.bias)[(j + q) * g.bias_stride]);
      for (int64_t r = 0; r < rows; r++) add_row(tile + r * ld, bias, columns);
    }
    if (g.kept) {
      for (int64_t r = 0; r < rows; r++) narrow_row(tile + r * ld, row(g.kept, i + r) + j, columns);
    }
    if (g.activation) g.activation(tile, nullptr, tile, rows * ld, g.param);
    for (int64_t r = 0; r < rows; r++) narrow_row(tile + r * ld, row(g.c, i + r) + j, columns);
  }

  static void add_row(S* to, const S* from, int64_t n) {
    int64_t q = 0;
    for (; q + kLanes<V> <= n; q += kLanes<V>) store<V>(to + q, load<V>(to + q) + load<V>(from + q));
    for (; q < n; q++) to[q] += from[q];
  }

  // Rows [i, i + rows) of a, packed, times a packed panel of b for columns [j, j + columns).
  void strip(const S* a, const S* b, int64_t i, int64_t j, int64_t rows, int64_t columns, int64_t k, bool begins,
             bool ends) const {
    alignas(64) S tile[kMC * kNR<V>];
    const int vectors = columns > kLanes<V> ? 2 : 1;
    const bool whole = columns == vectors * kLanes<V>;
    const bool direct = whole && (ends ? kDirect && !fuses() : true);
    S* to = direct ? partial + i * g.n + j : tile;
    const int64_t ld = direct ? g.n : kNR<V>;
    for (int64_t r = 0; r < rows; r += kMR) {
      const int64_t count = least(kMR, rows - r);
      const Multiply<V> multiply = kKernel<V>.tile[vectors - 1][count - 1];
      for (int64_t q = 0; q < k; q += kChain)
        multiply(least(kChain, k - q), a + r * k + q * kMR, b + q * kNR<V>, to + r * ld, ld,
                 q > 0 || (direct && !begins));
    }
    if (!direct) finish(tile, i, j, rows, columns, begins, ends);
  }

  void pack_b(S* to, int64_t p, int64_t j, int64_t k, int64_t columns) const {
    pack<kNR<V>>(static_cast<const T*>(g.b.data) + p * g.b.row + j * g.b.column, g.b.column, g.b.row, columns, k, to);
  }
  S* pack_a(int64_t i, int64_t p, int64_t rows, int64_t k) const {
    S* to = static_cast<S*>(scratch(kSlotOfA, (ceil_div(rows, kMR) * kMR * k + kLanes<V>)*int64_t(sizeof(S))));
    pack<kMR>(static_cast<const T*>(g.a.data) + (first + i) * g.a.row + p * g.a.column, g.a.row, g.a.column, rows, k,
              to);
    return to;
  }

  void run(int count) const {
    // blocks of rows of even size, as many for each thread
    const int64_t rounds = ceil_div(m, kMC * count);
    const int64_t mc = least(kMC, ceil_div(ceil_div(m, rounds * count), kMR) * kMR);
    const int64_t blocks = ceil_div(m, mc);
    const int64_t nc = blocks == 1 ? g.n : least(g.n, kBytesOfB / kBytesOfK);
    for (int64_t j = 0; j < g.n; j += nc) {
      const int64_t columns = least(nc, g.n - j), panels = ceil_div(columns, kNR<V>);
      const int64_t kc = ceil_div(g.k, ceil_div(g.k, kKC<V>));
      for (int64_t p = 0; p < g.k; p += kc) {
        const int64_t k = least(kc, g.k - p);
        const bool begins = p == 0, ends = p + k == g.k;
        S* packed = nullptr;
        if (blocks > 1) {
          packed = static_cast<S*>(scratch(kSlotOfB, panels * kNR<V> * k * int64_t(sizeof(S))));
          share(count, panels, [&](int64_t from, int64_t to) {
            pack_b(packed + from * kNR<V> * k, p, j + from * kNR<V>, k, least(to * kNR<V>, columns) - from * kNR<V>);
          });
        }
        const int64_t splits = least(panels, ceil_div(count, blocks));
        share(count, blocks * splits, [&](int64_t from, int64_t to) {
          for (int64_t task = from; task < to; task++) {
            const int64_t i = task / splits * mc, rows = least(mc, m - i), split = task % splits;
            const S* a = pack_a(i, p, rows, k);
            S* own = packed ? nullptr : static_cast<S*>(scratch(kSlotOfPanel, kNR<V> * k * int64_t(sizeof(S))));
            for (int64_t panel = panels * split / splits; panel < panels * (split + 1) / splits; panel++) {
              const int64_t q = panel * kNR<V>, width = least(kNR<V>, columns - q);
              if (own) pack_b(own, p, j + q, k, width);
              strip(a, own ? own : packed + q * k, i, j + q, rows, width, k, begins, ends);
            }
          }
        });
      }
    }
  }

  template <class Body> static void share(int count, int64_t tasks, const Body& body) {
    if (count == 1 || tasks == 1)
      body(0, tasks);
    else
      parallel(tasks, 1, body);
  }
};

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

template <int kRows, int kColumns, class T>
inline void dot(const T* a, int64_t a_row, const T* b, int64_t b_column, int64_t k, ScalarFor<T>* to, int64_t ld) {
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
  for (; p + n <= k; p += n) step([&](const T* from) __attribute__((always_inline)) { return load_as(from + p); });
  if (p < k) step([&](const T* from) __attribute__((always_inline)) { return load_some(from + p, k - p); });
  ScalarFor<T> sums[kGroups * n];
#pragma GCC unroll 24
  for (int q = 0; q < kGroups; q++) store<V>(sums + q * n, sums_of_lanes<n / 2>(sum + q * n));
#pragma GCC unroll 4
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 6
    for (int j = 0; j < kColumns; j++) to[i * ld + j] = sums[i * kColumns + j];
}

// Tiles of few columns pass through a strip of kNR, so that the epilogue is the same.
template <class T> struct DotProduct {
  using V = VectorFor<T>;
  using S = ScalarOf<V>;
  Product<T> whole;

  template <int kColumns> void rows(int64_t i, int64_t count, int64_t j, S* to) const {
    const Gemm& g = whole.g;
    const T* b = static_cast<const T*>(g.b.data) + j * g.b.column;
    int64_t r = 0;
    for (; r + kDotRows <= count; r += kDotRows)
      dot<kDotRows, kColumns>(a(i + r), g.a.row, b, g.b.column, g.k, to + r * kNR<V>, kNR<V>);
    for (; r < count; r++) dot<1, kColumns>(a(i + r), g.a.row, b, g.b.column, g.k, to + r * kNR<V>, kNR<V>);
  }
  const T* a(int64_t i) const { return static_cast<const T*>(whole.g.a.data) + i * whole.g.a.row; }

  void block(int64_t i, int64_t count, int64_t j, int64_t columns) const {
    alignas(64) S tile[kMC * kNR<V>];
    int64_t q = 0;
    for (; q + kDotColumns <= columns; q += kDotColumns) rows<kDotColumns>(i, count, j + q, tile + q);
    for (; q < columns; q++) rows<1>(i, count, j + q, tile + q);
    whole.finish(tile, i, j, count, columns, true, true);
  }

  void run(int count) const {
    const Gemm& g = whole.g;
    const int64_t panels = ceil_div(g.n, kNR<V>), blocks = ceil_div(g.m, kMC);
    Product<T>::share(count, panels * blocks, [&](int64_t from, int64_t to) {
      for (int64_t task = from; task < to; task++) {
        const int64_t j = task / blocks * kNR<V>, i = task % blocks * kMC;
        block(i, least(kMC, g.m - i), j, least(kNR<V>, g.n - j));
      }
    });
  }
};

constexpr int64_t kFewRows = 8, kFewColumns = 3;

void gemm(const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const int count = 2.0 * double(g.m) * double(g.n) * double(g.k) < kSerialFlops ? 1 : threads();
  with_type(g.type, [&](auto t) {
    using T = decltype(t);
    using S = ScalarFor<T>;
    const bool along_k = g.a.column == 1 && g.b.row == 1;
    if (g.k == 0 || (along_k && (g.m <= kFewRows || g.n <= kFewColumns))) {
      DotProduct<T>{{g, 0, g.m, nullptr}}.run(count);
      return;
    }
    if constexpr (Product<T>::kDirect) {
      Product<T>{g, 0, g.m, static_cast<S*>(g.c)}.run(count);
      return;
    }
    for (int64_t first = 0; first < g.m; first += kPartialRows) {
      const int64_t m = least(kPartialRows, g.m - first);
      S* partial =
          g.k > kKC<VectorFor<T>> ? static_cast<S*>(scratch(kSlotOfPartial, m * g.n * int64_t(sizeof(S)))) : nullptr;
      Product<T>{g, first, m, partial}.run(count);
    }
  });
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
