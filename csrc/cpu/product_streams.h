// The product of two tensors with streams (streams.h), element by element, and its gradients: of up to kMostOfProduct
// numbers of each stream, which stay in L1 while one stream after another is made.
#pragma once

#include "elementwise.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

// What is not there is zero.
template <class S> struct Factor {
  static constexpr S kZeros[kMostOfProduct] = {};
  const S *value, *tangents, *last;
  int64_t step;

  explicit Factor(const StreamsAt& of)
      : value(of.value ? static_cast<const S*>(of.value) : kZeros),
        tangents(of.tangents ? static_cast<const S*>(of.tangents) : kZeros),
        last(of.last ? static_cast<const S*>(of.last) : kZeros),
        step(of.tangents ? of.step : 0) {}
};

// y = a b, t_i = a tb_i + b ta_i, l = a lb + b la + 2 sum_i ta_i tb_i; a or b may be one number for all.
template <class S, bool kOneA, bool kOneB> void multiply_streams(const ProductPass& pass) {
  const int64_t n = pass.n;
  const Factor<S> a(pass.a), b(pass.b);
  const auto of_a = [](const S* from, int64_t j) { return from[kOneA ? 0 : j]; };
  const auto of_b = [](const S* from, int64_t j) { return from[kOneB ? 0 : j]; };
  S sums[kMostOfProduct];
  S* __restrict y = static_cast<S*>(pass.out.value);
  S* __restrict l = static_cast<S*>(pass.out.last);
  for (int64_t j = 0; j < n; j++) {
    y[j] = of_a(a.value, j) * of_b(b.value, j);
    sums[j] = 0;
  }
  for (int64_t i = 0; i < pass.r; i++) {
    const S *ta = a.tangents + i * a.step, *tb = b.tangents + i * b.step;
    S* __restrict t = static_cast<S*>(pass.out.tangents) + i * pass.out.step;
    for (int64_t j = 0; j < n; j++) {
      t[j] = of_a(a.value, j) * of_b(tb, j) + of_b(b.value, j) * of_a(ta, j);
      sums[j] += of_a(ta, j) * of_b(tb, j);
    }
  }
  for (int64_t j = 0; j < n; j++)
    l[j] = of_a(a.value, j) * of_b(b.last, j) + of_b(b.value, j) * of_a(a.last, j) + 2 * sums[j];
}

// The sum of n numbers, where there is room for whole vectors.
template <class V> ScalarOf<V> sum_of(ScalarOf<V>* numbers, int64_t n) {
  V sum = V{};
  for (int64_t j = n; j % kLanes<V> != 0; j++) numbers[j] = 0;
  for (int64_t j = 0; j < n; j += kLanes<V>) sum += load<V>(numbers + j);
  ScalarOf<V> total = 0;
  for (int q = 0; q < kLanes<V>; q++) total += sum[q];
  return total;
}

// Of cotangents c, c_i, c_l of y, t_i, l those of a, ta_i, la, where they are needed:
//
//     c b + sum_i c_i tb_i + c_l lb,   c_i b + 2 c_l tb_i,   c_l b
//
// If a is one number for all, these are sums, which are added to.
template <class V, bool kOneA, bool kOneB> void multiply_streams_backward(const ProductPass& pass) {
  using S = ScalarOf<V>;
  const int64_t n = pass.n;
  const Factor<S> b(pass.b), c(pass.c);
  const auto of_b = [](const S* from, int64_t j) { return from[kOneB ? 0 : j]; };
  S sums[kMostOfProduct], room[kMostOfProduct];
  const auto end = [&](S* made, S* to) {
    if constexpr (kOneA) *to += sum_of<V>(made, n);
  };
  if (S* to = static_cast<S*>(pass.out.value)) {
    S* __restrict made = kOneA ? sums : to;
    for (int64_t j = 0; j < n; j++) made[j] = c.value[j] * of_b(b.value, j) + c.last[j] * of_b(b.last, j);
    for (int64_t i = 0; i < pass.r; i++) {
      const S *ct = c.tangents + i * c.step, *tb = b.tangents + i * b.step;
      for (int64_t j = 0; j < n; j++) made[j] += ct[j] * of_b(tb, j);
    }
    end(made, to);
  }
  for (int64_t i = 0; pass.out.tangents && i < pass.r; i++) {
    const S *ct = c.tangents + i * c.step, *tb = b.tangents + i * b.step;
    S* to = static_cast<S*>(pass.out.tangents) + i * pass.out.step;
    S* __restrict made = kOneA ? room : to;
    for (int64_t j = 0; j < n; j++) made[j] = ct[j] * of_b(b.value, j) + 2 * c.last[j] * of_b(tb, j);
    end(made, to);
  }
  if (S* to = static_cast<S*>(pass.out.last)) {
    S* __restrict made = kOneA ? room : to;
    for (int64_t j = 0; j < n; j++) made[j] = c.last[j] * of_b(b.value, j);
    end(made, to);
  }
}

template <class V> constexpr OfProduct kProducts[2][2][2] = {  // forward, backward; is a one number; is b
    {{multiply_streams<ScalarOf<V>, false, false>, multiply_streams<ScalarOf<V>, false, true>},
     {multiply_streams<ScalarOf<V>, true, false>, multiply_streams<ScalarOf<V>, true, true>}},
    {{multiply_streams_backward<V, false, false>, multiply_streams_backward<V, false, true>},
     {multiply_streams_backward<V, true, false>, multiply_streams_backward<V, true, true>}}};

inline OfProduct product_of_streams(Type type, bool backward, bool one_a, bool one_b) {
  return (type == Type::f64 ? kProducts<F64> : kProducts<F32>)[backward][one_a][one_b];
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
