"""Whether a class says what depends on being exactly that class: its modules then keep it, as ours is a subclass.

`type(self).calls += 1` would count on ours, `type(self) is Net` would be false, a table of classes would not have it.
"""

import ast
from types import FunctionType

from .code import Unreadable, nested, parse, self_name
from .find import is_torchs


def needs_its_own(cls: type) -> str | None:
    """The method of a class, or of its bases in the same package, that depends on it; or None."""
    for base in cls.__mro__:
        if not is_torchs(base) and _package(base) == _package(cls):
            for name, value in vars(base).items():
                if name == "__init_subclass__":
                    continue  # which does not hear of ours
                function = value.__func__ if isinstance(value, classmethod) else value
                if isinstance(function, FunctionType) and _depends(function, isinstance(value, classmethod)):
                    return name
    return None


def _package(cls: type) -> str:
    return cls.__module__.split(".")[0]


def _depends(function: FunctionType, of_class: bool) -> bool:
    codes = [function.__code__, *nested(function.__code__)]
    if not of_class and not any({"type", "__class__"} & {*code.co_names} for code in codes):
        return False
    try:
        _, tree = parse(function, function.__code__)
        first = self_name(tree)
    except Unreadable:
        return False
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    return any(_is_class(node, first, of_class) and not _is_read(node, parents[node], of_class) for node in parents)


def _is_class(node: ast.AST, first: str, of_class: bool) -> bool:
    """Whether a node is type(self) or self.__class__, or the first argument of a class method."""
    match node:
        case ast.Call(func=ast.Name(id="type"), args=[ast.Name(id=name)]):
            return name == first and not of_class
        case ast.Attribute(value=ast.Name(id=name), attr="__class__"):
            return name == first and not of_class
        case ast.Name(id=name):
            return name == first and of_class
    return False


def _is_read(node: ast.AST, parent: ast.AST, of_class: bool) -> bool:
    """Whether a class is only asked for what it inherits, or called."""
    match parent:
        case ast.Attribute(ctx=ast.Load()):
            return True
        case ast.Attribute():
            return False
        case ast.Call(func=func):
            return func is node or of_class
    return of_class
