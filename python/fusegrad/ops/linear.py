"""Matrix products and linear layers, and their derivatives."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations import REGISTRY
from ..internals.call import allows_fused_ops, in_plain_eager, outside_transforms
from ..internals.engine import wanted
from .act import act, act_gradients, act_tangents
from .op import Op
from .operands import check
from .terms import present, rows, tangents, total


class MM(Op):
    """y = a b, each transposed first if asked.

    ga = gy b^T and gb = a^T gy; the flags of these products follow from those of a and b.
    """

    schema = "mm(Tensor a, Tensor b, bool trans_a, bool trans_b) -> Tensor"
    operands = "a (m, k), b (k, n)"

    def check(self, args: Sequence[Any]) -> None:
        _, _, trans_a, trans_b = args
        check(self.name, f"a {'(k, m)' if trans_a else '(m, k)'}, b {'(n, k)' if trans_b else '(k, n)'}", args)

    @staticmethod
    def fake(a, b, trans_a, trans_b):
        return a.new_empty(a.shape[1 if trans_a else 0], b.shape[0 if trans_b else 1])

    @staticmethod
    def reference(
        a: Tensor,  # (m, k), or (k, m) if trans_a
        b: Tensor,  # (k, n), or (n, k) if trans_b
        trans_a: bool,
        trans_b: bool,
    ) -> Tensor:  # (m, n)
        return torch.mm(a.mT if trans_a else a, b.mT if trans_b else b)

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
    if not torch.is_grad_enabled() and in_plain_eager(gy, x, w, s):
        return present(linear_act_backward.kernel(gy, x, w, s, name, param, *needed), needed)
    if allows_fused_ops(gy, x, w, s):
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


def linear_jvp(x: Tensor, w: Tensor, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None) -> Tensor | None:
    """tz = tx w^T + x tw^T + tb."""
    if tx is None and tw is None:
        return None if tb is None else tb.expand(*x.shape[:-1], w.shape[0]).clone()
    first = None if tx is None else linear(tx, w, tb)
    second = None if tw is None else linear(x, tw, tb if tx is None else None)
    return total(first, second)


class Linear(Op):
    """z = x w^T + b."""

    schema = "linear(Tensor x, Tensor w, Tensor? b) -> Tensor"
    operands = "x (..., k), w (n, k), b (n)"

    @staticmethod
    def fake(x, w, b):
        return x.new_empty(*x.shape[:-1], w.shape[0])

    @staticmethod
    def reference(
        x: Tensor,  # (..., k)
        w: Tensor,  # (n, k)
        b: Tensor | None,  # (n)
    ) -> Tensor:  # (..., n)
        return F.linear(x, w, b).contiguous()

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


class LinearAct(Op):
    """y = act(z), z = x w^T + b, and z if `save` says so and the activation saves its input; else that is empty.

    What is saved is an output, so that second derivatives flow through it. Without, backward computes it again.
    """

    schema = "linear_act(Tensor x, Tensor w, Tensor? b, str act, float param, bool save) -> (Tensor y, Tensor saved)"
    operands = Linear.operands

    @staticmethod
    def fake(x, w, b, act, param, save):
        y = Linear.fake(x, w, b)
        return y, torch.empty_like(y) if save and REGISTRY[act].saves_input else x.new_empty(0)

    @staticmethod
    def reference(
        x: Tensor,  # (..., k)
        w: Tensor,  # (n, k)
        b: Tensor | None,  # (n)
        act: str,
        param: float,
        save: bool,
    ) -> tuple[Tensor, Tensor]:  # (..., n) twice
        z = Linear.reference(x, w, b)
        a = REGISTRY[act]
        if a.name == "identity":
            return z, z.new_empty(0)
        return a.value(z, param), z if save and a.saves_input else z.new_empty(0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w, b, ctx.act, ctx.param, save = inputs
        y, z = output
        saves_z = save and REGISTRY[ctx.act].saves_input
        if not saves_z:
            ctx.mark_non_differentiable(z)
        ctx.has_saved = saves_z or not REGISTRY[ctx.act].saves_input
        s = z if saves_z else y if ctx.has_saved else None
        saved = x, w, None if ctx.has_saved else b, s
        ctx.saved_is_output = saves_z
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy, gsaved):
        x, w, s = LinearAct.saved(ctx)
        return *linear_act_gradients(wanted(ctx, 3), gy, gsaved, x, w, s, ctx.act, ctx.param), None, None, None

    @staticmethod
    def jvp(ctx, tx, tw, tb, *_):
        x, w, s = LinearAct.saved(ctx)
        tz = linear_jvp(x, w, tx, tw, tb)
        if tz is None:
            return None, None
        return act(s, tz, ctx.act, ctx.param, 1), tz if ctx.saved_is_output else None

    @staticmethod
    def saved(ctx) -> tuple[Tensor, Tensor, Tensor]:
        x, w, b, s = ctx.saved_tensors
        return x, w, s if ctx.has_saved else linear(x, w, b)


def linear_act_gradients(
    needed: Sequence[bool],
    gy: Tensor | None,
    gsaved: Tensor | None,
    x: Tensor,
    w: Tensor,
    s: Tensor,
    name: str,
    param: float,
) -> tuple[Tensor | None, ...]:
    """gx, gw, gb, each if needed, of the gradients of y and of what is saved."""
    if gsaved is None and gy is not None:
        return layer_backward(needed, gy, x, w, s, name, param)
    gz = total(gsaved, None if gy is None else act(s, gy, name, param, 1))
    return (None, None, None) if gz is None else layer_backward(needed, gz, x, w, gz, "identity", 0.0)


class LinearActBackward(Op):
    """With gz = gy D_1(s): gx = gz w, gw = gz^T x, gb = sum of gz; empty where not needed.

    Of these, along ggx, ggw, ggb, the gradient of gz is G = ggx w^T + x ggw^T + ggb, so that those of the arguments
    are D_1(s) G of gy, gz ggw of x, gz^T ggx of w, and gy D_2(s) G of s.
    """

    schema = (
        "linear_act_backward(Tensor gy, Tensor x, Tensor w, Tensor s, str act, float param, "
        "bool need_x, bool need_w, bool need_b) -> (Tensor gx, Tensor gw, Tensor gb)"
    )
    operands = "gy (..., n), x (..., k), w (n, k), s (..., n)"

    @staticmethod
    def fake(gy, x, w, s, act, param, need_x, need_w, need_b):
        return (
            x.new_empty(x.shape if need_x else 0),
            w.new_empty(w.shape if need_w else 0),
            w.new_empty(w.shape[0] if need_b else 0),
        )

    @staticmethod
    def reference(
        gy: Tensor,  # (..., n)
        x: Tensor,  # (..., k)
        w: Tensor,  # (n, k)
        s: Tensor,  # (..., n): z or y, what the activation saves
        act: str,
        param: float,
        need_x: bool,
        need_w: bool,
        need_b: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # of the shapes of x, w and b
        gz = gy if act == "identity" else REGISTRY[act].first(gy, s, param)
        gx = torch.mm(rows(gz), w).reshape(x.shape) if need_x else x.new_empty(0)
        gw = torch.mm(rows(gz).mT, rows(x)) if need_w else w.new_empty(0)
        gb = rows(gz).sum(0) if need_b else w.new_empty(0)
        return gx, gw.contiguous(), gb

    @staticmethod
    def setup_context(ctx, inputs, output):
        gy, x, w, s, ctx.act, ctx.param, *ctx.needed = inputs
        ctx.save_for_backward(gy, x, w, s)
        ctx.save_for_forward(gy, x, w, s)
        known = outside_transforms(gy, x, w, s)  # there requires_grad tells all
        depends = lambda other: not known or any(t.requires_grad for t in (gy, s, other))
        differentiable = depends(w), depends(x), depends(gy)
        needed = zip(output, ctx.needed, differentiable, strict=True)
        ctx.mark_non_differentiable(*(g for g, n, d in needed if not (n and d)))
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


mm, linear, linear_act, linear_act_backward = MM(), Linear(), LinearAct(), LinearActBackward()
