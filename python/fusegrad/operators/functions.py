"""Derivatives of torch's elementwise functions up to the fourth, in torch's differentiable functions.

Of z and y = f(z), each as a function of the order, which is asked for one after another. Where torch's own derivative
is not the mathematical one (at a kink, say), it is torch's that stands here.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Derivative = Callable[[int], Tensor | None]


def power(z: Tensor, p: float) -> Derivative:
    """z^p: p (p - 1) ... z^{p-k}, zero where a factor is."""

    def d(k: int) -> Tensor | None:
        c = math.prod([p - j for j in range(k)])
        return None if c == 0 else c * (torch.ones_like(z) if p == k else z if p == k + 1 else torch.pow(z, p - k))

    return d


def _cos(z, y):
    s = torch.sin(z)
    return lambda k: (-s, -y, s, y)[k - 1]


def _log(scale: float = 1.0) -> Callable[[Tensor, Tensor], Derivative]:
    return lambda z, y: lambda k: (-1) ** (k - 1) * math.factorial(k - 1) * scale / z**k


def _log1p(z, y):
    return lambda k: (-1) ** (k - 1) * math.factorial(k - 1) / (1 + z) ** k


def _tan(z, y):
    w = 1 + y * y
    return lambda k: (lambda: w, lambda: 2 * y * w, lambda: w * (2 + 6 * y * y), lambda: w * y * (16 + 24 * y * y))[
        k - 1
    ]()


def _polynomials(*p: Callable[[Tensor], Tensor | float]) -> tuple[Callable, ...]:
    return p


def _of_root(w: Callable[[Tensor], Tensor], *p: Callable[[Tensor], Tensor | float]):
    """Derivatives p_k(z) w(z)^{-(k - 1/2)}."""
    return lambda z, y: lambda k: p[k - 1](z) * torch.pow(w(z), 0.5 - k)


def _of_quotient(w: Callable[[Tensor], Tensor], *p: Callable[[Tensor], Tensor | float]):
    """Derivatives p_k(z) w(z)^{-k}."""
    return lambda z, y: lambda k: p[k - 1](z) * torch.pow(w(z), -float(k))


def _erf(c: float):
    def of(z, y):
        g = c * torch.exp(-z * z)
        return lambda k: (lambda: g, lambda: -2 * z * g, lambda: (4 * z * z - 2) * g, lambda: z * (12 - 8 * z * z) * g)[
            k - 1
        ]()

    return of


def _abs(z, y):
    return lambda k: torch.sgn(z) if k == 1 else None


DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Derivative]] = {
    "cos": _cos,
    "log": _log(),
    "log2": _log(1 / math.log(2)),
    "log10": _log(1 / math.log(10)),
    "log1p": _log1p,
    "exp2": lambda z, y: lambda k: math.log(2) ** k * y,
    "expm1": lambda z, y: lambda k: y + 1,
    "sqrt": lambda z, y: power(z, 0.5),
    "rsqrt": lambda z, y: power(z, -0.5),
    "reciprocal": lambda z, y: power(z, -1.0),
    "sinh": lambda z, y: lambda k: torch.cosh(z) if k % 2 else y,
    "cosh": lambda z, y: lambda k: torch.sinh(z) if k % 2 else y,
    "tan": _tan,
    "asin": _of_root(
        lambda z: 1 - z * z, lambda z: 1.0, lambda z: z, lambda z: 1 + 2 * z * z, lambda z: 9 * z + 6 * z**3
    ),
    "acos": _of_root(
        lambda z: 1 - z * z, lambda z: -1.0, lambda z: -z, lambda z: -1 - 2 * z * z, lambda z: -9 * z - 6 * z**3
    ),
    "asinh": _of_root(
        lambda z: 1 + z * z, lambda z: 1.0, lambda z: -z, lambda z: 2 * z * z - 1, lambda z: 9 * z - 6 * z**3
    ),
    "acosh": _of_root(
        lambda z: z * z - 1, lambda z: 1.0, lambda z: -z, lambda z: 2 * z * z + 1, lambda z: -9 * z - 6 * z**3
    ),
    "atan": _of_quotient(
        lambda z: 1 + z * z, lambda z: 1.0, lambda z: -2 * z, lambda z: 6 * z * z - 2, lambda z: 24 * z * (1 - z * z)
    ),
    "atanh": _of_quotient(
        lambda z: 1 - z * z, lambda z: 1.0, lambda z: 2 * z, lambda z: 2 + 6 * z * z, lambda z: 24 * z * (1 + z * z)
    ),
    "erf": _erf(2 / math.sqrt(math.pi)),
    "erfc": _erf(-2 / math.sqrt(math.pi)),
    "abs": _abs,
}
SAME = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    "absolute": "abs", "__abs__": "abs",
}  # fmt: skip
