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

// How the numbers of a type are packed and multiplied: in words of kNumbers that follow one another along k.
template <class T> struct Packed {
  using V = VectorFor<T>;
  using Word = ScalarOf<V>;
  using Multiplied = Packed<Word>;  // of the same words, whatever they were read from
  using InPlace = Word;             // rows of these need no packing
  static constexpr int kNumbers = 1;

  static V load_k(const T* from) { return load_as(from); }              // a vector of words along k
  static V load_rows(const T* from, int64_t) { return load_as(from); }  // of a row each
  static Word one(const T* from, int64_t, bool) { return to_scalar(*from); }
  static V load(const Word* from) { return FUSEGRAD_ISA::load<V>(from); }
  static V repeat(Word x) { return all<V>(x); }
  static V repeat_at(const InPlace* from) { return all<V>(*from); }
  static V add_product(V sum, V a, V b) { return sum + a * b; }
};

#if defined(FUSEGRAD_AVX512_BF16)
// Pairs, for an instruction that adds two products to each sum.
template <> struct Packed<BFloat16> {
  using V = F32;  // carries the bits
  using Word = uint32_t;
  using Multiplied = Packed;
  using InPlace = BFloat16;
  static constexpr int kNumbers = 2;

  static V load_k(const BFloat16* from) { return load(reinterpret_cast<const Word*>(from)); }
  static V load_rows(const BFloat16* from, int64_t k_stride) {
    U16 low, high;
    __builtin_memcpy(&low, from, sizeof low);
    __builtin_memcpy(&high, from + k_stride, sizeof high);
    return bits<V>(__builtin_convertvector(low, U32) | __builtin_convertvector(high, U32) << 16);
  }
  static Word one(const BFloat16* from, int64_t k_stride, bool last) {
    return from[0].bits | (last ? 0 : Word(from[k_stride].bits) << 16);
  }
  static V load(const Word* from) {
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
  }
  static V repeat(Word x) { return bits<V>(U32{} + x); }
  static V repeat_at(const InPlace* from) {
    Word pair;
    __builtin_memcpy(&pair, from, sizeof pair);
    return repeat(pair);
  }
  static V add_product(V sum, V a, V b) {
    return bits<V>(_mm512_dpbf16_ps(bits<__m512>(sum), bits<__m512bh>(a), bits<__m512bh>(b)));
  }
};
#endif

constexpr int64_t kLine = 64;

// Rows of memory that are read next, brought nearer while others are multiplied: a part of them with each tile.
struct Ahead {
  const char* from;  // nullptr if there are none
  int64_t stride, rows, bytes;
};

// Rows of a tile that is read or written next, of up to two lines. A kernel brings one every few steps: all at once
// they are so many that what it multiplies has to wait for them, a tenth of its time where sums have 256 terms (a Zen
// 4, 2026-11-27).
struct Near {
  const char* from = nullptr;
  int64_t stride = 0, bytes = 0, rows = 0;

  template <class T> static Near of(const T* from, int64_t ld, int64_t rows, int64_t columns) {
    return {reinterpret_cast<const char*>(from), ld * int64_t(sizeof(T)), columns * int64_t(sizeof(T)), rows};
  }
  void bring_row() {
    if (rows-- > 0) bring_row_now();
  }
  void bring_row_now() {
    __builtin_prefetch(from, 1);
    __builtin_prefetch(from + bytes / 2 - 1, 1);  // they may touch three lines
    __builtin_prefetch(from + bytes - 1, 1);
    from += stride;
  }
};

constexpr int64_t kWorthASquare = 3;  // numbers of a row that are left: fewer are taken one by one

