"""Which kernels serve an op on which device.

The dispatcher does the choosing: the reference is registered for every device, and a device kernel overrides it on
its dispatch key. What no kernel takes is served by the reference, never refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from . import ops
from .internals.dispatcher import has_kernel
from .kernels import SERVED
from .ops import chain, elementwise_streams
from .ops.chain_by_layers import backward_by_layers, forward_by_layers
from .ops.op import by_rule, library

# The widest first, as csrc/cpu/capability.cpp has them.
INSTRUCTION_SETS = ("amx", "avx512_bf16", "avx512", "avx2", "portable")


def asked(variable: str, *legal: str) -> str:
    """What an environment variable says, or "": of backends, before any kernel is registered."""
    value = os.environ.get(variable, "")
    if value not in ("", *legal):
        raise ValueError(f"{variable} is {value!r}; it can be {', '.join(map(repr, legal))}, or not set")
    return value


# FUSEGRAD_BACKEND=triton: the Triton kernels serve CPU tensors, by Triton's interpreter. To test them without a GPU.
INTERPRETED = asked("FUSEGRAD_BACKEND", "triton") == "triton"
# FUSEGRAD_CPU: a narrower instruction set than the widest that the processor has.
_instruction_set = asked("FUSEGRAD_CPU", *INSTRUCTION_SETS)

_HAS_TRITON = importlib.util.find_spec("triton") is not None
if INTERPRETED and not _HAS_TRITON:
    raise ImportError("FUSEGRAD_BACKEND=triton, but there is no triton: pip install triton")

extension: Any = None  # the C++ module, if there is one
if not INTERPRETED:
    try:
        extension = importlib.import_module("fusegrad._C")
    except ImportError as e:
        warnings.warn(
            f"fusegrad: no C++ extension ({e}); every op runs on the PyTorch reference. To build it, install a C++20 "
            "compiler and run: pip install --no-build-isolation --force-reinstall --no-deps fusegrad",
            stacklevel=2,
        )
if extension is not None and _instruction_set:
    try:
        extension.use_instruction_set(_instruction_set)
    except ValueError as e:
        raise ValueError(f"FUSEGRAD_CPU is {_instruction_set!r}; {e}") from None

# The C++ that makes an op's node of autograd too, which was built for one torch and is named after it (setup.py).
# FUSEGRAD_NODE=python: without it, nodes are made in Python, as with any other torch.
node: Any = None
if extension is not None and asked("FUSEGRAD_NODE", "python") != "python":
    try:
        node = importlib.import_module("fusegrad._node_" + re.sub(r"\W", "_", torch.__version__))
        node.set_rule(by_rule)
        node.set_kernels(extension.direct)
    except ImportError:
        pass


def _triton(op: ops.op.Op) -> Callable:
    """The op by its Triton kernel; by the reference what that can't take: an old GPU, a new activation."""

    def call(*args):
        if _runs_triton(args[0].device):
            kernel, activations = _kernels(op.name)
            if all(a in activations for a in args if isinstance(a, str)):
                return kernel(*args)
        return op.reference(*args)

    return call


@cache
def _kernels(op: str) -> tuple[Callable, dict[str, Any]]:
    """The kernel of an op and the activations it has, imported when it is first called, as they import Triton."""
    get = lambda module: importlib.import_module(f"fusegrad.kernels.{module}")
    if INTERPRETED:
        get("interpreter").repair()
    get("own")
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
        op: ops.op.Op = getattr(ops, name)
        op.serve("CPU" if INTERPRETED else "CUDA", _triton(op))  # CUDA is the key of HIP too


def _chain_by_triton(x, weights, acts, save):
    """The op chain on a GPU, and in one kernel where that is best; it refuses what does not fit."""
    of = chain.plan_of(acts, weights)
    chain.check_layers(x, weights, of)
    if suits_triton(x, weights, of.names):
        return _kernels_of("chain").chain(x, weights, of, save)
    with torch.no_grad():
        return forward_by_layers(x, weights, of, save)


def _chain_backward_by_triton(gy, x, weights, y, saved, acts, needed):
    of = chain.plan_of(acts, weights)
    chain.check_layers(x, weights, of)
    wanted = [bool(needed >> i & 1) for i in range(1 + len(weights))]
    if suits_triton(x, weights, of.names):
        found = _kernels_of("chain").chain_backward(gy, x, weights, y, saved, of, wanted)
    else:
        with torch.no_grad():
            found = backward_by_layers(gy, x, weights, of, wanted)
    return [x.new_empty(0) if g is None else g for g in found]


def _act_streams_by_triton(z, t, l, act, param):  # noqa: E741  # as in the formulas
    """The op act_streams on a GPU."""
    elementwise_streams.check_streams("act_streams", z, t, l)
    if not has_triton(act):
        raise ValueError(f"act_streams: no kernel of act {act!r}")
    return _kernels_of("act_streams").act_streams(z, t, l, act, param)


def _act_streams_backward_by_triton(gy, gty, gly, z, t, l, act, param, needed):  # noqa: E741
    elementwise_streams.check_streams("act_streams_backward", z, t, l, gly)
    elementwise_streams.check_streams("act_streams_backward", z, gty, None if gy is None else gy[None])
    if (gty is not None and gty.shape != t.shape) or not has_triton(act):
        raise ValueError(f"act_streams_backward: gty does not fit t, or there is no kernel of act {act!r}")
    return _kernels_of("act_streams").act_streams_backward(gy, gty, gly, z, t, l, act, param, needed)


_BY_TRITON = {
    "chain": _chain_by_triton,
    "chain_backward": _chain_backward_by_triton,
    "act_streams": _act_streams_by_triton,
    "act_streams_backward": _act_streams_backward_by_triton,
}
if _HAS_TRITON:
    for name, kernel in _BY_TRITON.items():
        library.impl(name, kernel, "CPU" if INTERPRETED else "CUDA")


def has_triton(act: str) -> bool:
    """Whether an activation has Triton kernels, where these serve."""
    return act in _kernels("act")[1]


def runs_by_triton(x: torch.Tensor) -> bool:
    """Whether what is done to x may be a Triton kernel."""
    return _HAS_TRITON and (x.is_cpu if INTERPRETED else x.is_cuda) and _runs_triton(x.device)


def suits_triton(x: torch.Tensor, weights: Sequence[Any], acts: Sequence[str]) -> bool:
    """Whether layers w_1, b_1, ... of matrices are best one kernel, on the GPU of x."""
    return runs_by_triton(x) and _kernels_of("chain").suits(x, [w.shape[0] for w in weights[::2]], acts)


@cache
def _kernels_of(module: str) -> Any:
    _kernels("act")  # what all kernels need
    return importlib.import_module(f"fusegrad.kernels.{module}")


# Whether chains are served on the CPU, and the activations that the kernels have from the start.
CHAINS: bool = extension is not None and not extension.torch_multiplies_faster()
KNOWN: frozenset[str] = frozenset(extension.activations()) if extension is not None else frozenset()


def empty_cache() -> None:
    """Give back the memory that the CPU kernels keep from call to call: of this thread, and of those that work for it.

    It is at most 32 MB for a thread that calls ops and some 7 MB for each that works for it; torch does not see it.

    >>> import fusegrad as fg
    >>> fg.empty_cache()
    """
    if extension is not None:
        extension.empty_cache()


def serving(op: str, device: str = "cpu") -> str:
    """The backend that serves `op` for tensors on a device: "reference" where no kernel is registered."""
    if op == "mlp":  # which calls the ops of its layers
        op = "linear_act"
    return device if has_kernel(op, device) else "reference"
