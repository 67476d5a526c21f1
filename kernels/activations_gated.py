# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
import triton.language as tl
from triton import jit

from .elementary import DENSITY_AT_0, clamp, logistic, normal, sigmoid, tanh_softplus


@jit
def gelu_value(z, p):
    root, step, tail = normal(z)
    return (tail * root * root + step) * z


@jit
def gelu_first(g, z, p):
    z = clamp(z, -40.0, 40.0)
    root, step, tail = normal(z)
    return g * (step + (z * DENSITY_AT_0 + tail) * root * root)


@jit
def gelu_second(z, p):
    z = clamp(z, -40.0, 40.0)
    root, _, _ = normal(z)
    return (2 - z * z) * DENSITY_AT_0 * root * root


@jit
def gelu_third(z, p):
    z = clamp(z, -40.0, 40.0)
    root, _, _ = normal(z)
    return (z * z - 4) * DENSITY_AT_0 * z * root * root


GELU_TANH_A = tl.constexpr(0.044715)
GELU_TANH_C = tl.constexpr(0.7978845608028654)


@jit
def gelu_tanh_value(z, p):
    return sigmoid((1 + z * GELU_TANH_A * z) * z * (2 * GELU_TANH_C)) * z


@jit
def gelu_tanh_first(g, z, p):
    z = clamp(z, -22.0, 22.0)
    _, s, c, _, _ = logistic((1 + z * GELU_TANH_A * z) * z * (2 * GELU_TANH_C))
    dv = (1 + z * (3 * GELU_TANH_A) * z) * (2 * GELU_TANH_C)
    return g * ((1 + c * dv * z) * s)


@jit
def gelu_tanh_second(z, p):
    z = clamp(z, -22.0, 22.0)
    _, _, _, root, r = logistic((1 + z * GELU_TANH_A * z) * z * (2 * GELU_TANH_C))
    ddv = z * (12 * GELU_TANH_A * GELU_TANH_C)
    dv = (1 + z * (3 * GELU_TANH_A) * z) * (2 * GELU_TANH_C)
    return (ddv * z + (2 + dv * r * z) * dv) * root * root


@jit
def gelu_tanh_third(z, p):
    z = clamp(z, -22.0, 22.0)
    _, _, _, root, r = logistic((1 + z * GELU_TANH_A * z) * z * (2 * GELU_TANH_C))
    ddv = z * (12 * GELU_TANH_A * GELU_TANH_C)
    dv = (1 + z * (3 * GELU_TANH_A) * z) * (2 * GELU_TANH_C)
    return (
        (
            3 * (z * (4 * GELU_TANH_A * GELU_TANH_C) + ddv)
            + ((3 * ddv * z + (3 + dv * r * z) * dv) * r - 2 * dv * dv * z * root * root) * dv
        )
        * root
        * root
    )


QUICK_GELU_K = tl.constexpr(1.702)


@jit
def quick_gelu_value(z, p):
    return sigmoid(z * QUICK_GELU_K) * z


@jit
def quick_gelu_first(g, z, p):
    v, s, c, _, _ = logistic(z * QUICK_GELU_K)
    return g * ((1 + c * v) * s)


@jit
def quick_gelu_second(z, p):
    v, _, _, root, r = logistic(z * QUICK_GELU_K)
    return (2 + r * v) * QUICK_GELU_K * root * root


@jit
def quick_gelu_third(z, p):
    v, _, _, root, r = logistic(z * QUICK_GELU_K)
    return ((3 + r * v) * r - 2 * v * root * root) * (QUICK_GELU_K * QUICK_GELU_K) * root * root


@jit
def silu_value(z, p):
    return sigmoid(z) * z


@jit
def silu_first(g, z, p):
    v, s, c, _, _ = logistic(z)
    return g * ((1 + c * v) * s)


@jit
def silu_second(z, p):
    v, _, _, root, r = logistic(z)
    return (2 + r * v) * root * root


@jit
def silu_third(z, p):
    v, _, _, root, r = logistic(z)
    return ((3 + r * v) * r - 2 * v * root * root) * root * root


@jit
def swish_value(z, beta):
    return sigmoid(beta * z) * z


@jit
def swish_first(g, z, beta):
    v, s, c, _, _ = logistic(beta * z)
    return g * ((1 + c * v) * s)


@jit
def swish_second(z, beta):
    v, _, _, root, r = logistic(beta * z)
    return beta * (2 + r * v) * root * root


@jit
def swish_third(z, beta):
    v, _, _, root, r = logistic(beta * z)
    return beta * beta * ((3 + r * v) * r - 2 * v * root * root) * root * root


@jit
def mish_value(z, p):
    _, t, _, _, _, _, _ = tanh_softplus(z)
    return t * z


@jit
def mish_first(g, z, p):
    v, t, _, _, b, w, _ = tanh_softplus(z)
    return g * (t + v * b * w)


@jit
def mish_second(z, p):
    v, _, _, _, b, w, r = tanh_softplus(z)
    return (2 + r * v) * b * w


@jit
def mish_third(z, p):
    v, t, s, c, b, w, r = tanh_softplus(z)
    return (3 * r + (r * r - (2 * b * w + (1 + 2 * t) * c) * s) * v) * b * w
