"""y = a b + c d + ..., of factors that may be broadcast in a row: one pass over memory, and one for all gradients.

    ga = [gy b],  gb = [gy a],  and so on, [.] summed to the shape of the factor.

Along v_i of the gradients [gy b_i] their gradient is that of sum_i v_i gy b_i: sum_i v_i b_i for gy, which is a sum of
products, and [gy v_i] for b_i. So two kernels make all orders.

As a chain (chain.py) it is none of the set, but a route of plain eager mode. Elsewhere torch multiplies.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from ..internals.call import holds_its_numbers, in_plain_eager, requires_grad
from ..internals.engine import wanted
from ..internals.function import below_autograd, single_level
from .chain import without_derivative
from .op import library

library.define("sum_of_products(Tensor[] factors) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
library.define(
    "sum_of_products_backward(Tensor gy, Tensor?[] factors, int[] shapes, int needed) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
FORWARD, BACKWARD = torch.ops.fusegrad.sum_of_products.default, torch.ops.fusegrad.sum_of_products_backward.default


def sum_of_products(*factors: Tensor) -> Tensor:
    """a b + c d + ... of factors (rows, c), or (rows, m, c), all of these rows; each may have one m, one c.

    Each product has the shape of the sum.
    """
    if not _suits(factors):
        return reduce(add, (a * b for a, b in zip(factors[::2], factors[1::2], strict=True)))
    return _apply(*factors) if requires_grad(*factors) else below_autograd(FORWARD, factors)


def _suits(tensors: Sequence[Tensor | None]) -> bool:
    return in_plain_eager(*tensors) and all(t is None or holds_its_numbers(t) for t in tensors)


class SumOfProducts:
    """It saves what products save: of each pair what the gradient of the other needs."""

    @staticmethod
    def forward(ctx, *factors):
        ctx.shapes = [f.shape for f in factors]
        ctx.save_for_backward(*(f if factors[k ^ 1].requires_grad else None for k, f in enumerate(factors)))
        return below_autograd(FORWARD, factors)

    @staticmethod
    def backward(ctx, gy):
        return tuple(_gradients(gy, ctx.saved_tensors, ctx.shapes, wanted(ctx, len(ctx.shapes))))


class Gradients:
    """Those that are needed, of gy and the factors that are saved."""

    @staticmethod
    def forward(ctx, shapes, needed, gy, *factors):
        ctx.shapes, ctx.needed, ctx.there = shapes, needed, [f is not None for f in factors]
        ctx.save_for_backward(gy, *factors)
        ctx.set_materialize_grads(False)
        return tuple(g for g in _by_kernel(gy, factors, shapes, needed) if g is not None)

    @staticmethod
    def backward(ctx, *along):
        gy, *factors = ctx.saved_tensors
        given = iter(along)
        v = [next(given) if n else None for n in ctx.needed]
        absent = [3 + k for k, there in enumerate(ctx.there) if not there]
        needs_gy, *needed = wanted(ctx, 3 + len(factors), (0, 1, *absent))[2:]
        pairs = [t for k, each in enumerate(v) if each is not None for t in (each, factors[k ^ 1])]
        of_gy = sum_of_products(*pairs) if needs_gy and pairs else None
        needed = [n and v[k ^ 1] is not None for k, n in enumerate(needed)]
        return None, None, of_gy, *_gradients(gy, v, ctx.shapes, needed)


_apply, _apply_gradients = single_level(SumOfProducts), single_level(Gradients)


def _gradients(
    gy: Tensor, factors: Sequence[Any], shapes: Sequence[torch.Size], needed: Sequence[bool]
) -> Sequence[Tensor | None]:
    """[gy times the other factor of the pair] for each factor, if needed."""
    if not any(needed):
        return [None] * len(needed)
    if not _suits((gy, *factors)):
        return [(gy * factors[k ^ 1]).sum_to_size(shapes[k]) if n else None for k, n in enumerate(needed)]
    if not requires_grad(gy, *factors):
        return _by_kernel(gy, factors, shapes, needed)
    found = iter(_apply_gradients(shapes, needed, gy, *factors))
    return [next(found) if n else None for n in needed]


def _by_kernel(gy, factors, shapes, needed) -> list[Tensor | None]:
    bits = sum(1 << k for k, n in enumerate(needed) if n)
    found = below_autograd(BACKWARD, gy, factors, [size for shape in shapes for size in shape], bits)
    return [g if n else None for g, n in zip(found, needed, strict=True)]


for op in (FORWARD, BACKWARD):
    without_derivative(op, "fusegrad.fuse calls it where it suits")
