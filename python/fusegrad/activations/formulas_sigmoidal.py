# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
import torch
from torch import Tensor

from .elementary import Logistic, abs, clamp, full, opmath, sign, softplus, sqrt_of_squares, tanh


@opmath
def softplus_first(g: Tensor, z: Tensor, beta: float) -> Tensor:
    sig = Logistic(beta * z)
    return g * sig.s


@opmath
def softplus_second(z: Tensor, beta: float) -> Tensor:
    sig = Logistic(beta * z)
    return beta * sig.root * sig.root


@opmath
def softplus_third(z: Tensor, beta: float) -> Tensor:
    sig = Logistic(beta * z)
    return beta * beta * sig.r * sig.root * sig.root


SHIFTED_SOFTPLUS_LN_2 = 0.6931471805599453


@opmath
def shifted_softplus_value(z: Tensor, _: float) -> Tensor:
    return softplus(z) - SHIFTED_SOFTPLUS_LN_2


@opmath
def shifted_softplus_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    sig = Logistic(z)
    return g * sig.s


@opmath
def shifted_softplus_second(z: Tensor, _: float) -> Tensor:
    sig = Logistic(z)
    return sig.root * sig.root


@opmath
def shifted_softplus_third(z: Tensor, _: float) -> Tensor:
    sig = Logistic(z)
    return sig.r * sig.root * sig.root


@opmath
def squareplus_value(z: Tensor, b: float) -> Tensor:
    root = sqrt_of_squares(z, b)
    return 0.5 * torch.where(z > 0, root + z, b / (root - torch.where(z < 0, z, 0)))


@opmath
def squareplus_first(g: Tensor, z: Tensor, b: float) -> Tensor:
    z = clamp(z, -1e33, 1e33)
    root = sqrt_of_squares(z, b)
    return g * (
        0.5
        * torch.where(z > 0, root + z, 5.960464477539063e-08 * b)
        / torch.where(z > 0, root, 5.960464477539063e-08 * (root - z) * root)
    )


@opmath
def squareplus_second(z: Tensor, b: float) -> Tensor:
    z = clamp(z, -1e33, 1e33)
    d = 1 / sqrt_of_squares(z, b)
    return 0.5 * b * d * d * d


@opmath
def squareplus_third(z: Tensor, b: float) -> Tensor:
    z = clamp(z, -1e33, 1e33)
    d = 1 / sqrt_of_squares(z, b)
    return -1.5 * b * z * d * d * d * d * d


@opmath
def softsign_value(z: Tensor, _: float) -> Tensor:
    return z / (1 + abs(z))


@opmath
def softsign_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    d = 1 / (1 + abs(z))
    return g * (d * d)


@opmath
def softsign_second(z: Tensor, _: float) -> Tensor:
    d = 1 / (1 + abs(z))
    return -2 * sign(z) * d * d * d


@opmath
def softsign_third(z: Tensor, _: float) -> Tensor:
    d = 1 / (1 + abs(z))
    return 6 * d * d * d * d


@opmath
def sigmoid_second(y: Tensor, _: float) -> Tensor:
    return 1 - 2 * y


@opmath
def sigmoid_third(y: Tensor, _: float) -> Tensor:
    return full(y, -2)


@opmath
def logsigmoid_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    sig = Logistic(z)
    return g * sig.c


@opmath
def logsigmoid_second(z: Tensor, _: float) -> Tensor:
    sig = Logistic(z)
    return -sig.root * sig.root


@opmath
def logsigmoid_third(z: Tensor, _: float) -> Tensor:
    sig = Logistic(z)
    return -sig.r * sig.root * sig.root


@opmath
def tanh_second(y: Tensor, _: float) -> Tensor:
    return -2 * y


@opmath
def tanh_third(y: Tensor, _: float) -> Tensor:
    return full(y, -2)


@opmath
def tanhshrink_value(z: Tensor, _: float) -> Tensor:
    return z - tanh(z)


@opmath
def tanhshrink_first(g: Tensor, z: Tensor, _: float) -> Tensor:
    sig = Logistic(2 * z)
    return g * torch.where(abs(z) > 0.5, 1 - 4 * sig.root * sig.root, sig.r * sig.r)


@opmath
def tanhshrink_second(z: Tensor, _: float) -> Tensor:
    sig = Logistic(2 * z)
    return -8 * sig.r * sig.root * sig.root


@opmath
def tanhshrink_third(z: Tensor, _: float) -> Tensor:
    sig = Logistic(2 * z)
    return 8 * (1 - 3 * sig.r * sig.r) * sig.root * sig.root
