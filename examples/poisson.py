"""A square membrane under a uniform pressure, at rest (Poisson) and shaken (Helmholtz).

    Δu + k² u = -1 in the unit square,  u = 0 on its edge

Lengths are in units of the edge, u in units of p L² / T (pressure, edge, tension), and k = ω L / c is the frequency:
0 at rest, and 8 between the resonances of the modes (1, 1) at 4.4 and (1, 3) at 9.9. The exact solution is a series,

    u = Σ 16 sin(mπx) sin(nπy) / (π² m n (π² (m² + n²) - k²)),  m and n odd.

The network is multiplied by x (1 - x) y (1 - y), so that the edge is exact. Float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from side_by_side import Side, adam, run, train

KS = {"Poisson": 0.0, "Helmholtz": 8.0}


class Membrane(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        hidden = [layer for _ in range(2) for layer in (nn.Linear(48, 48), nn.Tanh())]
        self.net = nn.Sequential(nn.Linear(2, 48), nn.Tanh(), *hidden, nn.Linear(48, 1))

    def forward(self, p: Tensor) -> Tensor:
        edge = (p * (1 - p)).prod(-1, keepdim=True)
        return edge * self.net(4 * p - 2)


def stock(k: float, model: nn.Module) -> Tensor:
    p = torch.rand(1024, 2).requires_grad_()
    u = model(p)
    (du,) = grad(u.sum(), p, create_graph=True)
    laplacian = sum(grad(du[:, i].sum(), p, create_graph=True)[0][:, i] for i in range(2))
    return (laplacian + k * k * u.squeeze(1) + 1).square().mean()


def fused(k: float, model: nn.Module) -> Tensor:
    r = fg.laplacian(model, torch.rand(1024, 2))
    return (r.laplacian + k * k * r.value + 1).square().mean()


def grid(n: int = 101) -> Tensor:
    return torch.cartesian_prod(*[torch.linspace(0, 1, n)] * 2)


def exact(k: float, p: Tensor) -> Tensor:
    odd = torch.arange(1, 200, 2, dtype=torch.float64)
    x, y = (torch.sin(torch.pi * odd * p.double()[:, i : i + 1]) for i in range(2))
    m, n = odd[:, None], odd
    amplitude = 16 / (torch.pi**2 * m * n * (torch.pi**2 * (m**2 + n**2) - k**2))
    return torch.einsum("pm,mn,pn->p", x, amplitude, y)


def error(k: float, model: nn.Module) -> float:
    """In u, relative, root mean square."""
    with torch.no_grad():
        u = exact(k, grid())
        return ((model(grid()).squeeze(1) - u).norm() / u.norm()).item()


def main(steps: int = 1000) -> list[Side]:
    done = []
    for name, k in KS.items():
        losses: dict[str, Callable[[nn.Module], Tensor]] = {"stock": partial(stock, k), "fused": partial(fused, k)}
        models = {"stock": Membrane(), "fused": fg.fuse(Membrane())}
        sides = [adam(side, models[side], losses[side], steps) for side in losses]
        done += train(name, sides, steps, partial(error, k))
    return done


def draw(axes: Any, sides: list[Side]) -> None:
    for ax, name, side in zip(axes, KS, sides[1::2], strict=False):
        with torch.no_grad():
            u = side.model(grid()).reshape(101, 101)
        image = ax.imshow(
            u.T, extent=(0, 1, 0, 1), origin="lower", cmap="RdBu", vmin=-u.abs().max(), vmax=u.abs().max()
        )
        ax.set_title(f"{name}: u, k = {KS[name]:g}")
        ax.figure.colorbar(image, ax=ax)


if __name__ == "__main__":
    run(main, draw)
