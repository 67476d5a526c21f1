"""Does each row of a result depend on its own row of x alone? Asked of each model by a run around its first, and around
each that calls something else than those before.
"""

import types
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..internals.call import is_ops_mode_on, transforms
from .streams import Rules

RULES = Rules(order=1, count=2, summed=False, apart=True)
PATHS = 1000  # of a model; one that takes more is asked again


class Known(NamedTuple):
    """What is known of a model, for several rows or for one."""

    parts: tuple[weakref.ref, ...]
    why: str  # the rules cannot follow it; or nothing
    paths: set[int]  # what it called in runs in which rows were apart


_SEEN: dict[tuple[int, ...], Known] = {}


def several(x: Tensor) -> bool:
    """Whether x has rows that could be mixed."""
    return x.dim() > 1 and x.numel() > x.shape[-1]


def may_ask(x: Tensor) -> bool:
    """Whether it can be found out here, of such points."""
    return x.numel() > 0 and transforms() == (0, 0) and not is_ops_mode_on() and type(x) in (Tensor, nn.Parameter)


def is_first(model: Any, x: Tensor) -> bool:
    """Whether nothing is known of the model yet, for such points, and it can be found out here."""
    return may_ask(x) and _known(model, x) is None


def why_nested(model: Any, x: Tensor) -> str:
    """Why the rules cannot follow a model, as is known of it; or nothing."""
    return "" if (known := _known(model, x)) is None else known.why


def is_new(model: Any, x: Tensor, path: int) -> bool:
    """Whether rows may be mixed by a run that is over: a known model called what it had not called before."""
    return several(x) and may_ask(x) and (known := _known(model, x)) is not None and path not in known.paths


def _known(model: Any, x: Tensor) -> Known | None:
    parts = _parts(model)
    known = _SEEN.get((several(x), *map(id, parts)))
    found = known is not None and all(ref() is part for ref, part in zip(known.parts, parts, strict=True))
    return known if found else None


def passed(model: Any, x: Tensor, *paths: int, why: str = "") -> None:
    """Note that the rows of a model are apart on these paths, and why the rules cannot follow it, if they cannot."""
    known = _known(model, x)
    if known is not None and known.why == why and len(known.paths) < PATHS:
        known.paths.update(paths)
        return
    parts = _parts(model)
    key = several(x), *map(id, parts)
    try:
        refs = tuple(weakref.ref(part, lambda _: _SEEN.pop(key, None)) for part in parts)
    except TypeError:  # what cannot be known again is asked each time
        return
    _SEEN[key] = Known(refs, why, {*paths})


def _parts(model: Any) -> tuple[Any, ...]:
    """What a model is known again by: a function is made anew for each call, of the same code and modules."""
    if isinstance(model, types.MethodType):
        return model.__func__.__code__, model.__self__
    if isinstance(model, types.FunctionType):
        cells = [_content(c) for c in model.__closure__ or ()]
        return model.__code__, *(c for c in cells if isinstance(c, nn.Module))
    return (model,)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def half_of_rows(x: Tensor) -> Tensor:
    """Which rows of x are in the first half, (..., 1): at random, the same each time, with one in each half."""
    n = x.numel() // x.shape[-1]
    half = torch.rand(n, generator=torch.Generator().manual_seed(0)) < 0.5
    half[0], half[-1] = True, False
    return half.to(x.device).reshape(*x.shape[:-1], 1)


def directions(x: Tensor) -> Tensor:
    """A direction for the rows of one half, none for the others; and the other way round."""
    half = half_of_rows(x)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    return torch.stack([v * half, v * ~half])


def are_apart(x: Tensor, y: Tensor, along: Tensor | None) -> bool:
    """Whether the derivatives along these are zero in all rows that have no direction. NaN is none of other rows."""
    if along is None:
        return True
    along = along.detach().expand(2, *y.shape).reshape(2, *y.shape[: x.dim() - 1], -1)
    half = half_of_rows(x)
    strange = torch.stack([along[0] * ~half, along[1] * half])
    return not bool(((strange != 0) & ~strange.isnan()).any())
