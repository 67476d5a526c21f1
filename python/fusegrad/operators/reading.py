"""Reads what a model computes from its source: layers, activations, sums, products and loops over modules.

The source is gone through on each call, with the modules, numbers and functions that it names as they are now; nothing
of a model is run but what only computes with what it holds (a weight of others, say). Nothing else can happen while a
model that is read so runs, so that what it computes may as well be one op. What is not known here, and be it a print,
is refused: then the model runs (evaluate.py).
"""

import ast
import builtins
import math
import operator
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..activations import REGISTRY
from ..fusion.classes import original_class
from ..fusion.code import Definition, Unreadable, contents, parse
from ..fusion.recognise import METHOD, of_call
from ..internals.call import is_linear, linear_is_replaced
from ..internals.module import GETATTR
from ..internals.stock import torchs
from ..routing import fits
from .in_place import written
from .modules import Held, leaf, parts_of
from .program import MOST_LAYERS, Program

_MOST = 5000  # expressions


class Unread(Exception):
    """The source says more than is known here."""


class Register(NamedTuple):
    at: int


class Squeezed(NamedTuple):
    """A register of one feature without the dimension of features: what a model may return, and no more."""

    at: int


class Method(NamedTuple):
    """What stands before the brackets in x.name(...)."""

    of: Any
    name: str


class _Returned(NamedTuple):
    value: Any


