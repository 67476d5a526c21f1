// The gradients of a chain as functions of gy, x, w_1, b_1, ..., with their node: what its second derivatives are, as
// second_by_layers of python/fusegrad/ops/chain_by_layers.py has them.
#pragma once

#include <ATen/ops/zeros_like.h>

#include "layer.h"

namespace fusegrad {

// The activation of each layer, of which `acts` has name and parameter, as in "tanh 0.0,identity 0.0".
inline std::vector<Activation> activations_of(const std::string& acts) {
  std::vector<Activation> found;
  for (const char *at = acts.c_str(), *end = at + acts.size(); at < end;) {
    const char* name_ends = std::find(at, end, ' ');
    double param = 0;
    const char* ends = std::from_chars(name_ends + 1, end, param).ptr;
    found.emplace_back(std::string(at, name_ends), param);
    at = ends + 1;
  }
  return found;
}

// The layers of a chain: w_1, b_1, ..., their activations, and a bit for each that saves its input.
struct Layers {
  const at::Tensor* weights;
  std::vector<Activation> acts;
  int64_t saves_input;

  size_t count() const { return acts.size(); }
  const at::Tensor& w(size_t i) const { return weights[2 * i]; }
  const at::Tensor& b(size_t i) const { return weights[2 * i + 1]; }
  bool keeps_z(size_t i) const { return saves_input >> i & 1; }

  // y of a layer, and what its activation saves.
  std::pair<at::Tensor, at::Tensor> forward(size_t i, const at::Tensor& x, bool save = false) const {
    return linear_act(x, w(i), b(i), acts[i], keeps_z(i), save);
  }
  // g D_1(s).
  at::Tensor first(size_t i, const at::Tensor& s, const at::Tensor& g) const {
    return acts[i].is_identity() ? g : act(s, g, acts[i], 1);
  }
};

// Of y and s of all layers but the last, whose y is not read.
inline variable_list kept_of(const Layers& layers, at::Tensor h) {
  const at::NoGradGuard no_grad;
  variable_list kept;
  for (size_t i = 0; i < layers.count(); i++) {
    const auto [y, s] = layers.forward(i, h, true);
    kept.push_back(y);
    kept.push_back(s);
    h = y;
  }
  return kept;
}

struct ChainBackwardRule {
  static constexpr const char *kOp = "chain_backward", *kNode = "ChainBackwardBackward";
  static size_t inputs(const Facts& facts) { return facts.at("needed").toBoolList().size() + 1; }

