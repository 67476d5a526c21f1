"""Recognises an activation by the formula in the source of a function or a module, without running it.

    def forward(self, input):
        return input * torch.sigmoid(1.702 * input)         is quick_gelu

The source is evaluated here, in float64, by torch's own functions, at numbers of all sizes, at infinity and around
every constant that it mentions. It is taken for an activation of the registry if it gives the same numbers. That is a
proof for what is allowed in it: elementary functions, of which only relu has a kink, and constants.

What it computes is settled by its code and by the values of the names in it, which are looked up on each call. They
must be plain numbers and functions of torch: all else is not recognised.
"""

import ast
import functools
import math
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ..activations import REGISTRY
from ..internals.call import autocasts
from ..internals.module import is_hooked
from ..internals.stock import called_as_written
from .code import parse
from .mentioned import (
    METHODS,
    OF_NUMBERS,
    OF_TENSORS,
    PLAIN,
    Unknown,
    known,
    look_up,
    methods_of,
    name_of,
    names_of,
    parameters_of,
)

Spec = tuple[str, float | None]

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}

_PROBES = torch.cat(
    [torch.linspace(-12, 12, 193, dtype=torch.float64), torch.tensor([0.0, math.inf, -math.inf, math.nan])]
)
_SIZES = torch.tensor([1e-9, 1e-5, 1e-3, 17.3, 31.7, 88.1, 301.3, 1e3, 1e4, 1e6], dtype=torch.float64)
_EPS = 2.0**-48  # of the steps of a formula, in float64


