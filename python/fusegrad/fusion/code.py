"""Between the source of a function and its code, both ways.

What is compiled anew must be the source that runs: it must give an equal code object, or the function is left alone.
The new code keeps the file and the lines of the old, so that a traceback shows the author's own source.
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

HELPERS = "_fusegrad"  # what new code calls the file of the functions that it calls, runtime.py

_FUTURE = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names})
_AROUND = "_"  # a function around the new code, whose variable HELPERS is

Definition = ast.FunctionDef | ast.Lambda


class Unreadable(Exception):
    """Why a function is left alone."""


def parse(function: FunctionType, code: CodeType) -> tuple[ast.Module, Definition]:
    """The imports of the file and the statement that holds the function, and in that the function, to be changed."""
    source = "".join(linecache.getlines(code.co_filename, function.__globals__))
    body, imports = _tree(source)
    top = next((s for s in body if _line(s) <= code.co_firstlineno <= (s.end_lineno or 0)), None)
    if top is None:
        raise Unreadable("its source cannot be found")
    if code not in _codes(top, imports, code.co_filename, code.co_flags & _FUTURE):
        raise Unreadable("its source is not what runs")
    at = _definitions(top).get(code.co_firstlineno, [])
    if len(at) != 1 or getattr(at[0][-1], "name", "<lambda>") != code.co_name:
        raise Unreadable("its source has more than one of its name")
    copied, definition = _copied(at[0])
    return ast.Module([*imports, copied], []), definition


def _copied(path: tuple[ast.AST, ...]) -> tuple[ast.stmt, Definition]:
    """A copy of the last node of a path, and of the nodes around it; of a class, only what leads to it."""
    definition = made = _whole_copy(path[-1])
    for node, inner in zip(reversed(path[:-1]), reversed(path[1:]), strict=True):
        around = copy.copy(node)
        for name, value in ast.iter_fields(node):
            if value is inner:
                setattr(around, name, made)
            elif isinstance(value, list) and any(v is inner for v in value):
                kept = value if not isinstance(node, ast.ClassDef) else [inner]
                setattr(around, name, [made if v is inner else v for v in kept])
        made = around
    assert isinstance(made, ast.stmt) and isinstance(definition, Definition)
    return made, definition


def _whole_copy(node: ast.AST) -> Any:
    """As copy.deepcopy, in a tenth of the time: a tree holds nodes, lists and what never changes."""
    made = type(node).__new__(type(node))
    for name, value in vars(node).items():
        if isinstance(value, list):
            value = [_whole_copy(v) if isinstance(v, ast.AST) else v for v in value]
        elif isinstance(value, ast.AST):
            value = _whole_copy(value)
        setattr(made, name, value)
    return made


def remake(function: FunctionType, module: ast.Module, helpers: Any) -> FunctionType:
    """The function with the code that it has in a module, `parse` of it with changes that call HELPERS."""
    code = function.__code__
    *imports, top = module.body
    around = ast.parse(f"def {_AROUND}({HELPERS}): pass").body[0]
    assert isinstance(around, ast.FunctionDef)
    around.body = [*([ast.Global(bound)] if (bound := sorted(_bound(top))) else []), top]
    new = ast.fix_missing_locations(ast.Module([*imports, around], []))
    try:
        whole = _compile(new, code.co_filename, code.co_flags & _FUTURE)
    except SyntaxError as e:
        raise Unreadable("its source cannot be compiled within a function") from e
    compiled = [c for c in nested(whole) if _place(c, f"{_AROUND}.<locals>.") == _place(code, "")]
    if len(compiled) != 1 or {*compiled[0].co_freevars} - {HELPERS} != {*code.co_freevars}:
        raise Unreadable("its source has more than one of its name")
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True)) | {HELPERS: CellType(helpers)}
    return with_code(function, compiled[0], cells)


def with_code(function: FunctionType, code: CodeType, cells: dict[str, CellType]) -> FunctionType:
    """The function with another code, and these variables of enclosing functions."""
    closure = tuple(cells[name] for name in code.co_freevars)
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def self_name(definition: Definition) -> str:
    """What a function calls its first argument, throughout: the module, where it is a method."""
    arguments = [*definition.args.posonlyargs, *definition.args.args]
    if not arguments:
        raise Unreadable("it has no argument")
    name = arguments[0].arg
    for n in ast.walk(definition):
        if isinstance(n, ast.arg) and n.arg == name and n is not arguments[0]:
            raise Unreadable(f"it uses the name {name} twice")
        if isinstance(n, ast.Name) and n.id == name and not isinstance(n.ctx, ast.Load):
            raise Unreadable(f"it assigns to {name}")
    return name


@functools.lru_cache(maxsize=16)
def _tree(source: str) -> tuple[list[ast.stmt], tuple[ast.stmt, ...]]:
    """The statements of a file, and its imports: Python compiles an attribute of what is imported in its own way."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return [], ()
    outside = (s for s in body if not isinstance(s, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)))
    return body, tuple(n for s in outside for n in ast.walk(s) if isinstance(n, (ast.Import, ast.ImportFrom)))


@functools.lru_cache(maxsize=64)
def _codes(top: ast.stmt, imports: tuple[ast.stmt, ...], file: str, future: int) -> frozenset[CodeType]:
    """The code of the functions in a statement."""
    return frozenset(nested(_compile(ast.Module([*imports, top], []), file, future)))


@functools.lru_cache(maxsize=64)
def _definitions(top: ast.stmt) -> dict[int, list[tuple[ast.AST, ...]]]:
    """The functions in a statement by their first line, each with what it stands in."""
    found: dict[int, list[tuple[ast.AST, ...]]] = {}
    todo: list[tuple[ast.AST, ...]] = [(top,)]
    while todo:
        path = todo.pop()
        if isinstance(path[-1], Definition):
            found.setdefault(_line(path[-1]), []).append(path)
        todo += [(*path, child) for child in ast.iter_child_nodes(path[-1])]
    return found


def _line(node: ast.stmt | ast.expr) -> int:
    """The first line, as a code object counts: that of the first decorator."""
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])


def _bound(top: ast.stmt) -> set[str]:
    """The names that a statement of a file gives to the file."""
    bound: set[str] = set()
    todo: list[ast.AST] = [top]
    while todo:
        node = todo.pop()
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                bound.add(name)
                continue
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                continue
            case ast.Name(id=name, ctx=ast.Store()):
                bound.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                bound |= {(alias.asname or alias.name).split(".")[0] for alias in names}
        todo += ast.iter_child_nodes(node)
    return bound


def _compile(module: ast.Module, file: str, future: int) -> CodeType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the author's own source
        return compile(module, file, "exec", flags=future, dont_inherit=True)


def _place(code: CodeType, prefix: str) -> tuple[str, str, int]:
    qualified = getattr(code, "co_qualname", "")  # from Python 3.11 on
    return code.co_name, qualified.removeprefix(prefix), code.co_firstlineno


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


def stored_by(statement: ast.stmt) -> str | None:
    """The variable that a statement stores its value in, if it is one."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name
    return None


def reads_of(node: ast.AST, name: str) -> int:
    return sum(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) for n in ast.walk(node))


def names_in(function: Any) -> set[str]:
    """What a function, or what it wraps, mentions."""
    codes: list[CodeType] = []
    while isinstance(function, FunctionType):
        codes += [function.__code__, *nested(function.__code__)]
        function = vars(function).get("__wrapped__")
    return {name for code in codes for name in code.co_names}
