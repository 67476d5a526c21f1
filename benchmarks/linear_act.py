"""How fast is y = act(x w^T + b), alone and with its gradients?"""

from dataclasses import replace
from functools import partial

import torch

from .harness import Case, Step, gradients
from .providers import needs_autograd, network, normal

ACTS = ("gelu_tanh", "gelu", "relu", "silu", "tanh")
# (rows of x, k, n): the up-projection of a transformer's MLP, with every activation
UP = {"cpu": (512, 768, 3072), "cuda": (8192, 1024, 4096)}
USUAL = {"cpu": torch.float32, "cuda": torch.bfloat16}
# with the first activation: a square, few rows, another dtype, on a GPU with its products in tf32 too
MORE: dict[str, tuple[tuple[tuple[int, int, int], torch.dtype, bool], ...]] = {
    "cpu": (
        ((1024, 1024, 1024), torch.float32, False),
        ((8, 768, 3072), torch.float32, False),
        ((128, 768, 3072), torch.bfloat16, False),
    ),
    "cuda": (
        ((16384, 4096, 4096), torch.bfloat16, False),
        ((64, 1024, 4096), torch.bfloat16, False),
        ((4096, 4096, 4096), torch.float32, False),
        ((4096, 4096, 4096), torch.float32, True),
        ((1024, 1024, 4096), torch.float32, False),
    ),
}
SMOKE = (8, 24, 16)

Shape = tuple[int, int, int]


def cases(device: str, smoke: bool) -> list[Case]:
    """Every activation on one shape, more shapes and dtypes with one activation."""
    grid = [(shape, ACTS[0], dtype, tf32) for shape, dtype, tf32 in ((UP[device], USUAL[device], False), *MORE[device])]
    grid += [(UP[device], act, USUAL[device], False) for act in ACTS[1:]]
    if smoke:
        grid = list(dict.fromkeys((SMOKE, act, dtype, tf32) for _, act, dtype, tf32 in grid))
    return [
        replace(
            case(backward, shape, act, dtype, device, leave_out=() if act == ACTS[0] else ("max-autotune",)),
            tf32=tf32,
        )
        for shape, act, dtype, tf32 in grid
        for backward in (False, True)
    ]


def case(
    backward: bool, shape: Shape, act: str, like: torch.dtype, device: str, leave_out: tuple[str, ...] = ()
) -> Case:
    """One layer, without gradients or with all of them."""
    m, k, n = shape
    name = f"{'forward+backward' if backward else 'forward'} {m}×{k}→{n} {act}"
    return Case(name, like, partial(_build, backward, shape, act, like, device), leave_out)


def _build(
    backward: bool, shape: Shape, act: str, like: torch.dtype, device: str, provider: str, dtype: torch.dtype
) -> Step:
    if backward:
        needs_autograd(provider)
    m, k, n = shape
    layer, (w, b) = network(provider, (k, n), act, device, like=like, dtype=dtype, act_last=True)
    x = normal(m, k, seed=1, like=like, dtype=dtype, device=device).requires_grad_(backward)
    gy = normal(m, n, seed=2, like=like, dtype=dtype, device=device)

    def forward() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return (layer(x),)

    def forward_and_backward() -> tuple[torch.Tensor, ...]:
        x.grad = w.grad = b.grad = None
        y = layer(x)
        y.backward(gy)
        return y.detach(), *gradients((x, w, b))

    return Step(forward_and_backward, (x, w, b, gy)) if backward else Step(forward, (x, w, b))
