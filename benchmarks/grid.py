"""Is any layer slower than with stock torch? Shapes, dtypes, activations, with and without training."""

from itertools import product

import torch

from .harness import Case
from .linear_act import case
from .providers import RIVALS

SECONDS = 0.5  # for each case
# (rows of x, k, n): not those of the other benchmarks
SHAPES = (
    (1, 512, 512),
    (4, 1000, 100),
    (16, 640, 1920),
    (50, 400, 300),
    (100, 100, 100),
    (200, 784, 10),
    (256, 20, 900),
    (333, 333, 333),
    (640, 512, 512),
    (2000, 64, 64),
    (3000, 3, 200),
)
ACTS = ("gelu", "relu", "silu", "tanh", "softplus")
DTYPES = (torch.float32, torch.float64)
SLOW = (torch.bfloat16,)  # stock takes up to 100 times as long on a processor without instructions for it


def cases(device: str, smoke: bool) -> list[Case]:
    """Every combination, and of bfloat16 one activation."""
    grid = [*product(SHAPES, ACTS, DTYPES), *product(SHAPES, ACTS[:1], SLOW)]
    if smoke:
        grid = grid[:2]
    return [
        case(training, shape, act, dtype, device, leave_out=RIVALS)
        for shape, act, dtype in grid
        for training in (False, True)
    ]
