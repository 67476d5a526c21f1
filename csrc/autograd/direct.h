// The kernels of layers and activations, called with no dispatcher between where nobody listens there; else the op.
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
  if (table->layout == direct::kLayout) kernels = table;
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
  if (t.dim() == 2)
    to = {t.const_data_ptr(), t.stride(0), t.stride(1)};
  else
    to = {t.const_data_ptr(), t.size(-1), 1};
  return (t.dim() == 2 || t.is_contiguous()) && to.data != nullptr;
}

// The call of layers w_1, b_1, ..., all plain, if kernels may be called, and take what they are given.
class Direct {
 public:
  direct::Chain chain;
  bool fits;

  Direct(const at::Tensor& x, const at::Tensor* weights, size_t count, const std::string& acts)
      : fits(may_call_kernels() && count <= direct::kMostLayers && x.dim() > 0 && x.numel() > 0 &&
             as_matrix(x, chain.x)),
        x_(x) {
    if (!fits) return;
    chain.dtype = int8_t(x.scalar_type());
    chain.m = x.numel() / x.size(-1);
    chain.count = int(count);
    chain.layers = layers_;
    chain.acts = &acts;
    int64_t k = x.size(-1);
    fits = is_served(x.scalar_type());
    for (size_t l = 0; fits && l < count; l++) k = read(layers_[l], k, weights[2 * l], weights[2 * l + 1]);
    saved_ = fits ? kernels->saved_width(chain) * chain.m : -1;
    fits = saved_ >= 0;
  }

  int64_t saved() const { return saved_; }  // numbers that all layers save

  c10::DimVector shape() const {
    c10::DimVector shape(x_.sizes());
    shape.back() = layers_[chain.count - 1].n;
    return shape;
  }

  // Whether a tensor is as y is: hooks may give back anything for what was saved.
  bool is_like_y(const at::Tensor& t) const {
    return t.scalar_type() == x_.scalar_type() && t.sizes() == at::IntArrayRef(shape());
  }

  at::Tensor forward(void* saved) {
    const at::Tensor y = empty_like(x_, shape());
    chain.y = y.mutable_data_ptr();
    chain.saved = saved;
    kernels->chain(chain);
    return y;
  }

  // Of gy: gx, and gw and gb of each layer, each if the mask has its bit. y is read if the last layer saves it. Without
  // `saved` both are computed again.
  variable_list backward(const at::Tensor& gy, const at::Tensor& y, const at::Tensor& saved, int64_t mask) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor given = gy.dim() == 2 && gy.stride(1) == 1 ? gy : gy.contiguous();
    as_matrix(given, chain.gy);
    variable_list found(1 + 2 * chain.count);
    const auto make = [&](size_t i, at::IntArrayRef shape, bool by_columns = false) -> void* {
      if (!(mask >> i & 1)) return nullptr;
      found[i] = by_columns ? at::Tensor(at::detail::empty_strided_cpu(shape, {1, shape[0]}, x_.scalar_type()))
                            : empty_like(x_, shape);
      return found[i].mutable_data_ptr();
    };
    chain.gx = make(0, x_.sizes());
    for (int l = 0; l < chain.count; l++) {
      direct::Layer& layer = layers_[l];
      // as a weight (k, n) lies that was transposed: torch would copy what lies otherwise into its gradient
      layer.gw_by_columns = chain.by_layers && layer.w.row_stride == 1 && layer.w.column_stride >= layer.n;
      layer.gw = make(1 + 2 * l, {layer.n, layer.k}, layer.gw_by_columns);
      layer.gb = make(2 + 2 * l, {layer.n});
    }
    chain.y = const_cast<void*>(y.defined() ? y.const_data_ptr() : chain.gy.data);
    chain.saved = saved.defined() ? const_cast<void*>(saved.const_data_ptr()) : nullptr;
    chain.recomputes = !saved.defined();
    kernels->chain_backward(chain);
    return found;
  }

 private:
  const at::Tensor& x_;
  direct::Layer layers_[direct::kMostLayers];
  int64_t saved_ = -1;

  // The features of its output.
  int64_t read(direct::Layer& layer, int64_t k, const at::Tensor& w, const at::Tensor& b) {
    fits = w.scalar_type() == x_.scalar_type() && w.dim() == 2 && w.size(1) == k && w.numel() > 0;
    if (!fits) return k;
    layer = {w.size(0), k, {w.const_data_ptr(), w.stride(0), w.stride(1)}};
    fits = layer.w.data != nullptr;
    if (!b.defined()) return layer.n;
    layer.b = b.const_data_ptr();
    layer.b_stride = b.dim() == 1 ? b.stride(0) : 0;
    fits = fits && b.scalar_type() == x_.scalar_type() && b.dim() == 1 && b.size(0) == layer.n && layer.b != nullptr;
    return layer.n;
  }
};

