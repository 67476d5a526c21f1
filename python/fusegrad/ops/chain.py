"""A chain of layers as one op, and as one node of autograd: a network whose layers stay in cache.

It is a route of plain eager mode, on a CPU, and of narrow layers on a GPU. Wherever else it is called, and above the
second derivative, its layers run one by one: by ops of the set, of which all higher derivatives are made.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..activations import REGISTRY
from ..internals.call import in_plain_eager, requires_grad
from ..internals.dispatcher import Overload, unqualified
from ..internals.engine import wanted
from ..internals.function import below_autograd, single_level
from .chain_by_layers import Plan, backward_by_layers, layers_of, plan, second_by_layers
from .op import RULES, library
from .operands import check

MOST_LAYERS = 30  # kMostLayers of csrc/cpu/kernels.h

library.define(
    "chain(Tensor x, Tensor?[] weights, str acts, bool save) -> (Tensor y, Tensor saved)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
library.define(
    "chain_backward(Tensor gy, Tensor x, Tensor?[] weights, Tensor y, Tensor saved, str acts, int needed) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
FORWARD, BACKWARD = torch.ops.fusegrad.chain.default, torch.ops.fusegrad.chain_backward.default


def chain(x: Tensor, weights: Sequence[Tensor | None], of: Plan, differentiable: bool) -> Tensor:
    """y = act_n(... act_1(x w_1^T + b_1) ... w_n^T + b_n), of weights w_1, b_1, ..., w_n, b_n that fit.

    For plain eager mode; `differentiable` says whether a gradient may be asked for.
    """
    if differentiable:
        return _apply(of, x, *weights)
    return below_autograd(FORWARD, x, weights, of.acts, False)[0]


def places(weights: Sequence[Any]) -> list[int]:
    """Where w_1, w_2, ... are."""
    return [w.data_ptr() for w in weights[::2]]


def check_places(op: str, weights: Sequence[Any], at: Sequence[int]) -> None:
    """Raise RuntimeError if forward had a weight elsewhere, or a bias of another size: by `weight.data = ...`."""
    for w, b, place in zip(weights[::2], weights[1::2], at, strict=True):
        has_other_bias = b is not None and b.shape[0] != w.shape[0]
        is_elsewhere = type(w) is torch.nn.Parameter and w.data_ptr() != place  # others: hooks of saved tensors copied
        if is_elsewhere or has_other_bias:
            what, shape = ("weight", w.shape) if is_elsewhere else ("bias", b.shape)
            raise RuntimeError(
                f"{op}: a {what}, {tuple(shape)}, was given other data between forward and backward, which "
                "needs the old; call backward before `.data = ...` and nn.utils.vector_to_parameters"
            )


class Chain:
    """y, and what the layers save, in one tensor in an order of the kernel's: it is no output, as in other ops.

    Backward is the op chain_backward: with gz_l = gy_l act_l'(z_l), for each layer gw_l = gz_l^T y_{l-1}, gb_l the sum
    of gz_l, and gy_{l-1} = gz_l w_l.
    """

    @staticmethod
    def forward(ctx, of, x, *weights):
        ctx.plan, ctx.at = of, places(weights)
        y, saved = below_autograd(FORWARD, x, weights, of.acts, True)
        ctx.save_for_backward(saved, y if of.saves_output else None, x, *weights)
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx, gy):
        of = ctx.plan
        saved, y, x, *weights = ctx.saved_tensors
        if gy is None:
            return (None,) * (2 + len(weights))
        needed = wanted(ctx, 2 + len(weights), of.shifted(2, 0))[1:]
        if in_plain_eager(gy, x, *weights):
            check_places("chain", weights, ctx.at)
        return None, *_backward(of, needed, saved, y, gy, x, weights)


def _backward(of: Plan, needed: Sequence[bool], saved, y, gy, x, weights) -> Sequence[Tensor | None]:
    """gx, gw_1, gb_1, ..., each if needed, as the mode asks for them."""
    if not in_plain_eager(gy, x, *weights):
        return backward_by_layers(gy, x, weights, of, needed)
    if not torch.is_grad_enabled():
        return _gradients(of, needed, saved, y, gy, x, weights)
    y = None if y is None else y.detach()  # z is a function of the others
    found = iter(_apply_backward(of, needed, saved, y, gy, x, *weights))
    return [next(found) if n else None for n in needed]


def _rule(ctx, gy: Tensor) -> Sequence[Tensor | None]:
    """The same for a node that C++ made (csrc/autograd/chain.h)."""
    saved, y, x, *weights = ctx.saved_tensors
    return _backward(plan_of(ctx.acts, weights), ctx.wanted, saved, y, gy, x, weights)


def _rule_of_backward(ctx, *along: Tensor | None) -> Sequence[Tensor | None]:
    """The same for the node of the gradients (csrc/autograd/chain_second.h)."""
    gy, x, *kept = ctx.saved_tensors
    weights = kept[: len(along) - 1]
    found = _of_gradients(plan_of(ctx.acts, weights), along, ctx.wanted, gy, x, weights)
    return with_zeros(found, ctx.wanted, (gy, x, *weights))  # which compiled autograd does not tell from eager mode


RULES["chain"], RULES["chain_backward"] = _rule, _rule_of_backward


def plan_of(acts: str, weights: Sequence[Tensor | None]) -> Plan:
    names, params = zip(*(act.split(" ") for act in acts.split(",")), strict=True)
    return plan(names, tuple(map(float, params)), tuple([b is not None for b in weights[1::2]]))


def check_layers(x: Tensor, weights: Sequence[Tensor | None], of: Plan) -> None:
    """Raise TypeError or ValueError where kernels in Python can't take these; those in C++ see for themselves."""
    count = len(of.names)
    if len(weights) != 2 * count or count > MOST_LAYERS or any(w is None for w in weights[::2]):
        raise ValueError(
            f"chain: {count} activations, {len(weights)} weights and biases; need w and b or None for each"
        )
    check("chain", _operands(count), (x, *weights))


