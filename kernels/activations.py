"""The activations in Triton: one translation of python/fusegrad/activations.py, whose table and formulas.py give the
derivations; a test holds all translations to float64. Of each there are, on blocks of float32 or float64,

    value(z, p)      act(z), p the parameter
    first(g, s, p)   g D_1(s), of what the activation keeps, s
    second(s, p)     D_2 = dD_1/ds
    third(s, p)      D_3 = dD_2/ds

and a kernel gets those that it computes as constants. A constant stands to the right of a block: Triton's interpreter
has no product the other way round.
"""

import math
from typing import Any, NamedTuple

import triton.language as tl
from triton import jit

from .elementary import (
    DENSITY_AT_0,
    bell,
    clamp,
    cos,
    decay,
    divide,
    exp,
    expm1,
    log1p,
    normal,
    sigmoid,
    sin,
    tanh,
    tanh_by,
)


@jit
def zero(s, p):
    return tl.full(s.shape, 0.0, s.dtype)


@jit
def one(s, p):
    return tl.full(s.shape, 1.0, s.dtype)


@jit
def two(s, p):
    return tl.full(s.shape, 2.0, s.dtype)


@jit
def minus_two(s, p):
    return tl.full(s.shape, -2.0, s.dtype)


@jit
def identity(z, p):
    return z


@jit
def identity_first(g, y, p):
    return g


# --- linear between kinks -------------------------------------------------------------------------------------------


@jit
def relu(z, p):
    return tl.where(z < 0, 0.0, z)


@jit
def relu_first(g, y, p):
    return tl.where(y <= 0, 0.0, g)


@jit
def relu6(z, p):
    return clamp(z, 0.0, 6.0)


@jit
def relu6_first(g, y, p):
    return tl.where((y <= 0) | (y >= 6), 0.0, g)


@jit
def relu_squared(z, p):
    r = tl.where(z < 0, 0.0, z)
    return r * r


@jit
def relu_squared_first(g, z, p):
    return tl.where(z < 0, 0.0, z) * 2 * g


@jit
def relu_squared_second(z, p):
    return tl.where(z > 0, 2.0, zero(z, p))


@jit
def leaky_relu(z, slope):
    return tl.where(z > 0, z, z * slope)


@jit
def leaky_relu_first(g, y, slope):
    return tl.where(y > 0, g, g * slope)


@jit
def hardswish(z, p):
    return z * clamp(z + 3, 0.0, 6.0) / 6


@jit
def hardswish_first(g, z, p):
    return tl.where(z >= 3, g, tl.where(z <= -3, 0.0, g * (z / 3 + 0.5)))


@jit
def hardswish_second(z, p):
    return tl.where((z > -3) & (z < 3), one(z, p) / 3, 0.0)


@jit
def hardsigmoid(z, p):
    return clamp(z + 3, 0.0, 6.0) / 6


@jit
def hardsigmoid_first(g, z, p):
    return tl.where((z > -3) & (z < 3), g / 6, 0.0)


@jit
def hardtanh(z, p):
    return clamp(z, -1.0, 1.0)


@jit
def hardtanh_first(g, y, p):
    return tl.where((y <= -1) | (y >= 1), 0.0, g)


# --- the elu family: scale z above 0 and scale alpha (e^{z / width} - 1) below --------------------------------------

# Klambauer et al., arXiv:1706.02515
SELU_ALPHA, SELU_SCALE = tl.constexpr(1.6732632423543772848), tl.constexpr(1.0507009873554804934)


@jit
def elu(z, alpha):
    return tl.where(z <= 0, expm1(z) * alpha, z)


@jit
def elu_below(z, v, factor):
    """factor e^v, for z <= 0, in halves: the factor may be large where e^v is small."""
    root, _ = decay(tl.where(z > 0, 0.0, 0.5 * v))
    return root * factor * root


@jit
def elu_derivative(z, v, above, factor):
    return tl.where(z > 0, above, elu_below(z, v, factor))


@jit
def elu_higher(z, v, factor):
    """The higher derivatives, which torch takes to be 0 at 0."""
    return tl.where(z >= 0, 0.0, elu_below(z, v, factor))


@jit
def elu_first(g, z, alpha):
    return g * elu_derivative(z, z, 1.0, alpha)


@jit
def elu_second(z, alpha):
    return elu_higher(z, z, alpha)


