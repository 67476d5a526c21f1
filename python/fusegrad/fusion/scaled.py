"""Layers that are scaled, or shifted, before their activation."""

from operator import add, mul

from torch import Tensor, nn

from ..activations import REGISTRY
from ..at_once import route_at_once
from ..internals.call import autocasts
from ..routing import route_of_layer
from .notes import Later, Product
from .recognise import Spec

_LEAST = 2.0**-20  # of a number that scales a weight: others may overflow where their product with z does not


def numbers_of(scales: list[Later]) -> tuple:
    """The numbers that scale a layer."""
    return tuple(s for scale in scales for s in scale.args if type(s) is not Later)


def scaled_layer(product: Product, scales: list[Later], spec: Spec) -> tuple[Product, Spec] | None:
    """The layer times s, plus t, as a layer of s w and s b + t, where that costs less than passes over its result."""
    x, w, b, _ = product
    if autocasts():  # which may compute the product in another dtype
        return None
    for f, operands, *_ in scales:
        s = operands[1] if type(operands[0]) is Later else operands[0]
        if isinstance(s, Tensor):
            if type(s) not in (Tensor, nn.Parameter) or s.dtype != w.dtype or s.device != w.device:
                return None
            if s.dim() > 1 or s.numel() not in (1, w.shape[0]):
                return None
        elif type(s) not in (int, float):
            return None
        if f is mul and spec[0] == "sin" and not isinstance(s, Tensor) and b is product.b:
            omega = s * (1.0 if spec[1] is None else spec[1])
            if REGISTRY["sin"].accepts(omega) and w is product.w:
                spec = "sin", omega
                continue
        if f is mul and x.numel() < x.shape[-1] ** 2:
            return None
        if f is mul and not isinstance(s, Tensor) and not _LEAST <= abs(s) <= 1 / _LEAST:
            return None
        if f is add:
            shift = s.expand(w.shape[0]) if isinstance(s, Tensor) else w.new_full((w.shape[0],), s)
            b = shift if b is None else b + shift
        else:
            w = (s.unsqueeze(-1) if isinstance(s, Tensor) and s.numel() > 1 else s) * w
            b = None if b is None else s * b
    return Product(x, w, b, route_at_once(x, w, b) or route_of_layer(x, w, b)), spec
