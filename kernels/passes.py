"""The passes around a matrix product: what follows it, and what comes before its derivatives. Operands are matrices."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import jit

from .act import apply, tile
from .activations import ACTIVATIONS
from .launch import OPTIONS, blocks, lanes, on_device

ROW_BYTES = 256  # of a tile
SUM_WARPS = 8  # of gz_and_sum
PART = 32  # rows of gz_and_sum to a sum, or a multiple
PROGRAMS = 1024  # about so many, where there are rows enough, keep a large GPU busy


@jit
def bias_act_kernel(
    z_ptr,
    b_ptr,
    param: tl.float64,
    rows,
    columns,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    W: tl.constexpr = tl.float64 if z_ptr.dtype.element_ty == tl.float64 else tl.float32
    row, column = tile(columns, BLOCK_M, BLOCK_N)
    inside = (row < rows) & (column < columns)
    at = row * columns + column
    z = tl.load(z_ptr + at, inside, other=0.0).to(W) + tl.load(b_ptr + column, column < columns, other=0.0).to(W)
    tl.store(z_ptr + at, apply(z, z, tl.full([], param, W), D, 0).to(z_ptr.dtype.element_ty), inside)


def bias_act(z: Tensor, b: Tensor, act: str, param: float) -> Tensor:
    """act(z + b) in the place of a z that nothing else refers to: (..., n) and contiguous, b (n).

    Where z + b is saved the product makes it instead: to write it here would be one more pass over memory.
    """
    if z.numel() > 0:
        rows, columns = z.numel() // z.shape[-1], z.shape[-1]
        block_m, block_n = blocks(z, rows, columns, ROW_BYTES)  # rows of a tile share what they read of b
        grid = (triton.cdiv(rows, block_m) * triton.cdiv(columns, block_n),)
        with on_device(z):
            bias_act_kernel[grid](
                z, b.contiguous(), param, rows, columns,
                D=ACTIVATIONS[act].value, BLOCK_M=block_m, BLOCK_N=block_n, **OPTIONS,
            )  # fmt: skip
    return z


@jit
def gz_and_sum_kernel(
    s_ptr,
    gy_ptr,
    gz_ptr,
    sums_ptr,
    param: tl.float64,
    rows,
    columns,
    part,
    gy_row,
    gy_column,
    D: tl.constexpr,
    HAS_D: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Of `part` rows. The sums are of gz as it is stored."""
    W: tl.constexpr = tl.float64 if gy_ptr.dtype.element_ty == tl.float64 else tl.float32
    across = (columns - 1) // BLOCK_N + 1
    place, which = tl.program_id(0) % across, tl.program_id(0) // across
    column = place.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    first = which.to(tl.int64) * part
    p = tl.full([], param, W)
    sums = tl.full([BLOCK_M, BLOCK_N], 0.0, W)
    for start in range(0, part, BLOCK_M):
        row = first + start + tl.arange(0, BLOCK_M)[:, None]
        inside = (row < rows) & (column < columns)
        gz = tl.load(gy_ptr + row * gy_row + column * gy_column, inside, other=0.0)
        if HAS_D:
            at = row * columns + column
            s = tl.load(s_ptr + at, inside, other=0.0).to(W)
            gz = apply(s, gz.to(W), p, D, 1).to(gz_ptr.dtype.element_ty)
            tl.store(gz_ptr + at, gz, inside)
        if SUM:
            sums += tl.where(inside, gz.to(W), 0.0)  # D may be no number where nothing was read
    if SUM:
        along = place.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
        tl.store(sums_ptr + which.to(tl.int64) * columns + along, tl.sum(sums, 0), along < columns)


@jit
def add_up_kernel(sums_ptr, out_ptr, parts, columns, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The sum of the rows of a matrix that is contiguous."""
    column = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.full([BLOCK_M, BLOCK_N], 0.0, sums_ptr.dtype.element_ty)
    for start in range(0, parts, BLOCK_M):
        part = start + tl.arange(0, BLOCK_M)[:, None].to(tl.int64)
        inside = (part < parts) & (column < columns)[None, :]
        total += tl.load(sums_ptr + part * columns + column[None, :], inside, other=0.0)
    tl.store(out_ptr + column, tl.sum(total, 0).to(out_ptr.dtype.element_ty), column < columns)


def add_up(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of the rows of a contiguous matrix, (parts, n) -> (n)."""
    parts, columns = sums.shape
    out = sums.new_empty(columns, dtype=dtype)
    add_up_kernel[(triton.cdiv(columns, 64),)](sums, out, parts, columns, BLOCK_M=32, BLOCK_N=64, **OPTIONS)
    return out


def rows_of_part(rows: int, columns: int, block_n: int) -> int:
    """How many rows a program of gz_and_sum takes; by the shape alone, so that sums have the same bits each time."""
    across = triton.cdiv(columns, block_n)
    return min(max(triton.next_power_of_2(rows * across // PROGRAMS + 1), PART), 16 * PART)


def gz_and_sum(
    gy: Tensor,  # (m, n), any strides
    s: Tensor | None,  # (m, n), contiguous; None for the identity, whose gz is gy
    act: str,
    param: float,
    need_sum: bool,
) -> tuple[Tensor, Tensor]:  # gz, and the sum of its rows, (n) or empty
    """gz = gy D_1(s) and the sum of its rows, in one pass: by partial sums, each of the same rows every time."""
    m, n = gy.shape
    gz = gy if s is None else gy.new_empty(m, n)
    if gy.numel() == 0 or (s is None and not need_sum):
        return gz, gy.new_zeros(n if need_sum else 0)
    block_n = ROW_BYTES // gy.itemsize
    block_m = 16 * SUM_WARPS * lanes(gy.device) // ROW_BYTES  # 16 bytes for each thread
    part = rows_of_part(m, n, block_n)
    parts = triton.cdiv(m, part)
    width = torch.float64 if gy.dtype == torch.float64 else torch.float32
    sums = gy.new_empty((parts, n) if need_sum else 0, dtype=width)
    with on_device(gy):
        gz_and_sum_kernel[(triton.cdiv(n, block_n) * parts,)](
            gy if s is None else s, gy, gz, sums, param, m, n, part, *gy.stride(),
            D=ACTIVATIONS[act].first, HAS_D=s is not None, SUM=need_sum, BLOCK_M=block_m, BLOCK_N=block_n,
            **OPTIONS | {"num_warps": SUM_WARPS},
        )  # fmt: skip
        return gz, add_up(sums, gy.dtype) if need_sum else gy.new_empty(0)
