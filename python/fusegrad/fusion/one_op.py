"""What was put off and an activation of it, as one op where they can be."""

from operator import add, mul
from typing import Any

import torch
from torch import nn
from torch.compiler import is_compiling

from .. import functional
from ..activations import REGISTRY
from . import kept, opened, recognise
from .chains import keep_activated
from .match import match
from .notes import RESHAPE, Later, packed_glu
from .scaled import numbers_of, scaled_layer

_PLAIN = frozenset((bool, int, float, str, type(None)))


def key_of(act: Any, args: tuple, kwargs: dict[str, Any], scale: tuple = ()) -> Any:
    """By what a call of an activation is kept; None where that is not done."""
    key = act if isinstance(act, str) else id(act)
    if args or kwargs:
        given = *args, *kwargs.values()
        if not _PLAIN.issuperset(map(type, given)):
            return None
        return key, *scale, given, (*kwargs,), (*map(type, given),)
    return (key, *scale) if scale else key


def _taking(act: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    return None if args or kwargs or is_compiling() else opened.taking(act)


def given_by(layer: nn.Module | None, z: Later) -> Later:
    return Later(z.f, z.args, z.kwargs, layer, z.product)


def activated(act: Any, z: Later, args: tuple, kwargs: dict[str, Any]) -> Any:
    """act(z, ...) as one op, or None."""
    scales: list[Later] = []
    layer = z
    while layer.f is mul or layer.f is add:
        scales.insert(0, layer)
        layer = layer.args[0] if type(layer.args[0]) is Later else layer.args[1]
    if isinstance(layer.f, str) and layer.f in RESHAPE and not scales:
        flat, *shape = layer.args
        if flat.product is None or any(isinstance(size, torch.dtype) for size in shape):
            return None
        if not isinstance(match(act, args, kwargs), tuple):
            return None
        y = activated(act, given_by(z.layer or flat.layer, flat), args, kwargs)
        return None if y is None else getattr(y, layer.f)(*shape)
    if layer.product is None:
        return None
    if opened.was_gone_into(act) and (taking := _taking(act, args, kwargs)):
        return taking(z)
    spec = match(act, args, kwargs)
    if not isinstance(spec, tuple):
        if spec is None and (taking := _taking(act, args, kwargs)):
            opened.note_gone_into(act)
            return taking(z)
        return packed_glu(act, layer.product, args, kwargs) if spec is None and not scales else None
    if isinstance(act, str) and not recognise.is_torchs_method(act, layer.product.x, layer.product.w):
        return None
    scaled = scaled_layer(layer.product, scales, spec) if scales else (layer.product, spec)
    if scaled is None:
        return None
    (x, w, b, route), (name, param) = scaled
    if layer.layer is not None and not is_compiling():
        kept.served(layer.layer)
    if layer.layer is not None and w is layer.product.w and b is layer.product.b and not is_compiling():
        key = key_of(act, args, kwargs, numbers_of(scales))
        if key is not None and name != "identity":
            found_in = layer.f if isinstance(layer.f, nn.Module) else layer.layer  # itself, or what it is given by
            keep_activated(act, found_in, x, key, (name, param))
    if name == "identity":
        return functional.by_route(route, x, w, b)
    a = REGISTRY[name]
    return functional.activated(route, x, w, b, a, a.default if param is None else float(param))
