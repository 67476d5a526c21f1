// Activations and products of tensors with streams (csrc/cpu/elementwise_streams.cpp) in plain eager mode: kernel and
// node of autograd in one call from Python.
#pragma once

#include "streams.h"

namespace fusegrad {

// What both have in common: all that they are given is kept.
template <class Rule> struct ElementwiseStreamsRule {
  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    if (at::GradMode::is_enabled()) return by_rule<Rule>(facts, needed, grads, saved);
    torch::jit::Stack args{if_any(grads[0]), if_any(grads[1]), if_any(grads[2])};
    for (size_t i = 0; i < saved.size(); i++) {
      if (Rule::is_there(i))
        args.emplace_back(saved[i]);
      else
        args.emplace_back(if_any(saved[i]));
    }
    Rule::add_facts(facts, args);
    int64_t mask = 0;
    for (size_t i = 0; i < needed.size(); i++) mask |= int64_t(needed[i] && saved[i].defined()) << i;
    args.emplace_back(mask);
    const c10::List<at::Tensor> found = Rule::op_backward()(std::move(args))[0].toTensorList();
    variable_list result(needed.size());
    for (size_t i = 0; i < result.size(); i++) {
      if (mask >> i & 1) result[i] = found[i];
    }
    return result;
  }
};

// Of a Laplacian, or along one direction.
template <bool kOfTaylor> struct ActStreamsRule : ElementwiseStreamsRule<ActStreamsRule<kOfTaylor>> {
  static constexpr const char *kOp = kOfTaylor ? "act_taylor" : "act_streams",
                              *kNode = kOfTaylor ? "TaylorActBackward" : "StreamedActBackward";
  static size_t inputs(const Facts&) { return 3; }  // z, t, l
  static bool is_there(size_t i) { return i < 2; }
  static void add_facts(const Facts& facts, torch::jit::Stack& args) {
    args.push_back(facts.at("act"));
    args.push_back(facts.at("param"));
  }
  static const Operator& op_backward() {
    static const Operator op(kOfTaylor ? "fusegrad::act_taylor_backward" : "fusegrad::act_streams_backward");
    return op;
  }
};
template <bool kOfTaylor> inline constexpr bool kTraceable<ActStreamsRule<kOfTaylor>> =
    false;  // its rule in Python runs autograd itself

struct MultiplyStreamsRule : ElementwiseStreamsRule<MultiplyStreamsRule> {
  static constexpr const char *kOp = "multiply_streams", *kNode = "StreamedProductBackward";
  static size_t inputs(const Facts&) { return 6; }  // a, ta, la, b, tb, lb
  static bool is_there(size_t i) { return i % 3 == 0; }
  static void add_facts(const Facts&, torch::jit::Stack&) {}
  static const Operator& op_backward() {
    static const Operator op("fusegrad::multiply_streams_backward");
    return op;
  }
};
template <> inline constexpr bool kTraceable<MultiplyStreamsRule> = false;

inline bool needs_history(const variable_list& inputs) {
  const auto needs = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  return at::GradMode::is_enabled() && std::any_of(inputs.begin(), inputs.end(), needs);
}

// Of `count` Python tensors or None: false if one is neither, or no plain one of a type that the kernels have.
inline bool unpack_all(PyObject* const* args, variable_list& to) {
  if (!is_plain_eager()) return false;
  for (size_t i = 0; i < to.size(); i++) {
    if (!unpack(args[i], to[i])) return false;
    if (to[i].defined() && (!is_wide(to[i].scalar_type()) || to[i].scalar_type() != to[0].scalar_type())) return false;
  }
  return true;
}

inline variable_list three(const torch::jit::Stack& made) {
  return {made[0].toTensor(), made[1].toTensor(), made[2].toTensor()};
}

// act_streams(z, t, l or None, act, param): y, ty, ly of what fits, or None where that is left to Python.
template <bool kOfTaylor> PyObject* act_streams(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 5, "act_streams: not its arguments");
  variable_list given(3);
  if (!unpack_all(args, given)) Py_RETURN_NONE;
  const std::string act = text_of(args[3]);
  const double param = PyFloat_AsDouble(args[4]);
  return tensors_without_gil([&] {
    static const Operator op(kOfTaylor ? "fusegrad::act_taylor" : "fusegrad::act_streams");
    const variable_list found = three(op({given[0], given[1], if_any(given[2]), act, param}));
    if (needs_history(given))
      set_history<ActStreamsRule<kOfTaylor>>(found, given, given, {{"act", act}, {"param", param}});
    return found;
  });
  END_HANDLE_TH_ERRORS
}

// multiply_streams(a, ta, la, b, tb, lb): the same of a product.
inline PyObject* multiply_streams(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 6, "multiply_streams: not its arguments");
  variable_list given(6);
  if (!unpack_all(args, given) || !given[0].defined() || !given[3].defined()) Py_RETURN_NONE;
  return tensors_without_gil([&] {
    static const Operator op("fusegrad::multiply_streams");
    const variable_list found =
        three(op({given[0], if_any(given[1]), if_any(given[2]), given[3], if_any(given[4]), if_any(given[5])}));
    if (needs_history(given)) set_history<MultiplyStreamsRule>(found, given, given, {});
    return found;
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
