"""What the examples share: a training in stock PyTorch and the same in fusegrad, side by side.

Both start from the same seed, are given the same random numbers, and take turns, a step each, so that a busy machine
slows both alike. A time is the median of the steps.

    python examples/poisson.py              prints times, losses, and errors against the known solution
    python examples/poisson.py --plot       also writes poisson.png, where matplotlib is installed
    python examples/poisson.py --steps 50   ends early: for the times
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Side:
    """One of two trainings: the model, what a step does, and what came of it."""

    name: str  # stock or fused
    model: nn.Module
    step: Callable[[], Tensor]  # one step of training; returns the loss
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each step
    error: float = float("nan")


def adam(
    name: str, model: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int, lr: float = 3e-3, decay: float = 0.01
) -> Side:
    """Steps of Adam, with a rate that falls from lr to decay * lr along a cosine."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, decay * lr)

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        schedule.step()
        return value.detach()

    return Side(name, model, step)


def train(problem: str, sides: Sequence[Side], steps: int, error: Callable[[nn.Module], float]) -> list[Side]:
    """Train both, and tell how long it took, and how far from the known solution they ended."""
    for count in range(steps):
        for side in sides:
            torch.manual_seed(count)
            begin = time.perf_counter()
            loss = side.step()
            side.seconds.append(time.perf_counter() - begin)
            side.losses.append(loss.item())
    for side in sides:
        side.error = error(side.model)
        ms = 1e3 * statistics.median(side.seconds)
        print(f"{problem}, {side.name}: {ms:.2f} ms a step, loss {side.losses[-1]:.2e}, error {side.error:.2e}")
    stock, fused = (statistics.median(side.seconds) for side in sides)
    print(f"{problem}: fused is {stock / fused:.2f} times as fast, {steps} steps")
    return list(sides)


def run(main: Callable[..., list[Side]], draw: Callable[[Any, list[Side]], None]) -> None:
    """What an example does as a program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, help="how many steps of training; the default converges")
    parser.add_argument("--plot", action="store_true", help="write a plot beside the program")
    options = parser.parse_args()
    torch.set_num_threads(1)  # networks this small gain nothing by more
    sides = main() if options.steps is None else main(options.steps)
    if options.plot:
        plot(Path(sys.argv[0]).with_suffix(".png"), draw, sides)


def plot(path: Path, draw: Callable[[Any, list[Side]], None], sides: list[Side]) -> None:
    """Three panels: two that the example draws, and the losses against time."""
    try:
        import matplotlib
    except ImportError:
        print("no plot, as matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(9.6, 2.8), layout="constrained")
    draw(axes, sides)
    for side, colour in zip(sides[-2:], ("tab:gray", "tab:orange"), strict=True):
        every = max(1, len(side.losses) // 200)
        ms = statistics.median(side.seconds)
        seconds = [ms * count for count in range(1, len(side.losses) + 1)]
        axes[2].semilogy(seconds[::every], side.losses[::every], color=colour, linewidth=1, label=side.name)
    axes[2].set(title="loss", xlabel="seconds")
    axes[2].legend()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
