"""The closed set of differentiable ops: schema, fake kernel, derivative rules, vmap and autocast of each.

A rule is made of these ops and of plain aten only, so every order of every transform follows from it.

    act(s, g?, act, param, order)               g * D_order(s), orders 0 to 3
    act_nth(s, g?, act, param, order)           the same for any order >= 3, without a kernel
    mm(a, b, trans_a, trans_b)                  a b, each transposed first if asked
    linear(x, w, b?)                            x w^T + b
    linear_act(x, w, b?, act, param, keep)      y = act(x w^T + b), and what backward needs of it
    mul_constant(x, c)                          c x
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._autograd import differentiable, under_autocast, wanted
from .activations import REGISTRY

library = torch.library.Library("fusegrad", "DEF")
SCHEMAS = (
    "act(Tensor s, Tensor? g, str act, float param, int order) -> Tensor",
    "act_nth(Tensor s, Tensor? g, str act, float param, int order) -> Tensor",
    "mm(Tensor a, Tensor b, bool trans_a, bool trans_b) -> Tensor",
    "linear(Tensor x, Tensor w, Tensor? b) -> Tensor",
    # keep: whether y comes with what backward needs; if not, backward computes it again
    "linear_act(Tensor x, Tensor w, Tensor? b, str act, float param, bool keep) -> (Tensor y, Tensor kept)",
    "mul_constant(Tensor x, float c) -> Tensor",
)
for schema in SCHEMAS:
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
OPS = {name: getattr(torch.ops.fusegrad, name).default for name in (s.split("(")[0] for s in SCHEMAS)}


def act(s: Tensor, g: Tensor | None, name: str, param: float, order: int) -> Tensor:
    """g * D_order(s), by the op that serves the order."""
    return (low_act if order <= 3 else act_nth)(s, g, name, param, order)


def total(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms that are there."""
    there = [t for t in terms if t is not None]
    return sum(there[1:], there[0]) if there else None


def rows(t: Tensor) -> Tensor:
    """(..., k) as a matrix (m, k), also where k is 0."""
    return t if t.dim() == 2 else t.reshape(math.prod(t.shape[:-1]), t.shape[-1])


# --- fake kernels: shapes, dtypes and layouts ---------------------------------------------------------------------


def _fake(*names: str):
    def register(kernel):
        for name in names:
            torch.library.register_fake(f"fusegrad::{name}", kernel, lib=library)

    return register


@_fake("act", "act_nth")
def _(s, g, act, param, order):
    return torch.empty_like(s)


@_fake("mm")
def _(a, b, trans_a, trans_b):
    return a.new_empty(a.shape[1 if trans_a else 0], b.shape[0 if trans_b else 1])


@_fake("linear")
def _(x, w, b):
    return x.new_empty(*x.shape[:-1], w.shape[0])


@_fake("linear_act")
def _(x, w, b, act, param, keep):
    y = x.new_empty(*x.shape[:-1], w.shape[0])
    return y, torch.empty_like(y) if keep and REGISTRY[act].keeps_input else x.new_empty(0)


@_fake("mul_constant")
def _(x, c):
    return torch.empty_like(x)


# --- derivative rules ---------------------------------------------------------------------------------------------


class Act(torch.autograd.Function):
    """d(g D_k(s)) = g D_{k+1}(s) ds + D_k(s) dg. At order 0 there is no g, and D_1 is a function of what is kept."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        s, g, ctx.act, ctx.param, ctx.order = inputs
        if ctx.order == 0:
            s = s if REGISTRY[ctx.act].keeps_input else output
        ctx.save_for_backward(s, g)
        ctx.save_for_forward(s, g)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy):
        if gy is None:
            return None, None, None, None, None
        s, g = ctx.saved_tensors
        need_s, need_g = wanted(ctx, 2)
        gs = act(s, gy if g is None else gy * g, ctx.act, ctx.param, ctx.order + 1) if need_s else None
        gg = act(s, gy, ctx.act, ctx.param, ctx.order) if need_g else None
        return gs, gg, None, None, None

    @staticmethod
    def jvp(ctx, ts, tg, *_):
        s, g = ctx.saved_tensors
        along_s = None if ts is None else act(s, ts if g is None else ts * g, ctx.act, ctx.param, ctx.order + 1)
        along_g = None if tg is None else act(s, tg, ctx.act, ctx.param, ctx.order)
        return total(along_s, along_g)


class MM(torch.autograd.Function):
    """y = a b, so ga = gy b^T and gb = a^T gy; the flags of the products follow from those of a and b."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, b, ctx.trans_a, ctx.trans_b = inputs
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy):
        if gy is None:
            return None, None, None, None
        a, b = ctx.saved_tensors
        ta, tb = ctx.trans_a, ctx.trans_b
        need_a, need_b = wanted(ctx, 2)
        ga = gb = None
        if need_a:
            ga = mm(b, gy, tb, True) if ta else mm(gy, b, False, not tb)
        if need_b:
            gb = mm(gy, a, True, ta) if tb else mm(a, gy, not ta, False)
        return ga, gb, None, None

    @staticmethod
    def jvp(ctx, ta, tb, *_):
        a, b = ctx.saved_tensors
        flags = ctx.trans_a, ctx.trans_b
        return total(None if ta is None else mm(ta, b, *flags), None if tb is None else mm(a, tb, *flags))


def linear_backward(ctx, gz: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor | None, ...]:
    """Of z = x w^T + b: gx = gz w, gw = gz^T x, gb = the sum of gz over its rows; each if this backward wants it."""
    need_x, need_w, need_b = wanted(ctx, 3)
    g = rows(gz)
    gx = mm(g, w, False, False).reshape(x.shape) if need_x else None
    gw = mm(g, rows(x), True, False) if need_w else None
    gb = g.sum(0) if need_b else None
    return gx, gw, gb


