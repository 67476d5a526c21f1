"""Two matrix products of one operand, made as in gemm.py: y = act(x w_gate^T + b_gate) (x w_up^T + b_up).

Tiles of both are summed next to each other, so that x is loaded once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import jit

from fusegrad.activations import REGISTRY

from . import gemm
from .act import apply
from .activations import ACTIVATIONS
from .gemm import GROUP, WITH_TMA, Config, config_of, descriptor, place, precision, processors, put, rows_are_aligned
from .launch import on_device


@jit
def gated_kernel(
    x, w_gate, w_up, b_gate_ptr, b_up_ptr, y, saved, saved_up, param: tl.float64, m, n, k, x_row, gate_row, up_row,
    programs,
    D: tl.constexpr, HAS_B_GATE: tl.constexpr, HAS_B_UP: tl.constexpr, SAVE: tl.constexpr, SAVES_INPUT: tl.constexpr,
    TMA: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
    T: tl.constexpr = y.dtype if TMA else y.dtype.element_ty
    for tile in tl.range(tl.program_id(0), tiles, programs, flatten=TMA):
        row, column = place(tile, m, n, BLOCK_M, BLOCK_N, GROUP)
        z = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        j = column + tl.arange(0, BLOCK_N)
        if TMA:
            for start in range(0, k, BLOCK_K):
                left = x.load([row, start])
                z = tl.dot(left, w_gate.load([column, start]).T, z, input_precision=PRECISION)
                up = tl.dot(left, w_up.load([column, start]).T, up, input_precision=PRECISION)
        else:
            i = (row + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]
            across = j.to(tl.int64)[None, :]
            for start in range(0, k, BLOCK_K):
                along = start + tl.arange(0, BLOCK_K)
                left = tl.load(x + i * x_row + along[None, :], (i < m) & (along < k)[None, :], other=0.0)
                inside = (along < k)[:, None] & (across < n)
                gate_tile = tl.load(w_gate + across * gate_row + along[:, None], inside, other=0.0)
                up_tile = tl.load(w_up + across * up_row + along[:, None], inside, other=0.0)
                z = tl.dot(left, gate_tile, z, input_precision=PRECISION)
                up = tl.dot(left, up_tile, up, input_precision=PRECISION)
        if HAS_B_GATE:
            z += tl.load(b_gate_ptr + j, j < n, other=0.0).to(tl.float32)[None, :]
        if HAS_B_UP:
            up += tl.load(b_up_ptr + j, j < n, other=0.0).to(tl.float32)[None, :]
        if SAVE:
            put(saved_up, up.to(T), row, column, m, n, TMA, BLOCK_M, BLOCK_N)
        if SAVE and SAVES_INPUT:
            put(saved, z.to(T), row, column, m, n, TMA, BLOCK_M, BLOCK_N)
        h = apply(z, z, tl.full([], param, tl.float32), D, 0)
        if SAVE and not SAVES_INPUT:
            put(saved, h.to(T), row, column, m, n, TMA, BLOCK_M, BLOCK_N)
        put(y, (h * up).to(T), row, column, m, n, TMA, BLOCK_M, BLOCK_N)


def tile_of_gated(family: str, dtype: torch.dtype) -> Config:
    """Two tiles of sums take the registers of one that is twice as wide."""
    c = config_of(family, dtype)
    return c._replace(block_n=min(c.block_n, 64))


def gated(
    x: Tensor,  # (m, k), rows contiguous
    w_gate: Tensor,  # (n, k), rows contiguous
    w_up: Tensor,  # (n, k), rows contiguous
    b_gate: Tensor | None,  # (n)
    b_up: Tensor | None,  # (n)
    act: str,
    param: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # (m, n) thrice; the last two are empty unless saved
    """In one kernel. float32, bfloat16 or float16; sizes > 0."""
    (m, k), n = x.shape, w_gate.shape[0]
    y = x.new_empty(m, n)
    saved, up = (torch.empty_like(y), torch.empty_like(y)) if save else (y, y)
    on = gemm.family(x.device)
    c = tile_of_gated(on, x.dtype)
    operands, outs = [x, w_gate, w_up], [y, saved, up]
    tma = on in WITH_TMA and rows_are_aligned(*operands, *outs)
    if tma:
        blocks = [c.block_m, c.block_k], [c.block_n, c.block_k], [c.block_n, c.block_k]
        operands = [descriptor(t, block) for t, block in zip(operands, blocks, strict=True)]
        outs = [descriptor(t, [c.block_m, c.block_n]) for t in outs]
    biases = [y if b is None else b.contiguous() for b in (b_gate, b_up)]
    programs = min(processors(x.device), triton.cdiv(m, c.block_m) * triton.cdiv(n, c.block_n))
    with on_device(x):
        gated_kernel[(programs,)](
            *operands, *biases, *outs, param, m, n, k, x.stride(0), w_gate.stride(0), w_up.stride(0), programs,
            D=ACTIVATIONS[act].value, HAS_B_GATE=b_gate is not None, HAS_B_UP=b_up is not None,
            SAVE=save, SAVES_INPUT=REGISTRY[act].saves_input,
            TMA=tma, PRECISION=precision(on, x.dtype), GROUP=GROUP,
            BLOCK_M=c.block_m, BLOCK_N=c.block_n, BLOCK_K=c.block_k,
            **gemm.compiled_by(on, c),
        )  # fmt: skip
    return (y, saved, up) if save else (y, x.new_empty(0), x.new_empty(0))
