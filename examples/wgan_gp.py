"""A generator of handwritten digits: a Wasserstein GAN with a gradient penalty (Gulrajani et al. 2017).

The critic's loss has the norm of its own gradient, (|∇c| - 1)², which backward differentiates again. The data are
scikit-learn's digits: 1797 images of 8 x 8, with values in [0, 1]. Five steps of the critic go with one of the
generator.

The error is a distance of distributions, sliced Wasserstein: the mean over 500 projections of the distance between
sorted generated images and sorted real ones. Two halves of the real images are 0.02 apart. Float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from side_by_side import Side, run, train

NOISE, BATCH, PENALTY = 16, 128, 10.0
REAL = torch.from_numpy(load_digits().data).float() / 16


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.generator = nn.Sequential(
            nn.Linear(NOISE, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid()
        )
        self.critic = nn.Sequential(
            nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1)
        )


def critic_loss(gan: Gan) -> Tensor:
    real = REAL[torch.randint(len(REAL), (BATCH,))]
    with torch.no_grad():
        made = gan.generator(torch.randn(BATCH, NOISE))
    between = torch.lerp(made, real, torch.rand(BATCH, 1)).requires_grad_()
    (slope,) = grad(gan.critic(between).sum(), between, create_graph=True)
    return gan.critic(made).mean() - gan.critic(real).mean() + PENALTY * (slope.norm(dim=1) - 1).square().mean()


def generator_loss(gan: Gan) -> Tensor:
    return -gan.critic(gan.generator(torch.randn(BATCH, NOISE))).mean()


def side(name: str, gan: Any) -> Side:
    parts: list[nn.Module] = [gan.critic, gan.generator]
    optimize = {part: torch.optim.Adam(part.parameters(), 5e-4, (0.5, 0.9)) for part in parts}

    def descend(part: nn.Module, loss_of: Callable[[Gan], Tensor]) -> Tensor:
        gan.requires_grad_(False)
        part.requires_grad_()
        optimize[part].zero_grad()
        loss = loss_of(gan)
        loss.backward()
        optimize[part].step()
        return loss.detach()

    def step() -> Tensor:
        for _ in range(5):
            loss = descend(gan.critic, critic_loss)
        descend(gan.generator, generator_loss)
        return -loss

    return Side(name, gan, step)


def apart(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein distance of two sets of as many images."""
    torch.manual_seed(1)
    along = nn.functional.normalize(torch.randn(64, 500), dim=0)
    return ((a @ along).sort(0).values - (b @ along).sort(0).values).abs().mean().item()


def error(model: Any) -> float:
    torch.manual_seed(1)
    with torch.no_grad():
        return apart(model.generator(torch.randn(len(REAL), NOISE)), REAL)


def main(steps: int = 300) -> list[Side]:
    return train("WGAN-GP", [side("stock", Gan()), side("fused", fg.fuse(Gan()))], steps, error)


def draw(axes: Any, sides: list[Side]) -> None:
    model: Any = sides[-1].model
    with torch.no_grad():
        made = model.generator(torch.randn(40, NOISE))
    for ax, title, images in ((axes[0], "real", REAL[:40]), (axes[1], "generated", made)):
        ax.imshow(images.reshape(5, 8, 8, 8).transpose(1, 2).reshape(40, 64), cmap="gray_r")
        ax.set(title=title, xticks=[], yticks=[])


if __name__ == "__main__":
    run(main, draw)
