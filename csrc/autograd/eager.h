// Plain eager mode as C++ sees it, and what nodes of autograd need of torch and Python.
#pragma once

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/SavedTensorHooks.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_variable.h>

namespace fusegrad {

using torch::autograd::variable_list;

// Whether this is plain eager mode, but for torch.compile: no transform, tracer, forward mode or mode of functions or
// ops is on, nor autocast, unless it is among those allowed. Where this says no, Python asks again, and more finely.
inline bool is_plain_eager(c10::DispatchKeySet allowed = {}) {
  const c10::impl::LocalDispatchKeySet keys = c10::impl::tls_local_dispatch_key_set();
  const bool infers = c10::InferenceMode::is_enabled();
  const c10::DispatchKeySet on =
      infers ? c10::default_included_set.remove(c10::DispatchKey::ADInplaceOrView) : c10::default_included_set;
  const c10::DispatchKeySet off =
      infers ? c10::default_excluded_set | c10::autograd_dispatch_keyset : c10::default_excluded_set;
  return keys.included_ == on && (keys.excluded_ | allowed) == off && !at::impl::torch_function_mode_enabled() &&
         !torch::autograd::ForwardADLevel::try_get_by_idx(0);
}

// The same, or autocast is on: that of the CPU casts what products are made of (autocast.h), all others do nothing
// here.
inline bool is_eager() {
  static const bool casts_activations = c10::Dispatcher::singleton()
                                            .findSchemaOrThrow("aten::softplus", "")
                                            .hasKernelForDispatchKey(c10::DispatchKey::AutocastCPU);
  return is_plain_eager(casts_activations ? c10::DispatchKeySet() : c10::autocast_dispatch_keyset);
}

// Whether torch.func is at work, and nothing else that is no plain eager mode but autocast.
inline bool is_only_torch_func() {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet levels{DispatchKey::FuncTorchDynamicLayerFrontMode,
                                       DispatchKey::FuncTorchDynamicLayerBackMode};
  const c10::impl::LocalDispatchKeySet keys = c10::impl::tls_local_dispatch_key_set();
  return keys.included_.has(DispatchKey::FuncTorchDynamicLayerFrontMode) &&
         keys.included_ - levels == c10::default_included_set &&
         (keys.excluded_ | c10::autocast_dispatch_keyset) == c10::default_excluded_set &&
         !at::impl::torch_function_mode_enabled();
}

// Whether this is a dense tensor of the CPU, and no more: no subclass, nothing of torch.func, not one whose numbers are
// to be negated. One that was made by inference is so while that goes on.
inline bool is_plain(const at::Tensor& t) {
  const auto keys_where = [](bool infers) {
    const c10::InferenceMode mode(infers);
    return at::detail::empty_cpu({0}, at::kFloat, false, std::nullopt).key_set();
  };
  static const c10::DispatchKeySet keys = keys_where(false), by_inference = keys_where(true);
  return t.key_set() == keys || (t.key_set() == by_inference && c10::InferenceMode::is_enabled());
}

inline bool is_wide(at::ScalarType type) { return type == at::kFloat || type == at::kDouble; }

// Whether kernels have this type.
inline bool is_served(at::ScalarType type) { return is_wide(type) || type == at::kBFloat16 || type == at::kHalf; }

inline bool is_plain(PyObject* t) { return THPVariable_CheckExact(t) && is_plain(THPVariable_Unpack(t)); }

// An op below autograd: its kernel.
class Operator {
 public:
  explicit Operator(const char* name) : op_(c10::Dispatcher::singleton().findSchemaOrThrow(name, "")) {}
  // What it returns, of its arguments.
  torch::jit::Stack operator()(torch::jit::Stack stack) const {
    const at::AutoDispatchBelowADInplaceOrView below;
    op_.callBoxed(stack);
    return stack;
  }

 private:
  c10::OperatorHandle op_;
};

// f(args...) in Python, with the GIL held; what it raises is raised by backward.
inline THPObjectPtr call_python(PyObject* f, std::initializer_list<PyObject*> args) {
  THPObjectPtr result(PyObject_Vectorcall(f, args.begin(), args.size(), nullptr));
  if (result) return result;
  python_error error;
  error.persist();
  throw std::move(error);
}

inline PyObject* to_python(const at::Tensor& t) {
  if (t.defined()) return THPVariable_Wrap(t);
  Py_RETURN_NONE;
}

// A tensor that is made while other threads of Python run.
template <class Make> PyObject* without_gil(const Make& make) {
  at::Tensor made;
  {
    const pybind11::gil_scoped_release no_gil;
    made = make();
  }
  return THPVariable_Wrap(std::move(made));
}

inline PyObject* to_bool(bool value) { return PyBool_FromLong(value); }

inline std::optional<at::Tensor> if_any(const at::Tensor& t) {
  return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt;
}

template <class Values, class Convert> THPObjectPtr to_tuple(const Values& values, Convert convert) {
  THPObjectPtr tuple(PyTuple_New(Py_ssize_t(values.size())));
  for (size_t i = 0; i < values.size(); i++) PyTuple_SET_ITEM(tuple.get(), i, convert(values[i]));
  return tuple;
}

// What Python gives as a tensor, or None; false if it is no plain tensor.
inline bool unpack(PyObject* given, at::Tensor& to) {
  if (given == Py_None) return true;
  if (given == nullptr || !is_plain(given)) return false;
  to = THPVariable_Unpack(given);
  return true;
}

// Of a tuple or list of tensors and None.
inline variable_list to_tensors(PyObject* sequence) {
  THPObjectPtr fast(PySequence_Fast(sequence, "a rule gives a tuple of gradients"));
  if (!fast) throw python_error();
  variable_list tensors(PySequence_Fast_GET_SIZE(fast.get()));
  for (size_t i = 0; i < tensors.size(); i++) {
    PyObject* item = PySequence_Fast_GET_ITEM(fast.get(), i);
    if (item != Py_None) tensors[i] = THPVariable_Unpack(item);
  }
  return tensors;
}

}  // namespace fusegrad
