"""The self-test: every op, its gradients and their gradients, on this machine, against float64."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad

from . import functional
from .activations import REGISTRY
from .functional_gated import gated
from .ops.operands import DTYPES

Fn = Callable[..., Tensor]
TWICE: dict[str, Fn] = {"hardsigmoid": lambda z: F.relu6(z + 3) / 6}  # torch's own has no second derivative


@dataclass(frozen=True)
class Error:
    """Largest errors against float64, relative to the largest value, over values and gradients."""

    ours: float
    stock: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.ours <= self.allowed


@dataclass(frozen=True)
class CheckRow:
    device: str
    op: str
    errors: dict[str, Error]  # by dtype

    @property
    def ok(self) -> bool:
        return all(e.ok for e in self.errors.values())


def check(device: str = "cpu") -> Iterator[CheckRow]:
    """Compare each op with stock torch in float64: values, gradients, and gradients of gradients.

    Yields a row an op and activation. An error may be twice that of stock torch in the same dtype, and some roundings.

    >>> from fusegrad.check import check
    >>> next(check("cpu")).ok  # of all the rows the first
    True
    """
    g = torch.Generator().manual_seed(0)
    # odd, and so many that the CPU computes them by the ops
    x, w, b = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((2301, 33), (29, 33), (29,)))
    for op, ours, stock, args in _cases(x, w / 7, b):
        errors = {str(d).removeprefix("torch."): _error(ours, stock, args, d, device) for d in DTYPES}
        yield CheckRow(device, op, errors)


def _cases(x: Tensor, w: Tensor, b: Tensor) -> Iterator[tuple[str, Fn, Fn, tuple[Tensor, ...]]]:
    yield "mul_constant", lambda x: functional.mul_constant(x, 0.7), lambda x: x * 0.7, (x,)
    yield "mm", lambda a, b: functional.mm(a, b, trans_b=True), lambda a, b: a @ b.mT, (x, w)
    yield "linear", functional.linear, F.linear, (x, w, b)
    for a in REGISTRY.values():
        stock = TWICE.get(a.name, lambda z, a=a: a.value(z, a.default))
        yield f"act {a.name}", lambda z, a=a: functional.act(z, a.name), stock, (x,)
        fused = lambda x, w, b, a=a: functional.linear_act(x, w, b, act=a.name)
        yield f"linear_act {a.name}", fused, lambda x, w, b, f=stock: f(F.linear(x, w, b)), (x, w, b)
        two = lambda x, w, b, a=a: functional.mlp(x, w, b, w.mT, act=a.name)
        yield f"mlp {a.name}", two, lambda x, w, b, f=stock: F.linear(f(F.linear(x, w, b)), w.mT), (x, w, b)
        gate = lambda x, w, b, a=a: gated(x, w, w.flip(0), b, act=a.name)
        yield f"gated {a.name}", gate, lambda x, w, b, f=stock: f(F.linear(x, w, b)) * F.linear(x, w.flip(0)), (x, w, b)


def _error(ours: Fn, stock: Fn, args: tuple[Tensor, ...], dtype: torch.dtype, device: str) -> Error:
    rounded = [t.to(device, dtype) for t in args]
    truth = _derivatives(stock, [t.double() for t in rounded])
    mine, theirs = _derivatives(ours, rounded), _derivatives(stock, rounded)
    pairs = [(_largest(m - t, t), _largest(s - t, t)) for m, s, t in zip(mine, theirs, truth, strict=True)]
    # float64 is its own truth: there only the order of summation differs
    slack = (64 if dtype == torch.float64 else 4) * torch.finfo(dtype).eps
    margin, (error, stock_error) = max((m - 2 * s if s < math.inf else math.inf, (m, s)) for m, s in pairs)
    return Error(error, stock_error, 2 * stock_error + slack) if margin <= slack else Error(error, stock_error, 0.0)


def _derivatives(fn: Fn, args: list[Tensor]) -> list[Tensor]:
    args = [t.clone().requires_grad_() for t in args]
    y = fn(*args)
    # a sum of squares that is small enough for float16, and one of numbers up to 1
    first = grad(y.square().sum() / 256, args, create_graph=True)
    penalty = sum(((t / t.detach().abs().max()).square().sum() for t in first), torch.zeros((), device=y.device))
    second = grad(penalty, args, allow_unused=True, materialize_grads=True)
    return [t.detach().double() for t in (y, *first, *second)]


def _largest(difference: Tensor, truth: Tensor) -> float:
    """Infinity where one of them has a NaN."""
    largest = (difference.abs().max() / truth.abs().max().clamp(min=1e-300)).item()
    return math.inf if math.isnan(largest) else largest