@jit
def selu(z, p):
    return tl.where(z <= 0, expm1(z) * (SELU_ALPHA * SELU_SCALE), z * SELU_SCALE)


@jit
def selu_first(g, z, p):
    return g * elu_derivative(z, z, SELU_SCALE, SELU_ALPHA * SELU_SCALE)


@jit
def selu_second(z, p):
    return elu_higher(z, z, SELU_ALPHA * SELU_SCALE)


@jit
def celu(z, alpha):
    return tl.where(z <= 0, expm1(divide(z, alpha)) * alpha, z)


@jit
def celu_first(g, z, alpha):
    return g * elu_derivative(z, divide(z, alpha), 1.0, 1.0)


@jit
def celu_second(z, alpha):
    return elu_higher(z, divide(z, alpha), 1 / alpha)


@jit
def celu_third(z, alpha):
    return elu_higher(z, divide(z, alpha), 1 / (alpha * alpha))


# --- gelu -----------------------------------------------------------------------------------------------------------


@jit
def gelu(z, p):
    root, ratio = normal(z)
    above = ratio * root * root
    return z * tl.where(z > 0, 1 - above, above)


@jit
def gelu_first(g, z, p):
    z = clamp(z, -40.0, 40.0)
    root, ratio = normal(z)
    part = (z * DENSITY_AT_0 + tl.where(z > 0, -ratio, ratio)) * root * root
    return g * tl.where(z > 0, 1 + part, part)


@jit
def gelu_second(z, p):
    z = clamp(z, -40.0, 40.0)
    root, _ = normal(z)
    return (2 - z * z) * DENSITY_AT_0 * root * root


@jit
def gelu_third(z, p):
    z = clamp(z, -40.0, 40.0)
    root, _ = normal(z)
    return (z * z - 4) * z * DENSITY_AT_0 * root * root


# --- z sigmoid(v), v = k z; s = sigmoid(v), c = sigmoid(-v), q = root^2 = s c, r = c - s ----------------------------
# all are right in both tails, and r near 0; multiplied by the root twice, results are right where q is no normal number

QUICK_K = tl.constexpr(1.702)  # Hendrycks & Gimpel, arXiv:1606.08415


@jit
def logistic(v):
    """v clamped, s, c, root, r."""
    v = clamp(v, -1000.0, 1000.0)
    half, lost = decay(-0.5 * tl.abs(v))
    e = half * half
    d = 1 / (1 + e)
    ed = e * d
    r = lost * (1 + half) * d
    return v, tl.where(v < 0, ed, d), tl.where(v < 0, d, ed), half * d, tl.where(v < 0, r, -r)


@jit
def swish_first(g, v):
    v, s, c, _, _ = logistic(v)
    return g * s * (1 + v * c)


@jit
def swish_second(v, k):
    """k q (2 + v r)."""
    v, _, _, root, r = logistic(v)
    return (2 + v * r) * k * root * root


@jit
def swish_third(v, k):
    """k^2 q (r (3 + v r) - 2 v q)."""
    v, _, _, root, r = logistic(v)
    return (r * (3 + v * r) - 2 * v * root * root) * (k * k) * root * root


@jit
def silu(z, p):
    return z * sigmoid(z)


@jit
def silu_first(g, z, p):
    return swish_first(g, z)


@jit
def silu_second(z, p):
    return swish_second(z, 1.0)


@jit
def silu_third(z, p):
    return swish_third(z, 1.0)


@jit
def quick_gelu(z, p):
    return z * sigmoid(z * QUICK_K)


@jit
def quick_gelu_first(g, z, p):
    return swish_first(g, z * QUICK_K)


@jit
def quick_gelu_second(z, p):
    return swish_second(z * QUICK_K, QUICK_K)


@jit
def quick_gelu_third(z, p):
    return swish_third(z * QUICK_K, QUICK_K)


# --- gelu_tanh: z/2 (1 + tanh u) = z sigmoid(2u), u = C (z + A z^3) -------------------------------------------------

# Hendrycks & Gimpel, arXiv:1606.08415
GELU_A, GELU_C = tl.constexpr(0.044715), tl.constexpr(math.sqrt(2 / math.pi))


@jit
def gelu_tanh_inner(z):
    return (z + z * z * z * GELU_A) * GELU_C


