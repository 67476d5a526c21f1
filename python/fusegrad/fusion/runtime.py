"""What a rewritten method runs: calls that are noted, and made as one op or as they are written.

A layer is not called where the author calls it, but noted (`Later`). What reads it next decides what happens, from what
it is given on this call: a layer and its activation run as one op, a gate too, and all else makes the calls that were
noted, in their order. So a layer that was replaced, hooked or parametrized, an activation with another slope, a dtype
that no op takes are obeyed without anyone having to notice the change.
"""

from operator import add, matmul, mul
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from .. import functional
from ..activations import REGISTRY
from ..at_once import route_at_once
from ..internals.call import autocasts, calls_torch, is_linear, linear_is_replaced
from ..internals.module import is_hooked, run_pre_hooks
from ..internals.stock import torchs
from ..nn import Linear, fits, is_ours, linear, stock_linear, weight_and_bias, why_alone
from ..routing import Route, route_of_layer, stock_serves
from . import kept, opened, recognise
from .chains import Turns, keep_activated, keep_gated, turns  # noqa: F401  # which methods call too
from .match import FAST, match
from .notes import RESHAPE, Later, Product, first, gated, packed_glu, second
from .opened import LEFT_OUT
from .recognise import Spec

_ADDMM, _MM = torchs(torch, "addmm"), torchs(torch, "mm")
_MATMULS = matmul, torchs(torch, "matmul"), _MM
_LEAST = 2.0**-20  # of a number that scales a weight: others may overflow where their product with z does not


def later(f: Any, *args: Any, **kwargs: Any) -> Any:
    """Notes the call f(*args, **kwargs) of a layer that an op takes, or of what was noted; makes any other call.

    So what may do more than compute its result is called where the author calls it, and weights are read there. A
    module that returns the result of a layer is called up to that.
    """
    if type(f) is Linear or is_ours(f):
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or why_alone(f) is not None:
            return f(*args, **kwargs)
        x, (w, b) = args[0], weight_and_bias(f)
        route: Route | None = route_at_once(x, w, b)
        if route is None:
            if stock_serves(x, w, b, False, FAST in f.__dict__):
                return stock_linear(x, w, b)
            route = route_of_layer(x, w, b)
        if route in ("stock", "written"):
            return F.linear(x, w, b)
        if route == "op" and not fits(x, w, b):
            return linear(x, w, b)
        return Later(f, args, kwargs, f, Product(x, w, b, route))
    if any(type(a) is Later for a in args):
        if isinstance(f, str):  # that the module holds, where an activation was to be
            return f(*map(now, args), **kwargs)  # type: ignore[operator]  # which raises what the author's call raises
        return _later_of_later(f, args, kwargs)
    if isinstance(f, nn.Module):
        if LEFT_OUT not in vars(f) and not is_compiling() and (given := opened.giving(f)) is not None:
            if is_hooked(f):
                run_pre_hooks(f, args)
            z = given(*args, **kwargs)
            return _given_by(f, z) if type(z) is Later else z
        return f(*args, **kwargs)
    called = _product_of_call(f, args, kwargs)
    return _call(f, args, kwargs) if called is None else Later(f, args, kwargs, None, called)


def later_method(name: str, z: Any, *args: Any, **kwargs: Any) -> Any:
    """Notes the call z.name(*args, **kwargs) of what was noted; makes any other call."""
    return _later_of_later(name, (z, *args), kwargs) if type(z) is Later else getattr(z, name)(*args, **kwargs)


def settled(z: Any, f: Any) -> Any:
    """What was noted, or its value if a call of f may do more than compute a layer: write to what z reads, say."""
    if type(z) is not Later:
        return z
    pure = is_ours(f) and why_alone(f) is None
    if not pure and isinstance(f, nn.Module):
        pure = type(f).forward is nn.Linear.forward and opened.giving(f) is not None
    return z if pure or not isinstance(f, nn.Module) else now(z)


def _given_by(layer: nn.Module | None, z: Later) -> Later:
    return Later(z.f, z.args, z.kwargs, layer, z.product)


