"""What an expression in a method stands for, among what the module holds: self.fc, or layer in a loop over self.ls."""

import ast
import inspect
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from ..internals.module import children, holds, stored
from .code import Unreadable, parse

Step = tuple[str, Any]  # ("attribute", name), ("named", its beginning), ("item", key), ("each of", slice) or
# ("zipped", where the others are that are gone through with it)
Path = tuple[Step, ...]  # from the module
EVERY: Step = ("each of", slice(None))
# an index made of these is looked up without doing anything else
_COUNTING = (ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context)
_CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_NOTHING = object()


class Names:
    """What the local names of a method stand for, as far as that can be read off its loops and assignments."""

    def __init__(self, method: ast.FunctionDef | ast.Lambda, self_: str, owner: str) -> None:
        self.owner = owner.lstrip("_")
        self.paths: dict[str, list[tuple[range, tuple[Path, ...]]]] = defaultdict(list)  # with the lines they hold in
        self.lines = range(method.lineno, 1 + (method.end_lineno or 0))
        if self_:
            self._bind(ast.Name(self_), ((),))
        whole = self.lines
        for node in ast.walk(method):  # outer loops first
            if isinstance(node, (ast.For, ast.comprehension)):
                if isinstance(node, ast.For):
                    self.lines = range(node.lineno, 1 + (node.end_lineno or 0))
                self._loop(node.target, node.iter)
                self.lines = whole
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                self._bind(node.targets[0], self.of(node.value))

    def of(self, expr: ast.expr) -> tuple[Path, ...]:
        """Where the module may hold what `expr` gives; () if it is not known to hold it."""
        match expr:
            case ast.Name(id=name):
                here = [(len(lines), paths) for lines, paths in self.paths.get(name, ()) if expr.lineno in lines]
                inner = min((length for length, _ in here), default=0)
                return tuple(path for length, paths in here if length == inner for path in paths)
            case ast.Attribute(value=value, attr=name):
                if name.startswith("__") and not name.endswith("__"):
                    name = f"_{self.owner}{name}"
                return tuple((*p, ("attribute", name)) for p in self.of(value))
            case ast.Subscript(value=value, slice=ast.expr() as key) if not isinstance(key, ast.Slice):
                try:
                    step: Step = ("item", ast.literal_eval(key))
                except ValueError:
                    if not all(isinstance(n, _COUNTING) for n in ast.walk(key)):
                        return ()
                    step = EVERY
                return tuple((*p, step) for p in self.of(value))
            case ast.Call(func=ast.Name(id="getattr"), args=[value, key]):
                named: Step = ("attribute", key.value) if isinstance(key, ast.Constant) else ("named", _beginning(key))
                return tuple((*p, named) for p in self.of(value))
            case ast.IfExp(body=body, orelse=orelse):
                return (*self.of(body), *self.of(orelse))
        return ()

    def _bind(self, target: ast.expr, paths: tuple[Path, ...]) -> None:
        if isinstance(target, ast.Name):
            self.paths[target.id].append((self.lines, paths))

    def _loop(self, target: ast.expr, over: ast.expr) -> None:
        match over, target:
            case ast.Call(func=ast.Name(id="enumerate"), args=[inner, *_]), ast.Tuple(elts=[_, item]):
                self._loop(item, inner)
            case ast.Call(func=ast.Name(id="zip"), args=inners), ast.Tuple(elts=items):
                for item, inner in zip(items, inners, strict=False):
                    held = self.of(inner)
                    others = tuple(paths for other in inners if other is not inner and (paths := self.of(other)))
                    if held and others and isinstance(item, ast.Name):
                        self._bind(item, tuple((*p, ("zipped", others)) for p in held))
                    else:
                        self._loop(item, inner)
            case ast.Call(func=ast.Name(id="reversed"), args=[inner]), _:
                self._loop(target, inner)
            case ast.Call(func=ast.Attribute(value=inner, attr="values"), args=[]), _:
                self._loop(target, inner)
            case ast.Call(func=ast.Attribute(value=inner, attr="items"), args=[]), ast.Tuple(elts=[_, item]):
                self._loop(item, inner)
            case ast.Subscript(value=inner, slice=ast.Slice(lower=a, upper=b, step=c)), _:
                try:
                    part = slice(*(None if bound is None else ast.literal_eval(bound) for bound in (a, b, c)))
                except ValueError:
                    part = slice(None)
                self._bind(target, tuple((*p, ("each of", part)) for p in self.of(inner)))
            case _:
                self._bind(target, tuple((*p, EVERY) for p in self.of(over)))


