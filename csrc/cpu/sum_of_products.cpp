// a b + c d + ..., of factors that are broadcast but for their rows, and its gradients: a pass over memory each.
#include <array>
#include <cstring>

#include "chain_operands.h"
#include "layers.h"

namespace fusegrad {
namespace {

constexpr int64_t kGrain = 1 << 12;  // numbers: fewer are not worth a second thread
constexpr size_t kMostFactors = 16;

// (rows, c) or (rows, m, c), of which a factor may have one m, one c.
struct Sizes {
  int64_t rows, m, c;
  explicit Sizes(const Tensor& t) : rows(t.size(0)), m(t.dim() > 2 ? t.size(1) : 1), c(t.size(t.dim() - 1)) {}
  int64_t row() const { return m * c; }
};

struct Factor {
  char* data = nullptr;
  int64_t row = 0, m = 0, c = 0;  // strides, 0 where it is broadcast

  Factor() = default;
  Factor(const char* op, const Tensor& t, const Sizes& of, Type type) {
    const Sizes own(t);
    require(type_of(t.scalar_type()) == type && own.rows == of.rows && (own.m == of.m || own.m == 1) &&
                (own.c == of.c || own.c == 1),
            op, ": a factor is ", described(t), "; need (", of.rows, ", ", of.m, " or 1, ", of.c,
            " or 1), of one dtype");
    data = const_cast<char*>(static_cast<const char*>(t.const_data_ptr()));
    row = t.stride(0);
    m = own.m == 1 ? 0 : t.stride(1);
    c = own.c == 1 ? 0 : t.stride(t.dim() - 1);
  }
  template <class T> T* at(int64_t i, int64_t j) const { return reinterpret_cast<T*>(data) + i * row + j * m; }
};

// Of a factor whose numbers of a row, where it has several, follow one another.
bool has_rows(const Tensor& t) { return t.size(t.dim() - 1) == 1 || t.stride(t.dim() - 1) <= 1; }
Tensor with_rows(const Tensor& t) { return has_rows(t) ? t : torch::stable::contiguous(t); }

// to[i] = or += a[i] b[i], each of stride 0 or 1.
template <bool kAdds, class T> void multiply(const T* a, int64_t of_a, const T* b, int64_t of_b, T* to, int64_t n) {
  const auto put = [](T& y, T v) { y = kAdds ? y + v : v; };
  if (of_a && of_b)
    for (int64_t i = 0; i < n; i++) put(to[i], a[i] * b[i]);
  else if (of_a)
    for (int64_t i = 0; i < n; i++) put(to[i], a[i] * *b);
  else if (of_b)
    for (int64_t i = 0; i < n; i++) put(to[i], *a * b[i]);
  else
    for (int64_t i = 0; i < n; i++) put(to[i], *a * *b);
}

// The sum of a[i] b[i], in as many parts as vectors have lanes.
template <class T> T dot(const T* a, int64_t of_a, const T* b, int64_t of_b, int64_t n) {
  constexpr int64_t kParts = 16;
  T parts[kParts] = {};
  int64_t i = 0;
  if (of_a && of_b)
    for (; i + kParts <= n; i += kParts)
      for (int64_t j = 0; j < kParts; j++) parts[j] += a[i + j] * b[i + j];
  for (; i < n; i++) parts[i % kParts] += a[i * of_a] * b[i * of_b];
  for (int64_t width = kParts / 2; width > 0; width /= 2)
    for (int64_t j = 0; j < width; j++) parts[j] += parts[j + width];
  return parts[0];
}

template <class T> void sum(const Sizes& of, const std::vector<Factor>& factors, T* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++)
    for (int64_t j = 0; j < of.m; j++) {
      T* to = y + i * of.row() + j * of.c;
      for (size_t k = 0; k < factors.size(); k += 2) {
        const Factor &a = factors[k], &b = factors[k + 1];
        (k == 0 ? multiply<false, T> : multiply<true, T>)(a.at<T>(i, j), a.c, b.at<T>(i, j), b.c, to, of.c);
      }
    }
}

// The gradient of one factor: gy times the other, added up where the factor is broadcast.
template <class T> void gradient(const Sizes& of, const Factor& gy, const Factor& other, const Factor& to, int64_t i) {
  for (int64_t j = 0; j < of.m; j++) {
    const T *g = gy.at<T>(i, j), *b = other.at<T>(i, j);
    T* out = to.at<T>(i, j);
    const bool adds = j > 0 && to.m == 0;
    if (to.c == 0) {
      const T found = dot(g, gy.c, b, other.c, of.c);
      *out = adds ? *out + found : found;
    } else {
      (adds ? multiply<true, T> : multiply<false, T>)(g, gy.c, b, other.c, out, of.c);
    }
  }
}

Type checked(const char* op, const Tensor& t, size_t count) {
  require(count > 0 && count % 2 == 0 && count <= kMostFactors, op, ": ", count, " factors; need pairs");
  const std::optional<Type> type = type_of(t.scalar_type());
  require((type == Type::f32 || type == Type::f64) && (t.dim() == 2 || t.dim() == 3), op, ": ", described(t),
          "; need (rows, c) or (rows, m, c), float32 or float64");
  return *type;
}

Tensor sum_of_products(Tensors given) {
  constexpr const char* op = "sum_of_products";
  const Type type = checked(op, given.empty() ? Tensor() : given[0], given.size());
  Shape shape = shape_of(given[0]);
  for (const Tensor& t : given)
    for (size_t i = 0; i < shape.size() && int64_t(shape.size()) == t.dim(); i++)
      shape[i] = std::max(shape[i], t.size(i));
  Tensor y = empty(given[0], shape);
  const Sizes of(y);
  std::vector<Factor> factors;
  for (Tensor& t : given) {
    require(t.dim() == y.dim(), op, ": a factor is ", described(t), ", another ", described(given[0]));
    t = with_rows(t);
    factors.emplace_back(op, t, of, type);
  }
  void* to = y.mutable_data_ptr();
  parallel(of.rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, of.row())), [&](int64_t i, int64_t end) {
    type == Type::f64 ? sum(of, factors, static_cast<double*>(to), i, end)
                      : sum(of, factors, static_cast<float*>(to), i, end);
  });
  return y;
}

