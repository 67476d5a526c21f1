"""The expressions that activations are made of: functions with derivatives that are numerically right.

Each derivative is a polynomial in functions of the same family, so that nothing cancels in the tails:

    s = σ(v), c = σ(-v), root² = s c, r = c - s:       s' = root², c' = -root², root' = root r / 2, r' = -2 root²
    Φ = step + tail e, e = root² = e^{-v²/2}:           Φ' = e / √(2π), root' = -v root / 2
    tanh u:                                              tanh' = 4 root², the root of v = 2u
    e^v = half²:                                         half' = half / 2
    t = tanh(log(1 + e^v)), a = s (1 - t²), R = c - 2ts: t' = a, a' = a R, R' = -s (c + 2 (a + t c))

This imports sympy: it is for who derives, and `import fusegrad` does without.
"""

from collections.abc import Callable

from sympy import And, Expr, Function, S, Symbol, sympify
from sympy.logic.boolalg import BooleanFunction


class Primitive(Function):
    """A function of one argument; `bundle` names what computes it together with others, `last` what a product keeps
    for its end: there it is multiplied with twice, as its square may be no normal number."""

    nargs = 1
    is_commutative = True
    bundle: str | None = None
    last = False

    def _eval_evalf(self, prec):
        return None


class Sigmoid(Primitive):
    bundle = "logistic"

    @classmethod
    def eval(cls, v):
        return Complement(-v) if v.could_extract_minus_sign() else None

    def fdiff(self, argindex=1):
        return Root(self.args[0]) ** 2


class Complement(Primitive):
    bundle = "logistic"

    @classmethod
    def eval(cls, v):
        return Sigmoid(-v) if v.could_extract_minus_sign() else None

    def fdiff(self, argindex=1):
        return -(Root(self.args[0]) ** 2)


class Root(Primitive):
    bundle, last = "logistic", True

    def fdiff(self, argindex=1):
        return self * Rest(self.args[0]) / 2


class Rest(Primitive):
    bundle = "logistic"

    def fdiff(self, argindex=1):
        return -2 * Root(self.args[0]) ** 2


class Softplus(Primitive):
    def fdiff(self, argindex=1):
        return Sigmoid(self.args[0])


class Tanh(Primitive):
    def fdiff(self, argindex=1):
        return 4 * Root(2 * self.args[0]) ** 2


class Exp(Primitive):
    def fdiff(self, argindex=1):
        return HalfExp(self.args[0]) ** 2


class Expm1(Primitive):
    def fdiff(self, argindex=1):
        return HalfExp(self.args[0]) ** 2


class HalfExp(Primitive):
    """e^{v/2}."""

    last = True

    def fdiff(self, argindex=1):
        return self / 2


class HalfDecay(Primitive):
    """e^{v/2} of v <= 0; of a larger v 1."""

    last = True

    def fdiff(self, argindex=1):
        return self / 2


class Log(Primitive):
    def fdiff(self, argindex=1):
        return 1 / self.args[0]


class Log1p(Primitive):
    def fdiff(self, argindex=1):
        return 1 / (1 + self.args[0])


class Sqrt(Primitive):
    def fdiff(self, argindex=1):
        return 1 / (2 * self)


class SqrtOfSquares(Function):
    """√(v² + w), w > 0 a number."""

    nargs = 2
    bundle, last = None, False

    def fdiff(self, argindex=1):
        return self.args[argindex - 1] / self


class Sin(Primitive):
    def fdiff(self, argindex=1):
        return Cos(self.args[0])


class Cos(Primitive):
    def fdiff(self, argindex=1):
        return -Sin(self.args[0])


class Erf(Primitive):
    def fdiff(self, argindex=1):
        return 2 * Symbol("INV_SQRT_PI") * HalfExp(-(self.args[0] ** 2)) ** 2


class Cdf(Primitive):
    """Φ."""

    def fdiff(self, argindex=1):
        return Symbol("DENSITY_AT_0") * NormalRoot(self.args[0]) ** 2

    def split(self):
        (v,) = self.args
        return Step(v) + Tail(v) * NormalRoot(v) ** 2


