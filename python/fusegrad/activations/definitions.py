"""Every activation, once: its value as an expression of z and its parameter, and what is known of it.

Its derivatives follow from the value (derive.py). Where numerics or torch's conventions ask for something else a
derivative is stated, with the reason beside it; what comes above follows from that one. Of what saves its output y the
first is stated, as a function of y. torch_value and torch_first are torch's own kernels where there are some: they say
what "as stock" means.

    python -m fusegrad.activations.generate      writes the C++, the Triton and the torch of all, after a change here
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from .definition import Definition
from .primitives import (
    abs,
    cdf,
    clamp,
    cos,
    exp,
    expm1,
    half_decay,
    is_nan,
    minimum,
    sech2,
    sigmoid,
    sin,
    softplus,
    sqrt_of_squares,
    tanh,
    tanh_softplus,
    where,
)

aten = torch.ops.aten

OUTPUT: Literal["output"] = "output"
NON_NEGATIVE = ("finite and >= 0", lambda p: p >= 0)
POSITIVE = ("finite and > 0", lambda p: p > 0)

SELU_ALPHA = 1.6732632423543772848170429916717  # Klambauer et al., arXiv:1706.02515
SELU_SCALE = 1.0507009873554804934193349852946


LINEAR_PIECES = [
    Definition(
        name="identity", formula="z", saves=OUTPUT,
        value=lambda z: z, first=lambda y: 1,
    ),
    Definition(
        name="relu", formula="max(z, 0)", saves=OUTPUT,
        value=lambda z: where(z < 0, 0, z), first=lambda y: where(y <= 0, 0, 1),
        torch_value=lambda z, _: torch.relu(z),
        torch_first=lambda g, y, _: aten.threshold_backward(g, y, 0),
        module=nn.ReLU, functions=(F.relu, torch.relu, F.relu_, torch.relu_), methods=("relu", "relu_"),
    ),
    Definition(
        name="relu6", formula="min(max(z, 0), 6)",
        value=lambda z: clamp(z, 0, 6), first=lambda z: where((z <= 0) | (z >= 6), 0, 1),
        torch_value=lambda z, _: F.hardtanh(z, 0.0, 6.0),
        torch_first=lambda g, z, _: aten.hardtanh_backward(g, z, 0.0, 6.0),
        module=nn.ReLU6, functions=(F.relu6,),
    ),
    Definition(
        name="leaky_relu", formula="z if z > 0 else param z",
        value=lambda z, slope: where(z > 0, z, slope * z), first=lambda z, slope: where(z > 0, 1, slope),
        torch_value=lambda z, slope: F.leaky_relu(z, slope),
        torch_first=lambda g, z, slope: aten.leaky_relu_backward(g, z, slope, False),
        param="negative_slope", default=0.01, legal=NON_NEGATIVE,
        module=nn.LeakyReLU, functions=(F.leaky_relu, F.leaky_relu_),
    ),
    Definition(
        name="leaky_relu_in_place", formula="z if z > 0 else param z, saved as torch does where it writes in place",
        saves=OUTPUT,
        value=lambda z, slope: where(z > 0, z, slope * z), first=lambda y, slope: where(y > 0, 1, slope),
        torch_value=lambda z, slope: F.leaky_relu(z, slope),
        torch_first=lambda g, y, slope: aten.leaky_relu_backward(g, y, slope, True),
        param="negative_slope", default=0.01, legal=NON_NEGATIVE,
    ),
    Definition(
        name="hardtanh", formula="min(max(z, -1), 1)",
        value=lambda z: clamp(z, -1, 1), first=lambda z: where((z <= -1) | (z >= 1), 0, 1),
        torch_value=lambda z, _: F.hardtanh(z),
        torch_first=lambda g, z, _: aten.hardtanh_backward(g, z, -1.0, 1.0),
        module=nn.Hardtanh, functions=(F.hardtanh, F.hardtanh_), options={"min_val": -1.0, "max_val": 1.0},
    ),
    Definition(
        name="hardsigmoid", formula="min(max(z + 3, 0), 6) / 6",
        value=lambda z: clamp(z + 3, 0, 6) / 6, first=lambda z: where((z > -3) & (z < 3), 1, 0) / 6,  # torch's at ±3
        torch_value=lambda z, _: F.hardsigmoid(z),  # but not its derivative, which has 1/6 as a float32
        module=nn.Hardsigmoid, functions=(F.hardsigmoid,), stock_derives_twice=False,
    ),
    Definition(
        name="hardswish", formula="z min(max(z + 3, 0), 6) / 6",
        value=lambda z: z * clamp(z + 3, 0, 6) / 6,
        first=lambda z: where(z >= 3, 1, where(z <= -3, 0, z / 3 + 1 / 2)),  # no infinity times 0; torch's at ±3
        second=lambda z: where((z > -3) & (z < 3), 1, 0) / 3,
        torch_value=lambda z, _: F.hardswish(z),
        torch_first=lambda g, z, _: aten.hardswish_backward(g, z),
        module=nn.Hardswish, functions=(F.hardswish,),
    ),
    Definition(
        name="relu_squared", formula="max(z, 0)^2",  # So et al., arXiv:2109.08668
        value=lambda z: where(z < 0, 0, z) ** 2,
        first=lambda z: where(z < 0, 0, z) * 2,  # NaN gives NaN, as it does where the square is differentiated
        second=lambda z: where(z > 0, 2, 0),  # 0 at 0, as torch has it
    ),
]  # fmt: skip

# Above 0 linear, below a multiple of e^v - 1. At 0 the first is that of below, and torch takes the higher ones to be 0.
# The exponential in halves: the factor may be large where e^v is small.
ELU_FAMILY = [
    Definition(
        name="elu", formula="z if z > 0 else param (e^z - 1)",
        value=lambda z, alpha: where(z <= 0, alpha * expm1(z), z),
        first=lambda z, alpha: where(z > 0, 1, alpha * half_decay(z) ** 2),
        second=lambda z, alpha: where(z >= 0, 0, alpha * half_decay(z) ** 2),
        torch_value=lambda z, alpha: F.elu(z, alpha),
        torch_first=lambda g, z, alpha: aten.elu_backward(g, alpha, 1, 1, False, z),
        param="alpha", default=1.0, legal=NON_NEGATIVE,
        module=nn.ELU, functions=(F.elu, F.elu_),
    ),
    Definition(
        name="selu", formula="λ (z if z > 0 else α (e^z - 1)), λ = 1.0507, α = 1.6733",
        constants={"ALPHA": SELU_ALPHA, "SCALE": SELU_SCALE},
        value=lambda z, alpha, scale: where(z <= 0, scale * alpha * expm1(z), scale * z),
        first=lambda z, alpha, scale: where(z > 0, scale, scale * alpha * half_decay(z) ** 2),
        second=lambda z, alpha, scale: where(z >= 0, 0, scale * alpha * half_decay(z) ** 2),
        torch_value=lambda z, _: F.selu(z),
        torch_first=lambda g, z, _: aten.elu_backward(g, SELU_ALPHA, SELU_SCALE, 1, False, z),
        module=nn.SELU, functions=(F.selu, torch.selu, F.selu_, torch.selu_),
    ),
    Definition(
        name="celu", formula="z if z > 0 else param (e^{z/param} - 1)",
        value=lambda z, alpha: where(z <= 0, alpha * expm1(z / alpha), z),
        first=lambda z, alpha: where(z > 0, 1, half_decay(z / alpha) ** 2),
        second=lambda z, alpha: where(z >= 0, 0, half_decay(z / alpha) ** 2 / alpha),
        torch_value=lambda z, alpha: F.celu(z, alpha),
        torch_first=lambda g, z, alpha: aten.elu_backward(g, alpha, 1, 1 / alpha, False, z),
        param="alpha", default=1.0, legal=POSITIVE,
        module=nn.CELU, functions=(F.celu, torch.celu, F.celu_, torch.celu_),
    ),
]  # fmt: skip

GATED = [
    Definition(
        name="gelu", formula="z Φ(z)", bound=40,  # z^4 φ(z) < 1e-300 beyond
        value=lambda z: z * cdf(z),
        torch_value=lambda z, _: F.gelu(z),
        torch_first=lambda g, z, _: aten.gelu_backward(g, z),
        module=nn.GELU, functions=(F.gelu,), options={"approximate": "none"},
    ),
    Definition(  # Hendrycks & Gimpel, arXiv:1606.08415
        name="gelu_tanh", formula="z/2 (1 + tanh(√(2/π) (z + 0.044715 z^3)))", bound=22,  # there all is below 1e-300
        constants={"A": 0.044715, "C": math.sqrt(2 / math.pi)},
        value=lambda z, a, c: z * sigmoid(2 * c * (z + a * z**3)),  # (1 + tanh u) / 2 = σ(2u)
        torch_value=lambda z, _: F.gelu(z, approximate="tanh"),
        torch_first=lambda g, z, _: aten.gelu_backward(g, z, approximate="tanh"),
        module=nn.GELU, functions=(F.gelu,), options={"approximate": "tanh"},
    ),
    Definition(  # Hendrycks & Gimpel, arXiv:1606.08415
        name="quick_gelu", formula="z σ(1.702 z)", constants={"K": 1.702},
        value=lambda z, k: z * sigmoid(k * z),
    ),
    Definition(
        name="silu", formula="z σ(z)",
        value=lambda z: z * sigmoid(z),
        torch_value=lambda z, _: F.silu(z),
        torch_first=lambda g, z, _: aten.silu_backward(g, z),
        module=nn.SiLU, functions=(F.silu,),
    ),
    Definition(  # Ramachandran et al., arXiv:1710.05941
        name="swish", formula="z σ(param z)", param="beta", default=1.0,
        value=lambda z, beta: z * sigmoid(beta * z),
    ),
    Definition(
        name="mish", formula="z tanh(log(1 + e^z))",
        value=lambda z: z * tanh_softplus(z),
        torch_value=lambda z, _: F.mish(z),
        torch_first=lambda g, z, _: aten.mish_backward(g, z),
        module=nn.Mish, functions=(F.mish,),
    ),
]  # fmt: skip


def squareplus(z, root, b):
    """(z + root) / 2; below 0 the sum would cancel."""
    return where(z > 0, z + root, b / (root - minimum(z, 0))) / 2  # where it is not taken there is no division by 0


def squareplus_first(z, root, b):
    """The same by root, as one quotient: mm_dact would spill on sm_100 with two. Scaled, or the product overflows."""
    return where(z > 0, z + root, b / 2**24) / where(z > 0, root, root / 2**24 * (root - z)) / 2


def squareplus_fourth(root, b):
    """By z² = root² - b. Squares of z and root overflow, so b / root² is held apart, by bounds that it has."""
    return b / root**5 * (12 - 15 * clamp(b / root**2, 0, 1)) / 2


def squareplus_fifth(z, root, b):
    return b * z / root**7 * (105 * clamp(b / root**2, 0, 1) - 60) / 2


SIGMOIDAL = [
    Definition(
        name="softplus", formula="log(1 + e^{param z}) / param; its value is z where param z > 20, as torch's",
        # NaN by the condition: otherwise the product of linear_act spills registers on sm_90
        value=lambda z, beta: where((beta * z > 20) | is_nan(beta * z), z, softplus(beta * z) / beta),
        first=lambda z, beta: sigmoid(beta * z),  # there too
        torch_value=lambda z, beta: F.softplus(z, beta),
        param="beta", default=1.0, legal=POSITIVE,
        module=nn.Softplus, functions=(F.softplus,), options={"threshold": 20}, autocast_to_float32=True,
    ),
    Definition(  # Schütt et al., arXiv:1706.08566
        name="shifted_softplus", formula="log(1 + e^z) - log 2", constants={"LN_2": math.log(2)},
        value=lambda z, ln_2: softplus(z) - ln_2,
    ),
    Definition(  # Barron, arXiv:2112.11687
        name="squareplus", formula="(z + √(z^2 + param)) / 2", param="b", default=4.0, legal=POSITIVE,
        bound=1e33,  # so that nothing overflows on the way; the first is 1 there, the others are 0 in float32
        value=lambda z, b: squareplus(z, sqrt_of_squares(z, b), b),
        first=lambda z, b: squareplus_first(z, sqrt_of_squares(z, b), b),
        second=lambda z, b: b / sqrt_of_squares(z, b) ** 3 / 2,
        fourth=lambda z, b: squareplus_fourth(sqrt_of_squares(z, b), b),
        fifth=lambda z, b: squareplus_fifth(z, sqrt_of_squares(z, b), b),
    ),
    Definition(
        name="softsign", formula="z / (1 + |z|)",
        value=lambda z: z / (1 + abs(z)),
        module=nn.Softsign, functions=(F.softsign,),
    ),
    Definition(
        name="sigmoid", formula="1 / (1 + e^{-z})", saves=OUTPUT,
        value=lambda z: sigmoid(z), first=lambda y: (1 - y) * y,
        torch_value=lambda z, _: torch.sigmoid(z),
        torch_first=lambda g, y, _: aten.sigmoid_backward(g, y),
        module=nn.Sigmoid, functions=(torch.sigmoid, F.sigmoid, torch.special.expit), methods=("sigmoid",),
    ),
    Definition(
        name="logsigmoid", formula="log σ(z)",
        value=lambda z: -softplus(-z),
        torch_value=lambda z, _: F.logsigmoid(z),
        module=nn.LogSigmoid, functions=(F.logsigmoid,),
    ),
    Definition(
        name="tanh", formula="tanh z", saves=OUTPUT,
        value=lambda z: tanh(z), first=lambda y: (1 - y) * (1 + y),
        torch_value=lambda z, _: torch.tanh(z),
        torch_first=lambda g, y, _: aten.tanh_backward(g, y),
        module=nn.Tanh, functions=(torch.tanh, F.tanh), methods=("tanh",),
    ),
    Definition(
        name="tanhshrink", formula="z - tanh z",
        value=lambda z: z - tanh(z),
        first=lambda z: where(abs(z) > 0.5, 1 - sech2(z), tanh(z) ** 2),  # near 0 the difference would cancel
        second=lambda z: 2 * tanh(z) * sech2(z),
        third=lambda z: 2 * sech2(z) * (1 - 3 * tanh(z) ** 2),  # sech² once: twice it has twice the error
        module=nn.Tanhshrink, functions=(F.tanhshrink,),
    ),
]  # fmt: skip

WAVES_AND_POWERS = [
    Definition(
        name="sin", formula="sin(param z)", param="omega", default=1.0,
        value=lambda z, omega: sin(omega * z),
        functions=(torch.sin,), methods=("sin",),
    ),
    Definition(  # Liu et al., arXiv:2006.08195
        name="snake", formula="z + sin^2(param z) / param", param="a", default=1.0, legal=POSITIVE,
        value=lambda z, a: z + sin(a * z) ** 2 / a,
        first=lambda z, a: (sin(a * z) + cos(a * z)) ** 2,  # right near its zeros, which are double
    ),
    Definition(  # the real part of Saragadam et al., arXiv:2301.05187
        name="morlet", formula="cos(param z) e^{-z^2 / 2}", param="omega", default=5.0, bound=40,
        value=lambda z, omega: cos(omega * z) * exp(-(z**2) / 2),
    ),
    Definition(
        name="gaussian", formula="e^{-z^2}", bound=40,  # z^3 e^{-z²} < 1e-300 beyond
        value=lambda z: exp(-(z**2)),
    ),
    Definition(
        name="exp", formula="e^z", saves=OUTPUT,
        value=lambda z: exp(z), first=lambda y: y,
        torch_value=lambda z, _: torch.exp(z),
        functions=(torch.exp,), methods=("exp",), autocast_to_float32=True,
    ),
    Definition(
        name="square", formula="z^2",
        value=lambda z: z**2,
        torch_value=lambda z, _: torch.square(z),
        functions=(torch.square,), methods=("square",), autocast_to_float32=True,
    ),
]  # fmt: skip

FAMILIES = {
    "pieces": LINEAR_PIECES,
    "elu": ELU_FAMILY,
    "gated": GATED,
    "sigmoidal": SIGMOIDAL,
    "waves": WAVES_AND_POWERS,
}
DEFINITIONS = {d.name: d for family in FAMILIES.values() for d in family}