def of(act: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Spec | None:
    """The activation that a call computes of a tensor, these arguments after it; None if it is not known."""
    if torch.compiler.is_compiling() or autocasts():  # which converts at some steps of a formula
        return None
    function, owner = act, None
    if isinstance(act, nn.Module):
        cls = type(act)
        if not called_as_written(cls) or "forward" in vars(act) or is_hooked(act):
            return None
        function, owner = getattr(cls, "forward", None), act
    elif isinstance(act, MethodType) and isinstance(act.__self__, nn.Module):
        function, owner = act.__func__, act.__self__
    if not isinstance(function, FunctionType):
        return None
    if not all(getattr(Tensor, name) is METHODS[name] for name in methods_of(function.__code__)):
        return None
    names = names_of(function.__code__, function, owner is not None)
    if names is None:
        return None
    values = tuple(known(name, function, owner) for name in names)
    others = _others(function, owner is not None, args, kwargs or {})
    if others is None:
        return None
    key = function.__code__, tuple(map(_identity, (*others.values(), *values))), len(REGISTRY)
    if key not in _SPECS:
        _SPECS[key] = _recognise(function, owner is not None, others, dict(zip(names, values, strict=True)))
    return _SPECS[key]


def facts_of(act: Any) -> list[Any] | None:
    """What has to stay for an activation that is recognised to stay that: owner, name, value, ...; None if more has.

    Of its code, of what its names stand for, of the methods of tensors that it may call.
    """
    function, owner = (getattr(type(act), "forward", None), act) if isinstance(act, nn.Module) else (act, None)
    if not isinstance(function, FunctionType) or of(act) is None:
        return None
    names = names_of(function.__code__, function, owner is not None)
    facts: list[Any] = [
        part for k in ("__code__", "__defaults__", "__kwdefaults__") for part in (function, k, getattr(function, k))
    ]
    facts += [part for name in methods_of(function.__code__) for part in (Tensor, name, METHODS[name])]
    try:
        values = [look_up(name, function, owner, facts) for name in names or ()]
    except Unknown:
        return None
    return None if any(type(value) is functools.partial for value in values) else facts


def _others(function: FunctionType, method: bool, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """What a call gives to the parameters after the tensor; None if that is not all of them, or no plain value."""
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[1 + method : code.co_argcount]
    given = dict(zip(names[len(names) - len(defaults) :], defaults[max(0, len(defaults) - len(names)) :], strict=True))
    given |= dict(zip(names, args, strict=False)) | kwargs
    if len(args) > len(names) or {*given} != {*names} or not all(type(v) in PLAIN for v in given.values()):
        return None
    return {name: given[name] for name in names}


_SPECS: dict[tuple, Spec | None] = {}


def _identity(value: Any) -> Any:
    if isinstance(value, functools.partial):
        return id(value.func), *sorted(value.keywords.items())
    return (type(value), value) if isinstance(value, PLAIN) else id(value)  # functions of torch and of math live on


# --- values -------------------------------------------------------------------------------------------------------


def _recognise(function: FunctionType, method: bool, given: dict[str, Any], values: dict[str, Any]) -> Spec | None:
    definition = parse(function, function.__code__)[1]
    argument = parameters_of(definition, method)[1][0]
    numbers = {abs(float(v)) for v in (*values.values(), *given.values()) if type(v) in (int, float)}
    constants = (n.value for n in ast.walk(definition) if isinstance(n, ast.Constant))
    numbers |= {abs(float(value)) for value in constants if isinstance(value, (int, float))}
    around = [c * f + d for c in sorted(numbers) for f in (1.0, 0.5, 1.5, 100.0) for d in (-0.3, 0.0, 0.3)]
    near = torch.tensor(around, dtype=torch.float64)
    z = torch.cat([_PROBES, _SIZES, -_SIZES, near, -near])
    try:
        y = _Evaluation(values, given | {argument: z}).run(definition)
    except (Unknown, ArithmeticError, ValueError, TypeError, RuntimeError):
        return None
    if not isinstance(y, Tensor) or y.shape != z.shape:
        return None
    for a in REGISTRY.values():
        params: list[float] = [a.default]
        if a.param:
            params += [p for p in sorted(numbers | {1 / n for n in numbers if n}) if a.accepts(p) and p != a.default]
        for p in params:
            if a.name != "identity" and torch.allclose(y, a.value(z, p), rtol=_EPS, atol=_EPS, equal_nan=True):
                return (a.name, p if a.param else None) if _same_scale(y, a.value(z, p), z) else None
    return None


def _same_scale(y: Tensor, value: Tensor, z: Tensor) -> bool:
    return torch.equal(y.isnan(), value.isnan()) and torch.equal(y.isinf(), value.isinf())


class _Evaluation:
    """The value of a formula, of one tensor."""

    def __init__(self, values: dict[str, Any], local: dict[str, Any]) -> None:
        self.values, self.local = values, local

    def run(self, definition: ast.FunctionDef | ast.Lambda) -> Any:
        if isinstance(definition, ast.Lambda):
            return self.of(definition.body)
        returned = self._block(definition.body)
        if returned is None:
            raise Unknown
        return returned[0]

    def _block(self, body: list[ast.stmt]) -> tuple[Any] | None:
        for statement in body:
            match statement:
                case ast.Return(value=ast.expr() as e):
                    return (self.of(e),)
                case ast.Assign(targets=[ast.Name(id=name)], value=e):
                    self.local[name] = self.of(e)
                case ast.Expr(value=ast.Constant()):
                    pass
                case ast.If(test=test, body=then, orelse=other):
                    if (returned := self._block(then if self._decides(test) else other)) is not None:
                        return returned
                case _:
                    raise Unknown
        return None

    def _decides(self, test: ast.expr) -> bool:
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._decides(operand)
            case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot() as op], comparators=[ast.Constant(value=None)]):
                return (self.of(left) is None) == isinstance(op, ast.Is)
            case ast.BoolOp(op=op, values=values):
                return (all if isinstance(op, ast.And) else any)(map(self._decides, values))
            case ast.Compare(
                left=ast.Attribute(value=ast.Attribute(value=of, attr="device"), attr="type"),
                ops=[ast.Eq() | ast.NotEq() as op],
                comparators=[ast.Constant(value="mps")],
            ) if type(self.of(of)) is Tensor and not torch.backends.mps.is_available():
                return isinstance(op, ast.NotEq)  # as no tensor is there
        value = self.of(test)
        if type(value) not in PLAIN:
            raise Unknown
        return bool(value)

    def of(self, e: ast.expr) -> Any:
        match e:
            case ast.Constant(value=value) if type(value) in PLAIN:
                return value
            case ast.Name(id=name) if name in self.local:
                return self.local[name]
            case ast.Name() | ast.Attribute() if self.values.get(dotted := name_of(e)[1], Unknown) is not Unknown:
                return self.values[dotted]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _BINARY[type(op)](self._number(left), self._number(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand)
            case ast.IfExp(test=test, body=then, orelse=other):
                return self.of(then if self._decides(test) else other)
            case ast.Call(func=func, args=args, keywords=keywords):
                return self._call(func, [self.of(a) for a in args], {k.arg: self.of(k.value) for k in keywords})
        raise Unknown

    def _number(self, e: ast.expr) -> Any:
        value = self.of(e)
        if type(value) not in (int, float, Tensor):
            raise Unknown
        return value

    def _call(self, func: ast.expr, args: list[Any], kwargs: dict[str | None, Any]) -> Any:
        if None in kwargs or "out" in kwargs or kwargs.pop("inplace", False) not in (False, None):
            raise Unknown
        options: Any = kwargs
        if isinstance(func, ast.Attribute) and name_of(func)[1] not in self.values:
            of = self.of(func.value)
            known = METHODS.get(func.attr)
            if type(of) is not Tensor or known is None or getattr(Tensor, func.attr) is not known:
                raise Unknown
            return known(of, *args, **options)
        function = self.of(func)
        tensors = any(isinstance(a, Tensor) for a in args)
        inner = function.func if isinstance(function, functools.partial) else function
        if not callable(function) or inner not in (OF_TENSORS if tensors else OF_NUMBERS):
            raise Unknown
        return function(*args, **options)
