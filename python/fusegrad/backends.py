"""Which backend serves an op: the only file that chooses, with csrc/cpu/capability.cpp for the products of C++.

The dispatcher does the choosing: the reference is registered for every device, and a device kernel overrides it on
its dispatch key. What no kernel takes is served by the reference, never refused. On a CPU, what is so small that the
call costs more than the arithmetic goes to stock torch, before any op is called.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from . import ops, reference
from ._autograd import has_kernel, in_plain_eager, requires_grad

try:
    from . import _C
except ImportError as e:
    _C = None  # type: ignore[assignment]
    warnings.warn(
        f"fusegrad: no C++ extension ({e}); every op runs on the PyTorch reference. To build it, install a C++20 "
        "compiler and run: pip install --no-build-isolation --force-reinstall --no-deps fusegrad",
        stacklevel=2,
    )

for name in ops.OPS:
    ops.library.impl(name, getattr(reference, name), "CompositeExplicitAutograd")


def serving(op: str, device: str = "cpu") -> str:
    """The backend that serves `op` for tensors on a device: "reference" where no kernel is registered."""
    return device if has_kernel(op, device) else "reference"


# Where stock and these ops take equally long on two cores of a Zen 3, Python 3.11 (2026-11-23), rounded up. In plain
# eager mode only: a compiler or a transform sees the same ops at all sizes.
SMALL_LAYER, SMALL_LAYER_IN_TRAINING = 2**18, 2**21  # multiplications
SMALL_TENSOR, SMALL_TENSOR_IN_TRAINING = 2**13, 2**16  # elements


def layer_is_small(x: Tensor, w: Tensor, b: Tensor | None) -> bool:
    """Whether stock torch computes this layer faster."""
    if torch.compiler.is_compiling():  # no guards on sizes
        return False
    size = x.numel() * w.shape[0]
    if size > SMALL_LAYER_IN_TRAINING or not x.is_cpu:
        return False
    return (size <= SMALL_LAYER or requires_grad(x, w, b)) and in_plain_eager(x, w, b)


def tensor_is_small(x: Tensor) -> bool:
    """Whether stock torch computes an elementwise function of this tensor faster."""
    if torch.compiler.is_compiling():
        return False
    size = x.numel()
    if size > SMALL_TENSOR_IN_TRAINING or not x.is_cpu:
        return False
    return (size <= SMALL_TENSOR or requires_grad(x)) and in_plain_eager(x)