// The gradients that are needed, empty if not: `needed` has a bit for each factor, `shapes` the sizes of each. The
// other of its pair has to be there.
Tensors sum_of_products_backward(Tensor gy, Weights given, std::vector<int64_t> shapes, int64_t needed) {
  constexpr const char* op = "sum_of_products_backward";
  const Type type = checked(op, gy, given.size());
  const size_t dims = gy.dim();
  require(shapes.size() == given.size() * dims, op, ": ", shapes.size(), " sizes of ", given.size(), " factors");
  gy = with_rows(gy);
  const Sizes of(gy);
  const Factor of_gy(op, gy, of, type);
  std::vector<Factor> factors(given.size()), to(given.size());
  Tensors found;
  for (size_t k = 0; k < given.size(); k++) {
    const bool is_needed = needed >> k & 1;
    require(!is_needed || given[k ^ 1], op, ": factor ", k ^ 1, " is not there");
    if (given[k]) {
      require(given[k]->dim() == gy.dim(), op, ": a factor is ", described(*given[k]), ", gy ", described(gy));
      given[k] = with_rows(*given[k]);
      factors[k] = Factor(op, *given[k], of, type);
    }
    found.push_back(empty(gy, is_needed ? Shape(&shapes[k * dims], &shapes[k * dims] + dims) : Shape{0}));
    if (is_needed) to[k] = Factor(op, found[k], of, type);
  }
  parallel(of.rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, of.row())), [&](int64_t i, int64_t end) {
    for (; i < end; i++)
      for (size_t k = 0; k < to.size(); k++)
        if (to[k].data) (type == Type::f64 ? gradient<double> : gradient<float>)(of, of_gy, factors[k ^ 1], to[k], i);
  });
  return found;
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("sum_of_products", TORCH_BOX(&sum_of_products));
  m.impl("sum_of_products_backward", TORCH_BOX(&sum_of_products_backward));
}

}  // namespace
}  // namespace fusegrad