@jit
def gelu_tanh_parts(z):
    """z clamped, t = tanh u, root^2 = (1 - t^2) / 4, u', u'', P = u' + z/2 u'' - z t u'^2."""
    z = clamp(z, -22.0, 22.0)
    du = (1 + z * z * (3 * GELU_A)) * GELU_C
    ddu = z * (6 * GELU_C * GELU_A)
    _, _, _, root, r = logistic(2 * gelu_tanh_inner(z))
    return z, -r, root, du, ddu, du + 0.5 * z * ddu + z * r * du * du


@jit
def gelu_tanh(z, p):
    return z * sigmoid(2 * gelu_tanh_inner(clamp(z, -1000.0, 1000.0)))


@jit
def gelu_tanh_first(g, z, p):
    z = clamp(z, -22.0, 22.0)
    _, s, c, _, _ = logistic(2 * gelu_tanh_inner(z))
    return g * s * (1 + z * (2 * GELU_C) * (1 + z * z * (3 * GELU_A)) * c)


@jit
def gelu_tanh_second(z, p):
    _, _, root, _, _, slope = gelu_tanh_parts(z)
    return 4 * slope * root * root


@jit
def gelu_tanh_third(z, p):
    z, t, root, du, ddu, slope = gelu_tanh_parts(z)
    tdu = t * du
    change = 1.5 * ddu + z * (3 * GELU_C * GELU_A) - tdu * du - 4 * z * root * root * du * du * du - 2 * z * tdu * ddu
    return 4 * (change - 2 * tdu * slope) * root * root


# --- mish: with e = e^z and n = e (e + 2), t = tanh(log(1 + e)) = n / (n + 2), 1 - t^2 = 4 (1 + e)^2 / (n + 2)^2 ----
# above 0 divided through by e^2 and e^4, so that both are made of w = e^{-|z|} and keep their precision in both tails


@jit
def mish_tanh(z):
    """w, 1 / (the denominator), t."""
    w = exp(-tl.abs(z))
    d = 1 / tl.where(z < 0, 2 + w * (2 + w), 1 + w * (2 + 2 * w))
    return w, d, tl.where(z < 0, w * (2 + w), 1 + 2 * w) * d


@jit
def mish_parts(z):
    """z clamped, w, t, b with s (1 - t^2) = b w, r = c - 2 t s; s = sigmoid(z), c = sigmoid(-z)."""
    z = clamp(z, -1000.0, 1000.0)
    w, d, t = mish_tanh(z)
    b = 4 * (1 + w) * d * d * tl.where(z < 0, 1.0, w)
    r = tl.where(z < 0, 2 + w * (2 - w * (3 + 2 * w)), w * (w * (2 + 2 * w) - 3) - 2) * d / (1 + w)
    return z, w, t, b, r


@jit
def mish(z, p):
    _, _, t = mish_tanh(z)
    return z * t


@jit
def mish_first(g, z, p):
    z, w, t, b, _ = mish_parts(z)
    return g * (t + z * b * w)


@jit
def mish_second(z, p):
    z, w, _, b, r = mish_parts(z)
    return (2 + z * r) * b * w


@jit
def mish_third(z, p):
    z, w, t, b, r = mish_parts(z)
    half = 1 / (1 + w)
    s = tl.where(z < 0, w * half, half)
    c = tl.where(z < 0, half, w * half)
    return (r * (3 + z * r) - z * s * (c + 2 * (b * w + t * c))) * b * w


# --- logarithms -----------------------------------------------------------------------------------------------------


@jit
def softplus(z, beta):
    v = beta * z
    soft = (tl.where(v > 0, v, 0.0) + log1p(exp(-tl.abs(v)))) / beta
    return tl.where((v > 20) | (v != v), z, soft)


@jit
def softplus_first(g, z, beta):
    _, s, _, _, _ = logistic(beta * z)
    return g * s


@jit
def softplus_second(z, beta):
    _, _, _, root, _ = logistic(beta * z)
    return beta * root * root


@jit
def softplus_third(z, beta):
    _, _, _, root, r = logistic(beta * z)
    return beta * root * (beta * root) * r


@jit
def logsigmoid(z, p):
    return tl.where(z > 0, 0.0, z) - log1p(exp(-tl.abs(z)))


@jit
def logsigmoid_first(g, z, p):
    _, _, c, _, _ = logistic(z)
    return g * c


@jit
def logsigmoid_second(z, p):
    _, _, _, root, _ = logistic(z)
    return -root * root


@jit
def logsigmoid_third(z, p):
    _, _, _, root, r = logistic(z)
    return -root * root * r


