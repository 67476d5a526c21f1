// Reading and writing the four types: computation is in float32, in float64 for float64. Rounding is to nearest even.
#pragma once

#include "../vec.h"
#include "kernels.h"

#if defined(FUSEGRAD_F16C)  // GCC 12 has no __F16C__ for a target that a pragma sets
#include <immintrin.h>
#endif

namespace fusegrad {
namespace FUSEGRAD_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// The vector that numbers of type T are computed in.
template <class T> struct Computed {
  using V = F32;
};
template <> struct Computed<double> {
  using V = F64;
};
template <class T> using VectorFor = typename Computed<T>::V;
template <class T> using ScalarFor = ScalarOf<VectorFor<T>>;

typedef uint32_t U32 __attribute__((vector_size(FUSEGRAD_VECTOR_BYTES)));
typedef uint16_t U16 __attribute__((vector_size(FUSEGRAD_VECTOR_BYTES / 2)));

#if defined(FUSEGRAD_F16C) && FUSEGRAD_VECTOR_BYTES == 64
// Each number into the upper half of a word of 32 bits, and back: one shuffle each, where GCC takes two and four.
inline F32 widen(U16 h, BFloat16) {
  alignas(64) static constexpr uint16_t kFrom[] = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                                                   0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  return bits<F32>(
      _mm512_maskz_permutexvar_epi16(0xaaaaaaaa, _mm512_load_si512(kFrom), _mm512_castsi256_si512(bits<__m256i>(h))));
}
inline U16 upper_halves(U32 words) {
  alignas(64) static constexpr uint16_t kFrom[32] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i halves = _mm512_maskz_permutexvar_epi16(0xffff, _mm512_load_si512(kFrom), bits<__m512i>(words));
  return bits<U16>(_mm512_maskz_extracti64x4_epi64(0xf, halves, 0));
}
#elif defined(FUSEGRAD_F16C)
inline F32 widen(U16 h, BFloat16) { return bits<F32>(bits<U32>(_mm256_cvtepu16_epi32(bits<__m128i>(h))) << 16); }
inline U16 upper_halves(U32 words) {
  const __m256i halves = bits<__m256i>(words >> 16);
  return bits<U16>(_mm_packus_epi32(_mm256_extracti128_si256(halves, 0), _mm256_extracti128_si256(halves, 1)));
}
#else
inline F32 widen(U16 h, BFloat16) { return bits<F32>(__builtin_convertvector(h, U32) << 16); }
inline U16 upper_halves(U32 words) { return __builtin_convertvector(words >> 16, U16); }
#endif

// Every other one of a row of numbers, those in the upper or those in the lower halves of words of 32 bits: a mask or a
// shift, where neighbours take a shuffle and a shift.
template <bool kUpper> inline F32 load_every_other(const BFloat16* from) {
  U32 pairs;
  __builtin_memcpy(&pairs, from, sizeof pairs);
  return bits<F32>(kUpper ? pairs & 0xffff0000 : pairs << 16);
}

inline F32 widen(U16 h, Half) {
#if defined(FUSEGRAD_F16C) && FUSEGRAD_VECTOR_BYTES == 64
  return bits<F32>(_mm512_maskz_cvtph_ps(0xffff, bits<__m256i>(h)));
#elif defined(FUSEGRAD_F16C)
  return bits<F32>(_mm256_cvtph_ps(bits<__m128i>(h)));
#else
  const U32 wide = __builtin_convertvector(h, U32);
  const U32 shifted = (wide & 0x7fff) << 13;
  // 2^112 makes up for the difference of the exponents' biases, also for subnormal numbers
  const U32 finite = bits<U32>(bits<F32>(shifted) * 0x1p112f);
  const U32 special = shifted | 0x7f800000;
  return bits<F32>(((wide & 0x7c00) == 0x7c00 ? special : finite) | (wide & 0x8000) << 16);
#endif
}

// A number of 8 bits in the upper half of each word.
inline U32 rounded(F32 x) {
  const U32 u = bits<U32>(x), near = u + 0x7fff + ((u >> 16) & 1);
  return x != x ? U32{} + 0x7fc00000 : near;
}
inline void store_every_other(BFloat16* to, F32 lower, F32 upper) {
  const U32 pairs = rounded(lower) >> 16 | (rounded(upper) & 0xffff0000);
  __builtin_memcpy(to, &pairs, sizeof pairs);
}

inline U16 narrow(F32 x, BFloat16) {
#if defined(FUSEGRAD_AVX512_BF16)
  constexpr int kSubnormal = 0x20;  // numbers that the instruction takes for 0
  if (!_mm512_fpclass_ps_mask(bits<__m512>(x), kSubnormal)) [[likely]]
    return bits<U16>(_mm512_cvtneps_pbh(bits<__m512>(x)));
#endif
  return upper_halves(rounded(x));
}

inline U16 narrow(F32 x, Half) {
#if defined(FUSEGRAD_F16C) && FUSEGRAD_VECTOR_BYTES == 64
  return bits<U16>(_mm512_maskz_cvtps_ph(0xffff, bits<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(FUSEGRAD_F16C)
  return bits<U16>(_mm256_cvtps_ph(bits<__m256>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  const U32 u = bits<U32>(x), size = u & 0x7fffffff;
  // a subnormal number: adding 1/2 aligns its last place with that of a float32
  const U32 small = bits<U32>(bits<F32>(size) + 0.5f) - 0x3f000000;
  const U32 normal = (size - (112 << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
  const U32 large = size > 0x7f800000 ? U32{} + 0x7e00 : U32{} + 0x7c00;
  const U32 h = size < (113 << 23) ? small : size >= 0x47800000 ? large : normal;
  return __builtin_convertvector(h | (u >> 16 & 0x8000), U16);
#endif
}

inline F32 load_as(const float* from) { return load<F32>(from); }
inline F64 load_as(const double* from) { return load<F64>(from); }
inline void store_as(float* to, F32 v) { store<F32>(to, v); }
inline void store_as(double* to, F64 v) { store<F64>(to, v); }

template <class T>  // BFloat16 or Half
inline F32 load_as(const T* from) {
  U16 h;
  __builtin_memcpy(&h, from, sizeof h);
  return widen(h, T{});
}
template <class T> inline void store_as(T* to, F32 v) {
  const U16 h = narrow(v, T{});
  __builtin_memcpy(to, &h, sizeof h);
}

// The first n < lanes of a vector; the rest is 0.
#if FUSEGRAD_VECTOR_BYTES == 64 && defined(FUSEGRAD_F16C)
#define FUSEGRAD_MASKS  // an instruction does it
inline F32 load_some(const float* from, int64_t n) {
  return bits<F32>(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), from));
}
inline F64 load_some(const double* from, int64_t n) {
  return bits<F64>(_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), from));
}
template <class T> inline F32 load_some(const T* from, int64_t n) {
  return widen(bits<U16>(_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), from)), T{});
}
inline void store_some(float* to, F32 v, int64_t n) {
  _mm512_mask_storeu_ps(to, __mmask16((1u << n) - 1), bits<__m512>(v));
}
inline void store_some(double* to, F64 v, int64_t n) {
  _mm512_mask_storeu_pd(to, __mmask8((1u << n) - 1), bits<__m512d>(v));
}
template <class T> inline void store_some(T* to, F32 v, int64_t n) {
  _mm256_mask_storeu_epi16(to, __mmask16((1u << n) - 1), bits<__m256i>(narrow(v, T{})));
}
#else
template <class T> inline VectorFor<T> load_some(const T* from, int64_t n) {
  T buffer[kLanes<VectorFor<T>>] = {};
  __builtin_memcpy(buffer, from, n * sizeof(T));
  return load_as(buffer);
}
template <class T> inline void store_some(T* to, VectorFor<T> v, int64_t n) {
  T buffer[kLanes<VectorFor<T>>];
  store_as(buffer, v);
  __builtin_memcpy(to, buffer, n * sizeof(T));
}
#endif

inline float to_scalar(float x) { return x; }
inline double to_scalar(double x) { return x; }
inline float to_scalar(BFloat16 x) { return bits<float>(uint32_t(x.bits) << 16); }
#if defined(FUSEGRAD_F16C)
inline float to_scalar(Half x) { return _cvtsh_ss(x.bits); }
#else
inline float to_scalar(Half x) { return load_some(&x, 1)[0]; }
#endif

template <class T> void widen_row(const T* from, ScalarFor<T>* to, int64_t n) {
  using V = VectorFor<T>;
  int64_t i = 0;
  for (; i + kLanes<V> <= n; i += kLanes<V>) store<V>(to + i, load_as(from + i));
  if (i < n) store_some(to + i, load_some(from + i, n - i), n - i);
}
template <class T> void narrow_row(const ScalarFor<T>* from, T* to, int64_t n) {
  using V = VectorFor<T>;
  int64_t i = 0;
  for (; i + kLanes<V> <= n; i += kLanes<V>) store_as(to + i, load<V>(from + i));
  if (i < n) store_some(to + i, load_some(from + i, n - i), n - i);
}

// Calls f with a value of the type that t stands for.
template <class F> void with_type(Type t, const F& f) {
  if (t == Type::f32) f(float{});
  if (t == Type::f64) f(double{});
  if (t == Type::bf16) f(BFloat16{});
  if (t == Type::f16) f(Half{});
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
