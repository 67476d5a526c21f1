"""chain and chain_backward: a whole network in one kernel, and its gradients in one and a small one that adds up.

y = act_n(... act_1(x w_1^T + b_1) ...), of layers up to 128 wide. A program takes a tile of rows through all layers:
what one makes stays in registers until the next multiplies it, and weights come from L2, which all programs share.
Widths are filled up to a power of two, and layers are written out one after the other by the compiler. Weights are a
tuple, so that nothing is packed: each is read where it is.

`saved` has, one after the other, an (m, n) matrix of each layer but the last: z or y, what its activation saves, and y
where it has none; and of the last if that saves its input. From these backward makes what else it needs.

Backward goes layer by layer, from the last: a program takes some rows, the same each time, and passes over them by
tiles, once for each layer

    gz = gy D_1(s),  gw += gz^T h,  gb += the sum of gz,  gh = gz w    with h the input of the layer

with gw in registers, and gh, the gy of the layer before, in memory that no other program reads: it stays in L2. Each
program's gw and gb go to a row of `sums`, which a second kernel adds up, always in the same order. To keep gw of all
layers in registers would need n^2 of them for each; to write gz, and multiply it later, a launch for each layer, and
more bytes, as h would have to be written too where z is saved.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import jit

from fusegrad import ops
from fusegrad.activations import REGISTRY
from fusegrad.activations.definitions import DEFINITIONS
from fusegrad.ops.chain_by_layers import Plan
from fusegrad.ops.operands import described
from fusegrad.ops.terms import rows

from .activations import ACTIVATIONS
from .choice import Algorithm, algorithm_for
from .gemm import Config, compiled_by, family, precision, processors
from .launch import OPTIONS, on_device

WIDEST, MOST_LAYERS = 128, 8
REGISTERS = 255  # of a thread, at most: left to itself the assembler spills a few for more programs at a time


@jit
def weight(w, first: tl.constexpr, n: tl.constexpr, k: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """Of a weight, (n, k), the columns from the first on, (N, K), zero beyond what there is."""
    j, i = tl.arange(0, N)[:, None], (first + tl.arange(0, K))[None, :]
    if n == N and k % K == 0:
        return tl.load(w + j * k + i)
    else:
        return tl.load(w + j * k + i, (j < n) & (i < k), other=0.0)


@jit
def parameter(high, low, A: tl.constexpr):
    """Of two parts, as numbers in a tuple are float32."""
    return tl.full([], high, A) + tl.full([], low, A)


@jit
def layer(
    h, w, b, high, low, saved, y, row, inside,
    D: tl.constexpr, n: tl.constexpr, k: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    KEEPS: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What a layer makes of a tile of rows, zero beyond n. KEEPS says which of "z" and "y" is saved, if any."""
    T: tl.constexpr = h.dtype
    A: tl.constexpr = tl.float64 if T == tl.float64 else tl.float32
    z = tl.dot(h, weight(w, 0, n, k, N, K).T, out_dtype=A, input_precision=PRECISION)
    j = tl.arange(0, N)
    if b is not None:
        z += tl.load(b + j, j < n, other=0.0).to(A)[None, :]
    to = row * n + j[None, :]
    within = inside & (j < n)[None, :]
    if KEEPS == "z":
        tl.store(saved + to, z.to(T), within)
    made = D(z, parameter(high, low, A)).to(T)
    if KEEPS == "y":
        tl.store(saved + to, made, within)
    if LAST:
        tl.store(y + to, made, within)
    return made if n == N else tl.where((j < n)[None, :], made, 0.0)  # act(0) may be anything


