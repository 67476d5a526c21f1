"""The C++ extension. Without a working compiler the package installs all the same, and runs on its reference."""

import os
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

try:
    from torch.utils.cpp_extension import include_paths, library_paths
except ImportError:
    says = "fusegrad is built against the torch that is installed: install torch first, and use --no-build-isolation"
    raise SystemExit(says) from None

ParallelCompile(default=os.cpu_count() or 1).install()
extension = Pybind11Extension(
    "fusegrad._C",
    sorted(glob("csrc/**/*.cpp", recursive=True)),
    depends=sorted(glob("csrc/**/*.h", recursive=True)),
    include_dirs=["csrc"],
    library_dirs=library_paths(),
    libraries=["torch_cpu"],
    # only what torch 2.11 has and keeps: one binary for it and all that came after
    define_macros=[("TORCH_TARGET_VERSION", "0x020b000000000000")],
    cxx_std=20,
    extra_compile_args=[
        *("-O3", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-psabi"),
        *(f"-isystem{path}" for path in include_paths()),
    ],
    optional=True,
)

setup(ext_modules=[extension])