@cache
def _operands(count: int) -> str:
    layers = (f"w{i + 1} ({n}, {k}), b{i + 1} ({n})" for i, (k, n) in enumerate(pairwise(ascii_letters[: count + 1])))
    return ", ".join((f"x (..., {ascii_letters[0]})", *layers))


class ChainBackward:
    """The gradients of a chain that are needed, as a function of gy, x, w_1, b_1, ...: they depend on z through these.

    Along a, a_w, a_b of gx, gw, gb its gradient is that of <gy, ty>, with ty the tangent of y along a, a_w, a_b: a
    sweep of tangents, and one back (second_by_layers).
    """

    @staticmethod
    def forward(ctx, of, needed, saved, y, gy, x, *weights):
        ctx.plan, ctx.needed = of, needed
        ctx.has_y = y is not None
        ctx.save_for_backward(gy, x, *weights)
        found = [g for g in _gradients(of, needed, saved, y, gy, x, weights) if g is not None]
        depends = [d for d, n in zip(_depend(of, gy, x, weights), needed, strict=True) if n]
        ctx.mark_non_differentiable(*(g for g, d in zip(found, depends, strict=True) if not d))
        ctx.set_materialize_grads(False)
        return tuple(found)

    @staticmethod
    def backward(ctx, *grads):
        gy, x, *weights = ctx.saved_tensors
        given = iter(grads)
        along = [next(given) if n else None for n in ctx.needed]
        absent = ctx.plan.shifted(6, 0, 1, *(() if ctx.has_y else (3,)))
        needed = wanted(ctx, 6 + len(weights), absent)[4:]
        return None, None, None, None, *_of_gradients(ctx.plan, along, needed, gy, x, weights)


def _of_gradients(of: Plan, along, needed: Sequence[bool], gy, x, weights) -> list[Tensor | None]:
    found = second_by_layers(gy, x, weights, of, along, needed)
    return with_zeros(found, needed, (gy, x, *weights)) if is_compiling() else found


def with_zeros(found, needed: Sequence[bool], like: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Compiled autograd adds up what comes of both nodes, and takes no None."""
    given = zip(like, needed, found, strict=True)
    return [torch.zeros_like(t) if n and g is None and t is not None else g for t, n, g in given]


def _gradients(of: Plan, needed: Sequence[bool], saved, y, gy, x, weights) -> list[Tensor | None]:
    """By the kernel: gx, gw_1, gb_1, ..., None for those that are not needed. What was not saved is computed again."""
    if saved is None:
        y, saved = below_autograd(FORWARD, x, weights, of.acts, True)
    mask, bit = 0, 1
    for n in needed:
        if n:
            mask |= bit
        bit <<= 1
    found = below_autograd(BACKWARD, gy, x, weights, gy if y is None else y, saved, of.acts, mask)
    return [g if n else None for g, n in zip(found, needed, strict=True)]


def _depend(of: Plan, gy: Tensor, x: Tensor, weights: Sequence[Tensor | None]) -> list[bool]:
    """For gx, gw_1, gb_1, ...: does it depend on something that requires a gradient?"""
    ask = lambda tensors: any(t is not None and t.requires_grad for t in tensors)
    count, result = len(of.names), [False] * (1 + len(weights))
    z = [ask((x, *weights[: 2 * i + 2])) for i in range(count)]  # of each layer
    gz = gy.requires_grad
    for i in reversed(range(count)):
        gz = gz or (of.names[i] != "identity" and z[i])
        result[2 + 2 * i] = gz
        result[1 + 2 * i] = gz or (z[i - 1] if i else x.requires_grad)
        gz = gz or ask((weights[2 * i],))
    result[0] = gz
    return result


_apply, _apply_backward = single_level(Chain), single_level(ChainBackward)


def _forward_in_any_mode(x, weights, acts, save):
    """The raw op where autograd is on: y is differentiable; nothing is saved, as its layers save."""
    for layer in layers_of(weights, plan_of(acts, weights)):
        x, _ = layer.forward(x)
    return x, x.new_empty(0)


def without_derivative(op: Overload, says: str) -> None:
    """Let a raw op refuse what requires a gradient: it has no derivative of its own."""

    def call(*args):
        tensors = [t for a in args for t in (a if isinstance(a, (list, tuple)) else [a]) if isinstance(t, Tensor)]
        if requires_grad(*tensors):
            raise RuntimeError(f"{unqualified(op)}: has no derivative; {says}")
        return below_autograd(op, *args)

    library.impl(unqualified(op), call, "Autograd")


def _fake(x, weights, acts, save):
    widths = [w.shape[0] for w in weights[::2]]
    name = acts.rpartition(",")[2].partition(" ")[0]
    kept = sum(widths) if name != "identity" and REGISTRY[name].saves_input else sum(widths[:-1])
    rows = x.numel() // x.shape[-1]
    return x.new_empty(*x.shape[:-1], widths[-1]), x.new_empty(rows * kept if save else 0)


torch.library.register_fake("fusegrad::chain", _fake, lib=library)
library.impl("chain", _forward_in_any_mode, "Autograd")
without_derivative(BACKWARD, "differentiate the gradients of fusegrad.chain")  # it has no biases, to make z again
