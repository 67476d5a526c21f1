# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
import triton.language as tl  # noqa: F401  (the interpreter asks for it)
from triton import jit

from .elementary import clamp, cos, exp, full, half_exp, sin


@jit
def sin_value(z, omega):
    return sin(omega * z)


@jit
def sin_first(g, z, omega):
    return omega * g * cos(omega * z)


@jit
def sin_second(z, omega):
    return -omega * omega * sin(omega * z)


@jit
def sin_third(z, omega):
    return -omega * omega * omega * cos(omega * z)


@jit
def snake_value(z, a):
    sine = sin(a * z)
    return z + sine * sine / a


@jit
def snake_first(g, z, a):
    u2 = a * z
    u = cos(u2) + sin(u2)
    return g * (u * u)


@jit
def snake_second(z, a):
    u = a * z
    cosine = cos(u)
    sine = sin(u)
    return 2 * a * (cosine - sine) * (cosine + sine)


@jit
def snake_third(z, a):
    u = a * z
    return -8 * a * a * cos(u) * sin(u)


@jit
def morlet_value(z, omega):
    return cos(omega * z) * exp(-0.5 * z * z)


@jit
def morlet_first(g, z, omega):
    z = clamp(z, -40.0, 40.0)
    half = half_exp(-0.5 * z * z)
    u = omega * z
    return -g * ((cos(u) * z + omega * sin(u)) * half * half)


@jit
def morlet_second(z, omega):
    z = clamp(z, -40.0, 40.0)
    half = half_exp(-0.5 * z * z)
    u = omega * z
    return (2 * omega * sin(u) * z + (z * z - 1 - omega * omega) * cos(u)) * half * half


@jit
def morlet_third(z, omega):
    z = clamp(z, -40.0, 40.0)
    half = half_exp(-0.5 * z * z)
    u = omega * z
    cosine = cos(u)
    return (
        ((3 - z * z) * cosine * z + omega * (3 * omega * cosine * z + (3 + omega * omega - 3 * z * z) * sin(u)))
        * half
        * half
    )


@jit
def gaussian_value(z, p):
    return exp(-z * z)


@jit
def gaussian_first(g, z, p):
    z = clamp(z, -40.0, 40.0)
    half = half_exp(-z * z)
    return g * (-2 * z * half * half)


@jit
def gaussian_second(z, p):
    z = clamp(z, -40.0, 40.0)
    half = half_exp(-z * z)
    return 2 * (2 * z * z - 1) * half * half


@jit
def gaussian_third(z, p):
    z = clamp(z, -40.0, 40.0)
    half = half_exp(-z * z)
    return 4 * (3 - 2 * z * z) * z * half * half


@jit
def exp_value(z, p):
    return exp(z)


@jit
def exp_first(g, y, p):
    return g * y


@jit
def exp_second(y, p):
    return full(y, 1.0)


@jit
def square_value(z, p):
    return z * z


@jit
def square_first(g, z, p):
    return 2 * g * z


@jit
def square_second(z, p):
    return full(z, 2.0)
