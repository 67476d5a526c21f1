"""Triton's interpreter runs the kernels on CPU tensors, in NumPy. What it gets wrong about bfloat16 is put right here:
up to 3.9 at least it cuts where a GPU rounds to the nearest, and multiplies the bits of matrices. And what takes nearly
half of its time is left out.
"""

import functools
from collections.abc import Callable

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The bits of float32 numbers in bfloat16, rounded to nearest even."""
    bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


_dot, _cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl


def _dot_of_numbers(self, a, b, d, *options):
    wide = lambda t: TensorHandle(from_bfloat16(t.data), tl.float32) if t.dtype.scalar == tl.bfloat16 else t
    return _dot(self, wide(a), wide(b), d, *options)


def _rounding_cast(self, src, to):
    if src.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
        return TensorHandle(to_bfloat16(src.data), tl.bfloat16)
    return _cast(self, src, to)


class _Stays:
    """In the place of what undoes the change."""

    def restore(self) -> None:
        pass


# Each call of a function puts the interpreter's parts in the place of those of Triton's language, by a walk over all of
# it, and each launch puts those back in the end. Here they stay, so that once for each function is enough.
_change_language = interpreter._patch_lang


@functools.cache
def _change_language_once(fn: Callable) -> _Stays:
    _change_language(fn)
    return _Stays()


def repair() -> None:
    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = _dot_of_numbers, _rounding_cast
    interpreter._patch_lang = _change_language_once
