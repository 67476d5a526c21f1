"""What a rewritten method runs: calls that are noted, and made as one op or as they are written.

A layer is not called where the author calls it, but noted (`Later`). What reads it next decides what happens, from what
it is given on this call: a layer and its activation run as one op, a gate too, and all else makes the calls that were
noted, in their order. So a layer that was replaced, hooked or parametrized, an activation with another slope, a dtype
that no op takes are obeyed without anyone having to notice the change.
"""

from operator import add, matmul, mul
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from .. import functional, functional_gated
from ..activations import REGISTRY
from ..internals.call import autocasts, calls_torch, is_linear, linear_is_replaced
from ..internals.module import is_hooked, run_pre_hooks
from ..nn import Linear, fits, is_ours, linear, why_alone, why_called
from . import formula, opened, recognise
from .recognise import Spec

_RESHAPE = "view", "reshape"
LEFT_OUT = "_fusegrad_left_out"  # set on a module that filter_fn refused
IN_PLACE = "_fusegrad_in_place"  # set on the layers of a model that writes in place
# torch saves the output of these for backward too, so that writing to it fails with and without fuse
_STOCK_SAVES_OUTPUT = frozenset({"relu", "sigmoid", "tanh", "exp"})
# torch saves neither input nor output of z - tanh z, but tanh z
_STOCK_SAVES_NEITHER = frozenset({"tanhshrink"})


class Later(NamedTuple):
    """A call that was not made yet: of f, or of the method of that name of the first argument."""

    f: Any
    args: tuple
    kwargs: dict[str, Any]
    layer: nn.Module | None = None  # the module that gave it

    @property
    def device(self) -> torch.device:
        """That of the result, which a function may ask for before it computes anything."""
        z = next(a for a in self.args if isinstance(a, (Later, Tensor)))
        return z.device


def later(f: Any, *args: Any, **kwargs: Any) -> Any:
    """Notes the call f(*args, **kwargs). A module that returns the result of a layer is called up to that."""
    if type(f) is Linear:
        return Later(f, args, kwargs)
    if isinstance(f, nn.Module) and not is_ours(f) and not is_compiling() and not (args and type(args[0]) is Later):
        if LEFT_OUT not in vars(f) and (given := opened.giving(f)) is not None:
            if is_hooked(f):
                run_pre_hooks(f, args)
            z = given(*args, **kwargs)
            return Later(z.f, z.args, z.kwargs, f) if type(z) is Later else z
    return Later(f, args, kwargs)


def halves(f: Any, *args: Any, **kwargs: Any) -> tuple[Later, Later]:
    """Notes `a, b = f(*args, **kwargs)`."""
    parts = Later(f, args, kwargs)
    return Later(_first, (parts,), {}), Later(_second, (parts,), {})


def _first(parts: Any) -> Any:
    a, _ = parts
    return a


def _second(parts: Any) -> Any:
    _, b = parts
    return b


