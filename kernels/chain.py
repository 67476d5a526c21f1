"""chain and chain_backward: a network of narrow layers by the kernels of chain_kernels.py, where they serve it.

Gradients have the same bits each time, on one GPU: what a program adds up depends on how many processors there are.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fusegrad import ops
from fusegrad.activations import REGISTRY
from fusegrad.activations.definitions import DEFINITIONS
from fusegrad.ops.chain_by_layers import Plan
from fusegrad.ops.operands import described
from fusegrad.ops.terms import rows

from . import gemm
from .activations import ACTIVATIONS
from .chain_kernels import chain_backward_kernel, chain_kernel, chain_sums_kernel
from .choice import Algorithm, algorithm_for
from .gemm import Config, compiled_by, precision, processors
from .launch import OPTIONS, on_device

WIDEST, MOST_LAYERS = 128, 8
REGISTERS = 255  # of a thread, at most: left to itself the assembler spills a few for more programs at a time


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
# columns of both factors in registers, which at 64 are too many by 104 bytes forward where rows are odd, as in float64
# by 8, and at 128 by 9 KB. On AMD's GPUs no tile was found for 128, and none was tried for all activations.
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
    "ieee": {16: Tile((32, 4), (16, 4)), 32: Tile((32, 4), (16, 4))},
    64: {16: Tile((32, 8), (32, 8)), 32: Tile((32, 8), (32, 8))},
}


def tile_of(family: str, dtype: torch.dtype, widest: int) -> Tile | None:
    """The tiles of layers that, filled up, are so wide; None where one kernel does not serve them."""
    kind = {2: 16, 8: 64}.get(dtype.itemsize) or precision(family, dtype)
    return TILES.get(kind, {}).get(widest) if family.startswith("sm_") else None


# Whose slopes, of 32 rows of 128, take more registers than there are. What a user has defined may be one.
WIDE_SLOPES = {"mish"}


def _options(x: Tensor, fact: "Facts", backward: bool) -> dict[str, Any]:
    """The constants and options of the compiler, for both kernels."""
    on = gemm.family(x.device)
    tile = tile_of(on, x.dtype, max(fact.padded))
    assert tile is not None, "asked by takes"
    rows, warps = tile.backward if backward else tile.forward
    if max(fact.padded) == WIDEST and fact.is_wide:
        rows = 16
    same = {"BLOCK_M": rows, "PRECISION": precision(on, x.dtype)} | ({"BLOCK_K": tile.inputs} if backward else {})
    return same | compiled_by(on, Config(rows, 0, 0, warps, 1, REGISTERS))


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
        and tile_of(gemm.family(x.device), x.dtype, padded(max(widths))) is not None
    )


def suits(x: Tensor, outs: Sequence[int], acts: Sequence[str]) -> bool:
    """Whether they are best made as one kernel, and can be."""
    if not takes(x, outs, acts):
        return False
    widest = padded(max(x.shape[-1], *outs))
    rows = x.numel() // x.shape[-1]
    return algorithm_for("chain", gemm.family(x.device), x.dtype, rows, widest, len(outs)) == "triton"


def chain(x: Tensor, weights: Sequence[Tensor | None], of: Plan, save: bool) -> tuple[Tensor, Tensor]:
    """y (..., n), and what is saved; x is (..., k). Of layers that suit."""
    y, saved = forward(rows(x), _contiguous(weights), of, save)
    return y.view(*x.shape[:-1], y.shape[1]), saved


def chain_backward(
    gy: Tensor, x: Tensor, weights: Sequence[Tensor | None], y: Tensor, saved: Tensor, of: Plan, needed: Sequence[bool]
) -> list[Tensor | None]:
    """gx, gw_1, gb_1, ..., each if needed."""
    widths = widths_of(x, weights)
    m, n, kept = len(rows(x)), widths[-1], facts(of, widths).saved
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
