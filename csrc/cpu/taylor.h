// What an activation does to the derivatives z_1, ..., z_K of its input along a direction, K = 3 or 4, forward and
// backward, in one pass over all of them: streams (streams.h) of which the tangents are z_1, ..., z_{K-1}, and the last
// one is z_K. For K = 1 and 2 that is what it does to streams of no and one direction (jets.h).
//
// By Faa di Bruno, of derivatives f_1, f_2, ... of the activation at z:
//
//     y_1 = f_1 z_1
//     y_2 = f_1 z_2 + f_2 z_1^2
//     y_3 = f_1 z_3 + 3 f_2 z_1 z_2 + f_3 z_1^3
//     y_4 = f_1 z_4 + f_2 (4 z_1 z_3 + 3 z_2^2) + 6 f_3 z_1^2 z_2 + f_4 z_1^4
//
// The derivatives a_0, a_1, ... of act'(z) along the direction are the same of f_2, f_3, ..., and dy = a dz, so by
// Leibniz the cotangents c of y_0, ..., y_K become sum_{k >= i} C(k, i) c_k a_{k-i} of z_i.
#pragma once

#include "jets.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr int kTaylor = 5;                                                                          // streams, at most
constexpr int kChoose[kTaylor][kTaylor] = {{1}, {1, 1}, {1, 2, 1}, {1, 3, 3, 1}, {1, 4, 6, 4, 1}};  // k over j

// f_0, ..., f_K at z; or, if kSaved, of what the activation saves. One that saves its output y has D_{k+1} = dD_k/dy
// and dy/dz = D_1.
template <class A, bool kSaved, int K, class V> inline void derivatives(V s, P<V> param, V* f) {
  const Jet<V> of = jet<A, kSaved>(s, param);
  f[0] = of.y, f[1] = of.first, f[2] = of.second, f[3] = of.third;
  if constexpr (A::kSavesInput) {
    if constexpr (K >= 4) f[4] = A::fourth(s, param);
    if constexpr (K >= 5) f[5] = A::fifth(s, param);
  } else {
    const V y = of.y, a = of.first, b = A::second(y, param), c = A::third(y, param), d = A::fourth(y, param);
    if constexpr (K >= 4) f[4] = a * (b * b * b + a * (4 * b * c + a * d));
    if constexpr (K >= 5)
      f[5] = a * (b * b * b * b + a * (11 * b * b * c + a * (4 * c * c + 7 * b * d + a * A::fifth(y, param))));
  }
}

// y_0, ..., y_K of f_0, ..., f_K and z_1, ..., z_K.
template <int K, class V> inline void faa_di_bruno(const V* f, const V* z, V* y) {
  const V square = z[1] * z[1];
  y[0] = f[0];
  y[1] = f[1] * z[1];
  y[2] = f[1] * z[2] + f[2] * square;
  y[3] = f[1] * z[3] + (3 * f[2] * z[2] + f[3] * square) * z[1];
  if constexpr (K == 4)
    y[4] = f[1] * z[4] + f[2] * (4 * z[1] * z[3] + 3 * z[2] * z[2]) + (6 * f[3] * z[2] + f[4] * square) * square;
}

template <class A, class V, int K>
__attribute__((flatten)) void taylor_forward_of(const StreamsPass& pass, double given) {
  constexpr int n = kLanes<V>;
  auto [size, step, last, param, in, out, saved, _] = PassOf<ScalarOf<V>>(pass, given);
  for (int64_t i = 0; i < size; i += n, in += n, out += n) {
    V f[K + 1], z[K + 1], y[K + 1];
#pragma GCC unroll 5
    for (int k = 0; k <= K; k++) z[k] = load<V>(in + k * step);
    derivatives<A, false, K>(z[0], param, f);
    faa_di_bruno<K>(f, z, y);
    if (saved) store<V>(saved + i, y[0]);
#pragma GCC unroll 5
    for (int k = 0; k <= K; k++) store<V>(out + k * step, y[k]);
  }
}

template <class A, class V, int K>
__attribute__((flatten)) void taylor_backward_of(const StreamsPass& pass, double given) {
  using S = ScalarOf<V>;
  constexpr int n = kLanes<V>;
  auto [size, step, last, param, in, out, _, c] = PassOf<ScalarOf<V>>(pass, given);
  for (int64_t i = 0; i < size; i += n, in += n, c += n) {
    V f[K + 2], z[K + 1], a[K + 1];
#pragma GCC unroll 5
    for (int k = 0; k <= K; k++) z[k] = load<V>(in + k * step);
    derivatives<A, true, K + 1>(z[0], param, f);
    if (out) {
      V y[K + 1];
      faa_di_bruno<K>(f, z, y);
#pragma GCC unroll 5
      for (int k = 0; k <= K; k++) store<V>(out + i + k * step, y[k]);
    }
    faa_di_bruno<K>(f + 1, z, a);
#pragma GCC unroll 5
    for (int j = 0; j <= K; j++) {
      V sum = a[0] * load<V>(c + j * step);
#pragma GCC unroll 5
      for (int k = j + 1; k <= K; k++) sum += S(kChoose[k][j]) * a[k - j] * load<V>(c + k * step);
      store<V>(c + j * step, sum);
    }
  }
}

// Streams of r = K - 1 tangents.
template <class A, class V> void taylor_forward(const StreamsPass& pass, double param) {
  (pass.r == 2 ? taylor_forward_of<A, V, 3> : taylor_forward_of<A, V, 4>)(pass, param);
}
template <class A, class V> void taylor_backward(const StreamsPass& pass, double param) {
  (pass.r == 2 ? taylor_backward_of<A, V, 3> : taylor_backward_of<A, V, 4>)(pass, param);
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
