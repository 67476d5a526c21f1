"""From a definition to what its kernels compute: D_1 to D_5, each simplified to a short program.

A program is lines and a result, of nodes that the printers know:

    ("scalar", Fraction, powers of constants)  ("param",)  ("name", name)  ("field", line, name)
    ("add", ...)  ("mul", ...)  ("div", a, b)  ("neg", a)  ("call", function, ...)  ("where", holds, a, b)
    ("lt" | "le" | "gt" | "ge" | "eq" | "ne", a, b)  ("and" | "or", ...)
"""

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr, Integer, Rational, Symbol
from sympy.core.relational import Relational

from . import expression as e
from .definition import Definition
from .simplify import Node, factored

Z, G, P = Symbol("z", real=True), Symbol("g", real=True), Symbol("p", real=True)
CONSTANTS = {"DENSITY_AT_0", "INV_SQRT_PI", "SQRT_2"}  # of elementary
FIELDS: dict[type, tuple[str, ...]] = {
    e.Sigmoid: ("s",), e.Complement: ("c",), e.Root: ("root",), e.Rest: ("r",),
    e.Step: ("step",), e.Tail: ("tail",), e.NormalRoot: ("root",),
    e.TanhSoftplus: ("t",), e.TanhSoftplusSlope: ("b", "w"), e.TanhSoftplusRest: ("r",),
    e.TanhSoftplusSigmoid: ("s",), e.TanhSoftplusComplement: ("c",),
}  # fmt: skip
CALLS: dict[type, str] = {
    e.Exp: "exp", e.Log1p: "log1p", e.Expm1: "expm1", e.Log: "log", e.Sqrt: "sqrt", e.Tanh: "tanh",
    e.Sigmoid: "sigmoid", e.Erf: "erf", e.Sin: "sin", e.Cos: "cos", e.Softplus: "softplus", e.Abs: "abs",
    e.Sign: "sign", e.HalfExp: "half_exp", e.HalfDecay: "half_decay", e.Clamp: "clamp",
    e.SqrtOfSquares: "sqrt_of_squares",
}  # fmt: skip
PLAIN = (e.Sqrt, e.Log, e.Log1p, e.Abs, e.Sign)  # whose derivatives are rational
COSTS = {"add": 1, "mul": 1, "and": 1, "or": 1, "neg": 1, "where": 2, "div": 4, "call": 20}
COMPARISONS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}


@dataclass(frozen=True)
class Line:
    """name = node, or of a bundle what it computes of the node."""

    name: str
    node: Node
    bundle: str | None = None


@dataclass(frozen=True)
class Program:
    """One of value, first, ..., fifth."""

    order: int
    lines: tuple[Line, ...]
    result: Node
    bound: float | None  # the argument is clamped to ±bound first

    def uses(self, node: Node) -> bool:
        return any(_has(n, node) for n in (*(line.node for line in self.lines), self.result))

    def constants(self) -> set[str]:
        found: set[str] = set()
        for node in (*(line.node for line in self.lines), self.result):
            _walk(node, lambda n: found.update(name for name, _ in n[2]) if n[0] == "scalar" else None)
        return found


@functools.cache
def programs(definition: Definition) -> tuple[Program, Program, Program, Program]:
    """Of value, first, second and third."""
    value, first, second, third, *_ = all_programs(definition)
    return value, first, second, third


@functools.cache
def all_programs(definition: Definition) -> tuple[Program, ...]:
    """Those, and of fourth and fifth, which C++ alone has."""
    inners: list[Expr] = []
    return tuple(lower(d, k, definition, inners) for k, d in enumerate(derivatives(definition, inners)))


def derivatives(definition: Definition, inners: list[Expr]) -> list[Expr]:
    """The value and D_1 to D_5."""
    constants = [Symbol(name, positive=True) for name in definition.constants]
    args = [Z, *([P] if definition.param else []), *constants]
    call = lambda fn: _canonical(fn(*args))
    found = [call(definition.value)]
    for fn in (definition.first, definition.second, definition.third, definition.fourth, definition.fifth):
        if fn is not None:
            found.append(call(fn))
        elif len(found) == 1 and not definition.saves_input:
            raise ValueError(f"{definition.name}: it saves its output: `first` must be stated, as a function of that")
        else:
            found.append(sympy.diff(_name_inner(found[-1], inners), Z))
    return found


