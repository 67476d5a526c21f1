"""Training with differential privacy: each sample's gradient is clipped, and noise is added (Abadi et al. 2016).

The gradients of all samples come from torch.func, vmap of grad, as PyTorch's own tutorial has it. The data are
scikit-learn's digits, 1347 to train on and 450 to test. The noise is 1.1 times the clipping norm, with batches of 256.

The error is the share of test images that are wrong: without clipping and noise some 3 % (examples/digits.py). Float32.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

import fusegrad as fg

from side_by_side import Side, run, train

BATCH, CLIP, NOISE, RATE = 256, 1.0, 1.1, 0.5


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, 10))


def digits() -> list[Tensor]:
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    x, x_test, y, y_test = map(torch.as_tensor, split)
    return [x.float(), x_test.float(), y, y_test]


def side(name: str, model: nn.Module, x: Tensor, y: Tensor) -> Side:
    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, x), y)

    of_each = vmap(grad_and_value(loss), in_dims=(None, 0, 0))

    def step() -> Tensor:
        batch = torch.randperm(len(x))[:BATCH]
        grads, losses = of_each(dict(model.named_parameters()), x[batch], y[batch])
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)
        factor = (CLIP / norms).clamp(max=1)
        with torch.no_grad():
            for name, p in model.named_parameters():
                total = torch.tensordot(factor, grads[name], 1) + NOISE * CLIP * torch.randn_like(p)
                p.sub_(RATE / BATCH * total)
        return losses.detach().mean()

    return Side(name, model, step)


def error(x: Tensor, y: Tensor, model: nn.Module) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) != y).float().mean().item()


def main(steps: int = 200) -> list[Side]:
    x, x_test, y, y_test = digits()
    sides = [side("stock", network(), x, y), side("fused", fg.fuse(network()), x, y)]
    return train("per sample", sides, steps, partial(error, x_test, y_test))


def draw(axes: Any, sides: list[Side]) -> None:
    _, x, _, y = digits()
    with torch.no_grad():
        found = sides[-1].model(x).argmax(1)
    counts = torch.zeros(10, 10, dtype=torch.long).index_put_((y, found), torch.tensor(1), accumulate=True)
    axes[0].imshow(counts, cmap="Oranges")
    for i, j in counts.nonzero().tolist():
        axes[0].text(j, i, int(counts[i, j]), ha="center", va="center", fontsize=6)
    axes[0].set(title="test images, fused", xlabel="found", ylabel="digit", xticks=range(10), yticks=range(10))
    wrong = (found != y).nonzero().squeeze(1)[:32]
    sheet = torch.zeros(32, 64)
    sheet[: len(wrong)] = x[wrong]
    axes[1].imshow(sheet.reshape(4, 8, 8, 8).transpose(1, 2).reshape(32, 64), cmap="gray_r")
    axes[1].set(title="what was wrong", xticks=[], yticks=[])


if __name__ == "__main__":
    fg.keep_memory()  # of both sides: the gradients of all samples are 18 MB that come and go
    run(main, draw)
