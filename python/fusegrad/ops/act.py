"""The elementwise ops and their derivatives."""

from typing import Any

import torch
from torch import Tensor

from ..activations import REGISTRY
from ..internals.autograd import differentiable, wanted
from .schema import OPS, library
from .terms import present, product, tangents, total


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
        return present(act_vjp(gy, s, g, name, param, order, *needed), needed)
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


class Act(torch.autograd.Function):
    """d(g D_k(s)) = g D_{k+1}(s) ds + D_k(s) dg. At order 0 there is no g, and D_1 is a function of what is saved."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        s, g, ctx.act, ctx.param, ctx.order = inputs
        if ctx.order == 0:
            s = s if REGISTRY[ctx.act].saves_input else output
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


class ActVjp(torch.autograd.Function):
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


bind = lambda name, rule: differentiable(library, OPS[name], rule)
low_act, act_nth = bind("act", Act), bind("act_nth", Act)
act_vjp, act_jvp = bind("act_vjp", ActVjp), bind("act_jvp", ActJvp)
mul_constant = bind("mul_constant", MulConstant)
