"""What is run in the place of a term: calls that note what it computes (runtime.Later), or that compute it."""

import ast
import copy

from .code import HELPERS
from .kinds import Act, Gate, Halves, Layer, Product, Scaled, Term, Viewed, calls_of
from .rows import Row, row_of


def helper(name: str) -> ast.expr:
    return ast.Attribute(ast.Name(HELPERS, ast.Load()), name, ast.Load())


def put_off(term: Term) -> ast.expr:
    """The term, noted and not computed."""
    match term:
        case Layer(node=e):
            return call_of("later", e, [e.func, *e.args], e.keywords)
        case Product(node=ast.BinOp() as e):
            return call_of("later", e, [helper("matmul"), e.left, e.right])
        case Product(node=ast.Call() as e):
            return call_of("later", e, [e.func, *e.args])
        case Viewed(node=e, of=of):
            assert isinstance(e.func, ast.Attribute)
            return call_of("later_method", e, [ast.Constant(e.func.attr), put_off(of), *e.args])
        case Scaled(node=e, of=of):
            sides = [put_off(of) if side is of.node else side for side in (e.left, e.right)]
            return call_of("later", e, [helper("mul" if isinstance(e.op, ast.Mult) else "add"), *sides])
        case Act(node=e, of=of):
            return call_of("later_method" if term.method else "later", e, _arguments(term, of), e.keywords)
        case Halves(node=e, of=of):
            return call_of("halves", e, _arguments(term, of), e.keywords)
    return term.node


def run_act(act: Act) -> ast.expr:
    if called := _called(act):
        return call_of("activated", act.node, called)
    return call_of("apply_method" if act.method else "apply", act.node, _arguments(act, act.of), act.node.keywords)


def run_alone(e: ast.Call) -> ast.expr:
    return call_of("alone", e, [e.func, *e.args])


def run_product(term: Layer | Product) -> ast.expr:
    """A call of torch's function that multiplies."""
    made = put_off(term)
    assert isinstance(made, ast.Call)
    return call_of("product", term.node, made.args, made.keywords)


def run_passed(act: Act) -> ast.expr:
    """The same, or what is put off where the activation is an identity."""
    return call_of("passed", act.node, _arguments(act, act.of))


def run_gate(gate: Gate, held: list[str]) -> ast.expr:
    """The gate, of what these variables hold, in the order in which they were given it."""
    match _called(gate.left), gate.right:
        case [[f, layer, ast.Name() as x], Layer(node=ast.Call(func=up, args=[ast.Name() as y], keywords=[]))] if (
            not held
        ):
            return call_of("activated_times", gate.node, [f, layer, x, up, y])
    left = put_off(gate.left)
    for f in calls_of(gate.right):
        left = call_of("settled", gate.node, [left, copy.deepcopy(f)])
    product = call_of("later", gate.node, [helper("mul"), left, put_off(gate.right)])
    return call_of("now", gate.node, [product, *(ast.Name(name, ast.Load()) for name in held)])


def _called(act: Term) -> list[ast.expr] | None:
    """A function or a module, the layer whose result it is called with, and the input of that, if there is no more."""
    match act:
        case Act(node=ast.Call(func=f, args=[_], keywords=[]), of=Layer(node=ast.Call() as of), method=False):
            if len(of.args) == 1 and not of.keywords and not isinstance(of.args[0], ast.Starred):
                return [f, of.func, of.args[0]]
    return None


def run_rows(e: ast.BinOp, layer: Layer, row: Row) -> ast.expr:
    """A layer that is multiplied by what may be a number a row."""
    if e.left is row.node:
        return call_of("rows_times", e, [row.node, put_off(layer)])
    return call_of("times_rows", e, [put_off(layer), row.of, ast.Constant(row.how), *_keys(row)])


def run_sum(e: ast.expr, factors: tuple[ast.expr, ...]) -> ast.expr:
    """A sum of two products of variables, or of views of these."""
    made = []
    for factor in factors:
        row = row_of(factor)
        made.append(factor if row is None else call_of("view", factor, [row.of, ast.Constant(row.how), *_keys(row)]))
    return call_of("sum_of_two", e, made)


def _keys(row: Row) -> list[ast.expr]:
    return [helper("ALL") if isinstance(a, ast.Slice) else a for a in row.args]


def run_variable(name: str, at: ast.AST) -> ast.expr:
    return call_of("now", at, [ast.Name(name, ast.Load())])


def keep(name: str, at: ast.AST) -> ast.stmt:
    """A statement that runs the layer that a variable holds."""
    target = ast.copy_location(ast.Name(name, ast.Store()), at)
    return ast.copy_location(ast.Assign([target], run_variable(name, at)), at)


def settle(name: str, term: Term, at: ast.AST) -> list[ast.stmt]:
    """Statements that run what a variable holds, where the layers of a term may do more than compute."""
    made: list[ast.stmt] = []
    for f in calls_of(term):
        value = call_of("settled", at, [ast.Name(name, ast.Load()), copy.deepcopy(f)])
        made.append(ast.copy_location(ast.Assign([ast.copy_location(ast.Name(name, ast.Store()), at)], value), at))
    return made


def _arguments(term: Act | Halves, of: Term) -> list[ast.expr]:
    e = term.node
    if term.method:
        assert isinstance(e.func, ast.Attribute)
        return [ast.Constant(e.func.attr), put_off(of), *e.args]
    return [e.func, put_off(of), *e.args[1:]]


def call_of(name: str, at: ast.AST, args: list[ast.expr], keywords: list[ast.keyword] | None = None) -> ast.expr:
    return ast.copy_location(ast.Call(ast.copy_location(helper(name), at), args, keywords or []), at)
