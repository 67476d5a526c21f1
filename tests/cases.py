"""What the tests run over: activations with their stock counterpart, and the ways to compute a layer."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fusegrad as fg
from fusegrad.activations import REGISTRY

DEVICE = os.environ.get("FUSEGRAD_TEST_DEVICE", "cpu")
on_cpu = pytest.mark.skipif(DEVICE != "cpu", reason="no GPU takes part")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# what a user of stock torch writes, of those that are no function of torch's
WRITTEN: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda z, _: z,
    "leaky_relu_in_place": F.leaky_relu,
    "relu_squared": lambda z, _: F.relu(z).square(),
    "quick_gelu": lambda z, _: z * torch.sigmoid(1.702 * z),
    "swish": lambda z, beta: z * torch.sigmoid(beta * z),
    "shifted_softplus": lambda z, _: F.softplus(z) - math.log(2),
    "squareplus": lambda z, b: _squareplus(z, torch.hypot(z, torch.full_like(z, math.sqrt(b))), b),
    "sin": lambda z, omega: torch.sin(omega * z),
    "snake": lambda z, a: z + torch.sin(a * z).square() / a,
    "morlet": lambda z, omega: torch.cos(omega * z) * torch.exp(-z.square() / 2),
    "gaussian": lambda z, _: torch.exp(-z.square()),
    "hardsigmoid": lambda z, _: F.relu6(z + 3) / 6,  # F.hardsigmoid cannot be differentiated twice
}


def _squareplus(z: Tensor, root: Tensor, b: float) -> Tensor:
    """(z + root) / 2, without cancellation."""
    return torch.where(z > 0, z + root, b / (root - z.clamp(max=0))) / 2


def _stock(name: str) -> Callable[[Tensor, float], Tensor]:
    a = REGISTRY[name]
    if name in WRITTEN:
        return WRITTEN[name]
    return lambda z, param: a.functions[0](z, *([param] if a.param else []), **a.options)


STOCK = {name: _stock(name) for name in REGISTRY}
OTHER_PARAMS = {
    "leaky_relu": (0.3, 0.0),
    "leaky_relu_in_place": (0.3, 0.0),
    "elu": (0.5,),
    "celu": (2.0,),
    "softplus": (100.0, 0.5),
    "sin": (30.0,),
    "swish": (-1.7, 0.0),
    "snake": (5.0,),
    "squareplus": (0.1,),
    "morlet": (1.0,),
}


@dataclass(frozen=True)
class Case:
    """An activation with a parameter, None for the default."""

    name: str
    param: float | None = None

    def __str__(self) -> str:
        return self.name if self.param is None else f"{self.name}({self.param:g})"

    @property
    def value(self) -> float:
        return REGISTRY[self.name].default if self.param is None else self.param

    def stock(self, z: Tensor) -> Tensor:
        return STOCK[self.name](z, self.value)

    def stock_linear(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return self.stock(F.linear(x, w, b))

    def linear_act(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return fg.linear_act(x, w, b, act=self.name, param=self.param)


DEFAULTS = [Case(name) for name in REGISTRY]
CASES = DEFAULTS + [Case(name, p) for name, params in OTHER_PARAMS.items() for p in params]


def leaves(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """x (5, 3), w (4, 3), b (4), each a leaf that requires a gradient."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((5, 3), (4, 3), (4,))
    return [torch.randn(s, dtype=torch.float64, generator=g).to(DEVICE, dtype).requires_grad_() for s in shapes]


def plain(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [t.detach() for t in leaves(dtype)]
