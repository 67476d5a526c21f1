"""The heat equation on a square plate whose edge is kept cold.

    u_t = u_xx + u_yy,  u(x, y, 0) = sin(πx) sin(πy) + sin(2πx) sin(3πy) / 2,  u = 0 on the edge

Lengths are in units of the edge L, times in units of L² / α (α the thermal diffusivity), t in [0, 0.1]. The exact
solution: each mode (m, n) falls as exp(-π² (m² + n²) t). The network is multiplied by t x (1 - x) y (1 - y) and added
to what is there at the start, so that edge and start are exact. Float32.

One Laplacian gives both sides of the equation: in (a, b), at the origin, that of u(x + a, y + b, t - (a² + b²) / 4) is
u_xx + u_yy - u_t.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from side_by_side import Side, adam, run, train

END = 0.1
MODES = ((1.0, 1, 1), (0.5, 2, 3))  # amplitude, m, n


def exact(p: Tensor) -> Tensor:
    x, y, t = p.split(1, -1)
    wave = lambda m, n: torch.sin(m * math.pi * x) * torch.sin(n * math.pi * y)
    return sum((c * wave(m, n) * torch.exp(-(math.pi**2) * (m * m + n * n) * t) for c, m, n in MODES), 0 * x)


class Plate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        hidden = [layer for _ in range(2) for layer in (nn.Linear(48, 48), nn.Tanh())]
        self.net = nn.Sequential(nn.Linear(3, 48), nn.Tanh(), *hidden, nn.Linear(48, 1))

    def forward(self, p: Tensor) -> Tensor:
        place, t = p[..., :2], p[..., 2:] / END
        edge = (place * (1 - place)).prod(-1, keepdim=True)
        start = exact(torch.cat((place, 0 * t), -1))
        return start + 16 * t * edge * self.net(torch.cat((4 * place - 2, 2 * t - 1), -1))


def points() -> Tensor:
    return torch.rand(1500, 3) * torch.tensor([1.0, 1.0, END])


def stock(model: nn.Module) -> Tensor:
    p = points().requires_grad_()
    (du,) = grad(model(p).sum(), p, create_graph=True)
    second = sum(grad(du[:, i].sum(), p, create_graph=True)[0][:, i] for i in range(2))
    return (du[:, 2] - second).square().mean()


def fused(model: nn.Module) -> Tensor:
    p = points()
    along = lambda a: model(p + torch.cat((a, -a.square().sum(-1, keepdim=True) / 4), -1))
    return fg.laplacian(along, torch.zeros(len(p), 2)).laplacian.square().mean()


def plate(t: float, n: int = 61) -> Tensor:
    return torch.cartesian_prod(*[torch.linspace(0, 1, n)] * 2, torch.tensor([t]))


def error(model: nn.Module) -> float:
    """In u, relative, root mean square."""
    with torch.no_grad():
        p = torch.cat([plate(t * END) for t in (0.1, 0.25, 0.5, 0.75, 1.0)])
        return ((model(p) - exact(p)).norm() / exact(p).norm()).item()


def main(steps: int = 1500) -> list[Side]:
    sides = [adam("stock", Plate(), stock, steps), adam("fused", fg.fuse(Plate()), fused, steps)]
    return train("heat", sides, steps, error)


def draw(axes: Any, sides: list[Side]) -> None:
    with torch.no_grad():
        u = sides[-1].model(plate(END / 10)).reshape(61, 61)
        axes[0].set_title(f"u at t = {END / 10:g}")
        image = axes[0].imshow(u.T, extent=(0, 1, 0, 1), origin="lower", cmap="inferno")
        axes[0].figure.colorbar(image, ax=axes[0])
        t = torch.linspace(0, END, 41)[:, None]
        for x, y, colour in ((0.5, 0.5, "tab:blue"), (0.25, 0.5, "tab:green"), (0.25, 0.15, "tab:red")):
            p = torch.cat((torch.tensor([[x, y]]).expand(len(t), 2), t), 1)
            axes[1].plot(t, exact(p), color=colour, label=f"({x}, {y})")
            axes[1].plot(t[::2], sides[-1].model(p)[::2], ".", color=colour)
    axes[1].set(title="exact (lines), fused (dots)", xlabel="t", ylabel="u")
    axes[1].legend()


if __name__ == "__main__":
    run(main, draw)
