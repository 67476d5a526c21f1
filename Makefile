# Every target sets up what it needs. Without TORCH= the torch that PYTHON has is used, or 2.13.0 is installed;
# with TORCH=x.y.z that version is installed, in a venv of its own.
PYTHON ?= python3
DEFAULT_TORCH := 2.13.0
VENV := $(if $(TORCH),.venv-$(TORCH),.venv)
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# byte code is made of what is imported, when it is: an installation takes half as long
INSTALL := $(PIP) install --no-compile
CPP := $(shell find csrc -name '*.cpp' -o -name '*.h')
DEVICE ?= cpu

.PHONY: help build test test-slow test-models fuzz check format bench gpu clean
help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# what a build needs; --system-site-packages lets the venv see a torch that is already there
$(VENV)/ready:
	@echo "setting up $(VENV)"
	@$(if $(TORCH),$(PYTHON) -m venv $(VENV),\
	  $(PYTHON) -m venv $$($(PYTHON) -c 'import torch' 2>/dev/null && echo --system-site-packages) $(VENV))
	@$(INSTALL) 'setuptools>=77' 'pybind11>=2.13' ninja wheel numpy
	@$(PY) -c 'import torch' 2>/dev/null || $(INSTALL) torch==$(or $(TORCH),$(DEFAULT_TORCH))
	@touch $@

# the torch that is there, and what the package and some of its extras need
REQUIRED = $(PY) -c 'import sys; from importlib.metadata import requires, version; print("torch==" + version("torch"), \
  *(k.split(";")[0] for k in requires("fusegrad") if "extra ==" not in k or \
    k.split("\"")[-2] in sys.argv[1:] and not k.startswith("fusegrad[")), sep="\n")'

# pip installs on one core, while the other compiles
$(VENV)/built: $(VENV)/ready pyproject.toml setup.py $(CPP)
	@echo "compiling, and installing what development needs"
	@$(PY) setup.py --quiet egg_info
	@$(REQUIRED) bench dev > $@.txt
	@$(INSTALL) -r $@.txt & $(INSTALL) --no-build-isolation --no-deps -e . && wait $$!
	@touch $@

build: $(VENV)/built  ## install in a venv and compile; does nothing when nothing changed

test: build  ## the test suite, on the CPU: the same numbers each time
	$(PY) -m pytest

test-slow: build  ## the tests that cost more than they find
	$(PY) -m pytest -m slow

# the libraries of the extra `models`, with the torch that is there
$(VENV)/models: $(VENV)/built
	@echo "installing the libraries of real models in $(VENV)"
	@$(REQUIRED) models > $@.txt
	@$(INSTALL) -r $@.txt
	@touch $@

test-models: $(VENV)/models  ## fuse on real models of libraries that test does not install
	$(PY) -m pytest -m models

MINUTES ?= 5
fuzz: build  ## sizes, layouts, dtypes and activations at random, new ones each time, for MINUTES=5
	$(PY) tests/fuzz.py $(MINUTES)

check: build  ## lint, types and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)

format: build  ## apply the formatting that check asks for
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

bench: build  ## the benchmarks against stock torch, on the CPU, in under 4 minutes
	$(PY) -m fusegrad bench

# Uses PYTHON's own torch and packages, offline and without a venv.
gpu:  ## build, test and benchmark on the CUDA device of this machine; STEPS="tune linear_act" for some steps
	PYTHONPATH=python $(PYTHON) benchmarks/gpu.py $(STEPS)

clean:  ## remove what the targets made
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python -name '*.so' -delete
