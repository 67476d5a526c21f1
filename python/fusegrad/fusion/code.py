"""Between the source of a method and its code, both ways.

What is compiled anew must be the source that runs: it must give an equal code object, or the method is left alone. The
new code keeps the file and the lines of the old, so that a traceback shows the author's own source.
"""

import __future__

import ast
import copy
import functools
import linecache
import warnings
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType
from typing import Any

_FUTURE = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names})
_PLACE = ("co_name", "co_qualname", "co_firstlineno")


class Unreadable(Exception):
    """Why a method is left alone."""


def parse(function: FunctionType, code: CodeType) -> tuple[ast.Module, ast.FunctionDef]:
    """The imports of the file and the statement that holds the method, and in that the method."""
    lines = linecache.getlines(code.co_filename, function.__globals__)
    body, imports = _tree("".join(lines))
    tops = [s for s in body if _line(s) <= code.co_firstlineno <= (s.end_lineno or 0)]
    if not tops:
        raise Unreadable("its source cannot be found")
    if code not in _compiled(ast.Module([*imports, tops[0]], []), code):
        raise Unreadable("its source is not what runs")
    top = copy.deepcopy(tops[0])
    at = [n for n in ast.walk(top) if isinstance(n, ast.FunctionDef) and _line(n) == code.co_firstlineno]
    if len(at) != 1 or at[0].name != code.co_name:
        raise Unreadable("its source has more than one of its name")
    return ast.Module([*imports, top], []), at[0]


def remake(function: FunctionType, module: ast.Module) -> FunctionType:
    """The function with the code that it has in a module, `parse` of it with changes."""
    code = function.__code__
    compiled = _compiled(ast.fix_missing_locations(module), code)
    if len(compiled) != 1 or set(compiled[0].co_freevars) != set(code.co_freevars):
        raise Unreadable("its source has more than one of its name")
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in compiled[0].co_freevars)
    made = FunctionType(compiled[0], function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def self_name(method: ast.FunctionDef) -> str:
    """What the method calls its module, throughout."""
    arguments = [*method.args.posonlyargs, *method.args.args]
    if not arguments:
        raise Unreadable("it has no argument")
    name = arguments[0].arg
    for n in ast.walk(method):
        if isinstance(n, ast.arg) and n.arg == name and n is not arguments[0]:
            raise Unreadable(f"it uses the name {name} twice")
        if isinstance(n, ast.Name) and n.id == name and not isinstance(n.ctx, ast.Load):
            raise Unreadable(f"it assigns to {name}")
    return name


@functools.lru_cache(maxsize=16)
def _tree(source: str) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """The statements of a file, and its imports: Python compiles an attribute of what is imported in its own way."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return [], []
    outside = (s for s in body if not isinstance(s, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)))
    return body, [n for s in outside for n in ast.walk(s) if isinstance(n, (ast.Import, ast.ImportFrom))]


def _line(node: ast.stmt) -> int:
    """The first line, as a code object counts: that of the first decorator."""
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])


def _compiled(module: ast.Module, like: CodeType) -> list[CodeType]:
    """The code objects in a module that have the name and the place of the given one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the author's own source
        code = compile(module, like.co_filename, "exec", flags=like.co_flags & _FUTURE, dont_inherit=True)
    return [c for c in nested(code) if all(getattr(c, k, None) == getattr(like, k, None) for k in _PLACE)]


def nested(code: CodeType) -> Iterator[CodeType]:
    """The code objects within a code object."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from nested(constant)


def contents(cell: CellType) -> Any:
    """What a variable of an enclosing function holds; None if nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
