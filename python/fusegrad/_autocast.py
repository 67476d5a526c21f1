"""How the ops run under autocast.

Matrix products run in the autocast dtype, as torch's do. An activation keeps the dtype it is given, but for those that
CUDA autocast widens to float32 (exp, pow, softplus: docs.pytorch.org/docs/stable/amp.html).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ._autograd import under_autocast
from .activations import REGISTRY
from .ops import OPS, library, linear, linear_act, low_act, mm


def _cast(device: str, dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    def cast(t: Tensor | None) -> Tensor | None:
        if t is None or not t.is_floating_point() or t.dtype == torch.float64 or t.device.type != device:
            return t
        return t.to(dtype)

    return tuple(cast(t) for t in tensors)


def _autocast(device: str) -> None:
    low = lambda *tensors: _cast(device, torch.get_autocast_dtype(device), *tensors)
    wide = lambda *tensors: _cast(device, torch.float32, *tensors)
    widens = lambda name: device == "cuda" and REGISTRY[name].widens

    def act_cast(s, g, name, param, order):
        return low_act(*(wide(s, g) if widens(name) else (s, g)), name, param, order)

    def linear_act_cast(x, w, b, name, param, keep):
        if widens(name):
            y = low_act(*wide(linear(*low(x, w, b))), None, name, param, 0)
            return y, y.new_empty(0)
        return linear_act(*low(x, w, b), name, param, keep)

    casts: dict[str, Callable] = {
        "act": act_cast,
        "mm": lambda a, b, trans_a, trans_b: mm(*low(a, b), trans_a, trans_b),
        "linear": lambda x, w, b: linear(*low(x, w, b)),
        "linear_act": linear_act_cast,
    }
    for name, cast in casts.items():
        under_autocast(library, OPS[name], device, cast)


_autocast("cpu")
_autocast("cuda")
