#include "tensors.h"

namespace fusegrad {
namespace {

constexpr int64_t kShare = 16384;  // elements: less is not worth a second thread

constexpr int64_t kRow = 16;  // elements: shorter rows are copied together before they are read

bool laid_out_alike(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.dim(); i++)
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) return false;
  return true;
}

// A contiguous tensor whose strides say so in the dimensions of one element too.
bool is_plain(const Tensor& t) {
  int64_t stride = 1;
  for (int64_t i = t.dim() - 1; i >= 0; i--) {
    if (t.stride(i) != stride) return false;
    stride *= t.size(i);
  }
  return true;
}

// A tensor in the order of another one: as it is where it is laid out alike, or in rows of adjacent numbers while the
// other is contiguous; else a copy.
struct Ordered {
  Tensor tensor;
  bool in_rows = false;
  int64_t row = 0;  // from one to the next, if in rows

  Ordered(const Tensor& t, const Tensor& like) : tensor(t) {
    if (laid_out_alike(t, like)) return;
    if (like.is_contiguous()) {
      const Rows rows(t);
      in_rows = rows.operand.column == 1 && rows.operand.row != rows.k && rows.k >= kRow;
      tensor = in_rows ? rows.tensor : dense(rows.tensor);
      row = rows.operand.row;
    } else {
      tensor = torch::stable::empty_like(like);
      torch::stable::copy_(tensor, t);
    }
  }
};

// A tensor of f(s, g), laid out as torch would.
Tensor map(Type type, Elementwise f, const Tensor& s, const std::optional<Tensor>& g, double param) {
  Tensor out = is_plain(s) ? empty(s, shape_of(s)) : torch::stable::empty_like(s);
  const int64_t size = size_of(type), numel = out.numel();
  if (numel == 0) return out;
  const Ordered first(s, out);
  std::optional<Ordered> second;
  if (g) second.emplace(*g, out);
  const char* from = static_cast<const char*>(first.tensor.const_data_ptr());
  const char* factor = g ? static_cast<const char*>(second->tensor.const_data_ptr()) : nullptr;
  char* to = static_cast<char*>(out.mutable_data_ptr());
  if (!first.in_rows && !(g && second->in_rows)) {
    parallel(numel, kShare, [&](int64_t i, int64_t end) {
      kernels().act(type, f,
                    {1, end - i, from + i * size, 0, factor ? factor + i * size : nullptr, 0, to + i * size, 0}, param);
    });
    return out;
  }
  const int64_t n = out.size(out.dim() - 1), s_row = first.in_rows ? first.row : n,
                g_row = g && second->in_rows ? second->row : n;
  parallel(numel / n, kShare / n + 1, [&](int64_t i, int64_t end) {
    kernels().act(type, f,
                  {end - i, n, from + i * s_row * size, s_row, factor ? factor + i * g_row * size : nullptr, g_row,
                   to + i * n * size, n},
                  param);
  });
  return out;
}

Tensor act(Tensor s, std::optional<Tensor> g, std::string name, double param, int64_t order) {
  STD_TORCH_CHECK(order >= 0 && order < kOrders && (order > 0 || !g),
                  "act: order must be 0 (without g), 1, 2 or 3, got order ", order, ", g ", g.has_value());
  const Type type = g ? common_type("act", s, *g) : type_of("act", s);
  STD_TORCH_CHECK(!g || shape_of(*g) == shape_of(s), "act: s and g differ in shape");
  const Activation* a = activation(name);
  if (a == nullptr) return act_by_reference(s, g, name, param, order);
  return map(type, derivative(*a, order, type), s, g, param);
}

Tensor mul_constant(Tensor x, double c) {
  const Type type = type_of("mul_constant", x);
  return map(type, type == Type::f64 ? kernels().scale_float64 : kernels().scale_float32, x, {}, c);
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("act", TORCH_BOX(&act));
  m.impl("mul_constant", TORCH_BOX(&mul_constant));
}

}  // namespace
}  // namespace fusegrad
