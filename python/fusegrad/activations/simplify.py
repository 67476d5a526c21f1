"""Sums of products, written with few operations and in an order that is numerically right.

A rational expression becomes a common factor times a bracket by Horner's scheme. A product has numbers first, and at
its end what is marked as `last`, one after the other: so its square, which may be no normal number, is never alone.
"""

from collections import Counter
from fractions import Fraction
from math import gcd
from typing import Any

import sympy
from sympy import Expr, Symbol

from . import expression as e

Node = tuple
Powers = tuple[tuple[str, int], ...]  # of atoms, sorted by name
Terms = dict[Powers, Fraction]
ONE: Terms = {(): Fraction(1)}


def scalar(number: Fraction | int, constants: Powers = ()) -> Node:
    return ("scalar", Fraction(number), constants)


class Atoms:
    """Names for all that is no sum, product or whole power, so that polynomials can be made of them."""

    def __init__(self, lowering: Any):
        self.lowering = lowering
        self.of: dict[str, Expr] = {}
        self.inverses: dict[str, Node] = {}  # 1 over sums

    def strip(self, y: Expr) -> Expr:
        if y.is_Number:
            return y
        if y.is_Add or y.is_Mul:
            return y.func(*map(self.strip, y.args))
        if y.is_Pow and y.exp.is_Integer:
            return self.strip(y.base) ** y.exp
        name = y.name if y.is_Symbol else f"{type(y).__name__} {y}"
        self.of[name] = y
        return Symbol(name, positive=True)  # sympy is to ask nothing

    def kind(self, name: str) -> str:
        """Where it comes in a product."""
        if name in self.inverses:
            return "vector"
        y = self.of[name]
        if y.is_Symbol:
            return {"param": "param", "const": "const"}.get(self.lowering.symbol(y)[0], "vector")
        return "last" if y.last else "vector"

    def nodes(self, name: str) -> tuple[Node, ...]:
        if name in self.inverses:
            return (self.inverses[name],)
        y = self.of[name]
        return (self.lowering.symbol(y),) if y.is_Symbol else self.lowering.atom(y)


def factored(y: Expr, lowering: Any, first: bool) -> Node:
    """The node of an expression; if it is the first derivative then g times it.

    Of a choice g goes to both sides if one is a number: 0 times an infinite g is 0 then.
    """
    y = _choices_out(y)
    if isinstance(y, e.Where):
        holds, a, b = y.args
        inside = first and any(side.is_number or isinstance(side, e.Where) for side in (a, b))
        node = ("where", lowering.condition(holds), factored(a, lowering, inside), factored(b, lowering, inside))
        return _times_g(node) if first and not inside else node
    if y == 0:
        return scalar(0)
    if lowering.order == 0 and y.is_Add and any(p.base.name == "p" for p in y.atoms(sympy.Pow) if _is_inverse(p)):
        return ("add", *(factored(term, lowering, False) for term in y.args))  # over one denominator it is no shorter
    kept = _kept(y)
    if kept:
        number, *sums = kept
        node = _times(factored(number, lowering, False), [factored(s, lowering, False) for s in sums])
    else:
        node = _by_factors(y, lowering)
    return _times_g(node) if first else node


def _is_inverse(p: Expr) -> bool:
    return p.base.is_Symbol and p.exp.is_negative


def _times_g(node: Node) -> Node:
    """g times it: the rest apart, as kernels of the second order have it for several g."""
    g = ("name", "g")
    if node[0] == "neg":
        return ("neg", _times_g(node[1]))
    if node[0] == "scalar" and node[1].denominator & (node[1].denominator - 1) and node[1].numerator == 1:
        return ("div", g, scalar(node[1].denominator))
    if node[0] == "div" and _is_number(node[2]):
        return ("div", _times_g(node[1]), node[2])
    if node[0] == "mul" and len(node) == 3 and _is_number(node[1]):
        return ("mul", node[1], g, node[2])
    return g if node == scalar(1) else ("mul", g, node)


def _is_number(node: Node) -> bool:
    return node[0] in ("scalar", "param")


def _by_factors(y: Expr, lowering: Any) -> Node:
    atoms = Atoms(lowering)
    numerator, divisors = _fraction(_reduced(_without_signs(atoms.strip(y), atoms), atoms))
    terms = _terms(numerator)
    if lowering.order:
        for name in [name for name, x in atoms.of.items() if getattr(x, "bundle", None)]:
            atoms.nodes(name)  # so that the bundles are there
        terms = _in_clamped(terms, atoms)
    factors, terms = _common(terms)
    for divisor, power in divisors:
        if divisor.is_Symbol:
            factors[divisor.name] = factors.get(divisor.name, 0) - power
        else:
            atoms.inverses[f"1/({divisor})"] = ("div", scalar(1), _horner(_terms(divisor), atoms))
            factors[f"1/({divisor})"] = power
    scale, terms = _content(terms)
    return _product(scale, factors, [] if terms == ONE else [_horner(terms, atoms)], atoms)


