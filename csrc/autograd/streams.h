// The op `chain_streams` in plain eager mode (csrc/cpu/streams.h): a chain with its derivatives along directions, its
// kernel and its node of autograd, in one call from Python.
#pragma once

#include "kept.h"

namespace fusegrad {

// What its node saves: what the layers save, t, l or nothing, x, w_1, b_1, ...
constexpr size_t kT = 1, kL = 2, kXOfStreams = 3, kWeightsOfStreams = 4;

// Layers in a row, the same along one direction (csrc/cpu/taylor.h), or a program of steps (csrc/cpu/program.h): what a
// text says.
struct OfChain {
  static constexpr const char *kOp = "chain_streams", *kNode = "StreamedChainBackward",
                              *kForward = "fusegrad::chain_streams", *kBackward = "fusegrad::chain_streams_backward",
                              *kAsked = "laplacian";
};
struct OfTaylor {
  static constexpr const char *kOp = "chain_taylor", *kNode = "TaylorChainBackward",
                              *kForward = "fusegrad::chain_taylor", *kBackward = "fusegrad::chain_taylor_backward",
                              *kAsked = "directional";
};
struct OfProgram {
  static constexpr const char *kOp = "program_streams", *kNode = "StreamedProgramBackward",
                              *kForward = "fusegrad::program_streams",
                              *kBackward = "fusegrad::program_streams_backward", *kAsked = "laplacian";
};
struct OfTaylorProgram {
  static constexpr const char *kOp = "program_taylor", *kNode = "TaylorProgramBackward",
                              *kForward = "fusegrad::program_taylor", *kBackward = "fusegrad::program_taylor_backward",
                              *kAsked = "directional";
};

template <class Of> struct StreamsRule {
  static constexpr const char *kOp = Of::kOp, *kNode = Of::kNode;
  static size_t inputs(const Facts& facts) { return facts.at("inputs").toInt(); }

  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    check_places(saved, facts.at("places").toIntVector(), Of::kAsked, kWeightsOfStreams);
    if (at::GradMode::is_enabled()) return by_rule<StreamsRule>(facts, needed, grads, saved);
    int64_t mask = 0;
    for (size_t i = 0; i < needed.size(); i++) mask |= int64_t(needed[i]) << i;
    if (!grads[0].defined()) mask &= ~facts.at("alone").toInt();
    static const Operator op(Of::kBackward);
    const c10::List<at::Tensor> found =
        op({if_any(grads[0]), if_any(grads[1]), if_any(grads[2]), saved[kXOfStreams], saved[kT], if_any(saved[kL]),
            weights_of(saved, kWeightsOfStreams), saved[0], facts.at("acts"), mask})[0]
            .toTensorList();
    variable_list result(needed.size());
    for (size_t i = 0; i < result.size(); i++) {
      if (mask >> i & 1) result[i] = found[i];
    }
    return result;
  }
};

// Their rules in Python run autograd itself.
template <class Of> inline constexpr bool kTraceable<StreamsRule<Of>> = false;

// Of x, t, l, w_1, b_1, ... of a chain: a bit for each that y alone depends on, and no derivative of y.
inline int64_t of_value_alone(const std::string& acts) {
  const std::vector<Activation> all = activations_of(acts);
  const bool curved = std::any_of(all.begin(), all.end(), [](const Activation& a) { return !a.is_identity(); });
  return biases_of_y(acts) << 1 | int64_t(!curved);
}

// y, ty, ly of what is given as it is saved, which fits; `alone` are the bits of what y alone depends on.
template <class Of> variable_list run_streams(variable_list saved, const std::string& acts, int64_t alone) {
  const auto needs = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  const bool differentiable = at::GradMode::is_enabled() && std::any_of(saved.begin(), saved.end(), needs);
  static const Operator op(Of::kForward);
  const torch::jit::Stack made = op(
      {saved[kXOfStreams], saved[kT], if_any(saved[kL]), weights_of(saved, kWeightsOfStreams), acts, differentiable});
  variable_list found{made[0].toTensor(), made[1].toTensor(), made[2].toTensor()};
  if (!differentiable) return found;
  saved[0] = made[3].toTensor();
  variable_list inputs{saved[kXOfStreams], saved[kT], saved[kL]};
  inputs.insert(inputs.end(), saved.begin() + kWeightsOfStreams, saved.end());
  const std::vector<int64_t> at = places_if_they_stay(saved, kWeightsOfStreams);
  const int64_t count = int64_t(inputs.size());
  set_history<StreamsRule<Of>>(found, inputs, std::move(saved),
                               {{"acts", acts}, {"places", at}, {"inputs", count}, {"alone", alone}});
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

// x, t, l, (w_1, b_1, ...) as they are saved; false where that is left to Python.
inline bool unpack_streams(PyObject* const* args, variable_list& saved) {
  TORCH_CHECK_TYPE(PyTuple_Check(args[3]), "streams: not its arguments");
  const size_t weights = size_t(PyTuple_GET_SIZE(args[3]));
  saved.resize(kWeightsOfStreams + weights);
  bool plain = is_plain_eager() && unpack(args[0], saved[kXOfStreams]) && unpack(args[1], saved[kT]) &&
               unpack(args[2], saved[kL]);
  for (size_t i = 0; plain && i < weights; i++)
    plain = unpack(PyTuple_GET_ITEM(args[3], Py_ssize_t(i)), saved[kWeightsOfStreams + i]);
  return plain;
}

// streams(x, t, l, (w_1, b_1, ...), acts): y, ty, ly of what fits, or None where that is left to Python.
template <class Of> PyObject* streams(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 5, "streams: not its arguments");
  variable_list saved;
  if (!unpack_streams(args, saved)) Py_RETURN_NONE;
  const std::string acts = text_of(args[4]);
  return tensors_without_gil([&] { return run_streams<Of>(std::move(saved), acts, of_value_alone(acts)); });
  END_HANDLE_TH_ERRORS
}

