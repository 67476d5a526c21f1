# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
import triton.language as tl
from triton import jit

from .elementary import clamp, divide, full, logistic, sigmoid, sign, softplus, sqrt_of_squares, tanh, tanh_by


@jit
def softplus_value(z, beta):
    u = beta * z
    return tl.where((u != u) | (u > 20), z, softplus(u) / beta)


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
    return beta * beta * r * root * root


SHIFTED_SOFTPLUS_LN_2 = tl.constexpr(0.6931471805599453)


@jit
def shifted_softplus_value(z, p):
    return softplus(z) - SHIFTED_SOFTPLUS_LN_2


@jit
def shifted_softplus_first(g, z, p):
    _, s, _, _, _ = logistic(z)
    return g * s


@jit
def shifted_softplus_second(z, p):
    _, _, _, root, _ = logistic(z)
    return root * root


@jit
def shifted_softplus_third(z, p):
    _, _, _, root, r = logistic(z)
    return r * root * root


@jit
def squareplus_value(z, b):
    root = sqrt_of_squares(z, b)
    return 0.5 * tl.where(z > 0, root + z, divide(b, root - tl.where(z < 0, z, 0.0)))


@jit
def squareplus_first(g, z, b):
    z = clamp(z, -1e33, 1e33)
    root = sqrt_of_squares(z, b)
    return g * divide(
        0.5 * tl.where(z > 0, root + z, 5.960464477539063e-08 * b),
        tl.where(z > 0, root, 5.960464477539063e-08 * (root - z) * root),
    )


@jit
def squareplus_second(z, b):
    z = clamp(z, -1e33, 1e33)
    d = divide(1.0, sqrt_of_squares(z, b))
    return 0.5 * b * d * d * d


@jit
def squareplus_third(z, b):
    z = clamp(z, -1e33, 1e33)
    d = divide(1.0, sqrt_of_squares(z, b))
    return -1.5 * b * z * d * d * d * d * d


@jit
def softsign_value(z, p):
    return divide(z, 1 + tl.abs(z))


@jit
def softsign_first(g, z, p):
    d = divide(1.0, 1 + tl.abs(z))
    return g * (d * d)


@jit
def softsign_second(z, p):
    d = divide(1.0, 1 + tl.abs(z))
    return -2 * sign(z) * d * d * d


@jit
def softsign_third(z, p):
    d = divide(1.0, 1 + tl.abs(z))
    return 6 * d * d * d * d


@jit
def sigmoid_value(z, p):
    return sigmoid(z)


@jit
def sigmoid_first(g, y, p):
    return g * ((1 - y) * y)


@jit
def sigmoid_second(y, p):
    return 1 - 2 * y


@jit
def sigmoid_third(y, p):
    return full(y, -2.0)


@jit
def logsigmoid_value(z, p):
    return -softplus(-z)


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
    return -r * root * root


@jit
def tanh_value(z, p):
    return tanh(z)


@jit
def tanh_first(g, y, p):
    return g * ((1 + y) * (1 - y))


@jit
def tanh_second(y, p):
    return -2 * y


@jit
def tanh_third(y, p):
    return full(y, -2.0)


@jit
def tanhshrink_value(z, p):
    return z - tanh_by(z, False)


@jit
def tanhshrink_first(g, z, p):
    _, _, _, root, r = logistic(2 * z)
    return g * tl.where(tl.abs(z) > 0.5, 1 - 4 * root * root, r * r)


@jit
def tanhshrink_second(z, p):
    _, _, _, root, r = logistic(2 * z)
    return -8 * r * root * root


@jit
def tanhshrink_third(z, p):
    _, _, _, root, r = logistic(2 * z)
    return 8 * (1 - 3 * r * r) * root * root
