// From tensors to what the kernels take.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "capability.h"
#include "flush.h"
#include "operands.h"
#include "registry.h"

namespace fusegrad {

using Shape = std::vector<int64_t>;

// A string that an op is given, and owns. Ops do not take std::string: torch's conversion to that never frees what it
// makes of it, 48 bytes a call (torch 2.13).
inline std::string text_of(StringHandle handle) {
  size_t length;
  const char* data;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
  std::string text(data, length);
  STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
  return text;
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

// Bytes of a matrix; std::bad_alloc where no memory could be so large, as of a matrix that is expanded.
inline int64_t bytes_of(int64_t rows, int64_t columns, int64_t size) {
  int64_t bytes;
  if (__builtin_mul_overflow(rows, columns, &bytes) || __builtin_mul_overflow(bytes, 2 * size, &bytes))
    throw std::bad_alloc();
  return bytes / 2;
}

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Shape shape_of(const Tensor& t) { return Shape(t.sizes().begin(), t.sizes().end()); }

// (..., k) as a matrix (m, k): of the strides it has where the leading dimensions are one, else a copy. Or as many such
// matrices, `step` numbers apart, as the first dimension has, if the leading dimensions are those from `first` = 1 on.
struct Rows {
  Tensor tensor;
  int64_t m, k;
  Operand operand;
  int64_t step = 0;

  explicit Rows(const Tensor& t, int64_t first = 0) : tensor(t) {
    const int64_t last = t.dim() - 1;
    k = t.size(last);
    m = 1;
    int64_t row = k;
    bool one = true;
    for (int64_t i = last - 1; i >= first; i--) {
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
    if (first > 0) step = tensor.stride(0);
  }
};

// The same, of rows whose numbers follow one another: of a copy where they don't.
inline Rows adjacent_rows(const Tensor& t) {
  Rows rows(t);
  return rows.operand.column_stride == 1 ? rows : Rows(torch::stable::contiguous(t));
}

inline Operand matrix(const Tensor& t, bool transposed) {
  const Operand o{t.const_data_ptr(), t.stride(0), t.stride(1)};
  return transposed ? Operand{o.data, o.column_stride, o.row_stride} : o;
}
inline Operand transposed(const Operand& o) { return {o.data, o.column_stride, o.row_stride}; }

// x w^T + b, of operands that fit.
inline Gemm affine(Type type, const Rows& x, const Tensor& w, const std::optional<Tensor>& b) {
  Gemm g{type, x.m, w.size(0), x.k, x.operand, matrix(w, true), nullptr};
  if (b) {
    g.bias = b->const_data_ptr();
    g.bias_stride = b->stride(0);
  }
  return g;
}

inline Tensor output(const Tensor& x, const Tensor& w) {
  Shape shape = shape_of(x);
  shape.back() = w.size(0);
  return empty(x, shape);
}

// Rows of gz to a partial sum: few enough to be shared well, and the same for any number of threads.
constexpr int64_t kRowsPerSum = 32;

inline Elementwise derivative(const Activation& a, int64_t order, Type type) {
  return (type == Type::f64 ? a.float64 : a.float32)[order];
}
constexpr int64_t kShare = 16384;  // elements of an activation: less is not worth a second thread

// g D_order(s) of rows of numbers of a type, on this thread.
inline void act_on_rows(const Activation& a, int64_t order, Type type, const ElementwiseArgs& args, double param) {
  const bool is_narrow = (type == Type::bf16 || type == Type::f16) && order < 2;
  const Elementwise narrow = is_narrow ? (type == Type::bf16 ? a.bfloat16 : a.float16)[order] : nullptr;
  if (narrow)
    narrow(args, param);
  else
    kernels().act(type, derivative(a, order, type), args, param);
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
// g D_order(s) of an activation that is not among those of the kernels.
inline Tensor act_by_reference(const char* op, const Tensor& s, const std::optional<Tensor>& g, const std::string& act,
                               double param, int64_t order) {
  try {
    return call("fusegrad::act_reference", s, g, act, param, order);
  } catch (const std::runtime_error&) {  // which does not say why
    throw std::runtime_error(op + (": unknown act '" + act) + "', or one that fails on the reference");
  }
}

}  // namespace fusegrad
