"""The functions that an activation is written with. On tensors they are torch's; on the expressions that an activation
is derived from they are expressions.

    >>> import torch
    >>> from fusegrad.activations import primitives as f
    >>> wave = lambda z: f.sin(z) * f.exp(-z * z)
    >>> wave(torch.zeros(2))
    tensor([0., 0.])
    >>> from fusegrad.activations.generate import derive, torch_formulas
    >>> torch_formulas(derive("wave", wave)).first(torch.ones(2), torch.zeros(2), 0.0)
    tensor([1., 1.])
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _apply(name: str, on_tensors: Callable, args: tuple) -> Any:
    traced = sys.modules.get(f"{__package__}.traced")  # who has an expression has imported it
    if traced is not None and any(isinstance(a, traced.Traced) for a in args):
        return traced.call(name, args)
    if any(isinstance(a, Tensor) for a in args):
        return on_tensors(*args)
    sympy = sys.modules.get("sympy")
    if sympy is None or not any(isinstance(a, sympy.Basic) for a in args):
        kinds = ", ".join(type(a).__name__ for a in args)
        raise TypeError(f"{name}: need a tensor or the expression of an activation, got {kinds}")
    from .expression import FUNCTIONS

    return FUNCTIONS[name](*args)


def exp(x):
    """e^x."""
    return _apply("exp", torch.exp, (x,))


def log1p(x):
    """log(1 + x), right near 0."""
    return _apply("log1p", torch.log1p, (x,))


def expm1(x):
    """e^x - 1, right near 0."""
    return _apply("expm1", torch.expm1, (x,))


def log(x):
    """The natural logarithm."""
    return _apply("log", torch.log, (x,))


def sqrt(x):
    """√x."""
    return _apply("sqrt", torch.sqrt, (x,))


def tanh(x):
    """The hyperbolic tangent."""
    return _apply("tanh", torch.tanh, (x,))


def sigmoid(x):
    """1 / (1 + e^{-x})."""
    return _apply("sigmoid", torch.sigmoid, (x,))


def erf(x):
    """The error function, 2/√π ∫ e^{-t²} dt from 0 to x."""
    return _apply("erf", torch.erf, (x,))


def sin(x):
    """The sine."""
    return _apply("sin", torch.sin, (x,))


def cos(x):
    """The cosine."""
    return _apply("cos", torch.cos, (x,))


def softplus(x):
    """log(1 + e^x)."""
    return _apply("softplus", lambda x: F.softplus(x, threshold=50), (x,))


def abs(x):
    """|x|; its derivative is 0 at 0."""
    return _apply("abs", torch.abs, (x,))


def sign(x):
    """1 above 0, -1 below, 0 at 0."""
    return _apply("sign", torch.sign, (x,))


def where(holds, then, other):
    """`then` where the condition holds, else `other`; the condition compares: z > 0, (z > -1) & (z < 1)."""
    return _apply("where", torch.where, (holds, then, other))


def clamp(x, low, high):
    """x between two numbers: low below it, high above. The derivative at the bounds is that inside, as torch's."""
    return _apply("clamp", torch.clamp, (x, low, high))


def maximum(x, y):
    """The larger of two; at equal ones the derivative is that of y."""
    return _apply("maximum", lambda x, y: _pair(torch.maximum, x, y), (x, y))


def minimum(x, y):
    """The smaller of two; at equal ones the derivative is that of y."""
    return _apply("minimum", lambda x, y: _pair(torch.minimum, x, y), (x, y))


def _pair(fn: Callable, x: Any, y: Any) -> Tensor:
    like = x if isinstance(x, Tensor) else y
    return fn(torch.as_tensor(x).to(like), torch.as_tensor(y).to(like))


# those of the library's own definitions


def is_nan(x):
    return _apply("is_nan", torch.isnan, (x,))


def cdf(x):
    """Φ, of the normal distribution."""
    return _apply("cdf", torch.special.ndtr, (x,))


def sech2(x):
    """1 - tanh(x)²."""
    return _apply("sech2", lambda x: 1 / torch.cosh(x).square(), (x,))


def half_decay(x):
    """e^{x/2} of x <= 0, and 1 of others."""
    return _apply("half_decay", lambda x: torch.exp(x.clamp(max=0) / 2), (x,))


def tanh_softplus(x):
    """tanh(log(1 + e^x))."""
    return _apply("tanh_softplus", lambda x: torch.tanh(softplus(x)), (x,))


def sqrt_of_squares(x, w):
    """√(x² + w), w > 0 the parameter, also where x² would overflow."""
    return _apply("sqrt_of_squares", lambda x, w: torch.hypot(x, torch.as_tensor(w).to(x).sqrt()), (x, w))