def linear_jvp(x: Tensor, w: Tensor, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None) -> Tensor | None:
    """tz = tx w^T + x tw^T + tb."""
    if tx is None and tw is None:
        return None if tb is None else tb.expand(*x.shape[:-1], w.shape[0]).clone()
    first = None if tx is None else linear(tx, w, tb)
    second = None if tw is None else linear(x, tw, tb if tx is None else None)
    return total(first, second)


class Linear(torch.autograd.Function):
    """z = x w^T + b."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w, _ = inputs
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gz):
        return (None, None, None) if gz is None else linear_backward(ctx, gz, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx, tx, tw, tb):
        x, w = ctx.saved_tensors
        return linear_jvp(x, w, tx, tw, tb)


class LinearAct(torch.autograd.Function):
    """y = act(z), z = x w^T + b. What is kept is an output, so that second derivatives flow through it."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w, b, ctx.act, ctx.param, keep = inputs
        y, kept = output
        if not REGISTRY[ctx.act].keeps_input:
            ctx.mark_non_differentiable(kept)
            saved, ctx.has_kept = (x, w, None, y), True
        elif keep:
            saved, ctx.has_kept = (x, w, None, kept), True
        else:
            ctx.mark_non_differentiable(kept)
            saved, ctx.has_kept = (x, w, b, None), False
        ctx.kept_is_output = keep and REGISTRY[ctx.act].keeps_input
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy, gkept):
        x, w, s = LinearAct.saved(ctx)
        gz = total(gkept, None if gy is None else act(s, gy, ctx.act, ctx.param, 1))
        if gz is None:
            return None, None, None, None, None, None
        return *linear_backward(ctx, gz, x, w), None, None, None

    @staticmethod
    def jvp(ctx, tx, tw, tb, *_):
        x, w, s = LinearAct.saved(ctx)
        tz = linear_jvp(x, w, tx, tw, tb)
        if tz is None:
            return None, None
        return act(s, tz, ctx.act, ctx.param, 1), tz if ctx.kept_is_output else None

    @staticmethod
    def saved(ctx) -> tuple[Tensor, Tensor, Tensor]:
        x, w, b, s = ctx.saved_tensors
        return x, w, s if ctx.has_kept else linear(x, w, b)


class MulConstant(torch.autograd.Function):
    """y = c x; c is no tensor and has no gradient."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.c = inputs[1]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy):
        return None if gy is None else mul_constant(gy, ctx.c), None

    @staticmethod
    def jvp(ctx, tx, _):
        return None if tx is None else mul_constant(tx, ctx.c)


low_act, act_nth, mm, linear, linear_act, mul_constant = (
    differentiable(library, op, rule)
    for op, rule in zip(OPS.values(), (Act, Act, MM, Linear, LinearAct, MulConstant), strict=True)
)


# --- vmap ---------------------------------------------------------------------------------------------------------


def _vmap(*names: str):
    def register(rule):
        for name in names:
            torch.library.register_vmap(f"fusegrad::{name}", rule, lib=library)

    return register


def front(info, t: Tensor, dim: int | None) -> Tensor:
    """t with the batch as its first dimension, made up where it has none."""
    return t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)


@_vmap("act", "act_nth")
def _(info, dims, s, g, name, param, order):
    s = front(info, s, dims[0])
    return act(s, None if g is None else front(info, g, dims[1]), name, param, order), 0


@_vmap("mm")
def _(info, dims, a, b, trans_a, trans_b):
    if dims[1] is None and not trans_a:  # the rows of a are free
        a = a.movedim(dims[0], 0)
        return mm(a.flatten(0, 1), b, False, trans_b).unflatten(0, a.shape[:2]), 0
    a, b = front(info, a, dims[0]), front(info, b, dims[1])
    return torch.bmm(a.mT if trans_a else a, b.mT if trans_b else b), 0


@_vmap("linear")
def _(info, dims, x, w, b):
    return _batched_linear(info, dims, x, w, b), 0


@_vmap("linear_act")
def _(info, dims, x, w, b, name, param, keep):
    if dims[1] is None and dims[2] is None:  # the leading dimensions of x are free
        y, kept = linear_act(x.movedim(dims[0], 0), w, b, name, param, keep)
        return (y, kept), (0, 0 if kept.dim() > 1 else None)
    z = _batched_linear(info, dims, x, w, b)
    y = act(z, None, name, param, 0)
    if keep and REGISTRY[name].keeps_input:
        return (y, z), (0, 0)
    return (y, z.new_empty(0)), (0, None)


@_vmap("mul_constant")
def _(info, dims, x, c):
    return mul_constant(x, c), dims[0]


def _batched_linear(info, dims, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    if dims[1] is None:
        z = linear(front(info, x, dims[0]), w, None if b is None or dims[2] is not None else b)
    else:
        x, w = front(info, x, dims[0]), front(info, w, dims[1])
        lead = x.shape[1:-1]
        z = torch.bmm(x.reshape(x.shape[0], math.prod(lead), x.shape[-1]), w.mT)
        z = z.reshape(z.shape[0], *lead, z.shape[-1])
    if b is not None and (dims[1] is not None or dims[2] is not None):
        b = front(info, b, dims[2])
        z = z + b.reshape(b.shape[0], *[1] * (z.dim() - 2), b.shape[-1])
    return z


# --- autocast -----------------------------------------------------------------------------------------------------


# Matrix products run in the autocast dtype, as torch's do. An activation keeps the dtype it is given, but for those
# that CUDA autocast widens to float32 (exp, pow, softplus: docs.pytorch.org/docs/stable/amp.html).


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
