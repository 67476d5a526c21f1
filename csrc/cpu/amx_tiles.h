// Tiles of bfloat16 (AMX). A register holds 16 rows of 64 bytes. One instruction adds to 16 x 16 sums the products of
// 16 rows of 32 numbers and of 16 columns of as many, which lie as pairs that follow one another along k.
#pragma once

#include "amx_config.h"
#include "pack.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr int64_t kSide = 16;    // rows of a tile, and words of a row
constexpr int64_t kDeep = 32;    // numbers along k of a tile
constexpr int64_t kSquare = 32;  // rows, and columns, whose sums are computed at once, in four tiles
constexpr int64_t kBytesOfTile = 1024;

// Tiles are this thread's until it releases them.
inline void begin_tiles() { _tile_loadconfig(&kWholeTiles); }
inline void end_tiles() { _tile_release(); }

// Where the tiles of one or two times 16 rows of a lie: bytes from row to row, from the first to the second, and to the
// next along k.
struct TilesOfA {
  const char* data;
  int64_t row, second, next;
};

// c = a b or c += a b, of 32 rows or 16, and 32 columns or 16; c has rows of 32 numbers.
template <bool kTall, bool kWide>
void multiply_tiles(int64_t steps, const TilesOfA& a, const char* b, float* c, bool add) {
  constexpr int64_t kRow = kSquare * sizeof(float);
  const char *upper = a.data, *lower = a.data + a.second;
  const int64_t row = a.row, next = a.next;
  asm volatile("" ::: "memory");  // to the compiler the tiles do not read any
  if (add) {
    _tile_loadd(0, c, kRow);
    if (kWide) _tile_loadd(1, c + kSide, kRow);
    if (kTall) _tile_loadd(2, c + kSide * kSquare, kRow);
    if (kTall && kWide) _tile_loadd(3, c + kSide * kSquare + kSide, kRow);
  } else {
    _tile_zero(0);
    if (kWide) _tile_zero(1);
    if (kTall) _tile_zero(2);
    if (kTall && kWide) _tile_zero(3);
  }
  for (; steps > 0; steps--, upper += next, lower += next, b += kDeep / 2 * kRow) {
    _tile_loadd(6, b, kRow);
    _tile_loadd(4, upper, row);
    _tile_dpbf16ps(0, 4, 6);
    if (kWide) {
      _tile_loadd(7, b + 64, kRow);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (kTall) {
      _tile_loadd(5, lower, row);
      _tile_dpbf16ps(2, 5, 6);
      if (kWide) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, kRow);
  if (kWide) _tile_stored(1, c + kSide, kRow);
  if (kTall) _tile_stored(2, c + kSide * kSquare, kRow);
  if (kTall && kWide) _tile_stored(3, c + kSide * kSquare + kSide, kRow);
  asm volatile("" ::: "memory");
}

// The first n of 32 numbers, as words; and the first n of 16 of each of two rows, as pairs. The rest is 0.
inline uint32_t first_bits(int64_t n) { return n >= 32 ? ~0u : n > 0 ? (1u << n) - 1 : 0; }
inline F32 load_line(const BFloat16* from, int64_t n) {
  return bits<F32>(_mm512_maskz_loadu_epi16(__mmask32(first_bits(n)), from));
}
inline F32 load_pairs(const BFloat16* low, const BFloat16* high, int64_t n) {
  const auto mask = __mmask16(first_bits(n));
  const __m512i odd = _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_maskz_loadu_epi16(high ? mask : __mmask16(0), high));
  const __m512i even = _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_maskz_loadu_epi16(mask, low));
  return bits<F32>(bits<U32>(even) | bits<U32>(odd) << 16);
}

// 16 rows of 32 numbers of which there are `count` and k, the rest 0: a row each if kByRows, else a word of all rows.
template <bool kByRows>
inline void load_square(const BFloat16* from, int64_t row_stride, int64_t k_stride, int64_t count, int64_t k, F32* to) {
  const bool along_k = k_stride == 1;
  if (along_k) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < kSide; i++) to[i] = i < count ? load_line(from + i * row_stride, k) : F32{};
  } else if (row_stride == 1) {
#pragma GCC unroll 16
    for (int64_t p = 0; p < kSide; p++) {
      const BFloat16* low = from + 2 * p * k_stride;
      to[p] = 2 * p < k ? load_pairs(low, 2 * p + 1 < k ? low + k_stride : nullptr, count) : F32{};
    }
  } else {
    alignas(64) BFloat16 copy[kSide][kDeep] = {};
    for (int64_t i = 0; i < count && i < kSide; i++)
      for (int64_t p = 0; p < k && p < kDeep; p++) copy[i][p] = from[i * row_stride + p * k_stride];
    for (int64_t i = 0; i < kSide; i++) to[i] = load_line(copy[i], kDeep);
    if (!kByRows) transpose<kSide / 2>(to);
    return;
  }
  if (along_k != kByRows) transpose<kSide / 2>(to);
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
