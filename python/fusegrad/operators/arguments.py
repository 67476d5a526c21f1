"""What the derivative operators are given, checked once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops.arguments import sizes

Model = Callable[[Tensor], Tensor]


def check_point(op: str, model: Any, x: Any) -> None:
    """A model, and points x (..., d)."""
    if not callable(model):
        raise TypeError(f"{op}: model must be callable, got {type(model).__name__}")
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: x must be a tensor, got {type(x).__name__}")
    if x.is_complex():
        raise TypeError(f"{op}: x is {x.dtype}; there are no rules for complex numbers")
    if not x.is_floating_point():
        raise TypeError(f"{op}: x is {x.dtype}; need floating point")
    if x.dim() == 0:
        raise ValueError(f"{op}: x has shape (); need (..., d)")


def check_value(op: str, x: Tensor, y: Any) -> None:
    """What the model has made of x: a tensor with the leading sizes of x."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{op}: the model returned {type(y).__name__}; need a tensor")
    if y.is_complex():
        raise TypeError(f"{op}: the model returned {y.dtype}; there are no rules for complex numbers")
    lead = x.shape[:-1]
    if y.shape[: len(lead)] != lead:
        raise ValueError(
            f"{op}: x has shape {sizes(x)}, the model returned {sizes(y)}; need the same leading sizes, "
            f"({', '.join(map(str, (*lead, '...')))}): one result for each point"
        )


def along_axes(x: Tensor) -> Tensor:
    """The directions of the axes, (d, 1, ..., 1, d): the same for all points."""
    d = x.shape[-1]
    return torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, *(1,) * (x.dim() - 1), d)


def along_columns(op: str, x: Tensor, directions: Any, name: str = "directions") -> Tensor:
    """Those of the columns of directions, (d, r) or (..., d, r), as (r, ..., d)."""
    if not isinstance(directions, Tensor):
        raise TypeError(f"{op}: directions must be a tensor, got {type(directions).__name__}")
    if directions.dtype != x.dtype or directions.device != x.device:
        raise TypeError(
            f"{op}: {name} is of {directions.dtype} on {directions.device}, x is {x.dtype} on {x.device}; "
            "need the same dtype and device"
        )
    alike, own = directions.shape[:-1] == x.shape[-1:], directions.shape[:-1] == x.shape
    if not alike and not own:
        raise ValueError(
            f"{op}: directions have shape {sizes(directions)}, x has shape {sizes(x)}; "
            "need (d, r), or (..., d, r) with the leading sizes of x"
        )
    s = directions.movedim(-1, 0)
    return s.reshape(s.shape[0], *(1,) * (x.dim() - 1), x.shape[-1]) if alike else s


def drift_of(op: str, x: Tensor, b: Any) -> Tensor:
    """b, (d) or (..., d), as (1, ..., d): a second derivative of x that is summed over the directions."""
    return _one(op, "drift", x, b)


def along_one(op: str, x: Tensor, v: Any) -> Tensor:
    """That of v, (d) or (..., d), as (1, ..., d)."""
    return _one(op, "v", x, v)


def _one(op: str, name: str, x: Tensor, v: Any) -> Tensor:
    if not isinstance(v, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(v).__name__}")
    if v.dim() == 0 or v.shape not in (x.shape[-1:], x.shape):
        raise ValueError(f"{op}: {name} has shape {sizes(v)}, x has shape {sizes(x)}; need (d), or the shape of x")
    return along_columns(op, x, v.unsqueeze(-1), name)


DISTRIBUTIONS = "rademacher", "normal", "sparse"


def at_random(
    op: str, x: Tensor, samples: Any, distribution: str, generator: torch.Generator | None
) -> Tensor:  # (samples, ..., d)
    """Directions v, of each point its own, with E[v vᵀ] = 1: scaled, so that the sum over them is the mean."""
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"{op}: samples must be a positive whole number, got {samples!r}")
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"{op}: distribution must be one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}")
    shape, like = (samples, *x.shape), x.device
    d = x.shape[-1]
    if distribution == "normal":
        v = torch.randn(shape, dtype=x.dtype, device=like, generator=generator)
    elif distribution == "rademacher":
        v = torch.randint(2, shape, device=like, generator=generator).to(x.dtype) * 2 - 1
    else:  # one axis, times √d
        axis = torch.randint(max(d, 1), shape[:-1], device=like, generator=generator)
        v = torch.nn.functional.one_hot(axis, max(d, 1))[..., :d].to(x.dtype) * d**0.5
    return v / samples**0.5
