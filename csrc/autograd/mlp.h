// Two layers, y = act(x w1^T + b1) w2^T + b2, with their node, as python/fusegrad/ops/mlp.py has it. Their second
// derivatives are left to that.
#pragma once

#include "chain.h"

namespace fusegrad {

struct MlpRule {
  static constexpr const char *kOp = "mlp", *kNode = "MlpBackward";
  static size_t inputs(const Facts&) { return 5; }

  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    if (at::GradMode::is_enabled() || !grads[0].defined() || grads[1].defined()) {
      return by_rule<MlpRule>(facts, needed, grads, saved);
    }
    const at::Tensor &gy = grads[0], &x = saved[0], &w1 = saved[1], &w2 = saved[2], &s = saved[3];
    const Activation a(facts);
    variable_list found(5);
    if (needed[3] || needed[4]) {
      const at::Tensor h = needed[3] && facts.at("saved_is_z").toBool() ? act(s, {}, a, 0) : s;
      const Three of_second = layer_backward({false, needed[3], needed[4]}, gy, h, w2, gy, no_activation());
      found[3] = of_second[1];
      found[4] = of_second[2];
    }
    if (!needed[0] && !needed[1] && !needed[2]) return found;
    static const Operator mm_dact("fusegrad::mm_dact");
    const torch::jit::Stack made = mm_dact({rows(gy), w2, rows(s), a.name, a.param, bool(needed[2])});
    const at::Tensor gz = made[0].toTensor();
    const Three of_first = layer_backward({needed[0], needed[1], false}, gz, rows(x), w1, gz, no_activation());
    if (needed[0]) found[0] = of_first[0].reshape(x.sizes());
    found[1] = of_first[1];
    if (needed[2]) found[2] = made[1].toTensor();
    return found;
  }
};

inline at::Tensor run_mlp(const variable_list& given, const Activation& a, bool saves_input) {
  const at::Tensor &x = given[0], &w1 = given[1], &b1 = given[2], &w2 = given[3], &b2 = given[4];
  static const Operator first("fusegrad::linear_act"), second("fusegrad::linear");
  const torch::jit::Stack made = first({x, w1, if_any(b1), a.name, a.param, saves_input});
  const at::Tensor h = made[0].toTensor(), s = saves_input ? made[1].toTensor() : h;
  at::Tensor y = second({h, w2, if_any(b2)})[0].toTensor();
  set_history<MlpRule>({y, s}, given, {x, w1, w2, s, {}},
                       {{"act", a.name}, {"param", a.param}, {"saved_is_z", saves_input}});
  return y;
}

// mlp(x, (w1, b1, w2, b2), act, param, saves_input, *limits, small): y, or None where that is left to
// Python: as a chain if that serves it, else layer by layer if the hidden layer is small, or needs no gradient.
inline PyObject* mlp(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 6 + Limits::kCount && PyTuple_Check(args[1]) && PyTuple_GET_SIZE(args[1]) == 4,
                   "mlp: not its arguments");
  Given given;
  const auto weight = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(args[1], i); };
  if (!given.read(args[0], 4, weight, Limits(args + 5))) Py_RETURN_NONE;
  const Activation a(args[2], args[3]);
  const bool saves_input = args[4] == Py_True;
  const int64_t small = PyLong_AsLongLong(args[5 + Limits::kCount]);
  return without_gil([&] {
    const WithoutAutocast off;
    const std::string acts = a.text() + ",identity 0.0";
    if (given.fits_chain) return given.run_chain(acts, saves_input, off);
    const at::Tensor &x = given.saved[kX], &w1 = given.saved[kWeights];
    if (!given.differentiable || x.numel() / w1.size(1) * w1.size(0) <= small) {
      return given.run_layers(acts, saves_input, off);
    }
    off.cast(given.saved);
    return run_mlp({given.saved.begin() + kX, given.saved.end()}, a, saves_input);
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
