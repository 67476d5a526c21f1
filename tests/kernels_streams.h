// Part of kernels.cpp: chains with streams of derivatives, and their gradients, against sums in float64.
#pragma once

#include "kernels_along.h"

namespace {

struct StreamsCase {
  ChainCase chain;
  int64_t r;
  bool alike, has_l;
  bool adjacent = false;  // whether the tangents of a number of x follow one another
  bool taylor = false;    // whether streams are the r + 1 derivatives along one direction
};

bool streams_right(const Kernels& kernels, const StreamsCase& c, std::mt19937& random) {
  using Bytes = std::vector<char>;
  using Numbers = std::vector<double>;  // (m, n)
  const Type type = c.chain.type;
  const std::vector<int64_t>& sizes = c.chain.sizes;
  const int count = int(sizes.size()) - 1;
  const int64_t m = c.chain.m, r = c.r, size = size_of(type), d = sizes[0], last_n = sizes[count], streams = r + 2;
  const Activation* act = kernels.activations;
  while (std::strcmp(act->name, c.chain.act) != 0) act++;
  const auto D = [&](int order, double s) {
    double out;
    act->float64[order]({1, 1, &s, 0, nullptr, 0, &out, 0}, 0);
    return out;
  };
  std::vector<Bytes> w, b, gw, gb;
  std::vector<ChainLayer> layers;
  int64_t kept = 0;
  for (int l = 0; l < count; l++) {
    const int64_t k = sizes[l], n = sizes[l + 1];
    w.push_back(random_numbers(type, n * k, random));
    for (int64_t i = 0; i < n * k; i++) scale(type, w[l], i, 1 / std::sqrt(double(k)));
    b.push_back(random_numbers(type, n, random));
    gw.emplace_back(n * k * size);
    gb.emplace_back(n * size);
    ChainLayer layer{k, n, {w[l].data(), c.chain.w_transposed ? 1 : k, c.chain.w_transposed ? n : 1}};
    if (c.chain.bias) layer.bias = b[l].data();
    if (l < count - 1 || c.chain.ends) {
      const Elementwise* orders = type == Type::f64 ? act->float64 : act->float32;
      layer.value = orders[0], layer.first = orders[1];
      layer.streams = type == Type::f64 ? act->streams_float64 : act->streams_float32;
      if (c.taylor && r > 1) layer.streams = type == Type::f64 ? act->taylor_float64 : act->taylor_float32;
      layer.saves_input = act->saves_input;
    }
    if (c.chain.needed >> (1 + 2 * l) & 1) layer.gw = gw[l].data();
    if (c.chain.needed >> (2 + 2 * l) & 1) layer.gb = gb[l].data();
    layers.push_back(layer);
    if (l < count - 1 || c.chain.ends) kept += saved_streams(c.alike, r, l) * m * roomy(n);
  }
  const int64_t of_t = c.alike ? d : m * d;
  const Bytes x = random_numbers(type, m * d, random), t = random_numbers(type, r * of_t, random),
              tl = random_numbers(type, m * d, random), gy = random_numbers(type, m * last_n, random),
              gty = random_numbers(type, r * m * last_n, random), gly = random_numbers(type, m * last_n, random);
  Bytes y(m * last_n * size), ty(r * y.size()), ly(y), saved((kept + (c.alike ? r * layers[0].n : 0)) * size),
      unsaved(y), gx(m * d * size), gt(r * gx.size()), gl(gx);
  const int64_t apart = c.adjacent ? r : 1;
  ChainStreams h{{type, m, count, layers.data(), {x.data(), d, 1}, unsaved.data(), nullptr},
                 r,
                 {t.data(), d * apart, apart},
                 c.alike,
                 c.adjacent ? 1 : of_t,
                 {c.has_l ? tl.data() : nullptr, d, 1},
                 ty.data(),
                 ly.data()};
  kernels.chain_streams(h);
  h.chain.y = y.data();
  h.chain.saved = saved.data();
  kernels.chain_streams(h);
  h.chain.gy = {gy.data(), last_n, 1};
  h.gty = {gty.data(), last_n, 1};
  h.gty_step = m * last_n;
  h.gly = {gly.data(), last_n, 1};
  if (c.chain.needed & 1) {
    h.chain.gx = gx.data();
    if (!c.alike) h.gt = gt.data();
    if (!c.alike && c.has_l) h.gl = gl.data();
  }
  kernels.chain_streams_backward(h);

  const auto wrong = [&](const char* what, const Bytes& got, int64_t i, double want, double scale) {
    const double off = number(type, got, i) - want;
    if (std::fabs(off) <= tolerance(type) * scale) return false;
    std::printf("%s: streams of %s, taylor %d, type %d, m %ld, r %ld, alike %d, l %d, ends %d: %s, %ld is off by %g;",
                kernels.isa, c.chain.act, c.taylor, int(type), long(m), long(r), c.alike, c.has_l, c.chain.ends, what,
                long(i), off);
    for (const int64_t n : sizes) std::printf(" %ld", long(n));
    std::printf("\n");
    return true;
  };
  const auto weight = [&](int l, int64_t i, int64_t j) {
    return number(type, w[l], i * layers[l].w.row_stride + j * layers[l].w.column_stride);
  };
  // streams of the inputs of layers, and of what activations get
  std::vector<std::vector<Numbers>> h_of(1, std::vector<Numbers>(streams)), z_of;
  for (int64_t i = 0; i < m * d; i++) {
    h_of[0][0].push_back(number(type, x, i));
    for (int64_t k = 0; k < r; k++)
      h_of[0][1 + k].push_back(number(type, t, c.adjacent ? i * r + k : k * of_t + (c.alike ? i % d : i)));
    h_of[0][r + 1].push_back(c.has_l ? number(type, tl, i) : 0);
  }
  const auto derivatives = [&](int l, double z, double* f) {  // act, act', ...
    for (int k = 0; k <= 5; k++) f[k] = k == 0 ? z : k == 1;
    if (!layers[l].value) return;
    f[0] = D(0, z);
    double d[6];
    for (int k = 1; k <= 5; k++) f[k] = d[k] = D(k, act->saves_input ? z : f[0]);
    if (act->saves_input) return;
    // f_{k+1} = D_1 df_k/dy: of each f_k its derivatives in y up to the order that is needed
    std::vector<double> of_f = {d[1], d[2], d[3], d[4], d[5]};
    for (int k = 2; k <= 5; k++) {
      std::vector<double> next;
      for (size_t j = 0; j + 1 < of_f.size(); j++) {  // the j-th derivative of D_1 df/dy, by Leibniz
        double sum = 0;
        for (size_t i = 0; i <= j; i++)
          sum +=
              OfTaylor::factorial(j) / OfTaylor::factorial(i) / OfTaylor::factorial(j - i) * d[1 + i] * of_f[j - i + 1];
        next.push_back(sum);
      }
      of_f = next;
      f[k] = of_f[0];
    }
  };
  double f[6];
  std::vector<double> streams_of_z(streams), streams_of_y(streams);
  for (int l = 0; l < count; l++) {
    const int64_t k = sizes[l], n = sizes[l + 1];
    std::vector<Numbers> z(streams, Numbers(m * n)), next(streams, Numbers(m * n));
    for (int64_t s = 0; s < streams; s++)
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
          double sum = s == 0 && c.chain.bias ? number(type, b[l], j) : 0;
          for (int64_t p = 0; p < k; p++) sum += h_of[l][s][i * k + p] * weight(l, j, p);
          z[s][i * n + j] = sum;
        }
    for (int64_t i = 0; i < m * n; i++) {
      derivatives(l, z[0][i], f);
      for (int64_t s = 0; s < streams; s++) streams_of_z[s] = z[s][i];
      (c.taylor ? OfTaylor::forward : OfLaplacian::forward)(f, streams_of_z, streams_of_y);
      for (int64_t s = 0; s < streams; s++) next[s][i] = streams_of_y[s];
    }
    z_of.push_back(z);
    h_of.push_back(next);
  }
  const double scale_ = (c.taylor ? 3000 : 30) * double(streams), over_rows = scale_ * std::sqrt(double(m) + 1);
  std::vector<Numbers> g(streams);
  for (int64_t i = 0; i < m * last_n; i++) {
    if (wrong("y", y, i, h_of[count][0][i], scale_) || wrong("y unsaved", unsaved, i, h_of[count][0][i], scale_) ||
        wrong("l", ly, i, h_of[count][r + 1][i], scale_))
      return false;
    for (int64_t k = 0; k < r; k++)
      if (wrong("t", ty, k * m * last_n + i, h_of[count][1 + k][i], scale_)) return false;
    g[0].push_back(number(type, gy, i));
    for (int64_t k = 0; k < r; k++) g[1 + k].push_back(number(type, gty, k * m * last_n + i));
    g[r + 1].push_back(number(type, gly, i));
  }
  for (int l = count - 1; l >= 0; l--) {
    const int64_t k = sizes[l], n = sizes[l + 1];
    for (int64_t i = 0; i < m * n; i++) {
      derivatives(l, z_of[l][0][i], f);
      for (int64_t s = 0; s < streams; s++) {
        streams_of_z[s] = z_of[l][s][i];
        streams_of_y[s] = g[s][i];
      }
      (c.taylor ? OfTaylor::backward : OfLaplacian::backward)(f, streams_of_z, streams_of_y);
      for (int64_t s = 0; s < streams; s++) g[s][i] = streams_of_y[s];
    }
    std::vector<Numbers> of_input(streams, Numbers(m * k));
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t i = 0; i < m; i++) sum += g[0][i * n + j];
      if (layers[l].gb && wrong("gb", gb[l], j, sum, over_rows)) return false;
      for (int64_t p = 0; p < k; p++) {
        sum = 0;
        for (int64_t s = 0; s < streams; s++)
          for (int64_t i = 0; i < m; i++) {
            sum += g[s][i * n + j] * h_of[l][s][i * k + p];
            of_input[s][i * k + p] += g[s][i * n + j] * weight(l, j, p);
          }
        if (layers[l].gw && wrong("gw", gw[l], j * k + p, sum, over_rows)) return false;
      }
    }
    g = of_input;
  }
  for (int64_t i = 0; h.chain.gx && i < m * d; i++) {
    if (wrong("gx", gx, i, g[0][i], scale_) || (h.gl && wrong("gl", gl, i, g[r + 1][i], scale_))) return false;
    for (int64_t k = 0; h.gt && k < r; k++)
      if (wrong("gt", gt, k * m * d + i, g[1 + k][i], scale_)) return false;
  }
  return true;
}

