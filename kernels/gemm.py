"""Matrix products with an epilogue: what is done with a tile of the product while it is in registers.

linear_act     y = act(x w^T + b), and z = x w^T + b if that is saved
mm_dact        gz = (a b) D_1(s) and the sum of its rows: dgrad of a layer makes gz of the layer before it

Programs are persistent: each computes tiles until none is left, and loads for the next while it finishes one. Tiles are
taken in groups of rows, which share what they read of b in L2. Operands come by descriptors (TMA) where the GPU has
them and the layout allows it, else by plain loads.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import jit
from triton.backends.nvidia.compiler import CUDAOptions
from triton.tools.tensor_descriptor import TensorDescriptor

from fusegrad.activations.definitions import DEFINITIONS

from .act import apply
from .activations import ACTIVATIONS
from .launch import on_device
from .passes import add_up

GROUP = 8  # rows of tiles


@jit
def place(tile, m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """The first row and column of a tile of c."""
    down, across = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    group = tile // (GROUP * across)
    rows = min(down - group * GROUP, GROUP)
    inside = tile % (GROUP * across)
    return (group * GROUP + inside % rows) * BLOCK_M, (inside // rows) * BLOCK_N


@jit
def product(
    a, b, row, column, m, n, k, a_row, b_row,
    TRANS_B: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of a b, or of a b^T: a (m, k); b (k, n), or (n, k). The rows of both are contiguous."""
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if TMA:
        for start in range(0, k, BLOCK_K):
            left = a.load([row, start])
            right = b.load([column, start]).T if TRANS_B else b.load([start, column])
            sums = tl.dot(left, right, sums, input_precision=PRECISION)
    else:
        i = (row + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]
        j = (column + tl.arange(0, BLOCK_N)).to(tl.int64)[None, :]
        for start in range(0, k, BLOCK_K):
            along_a = start + tl.arange(0, BLOCK_K)[None, :]
            along_b = start + tl.arange(0, BLOCK_K)[:, None]
            left = tl.load(a + i * a_row + along_a, (i < m) & (along_a < k), other=0.0)
            at = j * b_row + along_b if TRANS_B else along_b.to(tl.int64) * b_row + j
            right = tl.load(b + at, (along_b < k) & (j < n), other=0.0)
            sums = tl.dot(left, right, sums, input_precision=PRECISION)
    return sums


