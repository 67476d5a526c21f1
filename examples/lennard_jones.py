"""Forces between atoms, learned: a cluster of 13 that attract and repel as Lennard-Jones says.

    E = Σ 4 (r⁻¹² - r⁻⁶) over pairs,  F = -∂E/∂x

In reduced units (ε, σ and the mass are 1). Configurations come from Langevin dynamics at temperature 0.2, from the
icosahedron on. The model is an energy: each atom's is a network of its surroundings, Gaussians of the distances to its
neighbours (Behler and Parrinello 2007). Its forces are the derivative, and the loss is on them. With the learned forces
an atom's motion keeps the true energy. Data in float64, training in float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from side_by_side import Side, adam, run, train

ATOMS, CUTOFF, TEMPERATURE = 13, 4.0, 0.2
OTHERS = torch.tensor([[j for j in range(ATOMS) if j != i] for i in range(ATOMS)])
Forces = Callable[[Tensor], Tensor]


def distances(x: Tensor) -> Tensor:  # (..., atoms, 3) -> (..., atoms, atoms - 1)
    return (x.unsqueeze(-2) - x[..., OTHERS, :]).norm(dim=-1)


def energy(x: Tensor) -> Tensor:
    p = distances(x) ** -6
    return 2 * (p * p - p).sum((-1, -2))


def forces(energy: Callable[[Tensor], Tensor], x: Tensor, create_graph: bool = False) -> Tensor:
    x = x.detach().requires_grad_()
    return -grad(energy(x).sum(), x, create_graph=create_graph)[0]


def icosahedron() -> Tensor:
    golden = (1 + 5**0.5) / 2
    corners: list[tuple[float, ...]] = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    corners = [p[k:] + p[:k] for p in corners for k in range(3)]
    return torch.tensor([(0, 0, 0), *corners], dtype=torch.float64) * 1.08 / (1 + golden**2) ** 0.5


def dynamics(of: Forces, x: Tensor, steps: int, dt: float = 0.005, friction: float = 1.0) -> list[Tensor]:
    """Positions at each step; Verlet's without friction."""
    v, f = TEMPERATURE**0.5 * torch.randn_like(x), of(x)
    keep = torch.tensor(-friction * dt, dtype=x.dtype).exp()
    path = []
    for _ in range(steps):
        v = v + dt / 2 * f
        x = x + dt * v
        f = of(x)
        v = v + dt / 2 * f
        v = keep * v + ((1 - keep * keep) * TEMPERATURE).sqrt() * torch.randn_like(x)
        path.append(torch.stack((x, v)))
    return path


def data(copies: int = 64, steps: int = 600) -> tuple[Tensor, Tensor]:
    """Positions and forces."""
    torch.manual_seed(0)
    path = dynamics(partial(forces, energy), icosahedron().expand(copies, ATOMS, 3), steps)
    x = torch.cat([state[0] for state in path[steps // 5 :: 20]])
    return x.float(), forces(energy, x).float()


class Energy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 1))
        self.register_buffer("centres", torch.linspace(0.9, 3.9, 32))
        self.centres: Tensor

    def forward(self, x: Tensor) -> Tensor:
        r = distances(x).unsqueeze(-1)
        near = 0.5 * torch.cos(torch.pi * r.clamp(max=CUTOFF) / CUTOFF) + 0.5
        return self.net((near * torch.exp(-((r - self.centres) ** 2) / 0.02)).sum(-2)).sum((-1, -2))


def error(x: Tensor, f: Tensor, model: nn.Module) -> float:
    """Of the forces, relative, root mean square, on configurations that were kept apart."""
    return ((forces(model, x) - f).norm() / f.norm()).item()


def main(steps: int = 500) -> list[Side]:
    x, f = data() if steps > 10 else data(8, 50)
    last = len(x) // 5

    def loss(model: nn.Module) -> Tensor:
        batch = torch.randint(len(x) - last, (64,))
        return (forces(model, x[batch], create_graph=True) - f[batch]).square().mean()

    sides = [adam("stock", Energy(), loss, steps, 5e-3), adam("fused", fg.fuse(Energy()), loss, steps, 5e-3)]
    return train("Lennard-Jones", sides, steps, partial(error, x[-last:], f[-last:]))


def draw(axes: Any, sides: list[Side]) -> None:
    model = sides[-1].model
    x, f = data(16, 300)
    axes[0].plot(f.flatten()[::10], forces(model, x).flatten()[::10], ".", color="tab:orange", markersize=1)
    axes[0].plot([-40, 40], [-40, 40], color="tab:gray", linewidth=0.7)
    axes[0].set(title="forces: learned against true", xlim=(-40, 40), ylim=(-40, 40))
    start = icosahedron().float()
    for name, of in (("true forces", partial(forces, energy)), ("learned forces", partial(forces, model))):
        torch.manual_seed(0)
        path = dynamics(of, start, 1500, friction=0.0)
        total = [(energy(x) + v.square().sum() / 2).item() for x, v in path]
        axes[1].plot([0.005 * k for k in range(1500)], total, label=name)
    axes[1].set(title="true energy, potential and kinetic", xlabel="t", ylim=(total[0] - 3, total[0] + 3))
    axes[1].legend()


if __name__ == "__main__":
    run(main, draw)
