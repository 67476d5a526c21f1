#include "tensors.h"

namespace fusegrad {
namespace {

constexpr int64_t kShare = 16384;  // elements: less is not worth a second thread

// s as a tensor laid out as `out`, which may become it.
const void* laid_out_as(const Tensor& out, const Tensor& s, Tensor& room) {
  const auto same = [&] {
    for (int64_t i = 0; i < s.dim(); i++)
      if (s.size(i) > 1 && s.stride(i) != out.stride(i)) return false;
    return true;
  };
  if (same()) return s.const_data_ptr();
  torch::stable::copy_(room, s);
  return room.const_data_ptr();
}

Tensor act(Tensor s, std::optional<Tensor> g, std::string name, double param, int64_t order) {
  STD_TORCH_CHECK(order >= 0 && order < kOrders && (order > 0 || !g),
                  "act: order must be 0 (without g), 1, 2 or 3, got order ", order, ", g ", g.has_value());
  const Type type = g ? common_type("act", s, *g) : type_of("act", s);
  const Activation* a = activation(name);
  if (a == nullptr) return act_by_reference(s, g, name, param, order);
  Tensor out = s.is_contiguous() ? empty(s, shape_of(s)) : torch::stable::empty_like(s);
  const int64_t n = out.numel(), size = size_of(type);
  if (n == 0) return out;
  const Elementwise f = derivative(*a, order, type);
  const char* from = static_cast<const char*>(laid_out_as(out, s, out));
  const char* factor = nullptr;
  Tensor room = out;
  if (g) {
    if (from == out.const_data_ptr()) room = torch::stable::empty_like(s);
    factor = static_cast<const char*>(laid_out_as(out, *g, room));
  }
  char* to = static_cast<char*>(out.mutable_data_ptr());
  parallel(n, kShare, [&](int64_t i, int64_t end) {
    kernels().act(type, f, from + i * size, factor ? factor + i * size : nullptr, to + i * size, end - i, param);
  });
  return out;
}

Tensor mul_constant(Tensor x, double c) {
  const Type type = type_of("mul_constant", x);
  Tensor out = x.is_contiguous() ? empty(x, shape_of(x)) : torch::stable::empty_like(x);
  const int64_t n = out.numel(), size = size_of(type);
  if (n == 0) return out;
  const char* from = static_cast<const char*>(laid_out_as(out, x, out));
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const Elementwise f = type == Type::f64 ? kernels().scale_float64 : kernels().scale_float32;
  parallel(n, kShare, [&](int64_t i, int64_t end) {
    kernels().act(type, f, from + i * size, nullptr, to + i * size, end - i, c);
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("act", TORCH_BOX(&act));
  m.impl("mul_constant", TORCH_BOX(&mul_constant));
}

}  // namespace
}  // namespace fusegrad
