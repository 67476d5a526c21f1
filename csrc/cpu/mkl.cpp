// Products by MKL, which torch is linked with: on Intel it is 3 to 30 % faster in large ones, and where sums are short
// (Emerald Rapids, 2026-11-28).
#include <dlfcn.h>

#include "kernels.h"
#include "runtime.h"

namespace fusegrad {
namespace {

// c = alpha op(a) op(b) + beta c, by columns, of 64-bit sizes.
template <class T> using Multiply = void (*)(const char* op_a, const char* op_b, const int64_t* m, const int64_t* n,
                                             const int64_t* k, const T* alpha, const T* a, const int64_t* lda,
                                             const T* b, const int64_t* ldb, const T* beta, T* c, const int64_t* ldc);

// What is faster by it: least numbers of rows, columns, terms of a sum, and multiplications (Emerald Rapids,
// 2026-11-28).
struct Limits {
  int64_t m, n, k;
  double work;

  bool hold(const Gemm& g) const {
    return g.m >= m && g.n >= n && g.k >= k && double(g.m) * double(g.n) * double(g.k) >= work;
  }
};
constexpr Limits kFloats{16, 16, 8, 1 << 21}, kDoubles{16, 6, 8, 1 << 18};
constexpr Limits kFewRows{3, 16, 8, 1 << 20};  // of both, by a matrix that is no transpose

// An operand whose rows are adjacent numbers, or whose columns are.
struct Ordered {
  bool fits, by_columns;
  int64_t ld;

  Ordered(const Operand& o, int64_t rows, int64_t columns)
      : fits(false), by_columns(o.column_stride != 1), ld(by_columns ? o.column_stride : o.row_stride) {
    fits = (by_columns ? o.row_stride == 1 : true) && ld >= (by_columns ? rows : columns);
  }
  const char* op() const { return by_columns ? "T" : "N"; }
};

// c = a b, or c += a b, of sums of k terms from `first` on.
template <class T> bool multiply(Multiply<T> by, const Gemm& g, int64_t first, int64_t k, const Operand& of_b) {
  const Ordered a(g.a, g.m, k), b(of_b, k, g.n);
  if (by == nullptr || !a.fits || !b.fits) return false;
  const T one = 1, beta = first > 0;
  const T* from = static_cast<const T*>(g.a.data) + first * g.a.column_stride;
  // what is by rows is the transpose by columns: c^T = b^T a^T
  by(b.op(), a.op(), &g.n, &g.m, &k, &one, static_cast<const T*>(of_b.data), &b.ld, from, &a.ld, &beta,
     static_cast<T*>(g.c), &g.n);
  return true;
}

template <class T> bool multiply(Multiply<T> by, const Gemm& g) {
  if (g.split == 0) return multiply(by, g, 0, g.k, g.b);
  return multiply(by, g, 0, g.split, g.b) && multiply(by, g, g.split, g.k - g.split, g.rest);
}

}  // namespace

bool multiply_by_mkl(const Gemm& g) {
  const bool plain = !g.bias && !g.activation && !g.saved;
  if (!plain || is_forked() || (g.type != Type::f32 && g.type != Type::f64)) return false;
  const bool fits = (g.type == Type::f64 ? kDoubles : kFloats).hold(g);
  if (!fits && !(g.b.column_stride == 1 && kFewRows.hold(g))) return false;
  static const auto of_float = reinterpret_cast<Multiply<float>>(dlsym(RTLD_DEFAULT, "SGEMM_64"));
  static const auto of_double = reinterpret_cast<Multiply<double>>(dlsym(RTLD_DEFAULT, "DGEMM_64"));
  if (g.type == Type::f32) return multiply(of_float, g);
  return multiply(of_double, g);
}

}  // namespace fusegrad
