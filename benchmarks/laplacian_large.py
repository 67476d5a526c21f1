"""How long do these steps take with many directions, and in float64?

The rivals and the rest are those of laplacian.py. With 100 directions nested autograd and JAX are too slow to compile.
"""

import torch

from .harness import Case
from .laplacian import PROVIDERS, SECONDS, of_network, verdict

__all__ = ["PROVIDERS", "SECONDS", "cases", "verdict"]


def cases(device: str, smoke: bool) -> list[Case]:
    """Ten and a hundred axes, 16 directions in 1000 dimensions (as samples=16 draws), float64."""
    if smoke:
        return [of_network(10, (5, 8, 8, 1), "tanh", device, directions=3)]
    return [
        of_network(1000, (10, 64, 64, 64, 1), "tanh", device),
        of_network(64, (100, 128, 128, 128, 1), "tanh", device, leave_out=("compile", "jax")),
        of_network(256, (1000, 256, 256, 1), "tanh", device, directions=16),
        of_network(1000, (2, 64, 64, 64, 1), "tanh", device, torch.float64),
        of_network(1000, (3, 256, 256, 256, 1), "silu", device, torch.float64),
    ]
