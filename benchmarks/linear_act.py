"""How fast is y = act(x w^T + b), alone and with its gradients?"""

from functools import partial

import torch

from .harness import Case, Step, gradients
from .providers import needs_autograd, network, normal

ACTS = ("gelu_tanh", "gelu", "relu", "silu", "tanh")
# (rows of x, k, n): the up-projection of a transformer's MLP, fewer rows of it, a square, a small batch
UP = {"cpu": (512, 768, 3072), "cuda": (8192, 1024, 4096)}
FEWER = {"cpu": (128, 768, 3072), "cuda": (1024, 1024, 4096)}
SQUARE = {"cpu": (1024, 1024, 1024), "cuda": (4096, 4096, 4096)}
SMALL = {"cpu": (8, 768, 3072), "cuda": (64, 1024, 4096)}
SMOKE = (8, 24, 16)

Shape = tuple[int, int, int]


def cases(device: str, smoke: bool) -> list[Case]:
    """Every activation on one shape, more shapes with one activation, and the other dtype."""
    usual, other = torch.float32, torch.bfloat16
    if device == "cuda":
        usual, other = other, usual
    if smoke:
        grid = [(SMOKE, act, usual) for act in ACTS] + [(SMOKE, "gelu_tanh", other)]
    else:
        grid = [(UP[device], act, usual) for act in ACTS]
        grid += [(shape[device], "gelu_tanh", usual) for shape in (SQUARE, SMALL)]
        grid += [(FEWER[device], "gelu_tanh", other)]
    return [case(backward, *of, device) for backward in (False, True) for of in grid]


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

    return Step(forward_and_backward if backward else forward, (x, w, b, gy))