@jit
def put(to, tile, row, column, m, n, TMA: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Write a tile of a contiguous matrix (m, n)."""
    if TMA:
        to.store([row, column], tile)
    else:
        i = (row + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]
        j = column + tl.arange(0, BLOCK_N)[None, :]
        tl.store(to + i * n + j, tile, (i < m) & (j < n))


@jit
def linear_act_kernel(
    x, w, b_ptr, y, saved, param: tl.float64, m, n, k, x_row, w_row, programs,
    D: tl.constexpr, HAS_BIAS: tl.constexpr, SAVE: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles, programs, flatten=TMA):
        row, column = place(tile, m, n, BLOCK_M, BLOCK_N, GROUP)
        z = product(x, w, row, column, m, n, k, x_row, w_row, True, TMA, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K)
        if HAS_BIAS:
            j = column + tl.arange(0, BLOCK_N)
            z += tl.load(b_ptr + j, j < n, other=0.0).to(tl.float32)[None, :]
        if SAVE:
            put(saved, z.to(saved.dtype if TMA else saved.dtype.element_ty), row, column, m, n, TMA, BLOCK_M, BLOCK_N)
        act = apply(z, z, tl.full([], param, tl.float32), D, 0).to(y.dtype if TMA else y.dtype.element_ty)
        put(y, act, row, column, m, n, TMA, BLOCK_M, BLOCK_N)


@jit
def mm_dact_kernel(
    a, b, s_ptr, gz, sums_ptr, param: tl.float64, m, n, k, a_row, b_row, programs,
    D: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles, programs, flatten=TMA):
        row, column = place(tile, m, n, BLOCK_M, BLOCK_N, GROUP)
        gy = product(a, b, row, column, m, n, k, a_row, b_row, False, TMA, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K)
        i = (row + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]
        j = column + tl.arange(0, BLOCK_N)
        inside = (i < m) & (j < n)[None, :]
        s = tl.load(s_ptr + i * n + j[None, :], inside, other=0.0)
        made = apply(s.to(tl.float32), gy, tl.full([], param, tl.float32), D, 1).to(s.dtype)
        put(gz, made, row, column, m, n, TMA, BLOCK_M, BLOCK_N)
        rounded = tl.where(inside, made.to(tl.float32), 0.0)
        tl.store(sums_ptr + (row // BLOCK_M).to(tl.int64) * n + j, tl.sum(rounded, 0), j < n)


class Config(NamedTuple):
    """The tile of a program."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    registers: int | None = None  # of a thread, at most; None: as many as the assembler thinks best


# By what multiplies: matrix units in 16 bits, in tf32, or the plain float32 units. Sizes that fit the shared memory of
# each family and need no spills (`python -m fusegrad kernels`); which is fastest was measured nowhere yet.
CONFIGS = {
    # left to itself the assembler spills a few of 128 here, for a second program on the processor that never comes
    "sm_80": {
        16: Config(128, 64, 64, 8, 3, 255),
        "tf32": Config(128, 64, 32, 8, 3, 255),
        "ieee": Config(64, 64, 16, 8, 2, 255),
    },
    "sm_90": {16: Config(128, 128, 64, 8, 4), "tf32": Config(128, 64, 32, 8, 4), "ieee": Config(64, 64, 16, 8, 2)},
    "sm_100": {16: Config(128, 128, 64, 8, 4), "tf32": Config(128, 64, 32, 8, 4), "ieee": Config(64, 64, 16, 8, 2)},
    "sm_120": {16: Config(128, 64, 64, 8, 2), "tf32": Config(64, 64, 32, 8, 2), "ieee": Config(64, 64, 16, 8, 2)},
    "gfx942": {16: Config(128, 128, 32, 8, 2), "tf32": Config(64, 64, 32, 8, 2), "ieee": Config(64, 64, 16, 8, 2)},
    "gfx950": {16: Config(128, 128, 32, 8, 2), "ieee": Config(64, 64, 16, 8, 2)},  # has no tf32
}
WITH_TMA = ("sm_90", "sm_100", "sm_120")


@cache
def family(device: torch.device) -> str:
    """The key of a GPU in tables: its architecture, or the one whose tables suit it best."""
    if device.type != "cuda":
        return "sm_90"  # the interpreter, which has descriptors
    if torch.version.hip:
        name = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        return name if name in CONFIGS else "gfx950"
    major = torch.cuda.get_device_capability(device)[0]
    return {8: "sm_80", 9: "sm_90"}.get(major, "sm_120" if major >= 12 else "sm_100")


@cache
def processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def precision(family: str, dtype: torch.dtype) -> str:
    """How numbers are multiplied: float32 in tf32 where there is that, and the user allows torch to."""
    allowed = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed and "tf32" in CONFIGS[family] else "ieee"


def config_of(family: str, dtype: torch.dtype) -> Config:
    return CONFIGS[family][16 if dtype.itemsize == 2 else precision(family, dtype)]


# Their values take so many registers that linear_act would spill with 128 columns. What a user has defined may be one.
WIDE_VALUES = {"snake", "squareplus"}


def tile_of_act(family: str, dtype: torch.dtype, act: str) -> Config:
    """Of linear_act."""
    c = config_of(family, dtype)
    return c._replace(block_n=min(c.block_n, 64)) if act in WIDE_VALUES or act not in DEFINITIONS else c


# With 255 registers mm_dact spills none of these; of others, mish say, only if the assembler chooses.
LIMITED_SLOPES = {
    "sm_80": {"softplus", "shifted_softplus", "logsigmoid", "tanhshrink"},
    "sm_100": {"sigmoid", "tanh"},
    "sm_120": {"gelu", "gelu_tanh", "sin"},
}


def tile_of_dact(family: str, dtype: torch.dtype, act: str) -> Config:
    """Of mm_dact: s takes registers too, and with 128 columns silu spills on sm_90."""
    c = config_of(family, dtype)
    on_matrix_units = dtype != torch.float32 or precision(family, dtype) == "tf32"
    registers = c.registers if not on_matrix_units else 255 if act in LIMITED_SLOPES.get(family, ()) else None
    return c._replace(block_n=min(c.block_n, 64), registers=registers)


def rows_are_aligned(*matrices: Tensor) -> bool:
    """Whether the rows of matrices are contiguous and start at multiples of 16 bytes, the unit of TMA and of loads.

    Without it elements are read one by one: that is slow, and takes more registers than there are.
    """
    return all(
        t.stride(1) == 1
        and t.stride(0) >= t.shape[1]  # rows that overlap are not for TMA
        and t.stride(0) * t.itemsize % 16 == 0
        and t.data_ptr() % 16 == 0
        and t.numel() > 0
        for t in matrices
    )


def takes(x: Tensor, w: Tensor) -> bool:
    """Whether linear_act multiplies these as fast as it can: matrices whose rows, and the result's, are aligned."""
    return x.dtype != torch.float64 and rows_are_aligned(x, w) and w.shape[0] * w.itemsize % 16 == 0


def takes_dact(a: Tensor, b: Tensor, s: Tensor) -> bool:
    """Whether mm_dact multiplies these as fast as it can."""
    return a.dtype != torch.float64 and rows_are_aligned(a, b, s)


def _launch(kernel, c: Config, a: Tensor, b: Tensor, outs: list[Tensor], trans_b: bool, rest, **constants) -> None:
    """Run a kernel over all tiles of outs[0]; `rest` makes the arguments between the operands and the sizes."""
    (m, k), n = a.shape, outs[0].shape[1]
    on = family(a.device)
    tma = on in WITH_TMA and rows_are_aligned(a, b, *outs)
    operands, to = [a, b], outs
    if tma:
        of_b = [c.block_n, c.block_k] if trans_b else [c.block_k, c.block_n]
        operands = [descriptor(a, [c.block_m, c.block_k]), descriptor(b, of_b)]
        to = [descriptor(t, [c.block_m, c.block_n]) for t in outs]
    programs = min(processors(a.device), triton.cdiv(m, c.block_m) * triton.cdiv(n, c.block_n))
    with on_device(a):
        kernel[(programs,)](
            *operands, *rest(to), m, n, k, a.stride(0), b.stride(0), programs,
            TMA=tma, PRECISION=precision(on, a.dtype), GROUP=GROUP,
            BLOCK_M=c.block_m, BLOCK_N=c.block_n, BLOCK_K=c.block_k,
            **compiled_by(on, c), **constants,
        )  # fmt: skip


@cache
def compiled_by(family: str, c: Config) -> dict[str, Any]:
    """The options of Triton's compiler for a product.

    It writes each operation for all elements of a tile before the next operation, and the assembler leaves much of that
    order: each step of an activation is then held for all elements. On NVIDIA's GPUs, from 3.9 on, it can write in an
    order in which less is held: squareplus takes 152 registers for 243 in linear_act on sm_80.
    """
    options: dict[str, Any] = {"num_warps": c.warps, "num_stages": c.stages, "enable_fp_fusion": True}
    if c.registers is not None:
        options["maxnreg"] = c.registers
    if family.startswith("sm_") and "sched4reg" in CUDAOptions.__annotations__:
        options["sched4reg"] = True
    return options


def descriptor(t: Tensor, block: list[int]) -> TensorDescriptor:
    return TensorDescriptor(t, list(t.shape), list(t.stride()), block)


def linear_act(
    x: Tensor,  # (m, k), rows contiguous
    w: Tensor,  # (n, k), rows contiguous
    b: Tensor | None,  # (n)
    act: str,
    param: float,
    save: bool,
) -> tuple[Tensor, Tensor]:  # (m, n) twice; the second is empty unless saved
    """y = act(z), z = x w^T + b, and z, in one kernel. float32, bfloat16 or float16; sizes > 0."""
    y = x.new_empty(x.shape[0], w.shape[0])
    saved = torch.empty_like(y) if save else y
    bias = y if b is None else b.contiguous()
    c = tile_of_act(family(x.device), x.dtype, act)
    _launch(
        linear_act_kernel, c, x, w, [y, saved], True, lambda outs: (bias, *outs, param),
        D=ACTIVATIONS[act].value, HAS_BIAS=b is not None, SAVE=save,
    )  # fmt: skip
    return y, saved if save else x.new_empty(0)


def mm_dact(
    a: Tensor,  # (m, k), rows contiguous
    b: Tensor,  # (k, n), rows contiguous
    s: Tensor,  # (m, n), contiguous: what the activation saves
    act: str,
    param: float,
) -> tuple[Tensor, Tensor]:  # (m, n), (n)
    """gz = (a b) D_1(s), and the sum of its rows, in one kernel and a small one that adds up the partial sums.

    With a the gz of a layer and b its weight, a b is the gy of the layer before it: gz of that comes without its gy
    being written. float32, bfloat16 or float16; sizes > 0.
    """
    gz = torch.empty_like(s)
    c = tile_of_dact(family(a.device), a.dtype, act)
    sums = a.new_empty(triton.cdiv(a.shape[0], c.block_m), b.shape[1], dtype=torch.float32)
    _launch(mm_dact_kernel, c, a, b, [gz], False, lambda outs: (s, *outs, sums, param), D=ACTIVATIONS[act].first)
    with on_device(a):
        return gz, add_up(sums, a.dtype)
