// One layer, y = act(x w^T + b), and the product of matrices, with their nodes, as python/fusegrad/ops/linear.py has
// them.
#pragma once

#include "act.h"
#include "direct.h"

namespace fusegrad {

at::Tensor mm(const at::Tensor& a, const at::Tensor& b, bool trans_a, bool trans_b);
Three layer_backward(const std::array<bool, 3>& needed, const at::Tensor& gy, const at::Tensor& x, const at::Tensor& w,
                     const at::Tensor& s, const Activation& a);

inline const Activation& no_activation() {
  static const Activation identity("identity", 0.0);
  return identity;
}

// (..., k) as a matrix (m, k), also where k is 0.
inline at::Tensor rows(const at::Tensor& t) {
  return t.dim() == 2 ? t : t.reshape({c10::multiply_integers(t.sizes().begin(), t.sizes().end() - 1), t.size(-1)});
}

struct MmRule {
  static constexpr const char *kOp = "mm", *kNode = "MMBackward";
  static size_t inputs(const Facts&) { return 2; }

  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    const at::Tensor &gy = grads[0], &a = saved[0], &b = saved[1];
    const bool ta = facts.at("trans_a").toBool(), tb = facts.at("trans_b").toBool();
    variable_list found(2);
    if (needed[0]) found[0] = ta ? mm(b, gy, tb, true) : mm(gy, b, false, !tb);
    if (needed[1]) found[1] = tb ? mm(gy, a, true, ta) : mm(a, gy, !ta, false);
    return found;
  }
};

inline at::Tensor mm(const at::Tensor& a, const at::Tensor& b, bool trans_a, bool trans_b) {
  static const Operator op("fusegrad::mm");
  at::Tensor y = op({a, b, trans_a, trans_b})[0].toTensor();
  if (is_differentiable(a, b)) set_history<MmRule>({y}, {a, b}, {a, b}, {{"trans_a", trans_a}, {"trans_b", trans_b}});
  return y;
}

// What a node keeps of a weight: that, or, of one that was computed, the sizes alone, where nothing is asked along x.
// So copies that autocast made go as early as torch's. What lies otherwise has a gradient that lies so too.
inline at::Tensor to_keep(const at::Tensor& w, const at::Tensor& x) {
  if (w.is_leaf() || x.requires_grad() || !w.is_contiguous() || x.numel() == 0) return w;
  return x.detach().as_strided(w.sizes(), {0, 0});
}

struct LinearRule {
  static constexpr const char *kOp = "linear", *kNode = "LinearBackward";
  static size_t inputs(const Facts&) { return 3; }

  static variable_list backward(const Facts&, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    const at::Tensor& gz = grads[0];
    const Three found = layer_backward({needed[0], needed[1], needed[2]}, gz, saved[0], saved[1], gz, no_activation());
    return {found[0], found[1], found[2]};
  }
};

inline at::Tensor linear_forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
  static const std::string identity = no_activation().text();
  if (const auto made = layer_at_once(x, w, b, identity, false)) return made->first;
  static const Operator op("fusegrad::linear");
  return op({x, w, if_any(b)})[0].toTensor();
}

inline at::Tensor linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
  at::Tensor z = linear_forward(x, w, b);
  if (is_differentiable(x, w, b)) set_history<LinearRule>({z}, {x, w, b}, {x, to_keep(w, x)}, {});
  return z;
}

// tz = tx w^T + x tw^T + tb.
inline at::Tensor linear_jvp(const at::Tensor& x, const at::Tensor& w, const at::Tensor& tx, const at::Tensor& tw,
                             const at::Tensor& tb) {
  if (!tx.defined() && !tw.defined() && tb.defined()) {
    c10::DimVector shape(x.sizes());
    shape.back() = w.size(0);
    return tb.expand(shape).clone();
  }
  const at::Tensor first = tx.defined() ? linear(tx, w, tb) : at::Tensor();
  const at::Tensor second = tw.defined() ? linear(x, tw, tx.defined() ? at::Tensor() : tb) : at::Tensor();
  return total(first, second);
}

struct LinearActRule {
  static constexpr const char *kOp = "linear_act", *kNode = "LinearActBackward";
  static size_t inputs(const Facts&) { return 3; }

  // Of y and what the activation saved, its input, if it did; that is an output, so that derivatives flow through it.
  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    const at::Tensor &gy = grads[0], &gz = grads[1], &x = saved[0], &w = saved[1], &s = saved[3];
    const Activation a(facts);
    const std::array<bool, 3> needs{needed[0], needed[1], needed[2]};
    Three found;
    if (gz.defined()) {
      const at::Tensor g = total(gz, gy.defined() ? act(s, gy, a, 1) : gy);
      found = layer_backward(needs, g, x, w, g, no_activation());
    } else {
      found = layer_backward(needs, gy, x, w, s, a);
    }
    return {found[0], found[1], found[2]};
  }
};

