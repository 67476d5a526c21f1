#include "tensors.h"

namespace fusegrad {
namespace {

constexpr int64_t kShare = 16384;  // elements: less is not worth a second thread

bool laid_out_alike(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.dim(); i++)
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) return false;
  return true;
}

// A tensor in the order of another one: as it is where it is laid out alike, or in rows of adjacent numbers while the
// other is contiguous; else a copy.
struct Ordered {
  Tensor tensor;
  bool in_rows = false;
  int64_t row = 0;

  Ordered(const Tensor& t, const Tensor& like) : tensor(t) {
    if (laid_out_alike(t, like)) return;
    if (like.is_contiguous()) {
      const Rows rows(t);
      in_rows = rows.operand.column == 1 && rows.operand.row != rows.k;
      tensor = in_rows ? rows.tensor : dense(t);
      row = rows.operand.row;
    } else {
      tensor = torch::stable::empty_like(like);
      torch::stable::copy_(tensor, t);
    }
  }
};

// A tensor of f(s, g), laid out as torch would.
Tensor elementwise(Type type, Elementwise f, const Tensor& s, const std::optional<Tensor>& g, double param) {
  Tensor out = s.is_contiguous() ? empty(s, shape_of(s)) : torch::stable::empty_like(s);
  const int64_t size = size_of(type), numel = out.numel();
  if (numel == 0) return out;
  const Ordered first(s, out), second(g ? *g : s, out);
  const bool in_rows = first.in_rows || second.in_rows;
  const int64_t n = in_rows ? out.size(out.dim() - 1) : 1, rows = numel / n;
  const auto row_of = [&](const Ordered& t) { return t.in_rows ? t.row : n; };
  const char* from = static_cast<const char*>(first.tensor.const_data_ptr());
  const char* factor = g ? static_cast<const char*>(second.tensor.const_data_ptr()) : nullptr;
  char* to = static_cast<char*>(out.mutable_data_ptr());
  parallel(rows, kShare / n + 1, [&](int64_t i, int64_t end) {
    Sheet sheet{end - i,
                n,
                from + i * row_of(first) * size,
                row_of(first),
                factor ? factor + i * row_of(second) * size : nullptr,
                row_of(second),
                to + i * n * size,
                n};
    if (!in_rows) sheet.rows = 1, sheet.n = end - i;
    kernels().act(type, f, sheet, param);
  });
  return out;
}

Tensor act(Tensor s, std::optional<Tensor> g, std::string name, double param, int64_t order) {
  STD_TORCH_CHECK(order >= 0 && order < kOrders && (order > 0 || !g),
                  "act: order must be 0 (without g), 1, 2 or 3, got order ", order, ", g ", g.has_value());
  const Type type = g ? common_type("act", s, *g) : type_of("act", s);
  const Activation* a = activation(name);
  if (a == nullptr) return act_by_reference(s, g, name, param, order);
  return elementwise(type, derivative(*a, order, type), s, g, param);
}

Tensor mul_constant(Tensor x, double c) {
  const Type type = type_of("mul_constant", x);
  return elementwise(type, type == Type::f64 ? kernels().scale_float64 : kernels().scale_float32, x, {}, c);
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("act", TORCH_BOX(&act));
  m.impl("mul_constant", TORCH_BOX(&mul_constant));
}

}  // namespace
}  // namespace fusegrad
