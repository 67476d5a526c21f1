# Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
"""The activations in Triton. Of each there are, on blocks of float32 or float64,

    value(z, p)      act(z), p the parameter
    first(g, s, p)   g D_1(s), of what the activation saves, s
    second(s, p)     D_2 = dD_1/ds
    third(s, p)      D_3 = dD_2/ds

and a kernel gets those that it computes as constants.
"""

from typing import Any, NamedTuple

from .activations_elu import (
    celu_first,
    celu_second,
    celu_third,
    celu_value,
    elu_first,
    elu_second,
    elu_third,
    elu_value,
    selu_first,
    selu_second,
    selu_third,
    selu_value,
)
from .activations_gated import (
    gelu_first,
    gelu_second,
    gelu_tanh_first,
    gelu_tanh_second,
    gelu_tanh_third,
    gelu_tanh_value,
    gelu_third,
    gelu_value,
    mish_first,
    mish_second,
    mish_third,
    mish_value,
    quick_gelu_first,
    quick_gelu_second,
    quick_gelu_third,
    quick_gelu_value,
    silu_first,
    silu_second,
    silu_third,
    silu_value,
    swish_first,
    swish_second,
    swish_third,
    swish_value,
)
from .activations_pieces import (
    hardsigmoid_first,
    hardsigmoid_value,
    hardswish_first,
    hardswish_second,
    hardswish_value,
    hardtanh_first,
    hardtanh_value,
    identity_first,
    identity_value,
    leaky_relu_first,
    leaky_relu_in_place_first,
    leaky_relu_in_place_value,
    leaky_relu_value,
    relu6_first,
    relu6_value,
    relu_first,
    relu_squared_first,
    relu_squared_second,
    relu_squared_value,
    relu_value,
)
from .activations_sigmoidal import (
    logsigmoid_first,
    logsigmoid_second,
    logsigmoid_third,
    logsigmoid_value,
    shifted_softplus_first,
    shifted_softplus_second,
    shifted_softplus_third,
    shifted_softplus_value,
    sigmoid_first,
    sigmoid_second,
    sigmoid_third,
    sigmoid_value,
    softplus_first,
    softplus_second,
    softplus_third,
    softplus_value,
    softsign_first,
    softsign_second,
    softsign_third,
    softsign_value,
    squareplus_first,
    squareplus_second,
    squareplus_third,
    squareplus_value,
    tanh_first,
    tanh_second,
    tanh_third,
    tanh_value,
    tanhshrink_first,
    tanhshrink_second,
    tanhshrink_third,
    tanhshrink_value,
)
from .activations_waves import (
    exp_first,
    exp_second,
    exp_value,
    gaussian_first,
    gaussian_second,
    gaussian_third,
    gaussian_value,
    morlet_first,
    morlet_second,
    morlet_third,
    morlet_value,
    sin_first,
    sin_second,
    sin_third,
    sin_value,
    snake_first,
    snake_second,
    snake_third,
    snake_value,
    square_first,
    square_second,
    square_value,
)
from .elementary import zero


class Kernels(NamedTuple):
    """The functions of an activation, by order."""

    value: Any
    first: Any
    second: Any
    third: Any


ACTIVATIONS = {
    "identity": Kernels(identity_value, identity_first, zero, zero),
    "relu": Kernels(relu_value, relu_first, zero, zero),
    "relu6": Kernels(relu6_value, relu6_first, zero, zero),
    "leaky_relu": Kernels(leaky_relu_value, leaky_relu_first, zero, zero),
    "leaky_relu_in_place": Kernels(leaky_relu_in_place_value, leaky_relu_in_place_first, zero, zero),
    "hardtanh": Kernels(hardtanh_value, hardtanh_first, zero, zero),
    "hardsigmoid": Kernels(hardsigmoid_value, hardsigmoid_first, zero, zero),
    "hardswish": Kernels(hardswish_value, hardswish_first, hardswish_second, zero),
    "relu_squared": Kernels(relu_squared_value, relu_squared_first, relu_squared_second, zero),
    "elu": Kernels(elu_value, elu_first, elu_second, elu_third),
    "selu": Kernels(selu_value, selu_first, selu_second, selu_third),
    "celu": Kernels(celu_value, celu_first, celu_second, celu_third),
    "gelu": Kernels(gelu_value, gelu_first, gelu_second, gelu_third),
    "gelu_tanh": Kernels(gelu_tanh_value, gelu_tanh_first, gelu_tanh_second, gelu_tanh_third),
    "quick_gelu": Kernels(quick_gelu_value, quick_gelu_first, quick_gelu_second, quick_gelu_third),
    "silu": Kernels(silu_value, silu_first, silu_second, silu_third),
    "swish": Kernels(swish_value, swish_first, swish_second, swish_third),
    "mish": Kernels(mish_value, mish_first, mish_second, mish_third),
    "softplus": Kernels(softplus_value, softplus_first, softplus_second, softplus_third),
    "shifted_softplus": Kernels(
        shifted_softplus_value, shifted_softplus_first, shifted_softplus_second, shifted_softplus_third
    ),
    "squareplus": Kernels(squareplus_value, squareplus_first, squareplus_second, squareplus_third),
    "softsign": Kernels(softsign_value, softsign_first, softsign_second, softsign_third),
    "sigmoid": Kernels(sigmoid_value, sigmoid_first, sigmoid_second, sigmoid_third),
    "logsigmoid": Kernels(logsigmoid_value, logsigmoid_first, logsigmoid_second, logsigmoid_third),
    "tanh": Kernels(tanh_value, tanh_first, tanh_second, tanh_third),
    "tanhshrink": Kernels(tanhshrink_value, tanhshrink_first, tanhshrink_second, tanhshrink_third),
    "sin": Kernels(sin_value, sin_first, sin_second, sin_third),
    "snake": Kernels(snake_value, snake_first, snake_second, snake_third),
    "morlet": Kernels(morlet_value, morlet_first, morlet_second, morlet_third),
    "gaussian": Kernels(gaussian_value, gaussian_first, gaussian_second, gaussian_third),
    "exp": Kernels(exp_value, exp_first, exp_second, zero),
    "square": Kernels(square_value, square_first, square_second, zero),
}
