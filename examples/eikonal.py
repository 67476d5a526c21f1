"""A field of signed distances, learned from points of a surface and their normals alone.

    |∇f| = 1 in space,  f = 0 and ∇f = n on the surface

Implicit geometric regularisation (Gropp et al. 2020), with softplus of beta 100 and a start that is near the distance
to a sphere (Atzmon and Lipman 2020). The surface is a torus of radii 0.6 and 0.25 in the cube [-1, 1]³: there the
distance is known, √((√(x² + y²) - 0.6)² + z²) - 0.25. Float32.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from side_by_side import Side, adam, run, train

MAJOR, MINOR = 0.6, 0.25
WIDTH, POINTS = 96, 1000


def distance(p: Tensor) -> Tensor:
    ring = p[..., :2].norm(dim=-1) - MAJOR
    return torch.hypot(ring, p[..., 2]) - MINOR


def surface(n: int) -> tuple[Tensor, Tensor]:
    """Points and normals."""
    a, b = (2 * math.pi * torch.rand(2, n)).unbind()
    outward = torch.stack((a.cos(), a.sin(), 0 * a), 1)
    normal = b.cos()[:, None] * outward + b.sin()[:, None] * torch.tensor([0.0, 0.0, 1.0])
    return MAJOR * outward + MINOR * normal, normal


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for k in (3, WIDTH, WIDTH):
        layer = nn.Linear(k, WIDTH)
        nn.init.normal_(layer.weight, 0, math.sqrt(2 / WIDTH))
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Softplus(100)]
    last = nn.Linear(WIDTH, 1)
    nn.init.normal_(last.weight, math.sqrt(math.pi / WIDTH), 1e-5)
    nn.init.constant_(last.bias, -0.5)
    return nn.Sequential(*layers, last)


def loss(model: nn.Module) -> Tensor:
    """The same for both: first derivatives are what fused layers do by themselves."""
    on, normal = surface(POINTS)
    p = torch.cat((on, 2 * torch.rand(POINTS, 3) - 1)).requires_grad_()
    f = model(p)
    (df,) = grad(f.sum(), p, create_graph=True)
    eikonal = (df[POINTS:].norm(dim=1) - 1).square().mean()
    return f[:POINTS].abs().mean() + (df[:POINTS] - normal).norm(dim=1).mean() + 0.1 * eikonal


def error(model: nn.Module) -> float:
    """In the distance, root mean square, within the cube."""
    torch.manual_seed(1)
    p = 2 * torch.rand(20000, 3) - 1
    with torch.no_grad():
        return (model(p).squeeze(1) - distance(p)).square().mean().sqrt().item()


def main(steps: int = 500) -> list[Side]:
    sides = [adam("stock", network(), loss, steps), adam("fused", fg.fuse(network()), loss, steps)]
    return train("torus", sides, steps, error)


def draw(axes: Any, sides: list[Side]) -> None:
    line = torch.linspace(-1, 1, 101)
    p = torch.cartesian_prod(line, torch.zeros(1), line).requires_grad_()
    f = sides[-1].model(p)
    (df,) = grad(f.sum(), p)
    levels = torch.arange(-0.2, 1.0, 0.1).tolist()
    shape = (101, 101)
    axes[0].contour(line, line, distance(p).detach().reshape(shape).T, levels, colors="tab:gray", linewidths=0.7)
    axes[0].contour(line, line, f.detach().reshape(shape).T, levels, colors="tab:orange", linewidths=0.7)
    axes[0].contour(line, line, f.detach().reshape(shape).T, [0.0], colors="black")
    axes[0].set(title="f at y = 0: exact (gray), fused", xlabel="x", ylabel="z", aspect="equal")
    axes[1].hist(df.norm(dim=1).numpy(), 60, range=(0.7, 1.3), color="tab:orange")
    axes[1].set(title="|∇f| at y = 0", yticks=[])


if __name__ == "__main__":
    run(main, draw)
