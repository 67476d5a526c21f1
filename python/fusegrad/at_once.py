"""What C++ runs in one call, with its node of autograd, where it finds that the call is plain: for all else, None.

It is asked before the route of a call is, which in Python takes longer than a small layer. It is faster than stock
torch at all sizes (`bench grid`).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling, is_dynamo_compiling

from . import backends, routing
from .activations import REGISTRY, Activation
from .internals.call import in_eager, in_torch_func, linear_is_replaced
from .internals.module import GETATTR
from .ops.chain import Plan
from .ops.operands import DTYPES
from .routing import AS_FAST_IN_STOCK, PIECEWISE, have_kernels

_PLAIN = Tensor, torch.nn.Parameter


def layer_in_one_call(
    x: Tensor, w: Tensor, b: Tensor | None, act: str, param: float, saves_input: bool
) -> Tensor | None:
    """y of a layer whose route is "function", and its node of autograd, by C++; None where there is none."""
    return None if backends.node is None else backends.node.layer(x, w, b, act, param, saves_input)


def layer_at_once(x: Any, w: Any, b: Any, a: Activation, param: float) -> Tensor | None:
    """The same of a layer of which nothing is known yet, where C++ finds that "function" or "kernel" can be its route.

    Of any size.
    """
    if not _at_once(x, a) or linear_is_replaced():
        return None
    return layer_in_one_call(x, w, b, a.name, param, a.saves_input)


def linear_by_torch(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x w^T + b by torch; under torch.func with gradients that are made faster of few rows, where C++ finds no more."""
    if is_compiling() or backends.node is None or not in_torch_func():
        return F.linear(x, w, b)
    z = backends.node.linear_in_levels(x, w, b)
    return F.linear(x, w, b) if z is None else z


def may_be_layers(x: Any) -> bool:
    """Whether C++ may run layers of this input at once, if they are as they were found."""
    return (
        backends.node is not None
        and backends.CHAINS
        and type(x) in _PLAIN
        and in_eager(x)  # first: a mode sees the other questions
        and x.dtype in DTYPES
        and x.is_cpu
    )


def parameters_at_once(layer: nn.Module) -> tuple[Any, Any] | None:
    """The weight and the bias of a layer; None where its class computes them, and where that is left to Python."""
    if backends.node is None or is_dynamo_compiling():
        return None
    return backends.node.weight_and_bias(layer.__dict__, type(layer), GETATTR)


def kept_layer(x: Tensor, act: Any, found: tuple) -> Tensor | None:
    """The same of a layer and what is called after it, as they were found before (fusion/kept.py).

    Under torch.func it is computed by torch's functions, where they are best.
    """
    return None if backends.node is None else backends.node.kept_layer(x, act, found, *_limits_in_levels())


def kept_gated(x: Tensor, act: Any, up: Any, found: tuple) -> Tensor | None:
    """The same of a gate."""
    return None if backends.node is None else backends.node.kept_gated(x, act, up, found)


def _at_once(x: Any, a: Activation) -> bool:
    """Whether an op with this activation may be one call of C++, as far as the least tells."""
    return (
        backends.node is not None
        and not is_dynamo_compiling()
        and type(x) in _PLAIN
        and x.dtype in DTYPES
        and a.name in backends.KNOWN
    )


def gated_at_once(x: Any, w_gate: Any, w_up: Any, b_gate: Any, b_up: Any, a: Activation, param: float) -> Tensor | None:
    """y of a gated layer of which nothing is known yet, and its node, by C++; None where that is left to Python."""
    if not _at_once(x, a) or linear_is_replaced():
        return None
    return backends.node.gated(x, w_gate, w_up, b_gate, b_up, a.name, param)


def is_short(z: Any, most: int) -> bool:
    """Whether this is plain eager mode, and a tensor of so many elements, as far as C++ tells."""
    return backends.node is not None and not is_dynamo_compiling() and backends.node.is_short(z, most)


def act_at_once(z: Any, act: Any, param: float | None) -> Tensor | None:
    """The same of an activation by its name, of which nothing is known either."""
    if backends.node is None or is_dynamo_compiling():
        return None
    return backends.node.act(
        z, act, param, routing.SMALL_TENSOR, routing.SMALL_TENSOR_AS_FAST, routing.SMALL_TENSOR_PIECEWISE
    )


def _limit_of(act: str) -> int:
    """Which of these limits is an activation's."""
    return 2 if act in PIECEWISE else 1 if act in AS_FAST_IN_STOCK else 0


if backends.node is not None:
    known = (REGISTRY[name] for name in backends.KNOWN - {"identity"})
    backends.node.set_activations({a.name: (a.default, not a.saves_input, _limit_of(a.name)) for a in known})


def mlp_at_once(x: Any, w1: Any, b1: Any, w2: Any, b2: Any, a: Activation, param: float) -> Tensor | None:
    """The same of two layers: as a chain, one by one, or as the op, whatever is best."""
    if not backends.CHAINS or not _at_once(x, a) or linear_is_replaced():
        return None
    limits = *_limits_of_chain(), routing.SMALL_TENSOR_IN_TRAINING
    return backends.node.mlp(x, (w1, b1, w2, b2), a.name, param, a.saves_input, *limits)


def route_at_once(x: Any, w: Any, b: Any) -> Literal["function", "kernel", "op"] | None:
    """That of a layer which C++ runs at once, with its activation, if that is what comes next; None for all others."""
    if backends.node is None or not backends.CHAINS or is_compiling() or linear_is_replaced():
        return None
    return backends.node.route(x, w, b)


def _limits_of_chain() -> tuple[int, int, int, bool]:
    return routing.CHAIN_WIDTH, routing.CHAIN_LARGEST, routing.CHAIN_WIDTH_OF_DERIVED, routing.CHAIN_OF_DERIVED


def _limits_in_levels() -> tuple[int, int]:
    return routing.SMALL_IN_TRANSFORMS, routing.SMALL_IN_TRANSFORMS_IN_BFLOAT16


def chain_in_one_call(x: Tensor, weights: Sequence[Tensor | None], of: Plan, recompute: bool = False) -> Tensor | None:
    """y of a chain, and its node of autograd, by C++, which asks all that routing.py asks; None where that is left.

    One that computes again what its layers save is served at all sizes.
    """
    if backends.node is None or is_compiling() or linear_is_replaced() or not have_kernels(of.names):
        return None
    return backends.node.chain(x, tuple(weights), of.acts, of.saves_input, recompute, *_limits_of_chain())


def are_as_found(found: tuple) -> bool:
    """Whether nothing has changed of layers that were found before (fusion/kept.py)."""
    return backends.node is not None and backends.node.are_as_found(found)


def kept_chain(x: Tensor, found: tuple) -> Tensor | Literal[False] | None:
    """The same of layers that were found before (fusion/kept.py), if nothing has changed; not under a compiler.

    Where no chain serves them they run one by one, unless what follows reads the last; that is left, by False.
    """
    if backends.node is None:
        return None
    return backends.node.kept_chain(x, found, *_limits_of_chain(), *_limits_in_levels())
