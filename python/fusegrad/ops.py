"""The ops (schema.py) as differentiable functions: the derivative rule of each.

A rule is made of these ops and of plain aten only, so every order of every transform follows from it. How they run
under vmap, autocast and the flop counter: _vmap.py, _autocast.py, _flops.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._autograd import differentiable, in_plain_eager, one_kernel, wanted
from .activations import REGISTRY
from .schema import OPS, library


def act(s: Tensor, g: Tensor | None, name: str, param: float, order: int) -> Tensor:
    """g * D_order(s), by the op that serves the order."""
    return (low_act if order <= 3 else act_nth)(s, g, name, param, order)


def act_gradients(
    gy: Tensor | None,  # shape of s; None stands for zeros
    s: Tensor,
    g: Tensor | None,  # shape of s; None stands for ones
    name: str,
    param: float,
    order: int,
    needed: tuple[bool, ...],
) -> tuple[Any, ...]:  # tensors; None for zeros, and where not needed
    """Of y = g D_order(s) along gy: gs = gy g D_{order+1}(s), gg = gy D_order(s), and y itself, each if needed."""
    need_s, need_g, need_y = needed
    if gy is None:
        return None, None, act(s, g, name, param, order) if need_y else None
    if need_s and g is not None and order <= 2:
        return present(act_backward(gy, s, g, name, param, order, *needed), needed)
    return (
        act(s, gy if g is None else gy * g, name, param, order + 1) if need_s else None,
        act(s, gy, name, param, order) if need_g else None,
        act(s, g, name, param, order) if need_y else None,
    )


def act_tangents(
    ts: Tensor | None,  # shape of s; None stands for zeros
    tg: Tensor | None,  # shape of s; None stands for zeros
    s: Tensor,
    g: Tensor | None,  # shape of s; None stands for ones
    name: str,
    param: float,
    order: int,
    need_y: bool = False,
) -> tuple[Any, ...]:  # tensors; None for zeros, and where not needed
    """Of y = g D_order(s) along ts and tg: ty = ts g D_{order+1}(s) + tg D_order(s), and y itself if needed."""
    if ts is not None and tg is not None and g is not None and order <= 2:
        return present(act_jvp(ts, tg, s, g, name, param, order, need_y), (True, need_y))
    along_s, _, y = act_gradients(ts, s, g, name, param, order, (True, False, need_y))
    return total(along_s, None if tg is None else act(s, tg, name, param, order)), y


def product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a b, None standing for zeros."""
    return None if a is None or b is None else a * b


