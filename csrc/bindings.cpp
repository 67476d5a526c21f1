// What is no op: facts about the processor and the build. Ops are registered by the kernels
// themselves.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/capability.h"
#include "cpu/peak.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about this processor and this build.";
  m.def("capability", &fusegrad::capability,
        "The widest instruction set that the kernels are written for: avx512_bf16, avx512, avx2 or portable; no wider "
        "than FUSEGRAD_CPU says.");
  fusegrad::kernels();  // an illegal FUSEGRAD_CPU is told on import
  m.def(
      "activations",
      [] {
        std::map<std::string, bool> keeps_input;
        for (int i = 0; i < fusegrad::kernels().count; i++) {
          const fusegrad::Activation& a = fusegrad::kernels().activations[i];
          keeps_input[a.name] = a.keeps_input;
        }
        return keeps_input;
      },
      "The activations that the kernels know, and whether each keeps its input for backward, or its output.");
  m.def("peak_gflops", &fusegrad::peak_gflops, py::arg("dtype"), py::arg("threads"), py::arg("seconds") = 0.2,
        py::call_guard<py::gil_scoped_release>(),
        "GFLOP/s of a register-only multiply-add loop: the most that any kernel can reach. 0 where "
        "the "
        "processor has no instruction for the dtype.");
  m.attr("compiler") = __VERSION__;
}
