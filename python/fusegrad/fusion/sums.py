"""Sums of two products, a * b + c * d, of tensors of which some are broadcast: messages between atoms, rotations.

torch makes each product and each of its gradients in a pass, and sums what was broadcast in others. As one op
(ops/sum_of_products.py) they are two passes, whatever is differentiated.
"""

import ast
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import backends
from ..internals.call import in_plain_eager
from ..internals.stock import torchs
from ..ops.sum_of_products import sum_of_products
from .rows import Row, row_of, view_of

# Elements of the sum, and of its last dimension: of fewer the calls, or the loops, cost as much as the passes. That is
# where the dimension before it is broadcast; twice as many where only the last is, and never where nothing is. Stock's
# time over ours forward, backward, and backward again, for (r, 1, c) (r, 3, 1) + (r, 1, c) (r, 3, c): 1.3, 1.4, 1.2 of
# 2^18 elements with c = 32; 1.8, 3.8, 4.0 of 2^20 with 128; for (r, 64) (r, 1) twice, of 2^19: 1.1, 1.2, 1.3 (Zen 4,
# 2026-11-27)
LEAST, SHORTEST = 2**18, 32
_MEAN = {name: torchs(Tensor, name) for name in ("__mul__", "__add__")}  # unless somebody replaced them


def products_of(e: ast.expr) -> tuple[ast.expr, ...] | None:
    """a, b, c and d of a * b + c * d, or None."""
    match e:
        case ast.BinOp(
            left=ast.BinOp(left=a, op=ast.Mult(), right=b),
            op=ast.Add(),
            right=ast.BinOp(left=c, op=ast.Mult(), right=d),
        ):
            return a, b, c, d
    return None


def name_of(factor: ast.expr) -> tuple[str, Row | None] | None:
    """The variable that a factor is, or is a view of, and that."""
    row = row_of(factor)
    match factor if row is None else row.of:
        case ast.Name(id=name):
            return name, row
    return None


class View(NamedTuple):
    """A factor that is of.how(*args), as the author wrote it."""

    of: Any
    how: str
    args: tuple

    def seen(self) -> Any:
        return view_of(self.of, self.how, self.args)


def view(of: Any, how: str, *args: Any) -> View:
    return View(of, how, args)


def sum_of_two(a: Any, b: Any, c: Any, d: Any) -> Any:
    """a * b + c * d; of views, which are made where the author makes them."""
    of = [f.of if type(f) is View else f for f in (a, b, c, d)]
    if not is_compiling() and all(type(t) is Tensor for t in of) and in_plain_eager(*of) and _are_torchs():
        p, q, r, s = factors = [*map(_seen, (a, b, c, d))]
        return sum_of_products(*factors) if _suit(factors) else p * q + r * s
    return _seen(a) * _seen(b) + _seen(c) * _seen(d)


def _are_torchs() -> bool:
    return all(getattr(Tensor, name) is f for name, f in _MEAN.items())


def _seen(f: Any) -> Any:
    return f.seen() if type(f) is View else f


def _suit(factors: list[Tensor]) -> bool:
    """Whether these are on a CPU, of many rows, and each product has the shape of the sum."""
    if backends.extension is None:
        return False
    first = factors[0]
    dims, dtype = first.dim(), first.dtype
    if dims not in (2, 3) or dtype not in (torch.float32, torch.float64):
        return False
    for f in factors:
        if f.dim() != dims or f.dtype is not dtype or not f.is_cpu or f.layout is not torch.strided:
            return False
    pairs = [[*map(max, zip(a.shape, b.shape, strict=True))] for a, b in (factors[:2], factors[2:])]
    shape = pairs[0]
    is_broadcast = dims == 3 and any(f.shape[1] < shape[1] for f in factors)
    times = 1 if is_broadcast else 2
    size = shape[0] * shape[-1] * (shape[1] if dims == 3 else 1)
    if pairs[1] != shape or size < times * LEAST or shape[-1] < times * SHORTEST:
        return False
    if not is_broadcast and all(f.shape[-1] == shape[-1] for f in factors):
        return False
    for f in factors:
        if f.shape[0] != shape[0] or any(n not in (1, m) for n, m in zip(f.shape, shape, strict=True)):
            return False
    return True
