// Elementary functions of vectors. NaN gives NaN, and infinities their limits. The bounds in
// units in the last place are for float32, 4 for float64; tests/test_elementary.py holds exp, tanh, sigmoid and sin to
// them over the range of float32.
#pragma once

#include "coefficients.h"
#include "vec.h"

extern "C" {
double sin(double);
double cos(double);
}

namespace fusegrad {
namespace FUSEGRAD_ISA {

// Estrin's scheme: halves that do not wait for one another. powers: x, x^2, x^4, ...
template <int kFrom, int kCount, class V, class C> inline V terms(const V* powers, const C* c) {
  if constexpr (kCount == 1) {
    return all<V>(c[kFrom]);
  } else {
    constexpr int kLog = 31 - __builtin_clz(kCount - 1), kLow = 1 << kLog;
    return terms<kFrom, kLow>(powers, c) + terms<kFrom + kLow, kCount - kLow>(powers, c) * powers[kLog];
  }
}
template <class V, class C, int N> inline V polynomial(V x, const C (&c)[N]) {
  V powers[5] = {x};
#pragma GCC unroll 4
  for (int i = 1; i < 5; i++) powers[i] = powers[i - 1] * powers[i - 1];
  return terms<0, N>(powers, c);
}

template <class V> inline V abs(V x) {
  using I = IntOf<V>;
  return bits<V>(bits<I>(x) & ~bits<I>(all<V>(ScalarOf<V>(-0.0))));
}

template <class V> inline V copysign(V x, V sign) {
  using I = IntOf<V>;
  const I top = bits<I>(all<V>(ScalarOf<V>(-0.0)));
  return bits<V>((bits<I>(x) & ~top) | (bits<I>(sign) & top));
}

// NaN stays NaN.
template <class V> inline V clamp(V x, ScalarOf<V> low, ScalarOf<V> high) {
  x = x < low ? all<V>(low) : x;
  return x > high ? all<V>(high) : x;
}

// 2^n for an integer n that the format has as a normal number.
template <class V> inline V power_of_two(IntOf<V> n) { return bits<V>((n + Traits<V>::kBias) << Traits<V>::kMantissa); }

// x = n log(2) + r, |r| <= log(2) / 2, and e^r - 1 = r + r^2 q(r).
template <class V> struct Exponent {
  IntOf<V> n;
  V r, p;  // p = e^r - 1

  inline explicit Exponent(V x) {
    using T = Traits<V>;
    const V shifted = x * ScalarOf<V>(1.4426950408889634) + T::kRound;  // log2(e)
    const V whole = shifted - T::kRound;
    n = bits<IntOf<V>>(shifted) - bits<IntOf<V>>(all<V>(T::kRound));
    r = (x - whole * T::kLn2High) - whole * T::kLn2Low;
    p = r + r * r * polynomial(r, Coefficients<ScalarOf<V>>::exp);
  }
};

// e^x; 1 ulp.
template <class V> inline V exp(V x) {
  const Exponent<V> e(clamp(x, Traits<V>::kExpMin, Traits<V>::kExpMax));
  const IntOf<V> half = e.n >> 1;  // 2^n need not be a normal number
  return (1 + e.p) * power_of_two<V>(half) * power_of_two<V>(e.n - half);
}

// e^x for x <= 0, but 0 where that is no normal number, and 1 - e^x; 1 ulp each.
template <class V> struct Decay {
  V value, lost;
  inline explicit Decay(V x) {
    const Exponent<V> e(x < Traits<V>::kExpNormal ? all<V>(Traits<V>::kExpNormal) : x);
    const V scale = power_of_two<V>(e.n);
    value = scale + scale * e.p;
    lost = (1 - scale) - scale * e.p;
  }
};

// e^x - 1 for x <= 80, which is all that the activations need; 2 ulp.
template <class V> inline V expm1(V x) {
  const Exponent<V> e(clamp(x, ScalarOf<V>(-50), ScalarOf<V>(80)));
  const V scale = power_of_two<V>(e.n);
  return scale * e.p + (scale - 1);
}

// log(1 + x) for 0 <= x <= 1: 2 atanh(s) with s = x / (2 + x); 2 ulp.
template <class V> inline V log1p(V x) {
  const V s = x / (2 + x), t = s * s;
  return 2 * s + s * t * polynomial(t, Coefficients<ScalarOf<V>>::log1p);
}

// tanh |x| = e / (e + 2) with e = exp(2 |x|) - 1, and a polynomial near 0; 2 ulp.
template <class V> inline V tanh(V x) {
  using S = ScalarOf<V>;
  const V a = abs(x), t = x * x, e = expm1(2 * clamp(a, S(0), Traits<V>::kTanhEnd));
  const V near = x + x * t * polynomial(t, Coefficients<S>::tanh);
  return a < S(0.35) ? near : copysign(e / (e + 2), x);
}

// 1 / (1 + e^-x); 2 ulp.
template <class V> inline V sigmoid(V x) {
  const V e = exp(-abs(x));
  return (x < 0 ? e : all<V>(1)) / (1 + e);
}

// sigmoid(2x) sigmoid(-2x) 4 = 1 - tanh(x)^2: no cancellation in the tails.
template <class V> inline V bell(V x) {
  const V e = exp(-2 * abs(x)), d = 1 + e;
  return 4 * e / (d * d);
}

// The normal distribution: with e = root^2 = e^{-z^2 / 2}, e kDensityAt0 is its density at z, and e ratio what is
// above |z|, at most 1/2. Multiplied by the root twice, both are right where e alone is no normal number.
constexpr double kDensityAt0 = 0.39894228040143268;  // 1 / sqrt(2 pi)
template <class V> struct Normal {
  V root, ratio;
  inline explicit Normal(V z) {
    using S = ScalarOf<V>;
    const V t = 1 / (1 + abs(z) * S(0.3 * 0.70710678118654752));  // 0.3 sqrt(1/2)
    root = Decay<V>(S(-0.25) * z * z).value;
    ratio = S(0.5) * t * polynomial(t, Coefficients<S>::erfcx);
  }
};

// x = n pi/2 + r, |r| <= pi/4; r is rounded once, from float64 for float32.
inline F64 less_quarters(F64 x, F64 n) {
  return ((x - n * 0x1.921fb544p0) - n * 0x1.0b4611a6p-34) - n * 0x1.3198a2e037073p-69;
}
inline F32 less_quarters(F32 x, F32 n) {
  typedef double Wide __attribute__((vector_size(2 * FUSEGRAD_VECTOR_BYTES)));
  const Wide turns = __builtin_convertvector(n, Wide);
  const Wide r = (__builtin_convertvector(x, Wide) - turns * 0x1.921fb544p0) - turns * 0x1.0b4611a62633ap-34;
  return __builtin_convertvector(r, F32);
}

// sin(x + quarters pi/2); 2 ulp. Arguments beyond 2^20 go to libm, one by one.
template <class V> inline V sin_from(V x, int quarters) {
  using S = ScalarOf<V>;
  using I = IntOf<V>;
  using C = Coefficients<S>;
  const auto large = abs(x) > S(1 << 20);  // false for NaN
  const V near = large ? V{} : x;
  const V shifted = near * S(0.63661977236758134) + Traits<V>::kRound;  // 2 / pi
  const V r = less_quarters(near, shifted - Traits<V>::kRound), t = r * r;
  const V s = r + r * t * polynomial(t, C::sin);
  const V c = 1 - t / 2 + t * t * polynomial(t, C::cos);
  const I quadrant = bits<I>(shifted) + quarters;
  const V size = (quadrant & 1) != 0 ? c : s;
  V y = (quadrant & 2) != 0 ? -size : size;
  bool any = false;
  for (int i = 0; i < kLanes<V>; i++) any |= large[i] != 0;
  if (any) {
    for (int i = 0; i < kLanes<V>; i++)
      if (large[i]) y[i] = S(quarters == 1 ? ::cos(double(x[i])) : ::sin(double(x[i])));
  }
  return y;
}

template <class V> inline V sin(V x) { return sin_from(x, 0); }
template <class V> inline V cos(V x) { return sin_from(x, 1); }

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
