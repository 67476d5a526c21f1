"""Gated linear layers: one activation of a layer, times another layer of the same input."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations import REGISTRY
from ..internals.call import allows_fused_ops, in_plain_eager, outside_transforms
from ..internals.engine import wanted
from .act import act, act_gradients, act_tangents
from .linear import gradients, layer_backward, linear, linear_jvp, mm
from .op import Op
from .terms import present, product, rows, tangents, total


def value_of(s: Tensor, name: str, param: float) -> Tensor:
    """act(z), of what the activation saves."""
    return act(s, None, name, param, 0) if REGISTRY[name].saves_input else s


def slope(s: Tensor, g: Tensor | None, name: str, param: float) -> Any:  # shape of s; None stands for zeros
    """g act'(z)."""
    return g if g is None or name == "identity" else act(s, g, name, param, 1)


def change_of_value(s: Tensor, ts: Tensor | None, name: str, param: float) -> Any:
    """The tangent of act(z) along that of what the activation saves; it is its own transpose."""
    return slope(s, ts, name, param) if REGISTRY[name].saves_input else ts


class Gated(Op):
    """y = act(z) up, z = x w_gate^T + b_gate, up = x w_up^T + b_up; and, if `save` says so, what act saves, and up.

    What is saved is an output, so that second derivatives flow through it. Without, backward computes it again. Along
    gy the gradients of z and up are gz = gy up act'(z) and gu = gy act(z): act(z) need not be saved where z is.
    """

    schema = (
        "gated(Tensor x, Tensor w_gate, Tensor w_up, Tensor? b_gate, Tensor? b_up, str act, float param, bool save) "
        "-> (Tensor y, Tensor saved_gate, Tensor up)"
    )
    operands = "x (..., k), w_gate (n, k), w_up (n, k), b_gate (n), b_up (n)"

    @staticmethod
    def fake(x, w_gate, w_up, b_gate, b_up, act, param, save):
        shape = (*x.shape[:-1], w_gate.shape[0])
        return x.new_empty(shape), x.new_empty(shape if save else 0), x.new_empty(shape if save else 0)

    @staticmethod
    def reference(
        x: Tensor,  # (..., k)
        w_gate: Tensor,  # (n, k)
        w_up: Tensor,  # (n, k)
        b_gate: Tensor | None,  # (n)
        b_up: Tensor | None,  # (n)
        act: str,
        param: float,
        save: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # (..., n) thrice; the last two are empty unless saved
        a = REGISTRY[act]
        z, up = F.linear(x, w_gate, b_gate).contiguous(), F.linear(x, w_up, b_up).contiguous()
        h = z if act == "identity" else a.value(z, param)
        if not save:
            return h * up, x.new_empty(0), x.new_empty(0)
        return h * up, z if a.saves_input else h, up

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w_gate, w_up, b_gate, b_up, ctx.act, ctx.param, ctx.save = inputs
        _, s, up = output
        ctx.absent = [i for i, b in ((3, b_gate), (4, b_up)) if b is None]
        if ctx.save:
            saved = x, w_gate, w_up, s, up
        else:
            ctx.mark_non_differentiable(s, up)
            saved = x, w_gate, w_up, b_gate, b_up
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy, g_saved, g_up):
        needed = wanted(ctx, 5, ctx.absent)
        if gy is None and g_saved is None and g_up is None:
            return (None,) * 8
        x, w_gate, w_up, s, up = Gated.saved(ctx)
        if gy is not None and g_saved is None and g_up is None:
            return *gated_gradients(needed, gy, x, w_gate, w_up, s, up, ctx.act, ctx.param), None, None, None
        need_x, need_w_gate, need_w_up, need_b_gate, need_b_up = needed
        gh = product(gy, up)
        if REGISTRY[ctx.act].saves_input:
            gz = total(slope(s, gh, ctx.act, ctx.param), g_saved)
        else:
            gz = slope(s, total(gh, g_saved), ctx.act, ctx.param)
        gu = total(None if gy is None else gy * value_of(s, ctx.act, ctx.param), g_up)
        of_gate: tuple[Any, ...] = (None, None, None)
        of_up = of_gate
        if gz is not None:
            of_gate = layer_backward((need_x, need_w_gate, need_b_gate), gz, x, w_gate, gz, "identity", 0.0)
        if gu is not None:
            of_up = layer_backward((need_x, need_w_up, need_b_up), gu, x, w_up, gu, "identity", 0.0)
        return total(of_gate[0], of_up[0]), of_gate[1], of_up[1], of_gate[2], of_up[2], None, None, None

    @staticmethod
    def jvp(ctx, tx, tw_gate, tw_up, tb_gate, tb_up, *_):
        x, w_gate, w_up, s, up = Gated.saved(ctx)
        tz, tu = linear_jvp(x, w_gate, tx, tw_gate, tb_gate), linear_jvp(x, w_up, tx, tw_up, tb_up)
        th = slope(s, tz, ctx.act, ctx.param)
        ty = total(product(th, up), None if tu is None else tu * value_of(s, ctx.act, ctx.param))
        if not ctx.save:
            return ty, None, None
        return tangents((ty, tz if REGISTRY[ctx.act].saves_input else th, tu), (s, s, s), (True, True, True))

    @staticmethod
    def saved(ctx) -> tuple[Tensor, ...]:
        """x, w_gate, w_up, what the activation saves, up."""
        x, w_gate, w_up, s, up = ctx.saved_tensors
        if not ctx.save:  # these are the biases
            z, up = linear(x, w_gate, s), linear(x, w_up, up)
            s = z if REGISTRY[ctx.act].saves_input else act(z, None, ctx.act, ctx.param, 0)
        return x, w_gate, w_up, s, up


