"""How fast is a gated layer, y = act(x w_gate^T) (x w_up^T), alone and with its gradients?"""

from functools import partial

import torch
import torch.nn.functional as F

import fusegrad as fg
from fusegrad.activations import REGISTRY

from .harness import Case, Step, gradients
from .providers import COMPILE_MODES, Cannot, compiled, normal

Shape = tuple[int, int, int]  # rows of x, k, n

# the layer of a small Llama: decoding, a prompt, a batch
SHAPES: dict[str, tuple[tuple[Shape, torch.dtype], ...]] = {
    "cpu": (
        ((1, 768, 2048), torch.float32),
        ((16, 768, 2048), torch.float32),
        ((256, 768, 2048), torch.float32),
        ((256, 896, 4864), torch.float32),
    ),
    "cuda": (
        ((16, 4096, 14336), torch.bfloat16),
        ((8192, 2048, 5632), torch.bfloat16),
        ((8192, 4096, 14336), torch.bfloat16),
        ((4096, 2048, 5632), torch.float32),
    ),
}
ACT = "silu"
OTHER = "gelu"  # on the last shape but one
SMOKE = (8, 24, 16)


def cases(device: str, smoke: bool) -> list[Case]:
    """SwiGLU on some shapes, and GeGLU on one."""
    shapes = SHAPES[device]
    grid = [(SMOKE if smoke else shape, ACT, dtype) for shape, dtype in shapes]
    grid.append((SMOKE if smoke else shapes[-2][0], OTHER, shapes[-2][1]))
    grid = list(dict.fromkeys(grid))
    return [_case(backward, *what, device) for what in grid for backward in (False, True)]


def _case(backward: bool, shape: Shape, act: str, like: torch.dtype, device: str) -> Case:
    m, k, n = shape
    name = f"{'forward+backward' if backward else 'forward'} {m}×{k}→{n} gated {act}"
    return Case(name, like, partial(_build, backward, shape, act, like, device))


def _build(
    backward: bool, shape: Shape, act: str, like: torch.dtype, device: str, provider: str, dtype: torch.dtype
) -> Step:
    if provider in ("mkldnn", "quack"):
        raise Cannot("it has no gated layer")
    m, k, n = shape
    fresh = partial(normal, like=like, dtype=dtype, device=device)
    x, w_gate, w_up, gy = fresh(m, k, seed=1), fresh(n, k, seed=2), fresh(n, k, seed=3), fresh(m, n, seed=4)
    leaves = [x, (w_gate / k**0.5).to(like).to(dtype), (w_up / k**0.5).to(like).to(dtype)]
    leaves = [t.requires_grad_(backward) for t in leaves]
    a = REGISTRY[act]
    f = lambda x, w_gate, w_up: a.functions[0](F.linear(x, w_gate)) * F.linear(x, w_up)
    if provider == "fusegrad":
        f = lambda x, w_gate, w_up: fg.gated(x, w_gate, w_up, act=act)
    elif provider in COMPILE_MODES:
        f = compiled(f, provider)

    def forward() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return (f(*leaves),)

    def forward_and_backward() -> tuple[torch.Tensor, ...]:
        for t in leaves:
            t.grad = None
        y = f(*leaves)
        y.backward(gy)
        return y.detach(), *gradients(leaves)

    return Step(forward_and_backward, (*leaves, gy)) if backward else Step(forward, leaves)