// program(x, t, l, (w_1, b_1, ...), steps, bits of what y alone depends on): the same of a program.
template <class Of> PyObject* program(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 6, "program: not its arguments");
  variable_list saved;
  if (!unpack_streams(args, saved)) Py_RETURN_NONE;
  const std::string steps = text_of(args[4]);
  const int64_t alone = PyLong_AsLongLong(args[5]);
  return tensors_without_gil([&] { return run_streams<Of>(std::move(saved), steps, alone); });
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

// The derivatives of x along v, (1, ..., k), up to an order, as the op takes them.
inline void set_taylor_of_x(const at::Tensor& x, const at::Tensor& v, int64_t order, at::Tensor& t, at::Tensor& l) {
  c10::DimVector shape(x.sizes());
  shape.insert(shape.begin(), order - 1);
  if (order == 1) {
    t = at::empty(shape, x.options());
    l = v.select(0, 0).expand(x.sizes());
    return;
  }
  const auto is_one = [](int64_t size) { return size == 1; };
  const bool alike = x.dim() > 1 && std::all_of(v.sizes().begin() + 1, v.sizes().end() - 1, is_one);
  if (alike && !is_differentiable(v)) {
    t = at::zeros({order - 1, x.size(-1)}, x.options());
    t.select(0, 0).copy_(v.reshape({-1}));
    return;
  }
  shape.front() = 1;
  t = v.expand(shape);
  shape.front() = order - 2;
  if (order > 2) t = at::cat({t, at::zeros(shape, x.options())});
}

// Reads (modules of a Sequential, those that they were, facts, _parameters of each layer, acts) of layers that were
// found before: x and these, as they are saved, if nothing has changed; else none.
inline variable_list read_kept(PyObject* x, PyObject* found) {
  TORCH_CHECK_TYPE(PyTuple_Check(found) && PyTuple_GET_SIZE(found) == 5, "streams: not what was found");
  const auto part = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(found, i); };
  const bool same = are_values(part(0), part(1)) && hold(part(2));
  if (PyErr_Occurred()) throw python_error();
  if (!same) return {};
  PyObject* parameters = part(3);
  const auto weight = [&](Py_ssize_t i) { return parameter(PyTuple_GET_ITEM(parameters, i / 2), i % 2); };
  Given given;
  if (!given.read(x, 2 * PyTuple_GET_SIZE(parameters), weight, {})) return {};
  if (given.autocasts || !is_wide(given.saved[kX].scalar_type())) return {};
  variable_list saved(kWeightsOfStreams);
  saved[kXOfStreams] = given.saved[kX];
  saved.insert(saved.end(), given.saved.begin() + kWeights, given.saved.end());
  return saved;
}

// kept_streams(x, directions or None, second derivative of x or None, what was found): y (..., n), its first
// derivatives (..., n, r) and its Laplacian (..., n).
inline PyObject* kept_streams(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 4, "kept_streams: not its arguments");
  variable_list saved = read_kept(args[0], args[3]);
  if (saved.empty() || !unpack(args[1], saved[kT]) || !unpack(args[2], saved[kL])) Py_RETURN_NONE;
  const at::Tensor x = saved[kXOfStreams];
  for (const at::Tensor& t : {saved[kT], saved[kL]})
    if (t.defined() && t.scalar_type() != x.scalar_type()) Py_RETURN_NONE;
  if (!set_streams_of_x(x, saved[kT], saved[kL])) Py_RETURN_NONE;
  const std::string acts = text_of(PyTuple_GET_ITEM(args[3], 4));
  return tensors_without_gil([&] {
    const variable_list made = run_streams<OfChain>(std::move(saved), acts, of_value_alone(acts));
    return variable_list{made[0], made[1].movedim(0, -1), made[2].squeeze(0)};
  });
  END_HANDLE_TH_ERRORS
}

// kept_taylor(x, v, order, what was found): y (..., n), and its derivatives along v, (1, ..., k), up to the order.
inline PyObject* kept_taylor(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 4, "kept_taylor: not its arguments");
  variable_list saved = read_kept(args[0], args[3]);
  at::Tensor v;
  if (saved.empty() || !unpack(args[1], v) || !v.defined()) Py_RETURN_NONE;
  const at::Tensor x = saved[kXOfStreams];
  if (v.scalar_type() != x.scalar_type()) Py_RETURN_NONE;
  const int64_t order = PyLong_AsLongLong(args[2]);
  const std::string acts = text_of(PyTuple_GET_ITEM(args[3], 4));
  return tensors_without_gil([&] {
    set_taylor_of_x(x, v, order, saved[kT], saved[kL]);
    const variable_list made = run_streams<OfTaylor>(std::move(saved), acts, of_value_alone(acts));
    variable_list found{made[0]};
    for (int64_t k = 0; k < order - 1; k++) found.push_back(made[1].select(0, k));  // which may be written to in place
    found.push_back(made[2].squeeze(0));
    return found;
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