def gated_gradients(
    needed: Sequence[bool],
    gy: Tensor,
    x: Tensor,
    w_gate: Tensor,
    w_up: Tensor,
    s: Tensor,
    up: Tensor,
    name: str,
    param: float,
) -> tuple[Tensor | None, ...]:
    """Of y = act(z) up: gx, gw_gate, gw_up, gb_gate, gb_up, each if needed."""
    if not any(needed):
        return (None,) * 5
    tensors = gy, x, w_gate, w_up, s, up
    if in_plain_eager(*tensors) and not torch.is_grad_enabled():
        return present(gated_backward.kernel(*tensors, name, param, *needed), needed)
    if allows_fused_ops(*tensors):
        return present(gated_backward(*tensors, name, param, *needed), needed)
    need_x, need_w_gate, need_w_up, need_b_gate, need_b_up = needed
    of_gate: tuple[Any, ...] = (None, None, None)
    of_up = of_gate
    if need_x or need_w_gate or need_b_gate:
        gz = slope(s, gy * up, name, param)
        of_gate = gradients(gz, x, w_gate, (need_x, need_w_gate, need_b_gate))
    if need_x or need_w_up or need_b_up:
        gu = gy * value_of(s, name, param)
        of_up = gradients(gu, x, w_up, (need_x, need_w_up, need_b_up))
    return total(of_gate[0], of_up[0]), of_gate[1], of_up[1], of_gate[2], of_up[2]


