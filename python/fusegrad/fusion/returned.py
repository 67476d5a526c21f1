"""Finds, in the source of a function, the layers whose results it returns as they are.

    return F.linear(x, self.g * self.v, self.bias)

    z = x @ self.weight.T               a bias is added to it, if there is one
    if self.bias is None:
        return z
    return z + self.bias

They may be stored first.
"""

import ast
import functools

from .emit import put_off
from .paths import Path
from .reasons import blocks
from .sites import Reader, Swaps
from .terms import Layer, Product, Scaled, Term, Variable, Variables, Viewed, layers, variables_of

_GIVEN = Layer, Product, Viewed


def returned(reader: Reader) -> tuple[Swaps, set[Path]]:
    """Puts off the layers whose results are returned as they are; and where the module may hold them, or ()."""
    reader.terms.passed = []
    swaps: Swaps = {}
    paths: set[Path] = set()
    for body in blocks(reader.definition):
        for i in range(len(body)):
            term, puts_off = _returned_from(reader, body[i:])
            if term is not None and swaps.keys().isdisjoint(puts_off):
                swaps |= puts_off
                paths |= {path for layer in layers(term) for path in layer.paths or ((),)}
    return swaps, paths


def _returned_from(reader: Reader, statements: list[ast.stmt]) -> tuple[Term | None, Swaps]:
    """The same for what the first statements store, and the last of them returns."""
    variables: Variables = {}
    swaps: Swaps = {}
    for statement in statements:
        match statement:
            case ast.Return(value=ast.expr() as e):
                term = reader.terms.layer(e, variables, calm=bool(variables))
                if not (isinstance(term, (*_GIVEN, Variable)) or (term and _is_biased(term))):
                    return None, {}
                if {v.node.id for v in variables_of(term)} != set(variables):
                    return None, {}
                return term, swaps | {e: functools.partial(put_off, term)}
            case ast.Assign(targets=[ast.Name(id=name)], value=e) if reader.may_hold(name):
                term = reader.terms.layer(e, variables, calm=bool(variables))
                read = {v.node.id for v in variables_of(term)} if term else set()
                if (
                    not (isinstance(term, _GIVEN) or (term and _is_biased(term)))
                    or not read <= {name}
                    or set(variables) - read
                ):
                    return None, {}
                variables, swaps[e] = {name: term}, functools.partial(put_off, term)
            case ast.If(test=test, body=[ast.Return(value=ast.Name(id=name))], orelse=[]) if name in variables:
                if not reader.terms.calm(test, variables):
                    return None, {}
            case _:
                break
    return None, {}


def _is_biased(term: Term) -> bool:
    """Whether something is added to a term, as a bias is."""
    return isinstance(term, Scaled) and isinstance(term.node.op, ast.Add) and isinstance(term.of, (*_GIVEN, Variable))
