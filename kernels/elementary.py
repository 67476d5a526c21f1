"""Elementary functions of blocks, in float32 or float64. NaN gives NaN, and infinities their limits.

The algorithms and coefficients are those of csrc/elementary.h, but for the exponential: GPUs have 2^x in hardware.
"""

import math

import triton.language as tl
from triton import jit

from .coefficients import cos_series, erfcx_series, exp_series, log1p_series, sin_series, tanh_series


def _hex(digits: str) -> tl.constexpr:
    return tl.constexpr(float.fromhex(digits))


# log(2) in two parts, of which the first has so few digits that whole multiples of it are exact
LOG2_E = tl.constexpr(math.log2(math.e))
LN2_HIGH, LN2_LOW = _hex("0x1.62e42feep-1"), _hex("0x1.a39ef35793c76p-33")
LN2_HIGH_F32, LN2_LOW_F32 = _hex("0x1.62e4p-1"), _hex("0x1.7f7d1cp-20")
# pi / 2 in three parts, likewise
QUARTER_1, QUARTER_2 = _hex("0x1.921fb544p0"), _hex("0x1.0b4611a6p-34")
QUARTER_3 = _hex("0x1.3198a2e037073p-69")
TWO_BY_PI = tl.constexpr(2 / math.pi)
SQRT_HALF, DENSITY_AT_0 = tl.constexpr(math.sqrt(0.5)), tl.constexpr(1 / math.sqrt(2 * math.pi))


@jit
def clamp(x, low, high):
    """NaN stays NaN."""
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@jit
def copysign(x, sign):
    """x >= 0 with a sign."""
    return tl.where(sign < 0, -x, x)


@jit
def divide(x, y):
    """x / y, rounded once, where nothing else is: in float32 on NVIDIA's GPUs Triton's own is off by up to 2 ulp.

    It takes registers: gelu and tanhshrink with it would spill in linear_act.
    """
    if y.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@jit
def less_ln2(x, n):
    if x.dtype == tl.float64:
        return (x - n * LN2_HIGH) - n * LN2_LOW
    else:
        return (x - n * LN2_HIGH_F32) - n * LN2_LOW_F32


@jit
def power_of_two(n):
    """2^n for a whole n that gives a normal number."""
    if n.dtype == tl.float64:
        return ((n.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    else:
        return ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@jit
def exp(x):
    """In float32 2^n 2^{r / log(2)} with 0 <= r < log(2): the hardware's 2^x alone is wrong by 100 ulp at x = 80."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    else:
        x = clamp(x, -150.0, 150.0)  # where e^x has become 0 and infinity
        n = tl.floor(x * LOG2_E)
        half = tl.floor(n * 0.5)  # 2^n need not be a normal number
        return tl.exp2(less_ln2(x, n) * LOG2_E) * power_of_two(half) * power_of_two(n - half)


@jit
def expm1(x):
    """e^x - 1 for x <= 80, which is all that the activations need."""
    x = clamp(x, -50.0, 80.0)
    n = tl.floor(x * LOG2_E + 0.5)
    r = less_ln2(x, n)
    scale = power_of_two(n)
    return scale * (r + r * r * exp_series(r)) + (scale - 1)


@jit
def decay(x):
    """e^x for x <= 0, but 0 where that is no normal number, and 1 - e^x."""
    low = -709.09 if x.dtype == tl.float64 else -88.03  # nearest to 2^-1023 and 2^-127, which have the bits of 0
    x = tl.where(x < low, low, x)
    n = tl.floor(x * LOG2_E + 0.5)
    r = less_ln2(x, n)
    scale = power_of_two(n)
    rest = scale * (r + r * r * exp_series(r))
    return scale + rest, (1 - scale) - rest


@jit
def log1p(x):
    """log(1 + x) for 0 <= x <= 1: 2 atanh(s) with s = x / (2 + x)."""
    s = x / (2 + x)
    t = s * s
    return 2 * s + s * t * log1p_series(t)


@jit
def tanh(x):
    return tanh_by(x, True)


@jit
def tanh_by(x, ROUNDED: tl.constexpr):
    """tanh |x| = e / (e + 2) with e = exp(2 |x|) - 1, and a polynomial near 0. ROUNDED: by divide."""
    a = tl.abs(x)
    t = x * x
    e = expm1(2 * clamp(a, 0.0, 20.0))  # where tanh has rounded to 1
    return tl.where(a < 0.35, x + x * t * tanh_series(t), copysign(divide(e, e + 2) if ROUNDED else e / (e + 2), x))


@jit
def sigmoid(x):
    e = exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1 + e)


@jit
def bell(x):
    """1 - tanh(x)^2: no cancellation in the tails."""
    e = exp(-2 * tl.abs(x))
    d = 1 + e
    return 4 * e / (d * d)


@jit
def normal(z):
    """root and ratio: with e = root^2 = e^{-z^2 / 2}, of the normal distribution, e DENSITY_AT_0 is the density at z
    and e ratio what is above |z|. Multiplied by the root twice, both are right where e alone is no normal number."""
    t = 1 / (1 + tl.abs(z) * (0.3 * SQRT_HALF))
    return exp(-0.25 * z * z), 0.5 * t * erfcx_series(t)


@jit
def sin_from(x, QUARTERS: tl.constexpr):
    """sin(x + QUARTERS pi/2). Beyond |x| = 2^40 (2^30 in float64) the quarters can no longer be told apart."""
    wide = x.to(tl.float64)
    n = tl.floor(wide * TWO_BY_PI + 0.5)
    r = ((wide - n * QUARTER_1) - n * QUARTER_2) - n * QUARTER_3
    r = clamp(r, -0.8, 0.8).to(x.dtype)
    t = r * r
    quadrant = n.to(tl.int64) + QUARTERS
    sine = r + r * t * sin_series(t)
    cosine = 1 - t * 0.5 + t * t * cos_series(t)
    y = tl.where((quadrant & 1) != 0, cosine, sine)
    return tl.where((quadrant & 2) != 0, -y, y)


@jit
def sin(x):
    return sin_from(x, 0)


@jit
def cos(x):
    return sin_from(x, 1)
