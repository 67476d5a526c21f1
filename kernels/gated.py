"""gated and its backward: by cuBLAS and a pass over what it made, or by one kernel (choice.py)."""

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton import jit

from fusegrad import ops
from fusegrad.activations import REGISTRY

from . import gemm, gemm_gated
from .act import apply, tile
from .activations import ACTIVATIONS
from .choice import Algorithm, algorithm_for
from .launch import OPTIONS, blocks, lanes, on_device
from .passes import ROW_BYTES, SUM_WARPS, add_up, rows_of_part


@jit
def gate_kernel(
    z_ptr,
    up_ptr,
    y_ptr,
    h_ptr,
    param: tl.float64,
    count,
    D: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    W: tl.constexpr = tl.float64 if z_ptr.dtype.element_ty == tl.float64 else tl.float32
    row, column = tile(count, BLOCK_M, BLOCK_N)
    inside = (row < 1) & (column < count)
    z = tl.load(z_ptr + column, inside, other=0.0).to(W)
    h = apply(z, z, tl.full([], param, W), D, 0)
    if SAVE:
        tl.store(h_ptr + column, h.to(h_ptr.dtype.element_ty), inside)
    up = tl.load(up_ptr + column, inside, other=0.0).to(W)
    tl.store(y_ptr + column, (h * up).to(y_ptr.dtype.element_ty), inside)


def gate(z: Tensor, up: Tensor, act: str, param: float, save: bool) -> tuple[Tensor, Tensor]:
    """y = act(z) up and what act saves, of contiguous tensors that nothing else refers to. Unless saved, y is where z
    was, and the second is empty."""
    saves_output = save and not REGISTRY[act].saves_input
    y = torch.empty_like(z) if save else z
    h = torch.empty_like(z) if saves_output else z
    if z.numel() > 0:
        block_m, block_n = blocks(z, 1, z.numel())
        with on_device(z):
            gate_kernel[(triton.cdiv(z.numel(), block_n),)](
                z, up, y, h, param, z.numel(),
                D=ACTIVATIONS[act].value, SAVE=saves_output, BLOCK_M=block_m, BLOCK_N=block_n, **OPTIONS,
            )  # fmt: skip
    return y, h if save else z.new_empty(0)


def gated(
    x: Tensor,  # (..., k)
    w_gate: Tensor,  # (n, k)
    w_up: Tensor,  # (n, k)
    b_gate: Tensor | None,  # (n)
    b_up: Tensor | None,  # (n)
    act: str,
    param: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # (..., n) thrice; the last two are empty unless saved
    (n, k), m = w_gate.shape, math.prod(x.shape[:-1])
    algorithm: Algorithm = "cublas"
    if act != "identity" and 0 not in (m, n, k):
        algorithm = algorithm_for("gated", gemm.family(x.device), x.dtype, m, k, n)
    return compute(algorithm, x, w_gate, w_up, b_gate, b_up, act, param, save)


def compute(
    algorithm: Algorithm,
    x: Tensor,
    w_gate: Tensor,
    w_up: Tensor,
    b_gate: Tensor | None,
    b_up: Tensor | None,
    act: str,
    param: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """gated by an algorithm of choice.py; by cublas what triton can't take."""
    if algorithm == "stock":
        return ops.gated.reference(x, w_gate, w_up, b_gate, b_up, act, param, save)
    lead, n = x.shape[:-1], w_gate.shape[0]
    rows = x.reshape(math.prod(lead), w_gate.shape[1]) if algorithm == "triton" else x
    if algorithm == "triton" and gemm.takes(rows, w_gate) and gemm.takes(rows, w_up):
        made = gemm_gated.gated(rows, w_gate, w_up, b_gate, b_up, act, param, save)
        y, s, up = (t.view(*lead, n) if t.dim() == 2 else t for t in made)
        return y, s, up
    z, up = F.linear(x, w_gate, b_gate).contiguous(), F.linear(x, w_up, b_up).contiguous()
    y, s = gate(z, up, act, param, save)
    return y, s, up if save else x.new_empty(0)


@jit
def gate_and_sums_kernel(
    s_ptr,
    up_ptr,
    gy_ptr,
    gz_ptr,
    gu_ptr,
    sums_gz_ptr,
    sums_gu_ptr,
    param: tl.float64,
    rows,
    columns,
    part,
    gy_row,
    gy_column,
    D: tl.constexpr,
    VALUE: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_VALUE: tl.constexpr,
    NEED_GZ: tl.constexpr,
    NEED_GU: tl.constexpr,
    SUM_GZ: tl.constexpr,
    SUM_GU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Of `part` rows. The sums are of gz and gu as they are stored."""
    W: tl.constexpr = tl.float64 if gy_ptr.dtype.element_ty == tl.float64 else tl.float32
    across = (columns - 1) // BLOCK_N + 1
    place, which = tl.program_id(0) % across, tl.program_id(0) // across
    column = place.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    first = which.to(tl.int64) * part
    p = tl.full([], param, W)
    sums_gz = tl.full([BLOCK_M, BLOCK_N], 0.0, W)
    sums_gu = tl.full([BLOCK_M, BLOCK_N], 0.0, W)
    for start in range(0, part, BLOCK_M):
        row = first + start + tl.arange(0, BLOCK_M)[:, None]
        inside = (row < rows) & (column < columns)
        at = row * columns + column
        gy = tl.load(gy_ptr + row * gy_row + column * gy_column, inside, other=0.0).to(W)
        if HAS_D or NEED_GU:
            s = tl.load(s_ptr + at, inside, other=0.0).to(W)
        if NEED_GZ:
            gz = gy * tl.load(up_ptr + at, inside, other=0.0).to(W)
            if HAS_D:
                gz = apply(s, gz, p, D, 1)
            gz = gz.to(gz_ptr.dtype.element_ty)
            tl.store(gz_ptr + at, gz, inside)
            if SUM_GZ:
                sums_gz += tl.where(inside, gz.to(W), 0.0)  # D may be no number where nothing was read
        if NEED_GU:
            h = apply(s, s, p, VALUE, 0) if HAS_VALUE else s
            gu = (gy * h).to(gu_ptr.dtype.element_ty)
            tl.store(gu_ptr + at, gu, inside)
            if SUM_GU:
                sums_gu += tl.where(inside, gu.to(W), 0.0)
    along = place.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    to = which.to(tl.int64) * columns + along
    if SUM_GZ:
        tl.store(sums_gz_ptr + to, tl.sum(sums_gz, 0), along < columns)
    if SUM_GU:
        tl.store(sums_gu_ptr + to, tl.sum(sums_gu, 0), along < columns)


def gate_and_sums(
    gy: Tensor,  # (m, n), any strides
    s: Tensor,  # (m, n), contiguous: what the activation saves
    up: Tensor,  # (m, n), contiguous
    act: str,
    param: float,
    needed: tuple[bool, bool],
    sums: tuple[bool, bool],
) -> tuple[Tensor, ...]:  # gz, gu, (m, n), and the sums of their rows, (n); empty where not needed
    """gz = gy up D_1(s), gu = gy act(z), in one pass: sums by partial sums, each of the same rows every time."""
    (m, n), wide = gy.shape, torch.float64 if gy.dtype == torch.float64 else torch.float32
    gz, gu = (gy.new_empty((m, n) if need else 0) for need in needed)
    if gy.numel() == 0 or not any(needed):
        return gz, gu, *(gy.new_zeros(n if need else 0) for need in sums)
    block_n = ROW_BYTES // gy.itemsize
    block_m = 16 * SUM_WARPS * lanes(gy.device) // ROW_BYTES  # 16 bytes for each thread
    part = rows_of_part(m, n, block_n)
    parts = triton.cdiv(m, part)
    partial = [gy.new_empty((parts, n) if need else 0, dtype=wide) for need in sums]
    d = ACTIVATIONS[act]
    with on_device(gy):
        gate_and_sums_kernel[(triton.cdiv(n, block_n) * parts,)](
            s, up, gy, gz, gu, *partial, param, m, n, part, *gy.stride(),
            D=d.first, VALUE=d.value, HAS_D=act != "identity", HAS_VALUE=REGISTRY[act].saves_input,
            NEED_GZ=needed[0], NEED_GU=needed[1], SUM_GZ=sums[0], SUM_GU=sums[1],
            BLOCK_M=block_m, BLOCK_N=block_n, **OPTIONS | {"num_warps": SUM_WARPS},
        )  # fmt: skip
        added = (add_up(t, gy.dtype) if need else gy.new_empty(0) for t, need in zip(partial, sums, strict=True))
        return gz, gu, *added


def gated_backward(
    gy: Tensor,  # (..., n)
    x: Tensor,  # (..., k)
    w_gate: Tensor,  # (n, k)
    w_up: Tensor,  # (n, k)
    s: Tensor,  # (..., n): z or act(z), what the activation saves
    up: Tensor,  # (..., n)
    act: str,
    param: float,
    need_x: bool,
    need_w_gate: bool,
    need_w_up: bool,
    need_b_gate: bool,
    need_b_up: bool,
) -> tuple[Tensor, ...]:  # of the shapes of x, w_gate, w_up, b_gate, b_up; empty where not needed
    (n, k), m = w_gate.shape, math.prod(x.shape[:-1])
    needed = need_x or need_w_gate or need_b_gate, need_x or need_w_up or need_b_up
    s, up = (t.reshape(m, n).contiguous() for t in (s, up))
    gz, gu, *sums = gate_and_sums(gy.reshape(m, n), s, up, act, param, needed, (need_b_gate, need_b_up))
    of_weight = lambda need, g: torch.mm(g.mT, x.reshape(m, k)).contiguous() if need else x.new_empty(0)
    gx = torch.mm(gz, w_gate).addmm_(gu, w_up).view(x.shape) if need_x else x.new_empty(0)
    return gx, of_weight(need_w_gate, gz), of_weight(need_w_up, gu), *sums
