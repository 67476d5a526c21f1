"""The ops in plain torch, for any device and dtype: the oracle, the fallback and the baseline.

Each takes the arguments of its schema (schema.py), which are checked already (operands.py), and runs below autograd.
Outputs are laid out as the fake kernels say: what a matrix product makes is contiguous, what is elementwise is laid out
as its first argument.
"""

import math
from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vjp

from ..activations import REGISTRY
from ..activations.formulas import wide
from ..internals.autograd import above_autograd
from .schema import OPS


def act(
    s: Tensor,  # any shape: z, or what the activation saves
    g: Tensor | None,  # shape of s
    act: str,
    param: float,
    order: int,
) -> Tensor:  # shape of s
    a = REGISTRY[act]
    if order == 0:
        return _laid_out_as(s, a.value(s, param))
    if order == 1:
        return _laid_out_as(s, a.first(torch.ones_like(s) if g is None else g, s, param))
    return _laid_out_as(s, _times(s, param, a.second if order == 2 else a.third, g))


def act_nth(
    s: Tensor,  # any shape
    g: Tensor | None,  # shape of s
    act: str,
    param: float,
    order: int,
) -> Tensor:  # shape of s
    """g * D_order(s) for any order: above 3 torch's derivatives, nested, of D_3.

    By reverse mode, since torch cannot nest forward mode of torch.func in a dual_level of the caller's.
    """
    if order <= 3:
        return _act(s, g, act, param, order)
    fn: Callable[[Tensor], Tensor] = lambda s: REGISTRY[act].third(s, param)
    for _ in range(order - 3):
        fn = _derivative(fn)
    with above_autograd():
        return _laid_out_as(s, _times(s, param, lambda s, _: fn(s), g))


def act_vjp(
    gy: Tensor,  # any shape
    s: Tensor,  # shape of gy
    g: Tensor,  # shape of gy
    act: str,
    param: float,
    order: int,
    need_s: bool,
    need_g: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # of y = g D_order(s) along gy: gs, gg, and y; empty where not needed
    a = REGISTRY[act]
    next_ = a.second if order == 1 else a.third
    return (
        _laid_out_as(s, _times(s, param, next_, gy, g)) if need_s else s.new_empty(0),
        _act(s, gy, act, param, order) if need_g else s.new_empty(0),
        _act(s, g, act, param, order) if need_y else s.new_empty(0),
    )


def act_jvp(
    ts: Tensor,  # any shape
    tg: Tensor,  # shape of ts
    s: Tensor,  # shape of ts
    g: Tensor,  # shape of ts
    act: str,
    param: float,
    order: int,
    need_y: bool,
) -> tuple[Tensor, Tensor]:  # of y = g D_order(s) along ts and tg: ty, and y; empty where not needed
    @wide
    def tangent(ts, tg, s, g):
        return ts * _act(s, g, act, param, order + 1) + _act(s, tg, act, param, order)

    return _laid_out_as(s, tangent(ts, tg, s, g)), _act(s, g, act, param, order) if need_y else s.new_empty(0)


_act = act  # which is the name of an argument, too


def _derivative(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda s: vjp(fn, s)[1](torch.ones_like(s))[0]


@wide
def _times(s: Tensor, param: float, d: Callable[[Tensor, float], Tensor], *factors: Tensor | None) -> Tensor:
    return reduce(torch.mul, (f for f in factors if f is not None), d(s, param))


def _laid_out_as(s: Tensor, y: Tensor) -> Tensor:
    """y with the strides that torch.empty_like(s) has, whatever else it was computed from."""
    if s.is_contiguous() and y.stride() == s.stride():
        return y
    out = torch.empty_like(s)
    return y if y.stride() == out.stride() else out.copy_(y)


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
    save: bool,
) -> tuple[Tensor, Tensor]:  # (..., n) twice; the second is empty unless an input is saved
    z = linear(x, w, b)
    a = REGISTRY[act]
    if a.name == "identity":
        return z, z.new_empty(0)
    return a.value(z, param), z if save and a.saves_input else z.new_empty(0)


def linear_act_backward(
    gy: Tensor,  # (..., n)
    x: Tensor,  # (..., k)
    w: Tensor,  # (n, k)
    s: Tensor,  # (..., n): z or y, what the activation saves
    act: str,
    param: float,
    need_x: bool,
    need_w: bool,
    need_b: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # of the shapes of x, w and b; empty where not needed
    gz = gy if act == "identity" else REGISTRY[act].first(gy, s, param)
    n, k = w.shape
    gz, rows = gz.reshape(math.prod(gz.shape[:-1]), n), x.reshape(math.prod(x.shape[:-1]), k)
    gx = torch.mm(gz, w).reshape(x.shape) if need_x else x.new_empty(0)
    gw = torch.mm(gz.mT, rows) if need_w else w.new_empty(0)
    gb = gz.sum(0) if need_b else w.new_empty(0)
    return gx, gw.contiguous(), gb


def mm_dact(
    a: Tensor,  # (m, k)
    b: Tensor,  # (k, n)
    s: Tensor,  # (m, n): z or y, what the activation saves
    act: str,
    param: float,
    need_sum: bool,
) -> tuple[Tensor, Tensor]:  # (m, n), (n); the second is empty where not needed
    gy = torch.mm(a, b)
    gz = gy if act == "identity" else REGISTRY[act].first(gy, s, param).contiguous()
    return gz, gz.sum(0) if need_sum else gz.new_empty(0)


def mlp(
    x: Tensor,  # (..., k)
    w1: Tensor,  # (h, k)
    w2: Tensor,  # (n, h)
    b1: Tensor | None,  # (h)
    b2: Tensor | None,  # (n)
    act: str,
    param: float,
    save: bool,
) -> tuple[Tensor, Tensor]:  # (..., n), (..., h): what the activation saves; the second is empty unless saved
    """By the ops of its layers, whatever serves them."""
    h, z = OPS["linear_act"](x, w1, b1, act, param, save and REGISTRY[act].saves_input)
    saved = h.new_empty(0) if not save else z if REGISTRY[act].saves_input else h
    return OPS["linear"](h, w2, b2), saved


def mul_constant(x: Tensor, c: float) -> Tensor:
    return _laid_out_as(x, x * c)
