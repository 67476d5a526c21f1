"""What the tests run over: activations with their stock counterpart, and the ways to compute a layer."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fusegrad as fg
from fusegrad.activations import REGISTRY
from fusegrad.activations.formulas import QUICK_K

DEVICE = os.environ.get("FUSEGRAD_TEST_DEVICE", "cpu")
on_cpu = pytest.mark.skipif(DEVICE != "cpu", reason="no GPU takes part")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# what a user of stock torch writes
STOCK: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda z, _: z,
    "relu": lambda z, _: F.relu(z),
    "relu6": lambda z, _: F.relu6(z),
    "relu_squared": lambda z, _: F.relu(z).square(),
    "leaky_relu": lambda z, slope: F.leaky_relu(z, slope),
    "elu": lambda z, alpha: F.elu(z, alpha),
    "selu": lambda z, _: F.selu(z),
    "celu": lambda z, alpha: F.celu(z, alpha),
    "gelu": lambda z, _: F.gelu(z),
    "gelu_tanh": lambda z, _: F.gelu(z, approximate="tanh"),
    "quick_gelu": lambda z, _: z * torch.sigmoid(QUICK_K * z),
    "silu": lambda z, _: F.silu(z),
    "mish": lambda z, _: F.mish(z),
    "softplus": lambda z, beta: F.softplus(z, beta),
    "softsign": lambda z, _: F.softsign(z),
    "sigmoid": lambda z, _: torch.sigmoid(z),
    "logsigmoid": lambda z, _: F.logsigmoid(z),
    "tanh": lambda z, _: torch.tanh(z),
    "tanhshrink": lambda z, _: F.tanhshrink(z),
    "hardswish": lambda z, _: F.hardswish(z),
    "hardsigmoid": lambda z, _: F.relu6(z + 3) / 6,  # F.hardsigmoid cannot be differentiated twice
    "hardtanh": lambda z, _: F.hardtanh(z),
    "sin": lambda z, omega: torch.sin(omega * z),
    "exp": lambda z, _: torch.exp(z),
    "square": lambda z, _: torch.square(z),
}
OTHER_PARAMS = {"leaky_relu": (0.3, 0.0), "elu": (0.5,), "celu": (2.0,), "softplus": (100.0, 0.5), "sin": (30.0,)}


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
