"""Finds, in the source of a function, the layers whose results it returns as they are.

    return F.linear(x, self.g * self.v, self.bias)

    z = x @ self.weight.T               a bias is added to it, if there is one
    if self.bias is None:
        return z
    return z + self.bias

    y = F.linear(x, self.weight, self.bias)
    y = self.activation(y)              an identity
    return y

They may be stored first.
"""

import ast
import functools

from .emit import put_off, run_passed
from .kinds import Act, Layer, Product, Scaled, Term, Variable, Variables, Viewed, layers, variables_of
from .paths import Path
from .reasons import blocks
from .sites import Reader, Swaps

_GIVEN = Layer, Product, Viewed


def returned(reader: Reader) -> tuple[Swaps, set[Path], set[Path]]:
    """Puts off the layers whose results are returned as they are.

    And where the module may hold them, or (), and what has to be an identity.
    """
    reader.terms.passed = []
    swaps: Swaps = {}
    paths: set[Path] = set()
    identities: set[Path] = set()
    for body in blocks(reader.definition):
        for i in range(len(body)):
            acts: list[Act] = []
            term, puts_off = _returned_from(reader, body[i:], acts)
            if term is not None and swaps.keys().isdisjoint(puts_off):
                swaps |= puts_off
                paths |= {path for layer in layers(term) for path in layer.paths or ((),)}
                identities |= {path for act in acts for path in act.paths}
    return swaps, paths, identities


def _returned_from(reader: Reader, statements: list[ast.stmt], acts: list[Act]) -> tuple[Term | None, Swaps]:
    """The same for what the first statements store, and the last of them returns; `acts` that have to be identities."""
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
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(args=[ast.Name(id=given)]) as e) if (
                name == given
                and name in variables
                and (act := reader.terms.act(e, variables, calm=True))
                and not any(layer.paths for layer in layers(act))  # else what is called may be the layer
            ):
                if act.method or act.kwargs or not act.paths or any(len(path) != 1 for path in act.paths):
                    return None, {}
                acts.append(act)
                swaps[e] = functools.partial(run_passed, act)
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
