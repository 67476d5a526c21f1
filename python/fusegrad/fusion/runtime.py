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
from ..internals.stock import torchs
from ..nn import fits, is_ours, linear, why_alone, why_called
from . import formula, opened, recognise
from .opened import LEFT_OUT
from .recognise import Spec

_RESHAPE = "view", "reshape"
_ADDMM, _MM = torchs(torch, "addmm"), torchs(torch, "mm")
_MATMULS = matmul, torchs(torch, "matmul"), _MM
_LEAST = 2.0**-20  # of a number that scales a weight: others may overflow where their product with z does not
IN_PLACE = "_fusegrad_in_place"  # set on the layers of a model that writes in place
# torch saves the output of these for backward too, so that writing to it fails with and without fuse
_STOCK_SAVES_OUTPUT = frozenset({"relu", "sigmoid", "tanh", "exp"})
# torch saves neither input nor output of z - tanh z, but tanh z
_STOCK_SAVES_NEITHER = frozenset({"tanhshrink"})


class Product(NamedTuple):
    """z = x w^T + b, which an op takes."""

    x: Tensor
    w: Tensor
    b: Tensor | None


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


def later(f: Any, *args: Any, **kwargs: Any) -> Any:
    """Notes the call f(*args, **kwargs) of a layer that an op takes, or of what was noted; makes any other call.

    So what may do more than compute its result is called where the author calls it, and weights are read there. A
    module that returns the result of a layer is called up to that.
    """
    if is_ours(f):
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or why_alone(f) is not None:
            return f(*args, **kwargs)
        product = Product(args[0], f.weight, f.bias)  # once each, as in torch
        if calls_torch(*product):
            return F.linear(*product)
        return Later(f, args, kwargs, f, product) if fits(*product) else linear(*product)
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
    pure = is_ours(f) and why_alone(f) is None
    if not pure and isinstance(f, nn.Module):
        pure = type(f).forward is nn.Linear.forward and opened.giving(f) is not None
    return z if pure or not isinstance(f, nn.Module) else now(z)


def _given_by(layer: nn.Module | None, z: Later) -> Later:
    return Later(z.f, z.args, z.kwargs, layer, z.product)


def _later_of_later(f: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    if f is mul or f is add or (isinstance(f, str) and f in _RESHAPE):
        return Later(f, args, kwargs)
    z = args[0]
    halves_of = z.args[0].args[0] if z.f is _first or z.f is _second else z
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
    return Product(x, w, b) if not calls_torch(x, w, b) and fits(x, w, b) else None


def halves(f: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
    """Notes `a, b = f(z, *args, **kwargs)`."""
    if type(z) is not Later:
        return _call(f, (z, *args), kwargs)
    parts = Later(f, (z, *args), kwargs)
    return Later(_first, (parts,), {}), Later(_second, (parts,), {})


def _first(parts: Any) -> Any:
    a, _ = parts
    return a


def _second(parts: Any) -> Any:
    _, b = parts
    return b


def _call(f: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    return getattr(args[0], f)(*args[1:], **kwargs) if isinstance(f, str) else f(*args, **kwargs)


def apply(act: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
    """act(z, ...); with the layer that z notes, as one op where they can be."""
    if isinstance(act, str):  # that the module holds, where an activation was to be
        return act(now(z), *args, **kwargs)  # type: ignore[operator]  # raises what the author's call raises
    return _apply(act, z, args, kwargs)


def apply_method(name: str, z: Any, *args: Any, **kwargs: Any) -> Any:
    """The same for z.name(...)."""
    return _apply(name, z, args, kwargs)


def _apply(act: Any, z: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    if type(z) is Later:
        y = _activated(act, z, args, kwargs)
        if y is not None:
            return y
    return _call(act, (now(z), *args), kwargs)


def now(z: Any, *held: Any) -> Any:
    """Makes the calls that z notes: as one op if they are a gate, or else first those of `held`, then the others."""
    if type(z) is not Later:
        return z
    if z.f is mul and (y := _gated(*z.args)) is not None:
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
        if z.spec is not None and id(z.args[0]) not in made:
            y = _activated(z.f, z.args[0], z.args[1:], z.kwargs)
        if y is None:
            y = linear(*z.product) if z.product else _call(z.f, tuple(_value(a, made) for a in z.args), z.kwargs)
        made[id(z)] = y
    return made[id(z)]


# --- what can be one op -------------------------------------------------------------------------------------------


def _activated(act: Any, z: Later, args: tuple, kwargs: dict[str, Any]) -> Any:
    """act(z, ...) as one op, or None."""
    scales: list[Later] = []
    layer = z
    while layer.f is mul or layer.f is add:
        scales.insert(0, layer)
        layer = layer.args[0] if type(layer.args[0]) is Later else layer.args[1]
    if isinstance(layer.f, str) and layer.f in _RESHAPE and not scales:
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
        return _packed_glu(act, layer.product, args, kwargs) if spec is None and not scales else None
    if isinstance(act, str) and not recognise.is_torchs_method(act, layer.product.x, layer.product.w):
        return None
    scaled = _scaled(layer.product, scales, spec) if scales else (layer.product, spec)
    if scaled is None:
        return None
    product, (name, param) = scaled
    return functional.linear_act(*product, act=name, param=param)


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
    return Product(x, w, b), spec


def _gated(left: Any, right: Any) -> Any:
    """The product of a layer and the activation of another one as one op, or None."""
    for a, b in ((left, right), (right, left)):
        if type(a) is not Later or a.spec is None or isinstance(a.f, str):
            continue
        gate = a.args[0]
        if gate.f is _first or gate.f is _second:
            return _gated_halves(a.spec, gate, b)
        if type(b) is not Later or gate.product is None or b.product is None:
            continue
        g, u = gate.product, b.product
        if g.x is u.x and g.w.shape == u.w.shape and g.w.dtype == u.w.dtype:
            return functional_gated.gated(g.x, g.w, u.w, g.b, u.b, act=a.spec[0], param=a.spec[1])
    return None


def _packed_glu(act: Any, product: Product, args: tuple, kwargs: dict[str, Any]) -> Any:
    """torch's GLU of a layer as one op, or None."""
    dim = recognise.of_glu(act, args, kwargs)
    if dim is None or dim not in (-1, product.x.dim() - 1) or product.w.shape[0] % 2:
        return None
    return functional_gated.gated_packed(*product, act="sigmoid", packing="gate_last")


def _gated_halves(spec: Spec, gate: Later, up: Any) -> Any:
    """A gate of the two halves of one layer."""
    parts = gate.args[0]
    if type(up) is not Later or not (up.f is _first or up.f is _second) or up.f is gate.f or up.args[0] is not parts:
        return None
    z, _, *rest = parts.args
    dim = parts.kwargs.get("dim", *rest[:1]) if rest or parts.kwargs else 0
    if z.product is None or dim not in (-1, z.product.x.dim() - 1) or z.product.w.shape[0] % 2:
        return None
    packing = "gate_first" if gate.f is _first else "gate_last"
    return functional_gated.gated_packed(*z.product, act=spec[0], param=spec[1], packing=packing)
