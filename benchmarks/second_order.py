"""How long does a step take whose loss contains derivatives of the network? Ours by nested autograd, after fuse."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from .harness import Case, Step
from .laplacian import training, with_autograd_traced
from .providers import COMPILE_MODES, Cannot, compiled, needs_autograd, normal

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def pinn_loss(model: nn.Module, x: Tensor, f: Tensor) -> Tensor:
    """The residual of Δu + u = f, with the Laplacian as the trace of the Hessian."""
    u = model(x)
    (du,) = grad(u.sum(), x, create_graph=True)
    laplacian = sum(grad(du[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1]))
    return F.mse_loss(laplacian + u[:, 0], f[:, 0])


def force_loss(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Energies of zero and given forces, F = -dE/dx."""
    energy = model(x)
    (dx,) = grad(energy.sum(), x, create_graph=True)
    return energy.square().mean() + F.mse_loss(-dx, target)


def eikonal_loss(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Distances to a surface: given ones, and a gradient of length one."""
    distance = model(x)
    (dx,) = grad(distance.sum(), x, create_graph=True)
    return F.l1_loss(distance, target[:, :1]) + (dx.norm(dim=1) - 1).square().mean()


def critic_loss(model: nn.Module, x: Tensor, other: Tensor) -> Tensor:
    """Of WGAN-GP: samples, others, and the penalty on gradients at x."""
    score = model(x)
    (dx,) = grad(score.sum(), x, create_graph=True)
    return model(other).mean() - score.mean() + 10 * (dx.norm(dim=1) - 1).square().mean()


def hessian_vector(model: nn.Module, x: Tensor, v: Tensor) -> Tensor:
    """What has the product of a Hessian in the weights with a vector of ones as its gradient."""
    gradients = grad(model(x).square().mean(), list(model.parameters()), create_graph=True)
    return torch.stack([g.sum() for g in gradients]).sum()


class Network(NamedTuple):
    widths: tuple[int, ...]
    act: Callable[[], nn.Module]
    name: str  # of the activation

    def build(self) -> nn.Sequential:
        torch.manual_seed(0)
        layers = [part for k, n in pairwise(self.widths) for part in (nn.Linear(k, n), self.act())]
        return nn.Sequential(*layers[:-1])


SHARP = partial(nn.Softplus, beta=100)
CASES: tuple[tuple[str, Loss, int, int, Network], ...] = (  # rows on a CPU, on a GPU
    ("Laplacian PINN", pinn_loss, 1024, 16384, Network((3, 512, 512, 512, 512, 1), nn.SiLU, "silu")),
    ("force training", force_loss, 4096, 65536, Network((96, 256, 256, 256, 1), nn.SiLU, "silu")),
    ("eikonal SDF", eikonal_loss, 1024, 16384, Network((3, *(512,) * 8, 1), SHARP, "softplus 100")),
    (
        "WGAN-GP critic",
        critic_loss,
        256,
        4096,
        Network((784, 256, 256, 1), partial(nn.LeakyReLU, 0.2), "leaky_relu 0.2"),
    ),
    ("Hessian-vector product", hessian_vector, 1000, 16384, Network((64, 128, 128, 10), nn.GELU, "gelu")),
)


def cases(device: str, smoke: bool) -> list[Case]:
    """A PDE with a Laplacian, training on forces, distances, a penalty on gradients, products with a Hessian."""
    found = []
    for name, loss, on_cpu, on_gpu, of in CASES:
        if smoke:
            of = of._replace(widths=(3, 16, 16, of.widths[-1]))
        rows = 8 if smoke else on_cpu if device == "cpu" else on_gpu
        title = f"{name} {'→'.join(map(str, of.widths))} {of.name}, batch {rows}"
        found.append(Case(title, torch.float32, partial(_build, loss, rows, of, device)))
    return found


def _build(loss: Loss, rows: int, of: Network, device: str, provider: str, dtype: torch.dtype) -> Step:
    needs_autograd(provider)
    if provider == "quack":
        raise Cannot("its rules cannot be differentiated")
    model = of.build().to(device, dtype)
    if provider == "fusegrad":
        fg.fuse(model)
    points = partial(normal, rows, of.widths[0], like=torch.float32, dtype=dtype, device=device)
    x, target = points(seed=1).requires_grad_(), points(seed=2)
    step: Callable[[Tensor], Tensor] = lambda x: loss(model, x, target)
    if provider in COMPILE_MODES:
        step = with_autograd_traced(compiled(step, provider))
    return training(step, x, list(model.parameters()))