# --- the rest -------------------------------------------------------------------------------------------------------


@jit
def softsign(z, p):
    return divide(z, 1 + tl.abs(z))


@jit
def softsign_first(g, z, p):
    d = divide(1.0, 1 + tl.abs(z))
    return g * (d * d)


@jit
def softsign_second(z, p):
    d = divide(1.0, 1 + tl.abs(z))
    size = 2 * d * d * d
    return tl.where(z == 0, 0.0, tl.where(z < 0, size, -size))


@jit
def softsign_third(z, p):
    d = divide(1.0, 1 + tl.abs(z))
    return 6 * (d * d) * (d * d)


@jit
def logistic_value(z, p):
    return sigmoid(z)


@jit
def sigmoid_first(g, y, p):
    return g * (1 - y) * y


@jit
def sigmoid_second(y, p):
    return 1 - 2 * y


@jit
def tanh_value(z, p):
    return tanh(z)


@jit
def tanh_first(g, y, p):
    return g * ((1 - y) * (1 + y))


@jit
def tanh_second(y, p):
    return -2 * y


@jit
def tanhshrink(z, p):
    return z - tanh_by(z, False)


@jit
def tanhshrink_first(g, z, p):
    t = tanh(z)
    return g * (t * t)


@jit
def tanhshrink_second(z, p):
    return 2 * tanh(z) * bell(z)


@jit
def tanhshrink_third(z, p):
    t = tanh(z)
    return 2 * bell(z) * (1 - 3 * t * t)


@jit
def sine(z, omega):
    return sin(omega * z)


@jit
def sine_first(g, z, omega):
    return cos(omega * z) * omega * g


@jit
def sine_second(z, omega):
    return sin(omega * z) * (-omega * omega)


@jit
def sine_third(z, omega):
    return cos(omega * z) * (-omega * omega * omega)


@jit
def exp_value(z, p):
    return exp(z)


@jit
def exp_first(g, y, p):
    return g * y


@jit
def square(z, p):
    return z * z


@jit
def square_first(g, z, p):
    return z * 2 * g


@jit
def scale(x, c):
    """No activation: what mul_constant computes."""
    return c * x


class Kernels(NamedTuple):
    """The functions of an activation, by order."""

    value: Any
    first: Any
    second: Any = zero
    third: Any = zero


ACTIVATIONS = {
    "identity": Kernels(identity, identity_first),
    "relu": Kernels(relu, relu_first),
    "relu6": Kernels(relu6, relu6_first),
    "relu_squared": Kernels(relu_squared, relu_squared_first, relu_squared_second),
    "leaky_relu": Kernels(leaky_relu, leaky_relu_first),
    "elu": Kernels(elu, elu_first, elu_second, elu_second),
    "selu": Kernels(selu, selu_first, selu_second, selu_second),
    "celu": Kernels(celu, celu_first, celu_second, celu_third),
    "gelu": Kernels(gelu, gelu_first, gelu_second, gelu_third),
    "gelu_tanh": Kernels(gelu_tanh, gelu_tanh_first, gelu_tanh_second, gelu_tanh_third),
    "quick_gelu": Kernels(quick_gelu, quick_gelu_first, quick_gelu_second, quick_gelu_third),
    "silu": Kernels(silu, silu_first, silu_second, silu_third),
    "mish": Kernels(mish, mish_first, mish_second, mish_third),
    "softplus": Kernels(softplus, softplus_first, softplus_second, softplus_third),
    "softsign": Kernels(softsign, softsign_first, softsign_second, softsign_third),
    "sigmoid": Kernels(logistic_value, sigmoid_first, sigmoid_second, minus_two),
    "logsigmoid": Kernels(logsigmoid, logsigmoid_first, logsigmoid_second, logsigmoid_third),
    "tanh": Kernels(tanh_value, tanh_first, tanh_second, minus_two),
    "tanhshrink": Kernels(tanhshrink, tanhshrink_first, tanhshrink_second, tanhshrink_third),
    "hardswish": Kernels(hardswish, hardswish_first, hardswish_second),
    "hardsigmoid": Kernels(hardsigmoid, hardsigmoid_first),
    "hardtanh": Kernels(hardtanh, hardtanh_first),
    "sin": Kernels(sine, sine_first, sine_second, sine_third),
    "exp": Kernels(exp_value, exp_first, one),
    "square": Kernels(square, square_first, two),
}