def _beginning(key: ast.expr) -> str:
    """What a name that is put together begins with: f"lin{i}", "lin" + str(i), "lin%d" % i."""
    match key:
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return text
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Add()):
            return text
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod()):
            return text.partition("%")[0]
    return ""


def find(module: nn.Module, paths: Iterable[Path]) -> dict[str, Any]:
    """What is held there now, by its dotted path. Runs no code of the module."""
    found: dict[str, Any] = {}
    for path in paths:
        held: dict[str, Any] = {"": module}
        for kind, key in path:
            if kind == "zipped":
                kind, key = "each of", slice(min((_length(module, other) for other in key), default=None))
            held = {join(at, name): value for at, owner in held.items() for name, value in _step(owner, kind, key)}
        found |= held
    return found


def _length(module: nn.Module, paths: tuple[Path, ...]) -> int:
    """How many a list of modules holds, of those that may be at these places; many if that is not known."""
    return max(
        (len([*_step(owner, *EVERY)]) or sys.maxsize for owner in find(module, paths).values()), default=sys.maxsize
    )


def _step(owner: Any, kind: str, key: Any) -> Iterator[tuple[str, Any]]:
    if kind == "attribute":
        yield from _attribute(owner, key)
        return
    if kind == "named":
        if isinstance(owner, nn.Module):
            yield from ((name, child) for name, child in children(owner).items() if name.startswith(key))
        return
    items: list[tuple[str, Any]] = []
    if any(getattr(type(owner), "__getitem__", None) is container.__getitem__ for container in _CONTAINERS):
        items = list(children(owner).items())
    elif type(owner) in (list, tuple):
        items = [(str(i), value) for i, value in enumerate(owner)]
    if kind == "each of":
        yield from items[key]
    elif isinstance(key, int) and -len(items) <= key < len(items):
        yield items[key]
    else:
        yield from (item for item in items if item[0] == key)


def _attribute(owner: Any, name: str) -> Iterator[tuple[str, Any]]:
    value = inspect.getattr_static(type(owner), name, _NOTHING)
    if type(owner).__getattribute__ is not object.__getattribute__:
        return  # another way to look up
    if isinstance(value, property) and (at := stored_by(value)):
        yield from _attribute(owner, at)
        return
    if hasattr(type(value), "__set__"):
        return
    if isinstance(owner, nn.Module) and holds(owner, name):
        yield name, children(owner).get(name, stored(owner, name))
    elif name in getattr(owner, "__dict__", ()):
        yield name, vars(owner)[name]
    elif isinstance(value, staticmethod):
        yield name, value.__func__
    elif isinstance(value, FunctionType):
        yield name, MethodType(value, owner)
    elif value is not _NOTHING and not hasattr(type(value), "__get__"):
        yield name, value
    elif inspect.isbuiltin(value):  # torch.tanh
        yield name, value


_STORED_BY: dict[CodeType, str | None] = {}


def stored_by(value: property) -> str | None:
    """The attribute that a property gives as it is stored, or None: `return self._beta`."""
    getter = value.fget
    if not isinstance(getter, FunctionType):
        return None
    if getter.__code__ not in _STORED_BY:
        _STORED_BY[getter.__code__] = _returned_by(getter)
    return _STORED_BY[getter.__code__]


def _returned_by(getter: FunctionType) -> str | None:
    try:
        definition = parse(getter, getter.__code__)[1]
    except Unreadable:
        return None
    body = [s for s in getattr(definition, "body", []) if not isinstance(s, ast.Expr)]
    match body:
        case [ast.Return(value=ast.Attribute(value=ast.Name(id=owner), attr=at))]:
            return at if [owner] == [a.arg for a in definition.args.args] else None
    return None


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
