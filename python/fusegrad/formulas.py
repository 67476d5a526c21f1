"""Values and derivatives of the activations that torch has no kernel for, and the helpers they are made of.

Arguments are those of `activations.Activation`. In-place calls are on fresh tensors only.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


def wide(fn: Callable) -> Callable:
    """Run a chain of elementwise calls in float32 for 16-bit tensors, and round once at the end."""

    @functools.wraps(fn)
    def run(*args):
        dtype = args[0].dtype
        if dtype not in (torch.float16, torch.bfloat16):
            return fn(*args)
        return fn(*(a.float() if isinstance(a, Tensor) else a for a in args)).to(dtype)

    return run


def zero(s: Tensor, _: float) -> Tensor:
    return torch.zeros_like(s)


def constant(c: float) -> Callable[[Tensor, float], Tensor]:
    return lambda s, _: torch.full_like(s, c)


def where(holds: Tensor, value: float, s: Tensor) -> Tensor:
    """value where it holds and 0 elsewhere, in the dtype of s."""
    return holds.to(s.dtype).mul_(value)


def bell(u: Tensor) -> Tensor:
    """sech(u)^2 = 4 sigmoid(2u) sigmoid(-2u): no cancellation in the tails, smooth at 0."""
    u = 2 * u
    return torch.sigmoid(u) * torch.sigmoid(-u) * 4


# --- gelu: y = z Φ(z), y'' = (2 - z^2) φ(z), y''' = (z^3 - 4z) φ(z); z^4 φ(z) < 1e-300 beyond 40 -------------------


def _normal_density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def gelu_second(z: Tensor, _: float) -> Tensor:
    z = z.clamp(-40, 40)
    return (2 - z * z) * _normal_density(z)


def gelu_third(z: Tensor, _: float) -> Tensor:
    z = z.clamp(-40, 40)
    return (z * z - 4) * z * _normal_density(z)


# --- gelu_tanh: y = z/2 (1 + t), t = tanh u, u = c (z + a z^3), B = 1 - t^2, so t' = B u' and B' = -2 t u' B --------
# y'' = B P with P = u' + z/2 u'' - z t u'^2, and y''' = B (P' - 2 t u' P); B < 1e-300 beyond 20

GELU_C = math.sqrt(2 / math.pi)
GELU_A = 0.044715  # Hendrycks & Gimpel, arXiv:1606.08415


def _gelu_tanh(z: Tensor) -> tuple[Tensor, ...]:
    """z clamped, t, B, u', u'', P."""
    z = z.clamp(-20, 20)
    u, du, ddu = GELU_C * (z + GELU_A * z**3), GELU_C * (1 + 3 * GELU_A * z * z), 6 * GELU_C * GELU_A * z
    t = torch.tanh(u)
    return z, t, bell(u), du, ddu, du + 0.5 * z * ddu - z * t * du * du


def gelu_tanh_second(z: Tensor, param: float) -> Tensor:
    _, _, b, _, _, p = _gelu_tanh(z)
    return b * p


def gelu_tanh_third(z: Tensor, _: float) -> Tensor:
    z, t, b, du, ddu, p = _gelu_tanh(z)
    dp = 1.5 * ddu + 3 * GELU_C * GELU_A * z - t * du * du - z * b * du**3 - 2 * z * t * du * ddu
    return b * (dp - 2 * t * du * p)


# --- z σ(k z): with v = k z, q = σ(v) σ(-v), r = σ(-v) - σ(v), so q' = k q r and r' = -2 k q -----------------------
# y'' = k q (2 + v r), y''' = k^2 q (r (3 + v r) - 2 v q); v q < 1e-300 beyond 1000

QUICK_K = 1.702  # Hendrycks & Gimpel, arXiv:1606.08415


def _swish(z: Tensor, k: float) -> tuple[Tensor, Tensor, Tensor]:
    """v clamped, q, r."""
    v = (z if k == 1 else k * z).clamp(-1000, 1000)
    s, c = torch.sigmoid(v), torch.sigmoid(-v)
    return v, s * c, c - s


def swish_second(k: float) -> Callable[[Tensor, float], Tensor]:
    def second(z: Tensor, _: float) -> Tensor:
        v, q, r = _swish(z, k)
        return (v * r).add_(2).mul_(q).mul_(k)

    return second


def swish_third(k: float) -> Callable[[Tensor, float], Tensor]:
    def third(z: Tensor, _: float) -> Tensor:
        v, q, r = _swish(z, k)
        return (v * r).add_(3).mul_(r).sub_(v * q, alpha=2).mul_(q).mul_(k * k)

    return third