def _canonical(y: Any) -> Expr:
    """With our functions in the place of sympy's, and floats as the decimals that they are written as."""
    y = sympy.sympify(y).replace(lambda x: x.is_Float, lambda x: Rational(repr(float(x))))
    half = lambda x: x.is_Pow and x.exp.is_Rational and x.exp.q == 2 and not x.base.is_number
    y = y.replace(sympy.Abs, e.Abs).replace(half, lambda x: e.Sqrt(x.base) ** (2 * x.exp))
    y = _tails(y)
    return y.replace(lambda x: x.is_number and not x.is_Rational and x.is_real, lambda x: Rational(repr(float(x))))


def _tails(y: Expr) -> Expr:
    """c + c erf(v) as 2c Φ(√2 v), which loses nothing in the tail."""

    def sum_(x: Expr) -> Expr:
        for erf in x.atoms(e.Erf):
            c = x.coeff(erf)
            rest = x - c * erf
            for sign in (1, -1):
                if c != 0 and sympy.expand(rest - sign * c) == 0:
                    times, v = (sympy.sqrt(2) * erf.args[0]).as_independent(Z, as_Add=False)
                    return sign * 2 * c * e.Cdf(sign * (_rounded(times) if times.is_number else times) * v)
        return x

    return y.replace(lambda x: x.is_Add and x.has(e.Erf), sum_)


def _rounded(n: Expr) -> Expr:
    """A whole number that is missed by a rounding error."""
    near = Integer(round(float(n)))
    return near if abs(float(n) - float(near)) < 1e-15 else n


def _name_inner(y: Expr, inners: list[Expr]) -> Expr:
    """An argument that is a sum, and not linear in z, gets a name: its derivatives stay factors of their own."""

    def name(f: Expr) -> Expr:
        (v,) = f.args
        if isinstance(f, PLAIN) or not sympy.expand(v).is_Add or v.has(sympy.Function) or sympy.diff(v, Z, 2) == 0:
            return f
        if v not in inners:
            inners.append(v)
        return f.func(e.Inner(Integer(inners.index(v)), Integer(0), Z))

    return y.replace(lambda x: isinstance(x, e.Primitive), name)


def lower(y: Expr, order: int, definition: Definition, inners: list[Expr]) -> Program:
    """The program of D_order: of the first times g."""
    candidates = [y]
    for root in y.atoms(e.Root):
        s, c = e.Sigmoid(root.args[0]), e.Complement(root.args[0])
        if y.has(s) or y.has(c):  # root² = s c lets the product be factored
            candidates.append(sympy.expand(y).replace(_power_of(root), lambda x, s=s, c=c: (s * c) ** (x.exp / 2)))
    tries = [_Lowering(order, definition, inners).program(x) for x in candidates]
    return min(reversed(tries), key=lambda p: sum(_cost(line.node) for line in p.lines) + _cost(p.result))


def _power_of(root: Expr) -> Callable[[Expr], bool]:
    return lambda x: x.is_Pow and x.base == root and x.exp.is_Integer and x.exp % 2 == 0