  // Of <gy, ty>, with ty the tangent of y along `along`, to gy, x, w_1, b_1, ... Saved are these, and y and what the
  // activation saved of each layer, which are functions of the others: where that counts they are made again.
  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& along,
                                const variable_list& saved) {
    const at::Tensor &gy = saved[0], &x = saved[1];
    const Layers layers{saved.data() + 2, activations_of(facts.at("acts").toStringRef()),
                        facts.at("saves_input").toInt()};
    const size_t count = layers.count();
    struct Passed {
      at::Tensor h, t, s, tz;  // the layer's input and its tangent, what was saved, the tangent of z
    };
    std::vector<Passed> passed;
    at::Tensor h = x, t = along[0];
    for (size_t i = 0; i < count; i++) {
      const at::Tensor* kept = &saved[needed.size() + 2 * i];
      const auto [y, s] = at::GradMode::is_enabled() ? layers.forward(i, h) : std::pair{kept[0], kept[1]};
      const at::Tensor tz = linear_jvp(h, layers.w(i), t, along[1 + 2 * i], along[2 + 2 * i]);
      passed.push_back({h, t, s, tz});
      t = tz.defined() ? layers.first(i, s, tz) : tz;
      h = y;
    }
    variable_list found(needed.size());
    if (needed[0]) found[0] = t;
    const size_t at = std::find(needed.begin() + 1, needed.end(), true) - needed.begin();  // the first but gy
    const size_t first = at == 1 ? 0 : (at - 2) / 2;
    at::Tensor c, c_t = gy;  // of y and ty
    for (size_t i = count; i-- > first;) {
      const auto& [h, t, s, tz] = passed[i];
      at::Tensor c_tz, along_s;
      if (layers.acts[i].is_identity() || !tz.defined()) {
        c_tz = layers.first(i, s, c_t);
      } else {
        const Three both = act_vjp(c_t, s, tz, layers.acts[i], 1, {true, true, false});
        along_s = both[0];
        c_tz = both[1];
      }
      if (!layers.acts[i].is_identity() && !layers.keeps_z(i)) c = total(c, std::exchange(along_s, {}));
      const at::Tensor c_z = total(c.defined() ? layers.first(i, s, c) : c, along_s);
      if (needed[2 + 2 * i]) {
        found[2 + 2 * i] = total(c_z.defined() ? mm(rows(c_z), rows(h), true, false) : c_z,
                                 t.defined() ? mm(rows(c_tz), rows(t), true, false) : t);
      }
      if (needed[3 + 2 * i] && c_z.defined()) found[3 + 2 * i] = rows(c_z).sum(0);
      if (i == first && !needed[1]) break;
      const at::Tensor& t_w = along[1 + 2 * i];
      c = total(c_z.defined() ? mm(rows(c_z), layers.w(i), false, false).reshape(h.sizes()) : c_z,
                t_w.defined() ? mm(rows(c_tz), t_w, false, false).reshape(h.sizes()) : t_w);
      c_t = mm(rows(c_tz), layers.w(i), false, false).reshape(h.sizes());
    }
    if (needed[1]) found[1] = c;
    // compiled autograd adds up what comes of both nodes, and takes no None
    for (size_t i = 0; i < found.size(); i++) {
      if (needed[i] && !found[i].defined()) found[i] = at::zeros_like(saved[i]);
    }
    return found;
  }
};

// For gx, gw_1, gb_1, ...: whether it depends on something that requires a gradient.
inline Needed depend(const Layers& layers, const at::Tensor& gy, const at::Tensor& x) {
  const auto wanted = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  const size_t count = layers.count();
  Needed z, found(1 + 2 * count);  // z of each layer
  for (size_t i = 0; i < count; i++) {
    z.push_back((i > 0 ? z[i - 1] : wanted(x)) || wanted(layers.w(i)) || wanted(layers.b(i)));
  }
  bool gz = gy.requires_grad();
  for (size_t i = count; i-- > 0;) {
    gz = gz || (!layers.acts[i].is_identity() && z[i]);
    found[2 + 2 * i] = gz;
    found[1 + 2 * i] = gz || (i > 0 ? z[i - 1] : wanted(x));
    gz = gz || wanted(layers.w(i));
  }
  found[0] = gz;
  return found;
}

// Makes the gradients that were found of a chain differentiable: inputs are gy, x, w_1, b_1, ...
inline void set_second_history(const variable_list& gradients, variable_list inputs, const Needed& needed,
                               const std::string& acts, int64_t saves_input) {
  const Layers layers{inputs.data() + 2, activations_of(acts), saves_input};
  const Needed depends = depend(layers, inputs[0], inputs[1]);
  variable_list outputs(gradients.size()), saved = inputs;
  c10::List<bool> needs;
  bool any = false;
  for (size_t i = 0; i < outputs.size(); i++) {
    if (depends[i]) outputs[i] = gradients[i];
    any |= outputs[i].defined();
    needs.push_back(needed[i]);
  }
  if (!any) return;
  for (const at::Tensor& t : kept_of(layers, inputs[1])) saved.push_back(t);
  set_history<ChainBackwardRule>(outputs, inputs, std::move(saved),
                                 {{"acts", acts}, {"saves_input", saves_input}, {"needed", needs}});
}

}  // namespace fusegrad
