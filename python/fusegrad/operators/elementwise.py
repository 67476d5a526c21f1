"""Activations and products of tensors with streams as one op each, on the CPU, in plain eager mode.

Of a Laplacian: a value, tangents, and a sum of second derivatives. An activation also of derivatives along one
direction. All else is made of torch's functions.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import backends
from ..ops import elementwise_streams  # noqa: F401  # which defines the ops
from ..ops.op import RULES
from ..routing import have_kernels
from .streams import Rules, Streams, joined, lifted, parted, whole

Made = tuple[Tensor, Streams]


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
