// The ops `act` and `act_vjp` with their nodes, as python/fusegrad/ops/act.py has them.
#pragma once

#include <ATen/ops/elu.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/hardtanh.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/mish.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/square.h>
#include <ATen/ops/tanh.h>

#include <array>
#include <charconv>
#include <unordered_map>

#include "autocast.h"
#include "direct.h"
#include "rule.h"

namespace fusegrad {

struct Activation {
  std::string name;
  double param;

  explicit Activation(const Facts& facts) : name(facts.at("act").toStringRef()), param(facts.at("param").toDouble()) {}
  Activation(std::string name, double param) : name(std::move(name)), param(param) {}
  Activation(PyObject* name, PyObject* param) : param(PyFloat_AsDouble(param)) {
    Py_ssize_t length;
    const char* text = PyUnicode_AsUTF8AndSize(name, &length);
    if (text == nullptr || PyErr_Occurred()) throw python_error();
    this->name.assign(text, length);
  }
  // Name and parameter, as in "tanh 0.0".
  std::string text() const {
    char number[32];
    return name + " " + std::string(number, std::to_chars(number, number + 32, param).ptr);
  }
  bool is_identity() const { return name == "identity"; }
};

// The sum of what may be undefined, which stands for zeros.
inline at::Tensor total(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() && b.defined() ? a.add(b) : a.defined() ? a : b;
}

using Three = std::array<at::Tensor, 3>;
at::Tensor act(const at::Tensor& s, const at::Tensor& g, const Activation& a, int64_t order, bool saves_output = false);
Three act_vjp(const at::Tensor& gy, const at::Tensor& s, const at::Tensor& g, const Activation& a, int64_t order,
              std::array<bool, 3> needed);

// Of y = g D_order(s) along gy: gs, gg, and y itself, each if needed. An undefined g stands for ones.
inline Three act_gradients(const at::Tensor& gy, const at::Tensor& s, const at::Tensor& g, const Activation& a,
                           int64_t order, std::array<bool, 3> needed) {
  const auto [need_s, need_g, need_y] = needed;
  if (gy.defined() && need_s && g.defined() && order <= 2) return act_vjp(gy, s, g, a, order, needed);
  Three found;
  if (gy.defined() && need_s) found[0] = act(s, g.defined() ? gy.mul(g) : gy, a, order + 1);
  if (gy.defined() && need_g) found[1] = act(s, gy, a, order);
  if (need_y) found[2] = act(s, g, a, order);
  return found;
}

struct ActRule {
  static constexpr const char *kOp = "act", *kNode = "ActBackward";
  static size_t inputs(const Facts&) { return 2; }

  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    const int64_t order = facts.at("order").toInt();
    const Three found =
        act_gradients(grads[0], saved[0], saved[1], Activation(facts), order, {needed[0], needed[1], false});
    return {found[0], found[1]};
  }
};

struct ActVjpRule {
  static constexpr const char *kOp = "act_vjp", *kNode = "ActVjpBackward";
  static size_t inputs(const Facts&) { return 3; }

  // Along a, b, c of gs, gg and y.
  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    const at::Tensor &gy = saved[0], &s = saved[1], &g = saved[2], &a = grads[0];
    const bool need_gy = needed[0], need_s = needed[1], need_g = needed[2];
    const Activation of(facts);
    const int64_t order = facts.at("order").toInt();
    Three along_a;  // of s, g and gy
    if (a.defined()) {
      const at::Tensor u = need_s || need_gy ? a.mul(g) : at::Tensor();
      along_a = act_gradients(gy, s, u, of, order + 1, {need_s, need_g, need_gy});
      if (need_g) along_a[1] = a.mul(along_a[1]);
    }
    const Three along_b = act_gradients(grads[1], s, gy, of, order, {need_s, need_gy, false});
    const Three along_c = act_gradients(grads[2], s, g, of, order, {need_s, need_g, false});
    return {total(along_a[2], along_b[1]), total(total(along_a[0], along_b[0]), along_c[0]),
            total(along_a[1], along_c[1])};
  }
};

// Whether these are adjacent numbers of the type and the sizes of s, which kernels may be called with.
inline bool is_at_once(const at::Tensor& s, std::initializer_list<const at::Tensor*> others) {
  if (!may_call_kernels() || !is_served(s.scalar_type()) || s.numel() == 0 || !s.is_contiguous()) return false;
  for (const at::Tensor* t : others) {
    if (t->scalar_type() != s.scalar_type() || t->sizes() != s.sizes() || !t->is_contiguous()) return false;
  }
  return true;
}

// act without a node, by the kernel if that may be called; the op else.
inline at::Tensor act_alone(const at::Tensor& s, const at::Tensor& g, const Activation& a, int64_t order) {
  if (g.defined() ? is_at_once(s, {&g}) : is_at_once(s, {})) {
    const at::Tensor y = empty_like(s, s.sizes());
    const void* factors = g.defined() ? g.const_data_ptr() : nullptr;
    const direct::Act call{int8_t(s.scalar_type()), s.numel(), &a.name, a.param, order, s.const_data_ptr(), factors,
                           y.mutable_data_ptr()};
    if (y.strides() == s.strides() && kernels->act(call)) return y;
  }
  static const Operator op("fusegrad::act");
  return op({s, if_any(g), a.name, a.param, order})[0].toTensor();
}

