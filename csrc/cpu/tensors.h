// From tensors to what the kernels take.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <string>
#include <vector>

#include "capability.h"

namespace fusegrad {

using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

inline Type type_of(const char* op, const Tensor& t) {
  using torch::headeronly::ScalarType;
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Type::f32;
    case ScalarType::Double:
      return Type::f64;
    case ScalarType::BFloat16:
      return Type::bf16;
    case ScalarType::Half:
      return Type::f16;
    default:
      STD_TORCH_CHECK(false, op, ": need float32, float64, bfloat16 or float16");
  }
}

// The kernels read all tensors of a call as of the type of the first.
template <class... Ts> Type common_type(const char* op, const Tensor& first, const Ts&... others) {
  STD_TORCH_CHECK(((others.scalar_type() == first.scalar_type()) && ...), op, ": the dtypes differ");
  return type_of(op, first);
}

// A contiguous tensor of a shape, on the CPU and of the dtype of `like`; the shortest way to one.
inline Tensor empty(const Tensor& like, const Shape& shape) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i] > 0 ? shape[i] : 1;
  }
  int32_t dtype;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), shape.data(), strides.data(), dtype,
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Shape shape_of(const Tensor& t) { return Shape(t.sizes().begin(), t.sizes().end()); }

// (..., k) as a matrix (m, k): of the strides it has where the leading dimensions are one, else a copy.
struct Rows {
  Tensor tensor;
  int64_t m, k;
  Operand operand;

  explicit Rows(const Tensor& t) : tensor(t) {
    const int64_t last = t.dim() - 1;
    k = t.size(last);
    m = 1;
    int64_t row = k;
    bool one = true;
    for (int64_t i = last - 1; i >= 0; i--) {
      if (t.size(i) == 1) continue;
      if (m == 1) row = t.stride(i);
      one &= m == 1 || t.stride(i) == row * m;
      m *= t.size(i);
    }
    if (!one) {
      tensor = torch::stable::contiguous(t);
      row = k;
    }
    operand = {tensor.const_data_ptr(), row, k == 1 ? 1 : tensor.stride(last)};
  }
};

inline Operand matrix(const Tensor& t, bool transposed) {
  const Operand o{t.const_data_ptr(), t.stride(0), t.stride(1)};
  return transposed ? Operand{o.data, o.column, o.row} : o;
}
inline Operand transposed(const Operand& o) { return {o.data, o.column, o.row}; }

// nullptr for one that Python knows and the kernels don't.
inline const Activation* activation(const std::string& name) {
  const Kernels& all = kernels();
  for (int i = 0; i < all.count; i++)
    if (name == all.activations[i].name) return &all.activations[i];
  return nullptr;
}
inline Elementwise derivative(const Activation& a, int64_t order, Type type) {
  return (type == Type::f64 ? a.float64 : a.float32)[order];
}
inline Derivative backward(const Activation& a, int64_t order, Type type) {
  return (type == Type::f64 ? a.backward_float64 : a.backward_float32)[order - 1];
}
inline Derivative jvp(const Activation& a, int64_t order, Type type) {
  return (type == Type::f64 ? a.jvp_float64 : a.jvp_float32)[order - 1];
}

// The op `name` of torch or of the reference, on tensors and what else it takes.
template <class... Args> Tensor call(const char* name, const Args&... args) {
  using torch::stable::detail::from;
  StableIValue stack[] = {from(args)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}
inline Tensor act_by_reference(const Tensor& s, const std::optional<Tensor>& g, const std::string& name, double param,
                               int64_t order) {
  return call("fusegrad::act_nth", s, g, name, param, order);
}

}  // namespace fusegrad
