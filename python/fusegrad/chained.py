"""Layers of which each is the input of the next, as one op where that is served."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .internals.call import autocasts, linear_is_replaced, outside_transforms
from .ops.chain import FORWARD, chain, plan
from .routing import CHAIN_WIDTH, fits, may_be_a_chain, route_of_chain


def run_if_narrow(
    x: Tensor, weights: Sequence[Tensor | None], names: Sequence[str], params: Sequence[float]
) -> Tensor | None:
    """What layers w_1, b_1, ..., w_n, b_n with these activations make of x; None where no chain serves them."""
    return run_chain(x, weights, names, params) if may_be_a_chain(x) and all(map(_is_narrow, weights[::2])) else None


def _is_narrow(w: Any) -> bool:
    return isinstance(w, Tensor) and w.dim() == 2 and w.size(0) <= CHAIN_WIDTH


def run_chain(
    x: Tensor, weights: Sequence[Tensor | None], names: Sequence[str], params: Sequence[float]
) -> Tensor | None:
    """The same of an x that may be that of a chain, and of layers that are known to be narrow."""
    route = route_of_chain(x, weights, names)
    if route == "layers":
        return None
    of = plan(tuple(names), tuple(params), tuple([b is not None for b in weights[1::2]]))
    try:
        return chain(x, weights, of, route == "function")
    except RuntimeError:
        if _fit(x, weights):
            raise
        return None  # by layers: that says what does not fit


def run_seen(
    x: Tensor, weights: Sequence[Tensor | None], names: Sequence[str], params: Sequence[float]
) -> Tensor | None:
    """The same under a mode that knows what the op means, and calls it as it likes."""
    if not outside_transforms(x, *weights) or autocasts() or linear_is_replaced() or not _fit(x, weights):
        return None
    of = plan(tuple(names), tuple(params), tuple([b is not None for b in weights[1::2]]))
    return FORWARD(x, weights, of.acts, False)[0]


def _fit(x: Tensor, weights: Sequence[Tensor | None]) -> bool:
    """Whether these are what the op takes."""
    width = x.size(-1) if x.dim() else 0
    for w, b in zip(weights[::2], weights[1::2], strict=True):
        if w is None or not fits(w, b, x.dtype, width) or w.size(0) == 0:
            return False
        width = w.size(0)
    return True
