"""Which route a call takes on the CPU: the only file that chooses.

What is so small that the call costs more than the arithmetic goes to stock torch, before any op is called. All else
goes to an op, by the shortest route that its mode allows. Which kernel then serves the op is the dispatcher's choice
(backends.py). By which algorithm a kernel computes a product is its own (csrc/cpu/gemm.h, kernels/choice.py).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, strided

from . import backends
from .internals.call import calls_torch, holds_its_numbers, in_plain_eager, linear_is_replaced, requires_grad
from .ops.chain import MOST_LAYERS
from .ops.operands import DTYPES

# Up to where stock's forward and backward are as fast as the ops', whose derivatives are called through Python: on two
# cores of a Zen 3, Python 3.11 (2026-11-23). In plain eager mode only: a compiler or a transform sees the same ops at
# all sizes.
SMALL_LAYER = 2**18  # multiplications
SMALL_GATED = 2**17  # multiplications of each of its two layers
SMALL_TENSOR, SMALL_TENSOR_IN_TRAINING = 2**13, 2**16  # elements


# kernel    the op's kernel, with nothing between: plain eager mode, no gradient needed
# function  the op's autograd.Function: plain eager mode
# stock     torch's own functions, which are faster here
# op        the op, in any mode, on any device
# written   torch's own functions, since somebody has given them another meaning
#
# The first three refuse what does not fit.
Route = Literal["kernel", "function", "stock", "op", "written"]


def route_of_layer(x: Tensor, w: Tensor, b: Tensor | None) -> Route:
    """What is best for these arguments, of which nothing is known yet."""
    if linear_is_replaced():
        return "written"
    if not in_plain_eager(x, w, b):
        return "written" if calls_torch(x, w, b) else "op"
    if backends.extension is None or x is None or w is None:
        return "op"
    if not (x.is_cpu and w.is_cpu and (b is None or b.is_cpu)):
        return "op"
    if x.layout is not strided or w.layout is not strided or x.is_nested:
        return "op"
    if not requires_grad(x, w, b):
        return "kernel"
    if w.dim() != 2 or x.numel() * w.shape[0] > SMALL_LAYER:
        return "function"
    return "stock" if _fits(w, b) else "op"


def _fits(w: Tensor, b: Tensor | None) -> bool:
    """Whether ops take what stock does, which takes complex numbers too, and broadcasts and converts a bias."""
    return w.dtype in DTYPES and (b is None or (b.dim() == 1 and b.numel() == w.shape[0] and b.dtype == w.dtype))


def route_of_gated(x: Tensor, w_gate: Tensor, w_up: Tensor, b_gate: Tensor | None, b_up: Tensor | None) -> Route:
    """The same for two layers of one input, one the gate of the other."""
    tensors = x, w_gate, w_up, b_gate, b_up
    if linear_is_replaced():
        return "written"
    if not in_plain_eager(*tensors):
        return "written" if calls_torch(*tensors) else "op"
    if backends.extension is None or x is None or w_gate is None or w_up is None:
        return "op"
    for t in tensors:
        if t is not None and not (t.is_cpu and t.layout is strided):
            return "op"
    if x.is_nested:
        return "op"
    if not requires_grad(*tensors):
        return "kernel"
    if w_gate.dim() != 2 or x.numel() * w_gate.shape[0] > SMALL_GATED:
        return "function"
    return "stock" if w_gate.shape == w_up.shape and _fits(w_gate, b_gate) and _fits(w_up, b_up) else "op"


def is_one_layer(x: Tensor, w: Tensor, b: Tensor | None) -> bool:
    """Whether two layers in one weight are best made as one, and the gate of its output.

    As two they have a gradient each, and to pack these costs a pass over the weight: more, with few rows, than the
    passes over the output that one op saves.
    """
    if not (in_plain_eager(x, w, b) and x.is_cpu and requires_grad(w)):
        return False
    return math.prod(x.shape[:-1]) < w.shape[1]


# What a chain serves: layers whose panels of rows, and weights, stay in cache (Zen 3, 2026-11-26)
CHAIN_ROWS, CHAIN_WIDTH = 9, 512
CHAIN_DTYPES = torch.float32, torch.float64
_PLAIN = Tensor, torch.nn.Parameter


def may_be_a_chain(x: Tensor) -> bool:
    """Whether an input is one of a chain, if its layers fit: the rest is asked by route_of_chain."""
    return (
        backends.CHAINS
        and type(x) in _PLAIN
        and in_plain_eager(x)
        and x.dtype in CHAIN_DTYPES
        and x.dim() > 0
        and x.numel() >= CHAIN_ROWS * x.size(-1) > 0
        and x.is_cpu
        and x.layout is strided
    )


def route_of_chain(
    x: Tensor, weights: Sequence[Tensor | None], acts: Sequence[str]
) -> Literal["function", "kernel", "layers"]:
    """What is best for layers w_1, b_1, ..., w_n, b_n: one op, with a derivative or without, or one by one.

    Of an x that may be that of a chain. The op refuses what does not fit.
    """
    if not in_plain_eager(*weights) or linear_is_replaced() or len(acts) > MOST_LAYERS:
        return "layers"
    for t in weights:
        if t is not None and not (t.is_cpu and t.layout is strided and holds_its_numbers(t)):
            return "layers"
    for act in acts:
        if act not in backends.KNOWN and not backends.extension.has_activation(act):
            return "layers"
    return "function" if requires_grad(x, *weights) else "kernel"


def runs_as_written(*tensors: Tensor | None) -> bool:
    """Whether linear layers of these tensors are torch's own functions, which somebody has given another meaning."""
    return linear_is_replaced() or (not in_plain_eager(*tensors) and calls_torch(*tensors))


def route_of_mlp(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
) -> Literal["function", "op", "layers"]:
    """What is best for two layers whose arguments fit: one op, or each by the route of a layer."""
    if not in_plain_eager(x, w1, b1, w2, b2):
        return "op"
    hidden = math.prod(x.shape[:-1]) * w1.shape[0]
    return "function" if hidden > SMALL_TENSOR_IN_TRAINING and requires_grad(x, w1, b1, w2, b2) else "layers"


def stock_rows(w: Tensor) -> int:
    """How many rows of x stock torch multiplies by w, where a gradient is needed, as fast as the ops."""
    return max(0, SMALL_LAYER // w.numel()) if backends.extension is not None and w.is_cpu and w.numel() > 0 else 0


def route_of_tensor(x: Tensor) -> Literal["stock", "op", "written"]:
    """What is best for an elementwise function of this tensor."""
    if not in_plain_eager(x):
        return "written" if calls_torch(x) else "op"
    size = x.numel()
    if size > SMALL_TENSOR_IN_TRAINING or not x.is_cpu:
        return "op"
    return "stock" if size <= SMALL_TENSOR or requires_grad(x) else "op"
