// The op `chain_streams` in plain eager mode (csrc/cpu/streams.h): a chain with its derivatives along directions, its
// kernel and its node of autograd, in one call from Python.
#pragma once

#include "kept.h"

namespace fusegrad {

// What its node saves: what the layers save, t, l or nothing, x, w_1, b_1, ...
constexpr size_t kT = 1, kL = 2, kXOfStreams = 3, kWeightsOfStreams = 4;

struct StreamsRule {
  static constexpr const char *kOp = "chain_streams", *kNode = "StreamedChainBackward";
  static size_t inputs(const Facts& facts) { return facts.at("inputs").toInt(); }

  // Of x, t, l, w_1, b_1, ...: a bit for each that y alone depends on, and no derivative of y.
  static int64_t of_value_alone(const std::string& acts) {
    const std::vector<Activation> all = activations_of(acts);
    const bool curved = std::any_of(all.begin(), all.end(), [](const Activation& a) { return !a.is_identity(); });
    return biases_of_y(acts) << 1 | int64_t(!curved);
  }

  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    check_places(saved, facts.at("places").toIntVector(), "laplacian", kWeightsOfStreams);
    if (at::GradMode::is_enabled()) return by_rule<StreamsRule>(facts, needed, grads, saved);
    const c10::IValue& acts = facts.at("acts");
    int64_t mask = 0;
    for (size_t i = 0; i < needed.size(); i++) mask |= int64_t(needed[i]) << i;
    if (!grads[0].defined()) mask &= ~of_value_alone(acts.toStringRef());
    static const Operator op("fusegrad::chain_streams_backward");
    const c10::List<at::Tensor> found =
        op({if_any(grads[0]), if_any(grads[1]), if_any(grads[2]), saved[kXOfStreams], saved[kT], if_any(saved[kL]),
            weights_of(saved, kWeightsOfStreams), saved[0], acts, mask})[0]
            .toTensorList();
    variable_list result(needed.size());
    for (size_t i = 0; i < result.size(); i++) {
      if (mask >> i & 1) result[i] = found[i];
    }
    return result;
  }
};

template <> inline constexpr bool kTraceable<StreamsRule> = false;  // its rule in Python runs autograd itself

// y, ty, ly of what is given as it is saved, which fits.
inline variable_list run_streams(variable_list saved, const std::string& acts) {
  const auto needs = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  const bool differentiable = at::GradMode::is_enabled() && std::any_of(saved.begin(), saved.end(), needs);
  static const Operator op("fusegrad::chain_streams");
  const torch::jit::Stack made = op(
      {saved[kXOfStreams], saved[kT], if_any(saved[kL]), weights_of(saved, kWeightsOfStreams), acts, differentiable});
  variable_list found{made[0].toTensor(), made[1].toTensor(), made[2].toTensor()};
  if (!differentiable) return found;
  saved[0] = made[3].toTensor();
  variable_list inputs{saved[kXOfStreams], saved[kT], saved[kL]};
  inputs.insert(inputs.end(), saved.begin() + kWeightsOfStreams, saved.end());
  const std::vector<int64_t> at = places_if_they_stay(saved, kWeightsOfStreams);
  const int64_t count = int64_t(inputs.size());
  set_history<StreamsRule>(found, inputs, std::move(saved), {{"acts", acts}, {"places", at}, {"inputs", count}});
  return found;
}

template <class Make> PyObject* tensors_without_gil(const Make& make) {
  variable_list made;
  {
    const pybind11::gil_scoped_release no_gil;
    made = make();
  }
  return to_tuple(made, [](const at::Tensor& t) { return THPVariable_Wrap(t); }).release();
}

// streams(x, t, l, (w_1, b_1, ...), acts): y, ty, ly of what fits, or None where that is left to Python.
inline PyObject* streams(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 5 && PyTuple_Check(args[3]), "streams: not its arguments");
  const size_t weights = size_t(PyTuple_GET_SIZE(args[3]));
  variable_list saved(kWeightsOfStreams + weights);
  bool plain = is_plain_eager() && unpack(args[0], saved[kXOfStreams]) && unpack(args[1], saved[kT]) &&
               unpack(args[2], saved[kL]);
  for (size_t i = 0; plain && i < weights; i++)
    plain = unpack(PyTuple_GET_ITEM(args[3], Py_ssize_t(i)), saved[kWeightsOfStreams + i]);
  if (!plain) Py_RETURN_NONE;
  const std::string acts = text_of(args[4]);
  return tensors_without_gil([&] { return run_streams(std::move(saved), acts); });
  END_HANDLE_TH_ERRORS
}

// The directions (r, ..., k) of x (..., k), and the second derivative of x (1, ..., k) or nothing, as the op takes
// them; directions that are not defined are the axes. False where it does not serve them.
inline bool set_streams_of_x(const at::Tensor& x, at::Tensor& t, at::Tensor& l) {
  const bool axes = !t.defined();
  const int64_t k = x.size(-1);
  if (axes) t = at::eye(k, x.options());
  if (t.size(0) == 0) return false;
  c10::DimVector shape(x.sizes());
  shape.insert(shape.begin(), t.size(0));
  const auto is_one = [](int64_t size) { return size == 1; };
  if (!l.defined() && x.dim() > 1) {
    if (axes) return true;
    if (std::all_of(t.sizes().begin() + 1, t.sizes().end() - 1, is_one)) {
      if (is_differentiable(t)) return false;  // of which the kernel makes no gradient
      t = t.reshape({t.size(0), k});
      return true;
    }
  }
  if (axes) {
    c10::DimVector alike(shape.size(), 1);
    alike.front() = alike.back() = k;
    t = t.view(alike);
  }
  t = t.expand(shape);
  if (l.defined()) l = l.select(0, 0).expand(x.sizes());
  return true;
}

// kept_streams(x, directions or None, second derivative of x or None, (modules of a Sequential, those that they were,
// facts, _parameters of each layer, acts)): y (..., n), its first derivatives (..., n, r) and its Laplacian (..., n) of
// layers that were found before, if nothing has changed.
inline PyObject* kept_streams(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 4 && PyTuple_Check(args[3]) && PyTuple_GET_SIZE(args[3]) == 5,
                   "kept_streams: not its arguments");
  const auto part = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(args[3], i); };
  const bool same = are_values(part(0), part(1)) && hold(part(2));
  if (PyErr_Occurred()) return nullptr;
  if (!same) Py_RETURN_NONE;
  PyObject* parameters = part(3);
  const auto weight = [&](Py_ssize_t i) { return parameter(PyTuple_GET_ITEM(parameters, i / 2), i % 2); };
  Given given;
  if (!given.read(args[0], 2 * PyTuple_GET_SIZE(parameters), weight, {})) Py_RETURN_NONE;
  const at::Tensor& x = given.saved[kX];
  variable_list saved(kWeightsOfStreams);
  if (!is_wide(x.scalar_type()) || !unpack(args[1], saved[kT]) || !unpack(args[2], saved[kL])) Py_RETURN_NONE;
  for (const at::Tensor& t : {saved[kT], saved[kL]})
    if (t.defined() && t.scalar_type() != x.scalar_type()) Py_RETURN_NONE;
  saved[kXOfStreams] = x;
  saved.insert(saved.end(), given.saved.begin() + kWeights, given.saved.end());
  if (!set_streams_of_x(x, saved[kT], saved[kL])) Py_RETURN_NONE;
  const std::string acts = text_of(part(4));
  return tensors_without_gil([&] {
    const variable_list made = run_streams(std::move(saved), acts);
    return variable_list{made[0], made[1].movedim(0, -1), made[2].squeeze(0)};
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
