"""Ground states of an electron, by the variance of the local energy: an anisotropic oscillator, and hydrogen.

    H ψ = E ψ,  H = -Δ/2 + V

In atomic units (ħ = m = e = 1). V = Σ ω_i² x_i² / 2 with ω = (1, 2, 3), where E = Σ ω_i / 2 = 3; and V = -1/r, where
E = -1/2. The network φ = log ψ has no nodes. Of an eigenstate the local energy

    e(x) = (H ψ)(x) / ψ(x) = -(Δφ + |∇φ|²) / 2 + V(x)

is the same everywhere: its variance under |ψ|² is the loss, and its mean the energy. Points are drawn from a fixed
distribution a little wider than |ψ|², and weighted. Float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from side_by_side import Side, adam, run, train

OMEGA = torch.tensor([1.0, 2.0, 3.0])


class System(NamedTuple):
    potential: Callable[[Tensor], Tensor]
    log_ψ: Callable[[Tensor], Tensor]  # exact
    energy: float
    envelope: Callable[[Tensor], Tensor]  # where the network begins
    draw: Callable[[int], Tensor]  # so many points
    log_density: Callable[[Tensor], Tensor]  # of these, up to a constant


def length(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True).sqrt()


def shell(n: int) -> Tensor:
    """Points of density exp(-1.6 r)."""
    direction = torch.randn(n, 3)
    return direction / length(direction) * torch.empty(n, 3).exponential_(1.6).sum(1, keepdim=True)


SYSTEMS = {
    "oscillator": System(
        potential=lambda x: (OMEGA * x).square().sum(-1, keepdim=True) / 2,
        log_ψ=lambda x: -(OMEGA * x.square()).sum(-1, keepdim=True) / 2,
        energy=3.0,
        envelope=lambda x: -x.square().sum(-1, keepdim=True) / 2,
        draw=lambda n: 0.8 * torch.randn(n, 3),
        log_density=lambda x: -x.square().sum(-1, keepdim=True) / (2 * 0.8**2),
    ),
    "hydrogen": System(
        potential=lambda x: -1 / length(x),
        log_ψ=lambda x: -length(x),
        energy=-0.5,
        envelope=lambda x: -length(x) / 2,
        draw=shell,
        log_density=lambda x: -1.6 * length(x),
    ),
}


class LogPsi(nn.Module):
    """The network sees the distance too, as ψ may have a cusp at the nucleus."""

    def __init__(self, system: System) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.system = system
        self.net = nn.Sequential(nn.Linear(4, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.system.envelope(x) + self.net(torch.cat((x, length(x)), -1))


def stock(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """φ and Δφ + |∇φ|²."""
    x.requires_grad_()
    φ = model(x)
    (dφ,) = grad(φ.sum(), x, create_graph=True)
    second = sum(grad(dφ[:, i].sum(), x, create_graph=True)[0][:, i : i + 1] for i in range(3))
    return φ, second + dφ.square().sum(1, keepdim=True)


def fused(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    r = fg.laplacian(model, x)
    return r.value, r.laplacian + r.jacobian.square().sum(-1)


def energy(system: System, derivatives: Callable, model: nn.Module, n: int = 2000) -> tuple[Tensor, Tensor]:
    """Mean and variance of the local energy."""
    x = system.draw(n)
    φ, second = derivatives(model, x)
    local = system.potential(x.detach()) - second / 2
    weight = (2 * φ - system.log_density(x)).detach().softmax(0)
    mean = (weight * local).sum()
    return mean, (weight * (local - mean).square()).sum()


def error(system: System, model: nn.Module) -> float:
    """Of the energy."""
    torch.manual_seed(1)
    with torch.no_grad():
        return abs(energy(system, fused, model, 20_000)[0].item() - system.energy)


def main(steps: int = 400) -> list[Side]:
    done = []
    for name, system in SYSTEMS.items():
        loss = lambda ways, model, system=system: energy(system, ways, model)[1]
        sides = [
            adam("stock", LogPsi(system), partial(loss, stock), steps),
            adam("fused", fg.fuse(LogPsi(system)), partial(loss, fused), steps),
        ]
        done += train(name, sides, steps, partial(error, system))
    return done


def draw(axes: Any, sides: list[Side]) -> None:
    along = torch.linspace(-3, 3, 121)[:, None]
    for ax, (name, system), side in zip(axes, SYSTEMS.items(), sides[1::2], strict=False):
        for i, colour in ((0, "tab:blue"), (2, "tab:red")):
            x = along * torch.eye(3)[i]
            with torch.no_grad():
                φ = side.model(x) - side.model(torch.zeros(1, 3))
            ax.plot(along, system.log_ψ(x).exp(), color=colour, label=f"along {'xyz'[i]}")
            ax.plot(along[::4], φ.exp()[::4], ".", color=colour)
        ax.set_title(f"{name}: ψ, exact (lines), fused (dots)", fontsize=9)
        ax.legend()


if __name__ == "__main__":
    run(main, draw)