def total(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms that are there."""
    there = [t for t in terms if t is not None]
    return sum(there[1:], there[0]) if there else None


def rows(t: Tensor) -> Tensor:
    """(..., k) as a matrix (m, k), also where k is 0."""
    return t if t.dim() == 2 else t.reshape(math.prod(t.shape[:-1]), t.shape[-1])


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
        gs, gg, _ = act_gradients(gy, s, g, ctx.act, ctx.param, ctx.order, (*wanted(ctx, 2), False))
        return gs, gg, None, None, None

    @staticmethod
    def jvp(ctx, ts, tg, *_):
        s, g = ctx.saved_tensors
        return act_tangents(ts, tg, s, g, ctx.act, ctx.param, ctx.order)[0]


class ActBackward(torch.autograd.Function):
    """gs = gy g D_{k+1}(s), gg = gy D_k(s), y = g D_k(s).

    Along a, b, c of these, with u = a g, the gradients are those of act: of u D_{k+1} along gy, of gy D_k along b, of
    g D_k along c:

        of       s               gy          g
        a gs     gy u D_{k+2}    u D_{k+1}   a (gy D_{k+1})
        b gg     b gy D_{k+1}    b D_k
        c y      c g D_{k+1}                 c D_k
    """

    @staticmethod
    def setup_context(ctx, inputs, output):
        gy, s, g, ctx.act, ctx.param, ctx.order, *ctx.needed = inputs
        ctx.save_for_backward(gy, s, g)
        ctx.save_for_forward(gy, s, g)
        ctx.mark_non_differentiable(*(t for t, n in zip(output, ctx.needed, strict=True) if not n))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, a, b, c):
        gy, s, g = ctx.saved_tensors
        need_gy, need_s, need_g = wanted(ctx, 3)
        a, b, c = present((a, b, c), ctx.needed)
        along = lambda t, g, order, *needed: act_gradients(t, s, g, ctx.act, ctx.param, order, needed)
        s_a = gy_a = g_a = None
        if a is not None:
            u = a * g if need_s or need_gy else None
            s_a, g_a, gy_a = along(gy, u, ctx.order + 1, need_s, need_g, need_gy)
            g_a = a * g_a if need_g else None
        s_b, gy_b, _ = along(b, gy, ctx.order, need_s, need_gy, False)
        s_c, g_c, _ = along(c, g, ctx.order, need_s, need_g, False)
        return total(gy_a, gy_b), total(s_a, s_b, s_c), total(g_a, g_c), None, None, None, None, None, None

    @staticmethod
    def jvp(ctx, tgy, ts, tg, *_):
        gy, s, g = ctx.saved_tensors
        need_s, need_g, need_y = ctx.needed
        along = lambda tg, g, order: act_tangents(ts, tg, s, g, ctx.act, ctx.param, order)[0]
        t_gs = t_gg = t_y = None
        if need_s:
            t_gs = along(total(product(tgy, g), product(gy, tg)), gy * g, ctx.order + 1)
        if need_g:
            t_gg = along(tgy, gy, ctx.order)
        if need_y:
            t_y = along(tg, g, ctx.order)
        return tangents((t_gs, t_gg, t_y), (s, s, s), ctx.needed)


class ActJvp(torch.autograd.Function):
    """ty = ts g D_{k+1}(s) + tg D_k(s), y = g D_k(s).

    Along a of ty the gradients are a g D_{k+1} of ts, a D_k of tg, a ts D_{k+1} of g, and of s the tangent of a g
    D_{k+1} along ts and a tg. Those of y are act's.
    """

    @staticmethod
    def setup_context(ctx, inputs, output):
        ts, tg, s, g, ctx.act, ctx.param, ctx.order, ctx.need_y = inputs
        ctx.save_for_backward(ts, tg, s, g)
        ctx.save_for_forward(ts, tg, s, g)
        if not ctx.need_y:
            ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, a, c):
        ts, tg, s, g = ctx.saved_tensors
        need_ts, need_tg, need_s, need_g = wanted(ctx, 4)
        c = c if ctx.need_y else None
        along = lambda t, g, *needed: act_gradients(t, s, g, ctx.act, ctx.param, ctx.order, needed)
        ts_a, tg_a, _ = along(a, g, need_ts, need_tg, False)
        g_a = along(a, ts, need_g, False, False)[0]
        s_a = None
        if a is not None and need_s:
            s_a = act_tangents(ts, a * tg, s, a * g, ctx.act, ctx.param, ctx.order + 1)[0]
        s_c, g_c, _ = along(c, g, need_s, need_g, False)
        return ts_a, tg_a, total(s_a, s_c), total(g_a, g_c), None, None, None, None

    @staticmethod
    def jvp(ctx, d_ts, d_tg, d_s, d_g, *_):
        ts, tg, s, g = ctx.saved_tensors
        along = lambda ts, tg, g, order: act_tangents(ts, tg, s, g, ctx.act, ctx.param, order)[0]
        t_ty = total(
            along(d_ts, d_tg, g, ctx.order),
            along(d_g, None, ts, ctx.order),
            None if d_s is None else along(ts, d_s * tg, d_s * g, ctx.order + 1),
        )
        t_y = along(d_s, d_g, g, ctx.order) if ctx.need_y else None
        return tangents((t_ty, t_y), (s, s), (True, ctx.need_y))


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


def linear_backward(
    ctx, gy: Tensor, x: Tensor, w: Tensor, s: Tensor, name: str, param: float
) -> tuple[Tensor | None, ...]:
    """Of y = act(x w^T + b): gx, gw, gb, each if this backward wants it."""
    return layer_backward(wanted(ctx, 3), gy, x, w, s, name, param)


def layer_backward(
    needed: Sequence[bool], gy: Tensor, x: Tensor, w: Tensor, s: Tensor, name: str, param: float
) -> tuple[Tensor | None, ...]:
    """Of y = act(x w^T + b): gx, gw, gb, each if needed."""
    if not any(needed):
        return None, None, None
    if in_plain_eager(gy, x, w, s) and not torch.is_grad_enabled():
        return present(linear_act_backward.kernel(gy, x, w, s, name, param, *needed), needed)
    if one_kernel(gy, x, w, s):
        return present(linear_act_backward(gy, x, w, s, name, param, *needed), needed)
    return gradients(gy if name == "identity" else act(s, gy, name, param, 1), x, w, needed)


def gradients(gz: Tensor, x: Tensor, w: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Of z = x w^T + b: gx = gz w, gw = gz^T x, gb = the sum of gz over its rows."""
    g = rows(gz)
    return (
        mm(g, w, False, False).reshape(x.shape) if needed[0] else None,
        mm(g, rows(x), True, False) if needed[1] else None,
        g.sum(0) if needed[2] else None,
    )


def present(grads, needed) -> tuple[Tensor | None, ...]:
    """The gradients that were asked for: an op returns an empty tensor for another."""
    return tuple(g if n else None for g, n in zip(grads, needed, strict=True))


def tangents(found, like, needed) -> tuple[Tensor | None, ...]:
    """Those of an op with several outputs, zeros where none was found: torch fails on None for one that is there."""
    triples = zip(found, like, needed, strict=True)
    return tuple(torch.zeros_like(t) if f is None and n else f for f, t, n in triples)


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
        if gz is None:
            return None, None, None
        x, w = ctx.saved_tensors
        return linear_backward(ctx, gz, x, w, gz, "identity", 0.0)

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
        if gkept is None and gy is not None:
            return *linear_backward(ctx, gy, x, w, s, ctx.act, ctx.param), None, None, None
        gz = total(gkept, None if gy is None else act(s, gy, ctx.act, ctx.param, 1))
        if gz is None:
            return None, None, None, None, None, None
        return *linear_backward(ctx, gz, x, w, gz, "identity", 0.0), None, None, None

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


class LinearActBackward(torch.autograd.Function):
    """With gz = gy D_1(s): gx = gz w, gw = gz^T x, gb = sum of gz.

    Of these, along ggx, ggw, ggb, the gradient of gz is G = ggx w^T + x ggw^T + ggb, so that those of the arguments
    are D_1(s) G of gy, gz ggw of x, gz^T ggx of w, and gy D_2(s) G of s.
    """

    @staticmethod
    def setup_context(ctx, inputs, output):
        gy, x, w, s, ctx.act, ctx.param, *ctx.needed = inputs
        ctx.save_for_backward(gy, x, w, s)
        ctx.save_for_forward(gy, x, w, s)
        ctx.mark_non_differentiable(*(g for g, n in zip(output, ctx.needed, strict=True) if not n))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, ggx, ggw, ggb):
        gy, x, w, s = ctx.saved_tensors
        need_gy, need_x, need_w, need_s = wanted(ctx, 4)
        ggx, ggw, ggb = present((ggx, ggw, ggb), ctx.needed)
        need_x, need_w = need_x and ggw is not None, need_w and ggx is not None
        g = linear_jvp(x, w, ggx, ggw, ggb) if need_gy or need_s else None
        if ctx.act == "identity":  # D_1 is 1
            d_s, d_gy, gz = None, g if need_gy else None, gy
        else:
            d_s, d_gy, gz = act_gradients(g, s, gy, ctx.act, ctx.param, 1, (need_s, need_gy, need_x or need_w))
        d_x = mm(rows(gz), ggw, False, False).reshape(x.shape) if need_x else None
        d_w = mm(rows(gz), rows(ggx), True, False) if need_w else None
        return d_gy, d_x, d_w, d_s, None, None, None, None, None

    @staticmethod
    def jvp(ctx, tgy, tx, tw, ts, *_):
        gy, x, w, s = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needed
        need_gz = (need_x and tw is not None) or (need_w and tx is not None)
        if ctx.act == "identity":
            tz, gz = tgy, gy
        else:
            tz, gz = act_tangents(ts, tgy, s, gy, ctx.act, ctx.param, 1, need_gz)
        t_gx = t_gw = t_gb = None
        if need_x:
            t_gx = total(
                None if tz is None else mm(rows(tz), w, False, False),
                None if tw is None else mm(rows(gz), tw, False, False),
            )
            t_gx = None if t_gx is None else t_gx.reshape(x.shape)
        if need_w:
            t_gw = total(
                None if tz is None else mm(rows(tz), rows(x), True, False),
                None if tx is None else mm(rows(gz), rows(tx), True, False),
            )
        if need_b and tz is not None:
            t_gb = rows(tz).sum(0)
        return tangents((t_gx, t_gw, t_gb), (x, w, w.new_empty(w.shape[0])), ctx.needed)