def _kept(y: Expr) -> list[Expr]:
    """What multiplies its sums, and those, of a product that is not to be multiplied out; else nothing."""
    if not (y.is_Mul or y.is_Pow) or any(p.exp.is_negative for p in y.atoms(sympy.Pow)):
        return []
    sums: list[Expr] = []
    rest = []
    for f in sympy.Mul.make_args(y):
        base, n = f.as_base_exp()
        if base.is_Add and n.is_Integer:
            sums += [base] * int(n)
        else:
            rest.append(f)
    return [sympy.Mul(*rest), *sums] if sums else []


def _times(node: Node, sums: list[Node]) -> Node:
    """The product with sums, which come after numbers."""
    if node == scalar(1):
        return ("mul", *sums) if len(sums) > 1 else sums[0]
    factors = node[1:] if node[0] == "mul" else (node,)
    numbers = [f for f in factors if _is_number(f)]
    return ("mul", *numbers, *sums, *(f for f in factors if not _is_number(f)))


def _reduced(y: Expr, atoms: Atoms) -> Expr:
    """With x for √x²."""
    for name, root in list(atoms.of.items()):
        if not isinstance(root, e.Sqrt):
            continue
        symbol, x = Symbol(name, positive=True), atoms.strip(root.args[0])
        numerator, denominator = sympy.fraction(sympy.cancel(sympy.together(y)))
        terms = sympy.Poly(numerator, symbol).terms()
        y = sum((c * x ** (n // 2) * symbol ** (n % 2) for (n,), c in terms), sympy.S.Zero) / denominator
    return y


def _choices_out(y: Expr) -> Expr:
    """k where(c, a, b) as where(c, k a, k b), if a side is a number."""
    choices = [a for a in y.args if isinstance(a, e.Where)] if y.is_Mul else []
    if len(choices) == 1:
        holds, a, b = choices[0].args
        rest = y / choices[0]
        if a.is_number or b.is_number:
            return e.Where(holds, rest * a, rest * b)
    return y


def _without_signs(y: Expr, atoms: Atoms) -> Expr:
    """With |x| for x sign(x), and 1 for sign(x)²."""
    for name, sign in list(atoms.of.items()):
        x = sign.args[0] if isinstance(sign, e.Sign) else None
        if x is None or not x.is_Symbol:
            continue
        symbol, size = Symbol(name, positive=True), atoms.strip(e.Abs(x))
        y = y.subs(atoms.strip(x), symbol * size)
        y = sympy.cancel(y)
        numerator, denominator = sympy.fraction(y)
        poly = sympy.Poly(numerator, symbol)
        y = sum((c * symbol ** (n % 2) for (n,), c in poly.terms()), sympy.S.Zero) / denominator
        y = sympy.cancel(y).subs(symbol * size, atoms.strip(x))
    return y


def _fraction(y: Expr) -> tuple[Expr, list[tuple[Expr, int]]]:
    """An expanded numerator, and what it is divided by: powers of sums and of symbols."""
    if not y.atoms(sympy.Pow) or all(p.exp.is_Integer and p.exp > 0 for p in y.atoms(sympy.Pow)):
        return sympy.expand(y), []
    numerator, denominator = sympy.fraction(sympy.cancel(sympy.together(y)))
    number, factors = sympy.factor_list(denominator)
    return sympy.expand(numerator / number), factors


def _terms(y: Expr) -> Terms:
    names = sorted(y.free_symbols, key=lambda s: s.name)
    if not names:
        return {(): _number(y)}
    poly = sympy.Poly(y, *names)
    powers = lambda exponents: tuple((s.name, n) for s, n in zip(names, exponents, strict=True) if n)
    return {powers(exponents): _number(c) for exponents, c in poly.terms()}


def _number(c: Expr) -> Fraction:
    if c.is_Rational:
        return Fraction(int(c.p), int(c.q))
    return Fraction(repr(float(c)))  # of √2 and the like


def _in_clamped(terms: Terms, atoms: Atoms) -> Terms:
    """With v, which a bundle has clamped, in the place of its argument, so that no infinity meets a 0."""
    clamped = [(n, a) for n, a in atoms.lowering.clamped.items() if not n.startswith("normal")]
    if len(clamped) != 1:
        return terms
    bundle, argument = clamped[0]
    divides = any(not (p.exp.is_Integer and p.exp > 0) for p in argument.atoms(sympy.Pow))
    if divides or argument.has(e.Inner) or argument.has(sympy.Function):
        return terms
    found = _terms(sympy.expand(atoms.strip(argument)))
    if len(found) != 1:
        return terms
    ((powers, scale),) = found.items()
    if any(n != 1 for _, n in powers) or ("z", 1) not in powers:
        return terms
    name = f"{bundle}.v"
    result: Terms = {}
    for monomial, c in terms.items():
        of = dict(monomial)
        n = min(of.get(x, 0) for x, _ in powers)
        if n:
            for x, _ in powers:
                of[x] -= n
            of[name] = n
            atoms.inverses[name] = ("field", bundle, "v")
        result[tuple(sorted((x, k) for x, k in of.items() if k))] = c / scale**n
    return result


def _common(terms: Terms) -> tuple[dict[str, int], Terms]:
    """What all terms are multiples of, and the rest."""
    shared = dict(next(iter(terms)))
    for monomial in terms:
        powers = dict(monomial)
        shared = {x: min(n, powers.get(x, 0)) for x, n in shared.items()}
    shared = {x: n for x, n in shared.items() if n}
    return shared, {_divided(m, shared): c for m, c in terms.items()}


def _divided(monomial: Powers, by: dict[str, int]) -> Powers:
    return tuple((x, n - by.get(x, 0)) for x, n in monomial if n != by.get(x, 0))


def _content(terms: Terms) -> tuple[Fraction, Terms]:
    """A number that all terms are multiples of: of one its factor, else a whole number; and the sign."""
    if len(terms) == 1:
        ((monomial, c),) = terms.items()
        return c, {monomial: Fraction(1)}
    whole = all(c.denominator == 1 for c in terms.values())
    scale = Fraction(gcd(*(abs(int(c)) for c in terms.values())) if whole else 1)
    if all(c < 0 for c in terms.values()):
        scale = -scale
    return scale, {m: c / scale for m, c in terms.items()}


def _horner(terms: Terms, atoms: Atoms) -> Node:
    if len(terms) == 1:
        ((monomial, c),) = terms.items()
        return _product(c, dict(monomial), [], atoms)
    count = Counter(x for monomial in terms for x, _ in monomial)
    rank = lambda x: (count[x], atoms.kind(x) == "last", x not in ("z", "g") and not x.endswith(".v"), x)
    best = max(count, key=rank)
    parts: list[tuple[Terms, dict[str, int]]]
    if count[best] == 1:
        parts = [({m: c}, {}) for m, c in terms.items()]
    else:
        least = min(dict(m)[best] for m in terms if best in dict(m))
        inside = {_divided(m, {best: least}): c for m, c in terms.items() if best in dict(m)}
        parts = [({m: c}, {}) for m, c in terms.items() if best not in dict(m)]
        if len(parts) > 1:
            parts = [({m: c for part, _ in parts for m, c in part.items()}, {})]
        parts.append((inside, {best: least}))
    nodes: list[Node] = []
    for part, outside in parts:
        shared, part = _common(part)
        scale, part = _content(part)
        for x, n in outside.items():
            shared[x] = shared.get(x, 0) + n
        if part == ONE or shared or scale != 1:
            nodes.append(_product(scale, shared, [] if part == ONE else [_horner(part, atoms)], atoms))
        else:
            inner = _horner(part, atoms)
            nodes += inner[1:] if inner[0] == "add" else [inner]
    nodes.sort(key=lambda n: (_is_negative(n), n[0] != "scalar"))  # a number first, what is subtracted last
    return ("add", *nodes)


def _is_negative(n: Node) -> bool:
    if n[0] == "mul":
        n = n[1]
    return n[0] == "neg" or (n[0] == "scalar" and n[1] < 0)


def _product(scale: Fraction, factors: dict[str, int], brackets: list[Node], atoms: Atoms) -> Node:
    """scale, constants, parameters, brackets, the other factors, the last ones; in places divided."""
    of = lambda kind: [(x, n) for x, n in sorted(factors.items()) if n and atoms.kind(x) == kind]
    constants = tuple((atoms.of[x].name, n) for x, n in of("const"))
    power = sum(n for _, n in of("param"))
    last = [node for x, n in of("last") for node in atoms.nodes(x) * n]
    vectors = sorted(of("vector"), key=lambda x: (x[0] in atoms.inverses and x[0].startswith("1/"), x[0]))
    vector = [node for x, n in vectors for node in atoms.nodes(x) * n if n > 0]
    divide: list[Node] = []
    for x, n in vectors:
        node = atoms.nodes(x)[0] if n < 0 else None
        if node and n == -1 and not last:
            divide.append(node)
        elif node:
            vector += [("div", scalar(1), node)] * -n
    for node in [v for v in vector if v[0] == "div" and v[1] == scalar(1)]:
        if vector.count(node) == 1 and not last:  # once: x / d, more often: d = 1 / d, x * d * d
            vector.remove(node)
            divide.append(node[2])
    rest = [*brackets, *vector, *last]
    whole = abs(scale.numerator) == 1 and scale.denominator & (scale.denominator - 1)  # 1/3, not 1/4
    if rest and not last and not constants and whole:
        divide, scale = [scalar(scale.denominator)], Fraction(scale.numerator)
    if rest and not last and power == -1:
        divide, power = [*divide, ("param",)], 0
    params: list[Node] = [("param",)] * power
    if power < 0:
        params = [("div", scalar(1), ("mul", *[("param",)] * -power) if power < -1 else ("param",))]
    sign = scale < 0 and not constants and scale.denominator == 1 and abs(scale) == 1 and (params or rest)
    if sign:
        scale = -scale
    head = [] if scale == 1 and not constants else [scalar(scale, constants)]
    if not (head or params or rest):
        head = [scalar(1)]
    all_ = [*head, *params, *rest]
    node = all_[0] if len(all_) == 1 else ("mul", *all_)
    for d in divide:
        node = ("div", node, d)
    return ("neg", node) if sign else node
