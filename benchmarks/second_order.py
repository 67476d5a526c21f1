"""How long does a step take whose loss contains derivatives of the network?"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad

import fusegrad as fg

from .harness import Case, Step, gradients
from .providers import COMPILE_MODES, Cannot, needs_autograd, network, normal

ACT = "silu"
PINN = (3, 512, 512, 512, 512, 1)  # widths
FORCES = (96, 256, 256, 256, 1)
BATCH = {"cpu": (1024, 4096), "cuda": (16384, 65536)}  # of PINN, of FORCES
SMOKE = (3, 16, 16, 1)
SMOKE_BATCH = (8, 8)


Loss = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]


def cases(device: str, smoke: bool) -> list[Case]:
    """A PDE with a Laplacian, by nested autograd, and training on forces F = -dE/dx; ours after fuse."""
    pinn, forces = SMOKE_BATCH if smoke else BATCH[device]
    return [
        _case("Laplacian PINN", pinn_loss, pinn, SMOKE if smoke else PINN, device),
        _case("force training", force_loss, forces, SMOKE if smoke else FORCES, device),
    ]


def pinn_loss(
    model: Callable[[Tensor], Tensor],
    x: Tensor,  # (batch, d)
    f: Tensor,  # (batch, d); its first column is the right-hand side
) -> Tensor:
    """The residual of Δu + u = f, with the Laplacian as the trace of the Hessian."""
    u = model(x)
    (du,) = grad(u.sum(), x, create_graph=True)
    laplacian = sum(grad(du[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1]))
    return F.mse_loss(laplacian + u[:, 0], f[:, 0])


def force_loss(
    model: Callable[[Tensor], Tensor],
    x: Tensor,  # (batch, d)
    target: Tensor,  # (batch, d), forces
) -> Tensor:
    """Energies of zero and given forces, F = -dE/dx."""
    energy = model(x)
    (dx,) = grad(energy.sum(), x, create_graph=True)
    return energy.square().mean() + F.mse_loss(-dx, target)


def _case(name: str, loss: Loss, batch: int, widths: tuple[int, ...], device: str) -> Case:
    name = f"{name} {'→'.join(map(str, widths))} {ACT}, batch {batch}"
    return Case(name, torch.float32, partial(_build, loss, batch, widths, device))


def _build(loss: Loss, batch: int, widths: tuple[int, ...], device: str, provider: str, dtype: torch.dtype) -> Step:
    needs_autograd(provider)
    if provider == "quack":
        raise Cannot("its rules cannot be differentiated")
    like = torch.float32
    ours = provider == "fusegrad"
    model, parameters = network("stock" if ours else provider, widths, ACT, device, like=like, dtype=dtype)
    if ours:
        assert isinstance(model, torch.nn.Module)
        fg.fuse(model)
    x = normal(batch, widths[0], seed=1, like=like, dtype=dtype, device=device).requires_grad_()
    target = normal(batch, widths[0], seed=2, like=like, dtype=dtype, device=device)

    if provider in COMPILE_MODES:  # what stops it stops it here too, before Inductor has spent its time
        stock, _ = network("stock", widths, ACT, device, like=like, dtype=dtype)
        loss(torch.compile(stock, backend="aot_eager"), x, target).backward()

    def step() -> tuple[Tensor, ...]:
        for p in (x, *parameters):
            p.grad = None
        value = loss(model, x, target)
        value.backward()
        return value.detach(), *gradients(parameters)

    return Step(step, (x, target, *parameters))
