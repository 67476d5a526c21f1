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

// Horner's scheme of every other coefficient.
template <int kFrom, class V, class C, int N> inline V every_other(V x2, const C (&c)[N]) {
  constexpr int kLast = N - 1 - (N - 1 - kFrom) % 2;
  V y = all<V>(c[kLast]);
#pragma GCC unroll 16
  for (int i = kLast - 2; i >= kFrom; i -= 2) y = y * x2 + c[i];
  return y;
}
// Two halves that do not wait for one another. More would wait less, as in Estrin's scheme, but with a multiplication
// for each power; and there are other vectors on their way: 20 terms of float64 take 7 % less time (Zen 4, 2026-11-27).
template <class V, class C, int N> inline V polynomial(V x, const C (&c)[N]) {
  const V x2 = x * x;
  return every_other<1>(x2, c) * x + every_other<0>(x2, c);
}

template <class V> using P = ScalarOf<V>;

// A constant, in the type that a vector has.
template <class V> constexpr P<V> c(double x) { return P<V>(x); }

// The bit of the sign, and all others.
template <class V> inline IntOf<V> sign_bit(V x) { return bits<IntOf<V>>(x) & bits<IntOf<V>>(all<V>(c<V>(-0.0))); }
template <class V> inline V abs(V x) { return bits<V>(bits<IntOf<V>>(x) & ~bits<IntOf<V>>(all<V>(c<V>(-0.0)))); }
template <class V> inline V minus_abs(V x) { return bits<V>(bits<IntOf<V>>(x) | bits<IntOf<V>>(all<V>(c<V>(-0.0)))); }

// x of either sign, turned where that of `by` is negative.
template <class V> inline V turn_sign(V x, V by) { return bits<V>(bits<IntOf<V>>(x) ^ sign_bit(by)); }
template <class V> inline V copysign(V x, V sign) { return turn_sign(abs(x), sign); }

// Where the sign is negative, that of -0 and of a NaN too: a choice by it takes one instruction.
template <class V> inline auto is_negative(V x) { return bits<IntOf<V>>(x) < 0; }

// NaN stays NaN.
template <class V> inline V clamp(V x, ScalarOf<V> low, ScalarOf<V> high) {
  return smaller(all<V>(high), larger(all<V>(low), x));
}

// 2^n for an integer n that the format has as a normal number.
template <class V> inline V power_of_two(IntOf<V> n) { return bits<V>((n + Traits<V>::kBias) << Traits<V>::kMantissa); }

// x = n log(2) + r, |r| <= log(2) / 2: p = e^r - 1 = r + r^2 q(r), and scale = 2^{n + kUp}, for n + kUp between that of
// the smallest normal number, or one less, which gives 0, and that of the largest.
template <class V, int kUp = 0> struct Exponent {
  V scale, p;
  IntOf<V> n;

  inline explicit Exponent(V x) {
    using T = Traits<V>;
    constexpr ScalarOf<V> kRound = T::kRound + T::kBias + kUp;  // the lowest bits of x + kRound are a format's exponent
    const V shifted = x * c<V>(1.4426950408889634) + kRound;    // log2(e)
    const V whole = shifted - kRound;
    scale = bits<V>(bits<IntOf<V>>(shifted) << T::kMantissa);
    n = bits<IntOf<V>>(shifted) - bits<IntOf<V>>(all<V>(kRound));
    const V r = (x - whole * T::kLn2High) - whole * T::kLn2Low;
    p = r + r * r * polynomial(r, Coefficients<ScalarOf<V>>::exp);
  }
};

// e^x; 1 ulp.
template <class V> inline V exp(V x) {
  const Exponent<V> e(clamp(x, Traits<V>::kExpMin, Traits<V>::kExpMax));
  const IntOf<V> half = e.n >> 1;  // 2^n need not be a normal number
  return (1 + e.p) * power_of_two<V>(half) * power_of_two<V>(e.n - half);
}

// The same for x <= 0.
template <class V> inline V exp_of_negative(V x) {
  using T = Traits<V>;
  const Exponent<V, T::kUp> e(larger(all<V>(T::kExpMin), x));
  return (e.scale + e.scale * e.p) * T::kDown;
}

