"""What each op needs of its operands, checked in every backend before anything is computed.

The kernels of C++ check it themselves, and say the same (csrc/cpu/operands.h).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..activations import lookup
from ..internals.dispatcher import is_one_size

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NAMES = tuple(str(d).removeprefix("torch.") for d in DTYPES)


def check(op: str, need: str, args: Sequence[Any]) -> None:
    """Raise TypeError if dtypes, layouts or devices are not as the op needs them, ValueError if all else is not.

    `need` gives the shapes of the tensors, which are the first arguments: a letter is one size, and dots are the same
    leading sizes, wherever they stand.
    """
    shapes = _parsed(need)
    tensors = args[: len(shapes)]
    dtype, device = tensors[0].dtype, tensors[0].device
    fits = dtype in DTYPES
    for t in tensors:
        if t is not None and (t.dtype != dtype or t.device != device or t.layout is not torch.strided):
            fits = False
    if not fits:
        _refuse(TypeError, op, need, tensors)
    leading: tuple[int, ...] | None = None
    known: dict[str, int] = {}
    for (letters, dots), t in zip(shapes, tensors, strict=True):
        if t is None:
            continue
        shape = t.shape
        lead = len(shape) - len(letters)
        if lead < 0 or (lead > 0 and not dots):
            _refuse(ValueError, op, need, tensors)
        if dots:
            given = shape[:lead] if letters else shape
            if leading is None:
                leading = given
            elif len(leading) != lead or not all(map(is_one_size, leading, given)):
                _refuse(ValueError, op, need, tensors)
        for i, letter in enumerate(letters, lead):
            if not is_one_size(known.setdefault(letter, shape[i]), shape[i]):
                _refuse(ValueError, op, need, tensors)
    if len(args) > len(shapes) and isinstance(act := args[len(shapes)], str):
        lookup(op, act)


@cache
def _parsed(need: str) -> tuple[tuple[str, bool], ...]:
    """For each operand the letters of its shape, and whether dots come before them."""
    shapes = [part.partition("(")[2] for part in need.split(")")[:-1]]
    return tuple(("".join(filter(str.isalpha, shape)), "..." in shape) for shape in shapes)


def _refuse(error: type[Exception], op: str, need: str, tensors: Sequence[Tensor | None]) -> NoReturn:
    names = [part.partition("(")[0].strip(", ") for part in need.split(")")[:-1]]
    given = ", ".join(f"{name} {described(t)}" for name, t in zip(names, tensors, strict=True) if t is not None)
    dtypes = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
    raise error(f"{op}: {given}; need {need}, of one dtype ({dtypes}) and on one device")


def described(t: Tensor) -> str:
    """(2, 4) float32, and what is unusual: the device, the layout."""
    says = f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"
    says += "" if t.layout is torch.strided else f" {str(t.layout).removeprefix('torch.')}"
    return says if t.device.type == "cpu" else f"{says} on {t.device}"
