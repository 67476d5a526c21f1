"""Calls that were put off, as notes of what to call; and the gates that they make."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import functional_gated
from ..routing import Route
from . import recognise
from .recognise import Spec


class Product(NamedTuple):
    """z = x w^T + b, which an op takes."""

    x: Tensor
    w: Tensor
    b: Tensor | None
    route: Route  # as it is when the layer is noted, and when it is computed


class Later(NamedTuple):
    """A call that was not made yet: of f, or of the method of that name of the first argument."""

    f: Any
    args: tuple
    kwargs: dict[str, Any]
    layer: nn.Module | None = None  # the module that gave it
    product: Product | None = None  # of a layer: what it computes
    spec: Spec | None = None  # of an activation: which

    @property
    def device(self) -> torch.device:
        """That of the result, which a function may ask for before it computes anything."""
        if self.product is not None:
            return self.product.w.device
        z: Later = next(a for a in self.args if type(a) is Later)
        return z.device


def first(parts: Any) -> Any:
    a, _ = parts
    return a


def second(parts: Any) -> Any:
    _, b = parts
    return b


def gated(left: Any, right: Any) -> Any:
    """The product of a layer and the activation of another one as one op, or None."""
    for a, b in ((left, right), (right, left)):
        if type(a) is not Later or a.spec is None or isinstance(a.f, str):
            continue
        gate = a.args[0]
        if gate.f is first or gate.f is second:
            return _gated_halves(a.spec, gate, b)
        if type(b) is not Later or gate.product is None or b.product is None:
            continue
        g, u = gate.product, b.product
        if g.x is u.x and g.w.shape == u.w.shape and g.w.dtype == u.w.dtype:
            return functional_gated.gated(g.x, g.w, u.w, g.b, u.b, act=a.spec[0], param=a.spec[1])
    return None


def packed_glu(act: Any, product: Product, args: tuple, kwargs: dict[str, Any]) -> Any:
    """torch's GLU of a layer as one op, or None."""
    dim = recognise.of_glu(act, args, kwargs)
    if dim is None or dim not in (-1, product.x.dim() - 1) or product.w.shape[0] % 2:
        return None
    return functional_gated.gated_packed(*product[:3], act="sigmoid", packing="gate_last")


def _gated_halves(spec: Spec, gate: Later, up: Any) -> Any:
    """A gate of the two halves of one layer."""
    parts = gate.args[0]
    if type(up) is not Later or not (up.f is first or up.f is second) or up.f is gate.f or up.args[0] is not parts:
        return None
    z, _, *rest = parts.args
    dim = parts.kwargs.get("dim", *rest[:1]) if rest or parts.kwargs else 0
    if z.product is None or dim not in (-1, z.product.x.dim() - 1) or z.product.w.shape[0] % 2:
        return None
    packing = "gate_first" if gate.f is first else "gate_last"
    return functional_gated.gated_packed(*z.product[:3], act=spec[0], param=spec[1], packing=packing)
