"""What the derivative rules share. None stands for zeros: a gradient or a tangent that is not there."""

import math

import torch
from torch import Tensor


def product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a b, None standing for zeros."""
    return None if a is None or b is None else a * b


def total(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms that are there."""
    there = [t for t in terms if t is not None]
    return sum(there[1:], there[0]) if there else None


def present(grads, needed) -> tuple[Tensor | None, ...]:
    """The gradients that are needed, else None: for those the op returned an empty tensor."""
    return tuple(grads) if all(needed) else tuple(g if n else None for g, n in zip(grads, needed, strict=True))


def tangents(found, like, needed) -> tuple[Tensor | None, ...]:
    """The tangents of an op with several outputs: zeros for None where the output is needed, as torch fails on None."""
    triples = zip(found, like, needed, strict=True)
    return tuple(torch.zeros_like(t) if f is None and n else f for f, t, n in triples)


def rows(t: Tensor) -> Tensor:
    """(..., k) as a matrix (m, k), also where k is 0."""
    return t if t.dim() == 2 else t.reshape(math.prod(t.shape[:-1]), t.shape[-1])
