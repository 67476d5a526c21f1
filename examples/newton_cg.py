"""A network fitted by Newton's method: the Hessian is never written down, only multiplied with vectors.

In each step conjugate gradients solve (H + λ) d = -g with 25 products H v (Martens 2010). A step that lowers the loss
is taken and λ falls; another is not, and λ rises (Levenberg and Marquardt). The function is Franke's, at 1000 points of
the unit square, and the error is that on a grid: the truth is known there. Float64, as such a fit goes far.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from side_by_side import Side, run, train


def franke(p: Tensor) -> Tensor:
    x, y = (9 * p).unbind(-1)
    return (
        0.75 * torch.exp(-((x - 2) ** 2) / 4 - (y - 2) ** 2 / 4)
        + 0.75 * torch.exp(-((x + 1) ** 2) / 49 - (y + 1) / 10)
        + 0.5 * torch.exp(-((x - 7) ** 2) / 4 - (y - 3) ** 2 / 4)
        - 0.2 * torch.exp(-((x - 4) ** 2) - (y - 7) ** 2)
    )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [layer for _ in range(2) for layer in (nn.Linear(32, 32), nn.Tanh())]
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), *hidden, nn.Linear(32, 1)).double()


def conjugate_gradients(product: Callable[[Tensor], Tensor], g: Tensor, count: int) -> Tensor:
    """d with product(d) = -g, or as near as so many products come; stops where the curvature is not positive."""
    d, r = torch.zeros_like(g), -g
    p = r
    for _ in range(count):
        hp = product(p)
        curvature = p @ hp
        if curvature <= 0:
            return d if d.any() else r
        a = (r @ r) / curvature
        d, before = d + a * p, r
        r = r - a * hp
        p = r + (r @ r) / (before @ before) * p
    return d


def side(name: str, model: nn.Module) -> Side:
    torch.manual_seed(1)
    x = torch.rand(1000, 2, dtype=torch.float64)
    y, damping = franke(x), [1e-2]
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]

    def loss() -> Tensor:
        return (model(x).squeeze(1) - y).square().mean() / 2

    def move(d: Tensor) -> None:
        with torch.no_grad():
            for p, part in zip(parameters, d.split(sizes), strict=True):
                p.add_(part.view_as(p))

    def step() -> Tensor:
        before = loss()
        slope = torch.cat([g.flatten() for g in grad(before, parameters, create_graph=True)])

        def product(v: Tensor) -> Tensor:
            parts = grad(slope, parameters, v, retain_graph=True)
            return torch.cat([h.flatten() for h in parts]) + damping[0] * v

        d = conjugate_gradients(product, slope.detach(), 25)
        move(d)
        with torch.no_grad():
            better = bool(loss() < before)
        damping[0] = max(damping[0] / 2, 1e-9) if better else damping[0] * 4
        if not better:
            move(-d)
        return before.detach()

    return Side(name, model, step)


def grid() -> Tensor:
    return torch.cartesian_prod(*[torch.linspace(0, 1, 61, dtype=torch.float64)] * 2)


def error(model: nn.Module) -> float:
    """Root mean square."""
    with torch.no_grad():
        return (model(grid()).squeeze(1) - franke(grid())).square().mean().sqrt().item()


def main(steps: int = 100) -> list[Side]:
    return train("Newton-CG", [side("stock", network()), side("fused", fg.fuse(network()))], steps, error)


def draw(axes: Any, sides: list[Side]) -> None:
    with torch.no_grad():
        found = sides[-1].model(grid()).squeeze(1)
    for ax, title, values in ((axes[0], "fitted", found), (axes[1], "error", found - franke(grid()))):
        image = ax.imshow(values.reshape(61, 61).T, extent=(0, 1, 0, 1), origin="lower", cmap="viridis")
        ax.set_title(title)
        ax.figure.colorbar(image, ax=ax)


if __name__ == "__main__":
    run(main, draw)
