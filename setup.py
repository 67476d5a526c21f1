"""The C++ extensions. Without a working compiler the package installs all the same, and runs on its reference."""

import os
import re
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import Extension, setup

spec = find_spec("torch")  # not imported: that takes seconds, and an installation runs this file three times
if spec is None or spec.origin is None:
    says = "fusegrad is built against the torch that is installed: install torch first, and use --no-build-isolation"
    raise SystemExit(says)
torch = Path(spec.origin).parent

FLAGS = ["-Wall", "-Wextra", "-Wno-psabi", f"-isystem{torch / 'include'}"]

ParallelCompile(default=os.cpu_count() or 1).install()
kernels = Pybind11Extension(
    "fusegrad._C",
    ["csrc/bindings.cpp", *sorted(glob("csrc/cpu/*.cpp"))],
    depends=sorted(glob("csrc/*.h") + glob("csrc/cpu/*.h")),
    include_dirs=["csrc"],
    library_dirs=[str(torch / "lib")],
    libraries=["torch_cpu"],
    # only what torch 2.11 has and keeps: one binary for it and all that came after
    define_macros=[("TORCH_TARGET_VERSION", "0x020b000000000000")],
    cxx_std=20,
    extra_compile_args=["-O3", "-ffp-contract=fast", *FLAGS],
    optional=True,
)

# What the stable ABI lacks, nodes of autograd: for this very torch, and named after it, so that no other imports it
version = re.findall(r"__version__ = '(.*)'", (torch / "version.py").read_text())[0]
name = "_node_" + re.sub(r"\W", "_", version)  # as in python/fusegrad/backends.py
nodes = Extension(
    f"fusegrad.{name}",
    ["csrc/autograd/module.cpp"],
    depends=["csrc/cpu/direct.h", *sorted(glob("csrc/autograd/*.h"))],
    library_dirs=[str(torch / "lib")],
    libraries=["torch_cpu", "torch_python", "c10"],
    define_macros=[("FUSEGRAD_NODE", name)],
    extra_compile_args=["-std=c++20", "-O1", "-fvisibility=hidden", *FLAGS],  # pybind11 is torch's, as its ABI counts
    optional=True,
)

setup(ext_modules=[kernels, nodes], options={"build_ext": {"parallel": 2}})
