// The op `chain` in plain eager mode: its checks, its kernel and its node of autograd, in one call from Python.
#pragma once

#include "eager.h"
#include "facts.h"

namespace fusegrad {

inline PyObject* chain_by_rule = nullptr;  // the gradients by differentiable ops, as ops/chain.py has them

// What is saved: what the layers save, y or nothing, x, w_1, b_1, ...
constexpr size_t kX = 2, kWeights = 3;

inline std::vector<int64_t> places(const variable_list& saved) {
  std::vector<int64_t> at;
  at.reserve(saved.size() / 2);
  for (size_t i = kWeights; i < saved.size(); i += 2) at.push_back(reinterpret_cast<int64_t>(saved[i].data_ptr()));
  return at;
}

inline c10::List<std::optional<at::Tensor>> weights_of(const variable_list& saved) {
  c10::List<std::optional<at::Tensor>> weights;
  weights.reserve(saved.size() - kWeights);
  for (size_t i = kWeights; i < saved.size(); i++) {
    weights.push_back(saved[i].defined() ? std::optional<at::Tensor>(saved[i]) : std::nullopt);
  }
  return weights;
}

inline void check_places(const variable_list& saved, const std::vector<int64_t>& at) {
  if (at.empty()) return;
  const std::vector<int64_t> now = places(saved);
  for (size_t i = 0; i < at.size(); i++) {
    TORCH_CHECK(now[i] == at[i], "chain: a weight, ", saved[kWeights + 2 * i].sizes(),
                ", was given other data between forward and backward, which needs the old; call backward before "
                "`weight.data = ...` and nn.utils.vector_to_parameters");
  }
}

struct ChainRule : torch::autograd::Function<ChainRule> {
  static constexpr bool is_traceable = true;  // in compiled autograd: the rule is Python's there

  static variable_list backward(torch::autograd::AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& gy = grads[0];
    variable_list result(saved.size() - kX);
    if (!gy.defined()) return result;
    std::vector<bool> needed(result.size());
    int64_t mask = 0;
    for (size_t i = 0, edge = 0; i < result.size(); i++) {
      if (saved[kX + i].defined()) needed[i] = ctx->needs_input_grad(edge++);
      mask |= int64_t(needed[i]) << i;
    }
    const c10::IValue& acts = ctx->saved_data["acts"];
    bool plain = is_plain_eager() && is_plain(gy);
    for (const at::Tensor& t : saved) plain = plain && (!t.defined() || is_plain(t));
    if (plain) check_places(saved, ctx->saved_data["places"].toIntVector());
    if (!plain || at::GradMode::is_enabled()) return by_rule(gy, saved, acts.toStringRef(), needed);
    static const Operator op("fusegrad::chain_backward");
    torch::jit::Stack stack{gy, saved[kX], weights_of(saved), saved[1].defined() ? saved[1] : gy, saved[0], acts, mask};
    op.call(stack);
    const c10::List<at::Tensor> found = stack[0].toTensorList();
    for (size_t i = 0; i < result.size(); i++) {
      if (needed[i]) result[i] = found[i];
    }
    return result;
  }

