"""How the ops run under vmap. The batch becomes a leading dimension of x where it can, else the op is made of bmm."""

import math

import torch
from torch import Tensor

from ..activations import REGISTRY
from ..ops import act, act_jvp, act_vjp, gated, linear, linear_act, mlp, mm, mul_constant
from ..ops.op import library


def _vmap(*names: str):
    def register(rule):
        for name in names:
            torch.library.register_vmap(f"fusegrad::{name}", rule, lib=library)
        return rule

    return register


def front(info, t: Tensor, dim: int | None) -> Tensor:
    """t with the batch as its first dimension; expanded, if it has no batch."""
    return t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)


@_vmap("act", "act_reference")
def _(info, dims, s, g, name, param, order):
    s = front(info, s, dims[0])
    return act(s, None if g is None else front(info, g, dims[1]), name, param, order), 0


@_vmap("act_vjp")
def _(info, dims, gy, s, g, name, param, order, *needed):
    gy, s, g = (front(info, t, dim) for t, dim in zip((gy, s, g), dims, strict=False))
    return act_vjp(gy, s, g, name, param, order, *needed), tuple(0 if n else None for n in needed)


@_vmap("act_jvp")
def _(info, dims, ts, tg, s, g, name, param, order, need_y):
    ts, tg, s, g = (front(info, t, dim) for t, dim in zip((ts, tg, s, g), dims, strict=False))
    return act_jvp(ts, tg, s, g, name, param, order, need_y), (0, 0 if need_y else None)


@_vmap("mm")
def _(info, dims, a, b, trans_a, trans_b):
    if dims[1] is None and not trans_a:  # the rows of a are free
        a = a.movedim(dims[0], 0)
        return mm(a.flatten(0, 1), b, False, trans_b).unflatten(0, a.shape[:2]), 0
    a, b = front(info, a, dims[0]), front(info, b, dims[1])
    return _products(a.mT if trans_a else a, b.mT if trans_b else b), 0


@_vmap("linear")
def _(info, dims, x, w, b):
    return _batched_linear(info, dims, x, w, b), 0


@_vmap("linear_act")
def _linear_act(info, dims, x, w, b, name, param, save):
    if dims[1] is None and dims[2] is None:  # the leading dimensions of x are free
        y, saved = linear_act(x.movedim(dims[0], 0), w, b, name, param, save)
        return (y, saved), (0, 0 if saved.dim() > 1 else None)
    z = _batched_linear(info, dims, x, w, b)
    y = act(z, None, name, param, 0)
    if save and REGISTRY[name].saves_input:
        return (y, z), (0, 0)
    return (y, z.new_empty(0)), (0, None)


@_vmap("linear_act_backward")
def _(info, dims, gy, x, w, s, name, param, *needed):
    gy, x, w, s = (front(info, t, dim) for t, dim in zip((gy, x, w, s), dims, strict=False))
    gz = act(s, gy, name, param, 1)
    need_x, need_w, need_b = needed
    empty = x.new_empty(info.batch_size, 0)
    gx = torch.bmm(_matrices(gz), w).reshape(x.shape) if need_x else empty
    gw = _products(_matrices(gz).mT, _matrices(x)) if need_w else empty
    gb = _matrices(gz).sum(1) if need_b else empty
    return (gx, gw, gb), (0, 0, 0)


@_vmap("mm_dact")
def _(info, dims, a, b, s, name, param, need_sum):
    a, b, s = (front(info, t, dim) for t, dim in zip((a, b, s), dims, strict=False))
    gz = act(s, torch.bmm(a, b), name, param, 1)
    return (gz, gz.sum(1) if need_sum else gz.new_empty(0)), (0, 0 if need_sum else None)


@_vmap("mlp")
def _(info, dims, x, w1, b1, w2, b2, name, param, save):
    if all(dim is None for dim in dims[1:5]):  # the leading dimensions of x are free
        y, saved = mlp(x.movedim(dims[0], 0), w1, b1, w2, b2, name, param, save)
        return (y, saved), (0, 0 if save else None)
    first = dims[:3]
    if any(dim is not None for dim in first):
        (h, z), _ = _linear_act(info, (0, *first[1:]), front(info, x, dims[0]), w1, b1, name, param, True)
        at = 0
    else:  # one hidden layer, of which many are made
        (h, z), at = linear_act(x, w1, b1, name, param, True), None
    saved = (z if REGISTRY[name].saves_input else h) if save else h.new_empty(0)
    return (_batched_linear(info, (at, dims[3], dims[4]), h, w2, b2), saved), (0, at if save else None)


@_vmap("gated")
def _(info, dims, x, w_gate, w_up, b_gate, b_up, name, param, save):
    if all(dim is None for dim in dims[1:5]):  # the leading dimensions of x are free
        outputs = gated(x.movedim(dims[0], 0), w_gate, w_up, b_gate, b_up, name, param, save)
        return outputs, (0, *(0 if save else None,) * 2)
    z = _batched_linear(info, (dims[0], dims[1], dims[3]), x, w_gate, b_gate)
    up = _batched_linear(info, (dims[0], dims[2], dims[4]), x, w_up, b_up)
    h = act(z, None, name, param, 0)
    if save:
        return (h * up, z if REGISTRY[name].saves_input else h, up), (0, 0, 0)
    return (h * up, z.new_empty(0), z.new_empty(0)), (0, None, None)


@_vmap("gated_backward")
def _(info, dims, gy, x, w_gate, w_up, s, up, name, param, *needed):
    gy, x, w_gate, w_up, s, up = (front(info, t, d) for t, d in zip((gy, x, w_gate, w_up, s, up), dims, strict=False))
    gz = act(s, gy * up, name, param, 1)
    gu = gy * (act(s, None, name, param, 0) if REGISTRY[name].saves_input else s)
    gz, gu, x_rows = (_matrices(t) for t in (gz, gu, x))
    need_x, need_w_gate, need_w_up, need_b_gate, need_b_up = needed
    empty = lambda: x.new_empty(info.batch_size, 0)
    return (
        (torch.bmm(gz, w_gate) + torch.bmm(gu, w_up)).reshape(x.shape) if need_x else empty(),
        _products(gz.mT, x_rows) if need_w_gate else empty(),
        _products(gu.mT, x_rows) if need_w_up else empty(),
        gz.sum(1) if need_b_gate else empty(),
        gu.sum(1) if need_b_up else empty(),
    ), (0,) * 5


@_vmap("mul_constant")
def _(info, dims, x, c):
    return mul_constant(x, c), dims[0]


def _matrices(t: Tensor) -> Tensor:
    """(batch, ..., k) as a batch of matrices."""
    return t.reshape(t.shape[0], math.prod(t.shape[1:-1]), t.shape[-1])


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a b of each of a batch; of a column and a row, as the weight's gradient of one row is, in one pass over it.

    Not in bfloat16, of which torch's products are as fast.
    """
    return a * b if a.shape[-1] == 1 and a.dtype is not torch.bfloat16 else torch.bmm(a, b)


def _batched_linear(info, dims, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    if dims[1] is None:
        z = linear(front(info, x, dims[0]), w, None if b is None or dims[2] is not None else b)
    else:
        x, w = front(info, x, dims[0]), front(info, w, dims[1])
        z = torch.bmm(_matrices(x), w.mT).reshape(*x.shape[:-1], w.shape[1])
    if b is not None and (dims[1] is not None or dims[2] is not None):
        b = front(info, b, dims[2])
        z = z + b.reshape(b.shape[0], *[1] * (z.dim() - 2), b.shape[-1])
    return z
