// Part of kernels.cpp: gated layers, against products of one matrix and activations.
#pragma once

namespace {

// A gated product, and the sum of two products, against products of one matrix; the activation is tanh's or silu's.
bool gated_right(const Kernels& kernels, const Case& c, std::mt19937& random) {
  const int64_t count = c.m * c.n, size = size_of(c.type);
  const auto a = random_numbers(c.type, c.m * c.k, random), b = random_numbers(c.type, c.k * c.n, random),
             up = random_numbers(c.type, c.k * c.n, random), bias = random_numbers(c.type, c.n, random);
  std::vector<char> y(count * size), s(y), u(y), z(y), h(y), up_alone(y), sum(y), both(2 * c.m * c.k * size);
  const Operand in{a.data(), c.trans_a ? 1 : c.k, c.trans_a ? c.m : 1};
  const auto operand = [&](const std::vector<char>& t) {
    return Operand{t.data(), c.trans_b ? 1 : c.n, c.trans_b ? c.k : 1};
  };
  const Activation* act = kernels.activations;
  while (std::strcmp(act->name, c.relu ? "silu" : "tanh") != 0) act++;
  const Elementwise f = (c.type == Type::f64 ? act->float64 : act->float32)[0];
  Gated g{{c.type, c.m, c.n, c.k, in, operand(b), y.data()}, {c.type, c.m, c.n, c.k, in, operand(up), nullptr}, c.relu};
  if (c.bias) g.gate.bias = bias.data();
  g.gate.activation = f;
  if (c.save) g.gate.saved = s.data();
  if (c.save) g.up.c = u.data();
  kernels.gated(g);
  Gemm alone = g.gate;
  alone.c = h.data();
  alone.saved = z.data();
  kernels.gemm(alone);
  alone = g.up;
  alone.c = up_alone.data();
  kernels.gemm(alone);
  // a b + a up, with a twice next to itself
  for (int64_t i = 0; i < c.m; i++)
    for (int64_t p = 0; p < 2 * c.k; p++)
      std::memcpy(both.data() + (i * 2 * c.k + p) * size,
                  a.data() + (i * in.row_stride + p % std::max<int64_t>(c.k, 1) * in.column_stride) * size, size);
  Gemm two{c.type, c.m, c.n, 2 * c.k, {both.data(), 2 * c.k, 1}, operand(b), sum.data()};
  two.split = c.k;
  two.rest = operand(up);
  kernels.gemm(two);
  for (int64_t i = 0; i < count; i++) {
    const double h_i = number(c.type, h, i), up_i = number(c.type, up_alone, i), z_i = number(c.type, z, i);
    const double bias_i = c.bias ? value(c.type, bias.data(), i % c.n) : 0;
    const double allowed =
        tolerance(c.type) * (8 + 2 * std::sqrt(double(c.k))) * (1 + std::fabs(up_i)) * (1 + std::fabs(h_i));
    const double off[] = {number(c.type, y, i) - h_i * up_i, c.save ? number(c.type, u, i) - up_i : 0,
                          c.save ? number(c.type, s, i) - (c.relu ? z_i : h_i) : 0,
                          number(c.type, sum, i) - (z_i - bias_i + up_i)};
    for (int k = 0; k < 4; k++)
      if (!(std::fabs(off[k]) <= allowed)) {
        std::printf("%s: gated, type %d, m %ld, n %ld, k %ld, transposed %d %d, %s: output %d of %ld is off by %g\n",
                    kernels.isa, int(c.type), long(c.m), long(c.n), long(c.k), c.trans_a, c.trans_b, act->name, k,
                    long(i), off[k]);
        return false;
      }
  }
  return true;
}

// gz, gu and their sums, of rows that lie apart, against act.
bool gates_right(const Kernels& kernels, Type t, int64_t m, int64_t n, int64_t gap, std::mt19937& random) {
  const int64_t numbers = m > 0 ? (m - 1) * (n + gap) + n : 0, width = t == Type::f64 ? 8 : 4;
  const auto gy = random_numbers(t, numbers, random), s = random_numbers(t, numbers, random),
             up = random_numbers(t, numbers, random);
  const Activation* silu = kernels.activations;
  while (std::strcmp(silu->name, "silu") != 0) silu++;
  const Elementwise* d = t == Type::f64 ? silu->float64 : silu->float32;
  std::vector<char> out(2 * m * n * size_of(t)), slope(numbers * size_of(t)), h(slope), sums(2 * n * width);
  kernels.act(t, d[0], {1, numbers, s.data(), 0, nullptr, 0, h.data(), 0}, 1);
  kernels.act(t, d[1], {1, numbers, s.data(), 0, nullptr, 0, slope.data(), 0}, 1);
  GateArgs args{m, n, gy.data(), s.data(), up.data(), n + gap, n + gap, n + gap, out.data(), nullptr, 2 * n};
  args.gu = at(args.gz, n * size_of(t));
  kernels.gate_and_sums(t, d[0], d[1], args, sums.data(), sums.data() + n * width, 1);
  for (int64_t j = 0; j < 2 * n; j++) {
    double total = 0, size = 1;
    for (int64_t i = 0; i < m; i++) {
      const int64_t at = i * (n + gap) + j % n;
      const double gy_i = number(t, gy, at),
                   other = j < n ? number(t, up, at) * number(t, slope, at) : number(t, h, at);
      const double got = number(t, out, i * 2 * n + j);
      total += got;
      size += std::fabs(got);
      if (std::fabs(got - gy_i * other) <= tolerance(t) * (1 + std::fabs(gy_i * other) + std::fabs(gy_i))) continue;
      std::printf("%s: gates, type %d, (%ld, %ld) is %g, not %g\n", kernels.isa, int(t), long(i), long(j), got,
                  gy_i * other);
      return false;
    }
    const double got = value(t == Type::f64 ? t : Type::f32, sums.data(), j);
    if (std::fabs(got - total) <= 1e-6 * size) continue;
    std::printf("%s: sum of gates, type %d, column %ld is %g, not %g\n", kernels.isa, int(t), long(j), got, total);
    return false;
  }
  return true;
}

}  // namespace
