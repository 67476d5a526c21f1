"""The registry of activations: the one list that everything else reads.

Each entry gives, in torch, the function and its first three derivatives: three, since training on a Laplacian needs
the third. They are functions of what the activation saves for backward, `s`: its input z, or its output y where that
is enough (the next layer saves y anyway, so then z is never stored). With D_0 = act and D_1 = act'(z) in terms of s,

    D_{k+1} = d D_k / d s      for k >= 1,

so one rule serves both kinds (_act.py). Above order 3 torch differentiates `third` (reference.py).

`value` and `first` are torch's own kernels where torch has one: they define what "as stock" means. `second` and
`third` are right to the last digits wherever they are normal numbers, in both tails
(tests/test_precision.py), and so is `first` in the kernels. They stay finite for arguments of any size: where a product
of zero and infinity could arise the argument is clamped to a range outside which the result has already rounded to its
limit in float64.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import formulas as f

aten = torch.ops.aten


def as_float(number: object) -> float | None:
    """A real number, NumPy's included, as the float that an op takes; None for all else."""
    real = isinstance(number, (numbers.Real, torch.SymInt, torch.SymFloat)) and not isinstance(number, bool)
    return float(number) if real else None  # type: ignore[arg-type]  # it is real


@dataclass(frozen=True)
class Activation:
    """One activation: formula, derivatives, what it saves, and the stock modules and functions it stands for."""

    name: str
    formula: str
    saves: Literal["input", "output"]
    value: Callable[[Tensor, float], Tensor]  # (z, param) -> act(z)
    first: Callable[[Tensor, Tensor, float], Tensor]  # (g, s, param) -> g D_1(s)
    second: Callable[[Tensor, float], Tensor]  # (s, param) -> D_2(s)
    third: Callable[[Tensor, float], Tensor]  # (s, param) -> D_3(s)
    param: str | None = None  # what torch calls the parameter
    default: float = 0.0
    legal: tuple[str, Callable[[float], bool]] = ("finite", lambda p: True)
    module: type[nn.Module] | None = None  # the stock module
    functions: tuple[Callable, ...] = ()  # stock functions
    methods: tuple[str, ...] = ()  # stock Tensor methods
    options: dict[str, Any] = field(default_factory=dict)  # what their other options must be, in positional order
    autocast_to_float32: bool = False  # autocast runs the stock function in float32, but on a CPU
    stock_derives_twice: bool = True  # torch can differentiate the stock function twice

    @property
    def saves_input(self) -> bool:
        return self.saves == "input"

    def check(self, op: str, param: float | None) -> float:
        """The value of the parameter: the default for None; ValueError if it is not legal or there is none."""
        if param is None:
            return self.default
        if self.param is None:
            raise ValueError(f"{op}: act={self.name!r} takes no param, got {param!r}")
        value = as_float(param)
        if value is None:
            raise TypeError(f"{op}: param ({self.param} of {self.name!r}) must be a number, got {param!r}")
        if not self.accepts(value):
            raise ValueError(f"{op}: param ({self.param} of {self.name!r}) must be {self.legal[0]}, got {param!r}")
        return value

    def accepts(self, param: object) -> bool:
        """Whether this is a number, and legal. Comparisons only, nothing raised: a compiler can trace them."""
        value = as_float(param)
        return value is not None and abs(value) < math.inf and self.legal[1](value)


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
            second=f.zero, third=f.zero,
        ),
        Activation(
            "relu", "max(z, 0)", OUTPUT,
            value=lambda z, _: torch.relu(z),
            first=lambda g, y, _: aten.threshold_backward(g, y, 0),
            second=f.zero, third=f.zero,
            module=nn.ReLU, functions=(F.relu, torch.relu, F.relu_, torch.relu_), methods=("relu", "relu_"),
        ),
        Activation(
            "relu6", "min(max(z, 0), 6)", OUTPUT,
            value=lambda z, _: F.hardtanh(z, 0.0, 6.0),
            first=lambda g, y, _: aten.hardtanh_backward(g, y, 0.0, 6.0),
            second=f.zero, third=f.zero,
            module=nn.ReLU6, functions=(F.relu6,),
        ),
        Activation(
            "relu_squared", "max(z, 0)^2", INPUT,
            value=f.relu_squared,
            first=f.relu_squared_first,
            second=f.relu_squared_second, third=f.zero,
        ),
        Activation(
            "leaky_relu", "z if z > 0 else param z", OUTPUT,
            value=lambda z, slope: F.leaky_relu(z, slope),
            first=lambda g, y, slope: aten.leaky_relu_backward(g, y, slope, True),
            second=f.zero, third=f.zero,
            param="negative_slope", default=0.01, legal=NON_NEGATIVE,
            module=nn.LeakyReLU, functions=(F.leaky_relu, F.leaky_relu_),
        ),
        Activation(
            "elu", "z if z > 0 else param (e^z - 1)", INPUT,
            value=lambda z, alpha: F.elu(z, alpha),
            first=lambda g, z, alpha: aten.elu_backward(g, alpha, 1, 1, False, z),
            second=f.elu_higher, third=f.elu_higher,
            param="alpha", default=1.0, legal=NON_NEGATIVE,
            module=nn.ELU, functions=(F.elu, F.elu_),
        ),
        Activation(
            "selu", "λ (z if z > 0 else α (e^z - 1)), λ = 1.0507, α = 1.6733", INPUT,
            value=lambda z, _: F.selu(z),
            first=lambda g, z, _: aten.elu_backward(g, SELU_ALPHA, SELU_SCALE, 1, False, z),
            second=lambda z, _: f.elu_higher(z, SELU_ALPHA * SELU_SCALE),
            third=lambda z, _: f.elu_higher(z, SELU_ALPHA * SELU_SCALE),
            module=nn.SELU, functions=(F.selu, torch.selu, F.selu_, torch.selu_),
        ),
        Activation(
            "celu", "z if z > 0 else param (e^{z/param} - 1)", INPUT,
            value=lambda z, alpha: F.celu(z, alpha),
            first=lambda g, z, alpha: aten.elu_backward(g, alpha, 1, 1 / alpha, False, z),
            second=lambda z, alpha: f.elu_higher(z, 1 / alpha, alpha),
            third=lambda z, alpha: f.elu_higher(z, 1 / alpha**2, alpha),
            param="alpha", default=1.0, legal=POSITIVE,
            module=nn.CELU, functions=(F.celu, torch.celu, F.celu_, torch.celu_),
        ),
        Activation(
            "gelu", "z Φ(z)", INPUT,
            value=lambda z, _: F.gelu(z),
            first=lambda g, z, _: aten.gelu_backward(g, z),
            second=f.gelu_second, third=f.gelu_third,
            module=nn.GELU, functions=(F.gelu,), options={"approximate": "none"},
        ),
        Activation(
            "gelu_tanh", "z/2 (1 + tanh(√(2/π) (z + 0.044715 z^3)))", INPUT,
            value=lambda z, _: F.gelu(z, approximate="tanh"),
            first=lambda g, z, _: aten.gelu_backward(g, z, approximate="tanh"),
            second=f.gelu_tanh_second, third=f.gelu_tanh_third,
            module=nn.GELU, functions=(F.gelu,), options={"approximate": "tanh"},
        ),
        Activation(
            "quick_gelu", "z σ(1.702 z)", INPUT,
            value=f.quick_gelu, first=f.quick_gelu_first,
            second=f.swish_second(f.QUICK_K), third=f.swish_third(f.QUICK_K),
        ),
        Activation(
            "silu", "z σ(z)", INPUT,
            value=lambda z, _: F.silu(z),
            first=lambda g, z, _: aten.silu_backward(g, z),
            second=f.swish_second(1.0), third=f.swish_third(1.0),
            module=nn.SiLU, functions=(F.silu,),
        ),
        Activation(
            "mish", "z tanh(log(1 + e^z))", INPUT,
            value=lambda z, _: F.mish(z),
            first=lambda g, z, _: aten.mish_backward(g, z),
            second=f.mish_second, third=f.mish_third,
            module=nn.Mish, functions=(F.mish,),
        ),
        Activation(
            "softplus", "log(1 + e^{param z}) / param; its value is z where param z > 20, as torch's", INPUT,
            value=lambda z, beta: F.softplus(z, beta),
            first=f.softplus_first,
            second=f.softplus_second, third=f.softplus_third,
            param="beta", default=1.0, legal=POSITIVE,
            module=nn.Softplus, functions=(F.softplus,), options={"threshold": 20}, autocast_to_float32=True,
        ),
        Activation(
            "softsign", "z / (1 + |z|)", INPUT,
            value=f.softsign, first=f.softsign_first,
            second=f.softsign_second, third=f.softsign_third,
            module=nn.Softsign, functions=(F.softsign,),
        ),
        Activation(
            "sigmoid", "1 / (1 + e^{-z})", OUTPUT,
            value=lambda z, _: torch.sigmoid(z),
            first=lambda g, y, _: aten.sigmoid_backward(g, y),
            second=lambda y, _: 1 - 2 * y, third=f.constant(-2),
            module=nn.Sigmoid, functions=(torch.sigmoid, F.sigmoid, torch.special.expit), methods=("sigmoid",),
        ),
        Activation(
            "logsigmoid", "log σ(z)", INPUT,
            value=lambda z, _: F.logsigmoid(z), first=f.logsigmoid_first,
            second=f.logsigmoid_second, third=f.logsigmoid_third,
            module=nn.LogSigmoid, functions=(F.logsigmoid,),
        ),
        Activation(
            "tanh", "tanh z", OUTPUT,
            value=lambda z, _: torch.tanh(z),
            first=lambda g, y, _: aten.tanh_backward(g, y),
            second=lambda y, _: -2 * y, third=f.constant(-2),
            module=nn.Tanh, functions=(torch.tanh, F.tanh), methods=("tanh",),
        ),
        Activation(
            "tanhshrink", "z - tanh z", INPUT,
            value=f.tanhshrink, first=f.tanhshrink_first,
            second=f.tanhshrink_second, third=f.tanhshrink_third,
            module=nn.Tanhshrink, functions=(F.tanhshrink,),
        ),
        Activation(
            "hardswish", "z min(max(z + 3, 0), 6) / 6", INPUT,
            value=lambda z, _: F.hardswish(z),
            first=lambda g, z, _: aten.hardswish_backward(g, z),
            second=lambda z, _: f.where((z > -3) & (z < 3), 1 / 3, z), third=f.zero,
            module=nn.Hardswish, functions=(F.hardswish,),
        ),
        Activation(
            "hardsigmoid", "min(max(z + 3, 0), 6) / 6", INPUT,
            value=lambda z, _: F.hardsigmoid(z),
            first=lambda g, z, _: torch.where((z > -3) & (z < 3), g / 6, 0.0),  # torch's has 1/6 as a float32
            second=f.zero, third=f.zero,
            module=nn.Hardsigmoid, functions=(F.hardsigmoid,), stock_derives_twice=False,
        ),
        Activation(
            "hardtanh", "min(max(z, -1), 1)", OUTPUT,
            value=lambda z, _: F.hardtanh(z),
            first=lambda g, y, _: aten.hardtanh_backward(g, y, -1.0, 1.0),
            second=f.zero, third=f.zero,
            module=nn.Hardtanh, functions=(F.hardtanh, F.hardtanh_), options={"min_val": -1.0, "max_val": 1.0},
        ),
        Activation(
            "sin", "sin(param z)", INPUT,
            value=f.sin, first=f.sin_first,
            second=f.sin_second, third=f.sin_third,
            param="omega", default=1.0,
            functions=(torch.sin,), methods=("sin",),
        ),
        Activation(
            "exp", "e^z", OUTPUT,
            value=lambda z, _: torch.exp(z),
            first=lambda g, y, _: g * y,
            second=f.constant(1), third=f.zero,
            functions=(torch.exp,), methods=("exp",), autocast_to_float32=True,
        ),
        Activation(
            "square", "z^2", INPUT,
            value=lambda z, _: torch.square(z),
            first=f.square_first,
            second=f.constant(2), third=f.zero,
            functions=(torch.square,), methods=("square",), autocast_to_float32=True,
        ),
    )
}  # fmt: skip


def lookup(op: str, act: str) -> Activation:
    """The entry of a name, or a ValueError that lists the names."""
    try:
        return REGISTRY[act]
    except (KeyError, TypeError):
        raise ValueError(f"{op}: unknown act {act!r}; known: {', '.join(REGISTRY)}") from None
