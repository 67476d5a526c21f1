# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
from torch import Tensor

from .elementary import DENSITY_AT_0, Logistic, Normal, TanhSoftplus, clamp, opmath, sigmoid


@opmath
def gelu_second(z: Tensor, _: float) -> Tensor:
    z = clamp(z, -40, 40)
    normal = Normal(z)
    return DENSITY_AT_0 * (2 - z * z) * normal.root * normal.root


@opmath
def gelu_third(z: Tensor, _: float) -> Tensor:
    z = clamp(z, -40, 40)
    normal = Normal(z)
    return DENSITY_AT_0 * (z * z - 4) * z * normal.root * normal.root


GELU_TANH_A = 0.044715
GELU_TANH_C = 0.7978845608028654


@opmath
def gelu_tanh_second(z: Tensor, _: float) -> Tensor:
    z = clamp(z, -22, 22)
    sig = Logistic((2 * GELU_TANH_C) * ((1 + GELU_TANH_A * z * z) * z))
    ddv = (12 * GELU_TANH_A * GELU_TANH_C) * z
    dv = (2 * GELU_TANH_C) * (1 + (3 * GELU_TANH_A) * z * z)
    return (ddv * z + (2 + dv * sig.r * z) * dv) * sig.root * sig.root


@opmath
def gelu_tanh_third(z: Tensor, _: float) -> Tensor:
    z = clamp(z, -22, 22)
    sig = Logistic((2 * GELU_TANH_C) * ((1 + GELU_TANH_A * z * z) * z))
    ddv = (12 * GELU_TANH_A * GELU_TANH_C) * z
    dv = (2 * GELU_TANH_C) * (1 + (3 * GELU_TANH_A) * z * z)
    return (
        (
            3 * ((4 * GELU_TANH_A * GELU_TANH_C) * z + ddv)
            + ((3 * ddv * z + (3 + dv * sig.r * z) * dv) * sig.r - 2 * dv * dv * z * sig.root * sig.root) * dv
        )
        * sig.root
        * sig.root
    )


QUICK_GELU_K = 1.702


@opmath
def quick_gelu_value(z: Tensor, _: float) -> Tensor:
    return sigmoid(QUICK_GELU_K * z) * z


@opmath
def quick_gelu_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    sig = Logistic(QUICK_GELU_K * z)
    return g * ((1 + sig.c * sig.v) * sig.s)


@opmath
def quick_gelu_second(z: Tensor, _: float) -> Tensor:
    sig = Logistic(QUICK_GELU_K * z)
    return QUICK_GELU_K * (2 + sig.r * sig.v) * sig.root * sig.root


@opmath
def quick_gelu_third(z: Tensor, _: float) -> Tensor:
    sig = Logistic(QUICK_GELU_K * z)
    return (
        (QUICK_GELU_K * QUICK_GELU_K)
        * ((3 + sig.r * sig.v) * sig.r - 2 * sig.v * sig.root * sig.root)
        * sig.root
        * sig.root
    )


@opmath
def silu_second(z: Tensor, _: float) -> Tensor:
    sig = Logistic(z)
    return (2 + sig.r * sig.v) * sig.root * sig.root


@opmath
def silu_third(z: Tensor, _: float) -> Tensor:
    sig = Logistic(z)
    return ((3 + sig.r * sig.v) * sig.r - 2 * sig.v * sig.root * sig.root) * sig.root * sig.root


@opmath
def swish_value(z: Tensor, beta: float) -> Tensor:
    return sigmoid(beta * z) * z


@opmath
def swish_first(g: Tensor, z: Tensor, beta: float) -> Tensor:
    sig = Logistic(beta * z)
    return g * ((1 + sig.c * sig.v) * sig.s)


@opmath
def swish_second(z: Tensor, beta: float) -> Tensor:
    sig = Logistic(beta * z)
    return beta * (2 + sig.r * sig.v) * sig.root * sig.root


@opmath
def swish_third(z: Tensor, beta: float) -> Tensor:
    sig = Logistic(beta * z)
    return beta * beta * ((3 + sig.r * sig.v) * sig.r - 2 * sig.v * sig.root * sig.root) * sig.root * sig.root


@opmath
def mish_second(z: Tensor, _: float) -> Tensor:
    mish = TanhSoftplus(z)
    return (2 + mish.r * mish.v) * mish.b * mish.w


@opmath
def mish_third(z: Tensor, _: float) -> Tensor:
    mish = TanhSoftplus(z)
    return (
        (3 * mish.r + (mish.r * mish.r - (2 * mish.b * mish.w + (1 + 2 * mish.t) * mish.c) * mish.s) * mish.v)
        * mish.b
        * mish.w
    )
