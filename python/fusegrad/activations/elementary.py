"""What the formulas are made of, in torch, as csrc/elementary.h and kernels/elementary.py have it.

NaN gives NaN, and infinities their limits. In-place calls are on fresh tensors only.
"""

import functools
import math
from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)  # of the normal distribution
INV_SQRT_PI = 1 / math.sqrt(math.pi)


def opmath(fn: Callable) -> Callable:
    """Run a chain of elementwise calls in float32 for 16-bit tensors, and round once at the end."""

    @functools.wraps(fn)
    def run(*args):
        dtype = args[0].dtype
        if dtype not in (torch.float16, torch.bfloat16):
            return fn(*args)
        return fn(*(a.float() if isinstance(a, Tensor) else a for a in args)).to(dtype)

    return run


class Logistic:
    """s = σ(v), c = σ(-v), root² = s c, r = c - s: right near 0 and in both tails; v clamped."""

    def __init__(self, v: Tensor):
        self.of = v

    @cached_property
    def v(self) -> Tensor:
        return self.of.clamp(-1000, 1000)

    @cached_property
    def log_s(self) -> Tensor:
        return F.logsigmoid(self.of)

    @cached_property
    def s(self) -> Tensor:  # torch.sigmoid is 0 where e^{-v} overflows, though a product with it need not be
        return torch.exp(self.log_s)

    @cached_property
    def c(self) -> Tensor:
        return torch.exp(F.logsigmoid(-self.of))

    @cached_property
    def root(self) -> Tensor:
        return torch.exp((F.logsigmoid(self.v) + F.logsigmoid(-self.v)) / 2)

    @cached_property
    def r(self) -> Tensor:
        return torch.tanh(-self.of / 2)


class Normal:
    """The normal distribution: root² = e^{-v²/2}, and Φ = step + tail root²; step is 1 above 0, else 0."""

    def __init__(self, v: Tensor):
        self.of = v

    @cached_property
    def root(self) -> Tensor:
        return torch.exp(-0.25 * self.of * self.of)

    @cached_property
    def step(self) -> Tensor:
        return (self.of > 0).to(self.of.dtype)

    @cached_property
    def tail(self) -> Tensor:
        ratio = torch.special.erfcx(self.of.abs() * math.sqrt(0.5)) / 2
        return torch.where(self.of > 0, -ratio, ratio)


class TanhSoftplus:
    """t = tanh(log(1 + e^v)), s = σ(v), c = σ(-v), b w = s (1 - t²), r = c - 2 t s; v clamped."""

    def __init__(self, v: Tensor):
        self.v = v.clamp(-1000, 1000)

    @cached_property
    def log(self) -> Tensor:
        return -F.logsigmoid(-self.v)

    @cached_property
    def t(self) -> Tensor:
        return torch.tanh(self.log)

    @cached_property
    def s(self) -> Tensor:
        return torch.exp(F.logsigmoid(self.v))

    @cached_property
    def c(self) -> Tensor:
        return torch.sigmoid(-self.v)

    @cached_property
    def w(self) -> Tensor:
        return 2 * Logistic(2 * self.log).root

    @cached_property
    def b(self) -> Tensor:
        return self.s * self.w

    @cached_property
    def r(self) -> Tensor:
        return self.c - 2 * self.t * self.s


exp, expm1, log, log1p = torch.exp, torch.expm1, torch.log, torch.log1p
sqrt, abs, sign, sigmoid, tanh = torch.sqrt, torch.abs, torch.sign, torch.sigmoid, torch.tanh
sin, cos, erf, clamp = torch.sin, torch.cos, torch.erf, torch.clamp


def softplus(v: Tensor) -> Tensor:
    return -F.logsigmoid(-v)


def half_exp(v: Tensor) -> Tensor:
    """e^{v/2}: where e^v is no normal number, a product with it twice may be one."""
    return torch.exp(v / 2)


def half_decay(v: Tensor) -> Tensor:
    """e^{v/2} of v <= 0."""
    return torch.exp(v.clamp(max=0) / 2)


def sqrt_of_squares(v: Tensor, w: float) -> Tensor:
    """√(v² + w), w > 0, also where v² would overflow."""
    return torch.hypot(v, torch.full_like(v, math.sqrt(w)))


def where(holds: Tensor, then: Tensor | float, other: Tensor | float, s: Tensor) -> Tensor:
    """In the dtype of s, also of two numbers."""
    return torch.where(holds, then if isinstance(then, Tensor) else torch.full_like(s, then), other)


def full(s: Tensor, c: float) -> Tensor:
    return torch.full_like(s, c)


def zero(s: Tensor, _: float) -> Tensor:
    return torch.zeros_like(s)
