// Part of kernels.cpp: what an activation makes of streams of derivatives, in float64.
#pragma once

namespace {

// What an activation with derivatives f_0, f_1, ... at z_0 makes of streams z, and the cotangents of z, of those of y.
struct OfLaplacian {
  static void forward(const double* f, const std::vector<double>& z, std::vector<double>& y) {
    const size_t last = z.size() - 1;
    double squares = 0;
    y[0] = f[0];
    for (size_t s = 1; s < last; s++) {
      squares += z[s] * z[s];
      y[s] = f[1] * z[s];
    }
    y[last] = f[1] * z[last] + f[2] * squares;
  }
  static void backward(const double* f, const std::vector<double>& z, std::vector<double>& c) {
    const size_t last = z.size() - 1;
    const double of_l = c[last];
    double along = of_l * z[last], squares = 0;
    for (size_t s = 1; s < last; s++) {
      along += c[s] * z[s];
      squares += z[s] * z[s];
      c[s] = f[1] * c[s] + 2 * f[2] * of_l * z[s];
    }
    c[0] = f[1] * c[0] + f[2] * along + f[3] * of_l * squares;
    c[last] = f[1] * of_l;
  }
};
// By power series: y(s) = sum_j f_j / j! (sum_{k > 0} z_k s^k / k!)^j, and dy_k / dz_i is k! / i! times the coefficient
// of s^{k - i} of the series of f'.
struct OfTaylor {
  static double factorial(size_t n) { return n < 2 ? 1 : double(n) * factorial(n - 1); }
  static std::vector<double> series(const double* f, const std::vector<double>& z) {
    const size_t count = z.size();
    std::vector<double> power(count), sum(count);
    power[0] = 1;
    for (size_t j = 0; j < count; j++) {
      std::vector<double> next(count);
      for (size_t a = 0; a < count; a++) {
        sum[a] += f[j] / factorial(j) * power[a];
        for (size_t b = 1; a + b < count; b++) next[a + b] += power[a] * z[b] / factorial(b);
      }
      power = next;
    }
    return sum;
  }
  static void forward(const double* f, const std::vector<double>& z, std::vector<double>& y) {
    y = series(f, z);
    for (size_t k = 0; k < y.size(); k++) y[k] *= factorial(k);
  }
  static void backward(const double* f, const std::vector<double>& z, std::vector<double>& c) {
    const std::vector<double> slope = series(f + 1, z), of_y = c;
    for (size_t i = 0; i < c.size(); i++) {
      c[i] = 0;
      for (size_t k = i; k < c.size(); k++) c[i] += of_y[k] * factorial(k) / factorial(i) * slope[k - i];
    }
  }
};

}  // namespace