@wide
def quick_gelu(z: Tensor, _: float) -> Tensor:
    return z * torch.sigmoid(QUICK_K * z)


@wide
def quick_gelu_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return aten.silu_backward(g, QUICK_K * z)  # d/dz [silu(kz)/k] = silu'(kz)


# --- mish: y = z t, t = tanh(p), p = log(1 + e^z); with s = σ(z), c = σ(-z), A = s (1 - t^2), R = c - 2 t s ---------
# A' = A R, R' = -s (c + 2 (A + t c)); y'' = A (2 + z R), y''' = A (R (3 + z R) + z R'); z^2 A < 1e-300 beyond 1000


def _mish(z: Tensor) -> tuple[Tensor, ...]:
    """z clamped, t, s, c, A, R."""
    z = z.clamp(-1000, 1000)
    p, s, c = F.softplus(z), torch.sigmoid(z), torch.sigmoid(-z)
    t = torch.tanh(p)
    return z, t, s, c, bell(p) * s, c - 2 * t * s


def mish_second(z: Tensor, param: float) -> Tensor:
    z, _, _, _, a, r = _mish(z)
    return a * (2 + z * r)


def mish_third(z: Tensor, _: float) -> Tensor:
    z, t, s, c, a, r = _mish(z)
    dr = -s * (c + 2 * (a + t * c))
    return a * (r * (3 + z * r) + z * dr)


# --- softplus: y = log(1 + e^{βz}) / β, so y' = 1 - e^{-βy}, accurate in both tails; logsigmoid likewise ------------


@wide
def softplus_first(g: Tensor, y: Tensor, beta: float) -> Tensor:
    return (-beta * y).expm1_().neg_().mul_(g)


def softplus_second(y: Tensor, beta: float) -> Tensor:
    return beta * torch.exp(-beta * y)


def softplus_third(y: Tensor, beta: float) -> Tensor:
    return -beta * beta * torch.exp(-beta * y)


@wide
def logsigmoid_first(g: Tensor, y: Tensor, _: float) -> Tensor:
    return torch.expm1(y).neg_().mul_(g)


def logsigmoid_second(y: Tensor, _: float) -> Tensor:
    return -torch.exp(y)


# --- the rest -----------------------------------------------------------------------------------------------------


@wide
def softsign(z: Tensor, _: float) -> Tensor:
    return F.softsign(z)


@wide
def softsign_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return z.abs().add_(1).square_().reciprocal_().mul_(g)


def softsign_second(z: Tensor, _: float) -> Tensor:
    return -2 * torch.sign(z) * (1 + z.abs()).pow(-3)


def softsign_third(z: Tensor, _: float) -> Tensor:
    return 6 * (1 + z.abs()).pow(-4)


@wide
def tanhshrink(z: Tensor, _: float) -> Tensor:
    return z - torch.tanh(z)


@wide
def tanhshrink_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return torch.tanh(z).square_().mul_(g)


def tanhshrink_second(z: Tensor, _: float) -> Tensor:
    return 2 * torch.tanh(z) * bell(z)


def tanhshrink_third(z: Tensor, _: float) -> Tensor:
    return 2 * bell(z) * (1 - 3 * torch.tanh(z).square())


@wide
def sin(z: Tensor, omega: float) -> Tensor:
    return torch.sin(z) if omega == 1 else torch.sin(omega * z)


@wide
def sin_first(g: Tensor, z: Tensor, omega: float) -> Tensor:
    return (omega * z).cos_().mul_(omega).mul_(g)


def sin_second(z: Tensor, omega: float) -> Tensor:
    return (omega * z).sin_().mul_(-(omega**2))


def sin_third(z: Tensor, omega: float) -> Tensor:
    return (omega * z).cos_().mul_(-(omega**3))


@wide
def relu_squared(z: Tensor, _: float) -> Tensor:
    return torch.relu(z).square()


@wide
def relu_squared_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return torch.relu(z).mul_(2).mul_(g)


def relu_squared_second(z: Tensor, _: float) -> Tensor:
    return where(z > 0, 2.0, z)


@wide
def square_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return torch.mul(z, 2).mul_(g)


def negative_part(y: Tensor, _: float) -> Tensor:
    """D_2 of the elu family, whose D_1 is linear in y below 0."""
    return where(y <= 0, 1.0, y)