  static variable_list by_rule(const at::Tensor& gy, const variable_list& saved, const std::string& acts,
                               const std::vector<bool>& needed) {
    const pybind11::gil_scoped_acquire gil;
    THPObjectPtr g(to_python(gy)), text(PyUnicode_FromStringAndSize(acts.data(), Py_ssize_t(acts.size())));
    THPObjectPtr tensors = to_tuple(saved, to_python);
    THPObjectPtr needs = to_tuple(needed, to_bool);
    return to_tensors(call_python(chain_by_rule, {text.get(), needs.get(), g.get(), tensors.get()}).get());
  }
};

struct ChainBackward : torch::autograd::CppNode<ChainRule> {
  std::string name() const override { return "ChainBackward"; }
};

inline void set_chain_history(const at::Tensor& y, variable_list saved, c10::IValue acts) {
  auto node = make_node<ChainBackward>();
  const variable_list inputs(saved.begin() + kX, saved.end());
  torch::autograd::edge_list edges;
  edges.reserve(inputs.size());
  for (const at::Tensor& t : inputs) {
    node->is_variable_input_.push_back(t.defined());
    if (t.defined()) edges.push_back(torch::autograd::impl::gradient_edge(t));
  }
  node->set_ctx_grad_fn(node);
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(y, node);
  node->ctx_.saved_data["acts"] = std::move(acts);
  // hooks may give back copies of what is saved
  const bool stays = !at::SavedTensorDefaultHooks::get_hooks();
  node->ctx_.saved_data["places"] = stays ? places(saved) : std::vector<int64_t>();
  node->ctx_.set_materialize_grads(false);
  node->ctx_.save_for_backward(std::move(saved));
  node->save_variables_to_ctx();
}

// Of what is served: how wide its layers are, or how many their multiplications, at most; and whether an x that
// requires a gradient is.
struct Limits {
  int64_t width, largest;
  bool derived;
  explicit Limits(PyObject* const* args)
      : width(PyLong_AsLongLong(args[0])), largest(PyLong_AsLongLong(args[1])), derived(args[2] == Py_True) {}
};

// y of layers w_1, b_1, ...; None where they are left to Python, False where they are best made one by one. `weight(i)`
// is a borrowed reference, or nullptr.
template <class Weight> PyObject* run_chain(PyObject* given, Py_ssize_t count, Weight weight, PyObject* names,
                                            bool saves_output, const Limits& limits) {
  if (!is_plain_eager() || !is_plain(given)) Py_RETURN_NONE;
  const at::Tensor& x = THPVariable_Unpack(given);
  const bool grad_mode = at::GradMode::is_enabled();
  bool differentiable = x.requires_grad();
  if (x.dim() == 0 || x.numel() == 0) Py_RETURN_NONE;
  if (grad_mode && differentiable && !limits.derived) Py_RETURN_FALSE;
  int64_t k = x.size(-1);
  const at::ScalarType type = x.scalar_type();
  const bool is_wide = type == at::kFloat || type == at::kDouble;
  if (!is_wide && type != at::kBFloat16 && type != at::kHalf) Py_RETURN_NONE;
  bool narrow = is_wide;
  double multiplied = 0;
  variable_list saved(kWeights + count);
  saved[kX] = x;
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject* item = weight(i);
    const bool is_bias = i % 2;
    if (item == Py_None && is_bias) continue;
    if (item == nullptr || !is_plain(item)) Py_RETURN_NONE;
    const at::Tensor& t = THPVariable_Unpack(item);
    if (t.scalar_type() != type || t.dim() != (is_bias ? 1 : 2)) Py_RETURN_NONE;
    if (is_bias ? t.size(0) != k : t.size(1) != k || t.size(0) == 0) Py_RETURN_NONE;
    if (!is_bias) {
      k = t.size(0);
      narrow = narrow && k <= limits.width;
      multiplied += double(t.numel());
    }
    differentiable = differentiable || t.requires_grad();
    saved[kWeights + i] = t;
  }
  if (!narrow && multiplied * double(x.numel() / x.size(-1)) > double(limits.largest)) Py_RETURN_FALSE;
  differentiable = differentiable && grad_mode;
  Py_ssize_t length;
  const char* text = PyUnicode_AsUTF8AndSize(names, &length);
  if (text == nullptr) return nullptr;
  const c10::IValue acts(std::string(text, length));
  static const Operator op("fusegrad::chain");
  torch::jit::Stack stack{x, weights_of(saved), acts, differentiable};
  {
    const pybind11::gil_scoped_release no_gil;
    op.call(stack);
  }
  at::Tensor y = stack[0].toTensor();
  if (differentiable) {
    saved[0] = stack[1].toTensor();
    if (saves_output) saved[1] = y;
    set_chain_history(y, std::move(saved), acts);
  }
  return THPVariable_Wrap(std::move(y));
}

// chain(x, (w_1, b_1, ...), acts, saves_output, width, largest, derived): y or None
inline PyObject* chain(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 7 && PyTuple_Check(args[1]) && PyUnicode_Check(args[2]), "chain: not its arguments");
  const auto weight = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(args[1], i); };
  PyObject* y = run_chain(args[0], PyTuple_GET_SIZE(args[1]), weight, args[2], args[3] == Py_True, Limits(args + 4));
  if (y != Py_False) return y;
  Py_DECREF(y);
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

// kept_chain(x, (modules of a Sequential, those that they were, facts, _parameters of each layer, acts, saves_output,
// ...), width, largest, derived): run_chain of a chain that was found before, if nothing has changed.
inline PyObject* kept_chain(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 5 && PyTuple_Check(args[1]) && PyTuple_GET_SIZE(args[1]) >= 6,
                   "kept_chain: not its arguments");
  const auto part = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(args[1], i); };
  const bool same = are_values(part(0), part(1)) && hold(part(2));
  if (PyErr_Occurred()) return nullptr;
  if (!same) Py_RETURN_NONE;
  PyObject* parameters = part(3);
  static PyObject* const names[] = {PyUnicode_InternFromString("weight"), PyUnicode_InternFromString("bias")};
  const auto weight = [&](Py_ssize_t i) {
    return PyDict_GetItemWithError(PyTuple_GET_ITEM(parameters, i / 2), names[i % 2]);
  };
  return run_chain(args[0], 2 * PyTuple_GET_SIZE(parameters), weight, part(4), part(5) == Py_True, Limits(args + 2));
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
