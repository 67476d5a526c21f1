"""Whether a class says what depends on being exactly that class: its modules then keep it, as ours is a subclass.

`type(self).calls += 1` would count on ours, `type(self) is Net` would be false, a table of classes would not have it.
Class methods are given the class that they know, and what makes a module sees it as one of that class: convolutions of
PyTorch Geometric write a method of their own for each class, and store it there.
"""

import ast
import functools
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from .authors import is_torchs
from .code import Unreadable, nested, parse, self_name


def needs_its_own(cls: type) -> str | None:
    """The method of a class, or of its bases in the same package, that depends on it; or None."""
    made = _while_made(cls)
    return next((name for name, f in _functions(cls) if name not in made and _depends(f)), None)


_MAKERS = "__init__", "__setstate__"


def _while_made(cls: type) -> set[str]:
    """The methods that run while a module is made, and not later: private ones that no other method mentions."""
    mentions = {name: set[str]() for name, _ in _functions(cls)}
    for name, f in _functions(cls):
        mentions[name] |= {n for code in (f.__code__, *nested(f.__code__)) for n in (*code.co_names, *code.co_consts)
                           if isinstance(n, str)}  # fmt: skip
    others = set().union(*(of for name, of in mentions.items() if name not in _MAKERS))
    private = {name for name in mentions if name.startswith("_") and not name.endswith("__")}
    return {*_MAKERS, *(private - others)}


def makers(cls: type) -> dict[str, Callable]:
    """The methods that make a module of a class, for our subclass of it: they see it as one of the class."""
    depends = any(_depends(f) for name, f in _functions(cls) if name in _while_made(cls))
    return {name: _as_one_of(cls, name) for name in _MAKERS if depends and hasattr(cls, name)}


def _as_one_of(original: type, name: str) -> Callable:
    @functools.wraps(getattr(original, name))
    def method(self, *args, **kwargs):
        cls = type(self)
        object.__setattr__(self, "__class__", original)
        try:
            return getattr(original, name)(self, *args, **kwargs)
        finally:
            object.__setattr__(self, "__class__", cls)

    return method


class OfOriginal:
    """A class method as it is of the class before fuse: it is given that class, whichever it is called on."""

    def __init__(self, original: type, name: str) -> None:
        self.original, self.name = original, name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return getattr(self.original, self.name)


def class_methods(cls: type) -> dict[str, OfOriginal]:
    """The class methods of a class, and of its bases in the same package."""
    return {name: OfOriginal(cls, name) for name, f in _methods(cls) if isinstance(f, classmethod)}


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    for base in cls.__mro__:
        if not is_torchs(base) and _package(base) == _package(cls):
            # of its subclasses it does not hear: ours is none that its author would want to hear of
            yield from ((name, f) for name, f in vars(base).items() if name != "__init_subclass__")


def _functions(cls: type) -> Iterator[tuple[str, FunctionType]]:
    return ((name, f) for name, f in _methods(cls) if isinstance(f, FunctionType))


def _package(cls: type) -> str:
    return cls.__module__.split(".")[0]


def _depends(function: FunctionType) -> bool:
    codes = [function.__code__, *nested(function.__code__)]
    if not any({"type", "__class__"} & {*code.co_names} for code in codes):
        return False
    try:
        _, tree = parse(function, function.__code__)
        self_ = self_name(tree)
    except Unreadable:
        return False
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    classes = [node for node in parents if _is_class(node, self_)]
    # variables that are given it
    given = [t for p in map(parents.get, classes) if isinstance(p, ast.Assign) for t in p.targets]
    names = {t.id for t in given if isinstance(t, ast.Name)}
    classes += [n for n in parents if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and n.id in names]
    return not all(isinstance(t, ast.Name) for t in given) or not all(_is_read(n, parents[n]) for n in classes)


def _is_class(node: ast.AST, self_: str) -> bool:
    """Whether a node is type(self) or self.__class__."""
    match node:
        case ast.Call(func=ast.Name(id="type"), args=[ast.Name(id=name)]):
            return name == self_
        case ast.Attribute(value=ast.Name(id=name), attr="__class__"):
            return name == self_
    return False


def _is_read(node: ast.AST, parent: ast.AST) -> bool:
    """Whether a class is only asked for what it inherits, or called, shown, or given to a variable."""
    match parent:
        case ast.Attribute(ctx=ast.Load()) | ast.FormattedValue() | ast.Assign():
            return True
        case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[first, *_]):
            return first is node
        case ast.Call(func=func):
            return func is node
    return False
