// Part of kernels.cpp: derivatives of chains that end in one number, and their gradients, against sums in float64.
#pragma once

namespace {

struct DerivativesCase {
  ChainCase chain;  // whose sizes end in 1; `needed` of l, gx, gw, gb, ...
  std::vector<int64_t> features;
  bool has_gy, has_t, has_cotangents;
};

bool derivatives_right(const Kernels& kernels, const DerivativesCase& c, std::mt19937& random) {
  using Bytes = std::vector<char>;
  using Numbers = std::vector<double>;
  const Type type = c.chain.type;
  const std::vector<int64_t>& sizes = c.chain.sizes;
  const int count = int(sizes.size()) - 1;
  const int64_t m = c.chain.m, d = sizes[0], r = int64_t(c.features.size()), streams = r + 2, size = size_of(type);
  const Activation* act = kernels.activations;
  while (std::strcmp(act->name, c.chain.act) != 0) act++;
  const auto D = [&](int order, double s) {
    double out;
    act->float64[order]({1, 1, &s, 0, nullptr, 0, &out, 0}, 0);
    return out;
  };
  std::vector<Bytes> w, b, gw, gb;
  std::vector<ChainLayer> layers;
  int64_t width = 0, hidden = 0;
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
      layer.forms = type == Type::f64 ? act->forms_float64 : act->forms_float32;
      layer.saves_input = act->saves_input;
    }
    if (c.chain.needed >> (2 + 2 * l) & 1) layer.gw = gw[l].data();
    if (c.chain.needed >> (3 + 2 * l) & 1) layer.gb = gb[l].data();
    layers.push_back(layer);
    if (l < count - 1) hidden += n;
    if (l < count - 1 || (c.chain.ends && act->saves_input)) width += n;
  }
  const Bytes x = random_numbers(type, m * d, random), t = random_numbers(type, m * d, random),
              forms = random_numbers(type, m * d * d, random), gy = random_numbers(type, m, random),
              slope = random_numbers(type, m, random);
  Bytes y(m * size), gx(m * d * size), saved(m * width * size), cotangents(m * hidden * size), l_of(y), g(gx),
      unit(r * d * size);
  Chain chain{type, m, count, layers.data(), {x.data(), d, 1}, y.data(), saved.data()};
  kernels.chain(chain);
  Chain of_slope = chain;
  of_slope.gy = {slope.data(), 1, 1};
  of_slope.gx = g.data();
  kernels.chain_slope(of_slope, cotangents.data());
  for (int64_t i = 0; i < r; i++) {
    const int64_t at = i * d + c.features[i];
    if (type == Type::f64)
      reinterpret_cast<double*>(unit.data())[at] = 1;
    else
      reinterpret_cast<float*>(unit.data())[at] = 1;
  }
  chain.gy = {c.has_gy ? gy.data() : nullptr, 1, 1};
  if (c.chain.needed & 2) chain.gx = gx.data();
  kernels.chain_derivatives({chain,
                             false,
                             {c.has_t ? t.data() : nullptr, d, 1},
                             r,
                             c.features.data(),
                             unit.data(),
                             forms.data(),
                             {nullptr, 0, 1},
                             c.has_cotangents ? cotangents.data() : nullptr,
                             c.chain.needed & 1 ? l_of.data() : nullptr});

  const auto wrong = [&](const char* what, const Bytes& got, int64_t i, double want, double scale) {
    const double off = number(type, got, i) - want;
    if (std::fabs(off) <= tolerance(type) * scale) return false;
    std::printf("%s: derivatives of %s, type %d, m %ld, r %ld, gy %d, t %d, ends %d: %s, %ld is off by %g;",
                kernels.isa, c.chain.act, int(type), long(m), long(r), c.has_gy, c.has_t, c.chain.ends, what, long(i),
                off);
    for (const int64_t n : sizes) std::printf(" %ld", long(n));
    std::printf("\n");
    return true;
  };
  const auto weight = [&](int l, int64_t i, int64_t j) {
    return number(type, w[l], i * layers[l].w.row_stride + j * layers[l].w.column_stride);
  };
  const auto form = [&](int64_t row, int64_t i, int64_t j) {
    const int64_t a = c.features[i], b = c.features[j];
    return (number(type, forms, (row * d + a) * d + b) + number(type, forms, (row * d + b) * d + a)) / 2;
  };
  const auto derivatives = [&](int l, double z, double* d) {  // act', act'', act'''
    d[0] = 1, d[1] = d[2] = 0;
    if (!layers[l].value) return z;
    const double y = D(0, z), s = act->saves_input ? z : y, a = D(1, s), b = D(2, s), c = D(3, s);
    d[0] = a;
    d[1] = act->saves_input ? b : a * b;
    d[2] = act->saves_input ? c : a * (b * b + a * c);
    return y;
  };
  std::vector<std::vector<Numbers>> h_of(1, std::vector<Numbers>(streams)), z_of;
  for (int64_t i = 0; i < m * d; i++) {
    h_of[0][0].push_back(number(type, x, i));
    for (int64_t k = 0; k < r; k++) h_of[0][1 + k].push_back(i % d == c.features[k]);
    h_of[0][r + 1].push_back(c.has_t ? number(type, t, i) : 0);
  }
  const auto quadratic = [&](int l, int64_t i, int64_t k) {  // q_k
    double sum = 0;
    for (int64_t j = 0; j < r; j++) sum += form(i / sizes[l + 1], k, j) * z_of[l][1 + j][i];
    return sum;
  };
  double slopes[3];
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
    z_of.push_back(z);
    for (int64_t i = 0; i < m * n; i++) {
      next[0][i] = derivatives(l, z[0][i], slopes);
      double squares = 0;
      for (int64_t s = 1; s <= r; s++) {
        squares += quadratic(l, i, s - 1) * z[s][i];
        next[s][i] = slopes[0] * z[s][i];
      }
      next[r + 1][i] = slopes[0] * z[r + 1][i] + slopes[1] * squares;
    }
    h_of.push_back(next);
  }
  const double scale_ = 60 * double(streams * streams), over_rows = scale_ * std::sqrt(double(m) + 1);
  std::vector<Numbers> of(streams, Numbers(m));
  for (int64_t i = 0; i < m; i++) {
    if (c.chain.needed & 1 && wrong("l", l_of, i, h_of[count][r + 1][i], scale_)) return false;
    of[0][i] = c.has_gy ? number(type, gy, i) : 0;
    of[r + 1][i] = 1;
  }
  for (int l = count - 1; l >= 0; l--) {
    const int64_t k = sizes[l], n = sizes[l + 1];
    for (int64_t i = 0; i < m * n; i++) {
      derivatives(l, z_of[l][0][i], slopes);
      const double of_l = of[r + 1][i];
      double along = of_l * z_of[l][r + 1][i], squares = 0;
      for (int64_t s = 1; s <= r; s++) {
        const double tz = z_of[l][s][i], q = quadratic(l, i, s - 1);
        along += of[s][i] * tz;
        squares += q * tz;
        of[s][i] = slopes[0] * of[s][i] + 2 * slopes[1] * of_l * q;
      }
      of[0][i] = slopes[0] * of[0][i] + slopes[1] * along + slopes[2] * of_l * squares;
      of[r + 1][i] = slopes[0] * of_l;
    }
    std::vector<Numbers> of_input(streams, Numbers(m * k));
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t i = 0; i < m; i++) sum += of[0][i * n + j];
      if (layers[l].gb && wrong("gb", gb[l], j, sum, over_rows)) return false;
      for (int64_t p = 0; p < k; p++) {
        sum = 0;
        for (int64_t s = 0; s < streams; s++)
          for (int64_t i = 0; i < m; i++) {
            sum += of[s][i * n + j] * h_of[l][s][i * k + p];
            of_input[s][i * k + p] += of[s][i * n + j] * weight(l, j, p);
          }
        if (layers[l].gw && wrong("gw", gw[l], j * k + p, sum, over_rows)) return false;
      }
    }
    of = of_input;
  }
  for (int64_t i = 0; i < m * d; i++)
    if ((chain.gx && wrong("gx", gx, i, of[0][i], scale_)) ||
        wrong("slope", g, i, number(type, slope, i / d) * of[r + 1][i], scale_))
      return false;
  return true;
}