// y of a layer, and z, if it is to be saved.
inline std::pair<at::Tensor, at::Tensor> linear_act_forward(const at::Tensor& x, const at::Tensor& w,
                                                            const at::Tensor& b, const Activation& a, bool save) {
  if (const auto made = layer_at_once(x, w, b, a.text(), save)) return *made;
  static const Operator op("fusegrad::linear_act");
  const torch::jit::Stack made = op({x, w, if_any(b), a.name, a.param, save});
  return {made[0].toTensor(), made[1].toTensor()};
}

// y of a layer, and what its activation saves, if a gradient is needed or `save` says so.
inline std::pair<at::Tensor, at::Tensor> linear_act(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b,
                                                    const Activation& a, bool saves_input, bool save = false) {
  if (a.is_identity()) return {linear(x, w, b), {}};
  const bool differentiable = is_differentiable(x, w, b);
  auto [y, z] = linear_act_forward(x, w, b, a, differentiable || save);
  if (!saves_input) z = at::Tensor();
  if (differentiable) {
    set_history<LinearActRule>({y, z}, {x, w, b}, {x, to_keep(w, x), {}, saves_input ? z : y},
                               {{"act", a.name}, {"param", a.param}});
  }
  return {y, saves_input ? z : y};
}

struct LayerBackwardRule {
  static constexpr const char *kOp = "linear_act_backward", *kNode = "LinearActBackwardBackward";
  static size_t inputs(const Facts&) { return 4; }

  // Along ggx, ggw, ggb of gx, gw, gb, to gy, x, w and s.
  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    const at::Tensor &gy = saved[0], &x = saved[1], &w = saved[2], &s = saved[3], &ggx = grads[0], &ggw = grads[1];
    const Activation a(facts);
    const bool need_x = needed[1] && ggw.defined(), need_w = needed[2] && ggx.defined();
    at::Tensor g, gz = gy;
    if (needed[0] || needed[3]) g = linear_jvp(x, w, ggx, ggw, grads[2]);
    Three found;            // of s and gy, and gz
    if (a.is_identity()) {  // D_1 is 1
      if (needed[0]) found[1] = g;
    } else {
      found = act_gradients(g, s, gy, a, 1, {needed[3], needed[0], need_x || need_w});
      gz = found[2];
    }
    return {found[1], need_x ? mm(rows(gz), ggw, false, false).reshape(x.sizes()) : at::Tensor(),
            need_w ? mm(rows(gz), rows(ggx), true, false) : at::Tensor(), found[0]};
  }
};

// Of y = act(x w^T + b): gx, gw, gb, each if needed.
inline Three layer_backward(const std::array<bool, 3>& needed, const at::Tensor& gy, const at::Tensor& x,
                            const at::Tensor& w, const at::Tensor& s, const Activation& a) {
  Three found;
  if (!needed[0] && !needed[1] && !needed[2]) return found;
  const variable_list at_once = layer_backward_at_once(gy, x, w, s, a.text(), needed);
  static const Operator op("fusegrad::linear_act_backward");
  torch::jit::Stack made;
  if (at_once.empty()) made = op({gy, x, w, s, a.name, a.param, needed[0], needed[1], needed[2]});
  for (size_t i = 0; i < 3; i++) {
    if (needed[i]) found[i] = at_once.empty() ? made[i].toTensor() : at_once[i];
  }
  if (is_differentiable(gy, x, w, s)) {
    const bool both = gy.requires_grad() || s.requires_grad();
    const variable_list depend{both || w.requires_grad() ? found[0] : at::Tensor(),
                               both || x.requires_grad() ? found[1] : at::Tensor(), both ? found[2] : at::Tensor()};
    const c10::List<bool> needs{needed[0], needed[1], needed[2]};
    set_history<LayerBackwardRule>(depend, {gy, x, w, s}, {gy, x, w, s},
                                   {{"act", a.name}, {"param", a.param}, {"needed", needs}});
  }
  return found;
}

// layer(x, w, b, act, param, saves_input): y, or None where that is left to Python. The op refuses what does not fit.
inline PyObject* layer(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 6, "layer: not its arguments");
  variable_list given(3);
  if (!is_eager()) Py_RETURN_NONE;
  for (size_t i = 0; i < 3; i++) {
    if (!unpack(args[i], given[i]) || (i < 2 && !given[i].defined())) Py_RETURN_NONE;
  }
  const Activation a(args[3], args[4]);
  return without_gil([&] {
    const WithoutAutocast off;
    off.cast(given);
    return linear_act(given[0], given[1], given[2], a, args[5] == Py_True).first;
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
