// A gated layer, y = act(x w_gate^T + b_gate) (x w_up^T + b_up), with its node, as python/fusegrad/ops/gated.py has it.
// Its second derivatives are left to that.
#pragma once

#include "layer.h"

namespace fusegrad {

struct GatedRule {
  static constexpr const char *kOp = "gated", *kNode = "GatedBackward";
  static size_t inputs(const Facts&) { return 5; }

  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    if (at::GradMode::is_enabled() || !grads[0].defined() || grads[1].defined() || grads[2].defined()) {
      return by_rule<GatedRule>(facts, needed, grads, saved);
    }
    static const Operator op("fusegrad::gated_backward");
    torch::jit::Stack given{grads[0]};
    given.insert(given.end(), saved.begin(), saved.end());
    given.insert(given.end(), {facts.at("act"), facts.at("param")});
    given.insert(given.end(), needed.begin(), needed.end());
    const torch::jit::Stack made = op(std::move(given));
    variable_list found(5);
    for (size_t i = 0; i < 5; i++) {
      if (needed[i]) found[i] = made[i].toTensor();
    }
    return found;
  }
};

inline at::Tensor run_gated(const variable_list& given, const Activation& a) {
  const at::Tensor &x = given[0], &w_gate = given[1], &w_up = given[2], &b_gate = given[3], &b_up = given[4];
  const bool differentiable = is_differentiable(x, w_gate, w_up, b_gate, b_up);
  static const Operator op("fusegrad::gated");
  const torch::jit::Stack made = op({x, w_gate, w_up, if_any(b_gate), if_any(b_up), a.name, a.param, differentiable});
  at::Tensor y = made[0].toTensor();
  if (differentiable) {
    const at::Tensor s = made[1].toTensor(), up = made[2].toTensor();
    set_history<GatedRule>({y, s, up}, given, {x, w_gate, w_up, s, up}, {{"act", a.name}, {"param", a.param}});
  }
  return y;
}

// gated(x, w_gate, w_up, b_gate, b_up, act, param): y, or None where that is left to Python.
inline PyObject* gated(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 7, "gated: not its arguments");
  if (!is_eager()) Py_RETURN_NONE;
  variable_list given(5);
  for (size_t i = 0; i < 5; i++) {
    if (!unpack(args[i], given[i]) || (i < 3 && !given[i].defined())) Py_RETURN_NONE;
  }
  const Activation a(args[5], args[6]);
  return without_gil([&] {
    const WithoutAutocast off;
    off.cast(given);
    return run_gated(given, a);
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