// The same of act_vjp.
inline Three act_vjp_alone(const at::Tensor& gy, const at::Tensor& s, const at::Tensor& g, const Activation& a,
                           int64_t order, std::array<bool, 3> needed) {
  Three found;
  if (is_at_once(s, {&gy, &g})) {
    direct::ActVjp call{int8_t(s.scalar_type()), s.numel(),          &a.name, a.param, order, gy.const_data_ptr(),
                        s.const_data_ptr(),      g.const_data_ptr(), {}};
    bool alike = true;
    for (size_t i = 0; i < 3; i++) {
      if (!needed[i]) continue;
      found[i] = empty_like(s, s.sizes());
      call.out[i] = found[i].mutable_data_ptr();
      alike = alike && found[i].strides() == s.strides();
    }
    if (alike && kernels->act_vjp(call)) return found;
  }
  static const Operator op("fusegrad::act_vjp");
  const torch::jit::Stack made = op({gy, s, g, a.name, a.param, order, needed[0], needed[1], needed[2]});
  for (size_t i = 0; i < 3; i++) found[i] = needed[i] ? made[i].toTensor() : at::Tensor();
  return found;
}

inline at::Tensor act(const at::Tensor& s, const at::Tensor& g, const Activation& a, int64_t order, bool saves_output) {
  at::Tensor y = act_alone(s, g, a, order);
  if (is_differentiable(s, g)) {
    set_history<ActRule>({y}, {s, g}, {saves_output ? y : s, g},
                         {{"act", a.name}, {"param", a.param}, {"order", order}});
  }
  return y;
}

inline Three act_vjp(const at::Tensor& gy, const at::Tensor& s, const at::Tensor& g, const Activation& a, int64_t order,
                     std::array<bool, 3> needed) {
  const Three found = act_vjp_alone(gy, s, g, a, order, needed);
  if (is_differentiable(gy, s, g)) {
    const c10::List<bool> needs{needed[0], needed[1], needed[2]};
    set_history<ActVjpRule>({found[0], found[1], found[2]}, {gy, s, g}, {gy, s, g},
                            {{"act", a.name}, {"param", a.param}, {"order", order}, {"needed", needs}});
  }
  return found;
}

// What torch computes as fast where there is little to compute, and derives twice.
using Stock = at::Tensor (*)(const at::Tensor&, double);
inline Stock stock_of(const std::string& name) {
  static const std::unordered_map<std::string, Stock> known{
      {"exp", [](const at::Tensor& z, double) { return at::exp(z); }},
      {"hardswish", [](const at::Tensor& z, double) { return at::hardswish(z); }},
      {"hardtanh", [](const at::Tensor& z, double) { return at::hardtanh(z); }},
      {"leaky_relu", [](const at::Tensor& z, double slope) { return at::leaky_relu(z, slope); }},
      {"relu", [](const at::Tensor& z, double) { return at::relu(z); }},
      {"relu6", [](const at::Tensor& z, double) { return at::hardtanh(z, 0, 6); }},
      {"sigmoid", [](const at::Tensor& z, double) { return at::sigmoid(z); }},
      {"silu", [](const at::Tensor& z, double) { return at::silu(z); }},
      {"square", [](const at::Tensor& z, double) { return at::square(z); }},
      {"tanh", [](const at::Tensor& z, double) { return at::tanh(z); }},
  };
  const auto found = known.find(name);
  return found == known.end() ? nullptr : found->second;
}

// What torch has as one function.
inline Stock torchs(const std::string& name) {
  static const std::unordered_map<std::string, Stock> known{
      {"elu", [](const at::Tensor& z, double alpha) { return at::elu(z, alpha); }},
      {"gelu", [](const at::Tensor& z, double) { return at::gelu(z); }},
      {"gelu_tanh", [](const at::Tensor& z, double) { return at::gelu(z, "tanh"); }},
      {"identity", [](const at::Tensor& z, double) { return z; }},
      {"mish", [](const at::Tensor& z, double) { return at::mish(z); }},
      {"softplus", [](const at::Tensor& z, double beta) { return at::softplus(z, beta); }},
  };
  const auto found = known.find(name);
  return found == known.end() ? stock_of(name) : found->second;
}

// is_short(z, most): whether this is plain eager mode or autocast, and z a plain tensor, in 32 or 64 bits, of up to so
// many elements.
inline PyObject* is_short(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 2, "is_short: not its arguments");
  if (!is_eager() || !is_plain(args[0])) Py_RETURN_FALSE;
  const at::Tensor& z = THPVariable_Unpack(args[0]);
  return to_bool(is_wide(z.scalar_type()) && z.numel() <= PyLong_AsLongLong(args[1]));
  END_HANDLE_TH_ERRORS
}

inline PyObject* activations = nullptr;  // by name: default parameter, whether its output is saved, which limit

// act(z, name, param or None, three limits): y, or None where that is left to Python. Up to a limit of elements, the
// activation's own, torch is as fast: up to the first where there is a derivative to note, and in 16 bits.
inline PyObject* act_of(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 6, "act: not its arguments");
  if (!is_eager() || !is_plain(args[0]) || !PyUnicode_CheckExact(args[1])) Py_RETURN_NONE;
  PyObject* known = PyDict_GetItemWithError(activations, args[1]);
  const at::Tensor& z = THPVariable_Unpack(args[0]);
  if (known == nullptr || !is_served(z.scalar_type())) Py_RETURN_NONE;
  const Activation a(args[1], args[2] == Py_None ? PyTuple_GET_ITEM(known, 0) : args[2]);
  const bool saves_output = PyTuple_GET_ITEM(known, 1) == Py_True;
  const long which = is_wide(z.scalar_type()) ? PyLong_AsLong(PyTuple_GET_ITEM(known, 2)) : 0;
  const bool is_short = z.numel() <= PyLong_AsLongLong(args[3 + which]);
  const Stock stock = is_short && (which > 0 || is_differentiable(z)) ? stock_of(a.name) : nullptr;
  return without_gil([&] {
    const WithoutAutocast off;
    return stock ? stock(z, a.param) : act(z, {}, a, 0, saves_output);
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
