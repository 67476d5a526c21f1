// Products of bfloat16 by tiles. A strip of rows is multiplied by a panel of 32 columns, 32 x 32 sums at a time, so
// that each tile that is read is multiplied twice. Of the panel as much as stays in L1 is multiplied by all rows of the
// strip, which stay in L2. To pack costs most: numbers that do not lie as tiles need them are transposed. So c^T is
// computed where that transposes less.
#pragma once

#include "amx_tiles.h"
#include "gated.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr int64_t kStepsInL1 = 16;           // of a panel, or of 32 rows: 32 KB
constexpr int64_t kRowsOfStrip = 128;        // at most, and 32 where they stay in L1 while panels pass
constexpr int64_t kBytesOfStrip = 1 << 20;   // of a, packed, at most
constexpr int64_t kBytesOfPanels = 4 << 20;  // packed at a time, by each thread; and of rows that are kept meanwhile
constexpr int64_t kGroup = 4;                // panels that are packed at once
constexpr int64_t kFewUses = 4;              // of a tile of a: fewer do not pay for a copy

// One product, or the two of a gated layer, which are of one a and of one size. Turned, c^T = b^T a^T is computed, and
// `a`, rows and columns are those of it.
template <int kProducts> struct TiledProduct {
  using T = BFloat16;
  using V = F32;
  const Gemm* const* products;
  const bool turned;
  const Gemm& g = *products[0];
  const Operand a = turned ? Operand{g.b.data, g.b.column_stride, g.b.row_stride} : g.a;
  const int64_t m = turned ? g.n : g.m, n = turned ? g.m : g.n, k = g.k;
  const int64_t steps = ceil_div(k, kDeep), bytes_of_panel = steps * 2 * kBytesOfTile;
  const bool in_place = a.column_stride == 1 && k % kDeep == 0 && ceil_div(n, kSquare) * kProducts <= kFewUses;

  // Columns of b, packed: panels of 32, `next` bytes apart, each of steps of 16 words. All that is in a row is read
  // before the next row.
  void pack_columns(const Gemm& of, int64_t j, int64_t columns, char* to, int64_t next) const {
    const Operand whole = turned ? Operand{g.a.data, g.a.column_stride, g.a.row_stride} : of.b;
    for (int64_t p = 0; p < k; p += kDeep, to += 2 * kBytesOfTile) {
      const bool is_rest = of.split > 0 && p >= of.split;
      const Operand& b = is_rest ? of.rest : whole;
      const int64_t end = is_rest || of.split == 0 ? k : of.split, row = is_rest ? p - of.split : p;
      const T* from = static_cast<const T*>(b.data) + row * b.row_stride + j * b.column_stride;
      for (int64_t q = 0; q < round_up(columns, kSquare); q += kSide) {
        char* tile = to + q / kSquare * next + q % kSquare / kSide * kLine;
        F32 words[kSide];
        load_square<false>(from + q * b.column_stride, b.column_stride, b.row_stride, columns - q, end - p, words);
#pragma GCC unroll 16
        for (int64_t i = 0; i < kSide; i++) __builtin_memcpy(tile + i * 2 * kLine, &words[i], sizeof words[i]);
      }
    }
  }

  const T* a_at(int64_t i) const { return static_cast<const T*>(a.data) + i * a.row_stride; }

  // Rows [i, i + rows), packed: of each 32, steps of two tiles.
  void pack_rows(int64_t i, int64_t rows, char* to) const {
    for (int64_t r = 0; r < rows; r += kSquare) {
      for (int64_t p = 0; p < k; p += kDeep) {
        for (int64_t q = 0; q < kSquare; q += kSide, to += kBytesOfTile) {
          F32 lines[kSide];
          const T* from = a_at(i + r + q) + p * a.column_stride;
          load_square<true>(from, a.row_stride, a.column_stride, rows - r - q, k - p, lines);
          __builtin_memcpy(to, lines, kBytesOfTile);
        }
      }
    }
  }

  TilesOfA tiles_of(int64_t i, const char* packed) const {
    if (packed) return {packed, kBytesOfTile / kSide, kBytesOfTile, 2 * kBytesOfTile};
    const int64_t row = a.row_stride * int64_t(sizeof(T));
    return {reinterpret_cast<const char*>(a_at(i)), row, kSide * row, kBytesOfTile / kSide};
  }

  // Sums of a strip and a panel; `to` has rows of 32 numbers.
  void sums(int64_t i, int64_t rows, int64_t columns, const char* packed, const char* panel, float* to) const {
    const int64_t each = ceil_div(steps, ceil_div(steps, kStepsInL1));
    const bool wide = columns > kSide;
    for (int64_t p = 0; p < steps; p += each) {
      const int64_t count = least(each, steps - p);
      for (int64_t r = 0; r < rows; r += kSquare) {
        TilesOfA tiles = tiles_of(i + r, packed ? packed + r / kSquare * bytes_of_panel : nullptr);
        tiles.data += p * tiles.next;
        const bool tall = rows - r > kSide;
        const auto multiply = tall   ? wide ? multiply_tiles<true, true> : multiply_tiles<true, false>
                                : wide ? multiply_tiles<false, true>
                                     : multiply_tiles<false, false>;
        multiply(count, tiles, panel + p * 2 * kBytesOfTile, to + r * kSquare, p > 0);
      }
    }
  }

  // Rows [i0, i0 + m) and columns [j0, j0 + n), by this thread. `finish` is given what it has of c, as columns of it if
  // turned: of each product sums of some rows and 32 columns.
  template <class Finish> void part(int64_t i0, int64_t m, int64_t j0, int64_t n, const Finish& finish) const {
    begin_tiles();
    const int64_t most = kBytesOfStrip / bytes_of_panel;
    const int64_t tallest = least((most > 1 ? most : 1) * kSquare, kRowsOfStrip);
    const int64_t height = steps <= kStepsInL1 && m > tallest ? kSquare : tallest;
    const int64_t together = a.column_stride == 1 ? height : tallest;  // rows that are packed at once
    const int64_t group = least(most > kGroup ? kGroup : most > 1 ? most : 1, ceil_div(n, kSquare)) * kSquare;
    const int64_t held = kBytesOfPanels / (kProducts * bytes_of_panel) * kSquare;
    const int64_t columns = held > group ? held / group * group : group;
    const int64_t all = ceil_div(m, kSquare) * bytes_of_panel;
    const bool keeps = columns < n && all <= kBytesOfPanels, reused = height < m;
    alignas(64) float strips[kProducts][kRowsOfStrip * kSquare];
    for (int64_t j = j0; j < j0 + n; j += columns) {
      const int64_t width = least(columns, j0 + n - j);
      char* lines = static_cast<char*>(scratch(kSlotOfA, keeps ? all : together / kSquare * bytes_of_panel));
      const int64_t of_product = ceil_div(reused ? width : group, kSquare) * bytes_of_panel;
      char* panels = static_cast<char*>(scratch(kSlotOfB, kProducts * of_product));
      for (int64_t i = i0; i < i0 + m; i += together) {
        const int64_t packed = least(together, i0 + m - i);
        const bool packs = !in_place || packed % kSide != 0;
        if (packs && !(keeps && j > j0)) pack_rows(i, packed, lines);
        for (int64_t r = 0; r < packed; r += height) {
          const char* from = packs ? lines + r / kSquare * bytes_of_panel : nullptr;
          for (int64_t q = 0; q < width; q += kSquare) {
            char* panel = panels + (reused ? q : q % group) / kSquare * bytes_of_panel;
            for (int64_t e = 0; e < kProducts; e++, panel += of_product) {
              if (i + r == i0 && q % group == 0)
                pack_columns(*products[e], j + q, least(group, width - q), panel, bytes_of_panel);
              sums(i + r, least(height, packed - r), least(kSquare, width - q), from, panel, strips[e]);
            }
            finish(i + r, least(height, packed - r), j + q, least(kSquare, width - q), strips);
          }
        }
        if (keeps) lines += ceil_div(packed, kSquare) * bytes_of_panel;
      }
    }
    end_tiles();
    end_streams();
  }
};

