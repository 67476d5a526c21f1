"""The C++ extension. Without a working compiler the package installs all the same, and runs on its reference."""

import os
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

spec = find_spec("torch")  # not imported: that takes seconds, and an installation runs this file three times
if spec is None or spec.origin is None:
    says = "fusegrad is built against the torch that is installed: install torch first, and use --no-build-isolation"
    raise SystemExit(says)
torch = Path(spec.origin).parent

ParallelCompile(default=os.cpu_count() or 1).install()
extension = Pybind11Extension(
    "fusegrad._C",
    sorted(glob("csrc/**/*.cpp", recursive=True)),
    depends=sorted(glob("csrc/**/*.h", recursive=True)),
    include_dirs=["csrc"],
    library_dirs=[str(torch / "lib")],
    libraries=["torch_cpu"],
    # only what torch 2.11 has and keeps: one binary for it and all that came after
    define_macros=[("TORCH_TARGET_VERSION", "0x020b000000000000")],
    cxx_std=20,
    extra_compile_args=[
        *("-O3", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-psabi"),
        f"-isystem{torch / 'include'}",
    ],
    optional=True,
)

setup(ext_modules=[extension])
