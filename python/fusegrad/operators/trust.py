"""What a model's source was read as is believed once it has been compared with what the model computes.

So a source that was not understood costs time, and gives no wrong number.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .program import Program
from .streams import Streams, whole

Made = tuple[Tensor, Streams]
TOLERANCE = 1e4  # times the precision of the dtype, relative to the largest number
MOST = 100  # programs of a model

# of a model, by what identifies them, the programs that were compared; with what was read for them, which has to live
_COMPARED: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


_NUMBERS_FROM = {"affine": 0, "act": 1}  # of what a step has


def _identity(of: Program, x: Tensor) -> tuple[Any, ...]:
    """Steps and sizes, but no numbers, as these may be others on each call; what was read, and the dtype."""
    steps = [(s.kind, s.a, s.b, *s.more[: _NUMBERS_FROM.get(s.kind, 3)]) for s in of.steps]
    return x.dtype, of.is_squeezed, *of.widths, *steps, *map(id, of.read)


def is_trusted(key: Any, of: Program, x: Tensor) -> bool:
    return _identity(of, x) in _COMPARED.get(key, ())


def compare(key: Any, of: Program, x: Tensor, made: Made, truth: Made) -> bool:
    """Whether a program may be right; where its result depends on x, it is trusted from now on."""
    of_made, of_truth = (_tensors(*given) for given in (made, truth))
    if of_made[0].shape != of_truth[0].shape:
        return False
    largest = 0.0
    for a, b in zip(of_made, of_truth, strict=True):
        a, b = torch.broadcast_tensors(a, b)  # zeros have no directions
        known = b.isfinite()
        if not bool((known == a.isfinite()).all()):
            return False
        a, b = a[known], b[known]
        largest = max(largest, float(b.abs().max()) if b.numel() else 0.0)
        if bool(((a - b).abs() > TOLERANCE * torch.finfo(x.dtype).eps * largest).any()):
            return False
    compared = _COMPARED.setdefault(key, {})
    if len(compared) == MOST:
        compared.clear()
    if of_truth[1].any():
        compared[_identity(of, x)] = of.read
    return True


def _tensors(y: Tensor, streams: Streams) -> list[Tensor]:
    """A value and all of its streams."""
    found = [y.detach()]
    for s in streams:
        found.append(torch.zeros_like(found[0]) if s is None else whole(s.detach(), y.shape))
    return found
