"""Burgers' equation: a wave that steepens into a shock, against the solution of Cole and Hopf.

    u_t + u u_x = ν u_xx,  u(x, 0) = -sin(πx),  u(±1, t) = 0,  x in [-1, 1], t in [0, 1]

Lengths are in units of half the interval, velocities in units of the first wave's height, and ν = 0.1 / π is 1 / (the
Reynolds number). The exact solution is a ratio of integrals of Gaussians (Cole 1951), here of 100 nodes by Gauss and
Hermite. The network is multiplied by t (1 - x²) and added to the first wave, so that edge and start are exact. Float32.

One Laplacian gives all that the equation needs: along √ν x, with a drift against t, the first derivative √ν u_x and
the second-order ν u_xx - u_t.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from side_by_side import Side, adam, run, train

NU = 0.1 / math.pi
ALONG_X, AGAINST_T = torch.tensor([[NU**0.5], [0.0]]), torch.tensor([0.0, -1.0])


class Wave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        hidden = [layer for _ in range(3) for layer in (nn.Linear(32, 32), nn.Tanh())]
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), *hidden, nn.Linear(32, 1))

    def forward(self, p: Tensor) -> Tensor:
        x, t = p.split(1, -1)
        return t * (1 - x * x) * self.net(p) - torch.sin(math.pi * x)


def points() -> Tensor:
    return torch.rand(1500, 2) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])


def stock(model: nn.Module) -> Tensor:
    p = points().requires_grad_()
    u = model(p)
    (du,) = grad(u.sum(), p, create_graph=True)
    u_x, u_t = du.split(1, -1)
    u_xx = grad(u_x.sum(), p, create_graph=True)[0][:, :1]
    return (u_t + u * u_x - NU * u_xx).square().mean()


def fused(model: nn.Module) -> Tensor:
    r = fg.laplacian(model, points(), directions=ALONG_X, drift=AGAINST_T)  # ν u_xx - u_t
    u, u_x = r.value, r.jacobian.squeeze(-1) / NU**0.5
    return (u * u_x - r.laplacian).square().mean()


def exact(x: np.ndarray, t: float) -> np.ndarray:
    if t == 0:
        return -np.sin(np.pi * x)
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    y = x[:, None] - 2 * np.sqrt(NU * t) * nodes
    f = weights * np.exp(-(1 + np.cos(np.pi * y)) / (2 * np.pi * NU))
    return -(f * np.sin(np.pi * y)).sum(1) / f.sum(1)


def at(model: nn.Module, x: np.ndarray, t: float) -> np.ndarray:
    with torch.no_grad():
        p = torch.from_numpy(np.stack((x, np.full_like(x, t)), 1)).float()
        return model(p).squeeze(1).numpy()


X, TIMES = np.linspace(-1, 1, 401), np.linspace(0, 1, 21)


def error(model: nn.Module) -> float:
    """In u, relative, root mean square."""
    truth = np.stack([exact(X, t) for t in TIMES])
    return float(np.linalg.norm(np.stack([at(model, X, t) for t in TIMES]) - truth) / np.linalg.norm(truth))


def main(steps: int = 1000) -> list[Side]:
    sides = [adam("stock", Wave(), stock, steps, 5e-3), adam("fused", fg.fuse(Wave()), fused, steps, 5e-3)]
    return train("Burgers", sides, steps, error)


def draw(axes: Any, sides: list[Side]) -> None:
    u = np.stack([at(sides[-1].model, X, t) for t in TIMES])
    image = axes[0].imshow(u.T, extent=(0, 1, -1, 1), origin="lower", aspect="auto", cmap="RdBu")
    axes[0].set(title="u", xlabel="t", ylabel="x")
    axes[0].figure.colorbar(image, ax=axes[0])
    for t, colour in ((0, "tab:blue"), (0.25, "tab:green"), (1, "tab:red")):
        axes[1].plot(X, exact(X, t), color=colour, label=f"t = {t:g}")
        axes[1].plot(X[::8], at(sides[-1].model, X, t)[::8], ".", color=colour, markersize=4)
    axes[1].set(title="exact (lines), fused (dots)", xlabel="x")
    axes[1].legend()


if __name__ == "__main__":
    run(main, draw)
