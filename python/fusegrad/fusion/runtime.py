"""What a rewritten method runs: calls that are noted, and made as one op or as they are written.

A layer is not called where the author calls it, but noted (`Later`). What reads it next decides what happens, from what
it is given on this call: a layer and its activation run as one op, a gate too, and all else makes the calls that were
noted, in their order. So a layer that was replaced, hooked or parametrized, an activation with another slope, a dtype
that no op takes are obeyed without anyone having to notice the change.
"""

from collections.abc import Callable
from operator import add, matmul, mul  # noqa: F401  # which methods call too
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from .. import functional
from ..at_once import route_at_once
from ..internals.call import in_plain_eager, in_torch_func, is_one_of_others
from ..internals.module import is_hooked, run_pre_hooks
from ..internals.stock import stands_for
from ..nn import Linear, fits, is_ours, linear, stock_linear, weight_and_bias, why_alone
from ..routing import Route, route_of_layer, stock_serves
from . import kept, one_op, opened
from .chains import Turns, alone, keep_gated, keep_met, may_be_met, turns  # noqa: F401  # which methods call too
from .match import FAST, match
from .notes import RESHAPE, Later, Product, first, gated, product_of_call, second
from .one_op import given_by, key_of
from .opened import LEFT_OUT
from .recognise import is_unchanged
from .rows import scaled_by_rows, view_of
from .sums import sum_of_two, view  # noqa: F401  # which methods call too

stands_for(nn.Identity, (nn.Identity, "forward"))


class Soon:
    """A call f(x) of a layer of which it is kept what is called after it (kept.py), and s times that.

    What reads it next looks there first, and reads the weights. So nothing is asked twice.
    """

    __slots__ = "f", "made", "scale", "x"

    def __init__(self, f: nn.Module, x: Tensor, scale: tuple[Any, ...] = ()) -> None:
        self.f, self.x, self.scale = f, x, scale  # s, and whether it stands on the left
        self.made: Any = None  # the same as a note, or its value

    device = property(lambda self: noted(self).device)
    shape = property(lambda self: noted(self).shape)
    ndim = property(lambda self: noted(self).ndim)

    def dim(self) -> int:
        return noted(self).dim()

    def size(self, dim: int | None = None) -> Any:
        return noted(self).size() if dim is None else noted(self).size(dim)


NOTES = Later, Soon


def noted(z: Any) -> Any:
    """What was put off as a note, or its value where it is not to be noted."""
    if type(z) is not Soon:
        return z
    if z.made is None:
        z.made = _later(z.f, z.x)
        if z.scale:
            s, on_the_left = z.scale
            z.made = _later(mul, *((s, z.made) if on_the_left else (z.made, s)))
    return z.made


def later(f: Any, *args: Any, **kwargs: Any) -> Any:
    """Notes the call f(*args, **kwargs) of a layer that an op takes, or of what was noted; makes any other call.

    So what may do more than compute its result is called where the author calls it, and weights are read there. A
    module that returns the result of a layer is called up to that.
    """
    if len(args) == 1:
        if not kwargs and type(args[0]) is Tensor and not is_compiling():
            if kept.of(f) or (in_torch_func() and may_be_met(f)):
                return Soon(f, args[0])
            if kept.is_vain(f):
                return alone(f, args[0])
    elif f is mul:
        s, z = args
        on_the_left = type(z) is Soon
        if not on_the_left:
            s, z = z, s
        if type(z) is Soon and z.made is None and not z.scale and type(s) in (float, int):
            return Soon(z.f, z.x, (s, on_the_left))
    return _later(f, *map(noted, args), **kwargs)


