"""How long does a call take when there is next to nothing to compute?"""

from functools import partial
from itertools import product

import torch

from .harness import Case, Step, gradients
from .providers import linear_act, needs_autograd, network, normal

SIZE, SMOKE_SIZE = 32, 4  # x, w and what they make are square
ACT = "tanh"
KINDS = ("module", "function")
MODES = ("no grad", "forward", "forward+backward")


def cases(device: str, smoke: bool) -> list[Case]:
    """As modules and as functions; without gradients, with what a later backward needs, and with that backward."""
    n = SMOKE_SIZE if smoke else SIZE
    return [
        Case(f"{mode} {n}×{n} {ACT}, {kind}", torch.float32, partial(_build, kind, mode, n, device))
        for kind, mode in product(KINDS, MODES)
    ]


def _build(kind: str, mode: str, n: int, device: str, provider: str, dtype: torch.dtype) -> Step:
    if mode != "no grad":
        needs_autograd(provider)
    like = torch.float32
    module, (w, b) = network(provider, (n, n), ACT, device, like=like, dtype=dtype, act_last=True)
    x, gy = (normal(n, n, seed=i, like=like, dtype=dtype, device=device) for i in range(2))
    for t in (w, b):
        t.requires_grad_(mode != "no grad")  # torch.no_grad() would itself cost 1 us
    function = linear_act(provider, ACT) if kind == "function" else None

    def forward() -> tuple[torch.Tensor, ...]:
        return (module(x) if function is None else function(x, w, b),)

    def forward_and_backward() -> tuple[torch.Tensor, ...]:
        w.grad = b.grad = None
        (y,) = forward()
        y.backward(gy)
        return y, *gradients((w, b))

    return Step(forward_and_backward if mode == "forward+backward" else forward, (x, w, b, gy))