// W rows of k numbers, as words; zeros for those past the `count` that there are. `row_stride` leads from row to row,
// `k_stride` from one number of a row to the next. Writes up to a vector past the end of the panel.
template <int W, class T> void pack_panel(const T* from, int64_t row_stride, int64_t k_stride, int64_t count, int64_t k,
                                          typename Packed<T>::Word* to) {
  using P = Packed<T>;
  using V = typename P::V;
  constexpr int n = kLanes<V>, kEach = P::kNumbers, kVectors = (W + n - 1) / n;
  const auto put = [&](int64_t at, V v) __attribute__((always_inline)) { __builtin_memcpy(to + at, &v, sizeof v); };
  const int64_t whole = k / kEach, words = (k + kEach - 1) / kEach;
  int64_t done = 0;
  if (row_stride == 1 && count >= kVectors * n) {
    for (; done < whole; done++) {
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; i++)
        put(done * W + i * n, P::load_rows(from + done * kEach * k_stride + i * n, k_stride));
    }
  } else if (k_stride == 1) {
    for (const int64_t end = whole / n * n; done < end; done += n) {
      // from the last group of rows to the first: each runs over into the next k, which is written later
      for (int group = kVectors - 1; group >= 0; group--) {
        V rows[n];
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
          const int row = group * n + i;
          rows[i] = row < count ? P::load_k(from + row * row_stride + done * kEach) : V{};
        }
        transpose<n / 2>(rows);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) put((done + i) * W + group * n, rows[i]);
      }
    }
#if defined(FUSEGRAD_MASKS)
    if constexpr (kEach == 1) {
      const int64_t rest = k - done;
      for (int group = kVectors - 1; rest >= kWorthASquare && group >= 0; group--) {
        V rows[n];
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
          const int row = group * n + i;
          rows[i] = row < count ? load_some(from + row * row_stride + done, rest) : V{};
        }
        transpose<n / 2>(rows);
        for (int i = 0; i < rest; i++) put((done + i) * W + group * n, rows[i]);
      }
      if (rest >= kWorthASquare) return;
    }
#endif
  }
  for (; done < words; done++) {
    for (int i = 0; i < W; i++)
      to[done * W + i] =
          i < count ? P::one(from + i * row_stride + done * kEach * k_stride, k_stride, done == whole) : 0;
  }
}

// The first words of kTogether panels of W rows, where the rows lie next to each other: a step along k reads whole
// lines, each once. One panel a time reads each line for each panel that it is a part of, and may find it gone from
// cache.
template <int W> constexpr int kTogether = W < 16 ? 6 : 8;
template <int W, class T>
void pack_together(const T* from, int64_t k_stride, int64_t words, typename Packed<T>::Word* to, int64_t panel) {
  using P = Packed<T>;
  using V = typename P::V;
  constexpr int n = kLanes<V>,
                kVectors = (W + n - 1) / n;  // the last runs over into the next k, which is written later
  for (int64_t p = 0; p < words; p++, from += P::kNumbers * k_stride, to += W) {
#pragma GCC unroll 8
    for (int q = 0; q < kTogether<W>; q++)
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; i++) {
        const V v = P::load_rows(from + q * W + i * n, k_stride);
        __builtin_memcpy(to + q * panel + i * n, &v, sizeof v);
      }
  }
}

// All rows of an operand, panel after panel. `readable`: how many there are in memory, if more follow than are packed.
template <int W, class T> void pack(const T* from, int64_t row_stride, int64_t k_stride, int64_t count, int64_t k,
                                    typename Packed<T>::Word* to, int64_t readable = 0) {
  constexpr int64_t n = kLanes<typename Packed<T>::V>, kEach = Packed<T>::kNumbers, kGroup = kTogether<W> * W;
  constexpr int64_t kOver = (W + n - 1) / n * n - W;  // read past the last row
  const int64_t words = (k + kEach - 1) / kEach, last = words - 1;
  int64_t i = 0;
  const int64_t end = readable > count ? readable : count;
  for (; row_stride == 1 && k > 0 && i + kGroup <= count && i + kGroup + kOver <= end; i += kGroup) {
    pack_together<W>(from + i, k_stride, last, to + i * words, W * words);
    for (int64_t q = i; q < i + kGroup; q += W)
      pack_panel<W>(from + q + last * kEach * k_stride, 1, k_stride, W, k - last * kEach, to + q * words + last * W);
  }
  for (; i < count; i += W) pack_panel<W>(from + i * row_stride, row_stride, k_stride, count - i, k, to + i * words);
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
