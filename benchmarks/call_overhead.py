"""How long does a call take when there is next to nothing to compute?"""

from functools import partial

import torch

from .harness import Case, Step
from .providers import linear_act, needs_autograd, normal

SIZES = (32, 8)  # x, w and what they make are square
SMOKE_SIZES = (4,)
ACT = "tanh"
MODES = ("no grad", "forward", "forward+backward")


def cases(device: str, smoke: bool) -> list[Case]:
    """Without gradients, with what a later backward needs, and with that backward."""
    sizes = SMOKE_SIZES if smoke else SIZES
    return [
        Case(f"{mode} {n}×{n} {ACT}", torch.float32, partial(_build, mode, n, device)) for n in sizes for mode in MODES
    ]


def _build(mode: str, n: int, device: str, provider: str, dtype: torch.dtype) -> Step:
    if mode != "no grad":
        needs_autograd(provider)
    like = torch.float32
    x, w, gy = (normal(n, n, seed=i, like=like, dtype=dtype, device=device) for i in range(3))
    b = normal(n, seed=3, like=like, dtype=dtype, device=device)
    for t in (w, b):
        t.requires_grad_(mode != "no grad")  # torch.no_grad() would itself cost 1 us
    layer = linear_act(provider, ACT, device)

    def forward() -> tuple[torch.Tensor, ...]:
        return (layer(x, w, b),)

    def forward_and_backward() -> tuple[torch.Tensor, ...]:
        y = layer(x, w, b)
        return y, *torch.autograd.grad(y, (w, b), gy)

    return Step(forward_and_backward if mode == "forward+backward" else forward, (x, w, b, gy))
