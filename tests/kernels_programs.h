// Part of kernels.cpp: programs of layers and functions with streams of derivatives.
#pragma once

#include "kernels_along.h"

namespace {

// Layers, activations, products, sums, scales, shifts, features that are taken and put side by side, in the order of a
// program, whose first layer is none of x; all derivatives by the same rules in float64, and gradients of the sum of y,
// t, l times their cotangents by differences along random directions.
struct ProgramCase {
  Type type;
  int64_t m, d, n, r;
  bool alike, has_l;
  bool taylor = false;  // whether streams are the r + 1 derivatives along one direction
};

struct ProgramOf {
  const Kernels& kernels;
  ProgramCase c;
  std::vector<ProgramStep> steps;
  std::vector<int64_t> widths;
  std::vector<std::vector<double>> weights;  // w and b of each layer
  std::vector<int64_t> k, n;

  const Activation* act(const char* name) const {
    const Activation* a = kernels.activations;
    while (std::strcmp(a->name, name) != 0) a++;
    return a;
  }
  bool is_taylor() const { return c.taylor && c.r > 1; }  // those of fewer are as of a Laplacian
  void add(Step kind, int a, int b, int layer, double alpha, double beta, const char* name = nullptr) {
    ProgramStep s{kind, a, b};
    s.layer = layer;
    s.alpha = alpha;
    s.beta = beta;
    if (name) {
      s.streams = c.type == Type::f64 ? act(name)->streams_float64 : act(name)->streams_float32;
      if (is_taylor()) s.streams = c.type == Type::f64 ? act(name)->taylor_float64 : act(name)->taylor_float32;
      s.saves_input = act(name)->saves_input;
    }
    steps.push_back(s);
    widths.push_back(kind == Step::layer ? n[layer] : kind == Step::cat ? widths[a] + widths[b] : widths[a]);
  }
  void take(int a, int64_t from, int64_t by, int64_t count) {
    ProgramStep s{Step::take, a, a};
    s.from = from;
    s.by = by;
    steps.push_back(s);
    widths.push_back(count);
  }

  ProgramOf(const Kernels& kernels, const ProgramCase& c, std::mt19937& random) : kernels(kernels), c(c) {
    widths = {c.d};
    k = {0, 2 * c.d, c.n, 0, 0, 2 * c.n};
    n = {c.d, c.n, c.n, 1, c.n, 3};
    std::normal_distribution<double> normal;
    for (size_t l = 0; l < k.size(); l++) {
      weights.emplace_back();
      for (int64_t i = 0; i < n[l] * k[l]; i++)
        weights.back().push_back(float(normal(random) / std::sqrt(double(k[l]))));
      weights.emplace_back();
      for (int64_t i = 0; i < n[l]; i++) weights.back().push_back(float(normal(random)));
    }
    add(Step::shift, 0, 0, 0, 1, 0);
    add(Step::cat, 0, 1, 0, 1, 0);
    take(2, 2 * c.d - 1, -1, 2 * c.d);
    add(Step::layer, 3, 3, 1, 1, 0);
    add(Step::act, 4, 4, 0, 1, 0, "tanh");
    add(Step::layer, 5, 5, 2, 1, 0);
    add(Step::act, 6, 6, 0, 1, 0, "silu");
    add(Step::affine, 7, 7, 0, -1, 0.5);
    add(Step::mul, 8, 5, 0, 1, 0);
    add(Step::mul, 7, 7, 0, 1, 0);
    add(Step::sub, 9, 10, 0, 1, 0);
    add(Step::scale, 11, 11, 3, 1, 0);
    add(Step::add, 12, 5, 0, 1, 0);
    add(Step::scale, 13, 13, 4, 1, 0);
    take(7, c.n - 1, 0, c.n);
    add(Step::mul, 14, 15, 0, 1, 0);
    add(Step::shift, 16, 16, 3, 1, 0);
    add(Step::cat, 17, 8, 0, 1, 0);
    add(Step::layer, 18, 18, 5, 1, 0);
  }

  // The streams along one direction of tanh or silu.
  std::vector<double> activated(const ProgramStep& s, const std::vector<double>& a, int64_t na, int64_t j) const {
    std::vector<double> z, y(c.r + 2);
    for (int64_t q = 0; q < c.r + 2; q++) z.push_back(a[q * na + j]);
    const double t = std::tanh(z[0]), u = 1 - t * t, e = 1 / (1 + std::exp(-z[0])), p = e * (1 - e), v = 1 - 2 * e;
    const double of_tanh[] = {t, u, -2 * t * u, u * (6 * t * t - 2), 8 * t * u * (2 - 3 * t * t)};
    const double of_silu[] = {z[0] * e, e + z[0] * p, 2 * p + z[0] * p * v, 3 * p * v + z[0] * p * (1 - 6 * p),
                              4 * p * (1 - 6 * p) + z[0] * p * v * (1 - 12 * p)};
    OfTaylor::forward(s.saves_input ? of_silu : of_tanh, z, y);
    return y;
  }

