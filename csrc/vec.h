// Vectors of one width, FUSEGRAD_VECTOR_BYTES, on the vector extensions of GCC and Clang: one source for AVX-512, AVX2,
// SSE and NEON. A file that includes this one is compiled once per instruction set (cpu/isa_*.cpp), each in a namespace
// of its own, and includes nothing of torch or of the standard library: an inline function of theirs, compiled for
// AVX-512, could be the copy that the linker keeps for all.
#pragma once

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class T> struct Vector {
  typedef T type __attribute__((vector_size(FUSEGRAD_VECTOR_BYTES)));
};
using F32 = Vector<float>::type;
using F64 = Vector<double>::type;

// What goes with a vector of floating-point numbers: its scalar, integers of the same size, and constants of the
// format.
template <class V> struct Traits;
template <> struct Traits<F32> {
  using Scalar = float;
  using Int = Vector<int32_t>::type;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the lowest bits
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  static constexpr float kExpMin = -104, kExpMax = 89;  // where e^x has become 0 and infinity
  static constexpr float kExpNormal = -88.03f;          // nearest to 2^-127, which has the bits of 0
  static constexpr int kUp = 32;                        // makes normal numbers of all down to e^kExpMin
  static constexpr float kDown = 0x1p-32f;
  static constexpr float kTanhEnd = 10;      // where tanh has rounded to 1
  static constexpr float kNormalEnd = 18.5;  // where e^{-x^2 / 2} has become 0, and e^{-x^2 / 4} has not
};
template <> struct Traits<F64> {
  using Scalar = double;
  using Int = Vector<int64_t>::type;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr double kExpMin = -746, kExpMax = 710;
  static constexpr double kExpNormal = -709.09;
  static constexpr int kUp = 64;
  static constexpr double kDown = 0x1p-64;
  static constexpr double kTanhEnd = 20;
  static constexpr double kNormalEnd = 52.5;
};
template <class V> using ScalarOf = typename Traits<V>::Scalar;
template <class V> using IntOf = typename Traits<V>::Int;
template <class V> constexpr int kLanes = sizeof(V) / sizeof(ScalarOf<V>);

template <class V> inline V all(ScalarOf<V> x) {
  return x - V{};  // not V{} + x, which would lose the sign of -0
}
template <class V> inline V load(const ScalarOf<V>* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
template <class V> inline void store(ScalarOf<V>* to, V v) { __builtin_memcpy(to, &v, sizeof v); }
template <class To, class From> inline To bits(From v) {
  static_assert(sizeof(To) == sizeof(From), "a bit pattern keeps its size");
  To to;
  __builtin_memcpy(&to, &v, sizeof to);
  return to;
}

// load and store by halves of 64 bytes. A load of 64 may wait for a store before it to an address that is alike in its
// lowest 12 bits: relu of 0.5 MB takes up to a tenth longer, its derivative a fifth (Zen 4, 2026-11-27).
#if FUSEGRAD_VECTOR_BYTES == 64
template <class V> inline V load_halves(const ScalarOf<V>* from) {
  const char* at = reinterpret_cast<const char*>(from);
  const __m512d low = _mm512_castpd256_pd512(_mm256_loadu_pd(reinterpret_cast<const double*>(at)));
  return bits<V>(_mm512_maskz_insertf64x4(0xff, low, _mm256_loadu_pd(reinterpret_cast<const double*>(at + 32)), 1));
}
template <class V> inline void store_halves(ScalarOf<V>* to, V v) {
  char* at = reinterpret_cast<char*>(to);
  _mm256_storeu_pd(reinterpret_cast<double*>(at), _mm512_maskz_extractf64x4_pd(0xf, bits<__m512d>(v), 0));
  _mm256_storeu_pd(reinterpret_cast<double*>(at + 32), _mm512_maskz_extractf64x4_pd(0xf, bits<__m512d>(v), 1));
}
#else
template <class V> inline V load_halves(const ScalarOf<V>* from) { return load<V>(from); }
template <class V> inline void store_halves(ScalarOf<V>* to, V v) { store<V>(to, v); }
#endif

// Writes a whole vector past the caches, to where it is aligned; before another thread reads it, end_streams.
#if !defined(__x86_64__)
template <class V> inline void stream(void* to, V v) { __builtin_memcpy(to, &v, sizeof v); }
inline void end_streams() {}
#else
#if FUSEGRAD_VECTOR_BYTES == 64
template <class V> inline void stream(void* to, V v) {
  _mm512_stream_si512(static_cast<__m512i*>(to), bits<__m512i>(v));
}
#elif FUSEGRAD_VECTOR_BYTES == 32
template <class V> inline void stream(void* to, V v) {
  _mm256_stream_si256(static_cast<__m256i*>(to), bits<__m256i>(v));
}
#else
template <class V> inline void stream(void* to, V v) { _mm_stream_si128(static_cast<__m128i*>(to), bits<__m128i>(v)); }
#endif
inline void end_streams() { _mm_sfence(); }
#endif

// a > b ? a : b and a < b ? a : b, so b where one of them is NaN. x86 has an instruction for each, which GCC does not
// find in these words.
#if !defined(__x86_64__)
template <class V> inline V larger(V a, V b) { return a > b ? a : b; }
template <class V> inline V smaller(V a, V b) { return a < b ? a : b; }
#elif FUSEGRAD_VECTOR_BYTES == 64
inline F32 larger(F32 a, F32 b) { return bits<F32>(_mm512_maskz_max_ps(0xffff, bits<__m512>(a), bits<__m512>(b))); }
inline F64 larger(F64 a, F64 b) { return bits<F64>(_mm512_maskz_max_pd(0xff, bits<__m512d>(a), bits<__m512d>(b))); }
inline F32 smaller(F32 a, F32 b) { return bits<F32>(_mm512_maskz_min_ps(0xffff, bits<__m512>(a), bits<__m512>(b))); }
inline F64 smaller(F64 a, F64 b) { return bits<F64>(_mm512_maskz_min_pd(0xff, bits<__m512d>(a), bits<__m512d>(b))); }
#elif FUSEGRAD_VECTOR_BYTES == 32
inline F32 larger(F32 a, F32 b) { return bits<F32>(_mm256_max_ps(bits<__m256>(a), bits<__m256>(b))); }
inline F64 larger(F64 a, F64 b) { return bits<F64>(_mm256_max_pd(bits<__m256d>(a), bits<__m256d>(b))); }
inline F32 smaller(F32 a, F32 b) { return bits<F32>(_mm256_min_ps(bits<__m256>(a), bits<__m256>(b))); }
inline F64 smaller(F64 a, F64 b) { return bits<F64>(_mm256_min_pd(bits<__m256d>(a), bits<__m256d>(b))); }
#else
inline F32 larger(F32 a, F32 b) { return bits<F32>(_mm_max_ps(bits<__m128>(a), bits<__m128>(b))); }
inline F64 larger(F64 a, F64 b) { return bits<F64>(_mm_max_pd(bits<__m128d>(a), bits<__m128d>(b))); }
inline F32 smaller(F32 a, F32 b) { return bits<F32>(_mm_min_ps(bits<__m128>(a), bits<__m128>(b))); }
inline F64 smaller(F64 a, F64 b) { return bits<F64>(_mm_min_pd(bits<__m128d>(a), bits<__m128d>(b))); }
#endif

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
