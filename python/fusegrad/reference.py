"""The ops in plain torch, for any device and dtype: the oracle, the fallback and the baseline.

Each takes the arguments of its schema (ops.py) and runs below autograd. Outputs are laid out as the fake kernels
say: what a matrix product makes is contiguous, what is elementwise is laid out as its first argument.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .activations import REGISTRY, Activation, wide


def act(
    s: Tensor,  # any shape: z, or what the activation keeps
    g: Tensor | None,  # shape of s
    act: str,
    param: float,
    order: int,
) -> Tensor:  # shape of s
    a = REGISTRY[act]
    if order == 0:
        y = a.value(s, param)
    elif order == 1:
        y = a.first(torch.ones_like(s) if g is None else g, s, param)
    elif order == 2:
        y = _second(s, g, a, param)
    else:
        raise ValueError(f"act: order must be 0, 1 or 2, got {order}")
    if s.is_contiguous() and (g is None or g.is_contiguous()):
        return y
    out = torch.empty_like(s)
    return y if y.stride() == out.stride() else out.copy_(y)


@wide
def _second(s: Tensor, g: Tensor | None, a: Activation, param: float) -> Tensor:
    d = a.second(s, param)
    return d if g is None else d.mul_(g)


def mm(
    a: Tensor,  # (m, k), or (k, m) if trans_a
    b: Tensor,  # (k, n), or (n, k) if trans_b
    trans_a: bool,
    trans_b: bool,
) -> Tensor:  # (m, n)
    return torch.mm(a.mT if trans_a else a, b.mT if trans_b else b)


def linear(
    x: Tensor,  # (..., k)
    w: Tensor,  # (n, k)
    b: Tensor | None,  # (n)
) -> Tensor:  # (..., n)
    return F.linear(x, w, b).contiguous()


def linear_act(
    x: Tensor,  # (..., k)
    w: Tensor,  # (n, k)
    b: Tensor | None,  # (n)
    act: str,
    param: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:  # (..., n) twice; the second is empty unless an input is kept
    z = linear(x, w, b)
    a = REGISTRY[act]
    if a.name == "identity":
        return z, z.new_empty(0)
    return a.value(z, param), z if keep and a.keeps_input else z.new_empty(0)


def mul_constant(x: Tensor, c: float) -> Tensor:
    return x * c
