// Activations where nothing else is computed of z: there other formulas are faster than those that are shared by all
// orders (jets.h).
#pragma once

#include "../activations.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

// sigmoid(-x) = 1 / (1 + e^x), right in its tail: to 2.5 ulp down to the smallest normal number. `one` is 1, scaled so
// that e^x may be larger than any number.
template <bool kNarrow, class V> inline V complement(V x) {
  using T = Traits<V>;
  constexpr ScalarOf<V> one = T::kDown;
  x = clamp(x, -50, -T::kExpMin);
  if constexpr (kNarrow) return one / (one + Power<V, 4, kNarrow, -T::kUp>(x).value());
  const Exponent<V, -T::kUp> of(x);
  return one / ((one + of.scale) + of.scale * of.p);  // which waits less than with e^x itself
}

// e = one e^{-x} and d = 1 / (one + e): sigmoid(x) = one d, right in its tail, and sigmoid(-x) = e d, where that is
// above 1e-21. v is x, clamped to where v d one is 0.
template <class V, bool kNarrow> struct Odds {
  static constexpr ScalarOf<V> one = Traits<V>::kDown;
  V v, e, d;
  inline explicit Odds(V x) : v(clamp(x, sizeof(ScalarOf<V>) == 8 ? -753 : -110, 50)) {
    e = Power<V, -4, kNarrow, -Traits<V>::kUp>(v).value();
    d = 1 / (one + e);
  }
};

// tanh(x)^2, by e^{2|x|} - 1: to 7 ulp.
template <bool kNarrow, class V> inline V tanh_squared(V x) {
  const V size = smaller(all<V>(Traits<V>::kTanhEnd), abs(x));
  V scale, p;
  if constexpr (kNarrow) {
    const Power<V, 8, kNarrow> of(size);
    scale = of.times(all<V>(1)), p = of.p;
  } else {
    const Exponent<V> of(2 * size);
    scale = of.scale, p = of.p;
  }
  const V e = scale * p + (scale - 1), t = e / (e + 2);
  return t * t;
}

// act(z), and g act'(z) of what it saves. kNarrow: where it is then rounded, act(z) to 8 bits, g act'(z) to those of a
// 16-bit number.
template <class A> struct AsDefined {
  template <bool kNarrow, class V> static V value(V z, P<V> param) { return A::value(z, param); }
  template <bool kNarrow, class V> static V first(V g, V s, P<V> param) { return A::first(g, s, param); }
};
template <class A> struct Alone : AsDefined<A> {};

// max(z, 0) - |z| times what is beyond |z|: without a choice by the sign, which costs as much as a multiplication. The
// first as (z + |z|) / 2, which is NaN at -infinity, as torch's value.
template <> struct Alone<Gelu> : AsDefined<Gelu> {
  template <bool kNarrow, class V> static V value(V z, P<V>) {
    const Normal<V, kNarrow> normal(z);
    return (c<V>(0.5) * z + c<V>(0.5) * abs(z)) - normal.size * normal.ratio * normal.root * normal.root;
  }
};

// Derivatives by one exponential, where Logistic takes its half: in float32 in 15 to 30 % less time, that of tanhshrink
// in 40 % less (Zen 4, 2026-11-27).

// g sigmoid(u) (1 + sigmoid(-u) w)
template <class V, bool kNarrow> inline V gate(V g, const Odds<V, kNarrow>& u, V w) {
  return g * ((1 + u.e * u.d * w) * u.d * u.one);
}
template <> struct Alone<Silu> : AsDefined<Silu> {
  template <bool kNarrow, class V> static V first(V g, V z, P<V>) {
    const Odds<V, kNarrow> u(z);
    return gate(g, u, u.v);
  }
};
template <> struct Alone<Swish> : AsDefined<Swish> {
  template <bool kNarrow, class V> static V first(V g, V z, P<V> beta) {
    const Odds<V, kNarrow> u(beta * z);
    return gate(g, u, u.v);
  }
};
template <> struct Alone<QuickGelu> : AsDefined<QuickGelu> {
  template <bool kNarrow, class V> static V first(V g, V z, P<V>) {
    const Odds<V, kNarrow> u(c<V>(QuickGelu::kK) * z);
    return gate(g, u, u.v);
  }
};
template <> struct Alone<GeluTanh> : AsDefined<GeluTanh> {
  template <bool kNarrow, class V> static V first(V g, V z, P<V>) {
    constexpr double kC = 2 * GeluTanh::kC, kAC = kC * GeluTanh::kA;
    z = clamp(z, -22, 22);
    const V t = z * z;
    return gate(g, Odds<V, kNarrow>((c<V>(kC) + c<V>(kAC) * t) * z), (c<V>(kC) + c<V>(3 * kAC) * t) * z);
  }
};
template <> struct Alone<Softplus> : AsDefined<Softplus> {
  template <bool kNarrow, class V> static V first(V g, V z, P<V> beta) { return g * complement<kNarrow>(-beta * z); }
};
template <> struct Alone<ShiftedSoftplus> : AsDefined<ShiftedSoftplus> {
  template <bool kNarrow, class V> static V first(V g, V z, P<V>) { return g * complement<kNarrow>(-z); }
};
template <> struct Alone<Logsigmoid> : AsDefined<Logsigmoid> {
  template <bool kNarrow, class V> static V first(V g, V z, P<V>) { return g * complement<kNarrow>(z); }
};
template <> struct Alone<Tanhshrink> : AsDefined<Tanhshrink> {
  template <bool kNarrow, class V> static V first(V g, V z, P<V>) { return g * tanh_squared<kNarrow>(z); }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
