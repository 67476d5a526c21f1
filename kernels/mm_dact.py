"""mm_dact: by cuBLAS and a pass over what it made, or by one kernel (choice.py)."""

import torch
from torch import Tensor

from fusegrad import ops

from . import gemm
from .choice import Algorithm, algorithm_for
from .passes import gz_and_sum


def mm_dact(
    a: Tensor,  # (m, k)
    b: Tensor,  # (k, n)
    s: Tensor,  # (m, n): z or y, what the activation saves
    act: str,
    param: float,
    need_sum: bool,
) -> tuple[Tensor, Tensor]:  # (m, n), (n); the second is empty where not needed
    """gz = (a b) D_1(s), and the sum of its rows."""
    (m, k), n = a.shape, b.shape[1]
    algorithm: Algorithm = "cublas"
    if act != "identity" and 0 not in (m, n, k):
        algorithm = algorithm_for("mm_dact", gemm.family(a.device), a.dtype, m, k, n)
    return compute(algorithm, a, b, s, act, param, need_sum)


def compute(
    algorithm: Algorithm, a: Tensor, b: Tensor, s: Tensor, act: str, param: float, need_sum: bool
) -> tuple[Tensor, Tensor]:
    """mm_dact by an algorithm of choice.py; by cublas what triton can't take."""
    if algorithm == "stock":
        return ops.mm_dact.reference(a, b, s, act, param, need_sum)
    s = s.contiguous()
    if algorithm == "triton" and gemm.takes_dact(a, b, s):
        gz, gb = gemm.mm_dact(a, b, s, act, param)
        return gz, gb if need_sum else gb.new_empty(0)
    gy = torch.mm(a, b)
    return gz_and_sum(gy, None if act == "identity" else s, act, param, need_sum)
