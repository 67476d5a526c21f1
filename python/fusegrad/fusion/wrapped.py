"""Methods that a decorator wraps: the function inside is rewritten, and the wrappers run as they are around it.

A wrapper made by functools.wraps keeps what it wraps in a variable. It gets a copy whose variable holds the rewritten
function. A wrapper that looks at what it wraps in another way than by calling it, or passing it on, is left alone.
"""

import ast
import inspect
from itertools import pairwise
from types import CellType, FunctionType

from .code import Unreadable, contents, parse, with_code

_TAKE_FUNCTIONS = {"wraps", "partial", "checkpoint", "signature", "isinstance", "callable", "getattr", "hasattr"}


def layers(function: FunctionType) -> list[FunctionType]:
    """The function and what it wraps, down to the author's. Raises Unreadable if a wrapper cannot be copied."""
    found = [function]
    while "__wrapped__" in vars(found[-1]):
        wrapper, inner = found[-1], vars(found[-1])["__wrapped__"]
        if not isinstance(inner, FunctionType) or _only_passes_on(wrapper, inner) is None:
            raise Unreadable("it is wrapped by a decorator that may do more than call it")
        found.append(inner)
    return found


def are_as_they_were(found: list[FunctionType]) -> bool:
    """Whether each wrapper still holds what it wrapped."""
    held = (map(contents, wrapper.__closure__ or ()) for wrapper in found)
    return all(any(c is inner for c in cells) for cells, inner in zip(held, found[1:], strict=False))


def rewrapped(found: list[FunctionType], inner: FunctionType) -> FunctionType:
    """The wrappers, around another function."""
    made = inner
    for wrapper, old in reversed([*pairwise(found)]):
        cells = dict(zip(wrapper.__code__.co_freevars, wrapper.__closure__ or (), strict=True))
        itself = CellType()
        for name, cell in cells.items():
            if contents(cell) is old:
                cells[name] = CellType(made)
            elif contents(cell) is wrapper:
                cells[name] = itself
        copy = with_code(wrapper, wrapper.__code__, cells)
        copy.__dict__ = vars(wrapper)  # the same: `wrapper.calls += 1` counts on the author's
        copy.__doc__, copy.__module__, copy.__qualname__ = wrapper.__doc__, wrapper.__module__, wrapper.__qualname__
        itself.cell_contents = copy
        made = copy
    return made


def _only_passes_on(wrapper: FunctionType, inner: FunctionType) -> str | None:
    """The variable of a wrapper that holds what it wraps, if it only calls it, passes it on or reads its attributes."""
    free = zip(wrapper.__code__.co_freevars, wrapper.__closure__ or (), strict=True)
    names = [name for name, cell in free if contents(cell) is inner]
    if len(names) != 1 or inspect.isgeneratorfunction(wrapper):
        return None
    try:
        definition = parse(wrapper, wrapper.__code__)[1]
    except Unreadable:
        return None
    for node in ast.walk(definition):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Name) and child.id == names[0] and not _is_harmless(node, child):
                return None
    return names[0]


def _is_harmless(parent: ast.AST, name: ast.Name) -> bool:
    """Whether a function is called, passed to what calls or inspects it, or asked for an attribute: not stored."""
    match parent:
        case ast.Call(func=func):
            return func is name or ast.unparse(func).split(".")[-1] in _TAKE_FUNCTIONS
        case ast.Attribute(ctx=ast.Load()):
            return True
    return False