class MmGz(torch.autograd.Function):
    """gz = gy D_1(s) with gy = a b, gb = sum of gz. Along G, the gradient of gz, this is act's of order 1, and MM's."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, b, s, ctx.act, ctx.param, ctx.need_sum = inputs
        if not ctx.need_sum:
            ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(a, b, s)
        ctx.save_for_forward(a, b, s)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g_gz, g_gb):
        a, b, s = ctx.saved_tensors
        need_a, need_b, need_s = wanted(ctx, 3)
        row = g_gb.expand(s.shape) if ctx.need_sum and g_gb is not None else None
        g, ga, gb, gs = total(g_gz, row), None, None, None
        if g is not None and ctx.act == "identity":
            gy = g
        elif g is not None:
            y = mm(a, b, False, False) if need_s else s  # D_1(s) G needs none
            gs, gy, _ = act_gradients(g, s, y, ctx.act, ctx.param, 1, (need_s, need_a or need_b, False))
        if g is not None:
            ga = mm(gy, b, False, True) if need_a else None
            gb = mm(a, gy, True, False) if need_b else None
        return ga, gb, gs, None, None, None

    @staticmethod
    def jvp(ctx, ta, tb, ts, *_):
        a, b, s = ctx.saved_tensors
        ty = total(
            None if ta is None else mm(ta, b, False, False),
            None if tb is None else mm(a, tb, False, False),
        )
        if ctx.act != "identity":
            y = s if ts is None else mm(a, b, False, False)
            ty = act_tangents(ts, ty, s, y, ctx.act, ctx.param, 1)[0]
        t_sum = ty.sum(0) if ctx.need_sum and ty is not None else None
        return tangents((ty, t_sum), (s, s.new_empty(s.shape[1])), (True, ctx.need_sum))


class Mlp(torch.autograd.Function):
    """y = h w2^T + b2, h = act(z), z = x w1^T + b1. Of z and h one is kept, an output; backward makes h of z again.

    gw2 = gy^T h, gz = (gy w2) D_1(s), and the rest is linear_act's.
    """

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w1, w2, b1, _, ctx.act, ctx.param, ctx.keep = inputs
        ctx.absent = () if b1 is not None else (3,)
        ctx.kept_is_z = REGISTRY[ctx.act].keeps_input
        if ctx.keep:
            saved = x, w1, w2, output[1], None
        else:
            ctx.mark_non_differentiable(output[1])
            saved = x, w1, w2, None, b1
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy, gkept):
        x, w1, w2, s = Mlp.saved(ctx)
        need_x, need_w1, need_w2, need_b1, need_b2 = wanted(ctx, 5, ctx.absent)
        gkept = gkept if ctx.keep else None
        gw2 = gb2 = gz = gb1 = None
        if gy is not None:
            # x of the second layer is h: only its weight's gradient reads it
            h = act(s, None, ctx.act, ctx.param, 0) if need_w2 and ctx.kept_is_z else s
            _, gw2, gb2 = layer_backward((False, need_w2, need_b2), gy, h, w2, gy, "identity", 0.0)
        if need_x or need_w1 or need_b1:
            if gkept is None and gy is not None:
                call = mm_gz.kernel if in_plain_eager(gy, w2, s) and not torch.is_grad_enabled() else mm_gz
                gz, gb1 = present(call(rows(gy), w2, rows(s), ctx.act, ctx.param, need_b1), (True, need_b1))
                need_b1 = False
            else:
                gz = Mlp.gz(ctx, gy, gkept, w2, s)
        gx = gw1 = None
        if gz is not None:
            first = layer_backward((need_x, need_w1, need_b1), gz, rows(x), w1, gz, "identity", 0.0)
            gx, gw1 = first[:2]
            gb1 = first[2] if gb1 is None else gb1
            gx = None if gx is None else gx.reshape(x.shape)
        return gx, gw1, gw2, gb1, gb2, None, None, None

    @staticmethod
    def gz(ctx, gy: Tensor | None, gkept: Tensor | None, w2: Tensor, s: Tensor) -> Tensor | None:
        """Where a gradient comes to what is kept, too: from a second derivative."""
        gh = None if gy is None else mm(rows(gy), w2, False, False)
        gkept = None if gkept is None else rows(gkept)
        if not ctx.kept_is_z:
            gh = total(gh, gkept)
        gz = None if gh is None else act(rows(s), gh, ctx.act, ctx.param, 1)
        return total(gz, gkept) if ctx.kept_is_z else gz

    @staticmethod
    def jvp(ctx, tx, tw1, tw2, tb1, tb2, *_):
        x, w1, w2, s = Mlp.saved(ctx)
        tz = linear_jvp(x, w1, tx, tw1, tb1)
        th = None if tz is None else act(s, tz, ctx.act, ctx.param, 1)
        h = act(s, None, ctx.act, ctx.param, 0) if tw2 is not None and ctx.kept_is_z else s
        ty = linear_jvp(h, w2, th, tw2, tb2)
        t_kept = None if not ctx.keep else tz if ctx.kept_is_z else th
        y = x.new_empty(*x.shape[:-1], w2.shape[0])
        return tangents((ty, t_kept), (y, s), (True, ctx.keep))

    @staticmethod
    def saved(ctx) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, w1, w2, s, b1 = ctx.saved_tensors
        if not ctx.keep:
            z = linear(x, w1, b1)
            s = z if ctx.kept_is_z else act(z, None, ctx.act, ctx.param, 0)
        return x, w1, w2, s


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


RULES = (Act, Act, ActBackward, ActJvp, MM, Linear, LinearAct, LinearActBackward, MmGz, Mlp, MulConstant)
low_act, act_nth, act_backward, act_jvp, mm, linear, linear_act, linear_act_backward, mm_gz, mlp, mul_constant = (
    differentiable(library, op, rule) for op, rule in zip(OPS.values(), RULES, strict=True)
)