def _later(f: Any, *args: Any, **kwargs: Any) -> Any:
    if type(f) is Linear or is_ours(f):
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or why_alone(f) is not None:
            return f(*args, **kwargs)
        x, (w, b) = args[0], weight_and_bias(f)
        if is_one_of_others(x, w):
            return F.linear(x, w, b)
        route: Route | None = route_at_once(x, w, b)
        if route is None:
            if stock_serves(x, w, b, False, FAST in f.__dict__):
                return stock_linear(x, w, b)
            route = route_of_layer(x, w, b)
        if route in ("stock", "written"):
            return functional.by_route(route, x, w, b)
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
            if type(z) is Soon:  # of the layer that gave it
                return z
            return given_by(f, z) if type(z) is Later else z
        return f(*args, **kwargs)
    called = product_of_call(f, args, kwargs)
    return _call(f, args, kwargs) if called is None else Later(f, args, kwargs, None, called)


def product(f: Any, *args: Any, **kwargs: Any) -> Any:
    """f(*args, **kwargs), of torch's function that multiplies, whatever reads its result."""
    of = None if is_compiling() else product_of_call(f, args, kwargs)
    return f(*args, **kwargs) if of is None else functional.by_route(of.route, of.x, of.w, of.b)


def later_method(name: str, z: Any, *args: Any, **kwargs: Any) -> Any:
    """Notes the call z.name(*args, **kwargs) of what was noted; makes any other call."""
    z = noted(z)
    return _later_of_later(name, (z, *args), kwargs) if type(z) is Later else getattr(z, name)(*args, **kwargs)


def settled(z: Any, f: Any) -> Any:
    """What was noted, or its value if a call of f may do more than compute a layer: write to what z reads, say."""
    z = noted(z)
    if type(z) is not Later:
        return z
    pure = is_ours(f) and why_alone(f) is None
    if not pure and isinstance(f, nn.Module):
        pure = type(f).forward is nn.Linear.forward and opened.giving(f) is not None
    return z if pure or not isinstance(f, nn.Module) else now(z)


