# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
from torch import Tensor

from .elementary import clamp, cos, exp, full, half_exp, opmath, sin


@opmath
def sin_value(z: Tensor, omega: float) -> Tensor:
    return sin(omega * z)


@opmath
def sin_first(g: Tensor, z: Tensor, omega: float) -> Tensor:
    return omega * g * cos(omega * z)


@opmath
def sin_second(z: Tensor, omega: float) -> Tensor:
    return -omega * omega * sin(omega * z)


@opmath
def sin_third(z: Tensor, omega: float) -> Tensor:
    return -omega * omega * omega * cos(omega * z)


@opmath
def snake_value(z: Tensor, a: float) -> Tensor:
    sine = sin(a * z)
    return z + sine * sine / a


@opmath
def snake_first(g: Tensor, z: Tensor, a: float) -> Tensor:
    u2 = a * z
    u = cos(u2) + sin(u2)
    return g * (u * u)


@opmath
def snake_second(z: Tensor, a: float) -> Tensor:
    u = a * z
    cosine = cos(u)
    sine = sin(u)
    return 2 * a * (cosine - sine) * (cosine + sine)


@opmath
def snake_third(z: Tensor, a: float) -> Tensor:
    u = a * z
    return -8 * a * a * cos(u) * sin(u)


@opmath
def morlet_value(z: Tensor, omega: float) -> Tensor:
    return cos(omega * z) * exp(-0.5 * z * z)


@opmath
def morlet_first(g: Tensor, z: Tensor, omega: float) -> Tensor:
    z = clamp(z, -40, 40)
    half = half_exp(-0.5 * z * z)
    u = omega * z
    return -g * ((cos(u) * z + omega * sin(u)) * half * half)


@opmath
def morlet_second(z: Tensor, omega: float) -> Tensor:
    z = clamp(z, -40, 40)
    half = half_exp(-0.5 * z * z)
    u = omega * z
    return (2 * omega * sin(u) * z + (z * z - 1 - omega * omega) * cos(u)) * half * half


@opmath
def morlet_third(z: Tensor, omega: float) -> Tensor:
    z = clamp(z, -40, 40)
    half = half_exp(-0.5 * z * z)
    u = omega * z
    cosine = cos(u)
    return (
        ((3 - z * z) * cosine * z + omega * (3 * omega * cosine * z + (3 + omega * omega - 3 * z * z) * sin(u)))
        * half
        * half
    )


@opmath
def gaussian_value(z: Tensor, _: float) -> Tensor:
    return exp(-z * z)


@opmath
def gaussian_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    z = clamp(z, -40, 40)
    half = half_exp(-z * z)
    return g * (-2 * z * half * half)


@opmath
def gaussian_second(z: Tensor, _: float) -> Tensor:
    z = clamp(z, -40, 40)
    half = half_exp(-z * z)
    return 2 * (2 * z * z - 1) * half * half


@opmath
def gaussian_third(z: Tensor, _: float) -> Tensor:
    z = clamp(z, -40, 40)
    half = half_exp(-z * z)
    return 4 * (3 - 2 * z * z) * z * half * half


@opmath
def exp_first(g: Tensor, y: Tensor, _: float) -> Tensor:
    return g * y


@opmath
def exp_second(y: Tensor, _: float) -> Tensor:
    return full(y, 1)


@opmath
def square_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return 2 * g * z


@opmath
def square_second(z: Tensor, _: float) -> Tensor:
    return full(z, 2)