// e^x for x <= 0, but 0 where that is no normal number, and 1 - e^x; 1 ulp each.
template <class V> struct Decay {
  V value, lost;
  inline explicit Decay(V x) {
    const Exponent<V> e(larger(all<V>(Traits<V>::kExpNormal), x));
    value = e.scale + e.scale * e.p;
    lost = (1 - e.scale) - e.scale * e.p;
  }
};

// e^x - 1 for x <= 80, which is all that the activations need; 2 ulp.
template <class V> inline V expm1(V x) {
  const Exponent<V> e(clamp(x, ScalarOf<V>(-50), ScalarOf<V>(80)));
  return e.scale * e.p + (e.scale - 1);
}

// e^{x/2}: where e^x is no normal number, a product with it twice may be one.
template <class V> inline V half_exp(V x) { return exp(c<V>(0.5) * x); }

// The same for x <= 0, but 0 where it is no normal number; 1 for others.
template <class V> inline V half_decay(V x) { return Decay<V>(x > 0 ? V{} : c<V>(0.5) * x).value; }

// 2 atanh(s) for |s| <= 1/3.
template <class V> inline V twice_atanh(V s) {
  const V t = s * s;
  return 2 * s + s * t * polynomial(t, Coefficients<ScalarOf<V>>::log1p);
}

// log(1 + x) for 0 <= x <= 1; 2 ulp.
template <class V> inline V log1p_unit(V x) { return twice_atanh(x / (2 + x)); }

// log(1 + e^x).
template <class V> inline V softplus(V x) { return larger(V{}, x) + log1p_unit(exp_of_negative(minus_abs(x))); }

// x = 2^n m, m between the roots of 1/2 and 2.
template <class V> inline V log(V x) {
  using T = Traits<V>;
  using I = IntOf<V>;
  const auto small = x < power_of_two<V>(I{} + (2 - T::kBias));  // its exponent may be that of no normal number
  const I of = bits<I>(small ? x * power_of_two<V>(I{} + T::kBias / 2) : x);
  const I n = (of - bits<I>(all<V>(c<V>(0.70710678118654752)))) >> T::kMantissa;  // sqrt(1/2)
  const V m = bits<V>(of - (n << T::kMantissa));
  const V whole = __builtin_convertvector(small ? n - T::kBias / 2 : n, V);
  const V y = whole * T::kLn2High + (twice_atanh((m - 1) / (m + 1)) + whole * T::kLn2Low);
  const V inf = 1 / V{};
  return x > 0 ? (x < inf ? y : x) : x == 0 ? -inf : x - x + V{} / V{};
}

// log(1 + x), by what 1 + x has lost.
template <class V> inline V log1p(V x) {
  const V u = 1 + x, lost = (x - (u - 1)) / u;
  return log(u) + ((lost == lost) & (u > 0) ? lost : V{});
}

template <class V> inline V sqrt(V x) {
  for (int i = 0; i < kLanes<V>; i++) {
    if constexpr (sizeof(ScalarOf<V>) == sizeof(float)) x[i] = __builtin_sqrtf(x[i]);
    if constexpr (sizeof(ScalarOf<V>) == sizeof(double)) x[i] = __builtin_sqrt(x[i]);
  }
  return x;
}

// sqrt(x^2 + w), w > 0, also where x^2 would overflow.
template <class V> inline V sqrt_of_squares(V x, ScalarOf<V> w) {
  const V a = abs(x), m = a < 1 ? all<V>(1) : a;
  return m * sqrt((a < 1 ? x * x : all<V>(1)) + w / (m * m));
}

template <class V> inline V sign(V x) { return x > 0 ? all<V>(1) : x < 0 ? all<V>(-1) : x; }

// tanh |x| = e / (e + 2) with e = exp(2 |x|) - 1, and a polynomial near 0; 2 ulp.
template <class V> inline V tanh(V x) {
  using S = ScalarOf<V>;
  const V a = abs(x), t = x * x;
  const Exponent<V> of(2 * smaller(all<V>(Traits<V>::kTanhEnd), a));
  const V e = of.scale * of.p + (of.scale - 1);
  const V near = x + x * t * polynomial(t, Coefficients<S>::tanh);
  return a < S(0.35) ? near : turn_sign(e / (e + 2), x);
}

// 1 / (1 + e^-x); 2.5 ulp.
template <class V> inline V sigmoid(V x) {
  const V e = exp_of_negative(minus_abs(x));
  return (is_negative(x) ? e : all<V>(1)) / (1 + e);
}

