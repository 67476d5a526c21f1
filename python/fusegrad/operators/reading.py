"""Reads what a model computes from its source: layers, activations, sums, products and loops over modules.

The source is gone through on each call, with the modules, numbers and functions that it names as they are now; nothing
of a model is run but what only computes with what it holds (a weight of others, say). Nothing else can happen while a
model that is read so runs, so that what it computes may as well be one op. What is not known here, and be it a print,
is refused: then the model runs (evaluate.py).
"""

import ast
import math
import operator
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..activations import REGISTRY
from ..fusion.recognise import METHOD, of_call
from ..internals.call import is_linear, linear_is_replaced
from ..internals.stock import torchs
from ..routing import fits
from .in_place import written
from .modules import Held, leaf, parts_of
from .program import MOST_LAYERS, Program
from .source import NUMBER, PLAIN, Method, Register, Scope, Squeezed, Unread, definition_of

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.MatMult: operator.matmul, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_FUNCTIONS = BuiltinFunctionType, FunctionType
# what only computes, of tensors that do not depend on x
_PURE = {
    "exp", "log", "sqrt", "rsqrt", "square", "pow", "abs", "norm", "sum", "mean", "unsqueeze", "squeeze", "view", "t",
    "reshape", "transpose", "sigmoid", "tanh", "softplus", "mul", "add", "sub", "div", "neg", "sin", "cos",
}  # fmt: skip
_PURE_FUNCTIONS = {torchs(owner, name) for name in (*_PURE, "normalize") for owner in (torch, F)}
_BUILTINS = {zip, enumerate, range, len, reversed, list, tuple, float, int, abs}
_JOINS = {torchs(torch, name): kind for name, kind in (("add", "add"), ("sub", "sub"), ("mul", "mul"))}


