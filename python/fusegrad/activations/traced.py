"""What a user's formula is given: an expression behind operators that never decide what is not known yet.

sympy compares expressions by what they look like: `a == 0` is False of every symbol, and an `if` of that would take one
side for all values. So a formula gets these, which raise there.
"""

import math
import numbers
import operator
from collections.abc import Callable
from typing import Any

import sympy
from torch import Tensor

from . import expression as e

EQUALITY = (
    "it has ==, != or `in` of what is not known yet; use fusegrad.where with <, <=, > or >=, "
    "such as fusegrad.where(abs(z) < 1e-6, ...)"
)
TRUTH = "it has an `if`, or `and`, `or`, `not`, of what is not known yet; use fusegrad.where, & and |"


def _raises(why: str) -> Callable[..., Any]:
    def method(self: Any, *_: Any) -> Any:
        raise TypeError(why)

    return method


class Traced:
    __slots__ = ("of",)
    __array_ufunc__ = None  # NumPy's numbers leave operators to us

    def __init__(self, of: Any):
        self.of = of

    def __repr__(self) -> str:
        return repr(self.of)

    __eq__ = __ne__ = __contains__ = _raises(EQUALITY)
    __hash__ = _raises(f"it looks up what is not known yet, or calls a function of sympy or a cached one; {EQUALITY}")
    __bool__ = _raises(TRUTH)


class Condition(Traced):
    """A comparison, or several of them."""

    __slots__ = ()

    def __and__(self, other: Any) -> "Condition":
        return Condition(sympy.And(self.of, condition(other)))

    def __or__(self, other: Any) -> "Condition":
        return Condition(sympy.Or(self.of, condition(other)))

    def __invert__(self) -> "Condition":
        return Condition(sympy.Not(self.of))

    __rand__, __ror__ = __and__, __or__


def _operator(fn: Callable, made: type[Traced], swapped: bool = False) -> Callable[..., Any]:
    def method(self: Traced, other: Any) -> Traced:
        a, b = (number(other), self.of) if swapped else (self.of, number(other))
        return made(fn(a, b))

    return method


def _power(base: Any, exponent: Any) -> Any:
    """Half powers by our square root: sympy would split that of a product."""
    twice = float(2 * exponent) if exponent.is_Rational or exponent.is_Float else 0.0
    return e.Sqrt(base) ** int(twice) if twice % 2 == 1 and not base.is_number else base**exponent


class Expression(Traced):
    """Of real numbers."""

    __slots__ = ()

    def __neg__(self) -> "Expression":
        return Expression(-self.of)

    def __pos__(self) -> "Expression":
        return self

    def __abs__(self) -> "Expression":
        return Expression(e.Abs(self.of))


for name, fn in {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv, "pow": _power,
}.items():  # fmt: skip
    setattr(Expression, f"__{name}__", _operator(fn, Expression))
    setattr(Expression, f"__r{name}__", _operator(fn, Expression, swapped=True))
for name in ("lt", "le", "gt", "ge"):
    setattr(Expression, f"__{name}__", _operator(getattr(operator, name), Condition))


def number(x: Any) -> sympy.Expr:
    """The expression that an operand is."""
    if isinstance(x, Expression):
        return x.of
    if isinstance(x, Condition):
        raise TypeError("a comparison is no number; use fusegrad.where")
    if isinstance(x, Tensor):
        raise TypeError("the formula closes over a tensor, which would have no gradient; give numbers")
    if isinstance(x, sympy.Expr):
        return x
    if not isinstance(x, numbers.Real):
        raise TypeError(f"need a real number where there is {x!r}")
    if isinstance(x, numbers.Rational):
        return sympy.Rational(int(x.numerator), int(x.denominator))
    if not math.isfinite(x):
        raise TypeError(f"need a finite number where there is {x!r}")
    return sympy.Float(float(x))


def condition(x: Any) -> Any:
    if not isinstance(x, (Condition, bool)):
        raise TypeError(f"need a comparison, such as z > 0, where there is {x!r}")
    return x.of if isinstance(x, Condition) else sympy.sympify(x)


def call(name: str, args: tuple) -> Expression:
    """A function of primitives.py."""
    if name == "where":
        return Expression(e.Where(condition(args[0]), *map(number, args[1:])))
    if name == "clamp" and any(b is None or (isinstance(b, float) and math.isinf(b)) for b in args[1:]):
        raise TypeError("the bounds of clamp must be numbers; use fusegrad.maximum or minimum where there is only one")
    return Expression(e.FUNCTIONS[name](*map(number, args)))
