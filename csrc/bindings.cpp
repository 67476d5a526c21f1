// What is no op: facts about the processor and the build, and the memory that the kernels keep. Ops are registered by
// the kernels themselves.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/capability.h"
#include "cpu/direct.h"
#include "cpu/peak.h"
#include "cpu/registry.h"
#include "cpu/runtime.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about this processor and this build, and the memory that the kernels keep.";
  m.def("capability", &fusegrad::capability, "The instruction set whose kernels run.");
  m.def("instruction_sets", &fusegrad::instruction_sets,
        "Those that the kernels are written for, the widest first, and whether this processor has them.");
  m.def("use_instruction_set", &fusegrad::use_instruction_set, py::arg("name"),
        "Run the kernels of this instruction set, not those of the widest that the processor has.");
  m.def("torch_multiplies_faster", &fusegrad::torch_multiplies_faster, "Whether products are left to torch.");
  m.def("scratch_bytes", &fusegrad::scratch_bytes, "The scratch memory that all threads hold.");
  m.def("empty_cache", &fusegrad::empty_cache, py::call_guard<py::gil_scoped_release>(),
        "Free the scratch memory of this thread and of those that work for it.");
  m.def(
      "activations",
      [] {
        std::map<std::string, bool> saves_input;
        for (int i = 0; i < fusegrad::kernels().count; i++) {
          const fusegrad::Activation& a = fusegrad::kernels().activations[i];
          saves_input[a.name] = a.saves_input;
        }
        return saves_input;
      },
      "The activations that the kernels know, and whether each keeps its input for backward, or its output.");
  m.def("know_activation", &fusegrad::know_activation, py::arg("name"), py::arg("saves_input"),
        "Note what a new activation, of which there are no kernels, keeps for backward: its input, or its output.");
  m.def("load_activation", &fusegrad::load_activation, py::arg("path"), py::call_guard<py::gil_scoped_release>(),
        "Take the kernels of a new activation from a shared object that was compiled from csrc/cpu/own.h.");
  m.def(
      "has_activation", [](const std::string& name) { return fusegrad::activation(name) != nullptr; }, py::arg("name"),
      "Whether the kernels that run compute this activation.");
  m.def(
      "peak_gflops", &fusegrad::peak_gflops, py::arg("dtype"), py::arg("threads"), py::arg("seconds") = 0.2,
      py::call_guard<py::gil_scoped_release>(),
      "GFLOP/s of a register-only multiply-add loop: the most that any kernel can reach. 0 where the processor has no "
      "instruction for the dtype.");
  m.attr("compiler") = __VERSION__;
  m.attr("direct") = py::capsule(&fusegrad::direct::kTable, "fusegrad.direct");  // for the nodes of autograd
}
