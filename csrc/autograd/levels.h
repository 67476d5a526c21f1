// Layers under torch.func, by torch's functions: its levels cost an op in Python more than its kernel saves.
#pragma once

#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "chain_second.h"
#include "facts.h"

namespace fusegrad {

// z = x w^T + b at a level that differentiates. What makes its gradients is torch's, which levels around it see, so
// that every order follows. With x of one row, as each sample has under vmap, gw is no product of matrices: of 48
// samples and 224 x 224 weights torch takes 1.1 ms for that, and 0.25 ms for this (Zen 4, one core, 2026-11-27).
struct LevelLinearRule {
  static constexpr const char *kOp = "level_linear", *kNode = "LevelLinearBackward";
  static size_t inputs(const Facts&) { return 3; }

  static variable_list backward(const Facts&, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    const at::Tensor &x = saved[0], &w = saved[1], g = rows(grads[0]);
    const bool outer = g.size(0) == 1 && g.scalar_type() != at::kBFloat16;  // of which torch's products are as fast
    const auto of_weight = [&] { return outer ? g.t().mul(rows(x)) : at::mm(g.t(), rows(x)); };
    return {needed[0] ? at::mm(g, w).reshape(x.sizes()) : at::Tensor(), needed[1] ? of_weight() : at::Tensor(),
            needed[2] ? g.sum(0) : at::Tensor()};
  }
};
template <> inline constexpr bool kInAllModes<LevelLinearRule> = true;

inline at::Tensor level_linear(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& bias) {
  const auto has_tangent = [](const at::Tensor& t) { return t.defined() && t._fw_grad(0).defined(); };
  const at::Tensor b = bias.value_or(at::Tensor());
  if (!is_differentiable(x, w, b) || has_tangent(x) || has_tangent(w) || has_tangent(b)) return at::linear(x, w, bias);
  at::Tensor z;
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    z = at::linear(x, w, bias);
  }
  set_history<LevelLinearRule>({z}, {x, w, b}, {x, w}, {});
  return z;
}

TORCH_LIBRARY_FRAGMENT(fusegrad, m) { m.def("level_linear(Tensor x, Tensor w, Tensor? b) -> Tensor"); }
TORCH_LIBRARY_IMPL(fusegrad, Autograd, m) { m.impl("level_linear", level_linear); }
TORCH_LIBRARY_IMPL(fusegrad, FuncTorchBatched, m) { m.impl("level_linear", at::linear); }
TORCH_LIBRARY_IMPL(fusegrad, CompositeExplicitAutograd, m) { m.impl("level_linear", at::linear); }

// A linear layer by that op, where a level differentiates what it is given, else by torch's function, which autocast
// casts for.
inline at::Tensor torchs_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
  const auto is_differentiated = [](const at::Tensor& t) {
    return t.defined() && t.key_set().has(c10::DispatchKey::FuncTorchGradWrapper);
  };
  const bool differentiated = is_differentiated(x) || is_differentiated(w) || is_differentiated(b);
  if (!differentiated || autocast_type()) return at::linear(x, w, if_any(b));
  using Kernel = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&);
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("fusegrad::level_linear", "").typed<Kernel>();
  return op.call(x, w, if_any(b));
}

// linear_in_levels(x, w, b): the same, or None where more than torch.func is at work.
inline PyObject* linear_in_levels(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 3, "linear_in_levels: not its arguments");
  at::Tensor of[3];
  if (!is_only_torch_func()) Py_RETURN_NONE;
  for (int i = 0; i < 3; i++) {
    if (i == 2 && args[i] == Py_None) break;
    if (!THPVariable_CheckExact(args[i])) Py_RETURN_NONE;
    of[i] = THPVariable_Unpack(args[i]);
  }
  return without_gil([&] { return torchs_linear(of[0], of[1], of[2]); });
  END_HANDLE_TH_ERRORS
}

// Up to how many multiplications of a layer torch's functions are best, by dtype: of python/fusegrad/routing.py.
struct LevelLimits {
  static constexpr Py_ssize_t kCount = 2;
  int64_t wide, bfloat16;
  explicit LevelLimits(PyObject* const* args)
      : wide(PyLong_AsLongLong(args[0])), bfloat16(PyLong_AsLongLong(args[1])) {}
};

// Layers w_1, b_1, ... with their activations, of which each is the input of the next; nothing where they do not fit,
// or may be faster as ops.
template <class Weight> std::optional<at::Tensor> by_torch(PyObject* given, Weight weight,
                                                           const std::vector<Activation>& acts, LevelLimits limits) {
  if (given == nullptr || !THPVariable_CheckExact(given)) return std::nullopt;
  at::Tensor x = THPVariable_Unpack(given);
  const std::optional<at::ScalarType> autocast = autocast_type();
  const at::ScalarType type = type_in_product(x, autocast);
  if (!x.is_cpu() || x.layout() != at::kStrided || x.dim() == 0) return std::nullopt;
  const int64_t most = is_wide(type) ? limits.wide : type == at::kBFloat16 ? limits.bfloat16 : -1;
  variable_list of(2 * acts.size());
  std::vector<Stock> functions;
  int64_t k = x.size(-1);
  const double rows = double(x.numel()) / double(std::max<int64_t>(k, 1));
  for (size_t i = 0; i < of.size(); i++) {
    PyObject* object = weight(Py_ssize_t(i));
    const bool is_bias = i % 2;
    if (is_bias && object == Py_None) continue;
    if (object == nullptr || !THPVariable_CheckExact(object)) return std::nullopt;
    const at::Tensor& t = of[i] = THPVariable_Unpack(object);
    if (!t.is_cpu() || t.layout() != at::kStrided || type_in_product(t, autocast) != type) return std::nullopt;
    if (t.dim() != (is_bias ? 1 : 2) || t.size(-1) != k) return std::nullopt;
    if (is_bias) continue;
    if (rows * double(t.numel()) > double(most)) return std::nullopt;
    k = t.size(0);
    functions.push_back(torchs(acts[i / 2].name));
    if (functions.back() == nullptr) return std::nullopt;
  }
  const pybind11::gil_scoped_release no_gil;
  for (size_t i = 0; i < acts.size(); i++) x = functions[i](torchs_linear(x, of[2 * i], of[2 * i + 1]), acts[i].param);
  return x;
}

}  // namespace fusegrad
