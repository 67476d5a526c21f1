"""Enters a user's own activations among those of the kernels, from the modules that were generated for them."""

import warnings

from fusegrad.activations.compile import TRITON, Unavailable, module


def add(name: str) -> None:
    try:
        module(name, TRITON[name])  # which enters itself
    except Unavailable as e:
        warnings.warn(f"fusegrad: {e}; so {name!r} runs on the PyTorch reference", stacklevel=2)


for defined in TRITON:
    add(defined)