def apply(act: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
    """act(z, ...), or the method of that name; with the layer that z notes, as one op where they can be."""
    if type(z) is Later:
        layer = z.f
        if type(layer) is Linear:  # the shortest way
            x = z.args[0]
            if isinstance(x, Tensor) and why_alone(layer) is None:
                spec = match(layer, act, args, kwargs)
                if type(spec) is tuple and not isinstance(act, str):
                    w, b = layer.weight, layer.bias  # once, as in torch
                    if not calls_torch(x, w, b) and fits(x, w, b):
                        return functional.linear_act(x, w, b, act=spec[0], param=spec[1])
                    return act(Product(x, w, b).value(), *args, **kwargs)
                if spec is None and not args and not kwargs and not is_compiling() and (taking := opened.taking(act)):
                    return taking(z)
        y = _activated(act, z, args, kwargs)
        if y is not None:
            return y
        z = now(z)
    return getattr(z, act)(*args, **kwargs) if isinstance(act, str) else act(z, *args, **kwargs)


def now(z: Any, *held: Any) -> Any:
    """Makes the calls that z notes: as one op if they are a gate, or else first those of `held`, then the others."""
    if type(z) is not Later:
        return z
    if z.f is mul and (y := _gated(z.args[0], z.args[1], held)) is not None:
        return y
    made: dict[int, Any] = {}
    for h in held:
        _value(h, made)
    return _value(z, made)


def _value(z: Any, made: dict[int, Any]) -> Any:
    if type(z) is not Later:
        return z
    if id(z) not in made:
        y = None
        if z.args and type(z.args[0]) is Later and id(z.args[0]) not in made:
            y = _activated(z.f, z.args[0], z.args[1:], z.kwargs)
        if y is None:
            product = _product_of(z)
            if product is not None:
                y = product.value()
            else:
                args = [_value(a, made) for a in z.args]
                y = getattr(args[0], z.f)(*args[1:], **z.kwargs) if isinstance(z.f, str) else z.f(*args, **z.kwargs)
        made[id(z)] = y
    return made[id(z)]


# --- what can be one op -------------------------------------------------------------------------------------------


class Product(NamedTuple):
    """z = x w^T + b, or torch's own functions of them where somebody gave these another meaning."""

    x: Any
    w: Any
    b: Any

    def value(self) -> Any:
        return F.linear(*self) if calls_torch(*self) else linear(*self)

    def fits(self) -> bool:
        return not calls_torch(*self) and fits(*self)


def _layer_of(z: Any) -> tuple[nn.Module | None, bool]:
    """The module whose layer z notes, if any, and whether z notes one that can be part of a fused call."""
    if type(z) is not Later or not z.args or not isinstance(z.args[0], Tensor):
        return None, False
    if is_ours(z.f):
        return z.f, why_alone(z.f) is None
    if is_linear(z.f):
        return z.layer, not linear_is_replaced() and len(z.args) + len(z.kwargs) <= 3
    if z.f is torch.addmm:
        b, x, w = z.args
        return z.layer, isinstance(w, Tensor) and isinstance(x, Tensor) and b.dim() == 1 and x.dim() == w.dim() == 2
    return z.layer, z.f is matmul and isinstance(z.args[1], Tensor) and z.args[1].dim() == 2


def _product_of(z: Any) -> Product | None:
    """The layer that z notes, its weight read: once, as in torch. None if it notes none that can be fused."""
    if not _layer_of(z)[1]:
        return None
    if is_ours(z.f):
        return Product(z.args[0], z.f.weight, z.f.bias)
    if z.f in (matmul, torch.addmm):
        x, w = z.args[-2:]
        b = None if z.f is matmul else z.args[0]
        return Product(x, w.t(), b) if not calls_torch(x, w, b) else None
    x, w, *b = z.args
    return Product(x, w, *(b or [z.kwargs.get("bias")]))


def _activated(act: Any, z: Later, args: tuple, kwargs: dict[str, Any]) -> Any:
    """act(z, ...) as one op, or None."""
    scales: list[Later] = []
    layer = z
    while layer.f in (mul, add):
        scales.insert(0, layer)
        layer = layer.args[0] if type(layer.args[0]) is Later else layer.args[1]
    if isinstance(layer.f, str) and layer.f in _RESHAPE and type(layer.args[0]) is Later and not scales:
        flat = layer.args[0]
        flat = Later(flat.f, flat.args, flat.kwargs, z.layer)
        if isinstance(match(z.layer, act, args, kwargs), tuple) and _layer_of(flat)[1]:
            return getattr(_activated(act, flat, args, kwargs), layer.f)(*layer.args[1:])
        return None
    owner, can_be = _layer_of(layer)
    if not can_be:
        return None
    spec = match(owner, act, args, kwargs)
    if not isinstance(spec, tuple):
        if spec is None and not args and not kwargs and not is_compiling() and (taking := opened.taking(act)):
            return taking(z)
        return _packed_glu(act, z, args, kwargs) if spec is None and not scales else None
    if isinstance(act, str) and not recognise.is_torchs_method(act, layer.args[0]):
        return None
    product = _product_of(layer)
    if product is None:
        return None
    scaled = _scaled(product, scales, spec) if product.fits() else None
    if scaled is not None and not (isinstance(act, str) and not recognise.is_torchs_method(act, product.w)):
        (x, w, b), (name, param) = scaled
        return functional.linear_act(x, w, b, act=name, param=param)
    y = product.value()
    for f, operands, *_ in scales:
        y = f(*(y if type(operand) is Later else operand for operand in operands))
    return apply(act, y, *args, **kwargs)


def match(layer: Any, act: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Spec | str | None:
    """The activation that a call of `act` is, if it can be fused with the layer; else why not; None if it is none."""
    if isinstance(act, nn.Module):
        spec = None if args or kwargs else recognise.of_module(act)
        if spec is not None and (why := why_called(act)):
            return f"{type(act).__name__} after it {why}"
        spec = spec or formula.of(act, args, kwargs)
        if spec is not None and LEFT_OUT in vars(act):
            return f"filter_fn left {type(act).__name__} after it alone"
    else:
        spec = recognise.of_call(act, args, kwargs) or formula.of(act, args, kwargs)
    if spec is None:
        return None
    if (layer is None or IN_PLACE in vars(layer)) and _only_ours_saves_output(spec[0]):
        return f"the model writes in place, and {spec[0]} saves its output for backward"
    return spec


def _only_ours_saves_output(name: str) -> bool:
    return not REGISTRY[name].saves_input and name not in _STOCK_SAVES_OUTPUT


def adopts(act: nn.Module, in_place: bool) -> bool:
    """Whether an activation module becomes ours, in a model that writes in place or does not."""
    spec = recognise.of_module(act)
    if spec is None or LEFT_OUT in vars(act) or why_called(act) or vars(act).get("inplace"):
        return False
    return not in_place or not (_only_ours_saves_output(spec[0]) or spec[0] in _STOCK_SAVES_NEITHER)


def _scaled(product: Product, scales: list[Later], spec: Spec) -> tuple[Product, Spec] | None:
    """The layer times s, plus t, as a layer of s w and s b + t, where that costs less than passes over its result."""
    x, w, b = product
    if scales and autocasts():  # which may compute the product in another dtype
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
        if f is add:
            shift = s.expand(w.shape[0]) if isinstance(s, Tensor) else w.new_full((w.shape[0],), s)
            b = shift if b is None else b + shift
        else:
            w = (s.unsqueeze(-1) if isinstance(s, Tensor) and s.numel() > 1 else s) * w
            b = None if b is None else s * b
    return Product(x, w, b), spec


def _gated(left: Any, right: Any, held: tuple) -> Any:
    """The product of a layer and the activation of another one as one op, or None."""
    for a, b in ((left, right), (right, left)):
        if type(a) is not Later or not a.args or type(a.args[0]) is not Later or a.f in (mul, add, _first, _second):
            continue
        gate = a.args[0]
        if gate.f in (_first, _second):
            return _gated_halves(a, gate, b)
        layers = [_layer_of(z) for z in (gate, b)]
        if not all(can_be for _, can_be in layers) or gate.args[0] is not b.args[0]:
            return None
        spec = match(layers[0][0], a.f, a.args[1:], a.kwargs)
        if not isinstance(spec, tuple) or isinstance(a.f, str):
            return None
        first, second = (gate, b) if (b is right if not held else b is not held[0]) else (b, gate)
        read = {id(z): _product_of(z) for z in (first, second)}
        g, u = read[id(gate)], read[id(b)]
        assert g is not None and u is not None
        if g.fits() and u.fits() and g.w.shape == u.w.shape and g.w.dtype == u.w.dtype:
            return functional_gated.gated(g.x, g.w, u.w, g.b, u.b, act=spec[0], param=spec[1])
        made = {id(z): product.value() for z, product in ((gate, g), (b, u))}
        y = apply(a.f, made[id(gate)], *a.args[1:], **a.kwargs)
        return y * made[id(b)] if a is left else made[id(b)] * y
    return None


def _packed_glu(act: Any, z: Later, args: tuple, kwargs: dict[str, Any]) -> Any:
    """torch's GLU of a layer as one op, or None."""
    dim = recognise.of_glu(act, args, kwargs)
    if dim is None or (isinstance(act, nn.Module) and is_hooked(act)) or dim not in (-1, z.args[0].dim() - 1):
        return None
    product = _product_of(z)
    if product is None:
        return None
    if product.fits() and product.w.shape[0] % 2 == 0:
        return functional_gated.gated_packed(*product, act="sigmoid", packing="gate_last")
    return act(product.value(), *args, **kwargs)


def _gated_halves(a: Later, gate: Later, up: Any) -> Any:
    """A gate of the two halves of one layer."""
    parts = gate.args[0]
    if type(up) is not Later or up.f not in (_first, _second) or up.f is gate.f or up.args[0] is not parts:
        return None
    z, _, *rest = parts.args
    dim = parts.kwargs.get("dim", *rest[:1]) if rest or parts.kwargs else 0
    owner, can_be = _layer_of(z)
    spec = match(owner, a.f, a.args[1:], a.kwargs) if can_be else None
    if not isinstance(spec, tuple) or isinstance(a.f, str) or dim not in (-1, z.args[0].dim() - 1):
        return None
    product = _product_of(z)
    if product is None:
        return None
    packing = "gate_first" if gate.f is _first else "gate_last"
    if product.fits() and product.w.shape[0] % 2 == 0:
        return functional_gated.gated_packed(*product, act=spec[0], param=spec[1], packing=packing)
    f, kwargs = parts.f, parts.kwargs
    y = product.value()
    first, second = getattr(y, f)(2, *rest, **kwargs) if isinstance(f, str) else f(y, 2, *rest, **kwargs)
    g, u = (first, second) if gate.f is _first else (second, first)
    return apply(a.f, g, *a.args[1:], **a.kwargs) * u
