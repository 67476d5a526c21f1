"""linear_act and its backward: by cuBLAS and a pass over what it made, or by one kernel (choice.py)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fusegrad import ops
from fusegrad.activations import REGISTRY

from . import gemm
from .act import launch
from .activations import ACTIVATIONS
from .choice import Algorithm, algorithm_for
from .passes import bias_act, gz_and_sum


def linear_act(
    x: Tensor,  # (..., k)
    w: Tensor,  # (n, k)
    b: Tensor | None,  # (n)
    act: str,
    param: float,
    save: bool,
) -> tuple[Tensor, Tensor]:  # (..., n) twice; the second is empty unless an input is saved
    (n, k), m = w.shape, math.prod(x.shape[:-1])
    algorithm: Algorithm = "stock"
    if act != "identity" and 0 not in (m, n, k):
        algorithm = algorithm_for("linear_act", gemm.family(x.device), x.dtype, m, k, n)
    return compute(algorithm, x, w, b, act, param, save)


def compute(
    algorithm: Algorithm, x: Tensor, w: Tensor, b: Tensor | None, act: str, param: float, save: bool
) -> tuple[Tensor, Tensor]:
    """linear_act by an algorithm of choice.py; by cublas what triton can't take."""
    save = save and REGISTRY[act].saves_input
    n, lead = w.shape[0], x.shape[:-1]
    m = math.prod(lead)
    rows = x.reshape(m, w.shape[1]) if algorithm == "triton" else x
    if algorithm == "triton" and gemm.takes(rows, w):
        y, saved = gemm.linear_act(rows, w, b, act, param, save)
        return y.view(*lead, n), saved.view(*lead, n) if save else saved
    if algorithm == "stock":
        return ops.linear_act.reference(x, w, b, act, param, save)
    # cuBLAS adds the bias where z is saved, which so is written once, and where z is in 16 bits, which it is rounded to
    # once; else the pass does, in place
    if b is not None and not save and x.dtype.itemsize > 2:
        return bias_act(F.linear(x, w).contiguous(), b, act, param), x.new_empty(0)
    z = F.linear(x, w, b).contiguous()
    y = launch(ACTIVATIONS[act].value, z, None, torch.empty_like(z) if save else z, param, 0)
    return y, z if save else z.new_empty(0)


def linear_act_backward(
    gy: Tensor,  # (..., n)
    x: Tensor,  # (..., k)
    w: Tensor,  # (n, k)
    s: Tensor,  # (..., n): z or y, what the activation saves
    act: str,
    param: float,
    need_x: bool,
    need_w: bool,
    need_b: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # of the shapes of x, w and b; empty where not needed
    (n, k), m = w.shape, math.prod(x.shape[:-1])
    saved = None if act == "identity" else s.reshape(m, n).contiguous()
    gz, gb = gz_and_sum(gy.reshape(m, n), saved, act, param, need_b)
    gx = torch.mm(gz, w).view(x.shape) if need_x else x.new_empty(0)
    gw = torch.mm(gz.mT, x.reshape(m, k)).contiguous() if need_w else w.new_empty(0)
    return gx, gw, gb