_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.MatMult: operator.matmul, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_COMPARES: dict[type, Callable[[Any, Any], Any]] = {
    ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_PLAIN = bool, int, float, str, type(None)
_NUMBER = int, float
_FUNCTIONS = BuiltinFunctionType, FunctionType
# what only computes, of tensors that do not depend on x
_PURE = {
    "exp", "log", "sqrt", "rsqrt", "square", "pow", "abs", "norm", "sum", "mean", "unsqueeze", "squeeze", "view", "t",
    "reshape", "transpose", "sigmoid", "tanh", "softplus", "mul", "add", "sub", "div", "neg", "sin", "cos",
}  # fmt: skip
_PURE_FUNCTIONS = {torchs(owner, name) for name in (*_PURE, "normalize") for owner in (torch, F)}
_BUILTINS = {zip, enumerate, range, len, reversed, list, tuple, float, int, abs}
_JOINS = {torchs(torch, name): kind for name, kind in (("add", "add"), ("sub", "sub"), ("mul", "mul"))}
_DEFINITIONS: dict[Any, Definition | None] = {}  # of code, where its source can be read


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
                if any(isinstance(a, Tensor) for a in given) or not all(type(a) in _PLAIN for a in kwargs.values()):
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
        if not all(type(a) in _PLAIN for a in rest) or written(f, tuple(args), kwargs) is not None:
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
        code = f.__code__
        if code not in _DEFINITIONS:
            _DEFINITIONS[code] = _definition(f)
        definition = _DEFINITIONS[code]
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
        if type(c) not in _NUMBER or not math.isfinite(c):
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
            if all(isinstance(c, Tensor) or type(c) in _NUMBER for c in (a, b)) and type(op) in _OPERATORS:
                return _OPERATORS[type(op)](a, b)
            raise Unread
        match op:
            case ast.Add() | ast.Sub() | ast.Mult():
                return self.joined({ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul"}[type(op)], a, b)
            case ast.Div() if type(b) in _NUMBER and b != 0:
                return self.joined("mul", a, 1 / b)
            case ast.Pow() if type(b) in _NUMBER and b == 2:
                return self.act(a, "square", None)
            case ast.MatMult() if isinstance(a, Register) and isinstance(b, Tensor) and b.dim() == 2:
                return self.linear(a, b.mT)
        raise Unread


def _definition(f: FunctionType) -> Definition | None:
    try:
        made = parse(f, f.__code__)[1]
    except Unreadable:
        return None
    arguments = made.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
        return None
    return None if getattr(made, "decorator_list", []) else made


class Scope:
    """A call of a function: its variables, and what its names stand for."""

    def __init__(self, reader: Reader, f: FunctionType, held: dict[str, Any]) -> None:
        self.reader, self.f, self.held = reader, f, held

    def run(self, body: list[ast.stmt]) -> _Returned | None:
        for s in body:
            match s:
                case ast.Expr(value=ast.Constant()) | ast.Pass():
                    pass
                case ast.Assign(targets=targets, value=e):
                    made = self.value(e)
                    for target in targets:
                        self.assign(target, made)
                case ast.Return(value=e) if e is not None:
                    return _Returned(self.value(e))
                case ast.For(target=target, iter=over, body=inner, orelse=[]):
                    for one in self.several(self.value(over)):
                        self.assign(target, one)
                        if (found := self.run(inner)) is not None:
                            return found
                case ast.If(test=test, body=then, orelse=other):
                    if (found := self.run(then if self.truth(test) else other)) is not None:
                        return found
                case _:
                    raise Unread
        return None

    def assign(self, target: ast.expr, made: Any) -> None:
        match target:
            case ast.Name(id=name) if name in self.f.__code__.co_varnames:
                self.held[name] = made
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                several = self.several(made)
                if len(several) != len(parts):
                    raise Unread
                for part, one in zip(parts, several, strict=True):
                    self.assign(part, one)
            case _:
                raise Unread

    @staticmethod
    def several(of: Any) -> list[Any]:
        if type(of) in (list, tuple, range):
            return [*of]
        found = parts_of(of)
        if found is None:
            raise Unread
        return found

    def truth(self, e: ast.expr) -> bool:
        value = self.value(e)
        if type(value) not in _PLAIN:
            raise Unread
        return bool(value)

    def value(self, e: ast.expr) -> Any:
        reader = self.reader
        reader.count += 1
        if reader.count > _MOST:
            raise Unread
        match e:
            case ast.Name(id=name):
                return self.name(name)
            case ast.Call(func=func, args=args, keywords=keywords):
                f = self.value(func)
                if any(isinstance(a, ast.Starred) for a in args) or not all(k.arg for k in keywords):
                    raise Unread
                return reader.call(f, [*map(self.value, args)], {k.arg or "": self.value(k.value) for k in keywords})
            case ast.Attribute(value=of, attr=name):
                return _attribute(self.value(of), name)
            case ast.Constant(value=constant) if type(constant) in _PLAIN:
                return constant
            case ast.BinOp(left=left, op=op, right=right):
                return reader.binary(op, self.value(left), self.value(right))
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return [*map(self.value, parts)]
            case ast.UnaryOp(op=ast.USub(), operand=of):
                value = self.value(of)
                return reader.joined("mul", value, -1.0) if isinstance(value, Register) else _negative(value)
            case ast.UnaryOp(op=ast.Not(), operand=of):
                return not self.truth(of)
            case ast.BoolOp(op=op, values=values):
                ends = isinstance(op, ast.Or)
                return next((ends for v in values if self.truth(v) is ends), not ends)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARES:
                a, b = self.value(left), self.value(right)
                if isinstance(op, (ast.Is, ast.IsNot)) or (type(a) in _PLAIN and type(b) in _PLAIN):
                    return _COMPARES[type(op)](a, b)
            case ast.IfExp(test=test, body=then, orelse=other):
                return self.value(then if self.truth(test) else other)
            case ast.Subscript(value=of, slice=key):
                return self.part(self.value(of), key)
        raise Unread

    def part(self, of: Any, key: ast.expr) -> Any:
        if isinstance(of, Tensor):
            return of[self.key(key)]
        at = self.key(key)
        return self.several(of)[at] if type(at) in (int, slice) else self.refuse()

    def key(self, e: ast.expr) -> Any:
        match e:
            case ast.Slice(lower=low, upper=high, step=step):
                return slice(*(None if b is None else self.number(b) for b in (low, high, step)))
            case ast.Tuple(elts=parts):
                return tuple(map(self.key, parts))
            case ast.Constant(value=None):
                return None
        return self.number(e)

    def number(self, e: ast.expr) -> int:
        value = self.value(e)
        return value if type(value) is int else self.refuse()

    def refuse(self) -> Any:
        raise Unread

    def name(self, name: str) -> Any:
        if name in self.held:
            return self.held[name]
        code = self.f.__code__
        if name in code.co_varnames or name in code.co_cellvars:
            raise Unread
        if name in code.co_freevars:
            return contents((self.f.__closure__ or ())[code.co_freevars.index(name)])
        if name in self.f.__globals__:
            return self.f.__globals__[name]
        return getattr(builtins, name, None)


def _negative(value: Any) -> Any:
    if isinstance(value, Tensor) or type(value) in _NUMBER:
        return -value
    raise Unread


def _attribute(of: Any, name: str) -> Any:
    if isinstance(of, ModuleType):
        if name in vars(of):
            return vars(of)[name]
        raise Unread
    if isinstance(of, Register):
        return Method(of, name)
    if isinstance(of, Tensor):
        return getattr(of, name) if name in ("T", "mT") else Method(of, name)
    if not isinstance(of, nn.Module):
        raise Unread
    cls, held = type(of), of.__dict__
    if cls.__getattr__ is not GETATTR or cls.__getattribute__ is not object.__getattribute__:
        raise Unread
    found = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), Unread)
    if found is not Unread and hasattr(type(found), "__set__"):  # a property, say
        raise Unread
    if name in held:
        return held[name]
    if isinstance(found, FunctionType) and isinstance(live := getattr(original_class(cls), name), FunctionType):
        return MethodType(live, of)
    if found is not Unread:
        if type(found) in _PLAIN:
            return found
        raise Unread
    for place in ("_parameters", "_buffers", "_modules"):
        if name in held[place]:
            return held[place][name]
    raise Unread


_REFUSED: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # models that were not read, and how often
_OFTEN = 4


def program_of(model: Any, x: Tensor) -> Program | None:
    """What a model computes, if its source says it."""
    if not isinstance(model, nn.Module):
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
    _REFUSED[model] = _REFUSED.get(model, 0) + 1
    return None
