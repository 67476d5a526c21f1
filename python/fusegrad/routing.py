"""Which route a call takes on the CPU, where it is not one call of C++ (at_once.py): the only file that chooses.

What is so small that the call costs more than the arithmetic goes to stock torch, before any op is called. All else
goes to an op, by the shortest route that its mode allows. Which kernel then serves the op is the dispatcher's choice
(backends.py). By which algorithm a kernel computes a product is its own (csrc/cpu/gemm.h, kernels/choice.py).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, bfloat16, float32, float64, is_grad_enabled, strided
from torch.compiler import is_compiling

from . import backends
from .internals.call import (
    autocasts,
    calls_torch,
    dtype_in_product,
    holds_its_numbers,
    in_plain_eager,
    in_torch_func,
    is_ops_mode_on,
    linear_is_replaced,
    requires_grad,
    traces,
)
from .ops.chain import MOST_LAYERS
from .ops.operands import DTYPES

_SET = "avx2" if backends.extension is None else backends.extension.capability()
# Up to where stock's forward and backward are as fast as the ops', whose derivatives are called through Python: on one
# core, Python 3.11, of a Zen 3 (2026-11-26), and with AVX-512 of a Zen 4 (2026-11-27). In plain eager mode only: a
# compiler sees the same ops at all sizes. In 16 bits stock multiplies at less of the peak.
# Multiplications, with those that a fused activation counts for, for each number of the result.
SMALL_LAYER = 2**24 if _SET == "avx2" else 2**22
SMALL_IN_16_BITS = -1 if _SET in ("amx", "avx512_bf16") else 2**18
_ACTIVATION = 256
# the same where no gradient is needed, of layers that fuse has put off: a row, or rows by a weight that is no larger
SMALL_IN_INFERENCE, LARGE_WEIGHT = 2**22, 2**18
FEW_ROWS = 64  # which the kernels multiply faster
_AS_FAST = float32, float64
_PLAIN = Tensor, torch.nn.Parameter
# which count for none
PIECEWISE = frozenset({"identity", "relu", "relu6", "leaky_relu", "leaky_relu_in_place", "hardtanh"})
AS_FAST_IN_STOCK = PIECEWISE | {"hardswish", "silu", "sigmoid", "exp", "square"}
SMALL_GATED = 2**20  # multiplications of each of its two layers
SMALL_TENSOR, SMALL_TENSOR_IN_TRAINING = 2**13, 2**16  # elements
SMALL_TENSOR_AS_FAST, SMALL_TENSOR_PIECEWISE = 2**20, 2**62  # of AS_FAST_IN_STOCK, of those in PIECEWISE
TINY_TENSOR = 2**8  # of a tanh, of which a call of torch's own costs a third less than ours (Zen 4, 2026-11-27)
# multiplications of a layer, and elements, up to which torch.func's levels cost an op in Python more than its kernel
# saves: 64 rows of 768 x 3072 take as ops 0.80 of torch's time forward, 8 rows of 768 x 1024 1.3 (Zen 4, 2026-11-27)
SMALL_IN_TRANSFORMS, SMALL_TENSOR_IN_TRANSFORMS = 2**27, 2**18
SMALL_IN_TRANSFORMS_IN_BFLOAT16 = -1  # where torch has no instructions for it either
if _SET in ("amx", "avx512_bf16"):
    SMALL_IN_TRANSFORMS_IN_BFLOAT16 = SMALL_IN_TRANSFORMS
# numbers of a weight up to which a compiler does best with what is written: 20 to 64 wide networks take as ops 1.18 to
SMALL_TO_COMPILERS = 2**18  # 1.3 times stock's time, as written 1.02 to 1.06 (Emerald Rapids, 2026-11-28)
LIMITS = (
    *("SMALL_IN_TRANSFORMS", "SMALL_IN_TRANSFORMS_IN_BFLOAT16", "SMALL_TENSOR_IN_TRANSFORMS"),
    *("SMALL_LAYER", "SMALL_IN_INFERENCE", "SMALL_GATED", "SMALL_TO_COMPILERS"),
    *("SMALL_TENSOR", "SMALL_TENSOR_IN_TRAINING", "SMALL_TENSOR_AS_FAST", "SMALL_TENSOR_PIECEWISE", "TINY_TENSOR"),
)


@contextmanager
def at_all_sizes() -> Iterator[None]:
    """Within it ops serve what is small too: to see what they compute."""
    limits = {name: globals()[name] for name in LIMITS}
    globals().update(dict.fromkeys(LIMITS, -1))
    try:
        yield
    finally:
        globals().update(limits)


# kernel    the op's kernel, with nothing between: plain eager mode, no gradient needed
# function  the op's autograd.Function: plain eager mode
# stock     torch's own functions, which are faster here
# op        the op, in any mode, on any device
# written   torch's own functions, since somebody has given them another meaning
#
# The first three only where the arguments fit.
Route = Literal["kernel", "function", "stock", "op", "written"]


def route_of_layer(x: Tensor, w: Tensor, b: Tensor | None) -> Route:
    """What is best for these arguments, of which nothing is known yet: what does not fit takes one that refuses it."""
    if linear_is_replaced():
        return "written"
    if not in_plain_eager(x, w, b):
        if calls_torch(x, w, b):
            return "written"
        return "stock" if in_small_transform(x, w) else "op"
    if backends.extension is None or x is None or w is None:
        return "op"
    if not (x.is_cpu and w.is_cpu and (b is None or b.is_cpu)):
        return "op"
    if x.layout is not strided or w.layout is not strided or x.is_nested or not fits_layer(x, w, b):
        return "op"
    if not requires_grad(x, w, b):
        return "kernel"
    return "stock" if _is_small(x, w, _ACTIVATION) else "function"


def in_small_transform(x: Any, *weights: Any) -> bool:
    """Whether torch.func or autocast is at work, on a CPU, and stock torch is best for layers of x, or what reads x.

    They may be anything. A compiler makes loops of its own of what a transform leaves of torch's functions: gradients
    of each of 32 to 64 samples, of 64 to 784 wide, take 0.2 to 0.5 of the time that they take of ops (Zen 4,
    2026-11-27).
    """
    if is_compiling():
        return SMALL_IN_TRANSFORMS > 0 and in_torch_func() and not autocasts() and isinstance(x, Tensor) and x.is_cpu
    if not (in_torch_func() or autocasts()):
        return False
    if not all(isinstance(t, Tensor) and t.is_cpu for t in (x, *weights)):
        return False
    if not weights:
        return (x.dtype in _AS_FAST or not in_torch_func()) and x.numel() <= SMALL_TENSOR_IN_TRANSFORMS
    dtype, *others = map(dtype_in_product, (x, *weights))
    if dtype not in (*_AS_FAST, bfloat16) or any(other is not dtype for other in others):
        return False
    rows = x.numel() // (x.shape[-1] or 1) if x.dim() > 0 else 1
    most = SMALL_IN_TRANSFORMS_IN_BFLOAT16 if dtype is bfloat16 else SMALL_IN_TRANSFORMS
    return rows * max(w.numel() for w in weights) <= most


def stock_serves(x: Any, w: Any, b: Tensor | None, alone: bool = False, fast: bool = False) -> bool:
    """Whether stock torch is best for a layer, as far as the least tells: where layers are small, asking costs most.

    It is right in every mode, and where no op takes what it is given. What traces sees the same ops at all sizes, and
    so do modes that know them.
    Alone: with no activation to be fused. Fast: with one that stock computes as fast.
    """
    if type(x) is not Tensor or type(w) not in _PLAIN or traces() or is_ops_mode_on():
        return False
    if not x.is_cpu or w.dim() != 2:  # of another device or layout one of the two is an error, or stock torch's
        return False
    (n, k), size, known = w.shape, x.numel(), x.dtype in _AS_FAST
    multiplies_as_fast = known and FEW_ROWS * k < size and size * n <= SMALL_LAYER
    if is_grad_enabled() and (x.requires_grad or w.requires_grad or (b is not None and b.requires_grad)):
        return (alone and multiplies_as_fast) or _is_small(x, w, _ACTIVATION)
    if (alone or fast) and multiplies_as_fast:
        return True
    few = size == k or n * k < LARGE_WEIGHT
    return few and known and size * n * (k + _ACTIVATION) <= SMALL_IN_INFERENCE * k


def is_stocks(x: Any, w: Any, b: Any) -> bool:
    """The same of what ops take too, with an activation."""
    return (b is None or isinstance(b, Tensor)) and stock_serves(x, w, b) and fits_layer(x, w, b)


def _is_small(x: Tensor, w: Tensor, activation: int) -> bool:
    n, k = w.shape
    small = SMALL_LAYER if x.dtype in _AS_FAST else min(SMALL_LAYER, SMALL_IN_16_BITS)
    return x.numel() * n * (k + activation) <= small * (k or 1)


def _counts_for(act: str) -> int:
    return 0 if act in PIECEWISE else _ACTIVATION


def route_with(act: str, route: Route, x: Tensor, w: Tensor) -> Route:
    """The route of a layer, with an activation after it or with "identity"."""
    return "stock" if route == "function" and _is_small(x, w, _counts_for(act)) else route


def fits_layer(x: Tensor, w: Tensor, b: Tensor | None) -> bool:
    """Whether ops take these; stock takes complex numbers too, and broadcasts and converts a bias."""
    return x.dtype in DTYPES and x.dim() > 0 and fits(w, b, x.dtype, x.shape[-1])


def fits(w: Tensor, b: Tensor | None, dtype: torch.dtype, width: int) -> bool:
    """Whether these are the weight and the bias of a layer whose input is so wide, and of this dtype."""
    return (
        w.dtype is dtype
        and w.dim() == 2
        and w.shape[1] == width
        and (b is None or (b.dtype is dtype and b.shape == w.shape[:1]))
    )


def route_of_gated(x: Tensor, w_gate: Tensor, w_up: Tensor, b_gate: Tensor | None, b_up: Tensor | None) -> Route:
    """The same for two layers of one input, one the gate of the other."""
    tensors = x, w_gate, w_up, b_gate, b_up
    if linear_is_replaced():
        return "written"
    if not in_plain_eager(*tensors):
        if calls_torch(*tensors):
            return "written"
        return "stock" if in_small_transform(x, w_gate, w_up) else "op"
    if backends.extension is None or x is None or w_gate is None or w_up is None:
        return "op"
    for t in tensors:
        if t is not None and not (t.is_cpu and t.layout is strided):
            return "op"
    if x.is_nested or not (fits_layer(x, w_gate, b_gate) and fits_layer(x, w_up, b_up) and w_gate.shape == w_up.shape):
        return "op"
    if not requires_grad(*tensors):
        return "kernel"
    return "function" if x.numel() * w_gate.shape[0] > SMALL_GATED else "stock"


def is_one_layer(x: Tensor, w: Tensor, b: Tensor | None) -> bool:
    """Whether two layers in one weight are best made as one, and the gate of its output.

    As two they have a gradient each, and to pack these costs a pass over the weight: more, with few rows, than the
    passes over the output that one op saves.
    """
    if not (in_plain_eager(x, w, b) and x.is_cpu and requires_grad(w)):
        return False
    return math.prod(x.shape[:-1]) < w.shape[1]


# What a chain serves: layers whose panels of rows, and weights, stay in cache; and others, layer by layer, where calls
# cost much of what their multiplications do (Zen 3, 2026-11-26)
CHAIN_WIDTH, CHAIN_LARGEST = 512, 2**25
# How wide layers are of a chain that ends in one number a row, where its input is differentiated, likely twice: its
# derivatives are ops too (ops/chain_derivatives.py). Of up to 512: 1.04 to 2.4 times as fast as layer by layer on
# Laplacians, forces, eikonal losses and penalties, 8 to 6000 rows (Zen 4, 2026-11-26).
CHAIN_WIDTH_OF_DERIVED = 512
# Whether such inputs of all other chains are served. Second derivatives of these compute their layers again: steps on
# Laplacians and forces, 20 to 320 wide, at 0.45 to 0.85 of stock's speed, layer by layer 0.92 to 1.9 (Zen 3, the same
# day). On a GPU they are: a first derivative saves about as many launches as those of a second add, by count alone.
CHAIN_OF_DERIVED = False


def _chains_on_cpu(x: Tensor) -> bool:
    return backends.CHAINS and x.is_cpu


def may_be_a_chain(x: Tensor) -> bool:
    """Whether an input is one of a chain, if its layers fit: the rest is asked by route_of_chain."""
    return (
        type(x) in _PLAIN
        and ((CHAIN_OF_DERIVED or not requires_grad(x)) if _chains_on_cpu(x) else backends.runs_by_triton(x))
        and x.layout is strided
        and x.dtype in DTYPES
        and x.dim() > 0
        and in_plain_eager(x)
        and x.numel() > 0
    )


def suit_a_chain(x: Tensor, weights: Sequence[Any]) -> bool:
    """Whether layers of these weights are best made as one op, of an x that may be that of a chain."""
    if not all(isinstance(w, Tensor) and w.dim() == 2 for w in weights):
        return False
    if not _chains_on_cpu(x):
        return True  # which the kernels say, once the activations are known
    narrow = x.dtype in _AS_FAST and all(w.size(0) <= CHAIN_WIDTH for w in weights)
    return narrow or x.numel() // x.size(-1) * sum(w.numel() for w in weights) <= CHAIN_LARGEST


def have_kernels(acts: Sequence[str]) -> bool:
    for act in acts:
        if act not in backends.KNOWN and not backends.extension.has_activation(act):
            return False
    return len(acts) <= MOST_LAYERS


def route_of_chain(
    x: Tensor, weights: Sequence[Tensor | None], acts: Sequence[str]
) -> Literal["function", "kernel", "layers"]:
    """What is best for layers w_1, b_1, ..., w_n, b_n: one op, with a derivative or without, or one by one.

    Of an x that may be that of a chain. The op refuses what does not fit.
    """
    if not in_plain_eager(*weights) or linear_is_replaced():
        return "layers"
    if not (have_kernels(acts) if _chains_on_cpu(x) else backends.suits_triton(x, weights, acts)):
        return "layers"
    for t in weights:
        if t is not None and not (t.device == x.device and t.layout is strided and holds_its_numbers(t)):
            return "layers"
    return "function" if requires_grad(x, *weights) else "kernel"


def streams_are_a_chain(x: Tensor, streams: Sequence[Tensor | None], weights: Sequence[Tensor | None], acts) -> bool:
    """Whether layers with derivatives along directions are best made as one op: of any width, and few rows too."""
    return (
        backends.CHAINS
        and type(x) in _PLAIN
        and x.is_cpu
        and x.layout is strided
        and x.dtype in _AS_FAST
        and x.dim() > 0
        and x.size(-1) > 0
        and in_plain_eager(x, *streams)
        and route_of_chain(x, weights, acts) != "layers"
    )


def runs_as_written(*tensors: Tensor | None) -> bool:
    """Whether linear layers of these tensors are torch's own functions, which somebody has given another meaning."""
    return linear_is_replaced() or (not in_plain_eager(*tensors) and calls_torch(*tensors))


