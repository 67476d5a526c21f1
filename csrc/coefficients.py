"""Fits the polynomials of csrc/elementary.h and kernels/elementary.py, and prints them for either language.

    python csrc/coefficients.py cpp > csrc/coefficients.h
    python csrc/coefficients.py triton > kernels/coefficients.py

Each is the interpolant at Chebyshev nodes (close to the best polynomial) of least degree whose error, weighed as it
enters the function, is under a sixteenth of the rounding error of the type. Those of erfcx and exp2,
where a weight pays, are the best polynomials of so many terms. Needs mpmath, which torch brings along.
"""

import sys

import mpmath as mp

mp.mp.dps = 60

LN2 = mp.log(2)


def series(f, at_zero):
    """f, but its limit at 0."""
    return lambda x: at_zero if abs(x) < mp.mpf(10) ** -25 else f(x)


def exp_q(r):
    return (mp.expm1(r) - r) / r**2


class Exp2:
    """(2^r - 1) / r, by so many terms."""

    begin, end = mp.mpf(-0.501), mp.mpf(0.501)

    def __init__(self, terms):
        self.terms = terms

    def value(self, r):
        return (mp.mpf(2) ** r - 1) / r if abs(r) > mp.mpf(10) ** -25 else LN2

    def allowed(self, r):
        """The error that is, in units of one another: that of 2^r is relative."""
        return mp.mpf(2) ** r / (abs(r) + mp.mpf(0.05))


class Erfcx:
    """Of x in terms of t = 1 / (1 + scale x), from a centre on, up to the last x; by so many terms."""

    def __init__(self, terms, scale, centre, last):
        self.terms, self.scale, self.centre = terms, mp.mpf(scale), mp.mpf(centre)
        self.begin, self.end = 1 / (1 + self.scale * mp.sqrt(last)) - self.centre, 1 - self.centre

    def x(self, v):
        return (1 / (v + self.centre) - 1) / self.scale

    def value(self, v):
        x, t = self.x(v), v + self.centre
        if x < 40:
            return mp.exp(x * x) * mp.erfc(x) / (2 * t)
        return mp.nsum(lambda n: mp.fac2(2 * n - 1) * (-2 * x * x) ** -n, [0, 12]) / (x * mp.sqrt(mp.pi) * 2 * t)

    def allowed(self, v):
        """Relative, and as much as rounding x^2 makes of e^{-x^2}."""
        return self.value(v) * (1 + self.x(v) ** 2 / 2)


def log1p_q(t):
    s = mp.sqrt(t)
    return (2 * mp.atanh(s) / s - 2) / t


def tanh_q(t):
    x = mp.sqrt(t)
    return (mp.tanh(x) / x - 1) / t


def erf_q(t):
    x = mp.sqrt(t)
    return (mp.erf(x) / x - 2 / mp.sqrt(mp.pi)) / t


def sin_q(t):
    x = mp.sqrt(t)
    return (mp.sin(x) / x - 1) / t


def cos_q(t):
    return (mp.cos(mp.sqrt(t)) - 1 + t / 2) / t**2


# name: what is fitted, from and to, how much of an error of it shows in the function, comment; or, by bits, what the
# best polynomial is sought for
FITS = {
    "exp": (
        series(exp_q, mp.mpf(1) / 2), (-LN2 / 2 - 0.001, LN2 / 2 + 0.001), mp.mpf(0.12),
        "(e^r - 1 - r) / r^2, |r| <= log(2) / 2",
    ),
    "exp2": ({24: Exp2(6), 53: Exp2(11)}, "(2^r - 1) / r, |r| <= 1/2"),
    "erfcx": (
        {24: Erfcx(9, 0.32, 0, 88.1), 53: Erfcx(20, 0.32, 0.5625, 709.2)},
        "e^{x^2} erfc(x) / 2t in t = 1 / (1 + 0.32 x), float64 in t - 9/16, 0 <= x, while e^{-x^2} is a normal number",
    ),
    "narrow_exp2": ({24: Exp2(4)}, "the same for results of 8 bits"),
    "narrow_erfcx": (
        {24: Erfcx(6, 0.31, 0, 88.1)}, "the same for results of 8 bits, but t = 1 / (1 + 0.31 x)",
    ),
    "log1p": (
        series(log1p_q, mp.mpf(2) / 3), (mp.mpf(0), mp.mpf(1) / 9 + 0.0001), mp.mpf(1) / 18,
        "(2 atanh(s) / s - 2) / s^2 in t = s^2, 0 <= s <= 1/3",
    ),
    "tanh": (
        series(tanh_q, -mp.mpf(1) / 3), (mp.mpf(0), mp.mpf(0.36) ** 2), mp.mpf(0.13),
        "(tanh(x) / x - 1) / x^2 in t = x^2, |x| <= 0.35",
    ),
    "erf": (
        series(erf_q, -2 / (3 * mp.sqrt(mp.pi))), (mp.mpf(0), mp.mpf(1.01)), mp.mpf(1.2),
        "(erf(x) / x - 2 / sqrt(pi)) / x^2 in t = x^2, |x| <= 1",
    ),
    "sin": (
        series(sin_q, -mp.mpf(1) / 6), (mp.mpf(0), (mp.pi / 4 + 0.001) ** 2), mp.mpf(0.7),
        "(sin(x) / x - 1) / x^2 in t = x^2, |x| <= pi / 4",
    ),
    "cos": (
        series(cos_q, mp.mpf(1) / 24), (mp.mpf(0), (mp.pi / 4 + 0.001) ** 2), mp.mpf(0.54),
        "(cos(x) - 1 + x^2 / 2) / x^4 in t = x^2, |x| <= pi / 4",
    ),
}  # fmt: skip
TYPES = {"float": 24, "double": 53}  # bits


