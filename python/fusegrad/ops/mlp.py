"""Two layers as one op, and the product of its backward pass."""

import torch
from torch import Tensor

from ..activations import REGISTRY
from ..internals.autograd import in_plain_eager, wanted
from .act import act, act_gradients, act_tangents, bind
from .linear import layer_backward, linear, linear_jvp, mm
from .terms import present, rows, tangents, total


class MmDact(torch.autograd.Function):
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
    """y = h w2^T + b2, h = act(z), z = x w1^T + b1. Of z and h one is saved, an output; backward makes h of z again.

    gw2 = gy^T h, gz = (gy w2) D_1(s), and the rest is linear_act's.
    """

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w1, w2, b1, _, ctx.act, ctx.param, ctx.save = inputs
        ctx.absent = () if b1 is not None else (3,)
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
        need_x, need_w1, need_w2, need_b1, need_b2 = wanted(ctx, 5, ctx.absent)
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
        return gx, gw1, gw2, gb1, gb2, None, None, None

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
    def jvp(ctx, tx, tw1, tw2, tb1, tb2, *_):
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


mm_dact, mlp = bind("mm_dact", MmDact), bind("mlp", Mlp)
