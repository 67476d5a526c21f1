// The kernels of a chain, called with no dispatcher between where nobody listens there; else the op.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/record_function.h>

#include "../cpu/direct.h"
#include "chain_saved.h"

namespace fusegrad {

inline const direct::Table* kernels = nullptr;

inline PyObject* set_kernels(PyObject*, PyObject* capsule) {
  const auto* table = static_cast<const direct::Table*>(PyCapsule_GetPointer(capsule, "fusegrad.direct"));
  if (table == nullptr) return nullptr;
  if (table->size == sizeof(direct::Table)) kernels = table;
  Py_RETURN_NONE;
}

// A profiler sees ops.
inline bool may_call_kernels() {
  return kernels != nullptr && !at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION).has_value();
}

inline at::Tensor empty_like(const at::Tensor& like, at::IntArrayRef sizes) {
  return at::Tensor(at::detail::empty_cpu(sizes, like.scalar_type()));
}

// (..., k) as a matrix, if its leading dimensions are one.
inline bool as_matrix(const at::Tensor& t, direct::Matrix& to) {
  const int64_t k = t.size(-1);
  if (t.dim() == 2)
    to = {t.const_data_ptr(), t.stride(0), t.stride(1)};
  else
    to = {t.const_data_ptr(), k, 1};
  return t.dim() == 2 || t.is_contiguous();
}

// A chain of what its node saves, if kernels may be called.
class Direct {
 public:
  direct::Chain chain;
  bool fits;

  Direct(const variable_list& saved, const std::string& acts) {
    const at::Tensor& x = saved[kX];
    const size_t count = (saved.size() - kWeights) / 2;
    fits = may_call_kernels() && count <= kMost && as_matrix(x, chain.x) && chain.x.data != nullptr;
    if (!fits) return;
    chain.dtype = int8_t(x.scalar_type());
    chain.m = x.numel() / x.size(-1);
    chain.count = int(count);
    chain.layers = layers_;
    chain.acts = &acts;
    for (size_t l = 0; fits && l < count; l++) {
      const at::Tensor &w = saved[kWeights + 2 * l], &b = saved[kWeights + 2 * l + 1];
      layers_[l] = {w.size(0), w.size(1), {w.const_data_ptr(), w.stride(0), w.stride(1)}};
      if (b.defined()) layers_[l].b = b.const_data_ptr(), layers_[l].b_stride = b.stride(0);
      fits = layers_[l].w.data != nullptr && (!b.defined() || layers_[l].b != nullptr);
    }
    saved_ = fits ? kernels->saved_width(chain) * chain.m : -1;
    fits = saved_ >= 0;
  }
  int64_t saved() const { return saved_; }

 private:
  static constexpr size_t kMost = 30;
  direct::Layer layers_[kMost];
  int64_t saved_ = -1;
};

// y of a chain; what its layers save, if asked to, is saved[0].
inline at::Tensor chain_forward(variable_list& saved, const std::string& acts, bool save) {
  const at::Tensor& x = saved[kX];
  Direct call(saved, acts);
  if (!call.fits) {
    static const Operator op("fusegrad::chain");
    const torch::jit::Stack made = op({x, weights_of(saved), acts, save});
    if (save) saved[0] = made[1].toTensor();
    return made[0].toTensor();
  }
  c10::DimVector shape(x.sizes());
  shape.back() = call.chain.layers[call.chain.count - 1].n;
  const at::Tensor y = empty_like(x, shape), of_layers = save ? empty_like(x, {call.saved()}) : at::Tensor();
  call.chain.y = y.mutable_data_ptr();
  call.chain.saved = save ? of_layers.mutable_data_ptr() : nullptr;
  kernels->chain(call.chain);
  if (save) saved[0] = of_layers;
  return y;
}

// Of gy: gx, and gw and gb of each layer, each if the mask has its bit.
inline variable_list chain_backward(const at::Tensor& gy, const variable_list& saved, const std::string& acts,
                                    int64_t mask) {
  const at::Tensor &x = saved[kX], &y = saved[1], &of_layers = saved[0];
  variable_list found(saved.size() - kX);
  Direct call(saved, acts);
  const bool fits = call.fits && of_layers.numel() == call.saved() && of_layers.is_contiguous() &&
                    (!y.defined() || y.is_contiguous());
  if (!fits) {
    static const Operator op("fusegrad::chain_backward");
    const c10::List<at::Tensor> made =
        op({gy, x, weights_of(saved), y.defined() ? y : gy, of_layers, acts, mask})[0].toTensorList();
    for (size_t i = 0; i < found.size(); i++) {
      if (mask >> i & 1) found[i] = made[i];
    }
    return found;
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  const bool adjacent = gy.dim() == 2 && gy.stride(1) == 1;
  const at::Tensor given = adjacent ? gy : gy.contiguous();
  as_matrix(given, call.chain.gy);
  const auto make = [&](size_t i, at::IntArrayRef shape) -> void* {
    if (!(mask >> i & 1)) return nullptr;
    found[i] = empty_like(x, shape);
    return found[i].mutable_data_ptr();
  };
  call.chain.gx = make(0, x.sizes());
  for (int l = 0; l < call.chain.count; l++) {
    direct::Layer& layer = call.chain.layers[l];
    layer.gw = make(1 + 2 * l, {layer.n, layer.k});
    layer.gb = make(2 + 2 * l, {layer.n});
  }
  call.chain.y = const_cast<void*>(y.defined() ? y.const_data_ptr() : call.chain.gy.data);
  call.chain.saved = const_cast<void*>(of_layers.const_data_ptr());
  kernels->chain_backward(call.chain);
  return found;
}

}  // namespace fusegrad
