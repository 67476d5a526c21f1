// Ops with their nodes of autograd, for plain eager mode.
//
// Built against the C++ API of one torch, as its stable ABI has no nodes, and named after that: no other imports it.
// There, and where it was not built, the Functions of Python serve. What is no plain case is left to Python too: a call
// returns None, and backward calls the rule that the Function has.
#include "elementwise_streams.h"
#include "kept.h"
#include "mlp.h"

namespace {

using Fast = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
template <Fast f> PyCFunction fast() { return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f)); }

template <PyObject** known> PyObject* note(PyObject*, PyObject* what) {
  Py_INCREF(what);
  Py_XSETREF(*known, what);
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"act", fast<&fusegrad::act_of>(), METH_FASTCALL, "y of an activation, or None where Python is to make it."},
    {"act_streams", fast<&fusegrad::act_streams<false>>(), METH_FASTCALL,
     "y, ty, ly of an activation of a tensor with streams, or None where Python is to make them."},
    {"act_taylor", fast<&fusegrad::act_streams<true>>(), METH_FASTCALL, "The same of streams along one direction."},
    {"are_as_found", &fusegrad::are_as_found, METH_O, "Whether layers of a Sequential are as they were found before."},
    {"chain", fast<&fusegrad::chain>(), METH_FASTCALL, "y of a chain, or None where Python is to make it."},
    {"is_short", fast<&fusegrad::is_short>(), METH_FASTCALL, "Whether a tensor is plain, and has few elements."},
    {"kept_chain", fast<&fusegrad::kept_chain>(), METH_FASTCALL,
     "The same of the layers of a Sequential, as they were found before, if nothing has changed."},
    {"gated", fast<&fusegrad::gated>(), METH_FASTCALL, "y of a gated layer, or None where Python is to make it."},
    {"kept_gated", fast<&fusegrad::kept_gated>(), METH_FASTCALL, "The same of a gated layer."},
    {"kept_layer", fast<&fusegrad::kept_layer>(), METH_FASTCALL,
     "y of a layer and its activation, as they were found before, if nothing has changed."},
    {"kept_streams", fast<&fusegrad::kept_streams>(), METH_FASTCALL,
     "y, its first derivatives and its Laplacian, of a Sequential as it was found before, if nothing has changed."},
    {"kept_taylor", fast<&fusegrad::kept_taylor>(), METH_FASTCALL,
     "y and its derivatives along a direction, of a Sequential as it was found before, if nothing has changed."},
    {"layer", fast<&fusegrad::layer>(), METH_FASTCALL, "y of a layer, or None where Python is to make it."},
    {"linear_in_levels", fast<&fusegrad::linear_in_levels>(), METH_FASTCALL,
     "z of a layer by torch's functions, under torch.func, or None where Python is to make it."},
    {"mlp", fast<&fusegrad::mlp>(), METH_FASTCALL, "y of two layers, or None where Python is to make it."},
    {"program", fast<&fusegrad::program<fusegrad::OfProgram>>(), METH_FASTCALL,
     "y, ty, ly of a program of layers and functions with its streams, or None where Python is to make them."},
    {"program_taylor", fast<&fusegrad::program<fusegrad::OfTaylorProgram>>(), METH_FASTCALL,
     "The same of streams along one direction."},
    {"route", fast<&fusegrad::route>(), METH_FASTCALL, "That of a layer which is run at once, or None."},
    {"multiply_streams", fast<&fusegrad::multiply_streams>(), METH_FASTCALL,
     "The same of the product of two tensors with streams."},
    {"streams", fast<&fusegrad::streams<fusegrad::OfChain>>(), METH_FASTCALL,
     "y, ty, ly of a chain with its streams, or None where Python is to make them."},
    {"taylor", fast<&fusegrad::streams<fusegrad::OfTaylor>>(), METH_FASTCALL,
     "The same of streams along one direction."},
    {"set_activations", &note<&fusegrad::activations>, METH_O, "Note what is to be known of activations."},
    {"set_kernels", &fusegrad::set_kernels, METH_O, "Note the table of the kernels, `direct` of the other module."},
    {"set_rule", &note<&fusegrad::rule_in_python>, METH_O, "Note the function that calls the rule of an op in Python."},
    {"weight_and_bias", fast<&fusegrad::weight_and_bias>(), METH_FASTCALL,
     "Both parameters of a layer, or None where reading them as attributes is something else."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition{PyModuleDef_HEAD_INIT,
                       "fusegrad._node",
                       "Ops with their nodes of autograd, for plain eager mode.",
                       -1,
                       methods,
                       nullptr,
                       nullptr,
                       nullptr,
                       nullptr};

}  // namespace

#define INIT_OF(name) PyInit_##name
#define INIT(name) INIT_OF(name)

PyMODINIT_FUNC INIT(FUSEGRAD_NODE)() {
  PyObject* m = PyModule_Create(&definition);
  // no value of anything: what stands for none at all, and for a container with nothing in it
  fusegrad::absent = PyObject_CallNoArgs(reinterpret_cast<PyObject*>(&PyBaseObject_Type));
  fusegrad::empty = PyObject_CallNoArgs(reinterpret_cast<PyObject*>(&PyBaseObject_Type));
  if (m == nullptr || PyModule_AddObjectRef(m, "ABSENT", fusegrad::absent) < 0 ||
      PyModule_AddObjectRef(m, "EMPTY", fusegrad::empty) < 0) {
    return nullptr;
  }
  return m;
}