def has(function, bits):
    by_bits = FITS[function][0]
    return callable(by_bits) or bits in by_bits


def fit(f, a, b, allowed):
    for terms in range(3, 60):
        coefficients, error = mp.chebyfit(f, [a, b], terms, error=True)
        if error <= allowed:
            return coefficients[::-1]
    raise ValueError("no fit")


def best(of):
    """The polynomial whose largest error, in units of what is allowed, is least, by Remez' exchange."""
    a, b, terms = of.begin, of.end, of.terms
    places = [(a + b) / 2 - (b - a) / 2 * mp.cos(mp.pi * i / (40 * terms)) for i in range(40 * terms + 1)]
    values, units = [of.value(x) for x in places], [of.allowed(x) for x in places]
    at = [40 * terms * i // terms for i in range(terms + 1)]
    for _ in range(30):
        rows = mp.matrix([[places[i] ** k for k in range(terms)] + [(-1) ** n * units[i]] for n, i in enumerate(at)])
        *coefficients, level = mp.lu_solve(rows, mp.matrix([values[i] for i in at]))
        errors = [
            (mp.polyval(coefficients[::-1], x) - y) / unit for x, y, unit in zip(places, values, units, strict=True)
        ]
        if max(map(abs, errors)) <= abs(level) * mp.mpf(1.001):
            return coefficients
        at = [max(side, key=lambda i: abs(errors[i])) for side in of_one_sign(errors)]
        while len(at) > terms + 1:
            at.pop(0 if abs(errors[at[0]]) < abs(errors[at[-1]]) else -1)
    raise ValueError("no fit")


def of_one_sign(errors):
    sides = [[0]]
    for i in range(1, len(errors)):
        if (errors[i] > 0) == (errors[i - 1] > 0):
            sides[-1].append(i)
        else:
            sides.append([i])
    return sides


def digits(c, bits):
    return mp.nstr(c, 9 if bits == 24 else 17, min_fixed=0, max_fixed=0)


def coefficients(function, bits):
    if not callable(FITS[function][0]):
        return best(FITS[function][0][bits])
    f, interval, weight, _ = FITS[function]
    return fit(f, *interval, mp.mpf(2) ** (-bits - 4) / weight)


def cpp():
    print("// Made by csrc/coefficients.py: coefficients of rising powers.")
    print("#pragma once\n\nnamespace fusegrad {\n\ntemplate <class Scalar>\nstruct Coefficients;\n")
    for name, bits in TYPES.items():
        print(f"template <>\nstruct Coefficients<{name}> {{")
        for function, (*_, says) in FITS.items():
            if not has(function, bits):
                continue
            print(f"  // {says}")
            print(f"  static constexpr {name} {function}[] = {{")
            for c in coefficients(function, bits):
                print(f"      {digits(c, bits)}{'f' if bits == 24 else ''},")
            print("  };")
        print("};\n")
    print("}  // namespace fusegrad")


TRITON = '''"""Made by csrc/coefficients.py: the polynomials of elementary.py, for float64 and for float32."""

import triton.language as tl
from triton import jit


@jit
def polynomial(x, c):  # c: of rising powers
    y = x * c[len(c) - 1] + c[len(c) - 2]
    for i in tl.static_range(len(c) - 2):
        y = y * x + c[len(c) - 3 - i]
    return y'''


def triton():
    print(TRITON)
    for function, (*_, says) in FITS.items():
        if not has(function, 53):
            continue
        print(f"\n\n@jit\ndef {function}_series(x):\n    # {says}")
        for head, bits in (("if x.dtype == tl.float64:", 53), ("else:", 24)):
            values = ", ".join(digits(c, bits) for c in coefficients(function, bits))
            print(f"    {head}\n        return polynomial(x, ({values}))")


if __name__ == "__main__":
    {"cpp": cpp, "triton": triton}[sys.argv[1]]()
