"""Elementary functions of blocks, in float32 or float64. NaN gives NaN, and infinities their limits.

The algorithms and coefficients are those of csrc/elementary.h, but for the exponential: GPUs have 2^x in hardware.
"""

import math

import triton.language as tl
from triton import jit

from .coefficients import cos_series, erf_series, erfcx_series, exp_series, log1p_series, sin_series, tanh_series


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
SQRT_2, SQRT_HALF = tl.constexpr(math.sqrt(2)), tl.constexpr(math.sqrt(0.5))
DENSITY_AT_0, INV_SQRT_PI = tl.constexpr(1 / math.sqrt(2 * math.pi)), tl.constexpr(1 / math.sqrt(math.pi))


@jit
def full(x, c):
    return tl.full(x.shape, c, x.dtype)


@jit
def zero(s, p):
    return full(s, 0.0)


@jit
def scale(x, c):
    """No activation: what mul_constant computes."""
    return c * x


@jit
def sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


@jit
def sqrt(x):
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


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
def half_exp(x):
    """e^{x/2}: where e^x is no normal number, a product with it twice may be one."""
    return exp(0.5 * x)


@jit
def half_decay(x):
    """The same for x <= 0, but 0 where it is no normal number; 1 for others."""
    root, _ = decay(tl.where(x > 0, 0.0, 0.5 * x))
    return root


@jit
def twice_atanh(s):
    """2 atanh(s) for |s| <= 1/3."""
    t = s * s
    return 2 * s + s * t * log1p_series(t)


@jit
def log1p_unit(x):
    """log(1 + x) for 0 <= x <= 1."""
    return twice_atanh(x / (2 + x))


@jit
def softplus(x):
    """log(1 + e^x)."""
    return tl.where(x > 0, x, 0.0) + log1p_unit(exp(-tl.abs(x)))


@jit
def log(x):
    """Triton's own, but near 1, where in float32 it is off by many ulp."""
    s = (x - 1) / (x + 1)
    return tl.where(tl.abs(s) < 0.17, twice_atanh(clamp(s, -0.2, 0.2)), tl.log(x))


@jit
def log1p(x):
    """log(1 + x), by what 1 + x has lost."""
    u = 1 + x
    lost = (x - (u - 1)) / u
    return log(u) + tl.where((lost == lost) & (u > 0), lost, 0.0)


@jit
def sqrt_of_squares(x, w):
    """√(x² + w), w > 0, also where x² would overflow."""
    a = tl.abs(x)
    m = tl.where(a < 1, 1.0, a)
    return m * sqrt(tl.where(a < 1, x * x, 1.0) + w / (m * m))


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
def logistic(x):
    """v, s, c, root, r: v is x, clamped, s = σ(x), c = σ(-x), root² = s c, r = c - s, right in both tails and near 0.

    Multiplied by the root twice, results are right where its square alone is no normal number.
    """
    half, lost = decay(-0.5 * tl.abs(x))
    e = half * half
    d = 1 / (1 + e)
    ed = e * d
    r = lost * (1 + half) * d
    v = clamp(x, -1000.0, 1000.0)
    return v, tl.where(x < 0, ed, d), tl.where(x < 0, d, ed), half * d, tl.where(x < 0, r, -r)


@jit
def normal(x):
    """root, step, tail of the normal distribution: with e = root² = e^{-x² / 2} its density at x is e DENSITY_AT_0, and
    below x is step + tail e; step is 1 above 0, else 0. To be multiplied by the root twice, as that of logistic."""
    t = 1 / (1 + tl.abs(x) * (0.32 * SQRT_HALF))
    ratio = t * erfcx_series(t - 0.5625 if x.dtype == tl.float64 else t)
    return exp(-0.25 * x * x), tl.where(x > 0, full(x, 1.0), 0.0), tl.where(x > 0, -ratio, ratio)


@jit
def erf(x):
    t = x * x
    root, _, tail = normal(tl.abs(x) * SQRT_2)
    near = x * (2 * INV_SQRT_PI) + x * t * erf_series(t)
    return tl.where(t < 1, near, copysign(1 + 2 * tail * root * root, x))


@jit
def tanh_softplus(x):
    """v, t, s, c, b, w, r: v is x, clamped, t = tanh(log(1 + e^x)), s = σ(x), c = σ(-x), b w = s (1 - t²), r = c - 2ts.

    With e = e^x and n = e (e + 2): t = n / (n + 2), 1 - t² = 4 (1 + e)² / (n + 2)². Above 0 divided through by e² and
    e⁴, so that all are made of w = e^{-|x|} and keep their precision in both tails. b and w as the root of logistic.
    """
    w = exp(-tl.abs(x))
    d = 1 / tl.where(x < 0, 2 + w * (2 + w), 1 + w * (2 + 2 * w))
    half = 1 / (1 + w)
    t = tl.where(x < 0, w * (2 + w), 1 + 2 * w) * d
    b = 4 * (1 + w) * d * d * tl.where(x < 0, 1.0, w)
    r = tl.where(x < 0, 2 + w * (2 - w * (3 + 2 * w)), w * (w * (2 + 2 * w) - 3) - 2) * d * half
    v = clamp(x, -1000.0, 1000.0)
    return v, t, tl.where(x < 0, w * half, half), tl.where(x < 0, half, w * half), b, w, r


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
