// One layer, y = act(x w^T + b), in plain eager mode: its kernel and its node of autograd, in one call from Python.
#pragma once

#include <algorithm>

#include "eager.h"

namespace fusegrad {

inline PyObject* layer_by_rule = nullptr;  // the gradients by differentiable ops, as ops/linear.py has them

struct LayerRule : torch::autograd::Function<LayerRule> {
  static constexpr bool is_traceable = true;  // in compiled autograd: the rule is Python's there

  // Of y and what the activation saved, its input, if it did; that is an output, so that derivatives flow through it.
  static variable_list backward(torch::autograd::AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();  // x, w, what the activation saves or nothing
    const bool has_bias = ctx->saved_data["has_bias"].toBool();
    variable_list result(3);
    const at::Tensor& gy = grads[0];
    if (!gy.defined() && (grads.size() == 1 || !grads[1].defined())) return result;
    std::vector<bool> needed(3);
    for (size_t i = 0; i < 2 + size_t(has_bias); i++) needed[i] = ctx->needs_input_grad(i);
    const c10::IValue &act = ctx->saved_data["act"], &param = ctx->saved_data["param"];
    bool plain = is_plain_eager() && !at::GradMode::is_enabled() && (grads.size() == 1 || !grads[1].defined());
    for (const at::Tensor& t : {gy, saved[0], saved[1], saved[2]}) plain = plain && (!t.defined() || is_plain(t));
    if (!plain) return by_rule(act.toStringRef(), param.toDouble(), needed, grads, saved);
    static const Operator op("fusegrad::linear_act_backward");
    const at::Tensor& s = saved[2].defined() ? saved[2] : gy;
    torch::jit::Stack stack{gy, saved[0], saved[1], s, act, param, bool(needed[0]), bool(needed[1]), bool(needed[2])};
    op.call(stack);
    for (size_t i = 0; i < 3; i++) {
      if (needed[i]) result[i] = stack[i].toTensor();
    }
    return result;
  }

  static variable_list by_rule(const std::string& act, double param, const std::vector<bool>& needed,
                               const variable_list& grads, const variable_list& saved) {
    const pybind11::gil_scoped_acquire gil;
    THPObjectPtr name(PyUnicode_FromStringAndSize(act.data(), Py_ssize_t(act.size())));
    THPObjectPtr number(PyFloat_FromDouble(param)), given = to_tuple(grads, to_python);
    THPObjectPtr tensors = to_tuple(saved, to_python), needs = to_tuple(needed, to_bool);
    return to_tensors(
        call_python(layer_by_rule, {name.get(), number.get(), needs.get(), given.get(), tensors.get()}).get());
  }
};

struct LinearBackward : torch::autograd::CppNode<LayerRule> {
  std::string name() const override { return "LinearBackward"; }
};
struct LinearActBackward : torch::autograd::CppNode<LayerRule> {
  std::string name() const override { return "LinearActBackward"; }
};

template <class Node> void set_layer_history(const variable_list& outputs, const variable_list& inputs,
                                             const at::Tensor& s, c10::IValue act, double param) {
  auto node = make_node<Node>();
  torch::autograd::edge_list edges;
  for (const at::Tensor& t : inputs) {
    node->is_variable_input_.push_back(t.defined());
    if (t.defined()) edges.push_back(torch::autograd::impl::gradient_edge(t));
  }
  node->set_ctx_grad_fn(node);
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(outputs, node);
  node->ctx_.saved_data["act"] = std::move(act);
  node->ctx_.saved_data["param"] = param;
  node->ctx_.saved_data["has_bias"] = inputs[2].defined();
  node->ctx_.set_materialize_grads(false);
  node->ctx_.save_for_backward({inputs[0], inputs[1], s});
  node->save_variables_to_ctx();
}

// layer(x, w, b, act, param, saves_input): y, or None where that is left to Python. The op refuses what does not fit.
inline PyObject* layer(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 6 && PyUnicode_Check(args[3]), "layer: not its arguments");
  if (!is_plain_eager()) Py_RETURN_NONE;
  variable_list inputs(3);
  for (size_t i = 0; i < 3; i++) {
    if (i == 2 && args[i] == Py_None) continue;
    if (!is_plain(args[i])) Py_RETURN_NONE;
    inputs[i] = THPVariable_Unpack(args[i]);
  }
  const auto is_wanted = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  const bool differentiable = at::GradMode::is_enabled() && std::any_of(inputs.begin(), inputs.end(), is_wanted);
  Py_ssize_t length;
  const char* text = PyUnicode_AsUTF8AndSize(args[3], &length);
  const double param = PyFloat_AsDouble(args[4]);
  if (text == nullptr || (param == -1 && PyErr_Occurred())) return nullptr;
  const std::string act(text, length);
  const std::optional<at::Tensor> b = inputs[2].defined() ? std::optional<at::Tensor>(inputs[2]) : std::nullopt;
  const bool is_linear = act == "identity";
  static const Operator linear("fusegrad::linear"), linear_act("fusegrad::linear_act");
  torch::jit::Stack stack{inputs[0], inputs[1], b};
  if (!is_linear) stack.insert(stack.end(), {act, param, differentiable});
  {
    const pybind11::gil_scoped_release no_gil;
    (is_linear ? linear : linear_act).call(stack);
  }
  at::Tensor y = stack[0].toTensor();
  if (!differentiable) {
    // nothing to note
  } else if (is_linear) {
    set_layer_history<LinearBackward>({y}, inputs, {}, act, param);
  } else if (args[5] == Py_True) {
    const at::Tensor z = stack[1].toTensor();
    set_layer_history<LinearActBackward>({y, z}, inputs, z, act, param);
  } else {
    set_layer_history<LinearActBackward>({y}, inputs, y, act, param);
  }
  return THPVariable_Wrap(std::move(y));
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
