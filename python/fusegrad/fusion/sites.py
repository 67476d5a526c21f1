"""Finds, in the source of a function, each place that applies an activation to a layer.

    torch.tanh(self.fc(x))               one expression
    x = self.fc(x)                       two statements, one directly after the other: the activation is what the second
    x = self.drop(F.relu(x))             computes first, and all that ever reads what the first stores
    if self.act is not None:             or in a branch that is decided by what is only looked up
        x = self.act(x)
    self.act(self.gate(x)) * self.up(x)  a gate, in one expression or in statements, of two layers or of one in halves

The layer is not called there, but noted: `_fusegrad.later(self.fc, x)`. What reads it next is rewritten too:
`_fusegrad.apply(F.relu, x)` computes both as one op if they are a layer and its activation when the line is reached,
and else makes the two calls (runtime.py). So nothing has to be proved of them. That nothing else is computed between
the two is proved here. Every other part of the function stays as it was: branches, loops, random numbers, side effects
and the meaning of names are the author's, on each call.
"""

import ast
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch

from .code import Definition, reads_of
from .emit import keep, put_off, run_act, run_alone, run_gate, run_passed, run_product, run_rows, run_sum, run_variable
from .gates import Swaps, gate_in
from .kinds import Act, Gate, Layer, Product, Term, Variable, Variables, layers
from .loops import loop_in
from .paths import Path
from .reasons import blocks, text_of, why_cut_is_alone, why_stored_is_alone
from .rows import Row, row_of
from .sums import name_of, products_of
from .terms import Terms

_SEE_LOCALS = {"locals", "vars", "dir", "eval", "exec", "breakpoint"}


Passed = tuple[tuple[Path, ...], ...]


@dataclass(frozen=True, eq=False)
class Site:
    """Where an activation may be applied to a layer: that depends on what the module holds."""

    reads: tuple[Act | Gate, ...]  # what may read the layer next: one in each branch
    passed: Passed  # what is looked up between the calls, which must be plain attributes
    swaps: Swaps
    after_loop: tuple[Path, ...] | None = None  # of a loop over layers: where the one is held that comes after it
    identities: tuple[Act, ...] = ()  # what is called before one of these and passes the layer on if it is an identity
    longer: "Site | None" = None  # the same, through identities
    alone: tuple[Path, ...] = ()  # where a layer may be held that is called, whatever reads it
    product: bool = False  # the same of a call of torch's function
    rows: "tuple[Layer, Row] | None" = None  # a layer that is multiplied by what may be a number a row
    sums: bool = False  # a sum of two products of what may be tensors


