"""Two layers as one op, and the product of its backward pass."""

import torch
from torch import Tensor

from ..activations import REGISTRY
from ..internals.call import in_plain_eager
from ..internals.engine import wanted
from .act import act, act_gradients, act_tangents
from .linear import layer_backward, linear, linear_act, linear_jvp, mm
from .op import Op
from .terms import present, rows, tangents, total


class MmDact(Op):
    """gz = gy D_1(s) with gy = a b, and gb, the sum of its rows; empty if not needed.

    dgrad of a layer, with a = gz and b = w, makes gz of the layer before it, which saved s. Along the gradient of gz
    this is act's of order 1, and mm's.
    """

    schema = "mm_dact(Tensor a, Tensor b, Tensor s, str act, float param, bool need_sum) -> (Tensor gz, Tensor gb)"
    operands = "a (m, k), b (k, n), s (m, n)"

    @staticmethod
    def fake(a, b, s, act, param, need_sum):
        return a.new_empty(s.shape), a.new_empty(s.shape[1] if need_sum else 0)

    @staticmethod
    def reference(
        a: Tensor,  # (m, k)
        b: Tensor,  # (k, n)
        s: Tensor,  # (m, n): z or y, what the activation saves
        act: str,
        param: float,
        need_sum: bool,
    ) -> tuple[Tensor, Tensor]:  # (m, n), (n)
        gy = torch.mm(a, b)
        gz = gy if act == "identity" else REGISTRY[act].first(gy, s, param).contiguous()
        return gz, gz.sum(0) if need_sum else gz.new_empty(0)

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


class Mlp(Op):
    """y = h w2^T + b2, h = act(z), z = x w1^T + b1, and what the activation saves of z and h, if `save` says so.

    What is saved is an output; backward makes h of z again. gw2 = gy^T h, gz = (gy w2) D_1(s), and the rest is
    linear_act's.
    """

    schema = (
        "mlp(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, float param, bool save) "
        "-> (Tensor y, Tensor saved)"
    )
    operands = "x (..., k), w1 (h, k), b1 (h), w2 (n, h), b2 (n)"

    @staticmethod
    def fake(x, w1, b1, w2, b2, act, param, save):
        lead = x.shape[:-1]
        return x.new_empty(*lead, w2.shape[0]), x.new_empty(*lead, w1.shape[0]) if save else x.new_empty(0)

    @staticmethod
    def reference(
        x: Tensor,  # (..., k)
        w1: Tensor,  # (h, k)
        b1: Tensor | None,  # (h)
        w2: Tensor,  # (n, h)
        b2: Tensor | None,  # (n)
        act: str,
        param: float,
        save: bool,
    ) -> tuple[Tensor, Tensor]:  # (..., n), (..., h)
        """By the ops of its layers, whatever serves them."""
        saves_input = REGISTRY[act].saves_input
        h, z = linear_act.overload(x, w1, b1, act, param, save and saves_input)
        saved = h.new_empty(0) if not save else z if saves_input else h
        return linear.overload(h, w2, b2), saved

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w1, b1, w2, _, ctx.act, ctx.param, ctx.save = inputs
        ctx.absent = () if b1 is not None else (2,)
        ctx.saved_is_z = REGISTRY[ctx.act].saves_input
        if ctx.save:
            saved = x, w1, w2, output[1], None
        else:
            ctx.mark_non_differentiable(output[1])
            saved = x, w1, w2, None, b1
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy, gsaved):
        x, w1, w2, s = Mlp.saved(ctx)
        need_x, need_w1, need_b1, need_w2, need_b2 = wanted(ctx, 5, ctx.absent)
        gsaved = gsaved if ctx.save else None
        gw2 = gb2 = gz = gb1 = None
        if gy is not None:
            # x of the second layer is h: only its weight's gradient reads it
            h = act(s, None, ctx.act, ctx.param, 0) if need_w2 and ctx.saved_is_z else s
            _, gw2, gb2 = layer_backward((False, need_w2, need_b2), gy, h, w2, gy, "identity", 0.0)
        if need_x or need_w1 or need_b1:
            if gsaved is None and gy is not None:
                call = mm_dact.kernel if in_plain_eager(gy, w2, s) and not torch.is_grad_enabled() else mm_dact
                gz, gb1 = present(call(rows(gy), w2, rows(s), ctx.act, ctx.param, need_b1), (True, need_b1))
                need_b1 = False
            else:
                gz = Mlp.gz(ctx, gy, gsaved, w2, s)
        gx = gw1 = None
        if gz is not None:
            first = layer_backward((need_x, need_w1, need_b1), gz, rows(x), w1, gz, "identity", 0.0)
            gx, gw1 = first[:2]
            gb1 = first[2] if gb1 is None else gb1
            gx = None if gx is None else gx.reshape(x.shape)
        return gx, gw1, gb1, gw2, gb2, None, None, None

    @staticmethod
    def gz(ctx, gy: Tensor | None, gsaved: Tensor | None, w2: Tensor, s: Tensor) -> Tensor | None:
        """Where a gradient comes to what is saved, too: from a second derivative."""
        gh = None if gy is None else mm(rows(gy), w2, False, False)
        gsaved = None if gsaved is None else rows(gsaved)
        if not ctx.saved_is_z:
            gh = total(gh, gsaved)
        gz = None if gh is None else act(rows(s), gh, ctx.act, ctx.param, 1)
        return total(gz, gsaved) if ctx.saved_is_z else gz

    @staticmethod
    def jvp(ctx, tx, tw1, tb1, tw2, tb2, *_):
        x, w1, w2, s = Mlp.saved(ctx)
        tz = linear_jvp(x, w1, tx, tw1, tb1)
        th = None if tz is None else act(s, tz, ctx.act, ctx.param, 1)
        h = act(s, None, ctx.act, ctx.param, 0) if tw2 is not None and ctx.saved_is_z else s
        ty = linear_jvp(h, w2, th, tw2, tb2)
        t_saved = None if not ctx.save else tz if ctx.saved_is_z else th
        y = x.new_empty(*x.shape[:-1], w2.shape[0])
        return tangents((ty, t_saved), (y, s), (True, ctx.save))

    @staticmethod
    def saved(ctx) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, w1, w2, s, b1 = ctx.saved_tensors
        if not ctx.save:
            z = linear(x, w1, b1)
            s = z if ctx.saved_is_z else act(z, None, ctx.act, ctx.param, 0)
        return x, w1, w2, s


mm_dact, mlp = MmDact(), Mlp()
