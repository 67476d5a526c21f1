# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
from torch import Tensor

from .elementary import half_decay, opmath, where


@opmath
def elu_second(z: Tensor, alpha: float) -> Tensor:
    half = half_decay(z)
    return where(z >= 0, 0, alpha * half * half, z)


@opmath
def elu_third(z: Tensor, alpha: float) -> Tensor:
    half = half_decay(z)
    return where(z >= 0, 0, alpha * half * half, z)


SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


@opmath
def selu_second(z: Tensor, _: float) -> Tensor:
    half = half_decay(z)
    return where(z >= 0, 0, (SELU_ALPHA * SELU_SCALE) * half * half, z)


@opmath
def selu_third(z: Tensor, _: float) -> Tensor:
    half = half_decay(z)
    return where(z >= 0, 0, (SELU_ALPHA * SELU_SCALE) * half * half, z)


@opmath
def celu_second(z: Tensor, alpha: float) -> Tensor:
    half = half_decay(z / alpha)
    return where(z >= 0, 0, (1 / alpha) * half * half, z)


@opmath
def celu_third(z: Tensor, alpha: float) -> Tensor:
    half = half_decay(z / alpha)
    return where(z >= 0, 0, (1 / (alpha * alpha)) * half * half, z)
