"""Checks of what a user gives: cheap when all is well; what to say is worked out only when it is not."""

import torch
from torch import Tensor

from ..internals.call import unseen
from .operands import DTYPES, NAMES


def sizes(t: Tensor) -> tuple[int, ...]:
    return tuple(t.shape)


@unseen
def is_strided(*tensors: Tensor) -> bool:
    """Whether the ops know the layout: what is nested, sparse or MKL-DNN's own takes stock torch's path."""
    return all(t.layout is torch.strided and not t.is_nested for t in tensors)


def is_nested(x: Tensor) -> bool:
    """Whether x may have no shape to check: torch says what does not fit."""
    return isinstance(x, Tensor) and x.is_nested


def check_tensor(op: str, name: str, t: Tensor) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(t).__name__}")
    if t.dtype not in DTYPES:
        raise TypeError(f"{op}: {name} has dtype {t.dtype}, shape {sizes(t)}; need one of {', '.join(NAMES)}")


def check_alike(op: str, *named: tuple[str, Tensor]) -> None:
    """One dtype and one device; under autocast the dtypes may differ, as it makes them one."""
    first = named[0][1]
    says = ", ".join(f"{name} {sizes(t)} is {t.dtype} on {t.device}" for name, t in named)
    if any(t.device != first.device for _, t in named):
        raise TypeError(f"{op}: {says}; need one device")
    if any(t.dtype != first.dtype for _, t in named) and not torch.is_autocast_enabled(first.device.type):
        raise TypeError(f"{op}: {says}; need one dtype")


_LAYER = "x", "w", "b"


@unseen
def check_linear(op: str, x: Tensor, w: Tensor, b: Tensor | None, names: tuple[str, str, str] = _LAYER) -> None:
    try:
        dtype, shape = w.dtype, w.shape
        if (
            x.dtype == dtype
            and dtype in DTYPES
            and x.device == w.device
            and len(shape) == 2
            and x.shape[-1] == shape[1]
            and (b is None or (b.dtype == dtype and b.device == w.device and b.shape == shape[:1]))
        ):
            return
    except (AttributeError, IndexError, TypeError):
        pass
    _refuse_linear(op, x, w, b, names)


def _refuse_linear(op: str, x: Tensor, w: Tensor, b: Tensor | None, names: tuple[str, str, str]) -> None:
    x_, w_, b_ = names
    named = [(x_, x), (w_, w)] + ([] if b is None else [(b_, b)])
    for name, t in named:
        check_tensor(op, name, t)
    check_alike(op, *named)
    if w.dim() != 2:
        raise ValueError(f"{op}: {w_} has shape {sizes(w)}; need (out_features, in_features)")
    if x.dim() == 0:
        raise ValueError(f"{op}: {x_} has shape (); need (..., {w.shape[1]}) for {w_} of shape {sizes(w)}")
    if x.shape[-1] != w.shape[1]:
        says = f"{w_} has shape {sizes(w)}, {x_} has shape {sizes(x)}"
        raise ValueError(f"{op}: {says}; need {w_}.shape[1] == {x_}.shape[-1]")
    if b is not None and sizes(b) != (w.shape[0],):
        says = f"{b_} has shape {sizes(b)}, {w_} has shape {sizes(w)}"
        raise ValueError(f"{op}: {says}; need {b_}.shape == ({w_}.shape[0],)")


def check_second(op: str, w1: Tensor, w2: Tensor, b2: Tensor | None) -> None:
    """A second layer, which takes what a first one makes."""
    try:
        dtype, shape = w2.dtype, w2.shape
        if (
            w1.dtype == dtype
            and w1.device == w2.device
            and len(shape) == 2
            and shape[1] == w1.shape[0]
            and (b2 is None or (b2.dtype == dtype and b2.device == w2.device and b2.shape == shape[:1]))
        ):
            return
    except (AttributeError, TypeError):
        pass
    _refuse_second(op, w1, w2, b2)


def _refuse_second(op: str, w1: Tensor, w2: Tensor, b2: Tensor | None) -> None:
    named = [("w2", w2)] + ([] if b2 is None else [("b2", b2)])
    for name, t in named:
        check_tensor(op, name, t)
    check_alike(op, ("w1", w1), *named)
    if w2.dim() != 2 or w2.shape[1] != w1.shape[0]:
        says = f"w2 has shape {sizes(w2)}, w1 has shape {sizes(w1)}"
        raise ValueError(f"{op}: {says}; need w2.shape == (out_features, w1.shape[0])")
    if b2 is not None and sizes(b2) != (w2.shape[0],):
        says = f"b2 has shape {sizes(b2)}, w2 has shape {sizes(w2)}"
        raise ValueError(f"{op}: {says}; need b2.shape == (w2.shape[0],)")


def check_gated(op: str, x: Tensor, w_gate: Tensor, w_up: Tensor, b_gate: Tensor | None, b_up: Tensor | None) -> None:
    """Two layers of one input, of one size."""
    check_linear(op, x, w_gate, b_gate, ("x", "w_gate", "b_gate"))
    check_linear(op, x, w_up, b_up, ("x", "w_up", "b_up"))
    if w_gate.shape != w_up.shape:
        says = f"w_gate has shape {sizes(w_gate)}, w_up has shape {sizes(w_up)}"
        raise ValueError(f"{op}: {says}; need w_gate.shape == w_up.shape")


PACKINGS = "gate_first", "gate_last", "interleaved"


def check_packing(op: str, packing: str) -> None:
    if packing not in PACKINGS:
        raise ValueError(f"{op}: packing must be one of {', '.join(map(repr, PACKINGS))}, got {packing!r}")


def check_packed(op: str, x: Tensor, w: Tensor, b: Tensor | None, packing: str) -> None:
    """Two layers in one weight."""
    check_packing(op, packing)
    check_linear(op, x, w, b)
    if w.shape[0] % 2 != 0:
        raise ValueError(f"{op}: w has shape {sizes(w)}; need (2 out_features, in_features)")
