"""Which backend serves an op: the only file that chooses, with csrc/cpu/capability.cpp for the products of C++.

The dispatcher does the choosing: the reference is registered for every device, and a device kernel overrides it on
its dispatch key. What no kernel takes is served by the reference, never refused. On a CPU, what is so small that the
call costs more than the arithmetic goes to stock torch, before any op is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, strided

from .internals.autograd import calls_torch, decomposes, has_kernel, in_plain_eager, linear_is_replaced, requires_grad
from .kernels import SERVED
from .ops import reference
from .ops.operands import DTYPES, checked
from .ops.schema import OPS, library

# The widest first, as csrc/cpu/capability.cpp has them.
INSTRUCTION_SETS = ("avx512_bf16", "avx512", "avx2", "portable")


def _asked(variable: str, *legal: str) -> str:
    """What an environment variable says, or "": checked before any kernel is registered."""
    value = os.environ.get(variable, "")
    if value not in ("", *legal):
        raise ValueError(f"{variable} is {value!r}; it can be {', '.join(map(repr, legal))}, or not set")
    return value


# FUSEGRAD_BACKEND=triton: the Triton kernels serve CPU tensors, by Triton's interpreter. To test them without a GPU.
INTERPRETED = _asked("FUSEGRAD_BACKEND", "triton") == "triton"
# FUSEGRAD_CPU: a narrower instruction set than the widest that the processor has.
_instruction_set = _asked("FUSEGRAD_CPU", *INSTRUCTION_SETS)

_HAS_TRITON = importlib.util.find_spec("triton") is not None
if INTERPRETED and not _HAS_TRITON:
    raise ImportError("FUSEGRAD_BACKEND=triton, but there is no triton: pip install triton")

_C: Any = None
if not INTERPRETED:
    try:
        from . import _C
    except ImportError as e:
        warnings.warn(
            f"fusegrad: no C++ extension ({e}); every op runs on the PyTorch reference. To build it, install a C++20 "
            "compiler and run: pip install --no-build-isolation --force-reinstall --no-deps fusegrad",
            stacklevel=2,
        )
if _C is not None and _instruction_set:
    try:
        _C.use_instruction_set(_instruction_set)
    except ValueError as e:
        raise ValueError(f"FUSEGRAD_CPU is {_instruction_set!r}; {e}") from None

for name, op in OPS.items():
    library.impl(name, checked(name, getattr(reference, name)), "CompositeExplicitAutograd")
    decomposes(op, getattr(reference, name))


def _triton(op: str) -> Callable:
    """The op by its Triton kernel; by the reference what that can't take: an old GPU, a new activation."""
    plain = getattr(reference, op)

    def call(*args):
        if _runs_triton(args[0].device):
            kernel, activations = _kernels(op)
            if all(a in activations for a in args if isinstance(a, str)):
                return kernel(*args)
        return plain(*args)

    return checked(op, call)


@cache
def _kernels(op: str) -> tuple[Callable, dict[str, Any]]:
    """The kernel of an op and the activations it has, imported when it is first called, as they import Triton."""
    get = lambda module: importlib.import_module(f"fusegrad.kernels.{module}")
    if INTERPRETED:
        get("interpreter").repair()
    return getattr(get(SERVED[op]), op), get("activations").ACTIVATIONS


@cache
def _runs_triton(device: torch.device) -> bool:
    """Whether Triton compiles for a GPU, NVIDIA's from 8.0 (Ampere) on and AMD's, and has the C compiler it needs."""
    if device.type == "cpu":
        return True
    try:
        importlib.import_module("triton.runtime").driver.active.get_current_target()
    except Exception as e:
        says = f"fusegrad: Triton does not run here ({e}); on {device} every op runs on the PyTorch reference."
        warnings.warn(says, stacklevel=2)
        return False
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)


if _HAS_TRITON:
    if INTERPRETED:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    for name in SERVED:
        library.impl(name, _triton(name), "CPU" if INTERPRETED else "CUDA")  # which is the key of HIP too


def empty_cache() -> None:
    """Give back the memory that the CPU kernels keep from call to call: of this thread, and of those that work for it.

    It is at most 32 MB for a thread that calls ops and some 3 MB for each that works for it; torch does not see it.

    >>> import fusegrad as fg
    >>> fg.empty_cache()
    """
    if _C is not None:
        _C.empty_cache()


def serving(op: str, device: str = "cpu") -> str:
    """The backend that serves `op` for tensors on a device: "reference" where no kernel is registered."""
    if op == "mlp":  # which calls the ops of its layers
        op = "linear_act"
    return device if has_kernel(op, device) else "reference"


# Up to where stock's forward and backward are as fast as the ops', whose derivatives are called through Python: on two
# cores of a Zen 3, Python 3.11 (2026-11-23). In plain eager mode only: a compiler or a transform sees the same ops at
# all sizes.
SMALL_LAYER = 2**18  # multiplications
SMALL_TENSOR, SMALL_TENSOR_IN_TRAINING = 2**13, 2**16  # elements


# How a layer is computed: by the C++ kernel, with nothing between; by the autograd.Function over it; by stock torch,
# which is faster; by the op, in any mode, on any device; or as it is written, by torch's own functions, which somebody
# has given another meaning. All but the last two refuse what does not fit.
Route = Literal["kernel", "function", "stock", "op", "written"]


def route_of_layer(x: Tensor, w: Tensor, b: Tensor | None) -> Route:
    """What is best for these arguments, of which nothing is known yet."""
    if linear_is_replaced():
        return "written"
    if not in_plain_eager(x, w, b):
        return "written" if calls_torch(x, w, b) else "op"
    if _C is None or x is None or w is None:
        return "op"
    if not (x.is_cpu and w.is_cpu and (b is None or b.is_cpu)):
        return "op"
    if x.layout is not strided or w.layout is not strided or x.is_nested:
        return "op"
    if not requires_grad(x, w, b):
        return "kernel"
    if w.dim() != 2 or x.numel() * w.shape[0] > SMALL_LAYER:
        return "function"
    # stock takes complex numbers too, and broadcasts and converts a bias
    fits = w.dtype in DTYPES and (b is None or (b.dim() == 1 and b.numel() == w.shape[0] and b.dtype == w.dtype))
    return "stock" if fits else "op"


def runs_as_written(*tensors: Tensor | None) -> bool:
    """Whether linear layers of these tensors are torch's own functions, which somebody has given another meaning."""
    return linear_is_replaced() or (not in_plain_eager(*tensors) and calls_torch(*tensors))


def route_of_mlp(
    x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None
) -> Literal["function", "op", "layers"]:
    """What is best for two layers whose arguments fit: one op, or each by the way of a layer."""
    if not in_plain_eager(x, w1, w2, b1, b2):
        return "op"
    hidden = math.prod(x.shape[:-1]) * w1.shape[0]
    return "function" if hidden > SMALL_TENSOR_IN_TRAINING and requires_grad(x, w1, w2, b1, b2) else "layers"


def stock_rows(w: Tensor) -> int:
    """How many rows of x stock torch multiplies by w, where a gradient is needed, as fast as the ops."""
    return max(0, SMALL_LAYER // w.numel()) if _C is not None and w.is_cpu and w.numel() > 0 else 0


def route_of_tensor(x: Tensor) -> Literal["stock", "op", "written"]:
    """What is best for an elementwise function of this tensor."""
    if not in_plain_eager(x):
        return "written" if calls_torch(x) else "op"
    size = x.numel()
    if size > SMALL_TENSOR_IN_TRAINING or not x.is_cpu:
        return "op"
    return "stock" if size <= SMALL_TENSOR or requires_grad(x) else "op"
