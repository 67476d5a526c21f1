# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
import triton.language as tl
from triton import jit

from .elementary import divide, expm1, half_decay


@jit
def elu_value(z, alpha):
    return tl.where(z <= 0, alpha * expm1(z), z)


@jit
def elu_first(g, z, alpha):
    half = half_decay(z)
    return tl.where(z > 0, g, g * (alpha * half * half))


@jit
def elu_second(z, alpha):
    half = half_decay(z)
    return tl.where(z >= 0, 0.0, alpha * half * half)


@jit
def elu_third(z, alpha):
    half = half_decay(z)
    return tl.where(z >= 0, 0.0, alpha * half * half)


SELU_ALPHA = tl.constexpr(1.6732632423543772)
SELU_SCALE = tl.constexpr(1.0507009873554805)


@jit
def selu_value(z, p):
    return tl.where(z <= 0, expm1(z) * (SELU_ALPHA * SELU_SCALE), z * SELU_SCALE)


@jit
def selu_first(g, z, p):
    half = half_decay(z)
    return g * tl.where(z > 0, SELU_SCALE, half * (SELU_ALPHA * SELU_SCALE) * half)


@jit
def selu_second(z, p):
    half = half_decay(z)
    return tl.where(z >= 0, 0.0, half * (SELU_ALPHA * SELU_SCALE) * half)


@jit
def selu_third(z, p):
    half = half_decay(z)
    return tl.where(z >= 0, 0.0, half * (SELU_ALPHA * SELU_SCALE) * half)


@jit
def celu_value(z, alpha):
    return tl.where(z <= 0, alpha * expm1(divide(z, alpha)), z)


@jit
def celu_first(g, z, alpha):
    half = half_decay(divide(z, alpha))
    return tl.where(z > 0, g, g * (half * half))


@jit
def celu_second(z, alpha):
    half = half_decay(divide(z, alpha))
    return tl.where(z >= 0, 0.0, (1 / alpha) * half * half)


@jit
def celu_third(z, alpha):
    half = half_decay(divide(z, alpha))
    return tl.where(z >= 0, 0.0, (1 / (alpha * alpha)) * half * half)
