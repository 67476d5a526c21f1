"""act_streams and its backward: an activation of a value, its tangents and its second-order part, in one pass each.

Of z, tangents t_i and l, and of cotangents c, c_i and c_l of what is made of them (csrc/cpu/jets.h has the same):

    y = act(z),   ty_i = act' t_i,   ly = act' l + act'' sum_i t_i^2

    gz = act' c + act'' (sum_i c_i t_i + c_l l) + act''' c_l sum_i t_i^2
    gt_i = act' c_i + 2 act'' c_l t_i,   gl = act' c_l

An activation that is piecewise linear has no act'', and nothing is read for it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import jit

from fusegrad.activations import REGISTRY
from fusegrad.ops.op import laid_out_as

from .act import tile
from .activations import ACTIVATIONS
from .elementary import full, zero
from .launch import OPTIONS, blocks, on_device, sheet


@jit
def slopes(z, p, D: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, OF_INPUT: tl.constexpr):
    """act(z), what the activation saves, act'(z), and D_2 of what it saves."""
    y = D(z, p)
    s = z if OF_INPUT else y
    return y, s, FIRST(full(z, 1.0), s, p), SECOND(s, p)


@jit
def act_streams_kernel(
    z_ptr,
    t_ptr,
    l_ptr,
    y_ptr,
    ty_ptr,
    ly_ptr,
    param: tl.float64,
    rows,
    columns,
    count,
    t_step,
    out_step,
    z_row,
    z_column,
    t_row,
    t_column,
    l_row,
    l_column,
    out_row,
    out_column,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    OF_INPUT: tl.constexpr,
    CURVED: tl.constexpr,
    HAS_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    W: tl.constexpr = tl.float64 if z_ptr.dtype.element_ty == tl.float64 else tl.float32
    row, column = tile(columns, BLOCK_M, BLOCK_N)
    inside = (row < rows) & (column < columns)
    at = row * out_row + column * out_column
    z = tl.load(z_ptr + row * z_row + column * z_column, inside, other=0.0).to(W)
    y, _, first, second = slopes(z, tl.full([], param, W), D, FIRST, SECOND, OF_INPUT)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), inside)
    squares = full(z, 0.0)
    of_t = row * t_row + column * t_column
    for _ in range(count):  # pointers move: 32 bits may be too few for the distance
        t = tl.load(t_ptr + of_t, inside, other=0.0).to(W)
        tl.store(ty_ptr + at, (first * t).to(ty_ptr.dtype.element_ty), inside)
        squares += t * t
        t_ptr += t_step
        ty_ptr += out_step
    if HAS_L:
        inner = tl.load(l_ptr + row * l_row + column * l_column, inside, other=0.0).to(W)
    else:
        inner = full(z, 0.0)
    if CURVED:
        if OF_INPUT:  # D_2 is act''
            ly = first * inner + second * squares
        else:  # act'' is D_1 D_2
            ly = first * (inner + second * squares)
    else:
        ly = first * inner
    if HAS_L or CURVED:
        tl.store(ly_ptr + at, ly.to(ly_ptr.dtype.element_ty), inside)


