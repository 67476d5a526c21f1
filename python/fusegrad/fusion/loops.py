"""Loops over layers: in each turn one is applied to what the turn before it has made, and an activation to that.

    for layer in self.layers[:-1]:           x = _fusegrad.turns(x, self.layers)
        x = self.act(layer(x))               for layer in self.layers[:-1]:
    return self.layers[-1](x)                    x = _fusegrad.turn(self.act, layer, x)
                                             return _fusegrad.last_turn(self.layers[-1], x)

What is noted here are turns, whose layers may be one op. Nothing else is computed in the loop, and nobody else reads x.
"""

import ast
import builtins
import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

from .code import reads_of, stored_by
from .emit import call_of
from .gates import Swaps
from .kinds import Act, Layer
from .paths import Path
from .terms import Terms


def loop_in(
    body: Sequence[ast.stmt],
    at: int,
    terms: Terms,
    may_hold: Callable[[str], bool],  # whether a variable may hold turns
    is_last_read: Callable[[str, ast.stmt], bool],  # whether nothing reads what it holds after a statement
) -> tuple[list[Act], Swaps, tuple[Path, ...]] | None:
    """The activations of the layers that a statement goes through, if it is such a loop; where the one after it is."""
    loop = body[at]
    match loop:
        case ast.For(iter=over, body=[ast.Assign(targets=[ast.Name(id=x)], value=e)], orelse=[]) if may_hold(x):
            layers = _gone_through(over, terms)
        case _:
            return None
    code = terms.function.__code__
    given = x in code.co_varnames[: code.co_argcount] or any(stored_by(s) == x for s in body[:at])
    if layers is None or not given or reads_of(over, x) or any(_is(n, x) for n in ast.walk(loop.target)):
        return None
    acts = _turns(e, x, terms)
    if not acts or reads_of(e, x) != len(acts):
        return None
    swaps: Swaps = {act.node: functools.partial(_turn, act) for act in acts}
    end, after = body[at + 1] if at + 1 < len(body) else None, [_keep(x, "turned", [], loop)]
    one_more: tuple[Path, ...] = ()
    match end:
        case ast.Return(value=ast.Call() as last) | ast.Assign(targets=[ast.Name()], value=ast.Call() as last):
            if _is_called_with(last, x) and _is_layer(last.func, terms) and is_last_read(x, end):
                swaps[last] = lambda: call_of("last_turn", last, [last.func, *last.args])
                after, one_more = [], terms.names.of(last.func)
    begin = _keep(x, "turns", [copy.deepcopy(layers)], loop)
    return acts, swaps | {loop: lambda: [begin, loop, *after]}, one_more


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_called_with(e: ast.Call, x: str) -> bool:
    return len(e.args) == 1 and _is(e.args[0], x) and not e.keywords


def _is_layer(func: ast.expr, terms: Terms) -> bool:
    return bool(terms.names.of(func)) and terms.calm(func)


def _gone_through(over: ast.expr, terms: Terms) -> ast.expr | None:
    """What a loop goes through, if that is stored in the module: all of it or a part, counted or not."""
    match over:
        case ast.Call(func=func, args=[inner], keywords=[]) if terms.value(func) is builtins.enumerate:
            return _gone_through(inner, terms)
        case ast.Call(func=func, keywords=[]) if terms.value(func) is builtins.range and all(
            map(terms.calm, over.args)
        ):
            return over
        case ast.Subscript(value=inner, slice=ast.Slice() as part):
            bounds = [b for b in (part.lower, part.upper, part.step) if b is not None]
            return inner if all(map(terms.calm, bounds)) and _is_layer(inner, terms) else None
    return over if _is_layer(over, terms) else None


def _turns(e: ast.expr, x: str, terms: Terms) -> list[Act]:
    """The activations of a layer of x that an expression is, one in each branch."""
    match e:
        case ast.IfExp(test=test, body=then, orelse=other) if terms.calm(test, {x}):
            first, second = (_turns(branch, x, terms) for branch in (then, other))
            return [*first, *second] if first and second else []
        case ast.Call(func=func, args=[ast.Call() as inner], keywords=[]) if terms.calm(func, {x}):
            act = terms.act(e, {})
            if act and isinstance(act.of, Layer) and _is_called_with(inner, x) and _is_layer(inner.func, terms):
                return [act]
    return []


def _turn(act: Act) -> ast.expr:
    layer: Any = act.of.node
    return call_of("turn", act.node, [act.node.func, layer.func, *layer.args])


def _keep(name: str, helper: str, more: list[ast.expr], at: ast.stmt) -> ast.stmt:
    value = call_of(helper, at, [ast.Name(name, ast.Load()), *more])
    return ast.copy_location(ast.Assign([ast.copy_location(ast.Name(name, ast.Store()), at)], value), at)
