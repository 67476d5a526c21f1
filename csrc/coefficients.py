"""Fits the polynomials of csrc/elementary.h and kernels/elementary.py, and prints them for either language.

    python csrc/coefficients.py cpp > csrc/coefficients.h
    python csrc/coefficients.py triton > kernels/coefficients.py

Each is the interpolant at Chebyshev nodes (close to the best polynomial) of least degree whose error, weighed as it
enters the function, is under a sixteenth of the rounding error of the type. Needs mpmath, which torch brings along.
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


P = mp.mpf(3) / 10
LAST = {24: mp.sqrt(88.1), 53: mp.sqrt(709.2)}  # the x, by bits, after which e^{-x^2} is no normal number


def erfcx_q(t):
    x = (1 / t - 1) / P
    if x < 40:
        return mp.exp(x * x) * mp.erfc(x) / t
    return mp.nsum(lambda n: mp.fac2(2 * n - 1) * (-2 * x * x) ** -n, [0, 12]) / (x * mp.sqrt(mp.pi) * t)


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


# name: what is fitted, from and to, how much of an error of it shows in the function, comment
FITS = {
    "exp": (
        series(exp_q, mp.mpf(1) / 2), (-LN2 / 2 - 0.001, LN2 / 2 + 0.001), mp.mpf(0.12),
        "(e^r - 1 - r) / r^2, |r| <= log(2) / 2",
    ),
    "erfcx": (
        erfcx_q, lambda bits: (1 / (1 + P * LAST[bits]), mp.mpf(1)), mp.mpf(0.5),
        "e^{x^2} erfc(x) / t in t = 1 / (1 + 0.3 x), 0 <= x, up to where e^{-x^2} is no normal number",
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


def fit(f, a, b, allowed):
    for terms in range(3, 60):
        coefficients, error = mp.chebyfit(f, [a, b], terms, error=True)
        if error <= allowed:
            return coefficients[::-1]
    raise ValueError("no fit")


def digits(c, bits):
    return mp.nstr(c, 9 if bits == 24 else 17, min_fixed=0, max_fixed=0)


def coefficients(function, bits):
    f, interval, weight, _ = FITS[function]
    return fit(f, *(interval(bits) if callable(interval) else interval), mp.mpf(2) ** (-bits - 4) / weight)


def cpp():
    print("// Made by csrc/coefficients.py: coefficients of rising powers.")
    print("#pragma once\n\nnamespace fusegrad {\n\ntemplate <class Scalar>\nstruct Coefficients;\n")
    for name, bits in TYPES.items():
        print(f"template <>\nstruct Coefficients<{name}> {{")
        for function, (*_, says) in FITS.items():
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
        print(f"\n\n@jit\ndef {function}_series(x):\n    # {says}")
        for head, bits in (("if x.dtype == tl.float64:", 53), ("else:", 24)):
            values = ", ".join(digits(c, bits) for c in coefficients(function, bits))
            print(f"    {head}\n        return polynomial(x, ({values}))")


if __name__ == "__main__":
    {"cpp": cpp, "triton": triton}[sys.argv[1]]()
