"""Rules of functions of each element: of one tensor, or of several that are broadcast."""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations import REGISTRY
from ..fusion.recognise import of_call
from ..ops.terms import total
from . import elementwise
from .calls import RULES, named, rule
from .functions import DERIVATIVES, SAME, Derivative, power
from .rules_layers import activation
from .rules_shape import argument
from .run import Run
from .streams import Streams, each, lifted


def of_one(run: Run, x: Tensor, y: Tensor, d: Derivative) -> Tensor:
    """y = f(x), with its derivatives."""
    return run.keep(y, run.rules.function(run.streams(x), d))


def _note_functions() -> None:
    for name, of in DERIVATIVES.items():
        known = [name, *(other for other, same in SAME.items() if same == name)]

        def function(run: Run, func, args, kwargs, of=of):
            y = func(*args, **kwargs)
            return of_one(run, args[0], y, of(args[0].to(y.dtype), y))

        rule(*known)(function)
        special = getattr(torch.special, name, None)
        if special is not None:
            RULES[special] = function


def _note_activations() -> None:
    """What torch has of the activations, as functions and as methods."""
    for a in REGISTRY.values():
        for function in a.functions:
            RULES.setdefault(function, activated)
        for name in a.methods:
            RULES[getattr(Tensor, name)] = activated


def activated(run: Run, func, args, kwargs):
    """A function of torch's, if its options are those of an activation; else as any other."""
    method = getattr(func, "__name__", "")
    spec = of_call(method if getattr(Tensor, method, None) is func else func, args[1:], kwargs)
    if spec is None or not args[0].is_floating_point():
        return run.without_rule(func, args, kwargs)
    name, param = spec
    a = REGISTRY[name]
    return activation(run, args[0], a.name, a.default if param is None else float(param))


# --- sums, products, quotients, powers --------------------------------------------------------------------------------


def operand(x: Any, y: Tensor) -> Any:
    """An operand in the dtype of the result, with its dimensions; a number as it is."""
    return x.to(y.dtype).expand(y.shape) if isinstance(x, Tensor) else x


def streams_as(run: Run, x: Any, y: Tensor) -> Streams:
    """The streams of an operand, in the dtype of a result and with its dimensions."""
    return each(run.streams(x), lambda p: lifted(p.to(y.dtype), y.dim()))


def _scaled(s: Streams, c: Any) -> Streams:
    return s if isinstance(c, (int, float)) and c == 1 else each(s, lambda p: p * c)


def _sum(a: Streams, b: Streams) -> Streams:
    return tuple(total(p, q) for p, q in zip(a, b, strict=True))


@rule("add", "__add__", "__radd__", "sub", "subtract", "__sub__")
def added(run: Run, func, args, kwargs):
    y = func(*args, **kwargs)
    a, b = args[0], argument(1, "other", args, kwargs)
    c = argument(2, "alpha", args, kwargs, 1)
    c = c if func.__name__ in ("add", "__add__", "__radd__") else -c
    return run.keep(y, _sum(streams_as(run, a, y), _scaled(streams_as(run, b, y), c)))


@rule("rsub", "__rsub__")
def subtracted_from(run: Run, func, args, kwargs):
    y = func(*args, **kwargs)
    a, b = args[0], argument(1, "other", args, kwargs)
    c = argument(2, "alpha", args, kwargs, 1)
    return run.keep(y, _sum(_scaled(streams_as(run, a, y), -c), streams_as(run, b, y)))


@rule("neg", "negative", "__neg__", "deg2rad", "rad2deg", "frac")
def linear(run: Run, func, args, kwargs):
    scale = {"deg2rad": math.pi / 180, "rad2deg": 180 / math.pi, "frac": 1}.get(func.__name__, -1)
    return run.keep(func(*args, **kwargs), _scaled(run.streams(args[0]), scale))


def multiplied_streams(run: Run, a: Any, b: Any, y: Tensor) -> Streams:
    """Of y = a b, either of which may be a number, or a tensor that is broadcast."""
    of_a, of_b = streams_as(run, a, y), streams_as(run, b, y)
    if not run.has(b):
        return each(of_a, lambda p: p * b)
    if not run.has(a):
        return each(of_b, lambda p: p * a)
    a, b = (t.to(y.dtype).reshape((1,) * (y.dim() - t.dim()) + t.shape) for t in (a, b))
    return run.rules.product(torch.mul, a, of_a, b, of_b)


@rule("mul", "multiply", "__mul__", "__rmul__")
def multiplied(run: Run, func, args, kwargs):
    a, b = args[0], argument(1, "other", args, kwargs)
    if run.has(a) and run.has(b):
        made = elementwise.multiplied(run.rules, a, run.streams(a), b, run.streams(b))
        if made is not None:
            return run.keep(*made)
    y = func(*args, **kwargs)
    return run.keep(y, multiplied_streams(run, a, b, y))


@rule("div", "divide", "true_divide", "__truediv__", "__div__")
def divided(run: Run, func, args, kwargs):
    y = func(*args, **kwargs)
    if argument(2, "rounding_mode", args, kwargs) is not None:
        return y
    return run.keep(y, _quotient(run, args[0], argument(1, "other", args, kwargs), y))


@rule("__rdiv__", "__rtruediv__")
def divides(run: Run, func, args, kwargs):
    y = func(*args, **kwargs)
    return run.keep(y, _quotient(run, args[1], args[0], y))


def _quotient(run: Run, a: Any, b: Any, y: Tensor) -> Streams:
    of_a = streams_as(run, a, y)
    if not run.has(b):
        return each(of_a, lambda p: p / b)
    return run.rules.quotient(y, of_a, operand(b, y), streams_as(run, b, y))