// s = sigmoid(x), c = sigmoid(-x), root^2 = s c, r = c - s: all right in both tails, and r near 0; v is x, clamped.
// Multiplied by the root twice, results are right where its square alone is no normal number.
template <class V> struct Logistic {
  V v, s, c, root, r;
  inline explicit Logistic(V x) : v(clamp(x, -1000, 1000)) {
    const Decay<V> half(minus_abs(x) / 2);
    const V e = half.value * half.value, d = 1 / (1 + e), ed = e * d;
    s = is_negative(x) ? ed : d;
    c = is_negative(x) ? d : ed;
    root = half.value * d;
    r = turn_sign(half.lost * (1 + half.value) * d, -x);
  }
};

// e^{x kQuarters / 4} 2^kUp, where it is a normal number, of n with kUp in it: 2^n 2^r, |r| <= 1/2, p = 2^r - 1.
// kNarrow: to 17 bits, which are then rounded to those of a 16-bit number.
template <class V, int kQuarters, bool kNarrow, int kUp = 0> struct Power {
  using T = Traits<V>;
  using I = IntOf<V>;
  using C = Coefficients<ScalarOf<V>>;
  V shifted, p;

  inline explicit Power(V x) {
    constexpr double kPart = 0.25 * kQuarters, kLog2e = 1.4426950408889634, kLost = 2.0355273740931033e-17;
    [[maybe_unused]] constexpr ScalarOf<V> kTurns = kPart * kLog2e,
                                           kRest = (kPart * kLog2e - double(kTurns)) + kPart * kLost;
    constexpr ScalarOf<V> kRound = T::kRound + kUp;
    shifted = x * kTurns + kRound;
    const V whole = shifted - kRound;
#if defined(FUSEGRAD_FMA)
    V r = x * kTurns - whole;  // rounded once
    if constexpr (!kNarrow) r += x * kRest;
#else
    const V r = ((c<V>(kPart) * x - whole * T::kLn2High) - whole * T::kLn2Low) * c<V>(kLog2e);
#endif
    if constexpr (kNarrow) p = r * polynomial(r, C::narrow_exp2);
    if constexpr (!kNarrow) p = r * polynomial(r, C::exp2);
  }
  inline V times(V y) const { return bits<V>(bits<I>(y) + (bits<I>(shifted) << T::kMantissa)); }  // 2^n y
  inline V value() const { return times(1 + p); }
};

// The normal distribution at x: e = root^2 = e^{-x^2 / 2}, its density e kDensityAt0, and below x is step + tail e;
// step is 1 from 0 on, else 0; ratio is |tail|, size |x|, up to where e is 0. Multiplied by the root twice, results are
// right where e alone is no normal number.
constexpr double kDensityAt0 = 0.39894228040143268;  // 1 / sqrt(2 pi)
constexpr double kInvSqrtPi = 0.56418958354775629;   // 1 / sqrt(pi)
template <class V, bool kNarrow = false> struct Normal {
  V size, root, ratio, step, tail;
  inline explicit Normal(V x) : size(smaller(all<V>(Traits<V>::kNormalEnd), abs(x))) {
    using C = Coefficients<ScalarOf<V>>;
    const V t = 1 / (1 + size * c<V>((kNarrow ? 0.31 : 0.32) * 0.70710678118654752));  // sqrt(1/2)
    root = Power<V, -1, kNarrow>(size * size).value();
    if constexpr (kNarrow) ratio = t * polynomial(t, C::narrow_erfcx);
    if constexpr (!kNarrow) ratio = t * polynomial(sizeof(ScalarOf<V>) == 8 ? t - c<V>(0.5625) : t, C::erfcx);
    step = is_negative(x) ? V{} : all<V>(1);
    tail = turn_sign(-ratio, x);
  }
};

template <class V> inline V erf(V x) {
  const V t = x * x;
  const V near = c<V>(2 * kInvSqrtPi) * x + x * t * polynomial(t, Coefficients<ScalarOf<V>>::erf);
  const Normal<V> n(c<V>(1.4142135623730951) * abs(x));  // sqrt(2)
  return t < 1 ? near : copysign(1 + 2 * n.tail * n.root * n.root, x);
}

