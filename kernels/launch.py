"""How kernels are launched: on the device of their tensors, over tensors of any layout as rows and columns."""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor
from triton.runtime import driver

from fusegrad.ops.op import laid_out_as

WARPS = 4
# Sums are fused multiply-adds on every GPU; without the option Triton 3.10 turns them off.
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": True}


def on_device(t: Tensor) -> AbstractContextManager:
    """Makes the device of t current, which is where Triton launches. The stream is the current one of that device."""
    return torch.cuda.device(t.device) if t.is_cuda and t.device.index != torch.cuda.current_device() else nullcontext()


def blocks(t: Tensor, rows: int, columns: int, row_bytes: int | None = None) -> tuple[int, int]:
    """Rows and columns of the tile of a program on t, at most so wide: 16 bytes for each thread, which is one load."""
    size = 16 * WARPS * lanes(t.device) // t.itemsize
    width = min(triton.next_power_of_2(columns), size if row_bytes is None else row_bytes // t.itemsize)
    return min(triton.next_power_of_2(rows), size // width), width


def lanes(device: torch.device) -> int:
    """The threads of a warp."""
    if device.type == "meta":  # to compile for a GPU that is not there
        return driver.active.get_current_target().warp_size
    return 64 if torch.version.hip else 32


def sheet(*tensors: Tensor) -> tuple[int, int, list[tuple[int, int]]] | None:
    """Rows, columns, and for each tensor the strides of both, of tensors of one shape; None if they have no such form.

    Dimensions are sorted as the first tensor has them in memory, and merged where that can be done in all tensors.
    """
    first = tensors[0]
    if all(t.is_contiguous() for t in tensors):
        return 1, first.numel(), [(first.numel(), 1)] * len(tensors)
    order = sorted((d for d in range(first.dim()) if first.shape[d] > 1), key=first.stride, reverse=True)
    sizes: list[int] = []
    strides: list[list[int]] = []  # of each dimension, by tensor
    for d in order:
        size, step = first.shape[d], [t.stride(d) for t in tensors]
        if sizes and strides[-1] == [s * size for s in step]:
            sizes[-1] *= size
            strides[-1] = step
        else:
            sizes.append(size)
            strides.append(step)
    if len(sizes) > 2:
        return None
    while len(sizes) < 2:
        sizes.insert(0, 1)
        strides.insert(0, [0] * len(tensors))
    return sizes[0], sizes[1], list(zip(*strides, strict=True))


def sheet_of(out: Tensor, *inputs: Tensor) -> tuple[int, int, list[tuple[int, int]], tuple[Tensor, ...]]:
    """The sheet of out and its inputs, and the inputs: copied to the layout of out only if they have no sheet."""
    found = sheet(out, *inputs)
    if found is None:
        inputs = tuple(laid_out_as(out, t) for t in inputs)
        found = sheet(out, *inputs)
        assert found is not None, "out is dense, so tensors of its layout are one row"
    return *found, inputs
