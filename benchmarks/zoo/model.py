"""What an entry of the zoo has, and the steps that tests and benchmark run: training and inference of one model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Size(NamedTuple):
    """How large a model and its inputs are."""

    width: int  # of the hidden layers, or of what they are a multiple of
    batch: int
    length: int = 1  # tokens of a sample, pixels of a side, atoms


def first(model: nn.Module, *inputs: Tensor) -> Tensor:
    """The model's result, or the first of its results."""
    result = model(*inputs)
    return result if isinstance(result, Tensor) else result[0]


# what adds the same to all that a softmax or a norm sees has a gradient of zero: roundings are all that is left of it
_UNSEEN = ("key.bias", "k_proj.bias", "mlp_tokens.fc2.bias")


def gradients(model: nn.Module) -> list[Tensor]:
    """Those of the parameters that the result depends on.

    Numbers, slopes say, are one tensor: each is a sum over all rows that may cancel, and its error is relative to the
    largest of them.
    """
    parameters = ((p.grad, name) for name, p in model.named_parameters())
    found = [grad for grad, name in parameters if grad is not None and not name.endswith(_UNSEEN)]
    numbers = [grad.flatten() for grad in found if grad.numel() == 1]
    return [grad for grad in found if grad.numel() != 1] + ([torch.cat(numbers)] if numbers else [])


@dataclass(frozen=True)
class Model:
    """A model of a library, with random weights and inputs."""

    library: str  # the name it is imported by
    name: str
    build: Callable[[Size], nn.Module]
    inputs: Callable[[Size], Sequence[Tensor]]
    real: Size  # what is timed
    small: Size  # what is tested
    followed: int  # linear layers whose result goes into an activation, or into a product with one, and nowhere else
    run: Callable[..., Tensor] = first  # (model, *inputs) -> what inference gives
    trained: Callable[..., Tensor] | None = None  # the same -> what training compares with a target, if not that
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model  # what the library does with a model after fuse
    gradients: Callable[[nn.Module], list[Tensor]] = gradients  # what training is for
    twice: bool = False  # training differentiates the model with respect to its inputs, and then to its weights
    forces: bool = False  # inference does too
    float64_error: float = 1e-12  # how far from the truth torch may be in float64, relative to the largest number
    timed: bool = True  # the benchmark's own hooks and modes get along with it
    linears: tuple[str, ...] = ()  # classes that compute x w + b, beside torch.nn.Linear

    def __str__(self) -> str:
        return f"{self.library} {self.name}"


Change = Callable[[nn.Module], Any]


def make(case: Model, size: Size, dtype: torch.dtype, change: Change = lambda model: model) -> nn.Module:
    """The model, the same numbers each time, changed by `change` before the library wraps it."""
    torch.manual_seed(0)
    return case.wrap(change(case.build(size).to(dtype)))


def inputs_of(case: Model, size: Size, dtype: torch.dtype) -> list[Tensor]:
    """The inputs, the same numbers each time."""
    torch.manual_seed(1)
    return [t.to(dtype) if t.is_floating_point() else t for t in case.inputs(size)]


def training(case: Model, model: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """One step of training, without the optimizer's: the loss, and the gradients."""
    run = case.trained or case.run
    model.train()
    torch.manual_seed(2)
    with torch.set_grad_enabled(case.twice):
        y = run(model, *inputs)
    target = torch.randn(y.shape).to(y.dtype)  # the same numbers in each dtype

    def step() -> tuple[Tensor, ...]:
        model.train()
        model.zero_grad()
        loss = F.mse_loss(run(model, *inputs), target)
        loss.backward()
        return loss.detach(), *case.gradients(model)

    return step


def inference(case: Model, model: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """One call of the model in evaluation mode."""

    def step() -> tuple[Tensor, ...]:
        model.eval()
        with torch.set_grad_enabled(case.forces):
            return (case.run(model, *inputs).detach(),)

    return step


def linears(case: Model, model: nn.Module) -> int:
    """How many linear layers a model has."""
    return sum(isinstance(m, nn.Linear) or type(m).__name__ in case.linears for m in model.modules())
