"""Gated layers, as a user calls them: like all of functional.py."""

import torch.nn.functional as F
from torch import Tensor

from . import ops
from .activations import lookup
from .at_once import gated_at_once, linear_by_torch
from .functional import act as activate
from .functional import linear
from .internals.call import saves_for_backward
from .ops.arguments import check_gated, check_packed, check_packing, is_nested, is_strided
from .routing import is_one_layer, route_of_gated, runs_as_written


def gated(
    x: Tensor,  # (..., k)
    w_gate: Tensor,  # (n, k)
    w_up: Tensor,  # (n, k)
    b_gate: Tensor | None = None,  # (n)
    b_up: Tensor | None = None,  # (n)
    *,
    act: str | None,
    param: float | None = None,
) -> Tensor:  # (..., n)
    """A linear layer times the activation of another one: y = act(x w_gate^T + b_gate) (x w_up^T + b_up).

    With "silu" it is SwiGLU, with "gelu" GeGLU, with "relu" ReGLU, with "sigmoid" GLU, with None bilinear. x is read
    once for both layers. What the activation saves is saved for backward, (..., n), and the second layer, (..., n).

    Args:
        x: input, (..., k), of any rank >= 1.
        w_gate: weight of the layer that is activated, (n, k), as in torch.nn.Linear.
        w_up: weight of the other layer, (n, k).
        b_gate: bias of the first, (n), or None.
        b_up: bias of the other, (n), or None.
        act: name of the activation, a key of `fusegrad.ACTIVATIONS`, or None for none.
        param: its parameter where it has one (slope, alpha, beta, omega); None is torch's default.

    Returns:
        y, (..., n), in the dtype of x (under autocast: in the autocast dtype).

    Raises:
        TypeError: an argument is no tensor, the dtypes or devices are unsupported or differ, or `param` is no number.
        ValueError: the shapes do not fit, `act` is unknown, `param` is not legal.

    Source: Dauphin et al., arXiv:1612.08083, and Shazeer, arXiv:2002.05202.

    >>> import torch, fusegrad as fg
    >>> x, w_gate, w_up = torch.ones(2, 3), torch.ones(1, 3), torch.full((1, 3), 2.0)
    >>> fg.gated(x, w_gate, w_up, act="relu")
    tensor([[18.],
            [18.]])
    """
    a = lookup("gated", "identity" if act is None else act)
    value = a.default if param is None else a.check("gated", param)
    try:
        y = gated_at_once(x, w_gate, w_up, b_gate, b_up, a, value)
        if y is not None:
            return y
        route = route_of_gated(x, w_gate, w_up, b_gate, b_up)
        if route in ("kernel", "function"):
            call = ops.gated.kernel if route == "kernel" else ops.gated.apply
            return call(x, w_gate, w_up, b_gate, b_up, a.name, value, route == "function")[0]
        if route == "written" or (route == "stock" and a.stock_derives_twice):
            layer = linear_by_torch if route == "stock" else F.linear
            return a.value(layer(x, w_gate, b_gate), value) * layer(x, w_up, b_up)
    except RuntimeError:
        check_gated("gated", x, w_gate, w_up, b_gate, b_up)  # says what does not fit
        raise
    if not is_nested(x):
        check_gated("gated", x, w_gate, w_up, b_gate, b_up)
    if not is_strided(x, w_gate, w_up):
        return a.value(F.linear(x, w_gate, b_gate), value) * F.linear(x, w_up, b_up)
    save = saves_for_backward(x, w_gate, w_up, b_gate, b_up)
    return ops.gated(x, w_gate, w_up, b_gate, b_up, a.name, value, save)[0]


def gated_packed(
    x: Tensor,  # (..., k)
    w: Tensor,  # (2 n, k)
    b: Tensor | None = None,  # (2 n)
    *,
    act: str | None,
    param: float | None = None,
    packing: str = "gate_first",
) -> Tensor:  # (..., n)
    """`gated` of two layers that are packed in one weight and one bias. They are read where they are.

    Args:
        x: input, (..., k), of any rank >= 1.
        w: both weights, (2 n, k).
        b: both biases, (2 n), or None.
        act, param: as `gated`.
        packing: which rows of w are those of the gate: "gate_first" (the first n, as in Phi-3 and DINOv2), "gate_last"
            (the last n, as in torch.nn.functional.glu and in diffusers), "interleaved" (every other from the first on,
            as in GPT-OSS).

    Returns:
        y, (..., n), in the dtype of x (under autocast: in the autocast dtype).

    Raises:
        TypeError, ValueError: as `gated`; ValueError also for another packing, or an odd number of rows.

    Source: as `gated`.

    >>> import torch, fusegrad as fg
    >>> x, w = torch.ones(2, 3), torch.tensor([[1.0] * 3, [2.0] * 3])
    >>> fg.gated_packed(x, w, act="relu")
    tensor([[18.],
            [18.]])
    """
    if is_nested(x) or runs_as_written(x, w, b):
        check_packing("gated_packed", packing)
    else:
        check_packed("gated_packed", x, w, b, packing)
    if is_one_layer(x, w, b):
        z, up = unpacked(linear(x, w, b), packing, -1)
        return activate(z, act or "identity", param) * up
    w_gate, w_up = unpacked(w, packing, 0)
    b_gate, b_up = (None, None) if b is None else unpacked(b, packing, 0)
    return gated(x, w_gate, w_up, b_gate, b_up, act=act, param=param)


def unpacked(t: Tensor, packing: str, dim: int) -> tuple[Tensor, Tensor]:
    """The parts of the gate and of the other layer, as views."""
    n = t.shape[dim] // 2
    if packing == "interleaved":
        gate, up = t.unflatten(dim, (n, 2)).unbind(dim if dim < 0 else dim + 1)
    else:
        gate, up = t.split(n, dim) if n > 0 else (t, t)
    return (up, gate) if packing == "gate_last" else (gate, up)