@rule("pow", "__pow__", "float_power")
def raised(run: Run, func, args, kwargs):
    x, p = args[0], argument(1, "exponent", args, kwargs)
    if isinstance(p, Tensor) or isinstance(p, complex) or not isinstance(x, Tensor):
        if isinstance(x, (int, float)) and x > 0:
            return _exponential(run, x, p, func(*args, **kwargs))
        return run.without_rule(func, args, kwargs)
    if p == 2 and x.is_floating_point():
        return activation(run, x, "square", 0.0)
    y = func(*args, **kwargs)
    return of_one(run, x, y, power(x.to(y.dtype), float(p)))


@rule("__rpow__")
def power_of(run: Run, func, args, kwargs):
    x, base = args
    if isinstance(base, Tensor) or base <= 0:
        return run.without_rule(func, args, kwargs)
    return _exponential(run, base, x, func(*args, **kwargs))


def _exponential(run: Run, base: float, x: Tensor, y: Tensor) -> Tensor:
    c = math.log(base)
    return of_one(run, x, y, lambda k: c**k * y)


# --- pieces -----------------------------------------------------------------------------------------------------------


@rule("where")
def chosen(run: Run, func, args, kwargs):
    if len(args) != 3 or kwargs:
        return run.without_rule(func, args, kwargs)
    where, a, b = args
    if func is Tensor.where:
        where, a = a, where
    y = func(*args)
    of_a, of_b = streams_as(run, a, y), streams_as(run, b, y)
    choose = lambda p, q: None if p is None and q is None else torch.where(where, _or_0(p, y), _or_0(q, y))
    return run.keep(y, tuple(choose(p, q) for p, q in zip(of_a, of_b, strict=True)))


def _or_0(p: Tensor | None, y: Tensor) -> Tensor:
    return y.new_zeros(()) if p is None else p


@rule("masked_fill")
def masked(run: Run, func, args, kwargs):
    x, mask, value = args
    if run.has(value):
        return run.without_rule(func, args, kwargs)
    return run.keep(func(*args), each(streams_as(run, x, x), lambda p: p.masked_fill(mask, 0)))


@rule("clamp", "clip", "clamp_min", "clamp_max")
def clamped(run: Run, func, args, kwargs):
    """Torch's derivative is 1 at the ends too."""
    x, y = args[0], func(*args, **kwargs)
    name = func.__name__
    low = None if name == "clamp_max" else argument(1, "min", args, kwargs)
    high = argument(1 if name == "clamp_max" else 2, "max", args, kwargs)
    if run.has(low) or run.has(high):
        return run.without_rule(func, args, kwargs)
    inside: Any = True
    inside = inside if low is None else x >= low
    inside = inside if high is None else inside & (x <= high)
    return of_one(run, x, y, lambda k: inside.to(y.dtype) if k == 1 else None)


@rule("maximum", "minimum", "fmax", "fmin")
def larger(run: Run, func, args, kwargs):
    """Each has half of the derivative where they are equal, as in torch."""
    a, b = args
    if func.__name__.startswith("f"):
        return run.without_rule(func, args, kwargs)
    y = func(a, b)
    first = (a > b) if func is torch.maximum or func is Tensor.maximum else (a < b)
    half = (a == b).to(y.dtype) / 2
    of_a = each(streams_as(run, a, y), lambda p: p * (first.to(y.dtype) + half))
    of_b = each(streams_as(run, b, y), lambda p: p * ((~first).to(y.dtype) - half))
    return run.keep(y, _sum(of_a, of_b))


# --- made of others ---------------------------------------------------------------------------------------------------


def composition(*functions: Any):
    """Note what a function is made of: calls that have rules."""

    def note(made_of):
        rule(*functions)(lambda run, func, args, kwargs: run.composed(made_of, *args, **kwargs))
        return made_of

    return note


@composition("addcmul")
def _addcmul(x, a, b, *, value=1):
    return x + value * (a * b)


@composition("addcdiv")
def _addcdiv(x, a, b, *, value=1):
    return x + value * (a / b)


@composition("lerp")
def _lerp(a, b, weight):
    return a + weight * (b - a)


@composition("hypot")
def _hypot(a, b):
    return torch.sqrt(a * a + b * b)


@composition("sinc")
def _sinc(x):
    z = math.pi * x
    return torch.where(z == 0, 1 - z * z / 6 + z**4 / 120, torch.sin(z) / torch.where(z == 0, 1.0, z))


@composition("glu")
def _glu(x, dim=-1):
    a, b = x.chunk(2, dim)
    return a * torch.sigmoid(b)


@composition("prod")
def _prod(x, dim=None, keepdim=False, *, dtype=None):
    x = x if dtype is None else x.to(dtype)
    x, dim = (x.reshape(-1), 0) if dim is None else (x, dim)
    parts = x.unbind(dim)
    y = functools.reduce(torch.mul, parts) if parts else x.prod(dim)
    return y.unsqueeze(dim) if keepdim else y


@composition("prelu")
def _prelu(x, weight):
    if weight.numel() > 1 and x.dim() > 1:
        weight = weight.reshape(-1, *(1,) * (x.dim() - 2))
    return torch.where(x > 0, x, weight * x)


@composition("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout")
def _dropout(x, p=0.5, training=True, inplace=False):
    return x * F.dropout(torch.ones_like(x), p, training) if training and p > 0 else x.clone()


_note_functions()
_note_activations()
assert all(f in RULES for f in named("cos"))
