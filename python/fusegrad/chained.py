"""Layers of which each is the input of the next, as one op where that is served."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.compiler import is_compiling
from torch.utils.checkpoint import checkpoint

from . import backends
from .at_once import chain_in_one_call
from .internals.call import (
    autocasts,
    checkpoints_work,
    linear_is_replaced,
    outside_transforms,
    requires_grad,
    unseen,
)
from .ops.chain import FORWARD, Plan, chain, plan
from .routing import fits, may_be_a_chain, route_of_chain, suit_a_chain


def run_layers(
    x: Tensor, weights: Sequence[Tensor | None], names: Sequence[str], params: Sequence[float]
) -> Tensor | None:
    """What layers w_1, b_1, ..., w_n, b_n with these activations make of x; None where no chain serves them."""
    if is_compiling():
        return None
    return run_chain(x, weights, plan(tuple(names), tuple(params), have_biases(weights)))


def have_biases(weights: Sequence[Tensor | None]) -> tuple[bool, ...]:
    return tuple([b is not None for b in weights[1::2]])


def run_chain(x: Tensor, weights: Sequence[Tensor | None], of: Plan) -> Tensor | None:
    """The same of a plan; not under a compiler."""
    y = chain_in_one_call(x, weights, of)
    if y is not None or not may_be_a_chain(x) or not suit_a_chain(x, weights[::2]):
        return y
    route = route_of_chain(x, weights, of.names)
    if route == "layers":
        return None
    try:
        return chain(x, weights, of, route == "function")
    except (RuntimeError, TypeError, ValueError):
        if _fit(x, weights):
            raise
        return None  # by layers: that says what does not fit


def run_recomputed(
    x: Tensor,
    weights: Sequence[Tensor | None],
    names: Sequence[str],
    params: Sequence[float],
    layers: Callable[..., Tensor],
) -> Tensor:
    """What `layers` makes of x and the weights, of which these are saved alone: backward computes all else again.

    By the kernels of a chain, or by torch's checkpoint. Where there is none, under torch.func, in forward mode and in
    what is exported or traced, layers save what they save.
    """
    if not is_compiling() and backends.CHAINS and x.is_cpu:
        y = chain_in_one_call(x, weights, plan(tuple(names), tuple(params), have_biases(weights)), recompute=True)
        if y is not None:
            return y
    if not requires_grad(x, *weights) or not checkpoints_work(x, *weights):
        return layers(x, *weights)
    return checkpoint(layers, x, *weights, use_reentrant=False, preserve_rng_state=False)


def run_seen(x: Tensor, weights: Sequence[Tensor | None], of: Plan) -> Tensor | None:
    """The same under a mode that knows what the op means, and calls it as it likes."""
    if not outside_transforms(x, *weights) or autocasts() or linear_is_replaced() or not _fit(x, weights):
        return None
    return FORWARD(x, weights, of.acts, False)[0]


@unseen
def _fit(x: Tensor, weights: Sequence[Tensor | None]) -> bool:
    """Whether these are what the op takes."""
    width = x.size(-1) if x.dim() else 0
    for w, b in zip(weights[::2], weights[1::2], strict=True):
        if w is None or not fits(w, b, x.dtype, width) or w.size(0) == 0:
            return False
        width = w.size(0)
    return True
