"""Derivatives of a chain, with respect to its input, as one op: the network's, and the gradients of these.

It is a route of plain eager mode on the CPU, of chains that end in one number a row and whose nodes C++ makes; the
derivation stands there (csrc/autograd/chain_derivatives.h). Here are their rules for all other modes, and for what is
to be differentiated again: the layers one by one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .chain import plan_of, with_zeros, without_derivative
from .chain_by_layers import Plan, backward_by_layers, second_by_layers, third_by_layers
from .op import RULES, library
from .terms import total

# Of <gy, y> + <gl, l>, l = D y[t] + sum_ij f_ij D^2 y[e_i, e_j]: l, and the gradients of x, w_1, b_1, ..., each if
# `needed` has its bit. t is (..., k), f (..., k, k), y and l are (..., n). Without gl that is ones; y is read if the
# last activation saves its output, `saved` is that of `chain`, and cotangents those of chain_slope, if it was called
library.define(
    "chain_derivatives(Tensor? gy, Tensor? t, Tensor? f, Tensor? gl, Tensor x, Tensor?[] weights, Tensor? y, "
    "Tensor saved, Tensor? cotangents, str acts, int needed) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# Of y (..., 1): gx = c dy/dx, and what the cotangents of y of all layers but the last are where that of y is 1
library.define(
    "chain_slope(Tensor c, Tensor x, Tensor?[] weights, Tensor? y, Tensor saved, str acts) "
    "-> (Tensor gx, Tensor cotangents)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
DERIVATIVES, SLOPE = torch.ops.fusegrad.chain_derivatives.default, torch.ops.fusegrad.chain_slope.default

for op in (DERIVATIVES, SLOPE):
    without_derivative(op, "differentiate what fusegrad.chain gives")


def derivatives_by_layers(
    gy: Tensor | None,
    t: Tensor | None,
    f: Tensor | None,
    x: Tensor,
    weights: Sequence[Tensor | None],
    of: Plan,
    needed: Sequence[bool],  # of l, x, w_1, b_1, ...
) -> list[Tensor | None]:
    """What the op gives where gl is ones."""
    found: list[Tensor | None] = [None] * len(needed)
    ones = x.new_ones(*x.shape[:-1], weights[-2].shape[0])  # type: ignore[union-attr]  # of the last layer
    parts: list[Sequence[Tensor | None]] = []
    if gy is not None:
        parts.append((None, *backward_by_layers(gy, x, weights, of, needed[1:])))
    if t is not None:
        along = (t, *(None for _ in weights))
        parts.append(second_by_layers(ones, x, weights, of, along, needed))
    if f is not None:
        for i, unit in enumerate(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)):
            parts.append(third_by_layers(ones, x, weights, of, unit.expand(x.shape), f[..., i, :], needed))
    for part in parts:
        found = [total(a, b) for a, b in zip(found, part, strict=True)]
    return found


def _rule(ctx, gy: Tensor | None, t: Tensor | None, f: Tensor | None) -> list[Tensor | None]:
    """Of x, w_1, b_1, ..."""
    _, _, x, *weights = ctx.saved_tensors
    found = derivatives_by_layers(gy, t, f, x, weights, plan_of(ctx.acts, weights), [False, *ctx.wanted])[1:]
    return with_zeros(found, ctx.wanted, (x, *weights)) if is_compiling() else found


def _rule_of_value(ctx, gy: Tensor) -> list[Tensor]:
    return [gy]


def _rule_of_slope(ctx, p: Tensor) -> list[Tensor | None]:
    """Of c, t, G, H."""
    c, t, *chain = ctx.saved_tensors
    need_c, need_t, need_g, need_h = ctx.wanted
    of_c, of_t = _along_and_slope(ctx.acts, chain, p, need_c, need_t) if need_c or need_t else (None, None)
    return [of_c, of_t, c * p if need_g else None, p.unsqueeze(-1) * t.unsqueeze(-2) if need_h else None]


def _along_and_slope(acts: str, chain: Sequence[Tensor | None], p: Tensor, *needed: bool) -> list[Tensor | None]:
    """<p, G> and H p."""
    _, _, x, *weights = chain
    assert x is not None
    wanted = (*needed, *(False for _ in weights))
    found = derivatives_by_layers(None, p, None, x, weights, plan_of(acts, weights), wanted)
    return with_zeros(found[:2], needed, (p[..., :1], p))


def _rule_of_along(ctx, q: Tensor) -> list[Tensor | None]:
    """Of p, G."""
    p, *chain = ctx.saved_tensors
    need_p, need_g = ctx.wanted
    of_p = None
    if need_p:
        _, _, x, *weights = chain
        wanted = (True, *(False for _ in weights))
        of_p = backward_by_layers(q, x, weights, plan_of(ctx.acts, weights), wanted)[0]
    return [of_p, q * p if need_g else None]


RULES["chain_derivatives"], RULES["chain_value"] = _rule, _rule_of_value
RULES["chain_slope"], RULES["chain_along"] = _rule_of_slope, _rule_of_along