  // y, t, l of one row in float64, of x, t, l: each register has r + 2 rows of its width.
  std::vector<double> row(const std::vector<double>& x, const std::vector<std::vector<double>>& w) const {
    const int64_t r = c.r;
    std::vector<std::vector<double>> at{x};
    for (size_t i = 0; i < steps.size(); i++) {
      const ProgramStep& s = steps[i];
      const int64_t na = widths[s.a], nb = widths[s.b], size = widths[i + 1];
      const auto &a = at[s.a], &b = at[s.b];
      std::vector<double> y((r + 2) * size);
      for (int64_t q = 0; q < r + 2; q++)
        for (int64_t j = 0; j < size; j++) {
          double& to = y[q * size + j];
          const auto of_a = [&](int64_t q) { return a[q * na + j]; };
          const auto of_b = [&](int64_t q) { return b[q * nb + j]; };
          if (s.kind == Step::layer) {
            to = q == 0 ? w[2 * s.layer + 1][j] : 0;
            for (int64_t p = 0; p < na; p++) to += a[q * na + p] * w[2 * s.layer][j * na + p];
          } else if (s.kind == Step::act && c.taylor) {
            to = activated(s, a, na, j)[q];
          } else if (s.kind == Step::mul && c.taylor) {
            for (int64_t i = 0; i <= q; i++)
              to +=
                  OfTaylor::factorial(q) / OfTaylor::factorial(i) / OfTaylor::factorial(q - i) * of_a(i) * of_b(q - i);
          } else if (s.kind == Step::act) {
            const double z = of_a(0), sigmoid = 1 / (1 + std::exp(-z)), t = std::tanh(z);
            const bool is_tanh = !s.saves_input;
            const double first = is_tanh ? 1 - t * t : sigmoid * (1 + z * (1 - sigmoid));
            const double second =
                is_tanh ? -2 * t * (1 - t * t) : sigmoid * (1 - sigmoid) * (2 + z * (1 - 2 * sigmoid));
            double squares = 0;
            for (int64_t i = 1; i <= r; i++) squares += of_a(i) * of_a(i);
            to = q == 0 ? (is_tanh ? t : z * sigmoid) : first * of_a(q) + (q > r ? second * squares : 0);
          } else if (s.kind == Step::mul) {
            to = q == 0 ? of_a(0) * of_b(0) : of_a(0) * of_b(q) + of_a(q) * of_b(0);
            for (int64_t i = 1; q > r && i <= r; i++) to += 2 * of_a(i) * of_b(i);
          } else if (s.kind == Step::cat) {
            to = j < na ? a[q * na + j] : b[q * nb + j - na];
          } else if (s.kind == Step::take) {
            to = a[q * na + s.from + j * s.by];
          } else if (s.kind == Step::affine) {
            to = s.alpha * of_a(q) + (q == 0 ? s.beta : 0);
          } else if (s.kind == Step::scale || s.kind == Step::shift) {
            const double number = w[2 * s.layer + 1][n[s.layer] > 1 ? j : 0];
            to = s.kind == Step::scale ? number * of_a(q) : of_a(q) + (q == 0 ? number : 0);
          } else {
            to = of_a(q) + (s.kind == Step::add ? 1 : -1) * of_b(q);
          }
        }
      at.push_back(y);
    }
    return at.back();
  }
};

bool program_right(const Kernels& kernels, const ProgramCase& c, std::mt19937& random) {
  const ProgramOf of(kernels, c, random);
  const Type type = c.type;
  const int64_t m = c.m, d = c.d, r = c.r, last = of.widths.back(), size = size_of(type);
  const auto bytes = [&](const std::vector<double>& numbers) {
    std::vector<char> to(numbers.size() * size);
    for (size_t i = 0; i < numbers.size(); i++) {
      const float f = float(numbers[i]);
      std::memcpy(to.data() + i * size, type == Type::f64 ? (const void*)&numbers[i] : (const void*)&f, size);
    }
    return to;
  };
  std::vector<std::vector<char>> w, gw;
  std::vector<ChainLayer> layers;
  int64_t kept = 0;
  for (const auto& numbers : of.weights) {
    w.push_back(bytes(numbers));
    gw.emplace_back(w.back().size());
  }
  for (size_t l = 0; l < of.k.size(); l++) {
    ChainLayer layer{of.k[l], of.n[l], {of.k[l] ? w[2 * l].data() : nullptr, of.k[l], 1}, w[2 * l + 1].data()};
    layer.gw = of.k[l] ? gw[2 * l].data() : nullptr;
    layer.gb = gw[2 * l + 1].data();
    layers.push_back(layer);
    if (of.k[l]) kept += (r + 2) * m * roomy(of.n[l]);
  }
  const int64_t of_t = c.alike ? d : m * d;
  const auto x = random_numbers(type, m * d, random), t = random_numbers(type, r * of_t, random),
             tl = random_numbers(type, m * d, random), gy = random_numbers(type, m * last, random),
             gt = random_numbers(type, r * m * last, random), gl = random_numbers(type, m * last, random);
  std::vector<char> y(m * last * size), ty(r * y.size()), ly(y), saved(kept * size), unsaved(y), gx(m * d * size),
      g_of_t(r * gx.size()), g_of_l(gx);
  ChainStreams h{{type, m, int(layers.size()), layers.data(), {x.data(), d, 1}, unsaved.data(), nullptr},
                 r,
                 {t.data(), d, 1},
                 c.alike,
                 of_t,
                 {c.has_l ? tl.data() : nullptr, d, 1},
                 ty.data(),
                 ly.data()};
  const auto program = [&] {
    return Program{h, int(of.steps.size()), of.steps.data(), of.widths.data(), of.is_taylor()};
  };
  kernels.program(program());
  h.chain.y = y.data();
  h.chain.saved = saved.data();
  kernels.program(program());
  h.chain.gy = {gy.data(), last, 1};
  h.gty = {gt.data(), last, 1};
  h.gty_step = m * last;
  h.gly = {gl.data(), last, 1};
  h.chain.gx = gx.data();
  if (!c.alike) h.gt = g_of_t.data();
  if (!c.alike && c.has_l) h.gl = g_of_l.data();
  kernels.program_backward(program());
  if (y != unsaved) return is_near(kernels, "program that saves nothing", type, 0, 1, 0);

  const auto input = [&](int64_t i) {
    std::vector<double> of_row;
    for (int64_t q = 0; q < r + 2; q++)
      for (int64_t j = 0; j < d; j++)
        of_row.push_back(q == 0  ? number(type, x, i * d + j)
                         : q > r ? (c.has_l ? number(type, tl, i * d + j) : 0)
                                 : number(type, t, (q - 1) * of_t + (c.alike ? j : i * d + j)));
    return of_row;
  };
  const auto cotangent = [&](int64_t q, int64_t at) {
    return q == 0 ? number(type, gy, at) : q > r ? number(type, gl, at) : number(type, gt, (q - 1) * m * last + at);
  };
  for (int64_t i = 0; i < m; i++) {
    const auto want = of.row(input(i), of.weights);
    for (int64_t q = 0; q < r + 2; q++)
      for (int64_t j = 0; j < last; j++) {
        const int64_t at = i * last + j;
        const double got = q == 0  ? number(type, y, at)
                           : q > r ? number(type, ly, at)
                                   : number(type, ty, (q - 1) * m * last + at);
        if (!is_near(kernels, "program", type, got, want[q * last + j],
                     10 + 10 * r + 10 * std::fabs(want[q * last + j])))
          return false;
      }
  }
  if (m == 0) return true;
  // along a random direction of all that has a gradient
  std::normal_distribution<double> normal;
  auto weights = of.weights, back = of.weights;
  std::vector<std::vector<double>> ahead, behind;
  double got = 0, want = 0, scale = 1;
  const double eps = 1e-5;
  for (size_t v = 0; v < weights.size(); v++)
    for (size_t i = 0; i < weights[v].size(); i++) {
      const double along = normal(random), gradient = number(type, gw[v], int64_t(i));
      weights[v][i] += eps * along;
      back[v][i] -= eps * along;
      got += along * gradient;
      scale += std::fabs(along * gradient);
    }
  for (int64_t i = 0; i < m; i++) {
    auto more = input(i), less = more;
    for (int64_t q = 0; q < r + 2; q++)
      for (int64_t j = 0; j < d; j++) {
        if (q > 0 && (c.alike || (q > r && !c.has_l))) continue;
        const double along = normal(random), gradient = q == 0  ? number(type, gx, i * d + j)
                                                        : q > r ? number(type, g_of_l, i * d + j)
                                                                : number(type, g_of_t, ((q - 1) * m + i) * d + j);
        more[q * d + j] += eps * along;
        less[q * d + j] -= eps * along;
        got += along * gradient;
        scale += std::fabs(along * gradient);
      }
    const auto a = of.row(more, weights), b = of.row(less, back);
    for (int64_t q = 0; q < r + 2; q++)
      for (int64_t j = 0; j < last; j++)
        want += cotangent(q, i * last + j) * (a[q * last + j] - b[q * last + j]) / (2 * eps);
  }
  const double allowed = (type == Type::f64 ? 1e-6 : 1e-3) * scale;
  if (std::fabs(got - want) <= allowed) return true;
  return is_near(kernels, "gradient of a program", type, got, want, 0);
}

bool programs_right(const Kernels& kernels, std::mt19937& random) {
  for (const Type type : {Type::f32, Type::f64})
    for (const int64_t m : {0, 1, 31, 32, 33, 100})
      for (const int64_t n : {1, 7, 40}) {
        g_threads = 1 + int(random() % 3);
        const int64_t d = 1 + int64_t(random() % 4), r = 1 + int64_t(random() % 3);
        for (int bits = 0; bits < 3; bits++)
          if (!program_right(kernels, {type, m, d, n, r, bits == 0, bits == 2}, random)) return false;
        if (!program_right(kernels, {type, m, d, n, r, false, r == 2, true}, random)) return false;
        if (!program_right(kernels, {type, m, d, n, 0, false, true, true}, random)) return false;
      }
  return true;
}

}  // namespace