@jit
def act_streams_backward_kernel(
    gy_ptr,
    gty_ptr,
    gly_ptr,
    z_ptr,
    t_ptr,
    l_ptr,
    gz_ptr,
    gt_ptr,
    gl_ptr,
    param: tl.float64,
    rows,
    columns,
    count,
    gty_step,
    t_step,
    out_step,
    gy_row,
    gy_column,
    gty_row,
    gty_column,
    gly_row,
    gly_column,
    z_row,
    z_column,
    t_row,
    t_column,
    l_row,
    l_column,
    out_row,
    out_column,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    THIRD: tl.constexpr,
    OF_INPUT: tl.constexpr,
    CURVED: tl.constexpr,
    HAS_GY: tl.constexpr,
    HAS_GTY: tl.constexpr,
    HAS_GLY: tl.constexpr,
    HAS_L: tl.constexpr,
    NEED_Z: tl.constexpr,
    NEED_T: tl.constexpr,
    NEED_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    W: tl.constexpr = tl.float64 if z_ptr.dtype.element_ty == tl.float64 else tl.float32
    BENDS: tl.constexpr = CURVED and NEED_Z and (HAS_GTY or HAS_GLY)  # whether gz has more terms than the first
    row, column = tile(columns, BLOCK_M, BLOCK_N)
    inside = (row < rows) & (column < columns)
    p = tl.full([], param, W)
    at = row * out_row + column * out_column
    z = tl.load(z_ptr + row * z_row + column * z_column, inside, other=0.0).to(W)
    _, s, first, second = slopes(z, p, D, FIRST, SECOND, OF_INPUT)
    third = THIRD(s, p) if BENDS else second
    if not OF_INPUT:  # act'' is D_1 D_2, act''' is D_1 (D_2^2 + D_1 D_3)
        third = first * (second * second + first * third)
        second = first * second
    along, squares = full(z, 0.0), full(z, 0.0)
    if HAS_GLY:
        gly = tl.load(gly_ptr + row * gly_row + column * gly_column, inside, other=0.0).to(W)
        if NEED_L:
            tl.store(gl_ptr + at, (first * gly).to(gl_ptr.dtype.element_ty), inside)
        if BENDS and HAS_L:
            along = gly * tl.load(l_ptr + row * l_row + column * l_column, inside, other=0.0).to(W)
    else:
        gly = full(z, 0.0)
        if NEED_L:
            tl.store(gl_ptr + at, gly.to(gl_ptr.dtype.element_ty), inside)
    if NEED_T or BENDS:
        twice = 2 * second * gly
        of_t = row * t_row + column * t_column
        of_gty = row * gty_row + column * gty_column
        for _ in range(count):
            gt = full(z, 0.0)
            if HAS_GTY:
                gty = tl.load(gty_ptr + of_gty, inside, other=0.0).to(W)
                gt = first * gty
                gty_ptr += gty_step
            if BENDS or (CURVED and HAS_GLY):
                t = tl.load(t_ptr + of_t, inside, other=0.0).to(W)
                t_ptr += t_step
                if HAS_GLY:
                    squares += t * t
                    gt += twice * t
                if HAS_GTY:
                    along += gty * t
            if NEED_T:
                tl.store(gt_ptr + at, gt.to(gt_ptr.dtype.element_ty), inside)
                gt_ptr += out_step
    if NEED_Z:
        gz = full(z, 0.0)
        if HAS_GY:
            gz = first * tl.load(gy_ptr + row * gy_row + column * gy_column, inside, other=0.0).to(W)
        if BENDS:
            gz += second * along
            if HAS_GLY:
                gz += third * gly * squares
        tl.store(gz_ptr + at, gz.to(gz_ptr.dtype.element_ty), inside)


def _several(like: Tensor, count: int) -> Tensor:
    """Nothing yet, (count, ...): one like a dense tensor after another."""
    return like.new_empty_strided((count, *like.shape), (like.numel(), *like.stride()))


def _sheet_of(like: Tensor, *given: Tensor | None) -> tuple[int, int, list[int], list[Tensor]]:
    """Rows, columns, the strides of both in each tensor and last in `like`, and the tensors, that one for None.

    `like` is dense; others have its shape, or are several such, which lie alike. They are copied to its layout only if
    there is no sheet of all.
    """
    one = lambda t: t[0] if t.dim() > like.dim() else t
    there = {i: t for i, t in enumerate(given) if t is not None and t.numel() > 0}
    found = sheet(like, *map(one, there.values()))
    if found is None:
        several = lambda t: _several(like, t.shape[0]) if t.dim() > like.dim() else like
        there = {i: laid_out_as(several(t), t) for i, t in there.items()}
        found = sheet(like, *map(one, there.values()))
        assert found is not None, "tensors of one dense layout are one row"
    rows, columns, (of_like, *of_given) = found
    strides = dict(zip(there, of_given, strict=True))
    pairs = [*(strides.get(i, of_like) for i in range(len(given))), of_like]
    return rows, columns, [s for pair in pairs for s in pair], [there.get(i, like) for i in range(len(given))]


def _step(t: Tensor, like: Tensor) -> int:
    """How far the next of several is."""
    return t.stride(0) if t.dim() > like.dim() else 0


def _functions(act: str) -> dict[str, Any]:
    """Constants of both kernels."""
    a = ACTIVATIONS[act]
    constants = {"D": a.value, "FIRST": a.first, "SECOND": a.second, "CURVED": a.second is not zero}
    return constants | {"OF_INPUT": REGISTRY[act].saves_input}


def act_streams(
    z: Tensor,  # any shape
    t: Tensor,  # (r, *shape of z)
    l: Tensor | None,  # (1, *shape of z)  # noqa: E741  # as in the formulas
    act: str,
    param: float,
) -> tuple[Tensor, Tensor, Tensor]:  # of the shapes of z, t and l, each laid out as z
    y = torch.empty_like(z)
    ty, ly = _several(y, t.shape[0]), _several(y, 1)
    functions = _functions(act)
    if not functions["CURVED"] and l is None:
        ly = z.new_zeros(1).expand(1, *z.shape)
    if z.numel() == 0:
        return y, ty, ly
    second = None if l is None else l[0]
    rows, columns, strides, (z, first, second) = _sheet_of(y, z, t, second)
    block_m, block_n = blocks(y, rows, columns)
    with on_device(y):
        act_streams_kernel[(triton.cdiv(rows, block_m) * triton.cdiv(columns, block_n),)](
            z, first, second, y, ty, ly, param, rows, columns, t.shape[0], _step(first, y), y.numel(), *strides,
            HAS_L=l is not None, BLOCK_M=block_m, BLOCK_N=block_n, **functions, **OPTIONS,
        )  # fmt: skip
    return y, ty, ly


def act_streams_backward(
    gy: Tensor | None,  # shape of z
    gty: Tensor | None,  # (r, *shape of z)
    gly: Tensor | None,  # (1, *shape of z)
    z: Tensor,  # any shape
    t: Tensor,  # (r, *shape of z)
    l: Tensor | None,  # (1, *shape of z)  # noqa: E741
    act: str,
    param: float,
    needed: int,  # a bit for each of z, t and l
) -> list[Tensor]:  # of the shapes of z, t and l, each laid out as z; empty where not needed
    like = torch.empty_like(z)
    need_z, need_t, need_l = (bool(needed >> i & 1) for i in range(3))
    gz = like if need_z else z.new_empty(0)
    gt = _several(like, t.shape[0]) if need_t else z.new_empty(0)
    gl = _several(like, 1) if need_l else z.new_empty(0)
    if z.numel() > 0 and needed:
        of_l = [None if s is None else s[0] for s in (gly, l)]
        rows, columns, strides, tensors = _sheet_of(like, gy, gty, of_l[0], z, t, of_l[1])
        block_m, block_n = blocks(like, rows, columns)
        with on_device(like):
            act_streams_backward_kernel[(triton.cdiv(rows, block_m) * triton.cdiv(columns, block_n),)](
                *tensors, gz, gt, gl, param, rows, columns, t.shape[0], _step(tensors[1], like),
                _step(tensors[4], like), like.numel(), *strides,
                THIRD=ACTIVATIONS[act].third, HAS_GY=gy is not None, HAS_GTY=gty is not None,
                HAS_GLY=gly is not None, HAS_L=l is not None, NEED_Z=need_z, NEED_T=need_t, NEED_L=need_l,
                BLOCK_M=block_m, BLOCK_N=block_n, **_functions(act), **OPTIONS,
            )  # fmt: skip
    return [gz, gt, gl]
