"""The shapes of code in which people write a layer and its activation, and what of each runs fused.

Each file of this folder is a table of small models. test_shapes_of_code.py runs over them all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cases import DEVICE

D = 8  # features
ROWS = 12  # more than D: a scale is taken into the weights only then
SHAPES: dict[str, "Shape"] = {}
MAKES_IT_ONE = ": if it is elementwise, fg.activation makes it one"


@dataclass(frozen=True)
class Shape:
    """A way to write a model."""

    make: Callable[[], nn.Module]
    fused: int  # how many calls of layers run as one op with what follows them
    alone: Mapping[str, str] = field(default_factory=dict)  # layers that an activation follows, and why they are alone
    untaken: tuple[str, ...] = ()  # layers that only a branch fuses, which is not taken
    error: float = 1e-9
    compiled: bool = False  # whether it is compiled too

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().to(DEVICE, torch.float64).eval()

    def arguments(self) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        count = self.model().forward.__code__.co_argcount - 1
        return tuple(torch.randn(ROWS, D).to(DEVICE, torch.float64).requires_grad_() for _ in range(count))


def shape(fused: int, alone: Mapping[str, str] | None = None, name: str = "", **options):
    """Makes a shape of a class of modules, or of a function that makes one."""

    def enter(make):
        key = name or make.__name__.replace("_", " ")
        assert key not in SHAPES, key
        SHAPES[key] = Shape(make, fused, alone or {}, **options)
        return make

    return enter


def forward(base: type[nn.Module], fused: int, alone: Mapping[str, str] | None = None, **options):
    """Makes a shape of a forward, of a class derived from `base`."""

    def enter(f):
        cls = type(f.__name__, (base,), {"forward": f, "__module__": f.__module__})
        shape(fused, alone, **options)(cls)
        return f

    return enter