// y of a chain; what its layers save, if asked to, is saved[0].
inline at::Tensor chain_forward(variable_list& saved, const std::string& acts, bool save) {
  const at::Tensor& x = saved[kX];
  Direct call(x, saved.data() + kWeights, (saved.size() - kWeights) / 2, acts);
  if (!call.fits) {
    static const Operator op("fusegrad::chain");
    const torch::jit::Stack made = op({x, weights_of(saved), acts, save});
    if (save) saved[0] = made[1].toTensor();
    return made[0].toTensor();
  }
  if (!save) return call.forward(nullptr);
  saved[0] = empty_like(x, {call.saved()});
  return call.forward(saved[0].mutable_data_ptr());
}

// Of gy: gx, and gw and gb of each layer, each if the mask has its bit. What layers save is computed again if it is
// undefined.
inline variable_list chain_backward(const at::Tensor& gy, const variable_list& saved, const std::string& acts,
                                    int64_t mask) {
  const at::Tensor &x = saved[kX], &y = saved[1], &of_layers = saved[0];  // as hooks gave them back
  Direct call(x, saved.data() + kWeights, (saved.size() - kWeights) / 2, acts);
  const bool is_made = !of_layers.defined() || (of_layers.scalar_type() == x.scalar_type() &&
                                                of_layers.numel() == call.saved() && of_layers.is_contiguous());
  if (call.fits && is_made && call.is_like_y(gy) && (!y.defined() || (call.is_like_y(y) && y.is_contiguous()))) {
    return call.backward(gy, y, of_layers, mask);
  }
  if (!of_layers.defined()) {
    const at::AutoDispatchBelowADInplaceOrView below;
    variable_list again = saved;
    again[1] = chain_forward(again, acts, true);
    return chain_backward(gy, again, acts, mask);
  }
  static const Operator op("fusegrad::chain_backward");
  const c10::List<at::Tensor> made =
      op({gy, x, weights_of(saved), y.defined() ? y : gy, of_layers, acts, mask})[0].toTensorList();
  variable_list found(made.size());
  for (size_t i = 0; i < found.size(); i++) {
    if (mask >> i & 1) found[i] = made[i];
  }
  return found;
}

// act(x w^T + b), and z, if it is to be saved; nothing where the op is to be called.
inline std::optional<std::pair<at::Tensor, at::Tensor>> layer_at_once(const at::Tensor& x, const at::Tensor& w,
                                                                      const at::Tensor& b, const std::string& act,
                                                                      bool save) {
  const at::Tensor weights[] = {w, b};
  Direct call(x, weights, 1, act);
  if (!call.fits) return std::nullopt;
  call.chain.by_layers = true;
  const at::Tensor z = save && call.saved() ? empty_like(x, call.shape()) : at::Tensor();
  return std::pair(call.forward(z.defined() ? z.mutable_data_ptr() : nullptr), z);
}

// Of gy: gx, gw, gb, each if needed, of what the activation saves; empty where the op is to be called.
inline variable_list layer_backward_at_once(const at::Tensor& gy, const at::Tensor& x, const at::Tensor& w,
                                            const at::Tensor& s, const std::string& act,
                                            const std::array<bool, 3>& needed) {
  const at::Tensor weights[] = {w, {}};
  Direct call(x, weights, 1, act);
  if (!call.fits || !call.is_like_y(gy) || !call.is_like_y(s) || !s.is_contiguous()) return {};
  call.chain.by_layers = true;
  return call.backward(gy, s, s, needed[0] | needed[1] << 1 | needed[2] << 2);
}

}  // namespace fusegrad