@jit
def chain_kernel(
    x, weights, y, saved, scalars, m, x_row, x_column,
    D: tl.constexpr, SOURCES: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr, KEEPS: tl.constexpr,
    SAVE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    inside = row < m
    column = tl.arange(0, PADDED[0])[None, :]
    h = tl.load(x + row * x_row + column * x_column, inside & (column < WIDTHS[0]), other=0.0)
    at = saved
    for i in tl.static_range(len(WIDTHS) - 1):
        h = layer(
            h, weights[2 * i], weights[2 * i + 1], scalars[2 * i], scalars[2 * i + 1], at, y, row, inside,
            D[i], WIDTHS[i + 1], WIDTHS[i], PADDED[i + 1], PADDED[i],
            KEEPS[i] if SAVE else "", i == len(WIDTHS) - 2, PRECISION,
        )  # fmt: skip
        if KEEPS[i] != "":
            at += tl.full([], m, tl.int64) * WIDTHS[i + 1]


@jit
def layer_backward(
    gy, gy_row, gy_column, s_ptr, high, low, h_ptr, h_row, h_column, high_before, low_before, w, gh_ptr, sums,
    first, m, part,
    FIRST: tl.constexpr, VALUE: tl.constexpr, n: tl.constexpr, k: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    NEED_H: tl.constexpr, NEED_W: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradients of a layer, of `part` rows, for BLOCK_K of its inputs after the other, if there are more.

    Its input is h, or VALUE of that; FIRST and VALUE are None for no activation.
    """
    T: tl.constexpr = gy.dtype.element_ty
    A: tl.constexpr = tl.float64 if T == tl.float64 else tl.float32
    C: tl.constexpr = K if K < BLOCK_K else BLOCK_K
    j = tl.arange(0, N)
    for chunk in tl.static_range(K // C):
        i = chunk * C + tl.arange(0, C)
        if NEED_W:
            gw = tl.zeros((N, C), A)
            gb = tl.zeros((N,), A)
        for start in range(0, part, BLOCK_M):
            row = (first + start + tl.arange(0, BLOCK_M))[:, None]
            of_y, of_h = (row < m) & (j < n)[None, :], (row < m) & (i < k)[None, :]
            gz = tl.load(gy + row * gy_row + j[None, :] * gy_column, of_y, other=0.0)
            if FIRST is not None:
                s = tl.load(s_ptr + row * n + j[None, :], of_y, other=0.0)
                gz = FIRST(gz.to(A), s.to(A), parameter(high, low, A)).to(T)
                gz = tl.where(of_y, gz, 0.0)  # D may be no number where nothing was read
            if NEED_W:
                h = tl.load(h_ptr + row * h_row + i[None, :] * h_column, of_h, other=0.0)
                if VALUE is not None:
                    h = tl.where(of_h, VALUE(h.to(A), parameter(high_before, low_before, A)).to(T), 0.0)
                gw = tl.dot(gz.T, h, gw, out_dtype=A, input_precision=PRECISION)
                if chunk == 0:
                    gb += tl.sum(gz.to(A), 0)
            if NEED_H:
                of_w = weight(w, chunk * C, n, k, N, C)
                gh = tl.dot(gz, of_w, out_dtype=A, input_precision=PRECISION)
                tl.store(gh_ptr + row * k + i[None, :], gh.to(T), of_h)
        if NEED_W:
            tl.store(sums + j[:, None] * k + i[None, :], gw, (j < n)[:, None] & (i < k)[None, :])
            if chunk == 0:
                tl.store(sums + n * k + j, gb, j < n)


@jit
def chain_backward_kernel(
    gy, x, weights, y, saved, scalars, gx, g, sums, m, part, gy_row, gy_column, x_row, x_column,
    VALUES: tl.constexpr, FIRSTS: tl.constexpr, SOURCES: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr,
    KEEPS: tl.constexpr, WIDEST: tl.constexpr, SIZE: tl.constexpr, LOWEST: tl.constexpr,
    NEED_X: tl.constexpr, NEED_W: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Of `part` rows, and of the layers from LOWEST on. g has room for two gh, as one is read while one is written."""
    first = tl.program_id(0).to(tl.int64) * part
    to = sums + tl.program_id(0).to(tl.int64) * SIZE
    rows = tl.full([], m, tl.int64)
    at = saved
    for i in tl.static_range(len(KEEPS)):
        if KEEPS[i] != "":
            at += rows * WIDTHS[i + 1]
    for i in tl.static_range(len(KEEPS) - 1, LOWEST - 1, -1):
        if KEEPS[i] != "":
            at -= rows * WIDTHS[i + 1]
        last = i == len(KEEPS) - 1
        layer_backward(
            gy if last else g + (i % 2) * rows * WIDEST,
            gy_row if last else WIDTHS[i + 1],
            gy_column if last else 1,
            at if KEEPS[i] != "" else y,
            scalars[2 * i],
            scalars[2 * i + 1],
            x if i == 0 else at - rows * WIDTHS[i],
            x_row if i == 0 else WIDTHS[i],
            x_column if i == 0 else 1,
            scalars[2 * i - 2] if i > 0 else 0.0,
            scalars[2 * i - 1] if i > 0 else 0.0,
            weights[2 * i],
            gx if i == 0 else g + ((i + 1) % 2) * rows * WIDEST,
            to, first, m, part,
            FIRSTS[i], VALUES[i - 1] if i > 0 and KEEPS[i - 1] == "z" else None,
            WIDTHS[i + 1], WIDTHS[i], PADDED[i + 1], PADDED[i],
            i > LOWEST or NEED_X, NEED_W, PRECISION, BLOCK_M, BLOCK_K,
        )  # fmt: skip
        to += WIDTHS[i + 1] * WIDTHS[i] + WIDTHS[i + 1]
        if i > LOWEST:
            tl.debug_barrier()  # what some threads have written others read


@jit
def chain_sums_kernel(
    sums, outs, parts, STARTS: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The sum of the rows of a contiguous matrix (parts, SIZE), in pieces: the i-th from column STARTS[i] on."""
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.full([BLOCK_M, BLOCK_N], 0.0, sums.dtype.element_ty)
    for start in range(0, parts, BLOCK_M):
        part = start + tl.arange(0, BLOCK_M)[:, None].to(tl.int64)
        inside = (part < parts) & (column < SIZE)[None, :]
        total += tl.load(sums + part * SIZE + column[None, :], inside, other=0.0)
    added = tl.sum(total, 0)
    for i in tl.static_range(len(STARTS) - 1):
        if outs[i] is not None:
            within = (column >= STARTS[i]) & (column < STARTS[i + 1])
            tl.store(outs[i] + (column - STARTS[i]), added.to(outs[i].dtype.element_ty), within)


def padded(width: int) -> int:
    return max(16, triton.next_power_of_2(width))  # what matrix units take at least


class Facts:
    """What the kernels are told of a chain."""

    def __init__(self, of: Plan, widths: tuple[int, ...]):
        kernels = [ACTIVATIONS[name] for name in of.names]
        keeps = ["z" if name != "identity" and REGISTRY[name].saves_input else "y" for name in of.names]
        keeps[-1] = keeps[-1].replace("y", "")
        self.widths = widths
        # Triton lays all products of a chain out alike: one of few columns would give the others too many registers
        least = max(map(padded, widths)) // 2
        self.padded = padded(widths[0]), *(max(least, padded(n)) for n in widths[1:])
        self.saved = sum(n for n, keep in zip(widths[1:], keeps, strict=True) if keep)  # numbers of a row
        self.starts = [0]  # in `sums`, of gw and gb of each layer from the last on
        for k, n in zip(widths[-2::-1], widths[:0:-1], strict=True):
            self.starts += self.starts[-1] + n * k, self.starts[-1] + n * k + n
        self.is_wide = any(name in WIDE_SLOPES or name not in DEFINITIONS for name in of.names)
        self.scalars: tuple[float, ...] = ()
        for param in of.params:
            high = torch.tensor(param, dtype=torch.float32).item()
            self.scalars += high, param - high if math.isfinite(high) else 0.0
        values = tuple(a.value for a in kernels)
        firsts = tuple(None if name == "identity" else a.first for name, a in zip(of.names, kernels, strict=True))
        same = {"WIDTHS": widths, "PADDED": self.padded, "KEEPS": tuple(keeps)}
        self.forward = same | {"D": values, "SOURCES": _sources(values)}
        self.backward = same | {"VALUES": values, "FIRSTS": firsts, "SOURCES": _sources((*values, *firsts))}


def _sources(functions: Sequence[Any]) -> str:
    """What tells kernels of these functions apart on disk: Triton takes only the name of one in a tuple."""
    return " ".join(getattr(f, "cache_key", "") for f in dict.fromkeys(functions))


@cache
def facts(of: Plan, widths: tuple[int, ...]) -> Facts:
    return Facts(of, widths)


def widths_of(x: Tensor, weights: Sequence[Tensor | None]) -> tuple[int, ...]:
    return (x.shape[-1], *(w.shape[0] for w in weights[::2]))  # type: ignore[union-attr]  # a weight is there


class Tile(NamedTuple):
    """How many rows a program has in hand, and by how many warps: forward and backward.

    Backward also how many inputs of a layer, as gw of these is in registers; gz is made again for others.
    """

    forward: tuple[int, int]
    backward: tuple[int, int]
    inputs: int = WIDEST


# By what multiplies, and how wide layers are that are filled up: what needs no spills (`python -m fusegrad kernels`);
# which is fastest was measured nowhere yet. float32 without tf32 has no matrix units: each thread then has rows and
# columns of both factors in registers, which at 128 are too many by 9 KB forward, and float64 has no room for a weight
# of 128 in shared memory.
TILES: dict[Any, dict[int, Tile]] = {
    16: {
        16: Tile((64, 4), (32, 4)),
        32: Tile((64, 4), (32, 4)),
        64: Tile((64, 8), (32, 8)),
        128: Tile((32, 8), (32, 8), 64),
    },
    "tf32": {
        16: Tile((64, 4), (32, 4)),
        32: Tile((64, 4), (32, 4)),
        64: Tile((32, 4), (32, 8)),
        128: Tile((32, 8), (16, 8), 64),
    },
    "ieee": {16: Tile((32, 4), (16, 4)), 32: Tile((32, 4), (16, 4)), 64: Tile((32, 8), (16, 8), 16)},
    64: {16: Tile((32, 8), (32, 8)), 32: Tile((32, 8), (32, 8)), 64: Tile((32, 8), (16, 8))},
}
ON_AMD: dict[Any, dict[int, Tile]] = {16: {n: Tile((32, 8), (32, 8)) for n in (16, 32, 64)}}  # at 128 both spill


def tile_of(family: str, dtype: torch.dtype, widest: int) -> Tile | None:
    """The tiles of layers that, filled up, are so wide; None where one kernel does not serve them."""
    kind = {2: 16, 8: 64}.get(dtype.itemsize) or precision(family, dtype)
    return (TILES if family.startswith("sm_") else ON_AMD).get(kind, {}).get(widest)


# Whose slopes, of 32 rows of 128, take more registers than there are. What a user has defined may be one.
WIDE_SLOPES = {"mish"}


def _options(x: Tensor, fact: "Facts", backward: bool) -> dict[str, Any]:
    """The constants and options of the compiler, for both kernels."""
    on = family(x.device)
    tile = tile_of(on, x.dtype, max(fact.padded))
    assert tile is not None, "asked by takes"
    rows, warps = tile.backward if backward else tile.forward
    if max(fact.padded) == WIDEST and fact.is_wide:
        rows = 16
    same = {"BLOCK_M": rows, "PRECISION": precision(on, x.dtype)} | ({"BLOCK_K": tile.inputs} if backward else {})
    return same | compiled_by(on, Config(rows, 0, 0, warps, 1, REGISTERS if on.startswith("sm_") else None))


def compute(
    algorithm: Algorithm, gy: Tensor, x: Tensor, weights: Sequence[Tensor | None], of: Plan
) -> tuple[Tensor, ...]:
    """y and all gradients, by an algorithm of choice.py."""
    if algorithm == "triton":
        y, saved = forward(x, weights, of, True)
        found = backward(gy, x, weights, y, saved, of, (True, *(t is not None for t in weights)))
    else:
        by = (lambda op: op.reference) if algorithm == "stock" else (lambda op: op.overload)
        forth, back = by(ops.linear_act), by(ops.linear_act_backward)
        y, passed, found = x, [], []
        for w, b, name, param in zip(weights[::2], weights[1::2], of.names, of.params, strict=True):
            h, (y, z) = y, forth(y, w, b, name, param, True)
            passed.append((h, w, z if REGISTRY[name].saves_input else y, name, param))
        for (h, *rest), b in zip(reversed(passed), weights[::-2], strict=True):
            gy, *of_weights = back(gy, h, *rest, True, True, b is not None)
            found = [*of_weights, *found]
        found = [gy, *found]
    return y, *(g for g in found if g is not None and g.numel() > 0)


def takes(x: Tensor, outs: Sequence[int], acts: Sequence[str]) -> bool:
    """Whether layers of so many outputs can be made as one kernel; x (..., k)."""
    widths = x.shape[-1], *outs
    return (
        len(outs) <= MOST_LAYERS
        and 0 < min(widths) <= max(widths) <= WIDEST
        and x.numel() > 0
        and all(act in ACTIVATIONS for act in acts)
        and tile_of(family(x.device), x.dtype, padded(max(widths))) is not None
    )


def suits(x: Tensor, outs: Sequence[int], acts: Sequence[str]) -> bool:
    """Whether they are best made as one kernel, and can be."""
    if not takes(x, outs, acts):
        return False
    widest = padded(max(x.shape[-1], *outs))
    rows = x.numel() // x.shape[-1]
    return algorithm_for("chain", family(x.device), x.dtype, rows, widest, len(outs)) == "triton"


def chain(x: Tensor, weights: Sequence[Tensor | None], of: Plan, save: bool) -> tuple[Tensor, Tensor]:
    """y (..., n), and what is saved; x is (..., k). Of layers that suit."""
    y, saved = forward(rows(x), _contiguous(weights), of, save)
    return y.view(*x.shape[:-1], y.shape[1]), saved


def chain_backward(
    gy: Tensor, x: Tensor, weights: Sequence[Tensor | None], y: Tensor, saved: Tensor, of: Plan, needed: Sequence[bool]
) -> list[Tensor | None]:
    """gx, gw_1, gb_1, ..., each if needed."""
    m, n, kept = len(rows(x)), weights[-2].shape[0], facts(of, widths_of(x, weights)).saved  # type: ignore[union-attr]
    if not (gy.shape == y.shape == (*x.shape[:-1], n) and saved.numel() == m * kept):
        raise ValueError(f"chain_backward: gy {described(gy)}, y {described(y)}, saved {described(saved)} do not fit")
    gx, *found = backward(rows(gy), rows(x), _contiguous(weights), rows(y).contiguous(), saved, of, needed)
    return [None if gx is None else gx.view(x.shape), *found]


def _contiguous(weights: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in weights]


def forward(
    x: Tensor,  # (m, k), any strides
    weights: Sequence[Tensor | None],  # w_1 (n, k), b_1 (n), ...; contiguous
    of: Plan,
    save: bool,
) -> tuple[Tensor, Tensor]:  # (m, n), and what is saved
    widths = widths_of(x, weights)
    fact, m = facts(of, widths), x.shape[0]
    y = x.new_empty(m, widths[-1])
    saved = x.new_empty(m * fact.saved if save else 0)
    options = _options(x, fact, False)
    with on_device(x):
        chain_kernel[(triton.cdiv(m, options["BLOCK_M"]),)](
            x,
            tuple(weights),
            y,
            saved if save else y,
            fact.scalars,
            m,
            *x.stride(),
            SAVE=save,
            **fact.forward,
            **options,
        )
    return y, saved


def rows_of_part(rows: int, block: int, programs: int) -> int:
    """How many rows one of so many programs takes, at most: a multiple of those of a tile."""
    tiles = triton.cdiv(rows, block)
    return triton.cdiv(tiles, min(tiles, programs)) * block


def backward(
    gy: Tensor,  # (m, n), any strides
    x: Tensor,  # (m, k), any strides
    weights: Sequence[Tensor | None],
    y: Tensor,  # (m, n), contiguous
    saved: Tensor,
    of: Plan,
    needed: Sequence[bool],  # of x, w_1, b_1, ...
) -> list[Tensor | None]:
    widths = widths_of(x, weights)
    fact, m, layers = facts(of, widths), x.shape[0], len(of.names)
    need_x, of_weights = needed[0], any(needed[1:])
    if not any(needed):
        return [None] * len(needed)
    lowest = 0 if need_x else next(i for i in range(layers) if any(needed[1 + 2 * i : 3 + 2 * i]))
    options = _options(x, fact, True)
    part = rows_of_part(m, options["BLOCK_M"], processors(x.device) * min(4, WIDEST // max(fact.padded)))
    parts = triton.cdiv(m, part)
    size = fact.starts[2 * (layers - lowest)]
    widest, wide = max(widths[1:-1], default=0), torch.float64 if x.dtype == torch.float64 else torch.float32
    gx = x.new_empty(m, widths[0]) if need_x else x.new_empty(0)
    g = x.new_empty(2 * m * widest)
    sums = x.new_empty(parts * size if of_weights else 0, dtype=wide)
    found = [gx if need_x else None]
    found += [torch.empty_like(t) if n and t is not None else None for t, n in zip(weights, needed[1:], strict=True)]
    with on_device(x):
        chain_backward_kernel[(parts,)](
            gy, x, tuple(weights), y, saved, fact.scalars, gx, g, sums, m, part, *gy.stride(), *x.stride(),
            WIDEST=widest, SIZE=size, LOWEST=lowest, NEED_X=need_x, NEED_W=of_weights, **fact.backward, **options,
        )  # fmt: skip
        if of_weights:
            outs = tuple(found[1 + i] for j in reversed(range(lowest, layers)) for i in (2 * j, 2 * j + 1))
            starts = tuple(fact.starts[: len(outs) + 1])
            chain_sums_kernel[(triton.cdiv(size, 64),)](
                sums, outs, parts, STARTS=starts, SIZE=size, BLOCK_M=32, BLOCK_N=64, **OPTIONS
            )
    return found
