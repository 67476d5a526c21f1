// Layers and activations that were found before (python/fusegrad/fusion/kept.py), run at once if nothing has changed.
#pragma once

#include "chain.h"
#include "facts.h"
#include "gated.h"
#include "levels.h"

namespace fusegrad {

// Whether the layers of a Sequential, as kept_chain gets them, are as they were found.
inline bool are_as_found(PyObject* layers) {
  const auto part = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(layers, i); };
  return PyTuple_Check(layers) && PyTuple_GET_SIZE(layers) >= 7 && are_values(part(0), part(1)) && hold(part(2));
}

inline PyObject* are_as_found(PyObject*, PyObject* layers) {
  const bool same = are_as_found(layers);
  return PyErr_Occurred() ? nullptr : to_bool(same);
}

// route(x, w, b): of a layer that C++ runs at once, "function" or "kernel" (python/fusegrad/routing.py), or under
// autocast "op"; None of others.
inline PyObject* route(PyObject*, PyObject* const* args, Py_ssize_t count) {
  static PyObject *const function = PyUnicode_InternFromString("function"),
                         *const kernel = PyUnicode_InternFromString("kernel"),
                         *const op = PyUnicode_InternFromString("op");
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 3, "route: not its arguments");
  Given given;
  if (!given.read(args[0], 2, [&](Py_ssize_t i) { return args[1 + i]; }, {})) Py_RETURN_NONE;
  return Py_NewRef(autocast_type() ? op : given.differentiable ? function : kernel);
  END_HANDLE_TH_ERRORS
}

// kept_chain(x, (modules of a Sequential, those that they were, facts, _parameters of each layer, acts, saves_input,
// ...), *limits): the same of layers that were found before, if nothing has changed: one by one where they are no
// chain; where they may not, that is left to Python, by False.
inline PyObject* kept_chain(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 2 + Limits::kCount + LevelLimits::kCount && PyTuple_Check(args[1]),
                   "kept_chain: not its arguments");
  const auto part = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(args[1], i); };
  const bool same = are_as_found(args[1]);
  if (PyErr_Occurred()) return nullptr;
  if (!same) Py_RETURN_NONE;
  PyObject* parameters = part(3);
  const auto weight = [&](Py_ssize_t i) { return parameter(PyTuple_GET_ITEM(parameters, i / 2), i % 2); };
  if (is_only_torch_func()) {
    if (part(6) != Py_True) Py_RETURN_FALSE;
    const auto y = by_torch(args[0], weight, activations_of(text_of(part(4))), LevelLimits(args + 2 + Limits::kCount));
    return y ? THPVariable_Wrap(*y) : Py_NewRef(Py_False);
  }
  Given given;
  if (!given.read(args[0], 2 * PyTuple_GET_SIZE(parameters), weight, Limits(args + 2))) Py_RETURN_NONE;
  const bool as_one = given.fits_chain && PyTuple_GET_SIZE(parameters) > 1;
  if (!as_one && part(6) != Py_True) Py_RETURN_FALSE;
  const std::string acts = text_of(part(4));
  const int64_t saves_input = PyLong_AsLongLong(part(5));
  return without_gil([&] {
    const WithoutAutocast off;
    return as_one ? given.run_chain(acts, saves_input, off) : given.run_layers(acts, saves_input, off);
  });
  END_HANDLE_TH_ERRORS
}

// kept_layer(x, act, (act, facts, _parameters of the layer, name, param, saves_input), *limits): y of a layer and of
// what is called after it, as they were found before, if nothing has changed; the limits are for torch.func.
inline PyObject* kept_layer(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 3 + LevelLimits::kCount && PyTuple_Check(args[2]) && PyTuple_GET_SIZE(args[2]) == 6,
                   "kept_layer: not its arguments");
  const auto part = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(args[2], i); };
  if (part(0) != args[1]) Py_RETURN_NONE;
  const auto weight = [&](Py_ssize_t i) { return parameter(part(2), i); };
  Given given;
  const bool in_torch_func = is_only_torch_func();
  if (!in_torch_func && !given.read(args[0], 2, weight, {})) Py_RETURN_NONE;
  const bool same = hold(part(1));
  if (PyErr_Occurred()) return nullptr;
  if (!same) Py_RETURN_NONE;
  const Activation a(part(3), part(4));
  if (in_torch_func) {
    const std::optional<at::Tensor> y = by_torch(args[0], weight, {a}, LevelLimits(args + 3));
    return y ? THPVariable_Wrap(*y) : Py_NewRef(Py_None);
  }
  const bool saves_input = part(5) == Py_True;
  variable_list& of = given.saved;
  return without_gil([&] {
    const WithoutAutocast off;
    off.cast(of);
    return linear_act(of[kX], of[kWeights], of[kWeights + 1], a, saves_input).first;
  });
  END_HANDLE_TH_ERRORS
}

// kept_gated(x, act, up, (act, up, facts, _parameters of the gate, and of up, name, param)): the same of two layers of
// one input, of which an activation of the one is multiplied with the other.
inline PyObject* kept_gated(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 4 && PyTuple_Check(args[3]) && PyTuple_GET_SIZE(args[3]) == 7,
                   "kept_gated: not its arguments");
  const auto part = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(args[3], i); };
  if (part(0) != args[1] || part(1) != args[2]) Py_RETURN_NONE;
  const bool same = hold(part(2));
  if (PyErr_Occurred()) return nullptr;
  if (!same) Py_RETURN_NONE;
  Given gate, up;
  const auto of_gate = [&](Py_ssize_t i) { return parameter(part(3), i); };
  const auto of_up = [&](Py_ssize_t i) { return parameter(part(4), i); };
  if (!gate.read(args[0], 2, of_gate, {}) || !up.read(args[0], 2, of_up, {})) Py_RETURN_NONE;
  variable_list given{gate.saved[kX], gate.saved[kWeights], up.saved[kWeights], gate.saved[kWeights + 1],
                      up.saved[kWeights + 1]};
  if (given[1].size(0) != given[2].size(0)) Py_RETURN_NONE;
  const Activation a(part(5), part(6));
  return without_gil([&] {
    const WithoutAutocast off;
    off.cast(given);
    return run_gated(given, a);
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