def _later_of_later(f: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    if f is mul or f is add or (isinstance(f, str) and f in RESHAPE):
        return Later(f, args, kwargs)
    z = args[0]
    halves_of = z.args[0].args[0] if z.f is first or z.f is second else z
    spec = match(halves_of.layer, f, args[1:], kwargs)
    if not isinstance(spec, tuple) and halves_of is z:
        return _apply(f, z, args[1:], kwargs)
    return Later(f, args, kwargs, None, None, spec if isinstance(spec, tuple) else None)


def _product_of_call(f: Any, args: tuple, kwargs: dict[str, Any]) -> Product | None:
    """The layer that a call of one of torch's functions is, if an op takes it."""
    x: Any
    w: Any
    if is_linear(f) and not linear_is_replaced() and 2 <= len(args) and len(args) + len(kwargs) <= 3:
        x, w, *rest = args
        b = rest[0] if rest else kwargs.get("bias")
    elif (f is _ADDMM or any(f is product for product in _MATMULS)) and not linear_is_replaced() and not kwargs:
        if len(args) != (3 if f is _ADDMM else 2):
            return None
        *bias, x, w = args
        b = bias[0] if bias else None
        if not (isinstance(x, Tensor) and isinstance(w, Tensor)) or calls_torch(x, w, b) or w.dim() != 2:
            return None
        if f is _ADDMM and not (isinstance(b, Tensor) and b.dim() == 1):
            return None
        if (f is _ADDMM or f is _MM) and x.dim() != 2:
            return None
        w = w.t()
    else:
        return None
    if calls_torch(x, w, b) or not fits(x, w, b) or (route := route_of_layer(x, w, b)) in ("stock", "written"):
        return None
    return Product(x, w, b, route)


def halves(f: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
    """Notes `a, b = f(z, *args, **kwargs)`."""
    if type(z) is not Later:
        return _call(f, (z, *args), kwargs)
    parts = Later(f, (z, *args), kwargs)
    return Later(first, (parts,), {}), Later(second, (parts,), {})


def _call(f: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    return getattr(args[0], f)(*args[1:], **kwargs) if isinstance(f, str) else f(*args, **kwargs)


def apply(act: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
    """act(z, ...); with the layer that z notes, as one op where they can be."""
    if type(z) is not Later:
        return act(z, *args, **kwargs) if args or kwargs else act(z)
    if isinstance(act, str):  # that the module holds, where an activation was to be
        return act(now(z), *args, **kwargs)  # type: ignore[operator]  # raises what the author's call raises
    return _apply(act, z, args, kwargs)


def activated(act: Any, f: Any, x: Any) -> Any:
    """act(f(x)), of an activation and a layer; at once where they are as they were found before."""
    if is_compiling():
        return apply(act, later(f, x))
    y = kept.activated(x, act, f)
    if y is None:
        keep_activated(act, f, x)
        y = apply(act, later(f, x))
    return y


def activated_times(act: Any, f: Any, x: Any, g: Any, input: Any) -> Any:
    """act(f(x)) * g(input), the same of a gate: two layers, of one input."""
    at_once = x is input and not is_compiling()
    y = kept.gated(x, act, f, g) if at_once else None
    if y is None:
        if at_once:
            keep_gated(act, f, g, x)
        left = settled(later(act, later(f, x)), g)
        y = now(later(mul, left, later(g, input)))
    return y


def apply_method(name: str, z: Any, *args: Any, **kwargs: Any) -> Any:
    """The same for z.name(...)."""
    return _apply(name, z, args, kwargs)


def _apply(act: Any, z: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    if type(z) is Later and type(act) is not nn.Identity:
        y = _activated(act, z, args, kwargs)
        if y is not None:
            return y
    return _call(act, (now(z), *args), kwargs)


def now(z: Any, *held: Any) -> Any:
    """Makes the calls that z notes: as one op if they are a gate, or else first those of `held`, then the others."""
    if type(z) is not Later:
        return z
    if z.product is not None and not held:
        return _computed(z.product)
    if z.f is mul and (y := gated(*z.args)) is not None:
        return y
    made: dict[int, Any] = {}
    for h in held:
        _value(h, made)
    return _value(z, made)


def _computed(product: Product) -> Tensor:
    x, w, b, route = product
    return functional.by_route(route, x, w, b)


def _value(z: Any, made: dict[int, Any]) -> Any:
    if type(z) is not Later:
        return z
    if id(z) not in made:
        y = None
        if z.spec is not None and id(z.args[0]) not in made:
            y = _activated(z.f, z.args[0], z.args[1:], z.kwargs)
        if y is None:
            y = _computed(z.product) if z.product else _call(z.f, tuple(_value(a, made) for a in z.args), z.kwargs)
        made[id(z)] = y
    return made[id(z)]


# --- loops over layers


def turn(act: Any, f: Any, x: Any) -> Any:
    """act(f(x)), in a turn of a loop: put off where the layers of several turns may be one op."""
    if type(x) is not Turns:
        return apply(act, later(f, x))
    return x if x.add(f, act) else apply(act, later(f, turned(x)))


def last_turn(f: Any, x: Any) -> Any:
    """f(x), of what a loop over layers made."""
    if type(x) is not Turns:
        return f(x)
    return turned(x) if x.add(f, None) else f(turned(x))


def turned(x: Any) -> Any:
    """What the turns that were put off make, as one op or one by one."""
    if type(x) is not Turns:
        return x
    y = x.as_one_op()
    if y is None:
        y = x.x
        for f, act in x.calls:
            y = f(y) if act is None else apply(act, later(f, y))
    return y


# --- what can be one op -------------------------------------------------------------------------------------------


def _activated(act: Any, z: Later, args: tuple, kwargs: dict[str, Any]) -> Any:
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
        if not isinstance(match(flat.layer, act, args, kwargs), tuple):
            return None
        y = _activated(act, _given_by(z.layer or flat.layer, flat), args, kwargs)
        return None if y is None else getattr(y, layer.f)(*shape)
    if layer.product is None:
        return None
    spec = match(layer.layer, act, args, kwargs)
    if not isinstance(spec, tuple):
        if spec is None and not args and not kwargs and not is_compiling() and (taking := opened.taking(act)):
            return taking(z)
        return packed_glu(act, layer.product, args, kwargs) if spec is None and not scales else None
    if isinstance(act, str) and not recognise.is_torchs_method(act, layer.product.x, layer.product.w):
        return None
    scaled = _scaled(layer.product, scales, spec) if scales else (layer.product, spec)
    if scaled is None:
        return None
    (x, w, b, route), (name, param) = scaled
    if name == "identity":
        return functional.by_route(route, x, w, b)
    a = REGISTRY[name]
    return functional.activated(route, x, w, b, a, a.default if param is None else float(param))


def _scaled(product: Product, scales: list[Later], spec: Spec) -> tuple[Product, Spec] | None:
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
        if x.numel() < x.shape[-1] ** 2:
            return None
        if f is mul and not isinstance(s, Tensor) and not _LEAST <= abs(s) <= 1 / _LEAST:
            return None
        if f is add:
            shift = s.expand(w.shape[0]) if isinstance(s, Tensor) else w.new_full((w.shape[0],), s)
            b = shift if b is None else b + shift
        else:
            w = (s.unsqueeze(-1) if isinstance(s, Tensor) and s.numel() > 1 else s) * w
            b = None if b is None else s * b
    return Product(x, w, b, route_of_layer(x, w, b)), spec
