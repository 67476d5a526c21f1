"""Derivatives of a tensor along directions, and how they pass through sums, products and functions.

A tensor y that depends on x carries its streams: y_1, ..., y_K, where y_k holds the k-th derivatives of y(x + s v) at
s = 0 for each direction v. Each is (R, *shape of y) for R directions, or None where it is zero. A size of y may be 1 in
a stream: it is then the same for all of that dimension, as the directions are for all points. Where only the sum of the
K-th derivatives over the directions is asked for (a Laplacian is that for K = 2), y_K is that sum, (1, *shape): the
sums of Leibniz and Faà di Bruno below are linear in the highest derivatives, so that it passes through by itself
("forward Laplacian", Li et al., arXiv:2307.08214; "collapsed Taylor mode", Dangel et al., NeurIPS 2025).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.terms import total

Streams = tuple[Tensor | None, ...]  # y_1, ..., y_K


@dataclass(frozen=True)
class Rules:
    """How streams pass through functions, whatever computes these."""

    order: int  # K
    count: int  # R
    summed: bool  # whether y_K is the sum over the directions
    apart: bool = False  # whether values are to be computed as they are without streams, to the last bit

    @property
    def zero(self) -> Streams:
        return (None,) * self.order

    def directions(self, k: int) -> int:
        """The first size of y_k."""
        return 1 if self.summed and k == self.order else self.count

    def gathered(self, k: int, t: Tensor | None) -> Tensor | None:
        """What is a sum of products of lower streams, as part of y_k."""
        return t.sum(0, keepdim=True) if t is not None and self.summed and k == self.order else t

    def product(
        self,
        f: Callable[[Tensor, Tensor], Tensor],  # bilinear, of operands with one more dimension before theirs
        a: Tensor,
        of_a: Streams,
        b: Tensor,
        of_b: Streams,
    ) -> Streams:
        """Of y = f(a, b), by Leibniz: y_k = Σ_j C(k, j) f(a_j, b_{k-j}), with a_0 = a and b_0 = b."""
        a0, b0 = a.unsqueeze(0), b.unsqueeze(0)
        found = []
        for k in range(1, self.order + 1):
            a_k, b_k = of_a[k - 1], of_b[k - 1]
            middle = total(
                *(
                    _times(math.comb(k, j), f(a_j, b_j))
                    for j in range(1, k)
                    if (a_j := of_a[j - 1]) is not None and (b_j := of_b[k - j - 1]) is not None
                )
            )
            first = None if a_k is None else f(a_k, b0)
            last = None if b_k is None else f(a0, b_k)
            found.append(total(first, last, self.gathered(k, middle)))
        return tuple(found)

    def quotient(self, y: Tensor, of_a: Streams, b: Tensor, of_b: Streams) -> Streams:
        """Of y = a / b, from a = y b: y_k = (a_k - Σ_{j<k} C(k, j) y_j b_{k-j}) / b. All are as wide as y."""
        found: list[Tensor | None] = []
        for k in range(1, self.order + 1):
            b_k = of_b[k - 1]
            middle = total(
                *(
                    _times(math.comb(k, j), y_j * b_j)
                    for j in range(1, k)
                    if (y_j := found[j - 1]) is not None and (b_j := of_b[k - j - 1]) is not None
                )
            )
            less = total(None if b_k is None else y * b_k, self.gathered(k, middle))
            y_k = total(of_a[k - 1], None if less is None else -less)
            found.append(None if y_k is None else y_k / b)
        return tuple(found)

    def function(self, z: Streams, d: Callable[[int], Tensor | None]) -> Streams:
        """Of y = f(z), element by element, with d(k) the k-th derivative of f at z, None where it is zero.

        Faà di Bruno's formula, of derivatives, not of Taylor's coefficients:

            y_1 = f' z_1
            y_2 = f' z_2 + f'' z_1²
            y_3 = f' z_3 + 3 f'' z_1 z_2 + f''' z_1³
            y_4 = f' z_4 + f'' (4 z_1 z_3 + 3 z_2²) + 6 f''' z_1² z_2 + f'''' z_1⁴
        """
        z1, z2, z3 = (*z, None, None, None)[:3]
        square = None if z1 is None or self.order < 2 else z1 * z1
        found = []
        for k, z_k in enumerate(z, 1):
            terms = [(1, z_k)]
            if k == 2:
                terms += [(2, self.gathered(k, square))]
            elif k == 3:
                terms += [(2, self.gathered(k, _of(3, z1, z2))), (3, self.gathered(k, _of(1, square, z1)))]
            elif k == 4:
                terms += [
                    (2, self.gathered(k, total(_of(4, z1, z3), _of(3, z2, z2)))),
                    (3, self.gathered(k, _of(6, square, z2))),
                    (4, self.gathered(k, _of(1, square, square))),
                ]
            made = [d_j * t for j, t in terms if t is not None and (d_j := d(j)) is not None]
            found.append(total(*made))
        return tuple(found)


def _times(c: int, t: Tensor) -> Tensor:
    return t if c == 1 else c * t


def _of(c: int, a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else _times(c, a * b)


def lifted(p: Tensor, dim: int) -> Tensor:
    """A stream of a tensor as one of `dim` dimensions, to which it is broadcast."""
    missing = dim + 1 - p.dim()
    return p if missing <= 0 else p.reshape(p.shape[0], *(1,) * missing, *p.shape[1:])


def whole(p: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A stream of a tensor of this shape, with all of its sizes."""
    return p if p.shape[1:] == shape else lifted(p, len(shape)).expand(p.shape[0], *shape)


def joined(streams: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Streams of a tensor along one direction as one, (k, *shape), with zeros for None."""
    if not streams:
        return like.new_empty(0, *like.shape)
    every = [like.new_zeros(1).expand(1, *like.shape) if s is None else whole(s, like.shape) for s in streams]
    return every[0] if len(every) == 1 else torch.cat(every)


def parted(t: Tensor) -> tuple[Tensor, ...]:
    """These again, each of which may be written to in place."""
    return tuple(t.narrow(0, k, 1) for k in range(t.shape[0]))


def narrowed(p: Tensor) -> Tensor:
    """A stream with size 1 in each dimension in which it was only expanded."""
    for dim in range(1, p.dim()):
        if p.shape[dim] > 1 and p.stride(dim) == 0:
            p = p.narrow(dim, 0, 1)
    return p


def each(streams: Streams, f: Callable[[Tensor], Tensor]) -> Streams:
    """What a linear map makes of each."""
    return tuple(None if p is None else f(p) for p in streams)
