"""act, act_vjp, act_jvp and mul_constant: functions of each element, in one pass."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import jit

from fusegrad import ops

from .activations import ACTIVATIONS
from .elementary import scale
from .launch import OPTIONS, blocks, on_device, sheet_of


@jit
def apply(s, g, p, D: tl.constexpr, ORDER: tl.constexpr):
    """g D_ORDER(s)."""
    if ORDER == 0:
        return D(s, p)
    elif ORDER == 1:
        return D(g, s, p)
    else:
        return g * D(s, p)


@jit
def tile(columns, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Rows and columns of this program's tile."""
    across = (columns - 1) // BLOCK_N + 1  # as tl.cdiv, which adds first: 32 bits may be too few for that
    pid = tl.program_id(0)
    row = (pid // across).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    column = (pid % across).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    return row, column


@jit
def act_kernel(
    s_ptr,
    g_ptr,
    out_ptr,
    param: tl.float64,
    rows,
    columns,
    s_row,
    s_column,
    g_row,
    g_column,
    out_row,
    out_column,
    D: tl.constexpr,
    ORDER: tl.constexpr,
    HAS_G: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    W: tl.constexpr = tl.float64 if s_ptr.dtype.element_ty == tl.float64 else tl.float32
    row, column = tile(columns, BLOCK_M, BLOCK_N)
    inside = (row < rows) & (column < columns)
    s = tl.load(s_ptr + row * s_row + column * s_column, inside, other=0.0).to(W)
    if HAS_G:
        g = tl.load(g_ptr + row * g_row + column * g_column, inside, other=0.0).to(W)
    else:
        g = tl.full([BLOCK_M, BLOCK_N], 1.0, W)
    y = apply(s, g, tl.full([], param, W), D, ORDER)
    tl.store(out_ptr + row * out_row + column * out_column, y.to(out_ptr.dtype.element_ty), inside)


def launch(d: Any, s: Tensor, g: Tensor | None, out: Tensor, param: float, order: int) -> Tensor:
    """out = g D_order(s), of tensors of one shape, for the kernel d of D_order. out may be s."""
    if out.numel() == 0:
        return out
    inputs: tuple[Tensor, ...] = (s,) if g is None else (s, g)
    rows, columns, ((*of_out,), (*of_s,), *rest), inputs = sheet_of(out, *inputs)
    of_g = rest[0] if rest else of_s
    block_m, block_n = blocks(out, rows, columns)
    grid = (triton.cdiv(rows, block_m) * triton.cdiv(columns, block_n),)
    with on_device(out):
        act_kernel[grid](
            inputs[0], inputs[-1], out, param, rows, columns, *of_s, *of_g, *of_out,
            D=d, ORDER=order, HAS_G=g is not None, BLOCK_M=block_m, BLOCK_N=block_n, **OPTIONS,
        )  # fmt: skip
    return out


def act(s: Tensor, g: Tensor | None, act: str, param: float, order: int) -> Tensor:
    """g D_order(s), laid out as s."""
    if order > 3:
        return ops.act.reference(s, g, act, param, order)
    return launch(ACTIVATIONS[act][order], s, g, torch.empty_like(s), param, order)


@jit
def act_vjp_kernel(
    gy_ptr,
    s_ptr,
    g_ptr,
    gs_ptr,
    gg_ptr,
    y_ptr,
    param: tl.float64,
    rows,
    columns,
    gy_row,
    gy_column,
    s_row,
    s_column,
    g_row,
    g_column,
    out_row,
    out_column,
    D: tl.constexpr,
    NEXT: tl.constexpr,
    ORDER: tl.constexpr,
    NEED_S: tl.constexpr,
    NEED_G: tl.constexpr,
    NEED_Y: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    W: tl.constexpr = tl.float64 if s_ptr.dtype.element_ty == tl.float64 else tl.float32
    row, column = tile(columns, BLOCK_M, BLOCK_N)
    inside = (row < rows) & (column < columns)
    p = tl.full([], param, W)
    at = row * out_row + column * out_column
    s = tl.load(s_ptr + row * s_row + column * s_column, inside, other=0.0).to(W)
    if NEED_S or NEED_G:
        gy = tl.load(gy_ptr + row * gy_row + column * gy_column, inside, other=0.0).to(W)
    if NEED_S or NEED_Y:
        g = tl.load(g_ptr + row * g_row + column * g_column, inside, other=0.0).to(W)
    if NEED_S:
        tl.store(gs_ptr + at, apply(s, gy * g, p, NEXT, ORDER + 1).to(gs_ptr.dtype.element_ty), inside)
    if NEED_G:
        tl.store(gg_ptr + at, apply(s, gy, p, D, ORDER).to(gg_ptr.dtype.element_ty), inside)
    if NEED_Y:
        tl.store(y_ptr + at, apply(s, g, p, D, ORDER).to(y_ptr.dtype.element_ty), inside)


def act_vjp(
    gy: Tensor,  # shape of s
    s: Tensor,  # any shape
    g: Tensor,  # shape of s
    act: str,
    param: float,
    order: int,
    need_s: bool,
    need_g: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # of the shape and layout of s; empty where not needed
    """Of y = g D_order(s): gs = gy g D_{order+1}(s), gg = gy D_order(s), and y, in one pass."""
    needed = need_s, need_g, need_y
    outs = [torch.empty_like(s) if need else s.new_empty(0) for need in needed]
    if s.numel() == 0 or not any(needed):
        return outs[0], outs[1], outs[2]
    made = next(out for out, need in zip(outs, needed, strict=True) if need)
    rows, columns, ((*of_out,), *strides), inputs = sheet_of(made, gy, s, g)
    block_m, block_n = blocks(s, rows, columns)
    d = ACTIVATIONS[act]
    with on_device(s):
        act_vjp_kernel[(triton.cdiv(rows, block_m) * triton.cdiv(columns, block_n),)](
            *inputs, *outs, param, rows, columns, *(stride for pair in strides for stride in pair), *of_out,
            D=d[order], NEXT=d[order + 1], ORDER=order, NEED_S=need_s, NEED_G=need_g, NEED_Y=need_y,
            BLOCK_M=block_m, BLOCK_N=block_n, **OPTIONS,
        )  # fmt: skip
    return outs[0], outs[1], outs[2]


@jit
def act_jvp_kernel(
    ts_ptr,
    tg_ptr,
    s_ptr,
    g_ptr,
    ty_ptr,
    y_ptr,
    param: tl.float64,
    rows,
    columns,
    ts_row,
    ts_column,
    tg_row,
    tg_column,
    s_row,
    s_column,
    g_row,
    g_column,
    out_row,
    out_column,
    D: tl.constexpr,
    NEXT: tl.constexpr,
    ORDER: tl.constexpr,
    NEED_Y: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    W: tl.constexpr = tl.float64 if s_ptr.dtype.element_ty == tl.float64 else tl.float32
    row, column = tile(columns, BLOCK_M, BLOCK_N)
    inside = (row < rows) & (column < columns)
    p = tl.full([], param, W)
    at = row * out_row + column * out_column
    ts = tl.load(ts_ptr + row * ts_row + column * ts_column, inside, other=0.0).to(W)
    tg = tl.load(tg_ptr + row * tg_row + column * tg_column, inside, other=0.0).to(W)
    s = tl.load(s_ptr + row * s_row + column * s_column, inside, other=0.0).to(W)
    g = tl.load(g_ptr + row * g_row + column * g_column, inside, other=0.0).to(W)
    ty = apply(s, ts * g, p, NEXT, ORDER + 1) + apply(s, tg, p, D, ORDER)
    tl.store(ty_ptr + at, ty.to(ty_ptr.dtype.element_ty), inside)
    if NEED_Y:
        tl.store(y_ptr + at, apply(s, g, p, D, ORDER).to(y_ptr.dtype.element_ty), inside)


def act_jvp(
    ts: Tensor,  # shape of s
    tg: Tensor,  # shape of s
    s: Tensor,  # any shape
    g: Tensor,  # shape of s
    act: str,
    param: float,
    order: int,
    need_y: bool,
) -> tuple[Tensor, Tensor]:  # of the shape and layout of s; the second is empty where not needed
    """Of y = g D_order(s): ty = ts g D_{order+1}(s) + tg D_order(s), and y, in one pass."""
    ty = torch.empty_like(s)
    y = torch.empty_like(s) if need_y else s.new_empty(0)
    if s.numel() == 0:
        return ty, y
    rows, columns, ((*of_out,), *strides), inputs = sheet_of(ty, ts, tg, s, g)
    block_m, block_n = blocks(s, rows, columns)
    d = ACTIVATIONS[act]
    with on_device(s):
        act_jvp_kernel[(triton.cdiv(rows, block_m) * triton.cdiv(columns, block_n),)](
            *inputs, ty, y, param, rows, columns, *(stride for pair in strides for stride in pair), *of_out,
            D=d[order], NEXT=d[order + 1], ORDER=order, NEED_Y=need_y,
            BLOCK_M=block_m, BLOCK_N=block_n, **OPTIONS,
        )  # fmt: skip
    return ty, y


def mul_constant(x: Tensor, c: float) -> Tensor:
    return launch(scale, x, None, torch.empty_like(x), c, 0)