bool all_derivatives_right(const Kernels& kernels, std::mt19937& random) {
  const char* acts[] = {"tanh", "silu", "relu", "gelu", "mish", "sigmoid", "identity"};
  for (int i = 0; i < 60; i++) {
    DerivativesCase c{{i % 2 ? Type::f64 : Type::f32,
                       1 + int64_t(random() % (i % 4 ? 40 : 300)),
                       {},
                       acts[random() % 7],
                       random() % 2 == 0,
                       random() % 2 == 0,
                       random() % 2 == 0,
                       i % 3 ? ~uint64_t(0) : random()},
                      {},
                      random() % 2 == 0,
                      random() % 2 == 0,
                      random() % 2 == 0};
    for (uint64_t l = 0, layers = 1 + random() % 4; l < layers; l++) c.chain.sizes.push_back(1 + random() % 20);
    c.chain.sizes.push_back(1);
    for (int64_t f = 0; f < c.chain.sizes[0] && f < 5; f++)
      if (random() % 2) c.features.push_back(f);
    if (!c.chain.bias) c.chain.needed &= 0x5555555555555557;
    if (!derivatives_right(kernels, c, random)) return false;
  }
  return derivatives_right(
      kernels, {{Type::f32, 150, {3, 128, 96, 1}, "silu", false, true, false, ~uint64_t(0)}, {0, 2}, true, true, true},
      random);
}

}  // namespace
