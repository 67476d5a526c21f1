"""The names in the source of a formula, and what they stand for now: numbers and functions of torch."""

import ast
import builtins
import functools
import math
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..internals.module import holders, holds
from ..internals.stock import torchs
from .code import Unreadable, parse

_NAMES = (
    "add sub mul div neg pow square sqrt rsqrt exp expm1 log log1p sin cos tanh sigmoid erf relu reciprocal cosh sinh"
).split()
METHODS = {name: torchs(Tensor, name) for name in _NAMES}
OF_TENSORS = {torchs(torch, name) for name in _NAMES}
OF_TENSORS |= {torchs(F, name) for name in ("relu", "silu", "gelu", "mish", "softplus", "sigmoid", "tanh", "elu")}
OF_TENSORS |= {torchs(F, name) for name in ("selu", "celu", "logsigmoid", "softsign", "tanhshrink")}
OF_TENSORS |= {torchs(torch.special, name) for name in ("expit", "erf", "exp2", "log1p", "expm1")}
OF_NUMBERS = {math.sqrt, math.exp, math.log, math.tanh, math.erf, math.cos, math.sin, math.pow, float}
PLAIN = int, float, bool, str, type(None)
MISSING = object()  # in the place of what a fact's owner does not have


class Unknown(Exception):
    """Why a formula is not recognised."""


_NAMES_OF: dict[tuple[CodeType, bool], tuple[str, ...] | None] = {}


def names_of(code: CodeType, function: FunctionType, method: bool) -> tuple[str, ...] | None:
    """The names that a formula looks up, dotted; None if its source is no formula."""
    key = code, method
    if key not in _NAMES_OF:
        try:
            _NAMES_OF[key] = tuple(dict.fromkeys(_mentioned(parse(function, code)[1], method)))
        except (Unknown, Unreadable):
            _NAMES_OF[key] = None
    return _NAMES_OF[key]


@functools.lru_cache(maxsize=1024)
def methods_of(code: CodeType) -> tuple[str, ...]:
    """The methods of torch.Tensor that a formula may call."""
    return tuple(name for name in code.co_names if name in METHODS)


def parameters_of(definition: ast.FunctionDef | ast.Lambda, method: bool) -> tuple[str, list[str]]:
    """What a function calls its module, "" for none, and its other parameters."""
    arguments = definition.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or len(names) <= method:
        raise Unknown
    return (names[0], names[1:]) if method else ("", names)


def _mentioned(definition: ast.FunctionDef | ast.Lambda, method: bool) -> Iterator[str]:
    self_, parameters = parameters_of(definition, method)
    body = definition.body if isinstance(definition, ast.FunctionDef) else [ast.Expr(definition.body)]
    local = set(parameters)
    for statement in body:
        for n in ast.walk(statement):
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store):
                local.add(n.id)
            elif not isinstance(n, _GRAMMAR):
                raise Unknown
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        root, dotted = name_of(node)
        if root is None:
            todo += ast.iter_child_nodes(node)
        elif root not in local:
            if root == self_ and "." not in dotted:
                raise Unknown
            yield dotted


_GRAMMAR = (
    *(ast.Return, ast.Assign, ast.If, ast.IfExp, ast.Expr, ast.Constant, ast.Name, ast.Attribute, ast.BinOp),
    *(ast.UnaryOp, ast.Call, ast.keyword, ast.operator, ast.unaryop, ast.expr_context, ast.Compare, ast.cmpop),
    *(ast.BoolOp, ast.boolop),
)


def name_of(node: ast.AST) -> tuple[str | None, str]:
    """The first of the names in a.b.c, and all of them."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None, ""
    return node.id, ".".join([node.id, *reversed(names)])


def known(dotted: str, function: FunctionType, owner: nn.Module | None) -> Any:
    """The same, or Unknown: it may stand where the formula does not come."""
    try:
        return look_up(dotted, function, owner, [])
    except Unknown:
        return Unknown


def look_up(dotted: str, function: FunctionType, owner: nn.Module | None, facts: list[Any]) -> Any:
    """What a name stands for now: a number or a function of torch's. Raises Unknown.

    Adds to the facts all that was looked at, as owner, name, value.
    """
    root, *rest = dotted.split(".")
    if owner is not None and root == function.__code__.co_varnames[0]:
        value = _in_modules(_of_module(owner, rest[0], facts), rest[1:], facts)
    else:
        value = read_name(dotted, function, facts)
    if type(value) in PLAIN or (callable(value) and _is_known(value)):
        return value
    raise Unknown


def read_name(dotted: str, function: FunctionType, facts: list[Any]) -> Any:
    """What a name that is no local one of a function stands for now, in files; the same facts. Raises Unknown."""
    root, *rest = dotted.split(".")
    free = function.__code__.co_freevars
    if root in free:
        value = _read((function.__closure__ or ())[free.index(root)], "cell_contents", facts)
    elif root in function.__globals__:
        value = _read(function.__globals__, root, facts)
    else:
        facts += function.__globals__, root, MISSING
        value = _read(vars(builtins), root, facts)
    return _in_modules(value, rest, facts)


def _in_modules(value: Any, names: list[str], facts: list[Any]) -> Any:
    for name in names:
        if not isinstance(value, ModuleType):
            raise Unknown
        value = _read(vars(value), name, facts)
    return value


def _read(owner: Any, name: str, facts: list[Any]) -> Any:
    """owner[name] of a dictionary, owner.name of all else, as a fact."""
    try:
        value = owner[name] if isinstance(owner, dict) else getattr(owner, name)
    except (AttributeError, KeyError, ValueError):  # the last of a variable without a value
        raise Unknown from None
    facts += owner, name, value
    return value


def _of_module(owner: nn.Module, name: str, facts: list[Any]) -> Any:
    cls = type(owner)
    if cls.__getattribute__ is not object.__getattribute__:
        raise Unknown  # another way to look up
    facts += cls, "__getattribute__", object.__getattribute__
    if name not in vars(owner) and not holds(owner, name):
        value = next((vars(c)[name] for c in cls.__mro__ if name in vars(c)), MISSING)
        if isinstance(value, FunctionType) or value is MISSING:
            raise Unknown  # becomes a method
        facts += [part for held in holders(owner) for part in (held, name, MISSING)]
        facts += cls, name, value
        return value
    of_class = getattr(cls, name, MISSING)
    if hasattr(type(of_class), "__set__"):
        raise Unknown  # a property
    facts += cls, name, of_class
    return _read(vars(owner), name, facts)


def _is_known(value: Any) -> bool:
    if type(value) is functools.partial:
        return not value.args and all(type(v) in PLAIN for v in value.keywords.values()) and _is_known(value.func)
    try:
        return value in OF_TENSORS or value in OF_NUMBERS
    except TypeError:  # is not hashable
        return False
