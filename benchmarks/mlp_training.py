"""How long does a training step of an MLP take: forward, loss and the gradients of the weights?"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from .harness import Case, Step, gradients
from .providers import needs_autograd, network, normal

UP_AND_DOWN = {"cpu": (768, 3072, 768), "cuda": (1024, 4096, 1024)}  # widths
EVEN = (512, 512, 512, 512)
BATCH = {"cpu": 512, "cuda": 4096}
SMOKE = (8, 16, 8)


def cases(device: str, smoke: bool) -> list[Case]:
    """GELU in float32, by layers and by fusegrad.MLP; its tanh form in bfloat16, tanh in float64."""
    batch, wide, even = (8, SMOKE, SMOKE) if smoke else (BATCH[device], UP_AND_DOWN[device], EVEN)
    return [
        _case(batch, wide, "gelu", torch.float32, device),
        _case(batch, wide, "gelu", torch.float32, device, as_one=True),
        _case(batch, wide, "gelu_tanh", torch.bfloat16, device),
        _case(batch, even, "tanh", torch.float64, device),
    ]


def _case(batch: int, widths: tuple[int, ...], act: str, like: torch.dtype, device: str, as_one: bool = False) -> Case:
    name = f"train {'MLP ' * as_one}{'→'.join(map(str, widths))} {act}, batch {batch}"
    return Case(name, like, partial(_build, batch, widths, act, like, device, as_one))


def _build(
    batch: int,
    widths: tuple[int, ...],
    act: str,
    like: torch.dtype,
    device: str,
    as_one: bool,
    provider: str,
    dtype: torch.dtype,
) -> Step:
    needs_autograd(provider)
    model, parameters = network(provider, widths, act, device, like=like, dtype=dtype, as_one=as_one)
    x = normal(batch, widths[0], seed=1, like=like, dtype=dtype, device=device)
    target = normal(batch, widths[-1], seed=2, like=like, dtype=dtype, device=device)
    return training(model, parameters, x, target)


def training(
    model: Callable[[torch.Tensor], torch.Tensor],
    parameters: Sequence[torch.Tensor],
    x: torch.Tensor,
    target: torch.Tensor,
) -> Step:
    """A step of training on a mean square."""

    def step() -> tuple[torch.Tensor, ...]:
        for p in parameters:
            p.grad = None
        loss = F.mse_loss(model(x), target)
        loss.backward()
        return loss.detach(), *gradients(parameters)

    return Step(step, (x, target, *parameters))