class Step(Primitive):
    """1 above 0, else 0."""

    bundle = "normal"

    def fdiff(self, argindex=1):
        return S.Zero


class Tail(Primitive):
    bundle = "normal"

    def fdiff(self, argindex=1):
        return Symbol("DENSITY_AT_0") + self.args[0] * self


class NormalRoot(Primitive):
    bundle, last = "normal", True

    def fdiff(self, argindex=1):
        return -self.args[0] * self / 2


class TanhSoftplus(Primitive):
    bundle = "tanh_softplus"

    def fdiff(self, argindex=1):
        return TanhSoftplusSlope(self.args[0])


class TanhSoftplusSlope(Primitive):
    bundle, last = "tanh_softplus", True

    def fdiff(self, argindex=1):
        return self * TanhSoftplusRest(self.args[0])


class TanhSoftplusRest(Primitive):
    bundle = "tanh_softplus"

    def fdiff(self, argindex=1):
        (v,) = self.args
        t, a = TanhSoftplus(v), TanhSoftplusSlope(v)
        s, c = TanhSoftplusSigmoid(v), TanhSoftplusComplement(v)
        return -s * (c + 2 * (a + t * c))


class TanhSoftplusSigmoid(Primitive):
    bundle = "tanh_softplus"

    def fdiff(self, argindex=1):
        return self * TanhSoftplusComplement(self.args[0])


class TanhSoftplusComplement(Primitive):
    bundle = "tanh_softplus"

    def fdiff(self, argindex=1):
        return -self * TanhSoftplusSigmoid(self.args[0])


class Abs(Primitive):
    def fdiff(self, argindex=1):
        return Sign(self.args[0])


class Sign(Primitive):
    def fdiff(self, argindex=1):
        return S.Zero


class IsNan(BooleanFunction):
    """Whether it is no number; of x != x sympy would say that it never holds."""


class Where(Expr):
    """`then` where the condition holds, else `other`."""

    bundle, last = None, False

    def __new__(cls, holds, then, other):
        then, other = sympify(then), sympify(other)
        if holds is S.true or then == other:
            return then
        return other if holds is S.false else Expr.__new__(cls, sympify(holds), then, other)

    def _eval_derivative(self, s):
        holds, then, other = self.args
        return Where(holds, then.diff(s), other.diff(s))

    def _eval_is_commutative(self):
        return True


class Clamp(Expr):
    """Between two numbers; NaN stays NaN. The derivative at the bounds is that inside, as torch's."""

    bundle, last = None, False

    def __new__(cls, x, low, high):
        return Expr.__new__(cls, sympify(x), sympify(low), sympify(high))

    def _eval_derivative(self, s):
        x, low, high = self.args
        shift = x - s
        if shift.is_number:  # compared without rounding
            inside = And(s >= low - shift, s <= high - shift)
        else:
            inside = And(x >= low, x <= high)
        return Where(inside, x.diff(s), 0)

    def _eval_is_commutative(self):
        return True


class Inner(Function):
    """The n-th derivative of an argument that is no multiple of z, kept as a name: Inner(number, n, z)."""

    nargs = 3
    bundle, last = None, False

    def fdiff(self, argindex=3):
        number, n, z = self.args
        return Inner(number, n + 1, z)


FUNCTIONS: dict[str, Callable] = {
    "exp": Exp,
    "log1p": Log1p,
    "expm1": Expm1,
    "log": Log,
    "sqrt": Sqrt,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "erf": Erf,
    "sin": Sin,
    "cos": Cos,
    "softplus": Softplus,
    "abs": Abs,
    "sign": Sign,
    "where": Where,
    "clamp": Clamp,
    "maximum": lambda a, b: Where(sympify(a) > b, a, b),
    "minimum": lambda a, b: Where(sympify(a) < b, a, b),
    "is_nan": IsNan,
    "cdf": Cdf,
    "sech2": lambda v: 4 * Root(2 * v) ** 2,
    "half_decay": HalfDecay,
    "tanh_softplus": TanhSoftplus,
    "sqrt_of_squares": SqrtOfSquares,
}