// What is left to do with sums of a strip: of c, or of 32 of its rows at a time from columns of c^T.
template <int kProducts, class Epilogue>
void finish_strip(const TiledProduct<kProducts>& of, int64_t i, int64_t rows, int64_t j, int64_t columns,
                  float (*strips)[kRowsOfStrip * kSquare], const Epilogue& epilogue) {
  if (!of.turned) return epilogue(i, rows, j, columns, strips);
  alignas(64) float squares[kProducts][kRowsOfStrip * kSquare];
  for (int64_t r = 0; r < rows; r += kSquare) {
    for (int e = 0; e < kProducts; e++) {
      for (int64_t q = 0; q < 4; q++) {
        const int64_t down = q / 2 * kSide, across = q % 2 * kSide;
        F32 lines[kSide];
#pragma GCC unroll 16
        for (int64_t l = 0; l < kSide; l++) lines[l] = load<F32>(strips[e] + (r + down + l) * kSquare + across);
        transpose<kSide / 2>(lines);
#pragma GCC unroll 16
        for (int64_t l = 0; l < kSide; l++) store<F32>(squares[e] + (across + l) * kSquare + down, lines[l]);
      }
    }
    epilogue(j, columns, i + r, least(kSquare, rows - r), squares);
  }
}

inline void add_bias(const Product<BFloat16>& of, float* tile, int64_t rows, int64_t j, int64_t columns) {
  float room[kSquare];
  const float* bias = of.bias_of(j, columns, room);
  for (int64_t r = 0; bias && r < rows; r++, tile += kSquare)
    for (int64_t q = 0; q < kSquare; q += kLanes<F32>) store<F32>(tile + q, load<F32>(tile + q) + load<F32>(bias + q));
}

