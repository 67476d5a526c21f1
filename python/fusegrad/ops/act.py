"""The activations as ops: D_order(s) times a factor, and its derivatives.

D_0 is the activation, a function of z. D_1, D_2, ... are functions of s, which is what it saves (../activations). From
D_1 on each is the derivative of the one before, so one rule serves every order.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from ..activations import REGISTRY
from ..activations.elementary import opmath
from ..internals.dispatcher import above_autograd
from ..internals.engine import wanted
from .op import Op, laid_out_as
from .terms import present, product, tangents, total


class Act(Op):
    """y = g D_order(s); without g, D_order(s).

    d(g D_k(s)) = g D_{k+1}(s) ds + D_k(s) dg. At order 0 there is no g, and D_1 is a function of what is saved.
    """

    schema = "act(Tensor s, Tensor? g, str act, float param, int order) -> Tensor"
    operands = "s (...), g (...)"

    def check(self, args: Sequence[Any]) -> None:
        super().check(args)
        _, g, _, _, order = args
        if order < 0 or (order == 0 and g is not None):
            says = f"got order {order}, g {g is not None}"
            raise ValueError(f"{self.name}: order must be 0 (without g), 1, 2, ..., {says}")

    @staticmethod
    def fake(s, g, act, param, order):
        return torch.empty_like(s)

    @staticmethod
    def reference(
        s: Tensor,  # any shape: z for order 0, else what the activation saves
        g: Tensor | None,  # shape of s
        act: str,
        param: float,
        order: int,
    ) -> Tensor:  # shape of s
        """Above order 3 torch's derivatives, nested, of D_3.

        By reverse mode, since torch cannot nest forward mode of torch.func in a dual_level of the caller's.
        """
        a = REGISTRY[act]
        if order == 0:
            return laid_out_as(s, a.value(s, param))
        if order == 1:
            return laid_out_as(s, a.first(torch.ones_like(s) if g is None else g, s, param))
        if order <= 3:
            return laid_out_as(s, times(s, param, a.second if order == 2 else a.third, g))
        fn: Callable[[Tensor], Tensor] = lambda s: a.third(s, param)
        for _ in range(order - 3):
            fn = _derivative(fn)
        with above_autograd():
            return laid_out_as(s, times(s, param, lambda s, _: fn(s), g))

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


class ActReference(Act):
    """act on the reference: what a kernel calls for an order or an activation that it does not have."""

    schema = Act.schema.replace("act(", "act_reference(")


def _derivative(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda s: vjp(fn, s)[1](torch.ones_like(s))[0]


@opmath
def times(s: Tensor, param: float, d: Callable[[Tensor, float], Tensor], *factors: Tensor | None) -> Tensor:
    return reduce(torch.mul, (f for f in factors if f is not None), d(s, param))


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


class _OfAct(Op):
    """A derivative of act of order 1 or 2, which needs the one above."""

    def check(self, args: Sequence[Any]) -> None:
        super().check(args)
        order = next(a for a in args if type(a) is int)
        if order not in (1, 2):
            raise ValueError(f"{self.name}: order must be 1 or 2, got {order}")


class ActVjp(_OfAct):
    """Of y = g D_k(s) along gy: gs = gy g D_{k+1}(s), gg = gy D_k(s), and y itself; empty where not needed.

    Along a, b, c of these, with u = a g, the gradients are those of act: of u D_{k+1} along gy, of gy D_k along b, of
    g D_k along c:

        of       s               gy          g
        a gs     gy u D_{k+2}    u D_{k+1}   a (gy D_{k+1})
        b gg     b gy D_{k+1}    b D_k
        c y      c g D_{k+1}                 c D_k
    """

    schema = (
        "act_vjp(Tensor gy, Tensor s, Tensor g, str act, float param, int order, "
        "bool need_s, bool need_g, bool need_y) -> (Tensor gs, Tensor gg, Tensor y)"
    )
    operands = "gy (...), s (...), g (...)"

    @staticmethod
    def fake(gy, s, g, act, param, order, *needed):
        return tuple(torch.empty_like(s) if n else s.new_empty(0) for n in needed)

    @staticmethod
    def reference(
        gy: Tensor,  # any shape
        s: Tensor,  # shape of gy
        g: Tensor,  # shape of gy
        act: str,
        param: float,
        order: int,
        need_s: bool,
        need_g: bool,
        need_y: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        a = REGISTRY[act]
        next_ = a.second if order == 1 else a.third
        return (
            laid_out_as(s, times(s, param, next_, gy, g)) if need_s else s.new_empty(0),
            Act.reference(s, gy, act, param, order) if need_g else s.new_empty(0),
            Act.reference(s, g, act, param, order) if need_y else s.new_empty(0),
        )

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


class ActJvp(_OfAct):
    """Of y = g D_k(s) along ts and tg: ty = ts g D_{k+1}(s) + tg D_k(s), and y itself; empty where not needed.

    Along a of ty the gradients are a g D_{k+1} of ts, a D_k of tg, a ts D_{k+1} of g, and of s the tangent of a g
    D_{k+1} along ts and a tg. Those of y are act's.
    """

    schema = (
        "act_jvp(Tensor ts, Tensor tg, Tensor s, Tensor g, str act, float param, int order, bool need_y) "
        "-> (Tensor ty, Tensor y)"
    )
    operands = "ts (...), tg (...), s (...), g (...)"

    @staticmethod
    def fake(ts, tg, s, g, act, param, order, need_y):
        return torch.empty_like(s), torch.empty_like(s) if need_y else s.new_empty(0)

    @staticmethod
    def reference(
        ts: Tensor,  # any shape
        tg: Tensor,  # shape of ts
        s: Tensor,  # shape of ts
        g: Tensor,  # shape of ts
        act: str,
        param: float,
        order: int,
        need_y: bool,
    ) -> tuple[Tensor, Tensor]:
        @opmath
        def tangent(ts, tg, s, g):
            return ts * Act.reference(s, g, act, param, order + 1) + Act.reference(s, tg, act, param, order)

        y = Act.reference(s, g, act, param, order) if need_y else s.new_empty(0)
        return laid_out_as(s, tangent(ts, tg, s, g)), y

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


act, act_reference, act_vjp, act_jvp = Act(), ActReference(), ActVjp(), ActJvp()