class _Lowering:
    def __init__(self, order: int, definition: Definition, inners: list[Expr]):
        self.order, self.definition, self.inners = order, definition, inners
        self.lines: list[Line] = []
        self.clamped: dict[str, Expr] = {}  # of a bundle, whose v stands for its argument

    def program(self, y: Expr) -> Program:
        y = self.prepared(y)
        result = self.node(y, first=self.order == 1)
        lines, result = _shared(self.lines, result)
        uses_z = any(_has(n, ("name", "z")) for n in (*(line.node for line in lines), result))
        bound = self.definition.bound if self.order and uses_z else None
        return Program(self.order, tuple(lines), result, bound)

    def prepared(self, y: Expr) -> Expr:
        for f in list(y.atoms(e.Inner)):
            number, n, _ = f.args
            v = sympy.diff(self.inners[int(number)], Z, int(n))
            if not v.has(Z) or n == 0:
                y = y.subs(f, v)
        if self.order:
            y = y.replace(e.Cdf, lambda v: e.Cdf(v).split()).replace(e.Exp, lambda v: e.HalfExp(v) ** 2)
            y = y.replace(e.Tanh, lambda v: -e.Rest(2 * v))  # which the derivatives above are made of
        return y

    def node(self, y: Expr, first: bool = False) -> Node:
        """The node of an expression; of the first derivative times g."""
        return factored(y, self, first)

    # --- what simplify.factored asks for ---

    def atom(self, y: Expr) -> tuple[Node, ...]:
        """The node of a function, or several whose product it is."""
        kind = type(y)
        if isinstance(y, e.Cdf):
            return (self.node(y.split()),)
        if isinstance(y, e.Where):
            holds, a, b = y.args
            return (("where", self.condition(holds), self.node(a), self.node(b)),)
        if isinstance(y, e.Inner):
            number, n, _ = y.args
            name = "d" * int(n) + "v" + (str(number) if number else "")
            return (self.line(name, self.node(sympy.diff(self.inners[int(number)], Z, int(n)))),)
        bundle = getattr(y, "bundle", None)
        if self.order == 0 and isinstance(y, (e.Sigmoid, e.Complement)):
            v = self.node(y.args[0] if isinstance(y, e.Sigmoid) else -y.args[0])
            return (("call", "sigmoid", v),)
        if bundle is not None:
            name = self.bundle(bundle, y.args[0])
            return tuple(("field", name, field) for field in FIELDS[kind])
        if kind not in CALLS:
            raise ValueError(f"{self.definition.name}: {kind.__name__.lower()} is no function of fusegrad's")
        return (("call", CALLS[kind], *(self.node(a) for a in y.args)),)

    def symbol(self, y: Symbol) -> Node:
        if y == P:
            return ("param",)
        return ("const", y.name) if y.name in CONSTANTS | self.definition.constants.keys() else ("name", y.name)

    def bundle(self, bundle: str, arg: Expr) -> str:
        for name, of in self.clamped.items():
            if of == arg and name.startswith(bundle):
                return name
        node = self.node(arg)
        count = sum(line.bundle == bundle for line in self.lines)
        name = bundle + (str(count + 1) if count else "")
        self.lines.append(Line(name, node, bundle))
        self.clamped[name] = arg
        return name

    def line(self, name: str, node: Node) -> Node:
        if not any(line.name == name for line in self.lines):
            self.lines.append(Line(name, node))
        return ("name", name)

    def condition(self, holds: Any) -> Node:
        if isinstance(holds, Relational):
            return (COMPARISONS[holds.rel_op], self.node(holds.lhs), self.node(holds.rhs))
        if isinstance(holds, e.IsNan):
            return ("ne", *[self.node(holds.args[0])] * 2)
        if isinstance(holds, (sympy.And, sympy.Or)):
            args = sorted(holds.args, key=str)
            return ("and" if isinstance(holds, sympy.And) else "or", *(self.condition(a) for a in args))
        raise ValueError(f"{self.definition.name}: cannot tell {holds} by elements")


NAMES = {
    "sqrt": "root", "sqrt_of_squares": "root", "half_exp": "half", "half_decay": "half",
    "sin": "sine", "cos": "cosine", "exp": "e", "tanh": "t", "abs": "size",
}  # fmt: skip


def _shared(lines: list[Line], result: Node) -> tuple[list[Line], Node]:
    """With a line for each node that comes twice, the largest first."""
    while True:
        seen: list[Node] = []
        for node in (*(line.node for line in lines), result):
            _walk(node, seen.append)
        twice = [n for n, c in Counter(n for n in seen if _costs(n)).items() if c > 1]
        if not twice:
            return lines, result
        node = max(twice, key=_size)
        taken = {line.name for line in lines}
        base = NAMES.get(node[1], "u") if node[0] == "call" else "d" if node[0] == "div" else "u"
        name = next(n for n in (base, *(f"{base}{i}" for i in range(2, 99))) if n not in taken)
        at = next((i for i, line in enumerate(lines) if _has(line.node, node)), len(lines))
        lines = [Line(x.name, _replaced(x.node, node, ("name", name)), x.bundle) for x in lines]
        lines.insert(at, Line(name, node))
        result = _replaced(result, node, ("name", name))


def _costs(n: Node) -> bool:
    """What the compiler would not hoist out of its loop anyhow."""
    if n[0] in ("call", "where"):
        return True
    if n[0] not in ("add", "mul", "div"):
        return False
    vectors: list[Node] = []
    _walk(n, lambda x: vectors.append(x) if x[0] in ("name", "field", "call") else None)
    return bool(vectors)


def _walk(n: Any, see: Callable[[Node], object]) -> None:
    if isinstance(n, tuple):
        if n and isinstance(n[0], str):
            see(n)
        for x in n:
            _walk(x, see)


def _has(n: Any, node: Node) -> bool:
    return n == node or (isinstance(n, tuple) and any(_has(x, node) for x in n))


def _replaced(n: Any, node: Node, by: Node) -> Any:
    if n == node:
        return by
    return tuple(_replaced(x, node, by) for x in n) if isinstance(n, tuple) else n


def _cost(n: Any) -> int:
    if not isinstance(n, tuple) or not n:
        return 0
    return COSTS.get(n[0], 0) * max(1, len(n) - 2) + sum(map(_cost, n[1:]))


def _size(n: Any) -> int:
    return 1 + sum(map(_size, n[1:])) if isinstance(n, tuple) else 0