// t = tanh(log(1 + e^x)), s = sigmoid(x), c = sigmoid(-x), b w = s (1 - t^2), r = c - 2 t s; v is x, clamped. With
// e = e^x and n = e (e + 2): t = n / (n + 2), 1 - t^2 = 4 (1 + e)^2 / (n + 2)^2. Above 0 divided through by e^2 and
// e^4, so that all are made of w = e^{-|x|} and keep their precision in both tails. b and w as the root of Logistic.
template <class V> struct TanhSoftplus {
  V v, t, s, c, b, w, r;
  inline explicit TanhSoftplus(V x) : v(clamp(x, -1000, 1000)), w(exp_of_negative(minus_abs(x))) {
    const V d = 1 / (is_negative(x) ? 2 + w * (2 + w) : 1 + w * (2 + 2 * w)), half = 1 / (1 + w);
    t = (is_negative(x) ? w * (2 + w) : 1 + 2 * w) * d;
    s = is_negative(x) ? w * half : half;
    c = is_negative(x) ? half : w * half;
    b = 4 * (1 + w) * d * d * (is_negative(x) ? all<V>(1) : w);
    r = (is_negative(x) ? 2 + w * (2 - w * (3 + 2 * w)) : w * (w * (2 + 2 * w) - 3) - 2) * half * d;
  }
};

// x = n pi/2 + r, |r| <= pi/4.
inline F64 reduce_pio2(F64 x, F64 n) {
  return ((x - n * 0x1.921fb544p0) - n * 0x1.0b4611a6p-34) - n * 0x1.3198a2e037073p-69;
}
#if defined(FUSEGRAD_FMA)
// x - n c, rounded once, also where nothing is contracted.
inline F32 minus_product(F32 x, F32 n, float c) {
  for (int i = 0; i < kLanes<F32>; i++) x[i] = __builtin_fmaf(-n[i], c, x[i]);
  return x;
}
// The first step is exact: x and n times a float32 of [1, 2) are multiples of 2^-24, and their difference is below 1.
inline F32 reduce_pio2(F32 x, F32 n) {
  return minus_product(minus_product(minus_product(x, n, 0x1.921fb6p0f), n, -0x1.777a5cp-25f), n, -0x1.ee59dap-50f);
}
#else
// Rounded once, from float64.
inline F32 reduce_pio2(F32 x, F32 n) {
  typedef double Wide __attribute__((vector_size(2 * FUSEGRAD_VECTOR_BYTES)));
  const Wide turns = __builtin_convertvector(n, Wide);
  const Wide r = (__builtin_convertvector(x, Wide) - turns * 0x1.921fb544p0) - turns * 0x1.0b4611a62633ap-34;
  return __builtin_convertvector(r, F32);
}
#endif

// Whether any lane of a comparison is true.
template <class I> inline bool any(I lanes) {
  int64_t words[sizeof lanes / 8], all = 0;
  __builtin_memcpy(words, &lanes, sizeof lanes);
  for (const int64_t word : words) all |= word;
  return all != 0;
}

// sin(x + quarters pi/2); 2 ulp. Arguments beyond 2^20 go to libm, one by one.
template <class V> inline V sin_from(V x, int quarters) {
  using S = ScalarOf<V>;
  using I = IntOf<V>;
  using C = Coefficients<S>;
  const auto large = abs(x) > S(1 << 20);  // false for NaN
  const V near = large ? V{} : x;
  const V shifted = near * S(0.63661977236758134) + Traits<V>::kRound;  // 2 / pi
  const V r = reduce_pio2(near, shifted - Traits<V>::kRound), t = r * r;
  const V s = r + r * t * polynomial(t, C::sin);
  const V c = 1 - t / 2 + t * t * polynomial(t, C::cos);
  const I quadrant = bits<I>(shifted) + quarters;
  const V size = (quadrant & 1) != 0 ? c : s;
  V y = (quadrant & 2) != 0 ? -size : size;
  if (any(large)) {
    for (int i = 0; i < kLanes<V>; i++)
      if (large[i]) y[i] = S(quarters == 1 ? ::cos(double(x[i])) : ::sin(double(x[i])));
  }
  return y;
}

template <class V> inline V sin(V x) { return sin_from(x, 0); }
template <class V> inline V cos(V x) { return sin_from(x, 1); }

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
