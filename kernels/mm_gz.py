"""mm_gz: by cuBLAS and a pass over what it made, or by one kernel (choice.py)."""

import torch
from torch import Tensor

from fusegrad import reference

from . import gemm
from .choice import Way, way_of
from .passes import gz_and_sum


def mm_gz(
    a: Tensor,  # (m, k)
    b: Tensor,  # (k, n)
    s: Tensor,  # (m, n): z or y, what the activation keeps
    act: str,
    param: float,
    need_sum: bool,
) -> tuple[Tensor, Tensor]:  # (m, n), (n); the second is empty where not needed
    """gz = (a b) D_1(s), and the sum of its rows."""
    (m, k), n = a.shape, b.shape[1]
    way: Way = "cublas"
    if act != "identity" and 0 not in (m, n, k):
        way = way_of("mm_gz", gemm.family(a.device), a.dtype, m, k, n)
    return by(way, a, b, s, act, param, need_sum)


def by(way: Way, a: Tensor, b: Tensor, s: Tensor, act: str, param: float, need_sum: bool) -> tuple[Tensor, Tensor]:
    """mm_gz in a way of choice.py; by cublas what triton can't take."""
    if way == "stock":
        return reference.mm_gz(a, b, s, act, param, need_sum)
    s = s.contiguous()
    if way == "triton" and gemm.takes_gz(a, b, s):
        gz, gb = gemm.mm_gz(a, b, s, act, param)
        return gz, gb if need_sum else gb.new_empty(0)
    gy = torch.mm(a, b)
    return gz_and_sum(gy, None if act == "identity" else s, act, param, need_sum)