class Reader:
    """One reading of a model, of x (..., k)."""

    def __init__(self, x: Tensor) -> None:
        self.dtype = x.dtype
        self.program = Program(x.shape[-1])
        self.count = 0

    # --- calls ----------------------------------------------------------------------------------------------------

    def call(self, f: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if isinstance(f, nn.Module):
            return self.module(f, args, kwargs)
        if isinstance(f, Method):
            return self.method(f, args, kwargs)
        given = [*args, *kwargs.values()]
        if f is torch.cat and args and isinstance(args[0], (list, tuple)):
            return self.cat(args[0], *args[1:], **kwargs)
        if not any(isinstance(a, Register) for a in given):
            if isinstance(f, (type, BuiltinFunctionType)) and f in _BUILTINS:
                if any(isinstance(a, Tensor) for a in given) or not all(type(a) in PLAIN for a in kwargs.values()):
                    raise Unread
                made = f(*(parts_of(a) if isinstance(a, nn.Module) else a for a in args), **kwargs)
                return [*made] if f in (zip, enumerate, reversed) else made
            if isinstance(f, _FUNCTIONS) and f in _PURE_FUNCTIONS and any(isinstance(a, Tensor) for a in given):
                return f(*args, **kwargs)
        if isinstance(f, _FUNCTIONS) and args and isinstance(args[0], Register):
            if is_linear(f) and not linear_is_replaced():
                return self.linear(args[0], *args[1:], **kwargs)
            if (spec := self.spec(f, args, kwargs)) is not None:
                return self.act(args[0], *spec)
            if f in _JOINS and len(args) == 2 and not kwargs:
                return self.joined(_JOINS[f], *args)
        if isinstance(f, MethodType) and isinstance(f.__func__, FunctionType):
            return self.function(f.__func__, [f.__self__, *args], kwargs)
        if isinstance(f, FunctionType):
            return self.function(f, args, kwargs)
        raise Unread

    @staticmethod
    def spec(f: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[str, float | None] | None:
        rest = *args[1:], *kwargs.values()
        if not all(type(a) in PLAIN for a in rest) or written(f, tuple(args), kwargs) is not None:
            return None
        return of_call(f, tuple(args[1:]), kwargs)

    def method(self, f: Method, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if isinstance(f.of, Register):
            if f.name in METHOD and (spec := self.spec(f.name, [f.of, *args], kwargs)) is not None:
                return self.act(f.of, *spec)
            if f.name == "squeeze" and args == [-1] and not kwargs and self.width(f.of) == 1:
                return Squeezed(f.of.at)
        elif isinstance(f.of, Tensor) and f.name in _PURE and not any(isinstance(a, Register) for a in args):
            return getattr(f.of, f.name)(*args, **kwargs)
        raise Unread

    def function(self, f: FunctionType, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A call of a function with a source."""
        definition, code = definition_of(f), f.__code__
        if definition is None:
            raise Unread
        names = code.co_varnames[: code.co_argcount]
        defaults = f.__defaults__ or ()
        held = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        held |= dict(zip(names, args, strict=False))
        if len(args) > len(names) or not kwargs.keys() <= {*names[len(args) :]}:
            raise Unread
        held |= kwargs
        if held.keys() != {*names}:
            raise Unread
        scope = Scope(self, f, held)
        if isinstance(definition, ast.Lambda):
            return scope.value(definition.body)
        found = scope.run(definition.body)
        if found is None:
            raise Unread
        return found.value

    def module(self, m: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> Any:
        found = leaf(m)
        if found is None:
            raise Unread
        if isinstance(found, FunctionType):
            return self.function(found, [m, *args], kwargs)
        if len(args) != 1 or kwargs or not isinstance(args[0], Register):
            raise Unread
        y = args[0]
        for part in found:
            if isinstance(part, nn.Module):
                y = self.module(part, [y], {})
            elif isinstance(part, Held):
                y = self.linear(y, part.w, part.b)
            else:
                y = self.act(y, *part)
        return y

    # --- steps ----------------------------------------------------------------------------------------------------

    def width(self, a: Register) -> int:
        return self.program.widths[a.at]

    def act(self, a: Register, name: str, param: float | None) -> Register:
        if name == "identity":
            return a
        value = REGISTRY[name].default if param is None else param
        return Register(self.program.add("act", a.at, a.at, name, float(value or 0.0)))

    def linear(self, a: Register, weight: Any, bias: Any = None) -> Register:
        if not isinstance(weight, Tensor) or not isinstance(bias, (Tensor, type(None))):
            raise Unread
        if not fits(weight, bias, self.dtype, self.width(a)) or 0 in weight.shape:
            raise Unread
        if len(self.program.weights) >= 2 * MOST_LAYERS:
            raise Unread
        return Register(self.program.layer(a.at, weight, bias))

    def joined(self, kind: str, a: Any, b: Any) -> Register:
        """a + b, a - b, a b."""
        add = self.program.add
        if isinstance(a, Register) and isinstance(b, Register):
            if self.width(a) == self.width(b):
                return Register(add(kind, a.at, b.at))
            raise Unread
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            number, other = (a, b) if isinstance(a, Tensor) else (b, a)
            if kind != "mul" or number.numel() != 1 or number.dim() > 1 or number.dtype is not self.dtype:
                raise Unread
            return Register(self.program.scale(other.at, number))
        c = b if isinstance(a, Register) else a
        if type(c) not in NUMBER or not math.isfinite(c):
            raise Unread
        if kind == "mul":
            alpha, beta, of = float(c), 0.0, a if isinstance(a, Register) else b
        elif isinstance(a, Register):
            alpha, beta, of = 1.0, float(c if kind == "add" else -c), a
        else:
            alpha, beta, of = (1.0 if kind == "add" else -1.0), float(c), b
        return Register(add("affine", of.at, of.at, alpha, beta))

    def cat(self, parts: Any, dim: Any = 0) -> Register:
        if dim != -1 or not parts or not all(isinstance(p, Register) for p in parts):
            raise Unread
        made = parts[0]
        for p in parts[1:]:
            width = self.width(made) + self.width(p)
            made = Register(self.program.add("cat", made.at, p.at, width=width))
        return made

    def binary(self, op: ast.operator, a: Any, b: Any) -> Any:
        if not isinstance(a, Register) and not isinstance(b, Register):
            if all(isinstance(c, Tensor) or type(c) in NUMBER for c in (a, b)) and type(op) in _OPERATORS:
                return _OPERATORS[type(op)](a, b)
            raise Unread
        match op:
            case ast.Add() | ast.Sub() | ast.Mult():
                return self.joined({ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul"}[type(op)], a, b)
            case ast.Div() if type(b) in NUMBER and b != 0:
                return self.joined("mul", a, 1 / b)
            case ast.Pow() if type(b) in NUMBER and b == 2:
                return self.act(a, "square", None)
            case ast.MatMult() if isinstance(a, Register) and isinstance(b, Tensor) and b.dim() == 2:
                return self.linear(a, b.mT)
        raise Unread


_REFUSED: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # models that were not read, and how often
_OFTEN = 4


def program_of(model: Any, x: Tensor) -> Program | None:
    """What a model computes, if its source says it. Those that do more are not read for ever."""
    if not isinstance(model, nn.Module) or type(model).__hash__ is not nn.Module.__hash__:
        return None
    if _REFUSED.get(model, 0) >= _OFTEN:
        return None
    reader = Reader(x)
    try:
        y = reader.call(model, [Register(0)], {})
        if isinstance(y, (Register, Squeezed)) and y.at == len(reader.program.steps) and reader.program.weights:
            reader.program.is_squeezed = isinstance(y, Squeezed)
            return reader.program
    except Exception:  # what is raised but Unread, the model raises too, when it runs
        pass
    refuse(model)
    return None


def refuse(model: Any) -> None:
    """Note that a model was read in vain."""
    _REFUSED[model] = _REFUSED.get(model, 0) + 1