bool all_streams_right(const Kernels& kernels, std::mt19937& random) {
  const char* acts[] = {"tanh", "silu", "relu", "gelu", "mish", "sigmoid", "identity"};
  for (int i = 0; i < 60; i++) {
    StreamsCase c{{i % 2 ? Type::f64 : Type::f32,
                   1 + int64_t(random() % (i % 4 ? 40 : 300)),
                   {},
                   acts[random() % 7],
                   random() % 2 == 0,
                   random() % 2 == 0,
                   random() % 2 == 0,
                   i % 3 ? ~uint64_t(0) : random()},
                  1 + int64_t(random() % (i % 5 ? 4 : 19)),
                  random() % 2 == 0,
                  false};
    c.taylor = i % 6 == 5;
    if (c.taylor) c.r = int64_t(random() % 4);
    c.alike = c.alike && c.r > 0;
    c.has_l = !c.alike && random() % 2;
    c.adjacent = !c.alike && c.r > 0 && random() % 2;
    for (uint64_t l = 0, layers = 1 + random() % 4; l <= layers; l++) c.chain.sizes.push_back(1 + random() % 20);
    if (!c.chain.bias) c.chain.needed &= 0xaaaaaaaaaaaaaaab;
    if (!streams_right(kernels, c, random)) return false;
  }
  // wide enough that chunks are several, weights are transposed, and sums are split; columns of x by blocks
  for (bool adjacent : {false, true})
    for (Type t : {Type::f32, Type::f64})
      if (!streams_right(
              kernels, {{t, 45, {250, 40, 2}, "tanh", true, true, false, ~uint64_t(0)}, 18, false, adjacent, adjacent},
              random))
        return false;
  return streams_right(kernels,
                       {{Type::f32, 70, {3, 128, 96, 1}, "silu", false, true, false, ~uint64_t(0)}, 3, true, false},
                       random) &&
         streams_right(
             kernels, {{Type::f64, 40, {30, 50, 100}, "tanh", true, true, true, ~uint64_t(0)}, 2, false, true}, random);
}

}  // namespace
