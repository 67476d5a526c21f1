"""Rewrites functions, so that a layer and what reads it next run as one op (sites.py says where)."""

import ast
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from .code import Unreadable, parse, remake, self_name
from .paths import Path
from .returned import returned
from .sites import Passed, Reader, Site, Swaps


@dataclass(frozen=True)
class Method:
    """What the source of a method says of the calls of what its module holds."""

    sites: tuple[Site, ...]
    alone: tuple[tuple[tuple[Path, ...], str], ...]  # the other calls, and what reads their result


def read(function: FunctionType, code: CodeType) -> Method:
    """Reads a method, whose code is `code`. Raises Unreadable."""
    method = METHODS.get((function, code)) or METHODS.setdefault((function, code), _read(function, code))
    if isinstance(method, Unreadable):
        raise method
    return method


METHODS: dict[tuple[FunctionType, CodeType], Method | Unreadable] = {}  # that were read


def _read(function: FunctionType, code: CodeType) -> Method | Unreadable:
    try:
        definition = parse(function, code)[1]
        reader = Reader(function, definition, self_name(definition))
    except Unreadable as why:
        return why.with_traceback(None)
    return Method(tuple(reader.sites), tuple(reader.alone()))


def rewrite(function: FunctionType, chosen: frozenset[int], helpers: Any) -> FunctionType:
    """The method with the chosen of its sites, by their number, run as one call. Raises Unreadable."""
    module, definition = parse(function, function.__code__)
    sites = Reader(function, definition, self_name(definition)).sites
    swaps: Swaps = {}
    for k, site in enumerate(sites):
        for each, chosen_as in ((site.longer, longer(k)), (site, k)):
            if each and {chosen_as, longer(k)} & chosen and swaps.keys().isdisjoint(each.swaps):
                swaps |= each.swaps
    return remake(function, _swap(module, swaps), helpers)


def longer(k: int) -> int:
    """The number of a site through identities."""
    return -1 - k


def takes_later(function: FunctionType, argument: int, helpers: Any) -> tuple[FunctionType, Site] | None:
    """The function, for a layer that was put off in the place of an argument; None if it does not apply to it first."""
    module, definition = parse(function, function.__code__)
    if len(definition.args.args) <= argument or definition.args.posonlyargs:
        return None
    name = definition.args.args[argument].arg
    reader = Reader(function, definition, self_name(definition) if argument else "")
    body = definition.body if isinstance(definition, ast.FunctionDef) else [ast.Return(definition.body)]
    start = 1 if _is_docstring(body[0]) else 0
    site = reader.applied_to(name, body[start:])
    return None if site is None else (remake(function, _swap(module, site.swaps), helpers), site)


def gives_later(function: FunctionType, helpers: Any) -> tuple[FunctionType, set[Path], set[Path], Passed] | None:
    """The function, with the layer put off whose result it returns.

    And where that is held, and what has to be an identity, and what is looked up after it. None if it returns none.
    """
    module, definition = parse(function, function.__code__)
    if isinstance(definition, ast.Lambda):
        return None
    reader = Reader(function, definition, self_name(definition))
    swaps, paths, identities = returned(reader)
    if not swaps:
        return None
    return remake(function, _swap(module, swaps), helpers), paths, identities, tuple(reader.terms.passed)


def _swap(module: ast.Module, swaps: Swaps) -> ast.Module:
    class Swap(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            if node not in swaps:
                return self.generic_visit(node)
            made = swaps[node]()
            for n in made if isinstance(made, list) else [made]:
                self.generic_visit(n)
            return made

    return Swap().visit(module)


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
