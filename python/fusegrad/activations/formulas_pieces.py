# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
import torch
from torch import Tensor

from .elementary import opmath, where


@opmath
def identity_value(z: Tensor, _: float) -> Tensor:
    return z.clone()


@opmath
def identity_first(g: Tensor, y: Tensor, _: float) -> Tensor:
    return g.clone()


@opmath
def hardsigmoid_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return torch.where((z < 3) & (z > -3), g / 6, 0)


@opmath
def hardswish_second(z: Tensor, _: float) -> Tensor:
    return where((z < 3) & (z > -3), (1.0 / 3), 0, z)


@opmath
def relu_squared_value(z: Tensor, _: float) -> Tensor:
    u = where(z < 0, 0, z, z)
    return u * u


@opmath
def relu_squared_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    return where(z < 0, 0, 2 * g * z, z)


@opmath
def relu_squared_second(z: Tensor, _: float) -> Tensor:
    return where(z > 0, 2, 0, z)
