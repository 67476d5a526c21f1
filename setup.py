"""The C++ extension. Without a working compiler the package installs all the same, and runs on its reference."""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

extension = Pybind11Extension(
    "fusegrad._C",
    sorted(glob("csrc/**/*.cpp", recursive=True)),
    depends=sorted(glob("csrc/**/*.h", recursive=True)),
    include_dirs=["csrc"],
    cxx_std=17,
    extra_compile_args=["-O3", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-psabi"],
    optional=True,
)

setup(ext_modules=[extension])
