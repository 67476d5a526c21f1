"""Gates that are written in several statements: a run of them stores terms, and the last multiplies them first."""

import ast
import functools
from collections.abc import Callable
from typing import Any

from .code import reads_of, stored_by
from .emit import keep, put_off, run_gate, settle
from .kinds import Gate, Halves, Variables, variables_of
from .terms import Terms

_MOST = 5  # statements

Swaps = dict[ast.AST, Callable[[], Any]]  # what stands in the place of a node, or of a statement


def gate_in(
    statements: list[ast.stmt],
    terms: Terms,
    may_hold: Callable[[str], bool],  # whether a variable may hold a term
    reads_after: Callable[[str, ast.stmt], int],  # how often a variable is read when a statement has run
    given: str = "",  # the argument that holds a layer, where a function is looked at from its beginning
) -> tuple[list[Gate], Swaps] | None:
    """The gate that begins with the first of these statements: one, or one in each branch of an expression."""
    variables: Variables = {given: None} if given else {}
    swaps: Swaps = {}
    order: list[str] = []  # in which they were stored
    stored_at: dict[str, int] = {}
    gone: set[str] = set()  # variables whose term was stored in another one too
    statements, n = [*statements], -1

    def is_read_elsewhere(name: str) -> bool:
        k = stored_at.get(name, 0)
        return reads_after(name, statements[k]) != sum(_reads_on_the_way(s, name) for s in statements[k + 1 : n + 1])

    while (n := n + 1) < min(len(statements), _MOST):
        statement = statements[n]
        if given and n and not all(isinstance(term, Halves) for term in variables.values()):
            return None  # the product of a layer and its activation is no gate
        if any(reads_of(statement, name) for name in gone):
            return None
        if order and (gates := _multiplied(statement, variables, terms)):
            kept = {*variables, *gone} - {stored_by(statement)}
            if not isinstance(statement, ast.Return) and any(map(is_read_elsewhere, kept)):
                return None
            return gates, swaps | {g.node: functools.partial(run_gate, g, list(order)) for g in gates}
        match statement:
            case ast.If(test=test, body=[begin, *_], orelse=other) if (
                order and _leaves(statement) and not _has_halves(variables) and terms.calm(test, variables)
            ):
                swaps[begin] = functools.partial(_after, [keep(name, begin) for name in order], begin)
                statements[n + 1 : n + 1] = other
                continue
            case ast.Assert(test=test, msg=msg) if n and terms.calm(test, variables) and not _reads(msg, variables):
                continue
            case ast.Assign(targets=[ast.Name() as target], value=value):
                term, stored = terms.factor(value, variables, calm=bool(variables)), [target]
            case ast.Assign(targets=[ast.Tuple(elts=[ast.Name() as a, ast.Name() as b])], value=value):
                term, stored = terms.halves(value, variables), [a, b]
            case _:
                return None
        if term is None:
            return None
        if pending := [made for name in variables for made in settle(name, term, statement)]:
            swaps[statement] = functools.partial(_after, pending, statement)
        for name in [v.node.id for v in variables_of(term)]:
            variables.pop(name, None)
            gone.add(name)
            order = [o for o in order if o != name]
        for target in stored:
            if not may_hold(target.id) or target.id in variables:
                return None
            gone.discard(target.id)
            variables[target.id], stored_at[target.id] = term, n
            order.append(target.id)
        swaps[value] = functools.partial(put_off, term)
    return None


def _leaves(branch: ast.If) -> bool:
    """Whether nothing runs after the body of a branch."""
    return isinstance(branch.body[-1], (ast.Return, ast.Raise))


def _has_halves(variables: Variables) -> bool:
    """Whether two variables are of one layer, which is to run once."""
    return any(isinstance(term, Halves) for term in variables.values())


def _reads_on_the_way(statement: ast.stmt, name: str) -> int:
    """How often a statement reads a variable; the other side of a branch is statements of its own."""
    if isinstance(statement, ast.If):
        return sum(reads_of(part, name) for part in (statement.test, *statement.body))
    return reads_of(statement, name)


def _reads(e: ast.expr | None, variables: Variables) -> bool:
    return e is not None and any(reads_of(e, name) for name in variables)


def _after(before: list[ast.stmt], statement: ast.stmt) -> list[ast.stmt]:
    return [*before, statement]


def _multiplied(statement: ast.stmt, variables: Variables, terms: Terms) -> list[Gate]:
    """The gates that a statement computes first, if it reads the variables in them alone."""
    match statement:
        case ast.Assign(value=e) | ast.Return(value=ast.expr() as e):
            pass
        case _:
            return []
    found = _first(e, variables, terms)
    for gate in found:
        if {v.node.id for v in variables_of(gate)} != set(variables):
            return []
    in_gates = sum(reads_of(gate.node, name) for gate in found for name in variables)
    return found if in_gates == sum(reads_of(statement, name) for name in variables) else []


def _first(e: ast.expr, variables: Variables, terms: Terms) -> list[Gate]:
    """The gate that an expression begins with, or that of each of its branches."""
    while True:
        if gate := terms.gate(e, variables):
            return [gate]
        match e:
            case ast.IfExp(test=test, body=then, orelse=other) if terms.calm(test, variables):
                gates = [gate for branch in (then, other) if (gate := terms.gate(branch, variables))]
                return gates if len(gates) == 2 else []
            case ast.Call(func=func, args=[first, *_]) if terms.is_plain(func):
                e = first
            case ast.Call(func=ast.Attribute(value=first)) | ast.BinOp(left=first):
                e = first
            case _:
                return []