class GatedBackward(Op):
    """With gz = gy up D_1(s), gu = gy act(z): gx = gz w_gate + gu w_up, gw_gate = gz^T x, gw_up = gu^T x, and gb_gate,
    gb_up, the sums of gz and gu over their rows; empty where not needed.

    Along ggx, ggw_gate, ... of these, the gradients of gz and gu are Gz = ggx w_gate^T + x ggw_gate^T + ggb_gate and
    Gu, the same of up. With v = gy up, those of the arguments are

        x   gz ggw_gate + gu ggw_up    s   v D_2(s) Gz + the transpose of act(z)'s change along gy Gu
        w   gz^T ggx, gu^T ggx         v   D_1(s) Gz, of which times up is for gy, with act(z) Gu; times gy for up
    """

    schema = (
        "gated_backward(Tensor gy, Tensor x, Tensor w_gate, Tensor w_up, Tensor s, Tensor up, str act, float param, "
        "bool need_x, bool need_w_gate, bool need_w_up, bool need_b_gate, bool need_b_up) "
        "-> (Tensor gx, Tensor gw_gate, Tensor gw_up, Tensor gb_gate, Tensor gb_up)"
    )
    operands = "gy (..., n), x (..., k), w_gate (n, k), w_up (n, k), s (..., n), up (..., n)"

    @staticmethod
    def fake(gy, x, w_gate, w_up, s, up, act, param, *needed):
        n = w_gate.shape[0]
        shapes = x.shape, w_gate.shape, w_up.shape, (n,), (n,)
        return tuple(x.new_empty(shape if need else 0) for shape, need in zip(shapes, needed, strict=True))

    @staticmethod
    def reference(
        gy: Tensor,  # (..., n)
        x: Tensor,  # (..., k)
        w_gate: Tensor,  # (n, k)
        w_up: Tensor,  # (n, k)
        s: Tensor,  # (..., n): z or act(z), what the activation saves
        up: Tensor,  # (..., n)
        act: str,
        param: float,
        need_x: bool,
        need_w_gate: bool,
        need_w_up: bool,
        need_b_gate: bool,
        need_b_up: bool,
    ) -> tuple[Tensor, ...]:  # of the shapes of x, w_gate, w_up, b_gate, b_up
        a = REGISTRY[act]
        gh, h = gy * up, a.value(s, param) if a.saves_input else s
        gz, gu = rows(gh if act == "identity" else a.first(gh, s, param)), rows(gy * h)
        empty = lambda: x.new_empty(0)
        return (
            torch.mm(gz, w_gate).addmm_(gu, w_up).reshape(x.shape) if need_x else empty(),
            torch.mm(gz.mT, rows(x)).contiguous() if need_w_gate else empty(),
            torch.mm(gu.mT, rows(x)).contiguous() if need_w_up else empty(),
            gz.sum(0) if need_b_gate else empty(),
            gu.sum(0) if need_b_up else empty(),
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        gy, x, w_gate, w_up, s, up, ctx.act, ctx.param, *ctx.needed = inputs
        ctx.save_for_backward(gy, x, w_gate, w_up, s, up)
        ctx.save_for_forward(gy, x, w_gate, w_up, s, up)
        known = outside_transforms(gy, x, w_gate, w_up, s, up)  # there requires_grad tells all
        depends = lambda *others: not known or any(t.requires_grad for t in (gy, s, up, *others))
        differentiable = depends(w_gate, w_up), depends(x), depends(x), depends(), depends()
        of_outputs = zip(output, ctx.needed, differentiable, strict=True)
        ctx.mark_non_differentiable(*(g for g, n, d in of_outputs if not (n and d)))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *given):
        gy, x, w_gate, w_up, s, up = ctx.saved_tensors
        name, param = ctx.act, ctx.param
        need_gy, need_x, need_w_gate, need_w_up, need_s, need_up = wanted(ctx, 6)
        ggx, ggw_gate, ggw_up, ggb_gate, ggb_up = present(given, ctx.needed)
        need_gz = (need_x and ggw_gate is not None) or (need_w_gate and ggx is not None)
        need_gu = (need_x and ggw_up is not None) or (need_w_up and ggx is not None)
        along_gz = along_gu = None
        if need_gy or need_s or need_up:
            along_gz = linear_jvp(x, w_gate, ggx, ggw_gate, ggb_gate)
        if need_gy or need_s:
            along_gu = linear_jvp(x, w_up, ggx, ggw_up, ggb_up)
        h = value_of(s, name, param) if need_gu or (need_gy and along_gu is not None) else None
        v = gy * up if need_gz or along_gz is not None else None
        d_s = d_v = gz = None
        if v is not None and name == "identity":  # D_1 is 1
            d_v, gz = along_gz, v
        elif v is not None:
            d_s, d_v, gz = act_gradients(along_gz, s, v, name, param, 1, (need_s, need_gy or need_up, need_gz))
        gu = product(gy, h) if need_gu else None
        d_gy = total(product(d_v, up), product(along_gu, h)) if need_gy else None
        d_up = product(d_v, gy) if need_up else None
        if need_s:
            d_s = total(d_s, change_of_value(s, product(gy, along_gu), name, param))
        d_x = d_w_gate = d_w_up = None
        if need_x:
            d_x = total(mm_of_rows(gz, ggw_gate), mm_of_rows(gu, ggw_up))
            d_x = None if d_x is None else d_x.reshape(x.shape)
        if need_w_gate and ggx is not None:
            d_w_gate = mm_of_rows(gz, ggx, True)
        if need_w_up and ggx is not None:
            d_w_up = mm_of_rows(gu, ggx, True)
        return d_gy, d_x, d_w_gate, d_w_up, d_s, d_up, *[None] * 7

    @staticmethod
    def jvp(ctx, tgy, tx, tw_gate, tw_up, ts, tup, *_):
        gy, x, w_gate, w_up, s, up = ctx.saved_tensors
        name, param = ctx.act, ctx.param
        need_x, need_w_gate, need_w_up, need_b_gate, need_b_up = ctx.needed
        need_gz = (need_x and tw_gate is not None) or (need_w_gate and tx is not None)
        need_gu = (need_x and tw_up is not None) or (need_w_up and tx is not None)
        v, tv = gy * up, total(product(tgy, up), product(gy, tup))
        if name == "identity":
            t_gz, gz = tv, v
        else:
            t_gz, gz = act_tangents(ts, tv, s, v, name, param, 1, need_gz)
        h = value_of(s, name, param) if need_gu or tgy is not None else None
        gu = product(gy, h) if need_gu else None
        t_gu = total(product(tgy, h), product(gy, change_of_value(s, ts, name, param)))
        t_gx = None
        if need_x:
            terms = (t_gz, w_gate), (gz, tw_gate), (t_gu, w_up), (gu, tw_up)
            t_gx = total(*(mm_of_rows(g, w) for g, w in terms))
            t_gx = None if t_gx is None else t_gx.reshape(x.shape)
        of_weight = lambda need, tg, g: total(mm_of_rows(tg, x, True), mm_of_rows(g, tx, True)) if need else None
        of_bias = lambda need, tg: rows(tg).sum(0) if need and tg is not None else None
        found = (
            t_gx,
            of_weight(need_w_gate, t_gz, gz),
            of_weight(need_w_up, t_gu, gu),
            of_bias(need_b_gate, t_gz),
            of_bias(need_b_up, t_gu),
        )
        row = w_gate.new_empty(w_gate.shape[0])
        return tangents(found, (x, w_gate, w_up, row, row), ctx.needed)


def mm_of_rows(g: Tensor | None, t: Tensor | None, transposed: bool = False) -> Tensor | None:
    """g t, or g^T t, of tensors as matrices; None stands for zeros."""
    return None if g is None or t is None else mm(rows(g), rows(t), transposed, False)


gated, gated_backward = Gated(), GatedBackward()
