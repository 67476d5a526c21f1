// What an activation does to streams with a quadratic form for each row (chain_derivatives.h), forward and backward, in
// one pass over all of them. Of what it saves, s, come act, act', act'', act''' (jets.h). Forms lie as a panel does,
// all rows of f_11, of f_12, ... Where there are none, less is computed.
#pragma once

#include "jets.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

// q_k = sum_j f_kj tz_j, of a vector of rows.
template <class V> inline V times_form(int64_t r, const ScalarOf<V>* row_of_form, const ScalarOf<V>* tz, int64_t step) {
  V sum = V{};
  for (int64_t j = 0; j < r; j++) sum += load<V>(row_of_form + j * kBoth * kLanes<V>) * load<V>(tz + j * step);
  return sum;
}

template <class A, class V, bool kForms>
__attribute__((flatten)) void forms_forward_of(const FormsPass& pass, double given) {
  using S = ScalarOf<V>;
  constexpr int n = kLanes<V>;
  const int64_t size = pass.n, step = pass.step, r = kForms ? pass.r : 0;
  const S param = S(given), *s = static_cast<const S*>(pass.s), *in = static_cast<const S*>(pass.in),
          *forms = static_cast<const S*>(pass.forms);
  S* out = static_cast<S*>(pass.out) + step;
  for (int64_t i = 0; i < size; i += kBoth * n, s += kBoth * n, in += kBoth * n, out += kBoth * n) {
    Jet<V> of[kBoth];
    V squares[kBoth] = {};
#pragma GCC unroll 2
    for (int v = 0; v < kBoth; v++) of[v] = jet<A, true>(load<V>(s + v * n), param);
    for (int64_t k = 0; k < r; k++) {
#pragma GCC unroll 2
      for (int v = 0; v < kBoth; v++) {
        const V tz = load<V>(in + k * step + v * n);
        squares[v] += times_form<V>(r, forms + k * r * kBoth * n + v * n, in + v * n, step) * tz;
        store<V>(out + k * step + v * n, of[v].first * tz);
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < kBoth; v++) {
      V l = of[v].first * load<V>(in + r * step + v * n);
      if constexpr (kForms) l += of[v].second * squares[v];
      store<V>(out + r * step + v * n, l);
    }
  }
}

// t_i = act'(z) tz_i, l = act'(z) lz + act''(z) sum_ij f_ij tz_i tz_j.
template <class A, class V> void forms_forward(const FormsPass& pass, double param) {
  (pass.r > 0 ? forms_forward_of<A, V, true> : forms_forward_of<A, V, false>)(pass, param);
}

template <class A, class V, bool kForms>
__attribute__((flatten)) void forms_backward_of(const FormsPass& pass, double given) {
  using S = ScalarOf<V>;
  constexpr int n = kLanes<V>;
  const int64_t size = pass.n, step = pass.step, r = kForms ? pass.r : 0;
  const S param = S(given), *s = static_cast<const S*>(pass.s), *in = static_cast<const S*>(pass.in),
          *forms = static_cast<const S*>(pass.forms), *of_ls = static_cast<const S*>(pass.of_l);
  S *out = static_cast<S*>(pass.out), *c = static_cast<S*>(pass.cotangents);
  for (int64_t i = 0; i < size; i += kBoth * n, s += kBoth * n, in += kBoth * n, c += kBoth * n) {
    Jet<V> of[kBoth];
    V along[kBoth], twice[kBoth], squares[kBoth] = {};
#pragma GCC unroll 2
    for (int v = 0; v < kBoth; v++) {
      of[v] = jet<A, true>(load<V>(s + v * n), param);
      const V of_l = load<V>(of_ls + i + v * n);
      along[v] = of_l * load<V>(in + r * step + v * n);
      twice[v] = 2 * of[v].second * of_l;
      if (out) store<V>(out + i + v * n, of[v].y);
    }
    for (int64_t k = 0; k < r; k++) {
#pragma GCC unroll 2
      for (int v = 0; v < kBoth; v++) {
        const V tz = load<V>(in + k * step + v * n), of_t = load<V>(c + (1 + k) * step + v * n);
        const V q = times_form<V>(r, forms + k * r * kBoth * n + v * n, in + v * n, step);
        along[v] += of_t * tz;
        squares[v] += q * tz;
        store<V>(c + (1 + k) * step + v * n, of[v].first * of_t + twice[v] * q);
        if (out) store<V>(out + i + (1 + k) * step + v * n, of[v].first * tz);
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < kBoth; v++) {
      const V of_l = load<V>(of_ls + i + v * n);
      V of_z = of[v].first * load<V>(c + v * n) + of[v].second * along[v];
      V l = of[v].first * load<V>(in + r * step + v * n);
      if constexpr (kForms) {
        of_z += of[v].third * of_l * squares[v];
        l += of[v].second * squares[v];
      }
      store<V>(c + v * n, of_z);
      store<V>(c + (1 + r) * step + v * n, of[v].first * of_l);
      if (out) store<V>(out + i + (1 + r) * step + v * n, l);
    }
  }
}

// The cotangents c, c_i, c_l of y, t_i, l become those of z, tz_i, lz, with q_i = sum_j f_ij tz_j:
//
//     act' c + act'' (sum_i c_i tz_i + c_l lz) + act''' c_l sum_i q_i tz_i,   act' c_i + 2 act'' c_l q_i,   act' c_l
//
// and y, t_i, l are made again, if there is a place for them.
template <class A, class V> void forms_backward(const FormsPass& pass, double param) {
  (pass.r > 0 ? forms_backward_of<A, V, true> : forms_backward_of<A, V, false>)(pass, param);
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
