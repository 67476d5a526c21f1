"""Reads what a model computes from its source: layers, activations, sums, products and loops over modules.

The source is gone through on each call, with the modules, numbers and functions that it names as they are now; nothing
of a model is run but what only computes with what it holds (a weight of others, say). Nothing else can happen while a
model that is read so runs, so that what it computes may as well be one op. What is not known here, and be it a print,
is refused: then the model runs (evaluate.py).
"""

import ast
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fusion.recognise import METHOD, of_call
from ..internals.call import is_linear, linear_is_replaced
from ..internals.stock import torchs
from .in_place import written
from .modules import Held, leaf
from .program import Program
from .source import Scope, attribute, definition_of
from .steps import Steps
from .values import NUMBER, PLAIN, List, Method, Once, Parts, Register, Unread, is_plain, items_of

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
_BINARY = {
    torchs(torch, name): op()
    for op, names in (
        (ast.Add, ("add",)), (ast.Sub, ("sub", "subtract")), (ast.Mult, ("mul", "multiply")), (ast.Div, ("div",)),
        (ast.Pow, ("pow",)), (ast.MatMult, ("matmul",)),
    )
    for name in names
}  # fmt: skip
# functions and methods of tensors that depend on x, by the method of Steps that stands for them
_NAMED: dict[str, Any] = {
    "cos": Steps.cos, "split": Steps.split, "chunk": Steps.chunk, "unbind": Steps.unbound,
    "squeeze": Steps.squeezed, "unsqueeze": Steps.unsqueezed,
}  # fmt: skip
_OF_MANY: dict[str, Any] = {"cat": Steps.cat, "concat": Steps.cat, "concatenate": Steps.cat, "stack": Steps.stack}
_TORCHS: dict[Any, Any] = {
    torchs(torch.functional if name == "split" else torch, name): step for name, step in (_NAMED | _OF_MANY).items()
}
_ASKED = "size", "dim"
_CHILDREN, _NAMED_CHILDREN = torchs(nn.Module, "children"), torchs(nn.Module, "named_children")
# what has to be torch's own
_SPECIAL = "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "pow", "matmul", "neg", "getitem", "iadd", "isub", \
    "imul", "itruediv", "ipow"  # fmt: skip
_METHODS = tuple(
    (name, getattr(Tensor, name)) for name in (*METHOD, *_NAMED, *_ASKED, *(f"__{name}__" for name in _SPECIAL))
)


