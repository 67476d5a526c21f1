"""How far from the truth a computation may be that rounds each of its results: running error analysis.

A formula written in `Near` gives its value in float64, and a bound for what rounding makes of it: sums are held to the
size of their terms, which may cancel, and functions to how they change as far as their argument may have moved.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


class Near:
    """A tensor in float64, and the error that it may have when each result is rounded to a dtype."""

    def __init__(self, value: Tensor, dtype: torch.dtype, error: Tensor | float = 0.0):
        self.value, self.dtype = value.detach().double(), dtype
        self.error = torch.zeros_like(self.value) + error

    @property
    def eps(self) -> float:
        return torch.finfo(self.dtype).eps

    def _made(self, value: Tensor, error: Tensor, size: Tensor) -> "Near":
        """A result whose terms are of this size; below the smallest number roundings no longer shrink."""
        return Near(value, self.dtype, error + self.eps * (size + torch.finfo(self.dtype).tiny))

    def _roundings(self, count: int) -> float:
        """How many roundings of all its terms a sum of so many has, of which assert_near leaves some to all results.

        They go either way, so that they add up to the root of their number (Higham & Mary, SIAM J. Sci. Comput. 41,
        A2815), but for equal terms, which round alike: then stock's do as well. In float64 stock is the truth.
        """
        return 1 + (count if self.dtype == torch.float64 else math.sqrt(count)) / 8

    def __add__(self, other: "Near") -> "Near":
        value, size = self.value + other.value, self.value.abs() + other.value.abs()
        return self._made(value, self.error + other.error, size)

    def __mul__(self, other: "Near") -> "Near":
        value = self.value * other.value
        return self._made(value, _of_product(torch.mul, self, other), value.abs())

    def __matmul__(self, other: "Near") -> "Near":
        size = self._roundings(self.value.shape[-1]) * (self.value.abs() @ other.value.abs())
        return self._made(self.value @ other.value, _of_product(torch.matmul, self, other), size)

    @property
    def mT(self) -> "Near":
        return Near(self.value.mT, self.dtype, self.error.mT)

    def rows(self) -> "Near":
        """As a matrix; a width of zero leaves no doubt about the number of rows."""
        shape = math.prod(self.value.shape[:-1]), self.value.shape[-1]
        return Near(self.value.reshape(shape), self.dtype, self.error.reshape(shape))

    def sum_rows(self) -> "Near":
        size = self._roundings(len(self.value)) * self.value.abs().sum(0)
        return self._made(self.value.sum(0), self.error.sum(0), size)

    def through(self, fn: Callable[[Tensor], Tensor], scale: float = 1.0) -> "Near":
        """fn of it, elementwise, made of terms of this scale: what rounding its argument does, kinks included."""
        value, moved = fn(self.value), torch.zeros_like(self.value)
        for part in (-1, -0.5, 0.5, 1):
            by = part * (self.error + self.eps * self.value.abs())
            moved = torch.maximum(moved, (fn(self.value + by) - value).abs())
        return self._made(value, moved, value.abs() + scale)


def _of_product(product: Callable[[Tensor, Tensor], Tensor], a: Near, b: Near) -> Tensor:
    return product(a.error, b.value.abs() + b.error) + product(a.value.abs(), b.error)


def assert_near(mine: Tensor, near: Near, stock: Tensor | None = None, times: float = 4.0) -> None:
    """|mine - truth| <= 2 |stock - truth| + a few times the bound, wherever the dtype holds the numbers."""
    truth, allowed = near.value, times * near.error
    assert mine.shape == truth.shape
    fits = truth.abs() + allowed < torch.finfo(mine.dtype).max
    if stock is not None:
        fits &= stock.isfinite()
        allowed = allowed + 2 * (stock.double() - truth).abs().where(fits, 0.0).max() if truth.numel() else allowed
    wrong = fits & ~((mine.double() - truth).abs() <= allowed)
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} wrong, the first {mine[wrong][0]} for {truth[wrong][0]} "
        f"within {allowed[wrong][0]:.2g}"
    )