def _later_of_later(f: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    if f is mul or f is add or (isinstance(f, str) and f in RESHAPE):
        return Later(f, args, kwargs)
    z = args[0]
    halves_of = z.args[0].args[0] if z.f is first or z.f is second else z
    spec = match(f, args[1:], kwargs)
    if not isinstance(spec, tuple) and halves_of is z:
        return _apply(f, z, args[1:], kwargs)
    return Later(f, args, kwargs, None, None, spec if isinstance(spec, tuple) else None)


def halves(f: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
    """Notes `a, b = f(z, *args, **kwargs)`."""
    z = noted(z)
    if type(z) is not Later:
        return _call(f, (z, *args), kwargs)
    parts = Later(f, (z, *args), kwargs)
    return Later(first, (parts,), {}), Later(second, (parts,), {})


def _call(f: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    return getattr(args[0], f)(*args[1:], **kwargs) if isinstance(f, str) else f(*args, **kwargs)


def apply(act: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
    """act(z, ...); with the layer that z notes, as one op where they can be."""
    if type(z) is Soon:
        if type(act) is FunctionType:
            act = kept.met_first(act)
        if not isinstance(act, str) and (y := _at_once(act, z, args, kwargs)) is not None:
            return y
        if not args and not kwargs and opened.was_gone_into(act) and (taking := opened.taking(act)):
            return taking(z)
        z = noted(z)
    if type(z) is not Later:
        if args or kwargs:
            return act(z, *args, **kwargs)
        return alone(act, z) if type(act) is Linear else act(z)
    if isinstance(act, str):  # that the module holds, where an activation was to be
        return act(now(z), *args, **kwargs)  # type: ignore[operator]  # raises what the author's call raises
    return _apply(act, z, args, kwargs)


def _at_once(act: Any, z: Soon, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """act(z, ...) as it was found before, if nothing has changed."""
    key = key_of(act, args, kwargs, z.scale[:1]) if z.made is None else None
    if key is None:
        return None
    y = kept.activated(z.x, act, z.f, key)
    if y is None and not z.scale and in_torch_func() and keep_met(act, z.f, key, args, kwargs):
        y = kept.activated(z.x, act, z.f, key)
    return y


def passed(act: Any, z: Any) -> Any:
    """act(z), of what is read by an activation next; what was noted where act is an identity."""
    if type(act) is nn.Identity and type(z) in NOTES and is_unchanged(act):
        return z
    return apply(act, z)


def activated(act: Any, f: Any, x: Any) -> Any:
    """act(f(x)), of an activation and a layer; at once where they are as they were found before."""
    if is_compiling():
        return apply(act, _later(f, x))
    if type(act) is FunctionType:
        act = kept.met_first(act)
    y = kept.activated(x, act, f, id(act))
    if y is None and in_torch_func() and keep_met(act, f, id(act)):
        y = kept.activated(x, act, f, id(act))
    if y is None and kept.is_vain(f):
        return act(alone(f, x))
    return apply(act, _later(f, x)) if y is None else y


def activated_times(act: Any, f: Any, x: Any, g: Any, input: Any) -> Any:
    """act(f(x)) * g(input), the same of a gate: two layers, of one input."""
    at_once = x is input and not is_compiling()
    y = kept.gated(x, act, f, g) if at_once else None
    if y is None:
        if at_once:
            keep_gated(act, f, g, x)
        left = settled(_later(act, _later(f, x)), g)
        y = now(_later(mul, left, _later(g, input)))
    return y


def apply_method(name: str, z: Any, *args: Any, **kwargs: Any) -> Any:
    """The same for z.name(...)."""
    if type(z) is Soon:
        if (y := _at_once(name, z, args, kwargs)) is not None:
            return y
        z = noted(z)
    return _apply(name, z, args, kwargs)


def _apply(act: Any, z: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    if type(z) is Later and type(act) is not nn.Identity:
        y = one_op.activated(act, z, args, kwargs)
        if y is not None:
            return y
    return _call(act, (now(z), *args), kwargs)


def now(z: Any, *held: Any) -> Any:
    """Makes the calls that z notes: as one op if they are a gate, or else first those of `held`, then the others."""
    z = noted(z)
    if type(z) is not Later:
        return z
    if z.product is not None and not held:
        return _computed(z, z.product)
    if z.f is mul and (y := gated(*z.args)) is not None:
        return y
    made: dict[int, Any] = {}
    for h in held:
        _value(noted(h), made)
    return _value(z, made)


def _computed(z: Later, product: Product) -> Tensor:
    x, w, b, route = product
    if z.layer is not None and not is_compiling():
        kept.missed(z.layer)
    return functional.by_route(route, x, w, b)


def _value(z: Any, made: dict[int, Any]) -> Any:
    if type(z) is not Later:
        return z
    if id(z) not in made:
        y = None
        if z.spec is not None and id(z.args[0]) not in made:
            y = one_op.activated(z.f, z.args[0], z.args[1:], z.kwargs)
        if y is None:
            y = _computed(z, z.product) if z.product else _call(z.f, tuple(_value(a, made) for a in z.args), z.kwargs)
        made[id(z)] = y
    return made[id(z)]


# --- layers that are multiplied by a number a row

ALL = slice(None)


def times_rows(z: Any, s: Any, how: str, *args: Any) -> Any:
    """z * s.how(*args), of what was noted: with its input scaled in its place where that is a number a row."""
    z = noted(z)
    if type(z) is not Later or type(s) is not Tensor or not in_plain_eager(s):
        return now(z) * view_of(s, how, args)
    return _by_rows(z, row := view_of(s, how, args), lambda y: y * row)


def rows_times(s: Any, z: Any) -> Any:
    """s * z, the same."""
    z = noted(z)
    if type(z) is not Later or type(s) is not Tensor or not in_plain_eager(s):
        return s * now(z)
    return _by_rows(z, s, lambda y: s * y)


def _by_rows(z: Later, s: Tensor, multiplied: Callable[[Any], Any]) -> Any:
    y = None if z.product is None else scaled_by_rows(z.product, s)
    return multiplied(now(z)) if y is None else y


# --- loops over layers


def turn(act: Any, f: Any, x: Any) -> Any:
    """act(f(x)), in a turn of a loop: put off where the layers of several turns may be one op."""
    if type(x) is Turns:
        if x.add(f, act):
            return x
        x = turned(x)
    return activated(act, f, x)


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
            y = f(y) if act is None else activated(act, f, y)
    return y
