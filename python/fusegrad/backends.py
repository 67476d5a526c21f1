"""Which backend serves an op: the only file that chooses.

The dispatcher does the choosing: the reference is registered for every device, and a device kernel overrides it on
its dispatch key. What no kernel takes is served by the reference, never refused.
"""

from __future__ import annotations

import warnings

from . import ops, reference
from ._autograd import has_kernel

try:
    from . import _C
except ImportError as e:
    _C = None  # type: ignore[assignment]
    warnings.warn(
        f"fusegrad: no C++ extension ({e}); every op runs on the PyTorch reference. To build it, install a C++17 "
        "compiler and run: pip install --no-build-isolation --force-reinstall --no-deps fusegrad",
        stacklevel=2,
    )

for name in ops.OPS:
    ops.library.impl(name, getattr(reference, name), "CompositeExplicitAutograd")


def serving(op: str, device: str = "cpu") -> str:
    """The backend that serves `op` for tensors on a device: "reference" where no kernel is registered."""
    return device if has_kernel(op, device) else "reference"
