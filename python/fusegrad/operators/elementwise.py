"""Activations and products of tensors with streams as one op each, in plain eager mode.

Of a Laplacian: a value, tangents, and a sum of second derivatives. An activation also of derivatives along one
direction. On a GPU those of activations alone, up to second derivatives. All else is made of torch's functions.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import backends
from ..internals.call import in_plain_eager, requires_grad
from ..internals.engine import Noted, wanted
from ..internals.function import below_autograd, single_level
from ..ops.elementwise_streams import ACT, ACT_BACKWARD
from ..ops.op import RULES
from ..ops.operands import DTYPES
from ..routing import PIECEWISE, have_kernels
from .streams import Rules, Streams, joined, lifted, parted, whole

Made = tuple[Tensor, Streams]
PIECEWISE_LINEAR = PIECEWISE | {"hardsigmoid"}


def _serves(rules: Rules, *tensors: Tensor) -> bool:
    if backends.node is None or not backends.CHAINS or rules.apart:
        return False
    return not is_compiling() and all(t.numel() > 0 and t.dim() > 0 for t in tensors)


def _is_laplacian(rules: Rules) -> bool:
    return rules.order == 2 and rules.summed


def _all(t: Tensor, z: Tensor) -> Tensor:
    """A stream with all of its sizes."""
    return whole(lifted(t, z.dim()), z.shape)


def activated(rules: Rules, z: Tensor, streams: Streams, act: str, param: float) -> Made | None:
    """y = σ(z) with its streams, or None where that is left."""
    t = streams[0]
    if t is not None and backends.runs_by_triton(z):
        return by_triton(rules, z, streams, act, param)
    if t is None or not _serves(rules, z) or not have_kernels((act,)):
        return None
    if not _is_laplacian(rules):
        return None if rules.summed or rules.count > 1 else _along_one(z, streams, act, param)
    l = None if streams[1] is None else _all(streams[1], z)  # noqa: E741  # as in the formulas
    made = backends.node.act_streams(z, _all(t, z), l, act, float(param))
    return None if made is None else (made[0], made[1:])


def _along_one(z: Tensor, streams: Streams, act: str, param: float) -> Made | None:
    """That of derivatives along one direction."""
    *lower, last = (None if s is None else _all(s, z) for s in streams)
    made = backends.node.act_taylor(z, joined(lower, z), last, act, float(param))
    return None if made is None else (made[0], (*parted(made[1]), made[2]))


def by_triton(rules: Rules, z: Tensor, streams: Streams, act: str, param: float) -> Made | None:
    """y = σ(z) with its streams by a Triton kernel, or None where that is left.

    Of derivatives along one direction the last is l of a Laplacian, and the one before its only tangent, if there is.
    """
    if rules.apart or rules.order > 2 or not (_is_laplacian(rules) or (rules.count == 1 and not rules.summed)):
        return None
    if streams[0] is None or z.numel() == 0 or not backends.runs_by_triton(z):
        return None
    alike = all(s is None or (s.dtype == z.dtype and s.device == z.device) for s in streams) and z.dtype in DTYPES
    if not alike or not in_plain_eager(z, *streams) or not backends.has_triton(act):
        return None
    t = z.new_empty(0, *z.shape) if rules.order == 1 else _all(streams[0], z)
    l = None if streams[-1] is None else _all(streams[-1], z)  # noqa: E741  # as in the formulas
    run = _apply if requires_grad(z, t, l) else partial(StreamedActivation.forward, None)
    y, ty, ly = run(z, t, l, act, float(param))
    return y, (ly,) if rules.order == 1 else (ty, ly)


class StreamedActivation:
    """An activation with its streams: all that it is given is kept.

    Backward is the op act_streams_backward. Its derivatives are those of torch's functions, computed again.
    """

    @staticmethod
    def forward(ctx, z, t, l, act, param):  # noqa: E741
        if ctx is not None:
            ctx.act, ctx.param = act, param
            ctx.save_for_backward(z, t, l)
            ctx.set_materialize_grads(False)
        y, ty, ly = below_autograd(ACT, z, t, l, act, param)
        return y, ty, None if l is None and act in PIECEWISE_LINEAR else ly

    @staticmethod
    def backward(ctx, *grads):
        saved, needed = ctx.saved_tensors, wanted(ctx, 3)
        _, gty, gly = grads
        if torch.is_grad_enabled() or not in_plain_eager(*grads, *saved):
            found = RULES["act_streams"](Noted({"act": ctx.act, "param": ctx.param}, needed, saved), *grads)
            return *found, None, None
        there = any(g is not None for g in grads), gty is not None or gly is not None, gly is not None
        needed = [n and is_there for n, is_there in zip(needed, there, strict=True)]
        if not any(needed):
            return (None,) * 5
        mask = sum(1 << i for i, n in enumerate(needed) if n)
        found = below_autograd(ACT_BACKWARD, *grads, *saved, ctx.act, ctx.param, mask)
        return *(g if n else None for g, n in zip(found, needed, strict=True)), None, None


_apply = single_level(StreamedActivation)


def multiplied(rules: Rules, a: Tensor, of_a: Streams, b: Tensor, of_b: Streams) -> Made | None:
    """y = a b with its streams, or None where that is left: sizes that differ in another dimension than the last."""
    if not _is_laplacian(rules) or not _serves(rules, a, b) or (of_a[0] is None and of_b[0] is None):
        return None
    if a.dim() != b.dim() or a.shape[:-1] != b.shape[:-1] or a.dtype != b.dtype:
        return None
    if a.shape[-1] != b.shape[-1] and 1 not in (a.shape[-1], b.shape[-1]):
        return None
    all_a, all_b = ([None if s is None else _all(s, x) for s in of] for x, of in ((a, of_a), (b, of_b)))
    made = backends.node.multiply_streams(a, *all_a, b, *all_b)
    return None if made is None else (made[0], made[1:])


def set_rules(act_streams: Callable[..., Made]) -> None:
    """Give the nodes that C++ makes (csrc/autograd/elementwise_streams.h) rules in Python, for all other modes.

    They compute the same again, by functions that have derivatives themselves.
    """

    def act_rule(ctx: Any, *grads: Tensor | None) -> list[Tensor | None]:
        return _again(lambda z, *of: act_streams(_rules(of), z, of, ctx.act, ctx.param), ctx, grads)

    RULES["act_streams"] = act_rule

    def act_rule_along(ctx: Any, *grads: Tensor | None) -> list[Tensor | None]:
        def run(z, t, l):  # noqa: E741
            rules = Rules(t.shape[0] + 1, 1, summed=False)
            y, (*lower, last) = act_streams(rules, z, (*parted(t), l), ctx.act, ctx.param)
            return y, (joined(lower, y), joined([last], y))

        return _again(run, ctx, grads)

    RULES["act_taylor"] = act_rule_along


def _rules(*streams: Streams) -> Rules:
    return Rules(2, next(s[0].shape[0] for s in streams if s[0] is not None), summed=True)


def _product_rule(ctx: Any, *grads: Tensor | None) -> list[Tensor | None]:
    def run(a, ta, la, b, tb, lb):
        of_a, of_b = (ta, la), (tb, lb)
        return a * b, _rules(of_a, of_b).product(torch.mul, a, of_a, b, of_b)

    return _again(run, ctx, grads)


RULES["multiply_streams"] = _product_rule


def _again(run: Callable[..., Made], ctx: Any, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients of all that a node was given, as functions of that."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # of aliases: else what reaches a tensor through another counted twice
        alias = [t if t is None or not t.requires_grad else t.view_as(t) for t in ctx.saved_tensors]
        y, streams = run(*alias)
        made = [(out, g) for out, g in zip((y, *streams), grads, strict=True) if out is not None and g is not None]
        made = [(out, g) for out, g in made if out.requires_grad]
        on = [t for t, n in zip(alias, ctx.wanted, strict=True) if t is not None and n]
        take = partial(torch.autograd.grad, create_graph=create_graph, allow_unused=True)
        found = iter(take([out for out, _ in made], on, [g for _, g in made]) if made and on else [None] * len(on))
    return [next(found) if t is not None and n else None for t, n in zip(alias, ctx.wanted, strict=True)]
