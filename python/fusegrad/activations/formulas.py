"""Values and derivatives of the activations that torch has no kernel for, and the helpers they are made of.

Arguments are those of `activations.Activation`. In-place calls are on fresh tensors only.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


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


# --- σ in both tails: torch.sigmoid is 0 where e^{-z} overflows, though a product with it need not be -----------------


def logistic(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v clamped, root and r, with root^2 = σ(v) σ(-v) and r = σ(-v) - σ(v), right near 0 and in both tails.

    Who multiplies by the root twice gets numbers that are right where root^2 alone is no normal number.
    """
    v = v.clamp(-1000, 1000)
    return v, torch.exp((F.logsigmoid(v) + F.logsigmoid(-v)) / 2), torch.tanh(-v / 2)


def bell(u: Tensor) -> Tensor:
    """sech(u)^2 = 1 - tanh(u)^2: no cancellation in the tails, smooth at 0."""
    return (2 * logistic(2 * u)[1]).square()


# --- the elu family: above 0 linear, below it a multiple of e^v - 1, v = z / width --------------------------------


def elu_higher(z: Tensor, factor: float, width: float = 1.0) -> Tensor:
    """factor e^v below 0, in halves: the factor may be large where e^v is small. At 0 torch takes it to be 0."""
    root = torch.exp(z.clamp(max=0) / width / 2)
    return torch.where(z >= 0, 0.0, factor * root * root)


# --- gelu: y = z Φ(z), y'' = (2 - z^2) φ(z), y''' = (z^3 - 4z) φ(z); z^4 φ(z) < 1e-300 beyond 40 -------------------


def _times_density(z: Tensor, factor: Tensor) -> Tensor:
    """factor φ(z), in halves."""
    root = torch.exp(-0.25 * z * z)
    return factor / math.sqrt(2 * math.pi) * root * root


def gelu_second(z: Tensor, _: float) -> Tensor:
    z = z.clamp(-40, 40)
    return _times_density(z, 2 - z * z)


def gelu_third(z: Tensor, _: float) -> Tensor:
    z = z.clamp(-40, 40)
    return _times_density(z, (z * z - 4) * z)


# --- gelu_tanh: y = z/2 (1 + t), t = tanh u, u = c (z + a z^3), B = 1 - t^2, so t' = B u' and B' = -2 t u' B --------
# y'' = B P with P = u' + z/2 u'' - z t u'^2, and y''' = B (P' - 2 t u' P); B < 1e-300 beyond 22

GELU_C = math.sqrt(2 / math.pi)
GELU_A = 0.044715  # Hendrycks & Gimpel, arXiv:1606.08415


def _gelu_tanh(z: Tensor) -> tuple[Tensor, ...]:
    """z clamped, t, the root of B, u', u'', P."""
    z = z.clamp(-22, 22)
    u, du, ddu = GELU_C * (z + GELU_A * z**3), GELU_C * (1 + 3 * GELU_A * z * z), 6 * GELU_C * GELU_A * z
    _, root, r = logistic(2 * u)
    return z, -r, 2 * root, du, ddu, du + 0.5 * z * ddu + z * r * du * du


def gelu_tanh_second(z: Tensor, param: float) -> Tensor:
    _, _, root, _, _, p = _gelu_tanh(z)
    return p * root * root


def gelu_tanh_third(z: Tensor, _: float) -> Tensor:
    z, t, root, du, ddu, p = _gelu_tanh(z)
    dp = 1.5 * ddu + 3 * GELU_C * GELU_A * z - t * du * du - z * root * root * du**3 - 2 * z * t * du * ddu
    return (dp - 2 * t * du * p) * root * root


# --- z σ(k z): with v = k z, q = σ(v) σ(-v), r = σ(-v) - σ(v), so q' = k q r and r' = -2 k q -----------------------
# y'' = k q (2 + v r), y''' = k^2 q (r (3 + v r) - 2 v q); v q < 1e-300 beyond 1000

QUICK_K = 1.702  # Hendrycks & Gimpel, arXiv:1606.08415


def swish_second(k: float) -> Callable[[Tensor, float], Tensor]:
    def second(z: Tensor, _: float) -> Tensor:
        v, root, r = logistic(k * z)
        return (v * r).add_(2).mul_(k).mul_(root).mul_(root)

    return second


def swish_third(k: float) -> Callable[[Tensor, float], Tensor]:
    def third(z: Tensor, _: float) -> Tensor:
        v, root, r = logistic(k * z)
        return (r * (3 + v * r) - 2 * v * root * root) * (k * k) * root * root

    return third


@wide
def quick_gelu(z: Tensor, _: float) -> Tensor:
    return z * torch.sigmoid(QUICK_K * z)


@wide
def quick_gelu_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    v = (QUICK_K * z).clamp_(-1000, 1000)
    return torch.sigmoid(-v).mul_(v).add_(1).mul_(F.logsigmoid(v).exp_()).mul_(g)  # (1 + v σ(-v)) σ(v)


# --- mish: y = z t, t = tanh(p), p = log(1 + e^z); with s = σ(z), c = σ(-z), A = s (1 - t^2), R = c - 2 t s ---------
# A' = A R, R' = -s (c + 2 (A + t c)); y'' = A (2 + z R), y''' = A (R (3 + z R) + z R'); z^2 A < 1e-300 beyond 1000


def _mish(z: Tensor) -> tuple[Tensor, ...]:
    """z clamped, t, s, c, the root of 1 - t^2, R."""
    z = z.clamp(-1000, 1000)
    p, s, c = -F.logsigmoid(-z), torch.exp(F.logsigmoid(z)), torch.sigmoid(-z)
    t = torch.tanh(p)
    return z, t, s, c, 2 * logistic(2 * p)[1], c - 2 * t * s


def mish_second(z: Tensor, param: float) -> Tensor:
    z, _, s, _, root, r = _mish(z)
    return (2 + z * r) * s * root * root


def mish_third(z: Tensor, _: float) -> Tensor:
    z, t, s, c, root, r = _mish(z)
    dr = -s * (c + 2 * (s * root * root + t * c))
    return (r * (3 + z * r) + z * dr) * s * root * root


# --- softplus: y = log(1 + e^v) / β with v = β z, so y' = σ(v), y'' = β q, y''' = β^2 q r; logsigmoid: y' = σ(-z) ----


@wide
def softplus_first(g: Tensor, z: Tensor, beta: float) -> Tensor:
    return (beta * z).sigmoid_().mul_(g)


def softplus_second(z: Tensor, beta: float) -> Tensor:
    _, root, _ = logistic(beta * z)
    return beta * root * root


def softplus_third(z: Tensor, beta: float) -> Tensor:
    _, root, r = logistic(beta * z)
    return (beta * root).square() * r


@wide
def logsigmoid_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return torch.sigmoid(-z).mul_(g)


def logsigmoid_second(z: Tensor, _: float) -> Tensor:
    return -softplus_second(z, 1.0)


def logsigmoid_third(z: Tensor, _: float) -> Tensor:
    return -softplus_third(z, 1.0)


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
