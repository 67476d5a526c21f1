"""Goes through the source of a function, by the statements and expressions that are known here (reading.py)."""

import ast
import builtins
import operator
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..fusion.classes import original_class
from ..fusion.code import Definition, Unreadable, contents, parse
from ..internals.module import GETATTR
from .modules import parts_of

MOST = 5000  # expressions of a model
PLAIN = bool, int, float, str, type(None)
NUMBER = int, float


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


_COMPARES: dict[type, Callable[[Any, Any], Any]] = {
    ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_DEFINITIONS: dict[Any, Definition | None] = {}  # of code, where its source can be read


def definition_of(f: FunctionType) -> Definition | None:
    """What the source of a function says, if it takes plain arguments and nothing is around it."""
    code = f.__code__
    if code not in _DEFINITIONS:
        _DEFINITIONS[code] = _definition(f)
    return _DEFINITIONS[code]


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

    def __init__(self, reader: Any, f: FunctionType, held: dict[str, Any]) -> None:
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
        if type(value) not in PLAIN:
            raise Unread
        return bool(value)

    def value(self, e: ast.expr) -> Any:
        reader = self.reader
        reader.count += 1
        if reader.count > MOST:
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
            case ast.Constant(value=constant) if type(constant) in PLAIN:
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
                if isinstance(op, (ast.Is, ast.IsNot)) or (type(a) in PLAIN and type(b) in PLAIN):
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
    if isinstance(value, Tensor) or type(value) in NUMBER:
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
        if type(found) in PLAIN:
            return found
        raise Unread
    for place in ("_parameters", "_buffers", "_modules"):
        if name in held[place]:
            return held[place][name]
    raise Unread
