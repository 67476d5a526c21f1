// Whether what was found out about modules still holds: read without running anything of them.
#pragma once

#include <torch/csrc/utils/pythoncapi_compat.h>

namespace fusegrad {

inline PyObject *absent = nullptr, *empty = nullptr;  // values of facts, known to Python by these names

// value is owner[name] of a dictionary, owner.name of all else, its class if there is no name.
inline bool holds(PyObject* owner, PyObject* name, PyObject* value) {
  if (name == Py_None) return reinterpret_cast<PyObject*>(Py_TYPE(owner)) == value;
  PyObject* found;
  if (PyDict_CheckExact(owner)) {
    found = Py_XNewRef(PyDict_GetItemWithError(owner, name));
  } else if (PyObject_GetOptionalAttr(owner, name, &found) < 0) {
    PyErr_Clear();  // a variable without a value
    return false;
  }
  const bool same = found == nullptr ? value == absent : value == empty ? PyObject_Size(found) == 0 : found == value;
  Py_XDECREF(found);
  return same;
}

// Of a tuple of owner, name, value, owner, name, value, ...
inline bool hold(PyObject* facts) {
  for (Py_ssize_t i = 0; i + 2 < PyTuple_GET_SIZE(facts); i += 3) {
    PyObject *owner = PyTuple_GET_ITEM(facts, i), *name = PyTuple_GET_ITEM(facts, i + 1);
    if (!holds(owner, name, PyTuple_GET_ITEM(facts, i + 2))) return false;
  }
  return true;
}

// The names of what a layer has.
inline PyObject* name_of_parameter(Py_ssize_t i) {
  static PyObject* const names[] = {PyUnicode_InternFromString("weight"), PyUnicode_InternFromString("bias")};
  return names[i];
}

// A borrowed reference to the weight or the bias among the parameters of a module, or nullptr.
inline PyObject* parameter(PyObject* parameters, Py_ssize_t i) {
  return PyDict_GetItemWithError(parameters, name_of_parameter(i));
}

// weight_and_bias(what a module holds, its class, torch's __getattr__ of modules): both parameters, or None if reading
// them as attributes is something else.
inline PyObject* weight_and_bias(PyObject*, PyObject* const* args, Py_ssize_t count) {
  static PyObject *const reads = PyUnicode_InternFromString("__getattr__"), *const kept = PyUnicode_InternFromString(
                                                                                "_parameters");
  if (count != 3 || !PyDict_Check(args[0]) || !PyType_Check(args[1])) {
    PyErr_SetString(PyExc_TypeError, "weight_and_bias: not its arguments");
    return nullptr;
  }
  const auto of_class = [&](PyObject* name) { return _PyType_Lookup(reinterpret_cast<PyTypeObject*>(args[1]), name); };
  PyObject* parameters = PyDict_GetItemWithError(args[0], kept);
  bool stored = parameters != nullptr && PyDict_Check(parameters) && of_class(reads) == args[2];
  PyObject* found[2] = {};
  for (int i = 0; stored && i < 2; i++) {
    found[i] = parameter(parameters, i);
    stored = found[i] != nullptr && of_class(name_of_parameter(i)) == nullptr && parameter(args[0], i) == nullptr;
  }
  if (PyErr_Occurred()) return nullptr;
  if (!stored) Py_RETURN_NONE;
  return PyTuple_Pack(2, found[0], found[1]);
}

// Whether these are the values of a dictionary, in its order.
inline bool are_values(PyObject* dict, PyObject* values) {
  if (!PyDict_CheckExact(dict) || PyDict_GET_SIZE(dict) != PyTuple_GET_SIZE(values)) return false;
  PyObject* value;
  for (Py_ssize_t at = 0, i = 0; PyDict_Next(dict, &at, nullptr, &value); i++) {
    if (value != PyTuple_GET_ITEM(values, i)) return false;
  }
  return true;
}

}  // namespace fusegrad
