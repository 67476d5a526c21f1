// The op `chain` in plain eager mode: its checks, its kernel and its node of autograd, in one call from Python.
#pragma once

#include "chain_derivatives.h"

namespace fusegrad {

struct ChainRule {
  static constexpr const char *kOp = "chain", *kNode = "ChainBackward";
  static size_t inputs(const Facts& facts) { return facts.at("inputs").toInt(); }

  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    check_places(saved, facts.at("places").toIntVector());
    const at::Tensor& gy = grads[0];
    const c10::IValue& acts = facts.at("acts");
    int64_t mask = 0;
    for (size_t i = 0; i < needed.size(); i++) mask |= int64_t(needed[i]) << i;
    variable_list result = chain_backward(gy, saved, acts.toStringRef(), mask);
    if (at::GradMode::is_enabled()) {
      variable_list inputs(saved.begin() + kX - 1, saved.end());
      inputs[0] = gy;
      set_second_history(result, std::move(inputs), needed, acts.toStringRef(), facts.at("saves_input").toInt());
    }
    return result;
  }
};

// Rows that are few for the derivatives of a chain of layers that are wide (Zen 4, 2026-11-26).
constexpr int64_t kFewForDerived = 127, kWideForFew = 128;

// Numbers of all weights up to which one op is best under autocast. It takes 0.92 to 0.98 of the time of layers one by
// one, with 1e6 weights 0.95 to 1.07 (Zen 4, 2026-11-27). Of large ones copies go sooner where layers have nodes of
// their own, and so do gradients of copies.
constexpr double kMostCopied = 1 << 18;

// Of what a chain serves: how wide its layers are, or how many their multiplications, at most; how wide they are where
// x requires a gradient, and derivatives of the chain are ops too; and whether it serves such an x in any case.
struct Limits {
  static constexpr Py_ssize_t kCount = 4;
  int64_t width = 0, largest = 0, width_of_derived = 0;
  bool derived = false;
  Limits() = default;
  explicit Limits(PyObject* const* args)
      : width(PyLong_AsLongLong(args[0])),
        largest(PyLong_AsLongLong(args[1])),
        width_of_derived(PyLong_AsLongLong(args[2])),
        derived(args[3] == Py_True) {}
};

// What layers w_1, b_1, ... are given, if that is plain and fits: of a chain, or of layers one by one.
struct Given {
  variable_list saved;  // with room for what the layers save, and y
  bool differentiable, fits_chain, has_derivatives, autocasts;

  // `weight(i)` is a borrowed reference, or nullptr.
  template <class Weight> bool read(PyObject* given, Py_ssize_t count, Weight weight, const Limits& limits) {
    if (!is_eager() || !is_plain(given)) return false;
    const at::Tensor& x = THPVariable_Unpack(given);
    const std::optional<at::ScalarType> autocast = autocast_type();
    autocasts = autocast.has_value();
    const at::ScalarType type = type_in_product(x, autocast);
    if (x.dim() == 0 || x.numel() == 0 || !is_served(type)) return false;
    const bool grad_mode = at::GradMode::is_enabled();
    int64_t k = x.size(-1);
    differentiable = grad_mode && x.requires_grad();
    const bool derived = differentiable;
    bool narrow = is_wide(type);
    int64_t widest = 0;
    double multiplied = 0;
    saved.resize(kWeights + count);
    saved[kX] = x;
    for (Py_ssize_t i = 0; i < count; i++) {
      at::Tensor& t = saved[kWeights + i];
      const bool is_bias = i % 2;
      if (!unpack(weight(i), t) || (!t.defined() && !is_bias)) return false;
      if (!t.defined()) continue;
      if (type_in_product(t, autocast) != type || t.dim() != (is_bias ? 1 : 2)) return false;
      if (is_bias ? t.size(0) != k : t.size(1) != k || t.size(0) == 0) return false;
      if (!is_bias) {
        k = t.size(0);
        narrow = narrow && k <= limits.width;
        widest = std::max(widest, k);
        multiplied += double(t.numel());
      }
      differentiable = differentiable || (grad_mode && t.requires_grad());
    }
    const bool few = x.numel() / x.size(-1) <= kFewForDerived && widest > kWideForFew;
    has_derivatives = derived && is_wide(type) && k == 1 && widest <= limits.width_of_derived && !few;
    fits_chain = (!autocasts || multiplied <= kMostCopied) && (!derived || limits.derived || has_derivatives);
    fits_chain = fits_chain && (narrow || multiplied * double(x.numel() / x.size(-1)) <= double(limits.largest));
    return true;
  }

  // If it recomputes, x and the weights are all that is saved.
  at::Tensor run_chain(const std::string& acts, int64_t saves_input, const WithoutAutocast& off,
                       bool recomputes = false) {
    off.cast(saved);
    const size_t layers = (saved.size() - kWeights) / 2;
    at::Tensor y = chain_forward(saved, acts, differentiable && !recomputes);
    if (!differentiable) return y;
    const bool ends_in_identity = acts.compare(acts.rfind(',') + 1, 9, "identity ") == 0;
    if (!ends_in_identity && !(saves_input >> (layers - 1) & 1) && !recomputes) saved[1] = y;
    if (has_derivatives && !recomputes) {
      set_derivatives(y, std::move(saved), acts, saves_input);
      return y;
    }
    const std::vector<int64_t> at = places_if_they_stay(saved);
    const variable_list inputs(saved.begin() + kX, saved.end());
    const int64_t count = int64_t(inputs.size());
    set_history<ChainRule>({y}, inputs, std::move(saved),
                           {{"acts", acts}, {"saves_input", saves_input}, {"places", at}, {"inputs", count}});
    return y;
  }

  at::Tensor run_layers(const std::string& acts, int64_t saves_input, const WithoutAutocast& off) const {
    const std::vector<Activation> all = activations_of(acts);
    at::Tensor y = saved[kX];
    for (size_t i = 0; i < all.size(); i++) {
      const at::Tensor x = off.cast(y), *w = &saved[kWeights + 2 * i];
      y = linear_act(x, off.cast(w[0]), off.cast(w[1]), all[i], saves_input >> i & 1).first;
    }
    return y;
  }
};

inline std::string text_of(PyObject* text) {
  Py_ssize_t length;
  const char* data = PyUnicode_AsUTF8AndSize(text, &length);
  if (data == nullptr) throw python_error();
  return {data, size_t(length)};
}

// chain(x, (w_1, b_1, ...), acts, saves_input, recomputes, *limits): y, or None where that is left to Python. One that
// recomputes is served whatever the limits are.
inline PyObject* chain(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 5 + Limits::kCount && PyTuple_Check(args[1]), "chain: not its arguments");
  const auto weight = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(args[1], i); };
  const bool recomputes = args[4] == Py_True;
  Given given;
  if (!given.read(args[0], PyTuple_GET_SIZE(args[1]), weight, Limits(args + 5))) Py_RETURN_NONE;
  if (!given.fits_chain && !recomputes && !given.autocasts) Py_RETURN_NONE;
  const std::string acts = text_of(args[2]);
  const int64_t saves_input = PyLong_AsLongLong(args[3]);
  return without_gil([&] {
    const WithoutAutocast off;
    if (!given.fits_chain && !recomputes) return given.run_layers(acts, saves_input, off);
    return given.run_chain(acts, saves_input, off, recomputes);
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace fusegrad
