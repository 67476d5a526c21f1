"""The registry of activations: the one list that everything else reads.

Each entry gives, in torch, the function and its first two derivatives. The derivatives are functions of what
the activation keeps for backward, `s`: its input z, or its output y where that is enough (the next layer keeps
y anyway, so then z is never stored). With D_0 = act and D_1 = act'(z) written in terms of s,

    D_{k+1} = d D_k / d s      for k >= 1,

so one rule serves both kinds (ops.py). Above order 2 forward mode differentiates `second` (reference.py).

`value` and `first` are torch's own kernels where torch has one: they define what "as stock" means, in NaN and
infinity too. `second` is written so that it stays finite and differentiable for arguments of any size: where a
product of zero and infinity could arise the argument is clamped to a range outside which the result has
already rounded to its limit in float64.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """One activation: formula, derivatives, what it keeps, and the stock modules and functions it stands for."""

    name: str
    formula: str
    keeps: Literal["input", "output"]
    value: Callable[[Tensor, float], Tensor]  # (z, param) -> act(z)
    first: Callable[[Tensor, Tensor, float], Tensor]  # (g, s, param) -> g D_1(s)
    second: Callable[[Tensor, float], Tensor]  # (s, param) -> D_2(s)
    param: str | None = None  # what torch calls the parameter
    default: float = 0.0
    legal: tuple[str, Callable[[float], bool]] = ("finite", lambda p: True)
    module: type[nn.Module] | None = None  # the stock module
    functions: tuple[Callable, ...] = ()  # stock functions
    methods: tuple[str, ...] = ()  # stock Tensor methods
    options: dict[str, Any] = field(default_factory=dict)  # what their other options must be, in positional order
    widens: bool = False  # CUDA autocast runs the stock function in float32

    @property
    def keeps_input(self) -> bool:
        return self.keeps == "input"

    def check(self, op: str, param: float | None) -> float:
        """The value of the parameter: the default for None; ValueError if it is not legal or there is none."""
        if param is None:
            return self.default
        if self.param is None:
            raise ValueError(f"{op}: act={self.name!r} takes no param, got {param!r}")
        if isinstance(param, bool) or not isinstance(param, (int, float)):
            raise TypeError(f"{op}: param ({self.param} of {self.name!r}) must be a number, got {param!r}")
        says, legal = self.legal
        if not (abs(param) < math.inf and legal(param)):  # comparisons only: a compiler can trace them
            raise ValueError(f"{op}: param ({self.param} of {self.name!r}) must be {says}, got {param!r}")
        return param


def wide(fn: Callable) -> Callable:
    """Run a chain of elementwise calls in float32 for 16-bit tensors, and round once at the end."""

    @functools.wraps(fn)
    def run(*args):
        dtype = args[0].dtype
        if dtype not in (torch.float16, torch.bfloat16):
            return fn(*args)
        return fn(*(a.float() if isinstance(a, Tensor) else a for a in args)).to(dtype)

    return run


def _zero(s: Tensor, _: float) -> Tensor:
    return torch.zeros_like(s)


def _where(holds: Tensor, value: float, s: Tensor) -> Tensor:
    """value where it holds and 0 elsewhere, in the dtype of s."""
    return holds.to(s.dtype) * value


def _two_sided(s: Tensor, limit: float) -> Tensor:
    return s.clamp(-limit, limit)


def _bell(u: Tensor) -> Tensor:
    """sech(u)^2 = 4 sigmoid(2u) sigmoid(-2u): no cancellation in the tails, smooth at 0."""
    return 4 * torch.sigmoid(2 * u) * torch.sigmoid(-2 * u)


# z φ(z) < 1e-300 beyond 38: clamping there changes no digit
def _gelu_second(z: Tensor, _: float) -> Tensor:
    z = _two_sided(z, 40.0)
    return (2 - z * z) * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


GELU_C = math.sqrt(2 / math.pi)
GELU_A = 0.044715  # Hendrycks & Gimpel, arXiv:1606.08415


# y = z/2 (1 + t), t = tanh u, u = c (z + a z^3):  y'' = (1 - t^2) (u' + z/2 u'' - z t u'^2); sech^2 u < 1e-300 at 20
def _gelu_tanh_second(z: Tensor, _: float) -> Tensor:
    z = _two_sided(z, 20.0)
    u, du, ddu = GELU_C * (z + GELU_A * z**3), GELU_C * (1 + 3 * GELU_A * z * z), 6 * GELU_C * GELU_A * z
    return _bell(u) * (du + 0.5 * z * ddu - z * torch.tanh(u) * du * du)


# y = z σ(k z):  y' = σ (1 + k z (1 - σ)),  y'' = k σ (1 - σ) (2 + k z (1 - 2 σ)); σ (1 - σ) < 1e-300 at 750
def _swish_second(z: Tensor, k: float) -> Tensor:
    v = _two_sided(k * z, 1000.0)
    s, c = torch.sigmoid(v), torch.sigmoid(-v)
    return k * s * c * (2 + v * (c - s))


QUICK_K = 1.702  # Hendrycks & Gimpel, arXiv:1606.08415


@wide
def _quick_gelu(z: Tensor, _: float) -> Tensor:
    return z * torch.sigmoid(QUICK_K * z)


@wide
def _quick_gelu_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return aten.silu_backward(g, QUICK_K * z)  # d/dz [silu(kz)/k] = silu'(kz)


# y = z t, t = tanh(softplus z):  y' = t + z σ (1 - t^2),  y'' = (1 - t^2) σ (2 + z (1 - σ - 2 t σ))
def _mish_second(z: Tensor, _: float) -> Tensor:
    z = _two_sided(z, 1000.0)
    p, s, c = F.softplus(z), torch.sigmoid(z), torch.sigmoid(-z)
    return _bell(p) * s * (2 + z * (c - 2 * torch.tanh(p) * s))


# y = log(1 + e^{βz}) / β:  y' = 1 - e^{-βy}, accurate in both tails
@wide
def _softplus_first(g: Tensor, y: Tensor, beta: float) -> Tensor:
    return torch.mul(y, -beta).expm1_().neg_().mul_(g)


@wide
def _logsigmoid_first(g: Tensor, y: Tensor, _: float) -> Tensor:
    return torch.expm1(y).neg_().mul_(g)


@wide
def _softsign_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return z.abs().add_(1).square_().reciprocal_().mul_(g)


@wide
def _tanhshrink(z: Tensor, _: float) -> Tensor:
    return z - torch.tanh(z)


@wide
def _tanhshrink_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return torch.tanh(z).square_().mul_(g)


@wide
def _sin(z: Tensor, omega: float) -> Tensor:
    return torch.sin(z) if omega == 1 else torch.sin(omega * z)


@wide
def _sin_first(g: Tensor, z: Tensor, omega: float) -> Tensor:
    return torch.mul(z, omega).cos_().mul_(omega).mul_(g)


@wide
def _relu_squared(z: Tensor, _: float) -> Tensor:
    return torch.relu(z).square()


SELU_ALPHA = 1.6732632423543772848170429916717  # Klambauer et al., arXiv:1706.02515
SELU_SCALE = 1.0507009873554804934193349852946

INPUT: Literal["input"] = "input"
OUTPUT: Literal["output"] = "output"
NON_NEGATIVE = ("finite and >= 0", lambda p: p >= 0)
POSITIVE = ("finite and > 0", lambda p: p > 0)

REGISTRY: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation(
            "identity", "z", OUTPUT,
            value=lambda z, _: z.clone(),
            first=lambda g, y, _: g.clone(),
            second=_zero,
        ),
        Activation(
            "relu", "max(z, 0)", OUTPUT,
            value=lambda z, _: torch.relu(z),
            first=lambda g, y, _: aten.threshold_backward(g, y, 0),
            second=_zero,
            module=nn.ReLU, functions=(F.relu, torch.relu, F.relu_, torch.relu_), methods=("relu", "relu_"),
        ),
        Activation(
            "relu6", "min(max(z, 0), 6)", OUTPUT,
            value=lambda z, _: F.hardtanh(z, 0.0, 6.0),
            first=lambda g, y, _: aten.hardtanh_backward(g, y, 0.0, 6.0),
            second=_zero,
            module=nn.ReLU6, functions=(F.relu6,),
        ),
        Activation(
            "relu_squared", "max(z, 0)^2", INPUT,
            value=_relu_squared,
            first=wide(lambda g, z, _: torch.relu(z).mul_(2).mul_(g)),
            second=lambda z, _: _where(z > 0, 2.0, z),
        ),
        Activation(
            "leaky_relu", "z if z > 0 else param z", OUTPUT,
            value=lambda z, slope: F.leaky_relu(z, slope),
            first=lambda g, y, slope: aten.leaky_relu_backward(g, y, slope, True),
            second=_zero,
            param="negative_slope", default=0.01, legal=NON_NEGATIVE,
            module=nn.LeakyReLU, functions=(F.leaky_relu, F.leaky_relu_),
        ),
        Activation(
            "elu", "z if z > 0 else param (e^z - 1)", OUTPUT,
            value=lambda z, alpha: F.elu(z, alpha),
            first=lambda g, y, alpha: aten.elu_backward(g, alpha, 1, 1, True, y),
            second=lambda y, _: _where(y <= 0, 1.0, y),
            param="alpha", default=1.0, legal=NON_NEGATIVE,
            module=nn.ELU, functions=(F.elu, F.elu_),
        ),
        Activation(
            "selu", "λ (z if z > 0 else α (e^z - 1)), λ = 1.0507, α = 1.6733", OUTPUT,
            value=lambda z, _: F.selu(z),
            first=lambda g, y, _: aten.elu_backward(g, SELU_ALPHA, SELU_SCALE, 1, True, y),
            second=lambda y, _: _where(y <= 0, 1.0, y),
            module=nn.SELU, functions=(F.selu, torch.selu, F.selu_, torch.selu_),
        ),
        Activation(
            "celu", "z if z > 0 else param (e^{z/param} - 1)", OUTPUT,
            value=lambda z, alpha: F.celu(z, alpha),
            first=lambda g, y, alpha: aten.elu_backward(g, alpha, 1, 1 / alpha, True, y),
            second=lambda y, alpha: _where(y <= 0, 1 / alpha, y),
            param="alpha", default=1.0, legal=POSITIVE,
            module=nn.CELU, functions=(F.celu, torch.celu, F.celu_, torch.celu_),
        ),
        Activation(
            "gelu", "z Φ(z)", INPUT,
            value=lambda z, _: F.gelu(z),
            first=lambda g, z, _: aten.gelu_backward(g, z),
            second=_gelu_second,
            module=nn.GELU, functions=(F.gelu,), options={"approximate": "none"},
        ),
        Activation(
            "gelu_tanh", "z/2 (1 + tanh(√(2/π) (z + 0.044715 z^3)))", INPUT,
            value=lambda z, _: F.gelu(z, approximate="tanh"),
            first=lambda g, z, _: aten.gelu_backward(g, z, approximate="tanh"),
            second=_gelu_tanh_second,
            module=nn.GELU, functions=(F.gelu,), options={"approximate": "tanh"},
        ),
        Activation(
            "quick_gelu", "z σ(1.702 z)", INPUT,
            value=_quick_gelu, first=_quick_gelu_first,
            second=lambda z, _: _swish_second(z, QUICK_K),
        ),
        Activation(
            "silu", "z σ(z)", INPUT,
            value=lambda z, _: F.silu(z),
            first=lambda g, z, _: aten.silu_backward(g, z),
            second=lambda z, _: _swish_second(z, 1.0),
            module=nn.SiLU, functions=(F.silu,),
        ),
        Activation(
            "mish", "z tanh(log(1 + e^z))", INPUT,
            value=lambda z, _: F.mish(z),
            first=lambda g, z, _: aten.mish_backward(g, z),
            second=_mish_second,
            module=nn.Mish, functions=(F.mish,),
        ),
        Activation(
            "softplus", "log(1 + e^{param z}) / param; z where param z > 20, as torch", OUTPUT,
            value=lambda z, beta: F.softplus(z, beta),
            first=_softplus_first,
            second=lambda y, beta: beta * torch.exp(-beta * y),
            param="beta", default=1.0, legal=POSITIVE,
            module=nn.Softplus, functions=(F.softplus,), options={"threshold": 20}, widens=True,
        ),
        Activation(
            "softsign", "z / (1 + |z|)", INPUT,
            value=wide(lambda z, _: F.softsign(z)), first=_softsign_first,
            second=lambda z, _: -2 * torch.sign(z) * (1 + z.abs()).pow(-3),
            module=nn.Softsign, functions=(F.softsign,),
        ),
        Activation(
            "sigmoid", "1 / (1 + e^{-z})", OUTPUT,
            value=lambda z, _: torch.sigmoid(z),
            first=lambda g, y, _: aten.sigmoid_backward(g, y),
            second=lambda y, _: 1 - 2 * y,
            module=nn.Sigmoid, functions=(torch.sigmoid, F.sigmoid, torch.special.expit), methods=("sigmoid",),
        ),
        Activation(
            "logsigmoid", "log σ(z)", OUTPUT,
            value=lambda z, _: F.logsigmoid(z), first=_logsigmoid_first,
            second=lambda y, _: -torch.exp(y),
            module=nn.LogSigmoid, functions=(F.logsigmoid,),
        ),
        Activation(
            "tanh", "tanh z", OUTPUT,
            value=lambda z, _: torch.tanh(z),
            first=lambda g, y, _: aten.tanh_backward(g, y),
            second=lambda y, _: -2 * y,
            module=nn.Tanh, functions=(torch.tanh, F.tanh), methods=("tanh",),
        ),
        Activation(
            "tanhshrink", "z - tanh z", INPUT,
            value=_tanhshrink, first=_tanhshrink_first,
            second=lambda z, _: 2 * torch.tanh(z) * _bell(z),
            module=nn.Tanhshrink, functions=(F.tanhshrink,),
        ),
        Activation(
            "hardswish", "z min(max(z + 3, 0), 6) / 6", INPUT,
            value=lambda z, _: F.hardswish(z),
            first=lambda g, z, _: aten.hardswish_backward(g, z),
            second=lambda z, _: _where((z > -3) & (z < 3), 1 / 3, z),
            module=nn.Hardswish, functions=(F.hardswish,),
        ),
        Activation(
            "hardsigmoid", "min(max(z + 3, 0), 6) / 6", INPUT,
            value=lambda z, _: F.hardsigmoid(z),
            first=lambda g, z, _: torch.where((z > -3) & (z < 3), g / 6, 0.0),  # torch's has 1/6 as a float32
            second=_zero,
            module=nn.Hardsigmoid, functions=(F.hardsigmoid,),
        ),
        Activation(
            "hardtanh", "min(max(z, -1), 1)", OUTPUT,
            value=lambda z, _: F.hardtanh(z),
            first=lambda g, y, _: aten.hardtanh_backward(g, y, -1.0, 1.0),
            second=_zero,
            module=nn.Hardtanh, functions=(F.hardtanh, F.hardtanh_), options={"min_val": -1.0, "max_val": 1.0},
        ),
        Activation(
            "sin", "sin(param z)", INPUT,
            value=_sin, first=_sin_first,
            second=lambda z, omega: -omega * omega * torch.sin(omega * z),
            param="omega", default=1.0,
            functions=(torch.sin,), methods=("sin",),
        ),
        Activation(
            "exp", "e^z", OUTPUT,
            value=lambda z, _: torch.exp(z),
            first=lambda g, y, _: g * y,
            second=lambda y, _: torch.ones_like(y),
            functions=(torch.exp,), methods=("exp",), widens=True,
        ),
        Activation(
            "square", "z^2", INPUT,
            value=lambda z, _: torch.square(z),
            first=wide(lambda g, z, _: torch.mul(z, 2).mul_(g)),
            second=lambda z, _: torch.full_like(z, 2),
            functions=(torch.square,), methods=("square",), widens=True,
        ),
    )
}  # fmt: skip


def lookup(op: str, act: str) -> Activation:
    """The entry of a name, or a ValueError that lists the names."""
    try:
        return REGISTRY[act]
    except (KeyError, TypeError):
        raise ValueError(f"{op}: unknown act {act!r}; known: {', '.join(REGISTRY)}") from None