class Reader:
    """The sites of one function."""

    def __init__(self, function: FunctionType, definition: Definition, self_: str) -> None:
        self.code, self.definition = function.__code__, definition
        self.terms = Terms(function, definition, self_)
        everything = list(ast.walk(definition))
        self.loads = Counter(n.id for n in everything if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
        self.loads.update(
            n.target.id for n in everything if isinstance(n, ast.AugAssign) if isinstance(n.target, ast.Name)
        )
        self.identities: list[Act] | None = None  # that the site at hand goes through, if it may
        self.deleted = {n.id for n in everything if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Del)}
        self.everything = everything

    @functools.cached_property
    def sites(self) -> list[Site]:
        loops = [*self._loops()]
        in_loops = {read.node for site in loops for read in site.reads}
        nested = [site for site in self._nested() if in_loops.isdisjoint(site.swaps)]
        of_layers = [*self._gates(), *loops, *nested, *self._in_statements(), *self._calls(), *self._rows()]
        taken = {node for site in of_layers for each in (site, site.longer) if each for node in each.swaps}
        return [*of_layers, *self._sums(taken)]

    def alone(self) -> Iterator[tuple[tuple[Path, ...], str]]:
        parents = {child: parent for parent in self.everything for child in ast.iter_child_nodes(parent)}
        in_sites = {layer.node for site in self.sites for read in site.reads for layer in layers(read)}
        for call in self.everything:
            if isinstance(call, ast.Call) and call not in in_sites and (paths := self.terms.names.of(call.func)):
                yield paths, self._why(call, parents[call])

    def _why(self, call: ast.Call, parent: ast.AST) -> str:
        if len(call.args) != 1 or call.keywords:
            return "called with more than its input"
        match parent:
            case ast.Return():
                return "returned as it is"
            case ast.Assign():
                return why_stored_is_alone(self.definition, parent, self.may_hold)
            case ast.Call(func=func) if call in parent.args:
                if any(self.terms.value(func) is f for f in (torch.chunk, torch.split)):
                    return why_cut_is_alone(text_of(parent))
                return f"read by {self.terms.text(func)}"
            case ast.Attribute(attr="chunk" | "split" as name):
                return why_cut_is_alone(f"its .{name}")
        return f"read by {text_of(parent)}, which is no activation of it"

    def applied_to(self, name: str, body: list[ast.stmt]) -> Site | None:
        """The activations, or the gate, that a function applies first to an argument."""
        if not self.may_hold(name):
            return None
        self.terms.passed = []
        if found := gate_in(body, self.terms, self.may_hold, self.reads_after, name):
            return self._site(*found)
        self.terms.passed = []
        return self.follow(body, 0, name, None)

    # --- in a loop

    def _loops(self) -> Iterator[Site]:
        for body in blocks(self.definition):
            for i in range(len(body)):
                self.terms.passed = []
                if found := loop_in(body, i, self.terms, self.may_hold, self._is_last_read):
                    acts, swaps, after = found
                    yield replace(self._site(acts, swaps), after_loop=after)

    # --- in one expression

    def _gates(self) -> Iterator[Site]:
        for e in self.everything:
            self.terms.passed = []
            if isinstance(e, ast.BinOp) and (gate := self.terms.gate(e, {})):
                yield self._site([gate], {e: functools.partial(run_gate, gate, [])})
        for body in blocks(self.definition):
            for i in range(len(body)):
                self.terms.passed = []
                if found := gate_in(body[i:], self.terms, self.may_hold, self.reads_after):
                    yield self._site(*found)

    def _nested(self) -> Iterator[Site]:
        for e in self.everything:
            self.terms.passed = []
            if isinstance(e, ast.Call) and (act := self.terms.act(e, {})):
                yield self._site([act], {e: functools.partial(run_act, act)})

    def _calls(self) -> Iterator[Site]:
        for e in self.everything:
            match e:
                case ast.Call(func=f, args=[x], keywords=[]) if not isinstance(x, ast.Starred):
                    if paths := self.terms.names.of(f):
                        yield Site((), (), {e: functools.partial(run_alone, e)}, alone=paths)
            if isinstance(e, (ast.BinOp, ast.Call)):
                match self.terms.layer(e, {}):
                    case (Product() | Layer(paths=())) as term if term.node is e:
                        yield Site((), (), {e: functools.partial(run_product, term)}, product=True)

    def _rows(self) -> Iterator[Site]:
        for e in self.everything:
            self.terms.passed = []
            if isinstance(e, ast.BinOp) and isinstance(e.op, ast.Mult):
                for factor, side in ((e.right, e.left), (e.left, e.right)):
                    layer, row = self.terms.layer(side, {}), row_of(factor)
                    if row and isinstance(layer, Layer) and layer.paths and layer.node is side:
                        if factor is e.left or self.terms.calm(row.of):
                            swaps: Swaps = {e: functools.partial(run_rows, e, layer, row)}
                            yield replace(self._site((), swaps), rows=(layer, row))

    def _sums(self, taken: set[ast.AST]) -> Iterator[Site]:
        for e in self.everything:
            if isinstance(e, ast.expr) and (factors := products_of(e)) and taken.isdisjoint(ast.walk(e)):
                names = [name_of(f) for f in factors]
                if all(name is not None and self.may_hold(name[0]) for name in names):
                    yield Site((), (), {e: functools.partial(run_sum, e, factors)}, sums=True)

    # --- in statements

    def _in_statements(self) -> Iterator[Site]:
        for body in blocks(self.definition):
            for i, statement in enumerate(body):
                self.terms.passed = []
                match statement:
                    case ast.Assign(targets=[ast.Name(id=name)], value=value) if self.may_hold(name):
                        if (layer := self.terms.layer(value, {})) and (site := self._from(body, i, name, layer)):
                            yield replace(site, longer=self._through_identities(body, i, name, layer))

    def _from(self, body: list[ast.stmt], i: int, name: str, layer: Term) -> Site | None:
        """The site that begins where a variable is given a layer."""
        site = self.follow(body, i + 1, name, layer)
        return site and self._site(site.reads, {layer.node: functools.partial(put_off, layer)} | site.swaps)

    def _through_identities(self, body: list[ast.stmt], i: int, name: str, layer: Term) -> Site | None:
        before, self.terms.passed = self.terms.passed, []
        self.identities = []
        site = self._from(body, i, name, layer)
        identities, self.identities, self.terms.passed = tuple(self.identities), None, before
        return replace(site, identities=identities) if site and identities else None

    def may_hold(self, name: str) -> bool:
        """Whether a variable may hold a layer that was put off: nothing sees it but the statements of the function."""
        return (
            name in self.code.co_varnames
            and name not in self.code.co_cellvars
            and name not in self.deleted
            and _SEE_LOCALS.isdisjoint(self.loads)
        )

    @functools.cached_property
    def looped(self) -> set[ast.AST]:
        """What may run again after it has run."""
        return {n for loop in self.everything if isinstance(loop, (ast.For, ast.While)) for n in ast.walk(loop)}

    def reads_after(self, name: str, statement: ast.stmt) -> int:
        """How often a variable is read in what may run after a statement."""
        if statement in self.looped:
            return self.loads[name]
        end = statement.end_lineno or 0, statement.end_col_offset or 0
        names = [n for n in self.everything if isinstance(n, ast.Name) and n.id == name]
        written = {n.target for n in self.everything if isinstance(n, ast.AugAssign)}
        after = (n for n in names if (n.lineno, n.col_offset) > end)
        return sum(isinstance(n.ctx, ast.Load) or n in written for n in after)

    def follow(self, body: list[ast.stmt], i: int, name: str, held: Term | None, goes_on: bool = False) -> Site | None:
        """The activations that the statements from the i-th on apply first to what a variable holds.

        goes_on: what comes after them applies activations to it too.
        """
        if i >= len(body):
            return None
        statement = body[i]
        match statement:
            case ast.Assign(value=expr) | ast.Return(value=ast.expr() as expr):
                if self._is_last_read(name, statement) and (begun := self._begins(expr, name, held)):
                    return self._passed_on(self._site(*begun), body, i, name, held, goes_on)
            case ast.Assert(test=test, msg=msg) if self.terms.calm(test, {name}) and (
                not msg or not reads_of(msg, name)
            ):
                return self.follow(body, i + 1, name, held)
            case ast.If(test=test, body=then, orelse=other) if self.terms.calm(test, {name}):
                before, self.terms.passed = self.terms.passed, []
                rest = self.follow(body, i + 1, name, held, goes_on)
                of_rest, self.terms.passed = self.terms.passed, before
                on = rest is not None if i + 1 < len(body) else goes_on
                sites = [self.follow(branch, 0, name, held, on) for branch in (then, other)]
                if all(branch and not site for branch, site in zip((then, other), sites, strict=True)):
                    rest = None
                else:
                    self.terms.passed = self.terms.passed + of_rest
                if any(sites) or rest:
                    found = [site for site in (*sites, rest) if site]
                    swaps = {k: v for site in found for k, v in site.swaps.items()}
                    swaps |= self._run_in(then, sites[0], name) | self._run_in(other, sites[1], name)
                    if rest is None and not other:
                        swaps[statement] = lambda: _with_else(statement, keep(name, statement))
                    return self._site([read for site in found for read in site.reads], swaps)
        return None

    def _passed_on(self, site: Site, body: list[ast.stmt], i: int, name: str, held: Term | None, goes_on: bool) -> Site:
        """The same where a variable is given what a call makes of it: of an identity, what comes next may take it."""
        match body[i], site.reads:
            case ast.Assign(targets=[ast.Name(id=target)], value=e), [Act(node=node, of=Variable()) as act] if (
                self.identities is not None
                and target == name
                and node is e
                and not (act.method or act.args or act.kwargs)
            ):
                before = self.terms.passed
                after = self.follow(body, i + 1, name, held, goes_on)
                if after is not None or (goes_on and i + 1 == len(body)):
                    self.identities.append(act)
                    reads = [_through(read, act) for read in after.reads if isinstance(read, Act)] if after else []
                    swaps = after.swaps if after else {}
                    return self._site((act, *reads), swaps | {e: functools.partial(run_passed, act)})
                self.terms.passed = before
        return site

    def _run_in(self, branch: list[ast.stmt], site: Site | None, name: str) -> Swaps:
        """What runs a variable's layer before a branch that does not apply an activation to it first."""
        if site is not None or not branch:
            return {}
        first = branch[0]
        return {first: lambda: [keep(name, first), first]}

    def _is_last_read(self, name: str, statement: ast.stmt) -> bool:
        """Whether nothing reads after a statement what a variable holds before it."""
        match statement:
            case ast.Return():
                return True
            case ast.Assign(targets=[ast.Name(id=target)]) if target == name:
                return True
        return reads_of(statement, name) == self.loads[name]

    def _begins(self, e: ast.expr, name: str, held: Term | None) -> tuple[list[Act], Swaps] | None:
        """The activation of a variable, if that is the first that an expression does, but for looking up names."""
        variables: Variables = {name: held}
        whole = e
        while True:
            match e:
                case ast.Call() if act := self.terms.act(e, variables):
                    reads, swaps = [act], {e: functools.partial(run_act, act)}  # type: tuple[list[Act], Swaps]
                    return (reads, swaps) if reads_of(whole, name) == 1 else None
                case ast.Call(func=func, args=[first, *_]) if self.terms.is_plain(func):
                    e = first
                case ast.IfExp(test=test, body=then, orelse=other) if self.terms.calm(test, variables):
                    branches = [self._begins(branch, name, held) for branch in (then, other)]
                    found = [branch for branch in branches if branch]
                    swaps = {k: v for branch in found for k, v in branch[1].items()}
                    for branch, side in zip(branches, (then, other), strict=True):
                        if branch is None and not self._run_name(side, name, swaps):
                            return None
                    read_in = reads_of(then, name) + reads_of(other, name)
                    acts = [act for branch in found for act in branch[0]]
                    return (acts, swaps) if acts and reads_of(whole, name) == read_in else None
                case ast.Call(func=ast.Attribute(value=first)) | ast.Attribute(value=first):
                    e = first
                case ast.Tuple(elts=[first, *_]) | ast.List(elts=[first, *_]):
                    e = first
                case ast.Dict(keys=[ast.Constant(), *_], values=[first, *_]):
                    e = first
                case ast.BinOp(left=first) | ast.Subscript(value=first) | ast.UnaryOp(operand=first):
                    if isinstance(e, ast.BinOp) and self.terms.calm(first, variables):
                        first = e.right
                    e = first
                case _:
                    return None

    def _run_name(self, e: ast.expr, name: str, swaps: Swaps) -> bool:
        """Lets an expression that is but a variable run its layer; False if it reads it in another way."""
        if isinstance(e, ast.Name) and e.id == name:
            swaps[e] = functools.partial(run_variable, name, e)
            return True
        return False

    def _site(self, reads: Any, swaps: Swaps) -> Site:
        return Site(tuple(reads), tuple(self.terms.passed), swaps)


def _through(read: Act, identity: Act) -> Act:
    return replace(read, through=identity if read.through is None else _through(read.through, identity))


def _with_else(statement: ast.If, run: ast.stmt) -> ast.stmt:
    statement.orelse = [run]
    return statement
