# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
import triton.language as tl
from triton import jit

from .elementary import clamp, full


@jit
def identity_value(z, p):
    return z


@jit
def identity_first(g, y, p):
    return g


@jit
def relu_value(z, p):
    return tl.where(z < 0, 0.0, z)


@jit
def relu_first(g, y, p):
    return tl.where(y <= 0, 0.0, g)


@jit
def relu6_value(z, p):
    return clamp(z, 0.0, 6.0)


@jit
def relu6_first(g, z, p):
    return tl.where((z <= 0) | (z >= 6), 0.0, g)


@jit
def leaky_relu_value(z, negative_slope):
    return tl.where(z > 0, z, negative_slope * z)


@jit
def leaky_relu_first(g, z, negative_slope):
    return tl.where(z > 0, g, g * negative_slope)


@jit
def leaky_relu_in_place_value(z, negative_slope):
    return tl.where(z > 0, z, negative_slope * z)


@jit
def leaky_relu_in_place_first(g, y, negative_slope):
    return tl.where(y > 0, g, g * negative_slope)


@jit
def hardtanh_value(z, p):
    return clamp(z, -1.0, 1.0)


@jit
def hardtanh_first(g, z, p):
    return tl.where((z <= -1) | (z >= 1), 0.0, g)


@jit
def hardsigmoid_value(z, p):
    return clamp(3 + z, 0.0, 6.0) / 6


@jit
def hardsigmoid_first(g, z, p):
    return tl.where((z < 3) & (z > -3), g / 6, 0.0)


@jit
def hardswish_value(z, p):
    return clamp(3 + z, 0.0, 6.0) * z / 6


@jit
def hardswish_first(g, z, p):
    return tl.where(z >= 3, g, tl.where(z <= -3, 0.0, g * (0.5 + z / 3)))


@jit
def hardswish_second(z, p):
    return tl.where((z < 3) & (z > -3), full(z, (1.0 / 3)), 0.0)


@jit
def relu_squared_value(z, p):
    u = tl.where(z < 0, 0.0, z)
    return u * u


@jit
def relu_squared_first(g, z, p):
    return tl.where(z < 0, 0.0, 2 * g * z)


@jit
def relu_squared_second(z, p):
    return tl.where(z > 0, full(z, 2.0), 0.0)
