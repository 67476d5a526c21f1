// Part of kernels.cpp: chains of layers, and their gradients, against sums in float64.
#pragma once

namespace {

struct ChainCase {
  Type type;
  int64_t m;
  std::vector<int64_t> sizes;
  const char* act;  // of all layers, but of the last only if `ends`
  bool ends, bias, w_transposed;
  uint64_t needed;  // of gx, gw, gb, gw, gb, ...
};

// So that all numbers of a network are of about one size.
void scale(Type type, std::vector<char>& numbers, int64_t i, double by) {
  if (type == Type::f64)
    reinterpret_cast<double*>(numbers.data())[i] *= by;
  else
    reinterpret_cast<float*>(numbers.data())[i] *= float(by);
}

bool chain_right(const Kernels& kernels, const ChainCase& c, std::mt19937& random) {
  const bool is_double = c.type == Type::f64;
  const int count = int(c.sizes.size()) - 1;
  const int64_t m = c.m, size = size_of(c.type), first_k = c.sizes[0], last_n = c.sizes[count];
  const Activation* act = kernels.activations;
  while (std::strcmp(act->name, c.act) != 0) act++;
  const auto in_float64 = [&](int order, double s, double g) {
    double out;
    act->float64[order]({1, 1, &s, 0, order ? &g : nullptr, 0, &out, 0}, 0);
    return out;
  };
  using Bytes = std::vector<char>;
  std::vector<Bytes> w, b, gw, gb;
  std::vector<ChainLayer> layers;
  int64_t width = 0;
  for (int l = 0; l < count; l++) {
    const int64_t k = c.sizes[l], n = c.sizes[l + 1];
    w.push_back(random_numbers(c.type, n * k, random));
    for (int64_t i = 0; i < n * k; i++) scale(c.type, w[l], i, 1 / std::sqrt(double(k)));
    b.push_back(random_numbers(c.type, n, random));
    gw.emplace_back(n * k * size);
    gb.emplace_back(n * size);
    ChainLayer layer{k, n, {w[l].data(), c.w_transposed ? 1 : k, c.w_transposed ? n : 1}};
    if (c.bias) layer.bias = b[l].data();
    if (l < count - 1 || c.ends) {
      layer.value = (is_double ? act->float64 : act->float32)[0];
      layer.first = (is_double ? act->float64 : act->float32)[1];
      layer.remade = is_double ? act->remade_float64 : act->remade_float32;
      layer.saves_input = act->saves_input;
    }
    if (c.needed >> (1 + 2 * l) & 1) layer.gw = gw[l].data();
    if (c.needed >> (2 + 2 * l) & 1) layer.gb = gb[l].data();
    layers.push_back(layer);
    if (l < count - 1 || (c.ends && act->saves_input)) width += n;
  }
  const Bytes x = random_numbers(c.type, m * first_k, random), gy = random_numbers(c.type, m * last_n, random);
  Bytes y(m * last_n * size), gx(m * first_k * size), saved(m * width * size), unsaved(y);
  Chain chain{c.type, m, count, layers.data(), {x.data(), first_k, 1}, unsaved.data(), nullptr};
  kernels.chain(chain);
  chain.y = y.data();
  chain.saved = saved.data();
  chain.gy = {gy.data(), last_n, 1};
  if (c.needed & 1) chain.gx = gx.data();
  kernels.chain(chain);
  kernels.chain_backward(chain);
  const std::vector<Bytes> of_saved[] = {gw, gb, {gx}};
  chain.y = chain.saved = nullptr;
  chain.recomputes = true;
  kernels.chain_backward(chain);
  if (of_saved[0] != gw || of_saved[1] != gb || of_saved[2][0] != gx) {
    std::printf("%s: chain of %s, m %ld: computed again its gradients differ\n", kernels.isa, c.act, long(m));
    return false;
  }

  const auto wrong = [&](const char* what, const Bytes& got, int64_t i, double want, double scale) {
    const double off = number(c.type, got, i) - want;
    if (std::fabs(off) <= tolerance(c.type) * scale) return false;
    std::printf("%s: chain of %s, type %d, m %ld, ends %d, bias %d, transposed %d, needed %lx: %s, %ld is off by %g;",
                kernels.isa, c.act, int(c.type), long(m), c.ends, c.bias, c.w_transposed, long(c.needed), what, long(i),
                off);
    for (const int64_t n : c.sizes) std::printf(" %ld", long(n));
    std::printf("\n");
    return true;
  };
  const auto weight = [&](int l, int64_t i, int64_t j) {
    return number(c.type, w[l], i * layers[l].w.row_stride + j * layers[l].w.column_stride);
  };
  std::vector<std::vector<double>> h(1), z;  // the inputs of layers, and what activations get
  for (int64_t i = 0; i < m * first_k; i++) h[0].push_back(number(c.type, x, i));
  const double scale = 8, over_rows = scale * std::sqrt(double(m) + 1);  // sums of terms that cancel
  for (int l = 0; l < count; l++) {
    const int64_t k = c.sizes[l], n = c.sizes[l + 1];
    z.emplace_back(m * n);
    h.emplace_back(m * n);
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++) {
        double sum = c.bias ? number(c.type, b[l], j) : 0;
        for (int64_t p = 0; p < k; p++) sum += h[l][i * k + p] * weight(l, j, p);
        z[l][i * n + j] = sum;
        h[l + 1][i * n + j] = layers[l].value ? in_float64(0, sum, 1) : sum;
      }
  }
  for (int64_t i = 0; i < m * last_n; i++)
    if (wrong("y", y, i, h[count][i], scale) || wrong("y without saving", unsaved, i, h[count][i], scale)) return false;
  std::vector<double> g;
  for (int64_t i = 0; i < m * last_n; i++) g.push_back(number(c.type, gy, i));
  for (int l = count - 1; l >= 0; l--) {
    const int64_t k = c.sizes[l], n = c.sizes[l + 1];
    if (layers[l].first)
      for (int64_t i = 0; i < m * n; i++) g[i] = in_float64(1, act->saves_input ? z[l][i] : h[l + 1][i], g[i]);
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t i = 0; i < m; i++) sum += g[i * n + j];
      if (layers[l].gb && wrong("gb", gb[l], j, sum, over_rows)) return false;
      for (int64_t p = 0; layers[l].gw && p < k; p++) {
        sum = 0;
        for (int64_t i = 0; i < m; i++) sum += g[i * n + j] * h[l][i * k + p];
        if (wrong("gw", gw[l], j * k + p, sum, over_rows)) return false;
      }
    }
    std::vector<double> of_input(m * k);
    for (int64_t i = 0; i < m; i++)
      for (int64_t p = 0; p < k; p++)
        for (int64_t j = 0; j < n; j++) of_input[i * k + p] += g[i * n + j] * weight(l, j, p);
    g = of_input;
  }
  for (int64_t i = 0; chain.gx && i < m * first_k; i++)
    if (wrong("gx", gx, i, g[i], scale)) return false;
  return true;
}

bool chains_right(const Kernels& kernels, std::mt19937& random) {
  const char* acts[] = {"tanh", "silu", "relu", "gelu", "identity"};
  for (int i = 0; i < 60; i++) {
    ChainCase c{i % 2 ? Type::f64 : Type::f32,
                1 + int64_t(random() % (i % 4 ? 40 : 600)),
                {},
                acts[random() % 5],
                random() % 2 == 0,
                random() % 2 == 0,
                random() % 2 == 0,
                i % 3 ? ~uint64_t(0) : random()};
    const int64_t most = i % 4 ? 40 : 8;
    for (uint64_t l = 0, layers = 2 + random() % 4; l < layers; l++) c.sizes.push_back(1 + random() % most);
    if (!c.bias) c.needed &= 0xaaaaaaaaaaaaaaab;
    if (!chain_right(kernels, c, random)) return false;
  }
  // wide enough that weights are transposed, and sums are split
  return chain_right(kernels, {Type::f32, 70, {210, 50, 3}, "silu", false, true, false, ~uint64_t(0)}, random) &&
         chain_right(kernels, {Type::f64, 70, {30, 50, 200}, "tanh", true, true, true, ~uint64_t(0)}, random);
}

}  // namespace
