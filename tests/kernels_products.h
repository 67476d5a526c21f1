// Part of kernels.cpp: products of tensors with streams that are tensors of their own, and their gradients, and
// programs of layers and functions, against sums in float64.
#pragma once

namespace {

// The streams of n numbers: value, r tangents, last; `has` a bit for each that there is.
struct StreamsOf {
  Type type;
  int64_t n, r;
  int has;
  std::vector<char> value, tangents, last;

  StreamsOf(Type t, int64_t n, int64_t r, int has, std::mt19937& random)
      : type(t),
        n(n),
        r(r),
        has(has),
        value(random_numbers(t, n, random)),
        tangents(random_numbers(t, r * n, random)),
        last(random_numbers(t, n, random)) {}
  StreamsAt at() {
    return {has & 1 ? value.data() : nullptr, has & 2 ? tangents.data() : nullptr, has & 4 ? last.data() : nullptr, n};
  }
  // Of number i, which may be one for all: stream 0 is the value, r + 1 the last.
  double of(int64_t stream, int64_t i) const {
    if (n == 1) i = 0;
    if (stream == 0) return has & 1 ? number(type, value, i) : 0;
    if (stream > r) return has & 4 ? number(type, last, i) : 0;
    return has & 2 ? number(type, tangents, (stream - 1) * n + i) : 0;
  }
};

bool is_near(const Kernels& kernels, const char* what, Type type, double got, double want, double size) {
  if (std::fabs(got - want) <= tolerance(type) * (1 + size)) return true;
  std::printf("%s: %s, type %d: %g, not %g\n", kernels.isa, what, int(type), got, want);
  return false;
}

bool product_of_streams_right(const Kernels& kernels, Type type, int64_t n, int64_t r, bool one_a, bool one_b,
                              int has_a, int has_b, int needed, std::mt19937& random) {
  StreamsOf a(type, one_a ? 1 : n, r, has_a, random), b(type, one_b ? 1 : n, r, has_b, random),
      c(type, n, r, 7, random), y(type, n, r, 7, random), ga(type, a.n, r, needed, random);
  kernels.product_of_streams(type, false, one_a, one_b)({n, r, a.at(), b.at(), {}, y.at()});
  for (int64_t i = 0; i < n; i++) {
    double sum = 0;
    for (int64_t k = 1; k <= r; k++) {
      sum += a.of(k, i) * b.of(k, i);
      const double want = a.of(0, i) * b.of(k, i) + a.of(k, i) * b.of(0, i);
      if (!is_near(kernels, "tangent of a product", type, y.of(k, i), want, 10)) return false;
    }
    const double l = a.of(0, i) * b.of(r + 1, i) + a.of(r + 1, i) * b.of(0, i) + 2 * sum;
    if (!is_near(kernels, "product", type, y.of(0, i), a.of(0, i) * b.of(0, i), 10)) return false;
    if (!is_near(kernels, "last stream of a product", type, y.of(r + 1, i), l, 10 + r)) return false;
  }
  for (auto* data : {&ga.value, &ga.tangents, &ga.last})
    if (one_a) std::fill(data->begin(), data->end(), 0);  // which is added to
  kernels.product_of_streams(type, true, one_a, one_b)({n, r, {}, b.at(), c.at(), ga.at()});
  for (int64_t s = 0; s < r + 2; s++) {
    if (!(needed & (s == 0 ? 1 : s > r ? 4 : 2))) continue;
    double total = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
      double want = c.of(s, i) * b.of(0, i) + (s > 0 && s <= r ? 2 * c.of(r + 1, i) * b.of(s, i) : 0);
      for (int64_t k = 1; s == 0 && k <= r + 1; k++) want += c.of(k, i) * b.of(k, i);
      total += want;
      size += std::fabs(want) + 10 + r;
      if (!one_a && !is_near(kernels, "gradient of a product", type, ga.of(s, i), want, 10 + r)) return false;
    }
    if (one_a && !is_near(kernels, "summed gradient of a product", type, ga.of(s, 0), total, size)) return false;
  }
  return true;
}

bool products_of_streams_right(const Kernels& kernels, std::mt19937& random) {
  for (const Type type : {Type::f32, Type::f64})
    for (const int64_t n : {1, 3, 15, 16, 33, 256})
      for (const int64_t r : {1, 2, 5})
        for (int bits = 0; bits < 4; bits++)
          for (const int has : {7 | 7 << 3, 7 | 3 << 3, 3 | 7 << 3, 1 | 7 << 3, 7 | 1 << 3, 5 | 3 << 3})
            if (!product_of_streams_right(kernels, type, n, r, bits & 1, bits & 2, has & 7, has >> 3,
                                          1 + int(random() % 7), random))
              return false;
  return true;
}

}  // namespace
