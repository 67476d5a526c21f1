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