// What packing costs, of an operand whose numbers are adjacent along k or not, in multiplications of a number: for the
// choice of which product is computed.
constexpr int64_t kCopying = 1, kTransposing = 4, kPairing = 2;
inline bool is_cheaper_turned(const Gemm& g, int64_t products) {
  const bool a_along = g.a.column_stride == 1, b_along = g.b.row_stride == 1;
  const int64_t a = g.m * g.k, b = products * g.n * g.k;
  const int64_t straight = a * (a_along ? kCopying : kTransposing) + b * (b_along ? kTransposing : kPairing);
  const int64_t turned = b * (b_along ? kCopying : kTransposing) + a * (a_along ? kTransposing : kPairing);
  return products == 1 && g.split == 0 && turned + g.m * g.n * kPairing < straight;
}

// Multiplications that are worth a thread, and sizes from which on tiles are the fastest, though most of them is empty
// (Emerald Rapids, 2026-11-27).
constexpr int64_t kThread = 1 << 22, kLeastRows = 4, kLeastColumns = 2, kLeastOfSums = 4;
inline int threads_for_tiles(const Gemm& g) { return double(g.m) * g.n * g.k < kThread ? 1 : threads(); }
inline bool suits_tiles(const Gemm& g) {
  return g.type == Type::bf16 && g.m >= kLeastRows && g.n >= kLeastColumns && g.k >= kLeastOfSums &&
         g.split % kDeep == 0;
}

template <int kProducts, class Epilogue>
void multiply_by_tiles(const Gemm* const (&products)[kProducts], const Epilogue& epilogue) {
  const Gemm& g = *products[0];
  const TiledProduct<kProducts> tiled{products, is_cheaper_turned(g, kProducts)};
  in_parts<F32, kSquare, kSquare>(
      threads_for_tiles(g), tiled.m, tiled.n, [&](int64_t i, int64_t m, int64_t j, int64_t n) {
        tiled.part(i, m, j, n, [&](int64_t i, int64_t rows, int64_t j, int64_t columns, auto strips) {
          finish_strip(tiled, i, rows, j, columns, strips, epilogue);
        });
      });
}

void gemm(const Gemm& g) {
  if (!suits_tiles(g)) return avx512_bf16::gemm(g);
  const Gemm* const products[] = {&g};
  const Product<BFloat16> c{g, 0, g.m, nullptr};
  multiply_by_tiles(products, [&](int64_t i, int64_t rows, int64_t j, int64_t columns, auto tiles) {
    add_bias(c, tiles[0], rows, j, columns);
    c.epilogue(tiles[0], kSquare, i, j, rows, columns, true, true);
  });
}

void gated(const Gated& g) {
  if (!suits_tiles(g.gate)) return avx512_bf16::gated(g);
  const Gemm* const products[] = {&g.gate, &g.up};
  const GatedProduct<BFloat16> c{g};
  multiply_by_tiles(products, [&](int64_t i, int64_t rows, int64_t j, int64_t columns, auto tiles) {
    add_bias(c.gate, tiles[0], rows, j, columns);
    add_bias(c.up, tiles[1], rows, j, columns);
    c.epilogue(tiles[0], tiles[1], i, j, rows, columns);
  });
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
