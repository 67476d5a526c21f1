"""linear_act and its backward: by cuBLAS and a pass over what it made, or by one kernel (choice.py)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fusegrad import reference
from fusegrad.activations import REGISTRY

from . import gemm
from .act import launch
from .activations import ACTIVATIONS
from .choice import Way, way_of
from .passes import bias_act, gz_and_sum


def linear_act(
    x: Tensor,  # (..., k)
    w: Tensor,  # (n, k)
    b: Tensor | None,  # (n)
    act: str,
    param: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:  # (..., n) twice; the second is empty unless an input is kept
    (n, k), m = w.shape, math.prod(x.shape[:-1])
    way: Way = "stock"
    if act != "identity" and 0 not in (m, n, k):
        way = way_of("linear_act", gemm.family(x.device), x.dtype, m, k, n)
    return by(way, x, w, b, act, param, keep)


def by(way: Way, x: Tensor, w: Tensor, b: Tensor | None, act: str, param: float, keep: bool) -> tuple[Tensor, Tensor]:
    """linear_act in a way of choice.py; by cublas what triton can't take."""
    keep = keep and REGISTRY[act].keeps_input
    n, lead = w.shape[0], x.shape[:-1]
    m = math.prod(lead)
    rows = x.reshape(m, w.shape[1]) if way == "triton" else x
    if way == "triton" and gemm.takes(rows, w):
        y, kept = gemm.linear_act(rows, w, b, act, param, keep)
        return y.view(*lead, n), kept.view(*lead, n) if keep else kept
    if way == "stock":
        return reference.linear_act(x, w, b, act, param, keep)
    # cuBLAS adds the bias where z is kept, which so is written once, and where z is in 16 bits, which it is rounded to
    # once; else the pass does, in place
    if b is not None and not keep and x.dtype.itemsize > 2:
        return bias_act(F.linear(x, w).contiguous(), b, act, param), x.new_empty(0)
    z = F.linear(x, w, b).contiguous()
    y = launch(ACTIVATIONS[act].value, z, None, torch.empty_like(z) if keep else z, param, 0)
    return y, z if keep else z.new_empty(0)


def linear_act_backward(
    gy: Tensor,  # (..., n)
    x: Tensor,  # (..., k)
    w: Tensor,  # (n, k)
    s: Tensor,  # (..., n): z or y, what the activation keeps
    act: str,
    param: float,
    need_x: bool,
    need_w: bool,
    need_b: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # of the shapes of x, w and b; empty where not needed
    (n, k), m = w.shape, math.prod(x.shape[:-1])
    kept = None if act == "identity" else s.reshape(m, n).contiguous()
    gz, gb = gz_and_sum(gy.reshape(m, n), kept, act, param, need_b)
    gx = torch.mm(gz, w).view(x.shape) if need_x else x.new_empty(0)
    gw = torch.mm(gz.mT, x.reshape(m, k)).contiguous() if need_w else w.new_empty(0)
    return gx, gw, gb