class Reader(Steps):
    """One reading of a model."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.count = 0

    def call(self, f: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if isinstance(f, nn.Module):
            return self.module(f, args, kwargs)
        if isinstance(f, Method):
            return self.method(f, args, kwargs)
        if isinstance(f, _FUNCTIONS) and f in _TORCHS and args:
            if isinstance(args[0], Register) or type(args[0]) in (List, list, tuple):
                return _TORCHS[f](self, *args, **kwargs)
        if isinstance(f, BuiltinFunctionType) and f in _ASKED_OF and not kwargs:
            return _ASKED_OF[f](self, *args)
        if not any(isinstance(a, Register) for a in (*args, *kwargs.values())):
            if isinstance(f, (type, BuiltinFunctionType)) and f in _BUILTINS:
                return self.builtin(f, args, kwargs)
            if isinstance(f, _FUNCTIONS) and f in _PURE_FUNCTIONS and "out" not in kwargs:
                return f(*args, **kwargs) if any(isinstance(a, Tensor) for a in args) else self.refuse()
        elif isinstance(f, _FUNCTIONS) and args:
            if f in _BINARY and len(args) == 2 and not kwargs and isinstance(args[0], (Register, Tensor)):
                return self.binary(_BINARY[f], *args)
            if isinstance(args[0], Register):
                if is_linear(f) and not linear_is_replaced():
                    return self.linear(args[0], *args[1:], **kwargs)
                if (spec := self.spec(f, args, kwargs)) is not None:
                    return self.act(args[0], *spec)
        if isinstance(f, MethodType) and f.__func__ is _CHILDREN and not args and not kwargs:
            m: Any = f.__self__
            return Once([*m.children()]) if type(m).named_children is _NAMED_CHILDREN else self.refuse()
        if isinstance(f, MethodType) and isinstance(f.__func__, FunctionType):
            return self.function(f.__func__, [f.__self__, *args], kwargs)
        if isinstance(f, FunctionType):
            return self.function(f, args, kwargs)
        raise Unread

    @staticmethod
    def builtin(f: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Of numbers, lists and lists of modules: a tensor that depends on x is none of these here."""
        if not is_plain(*kwargs.values()) or (f in (len, reversed) and any(type(a) is Once for a in args)):
            raise Unread
        made = f(*(a if type(a) in PLAIN else items_of(a) for a in args), **kwargs)
        if f in (zip, enumerate, reversed):
            return Once([*made])
        return List(made) if f is list else made

    def is_instance(self, of: Any, cls: Any) -> bool:
        classes = cls if type(cls) is tuple else (cls,)
        if not all(type(c) is type or c is Tensor for c in classes) or isinstance(of, (Once, Parts, Method)):
            raise Unread
        return issubclass(Tensor, classes) if isinstance(of, Register) else isinstance(of, classes)

    def is_callable(self, of: Any) -> bool:
        return not isinstance(of, Register) and callable(of)

    def attribute_by_name(self, of: Any, name: Any) -> Any:
        if type(name) is not str or not isinstance(of, nn.Module):
            raise Unread
        return attribute(self, of, name)

    def sum(self, of: Any, start: Any = 0) -> Any:
        for one in items_of(of):
            start = self.binary(ast.Add(), start, one)
        return start

    @staticmethod
    def refuse() -> Any:
        raise Unread

    @staticmethod
    def spec(f: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[str, float | None] | None:
        rest = *args[1:], *kwargs.values()
        if not all(type(a) in PLAIN for a in rest) or written(f, tuple(args), kwargs) is not None:
            return None
        return of_call(f, tuple(args[1:]), kwargs)

    def method(self, f: Method, args: list[Any], kwargs: dict[str, Any]) -> Any:
        of, name = f.of, f.name
        if isinstance(of, Register):
            if name in METHOD and not name.endswith("_") and (spec := self.spec(name, [of, *args], kwargs)) is not None:
                return self.act(of, *spec)
            if name in _NAMED:
                return _NAMED[name](self, of, *args, **kwargs)
            if name in _ASKED and not kwargs:
                shape = self.attribute(of, "shape")
                return len(shape) if name == "dim" and not args else shape[args[0]] if args else shape
        elif name in _PURE and not any(isinstance(a, Register) for a in (*args, *kwargs.values())):
            return getattr(of, name)(*args, **kwargs)
        raise Unread

    def attribute(self, a: Register, name: str) -> Any:
        if name not in ("shape", "ndim"):
            raise Unread
        self.used(a)
        return self.shape(a) if name == "shape" else len(self.shape(a))

    def function(self, f: FunctionType, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A call of a function with a source."""
        definition, code = definition_of(f), f.__code__
        self.program.read.append(code)
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
        self.program.read.append(type(m))
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

    def binary(self, op: ast.operator, a: Any, b: Any) -> Any:
        if not isinstance(a, Register) and not isinstance(b, Register):
            if all(isinstance(c, Tensor) or type(c) in NUMBER for c in (a, b)) and type(op) in _OPERATORS:
                return _OPERATORS[type(op)](a, b)
            raise Unread
        match op:
            case ast.Add() | ast.Sub() | ast.Mult():
                return self.joined({ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul"}[type(op)], a, b)
            case ast.Div() if isinstance(b, Tensor) or (type(b) in NUMBER and b != 0):
                return self.joined("mul", a, 1 / b)
            case ast.Pow() if type(b) in NUMBER and b == 2:
                return self.act(a, "square", None)
            case ast.MatMult() if isinstance(a, Register) and isinstance(b, Tensor) and b.dim() == 2:
                return self.linear(a, b.mT)
        raise Unread


_ASKED_OF: dict[Any, Any] = {
    isinstance: Reader.is_instance, callable: Reader.is_callable, getattr: Reader.attribute_by_name, sum: Reader.sum,
}  # fmt: skip


@dataclass
class _Refused:
    """A model that was read in vain, so many times; it is read again after ever more calls."""

    times: int = 0
    left: int = 0


_REFUSED: WeakKeyDictionary[Any, _Refused] = WeakKeyDictionary()


def key_of(model: Any) -> Any:
    """What tells a model from others: of a function, which may be made anew for each call, its code."""
    if isinstance(model, nn.Module):
        return model if type(model).__hash__ is nn.Module.__hash__ else None
    return model.__code__ if isinstance(model, FunctionType) else None


def program_of(model: Any, x: Tensor) -> Program | None:
    """What a model computes, if its source says it. Those that do more are read ever less often."""
    key = key_of(model)
    if key is None or not all(getattr(Tensor, name) is f for name, f in _METHODS):
        return None
    if (refused := _REFUSED.get(key)) and refused.left:
        refused.left -= 1
        return None
    reader = Reader(x)
    try:
        y = reader.call(model, [Register(0)], {})
        if isinstance(y, Register):
            reader.used(y)
            found = reader.program.up_to(y.at)
            found.is_squeezed = y.is_flat
            if found.weights:
                return found
    except Exception:  # what is raised but Unread, the model raises too, when it runs
        pass
    refuse(model)
    return None


def refuse(model: Any) -> None:
    """Note that a model was read in vain."""
    refused = _REFUSED.setdefault(key_of(model), _Refused())
    refused.times += 1
    refused.left = 2 ** min(refused.times, 12) - 2


def refuse_for_ever(model: Any) -> None:
    """Note that a model computes something else than what was read."""
    _REFUSED[key_of(model)] = _Refused(left=sys.maxsize)


def accept(model: Any) -> None:
    """Note that what was read has run."""
    _REFUSED.pop(key_of(model), None)
