"""What each op needs of its operands, checked in every backend before anything is computed.

The kernels of C++ check it themselves, and say the same (csrc/cpu/operands.h).
"""

from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any, NoReturn

import torch
from torch import SymInt, Tensor

from ..activations import lookup

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NAMES = tuple(str(d).removeprefix("torch.") for d in DTYPES)

# The shapes of the tensors, which are the first arguments: a letter is one size, and dots are the same leading sizes,
# wherever they stand.
NEEDS = {
    "act": "s (...), g (...)",
    "act_nth": "s (...), g (...)",
    "act_vjp": "gy (...), s (...), g (...)",
    "act_jvp": "ts (...), tg (...), s (...), g (...)",
    "linear": "x (..., k), w (n, k), b (n)",
    "linear_act": "x (..., k), w (n, k), b (n)",
    "linear_act_backward": "gy (..., n), x (..., k), w (n, k), s (..., n)",
    "mm_dact": "a (m, k), b (k, n), s (m, n)",
    "mlp": "x (..., k), w1 (h, k), w2 (n, h), b1 (h), b2 (n)",
    "mul_constant": "x (...)",
}
NEEDS_OF_MM = {  # by trans_a, trans_b
    (False, False): "a (m, k), b (k, n)",
    (False, True): "a (m, k), b (n, k)",
    (True, False): "a (k, m), b (k, n)",
    (True, True): "a (k, m), b (n, k)",
}


def checked(op: str, kernel: Callable) -> Callable:
    """A kernel that refuses what the op does not take."""

    @wraps(kernel)
    def call(*args: Any) -> Any:
        check(op, args)
        return kernel(*args)

    return call


def check(op: str, args: Sequence[Any]) -> None:
    """Raise TypeError if dtypes, layouts or devices are not as the op needs them, ValueError if all else is not."""
    need = NEEDS[op] if op != "mm" else NEEDS_OF_MM[args[2], args[3]]
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
            elif len(leading) != lead or not all(map(_one, leading, given)):
                _refuse(ValueError, op, need, tensors)
        for i, letter in enumerate(letters, lead):
            if not _one(known.setdefault(letter, shape[i]), shape[i]):
                _refuse(ValueError, op, need, tensors)
    if len(args) > len(shapes) and isinstance(act := args[len(shapes)], str):
        lookup(op, act)
        if op.startswith("act"):
            _check_order(op, tensors[-1] is not None, args[len(shapes) + 2])


def _check_order(op: str, has_g: bool, order: int) -> None:
    if op in ("act_vjp", "act_jvp"):
        if order not in (1, 2):
            raise ValueError(f"{op}: order must be 1 or 2, got {order}")
    elif order < 0 or (order == 0 and has_g) or (order > 3 and op == "act"):
        most = "1, 2 or 3" if op == "act" else "or more"
        raise ValueError(f"{op}: order must be 0 (without g), {most}, got order {order}, g {has_g}")


def _one(a: int, b: int) -> bool:
    """Whether two sizes are one. Where torch.export cannot know, it is told so, and checks it when the program runs."""
    if isinstance(a, SymInt) or isinstance(b, SymInt):
        torch._check_value(a == b, lambda: f"the sizes {a} and {b} must be one")
        return True
    return a == b


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
