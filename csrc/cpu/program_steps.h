// The steps of a program (program.h) of the streams of a panel: y, t_1, ..., t_r and l of each register, one after
// another.
#pragma once

#include "streams_backward.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class T> struct ProgramSteps : StreamedGradients<T> {
  using Base = StreamedGradients<T>;
  using Base::g, Base::kPanel, Base::r, Base::step, Base::streams;
  using typename Base::S;
  using typename Base::V;
  const Program& p;
  static constexpr int n_ = kLanes<V>;

  explicit ProgramSteps(const Program& p) : Base(p.h), p(p) {}

  int64_t width(int q) const { return p.widths[q]; }
  // What a scale or a shift has for feature j.
  S number_of(const ProgramStep& s, int64_t j) const {
    const ChainLayer& layer = g.layers[s.layer];
    return S(static_cast<const T*>(layer.bias)[layer.n > 1 ? j * layer.bias_stride : 0]);
  }

  // f(offset) for the vectors of all streams of n features.
  template <class F> void each(int64_t n, const F& f) const {
    for (int64_t k = 0; k < streams; k++)
      for (int64_t i = k * step(n), end = i + n * kPanel; i < end; i += n_) f(i);
  }
  void copy(const S* from, S by, int64_t n, S* to) const {
    each(n, [&](int64_t i) { store<V>(to + i, all<V>(by) * load<V>(from + i)); });
  }
  void add(const S* from, S by, int64_t n, S* to) const {
    each(n, [&](int64_t i) { store<V>(to + i, load<V>(to + i) + all<V>(by) * load<V>(from + i)); });
  }
  // Each feature times its number.
  void scale(const ProgramStep& s, const S* a, int64_t n, S* to) const {
    for (int64_t k = 0; k < streams; k++)
      for (int64_t j = 0; j < n; j++) {
        const V by = all<V>(number_of(s, j));
        for (int64_t i = k * step(n) + j * kPanel, end = i + kPanel; i < end; i += n_)
          store<V>(to + i, by * load<V>(a + i));
      }
  }
  // The gradient of what scales a, where b are cotangents.
  void add_dots(const ProgramStep& s, const S* a, const S* b, int64_t n, double* to) const {
    const bool is_one = g.layers[s.layer].n == 1;
    for (int64_t k = 0; k < streams; k++)
      for (int64_t j = 0; j < n; j++) {
        V sum = V{};
        for (int64_t i = k * step(n) + j * kPanel, end = i + kPanel; i < end; i += n_)
          sum += load<V>(a + i) * load<V>(b + i);
        for (int q = 0; q < n_; q++) to[is_one ? 0 : j] += sum[q];
      }
  }
  // That of a shift, where c are cotangents of the value.
  void add_sums(const ProgramStep& s, const S* c, int64_t n, double* to) const {
    const bool is_one = g.layers[s.layer].n == 1;
    for (int64_t j = 0; j < n; j++) this->add_bias_gradient(1, c + j * kPanel, 1, 0, to + (is_one ? 0 : j));
  }

  // y = a b, t_i = a tb_i + b ta_i, l = a lb + b la + 2 sum_i ta_i tb_i; `to` may be a or b.
  __attribute__((flatten)) void multiply_streams(const S* a, const S* b, int64_t n, S* to) const {
    const int64_t size = step(n), last = (r + 1) * size;
    for (int64_t i = 0; i < n * kPanel; i += n_) {
      const V x = load<V>(a + i), y = load<V>(b + i);
      V sum = V{};
      for (int64_t k = i + size; k < last; k += size) {
        const V ta = load<V>(a + k), tb = load<V>(b + k);
        sum += ta * tb;
        store<V>(to + k, x * tb + y * ta);
      }
      const V la = load<V>(a + last + i), lb = load<V>(b + last + i);
      store<V>(to + last + i, x * lb + y * la + 2 * sum);
      store<V>(to + i, x * y);
    }
  }

  // Cotangents of a, of those of y, t_i, l: c b + sum_i c_i tb_i + c_l lb, c_i b + 2 c_l tb_i, c_l b.
  __attribute__((flatten)) void multiply_streams_back(const S* c, const S* b, int64_t n, S* to) const {
    const int64_t size = step(n), last = (r + 1) * size;
    for (int64_t i = 0; i < n * kPanel; i += n_) {
      const V y = load<V>(b + i), of_l = load<V>(c + last + i);
      V sum = load<V>(c + i) * y + of_l * load<V>(b + last + i);
      for (int64_t k = i + size; k < last; k += size) {
        const V of_t = load<V>(c + k), tb = load<V>(b + k);
        sum += of_t * tb;
        store<V>(to + k, of_t * y + 2 * of_l * tb);
      }
      store<V>(to + last + i, of_l * y);
      store<V>(to + i, sum);
    }
  }

  // The product of streams along one direction: y_k = sum_j C(k, j) a_j b_{k-j}.
  __attribute__((flatten)) void multiply_taylor(const S* a, const S* b, int64_t n, S* to) const {
    for (int64_t i = 0; i < n * kPanel; i += n_) {
      V of_a[kTaylor] = {}, of_b[kTaylor] = {};
      for (int64_t k = 0; k < streams; k++) {
        of_a[k] = load<V>(a + k * step(n) + i);
        of_b[k] = load<V>(b + k * step(n) + i);
      }
      for (int64_t k = 0; k < streams; k++) {
        V sum = of_a[k] * of_b[0];
        for (int64_t j = 0; j < k; j++) sum += S(kChoose[k][j]) * of_a[j] * of_b[k - j];
        store<V>(to + k * step(n) + i, sum);
      }
    }
  }
  // Cotangents of a, of those of y: sum_{k >= j} C(k, j) c_k b_{k-j}.
  __attribute__((flatten)) void multiply_taylor_back(const S* c, const S* b, int64_t n, S* to) const {
    for (int64_t i = 0; i < n * kPanel; i += n_) {
      V of_b[kTaylor] = {};
      for (int64_t k = 0; k < streams; k++) of_b[k] = load<V>(b + k * step(n) + i);
      for (int64_t j = 0; j < streams; j++) {
        V sum = load<V>(c + j * step(n) + i) * of_b[0];
        for (int64_t k = j + 1; k < streams; k++) sum += S(kChoose[k][j]) * load<V>(c + k * step(n) + i) * of_b[k - j];
        store<V>(to + j * step(n) + i, sum);
      }
    }
  }

  // Features [from, from + n) of all.
  void cut(const S* of, int64_t all, int64_t from, int64_t n, S* to) const {
    for (int64_t k = 0; k < streams; k++)
      __builtin_memcpy(to + k * step(n), of + k * step(all) + from * kPanel, n * kPanel * sizeof(S));
  }
  void paste(const S* from, int64_t n, int64_t at, int64_t all, S* to) const {
    for (int64_t k = 0; k < streams; k++)
      __builtin_memcpy(to + k * step(all) + at * kPanel, from + k * step(n), n * kPanel * sizeof(S));
  }

  // Features of a by a step, and back: cotangents of these are added to those of a.
  void take(const ProgramStep& s, const S* a, int64_t n, S* to) const {
    for (int64_t k = 0; k < streams; k++)
      for (int64_t j = 0; j < n; j++)
        __builtin_memcpy(to + k * step(n) + j * kPanel, a + k * step(width(s.a)) + (s.from + j * s.by) * kPanel,
                         kPanel * sizeof(S));
  }
  void take_back(const ProgramStep& s, const S* c, int64_t n, S* to) const {
    __builtin_memset(to, 0, streams * step(width(s.a)) * sizeof(S));
    for (int64_t k = 0; k < streams; k++)
      for (int64_t j = 0; j < n; j++) {
        S* at = to + k * step(width(s.a)) + (s.from + j * s.by) * kPanel;
        const S* of = c + k * step(n) + j * kPanel;
        for (int64_t i = 0; i < kPanel; i += n_) store<V>(at + i, load<V>(at + i) + load<V>(of + i));
      }
  }

  // The streams of z, with y in the place of its value.
  const S* with_value(const S* y, const S* z, int64_t n, S* to) const {
    __builtin_memcpy(to, y, n * kPanel * sizeof(S));
    for (int64_t k = 1; k < streams; k++) __builtin_memcpy(to + k * step(n), z + k * step(n), n * kPanel * sizeof(S));
    return to;
  }

  // A step that is no layer; `to` may be a, but for cat and take.
  void run(int i, const S* a, const S* b, S* to) const {
    const ProgramStep& s = p.steps[i];
    const int64_t n = width(i + 1);
    switch (s.kind) {
      case Step::layer:
        return;
      case Step::act:
        return s.streams[0]({n * kPanel, step(n), r, a, to, nullptr, nullptr}, s.param);
      case Step::add:
        return each(n, [&](int64_t i) { store<V>(to + i, load<V>(a + i) + load<V>(b + i)); });
      case Step::sub:
        return each(n, [&](int64_t i) { store<V>(to + i, load<V>(a + i) - load<V>(b + i)); });
      case Step::mul:
        return p.taylor ? multiply_taylor(a, b, n, to) : multiply_streams(a, b, n, to);
      case Step::affine:
        copy(a, S(s.alpha), n, to);
        for (int64_t i = 0; s.beta != 0 && i < n * kPanel; i += n_)
          store<V>(to + i, load<V>(to + i) + all<V>(S(s.beta)));
        return;
      case Step::scale:
        return scale(s, a, n, to);
      case Step::shift:
        copy(a, 1, n, to);
        for (int64_t j = 0; j < n; j++)
          for (int64_t i = j * kPanel; i < (j + 1) * kPanel; i += n_)
            store<V>(to + i, load<V>(to + i) + all<V>(number_of(s, j)));
        return;
      case Step::take:
        return take(s, a, n, to);
      case Step::cat:
        paste(a, width(s.a), 0, n, to);
        return paste(b, width(s.b), width(s.a), n, to);
    }
  }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
