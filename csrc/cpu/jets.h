// An activation with its derivatives at once, so that what they share is computed once, and what it does to streams of
// derivatives (streams.h), forward and backward, in one pass over all of them.
#pragma once

#include "../activations.h"
#include "kernels.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class V> struct Jet {
  V y, first, second, third;  // act(z), act'(z), act''(z), act'''(z)
};

// act(z), by what the derivatives compute too: the compiler finds it there.
template <class A> struct Shared {
  template <class V> static V value(V z, P<V> param) { return A::value(z, param); }
};
template <> struct Shared<Gelu> {
  template <class V> static V value(V z, P<V>) {
    const Normal<V> normal(clamp(z, -40, 40));
    return (normal.tail * normal.root * normal.root + normal.step) * z;
  }
};
template <> struct Shared<GeluTanh> {
  template <class V> static V value(V z, P<V>) {
    const V u = clamp(z, -22, 22);
    return Logistic<V>(c<V>(2 * GeluTanh::kC) * ((1 + c<V>(GeluTanh::kA) * u * u) * u)).s * z;
  }
};
template <> struct Shared<QuickGelu> {
  template <class V> static V value(V z, P<V>) { return Logistic<V>(c<V>(QuickGelu::kK) * z).s * z; }
};
template <> struct Shared<Silu> {
  template <class V> static V value(V z, P<V>) { return Logistic<V>(z).s * z; }
};
template <> struct Shared<Swish> {
  template <class V> static V value(V z, P<V> beta) { return Logistic<V>(beta * z).s * z; }
};

// Of z; or, if kSaved, of what the activation saves. One that saves its output y has D_{k+1} = dD_k/dy and dy/dz = D_1,
// so act'' = D_1 D_2 and act''' = D_1 (D_2^2 + D_1 D_3).
template <class A, bool kSaved, class V> inline Jet<V> jet(V s, P<V> param) {
  const V one = all<V>(1);
  if constexpr (A::kSavesInput) {
    return {Shared<A>::value(s, param), A::first(one, s, param), A::second(s, param), A::third(s, param)};
  } else {
    const V y = kSaved ? s : A::value(s, param);
    const V a = A::first(one, y, param), b = A::second(y, param);
    return {y, a, a * b, a * (b * b + a * A::third(y, param))};
  }
}

// A pass, of numbers of one type; a copy, to be in registers: `out` could change what a reference to the pass refers
// to.
template <class S> struct PassOf {
  int64_t n, step, last;  // `last` is where l lies
  S param;
  const S* in;
  S *out, *saved, *c;

  PassOf(const StreamsPass& by, double param)
      : n(by.n),
        step(by.step),
        last((by.r + 1) * by.step),
        param(S(param)),
        in(static_cast<const S*>(by.in)),
        out(static_cast<S*>(by.out)),
        saved(static_cast<S*>(by.saved)),
        c(static_cast<S*>(by.cotangents)) {}
};

// Both vectors of a panel's feature at a time: streams lie at distances that may meet in few lines of L1.
constexpr int kBoth = 2;

// y = act(z), t_i = act'(z) tz_i, l = act'(z) lz + act''(z) sum_i tz_i^2.
template <class A, class V> __attribute__((flatten)) void streams_forward(const StreamsPass& pass, double given) {
  constexpr int n = kLanes<V>;
  auto [size, step, last, param, in, out, saved, _] = PassOf<ScalarOf<V>>(pass, given);
  for (int64_t i = 0; i < size; i += kBoth * n, in += kBoth * n, out += kBoth * n) {
    Jet<V> of[kBoth];
    V squares[kBoth] = {};
#pragma GCC unroll 2
    for (int v = 0; v < kBoth; v++) {
      of[v] = jet<A, false>(load<V>(in + v * n), param);
      if (saved) store<V>(saved + i + v * n, of[v].y);
      store<V>(out + v * n, of[v].y);
    }
    for (int64_t k = step; k < last; k += step) {
#pragma GCC unroll 2
      for (int v = 0; v < kBoth; v++) {
        const V tz = load<V>(in + k + v * n);
        squares[v] += tz * tz;
        store<V>(out + k + v * n, of[v].first * tz);
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < kBoth; v++)
      store<V>(out + last + v * n, of[v].first * load<V>(in + last + v * n) + of[v].second * squares[v]);
  }
}

// The cotangents c, c_i, c_l of y, t_i, l become those of z, tz_i, lz,
//
//     act' c + act'' (sum_i c_i tz_i + c_l lz) + act''' c_l sum_i tz_i^2,   act' c_i + 2 act'' c_l tz_i,   act' c_l
//
// and y, t_i, l are made again, if there is a place for them.
template <class A, class V> __attribute__((flatten)) void streams_backward(const StreamsPass& pass, double given) {
  constexpr int n = kLanes<V>;
  auto [size, step, last, param, in, out, _, c] = PassOf<ScalarOf<V>>(pass, given);
  for (int64_t i = 0; i < size; i += kBoth * n, in += kBoth * n, c += kBoth * n) {
    Jet<V> of[kBoth];
    V along[kBoth], twice[kBoth], squares[kBoth] = {};
#pragma GCC unroll 2
    for (int v = 0; v < kBoth; v++) {
      of[v] = jet<A, true>(load<V>(in + v * n), param);
      const V of_l = load<V>(c + last + v * n);
      along[v] = of_l * load<V>(in + last + v * n);
      twice[v] = 2 * of[v].second * of_l;
      if (out) store<V>(out + i + v * n, of[v].y);
    }
    for (int64_t k = step; k < last; k += step) {
#pragma GCC unroll 2
      for (int v = 0; v < kBoth; v++) {
        const V tz = load<V>(in + k + v * n), of_t = load<V>(c + k + v * n);
        along[v] += of_t * tz;
        squares[v] += tz * tz;
        store<V>(c + k + v * n, of[v].first * of_t + twice[v] * tz);
        if (out) store<V>(out + i + k + v * n, of[v].first * tz);
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < kBoth; v++) {
      const V of_l = load<V>(c + last + v * n);
      store<V>(c + v * n, of[v].first * load<V>(c + v * n) + of[v].second * along[v] + of[v].third * of_l * squares[v]);
      store<V>(c + last + v * n, of[v].first * of_l);
      if (out) store<V>(out + i + last + v * n, of[v].first * load<V>(in + last + v * n) + of[v].second * squares[v]);
    }
  }
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