def route_of_mlp(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
) -> Literal["function", "op", "layers"]:
    """What is best for two layers whose arguments fit: one op, or each by the route of a layer."""
    if not in_plain_eager(x, w1, b1, w2, b2):
        return "layers" if in_small_transform(x, w1, w2) else "op"
    hidden = math.prod(x.shape[:-1]) * w1.shape[0]
    return "function" if hidden > SMALL_TENSOR_IN_TRAINING and requires_grad(x, w1, b1, w2, b2) else "layers"


def stock_rows(w: Tensor, act: str) -> int:
    """How many rows of x stock torch multiplies by w, where a gradient is needed, as fast as the ops."""
    if backends.extension is None or not w.is_cpu or w.numel() == 0 or w.dim() != 2:
        return 0
    if backends.node is not None and w.dtype in DTYPES and act in backends.KNOWN:
        return 0
    small = SMALL_LAYER if w.dtype in _AS_FAST else min(SMALL_LAYER, SMALL_IN_16_BITS)
    return max(0, small // (w.shape[0] * (w.shape[1] + _counts_for(act))))


def stock_maps(x: Any, act: str) -> bool:
    """Whether stock torch is best for an activation by itself, as far as the least tells (see `stock_serves`)."""
    return type(x) is Tensor and x.is_cpu and not traces() and _is_short(x, act)


def _is_short(x: Tensor, act: str) -> bool:
    if act in AS_FAST_IN_STOCK and x.dtype in _AS_FAST:
        return x.numel() <= (SMALL_TENSOR_PIECEWISE if act in PIECEWISE else SMALL_TENSOR_AS_FAST)
    return x.numel() <= (SMALL_TENSOR_IN_TRAINING if requires_grad(x) else SMALL_TENSOR)


def route_of_tensor(x: Tensor, act: str = "") -> Route:
    """What is best for an elementwise function of this tensor, which may be an activation that torch has too."""
    if not in_plain_eager(x):
        return "written" if calls_torch(x) else "stock" if in_small_transform(x) else "op"
    if not x.is_cpu:
        return "op"
    if _is_short(x, act):
        return "stock"
    if (
        requires_grad(x)
        or backends.extension is None
        or x.dtype not in DTYPES
        or x.layout is not strided
        or x.is_nested
    ):
        return "op"
    return "kernel"
