"""Networks of graphs, of PyTorch Geometric: a node adds up its neighbours, and goes through a few layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .model import Model, Size

REAL = Size(64, 300, 4)
SMALL = Size(16, 20, 3)
CLASSES = 7


def _graph(size: Size) -> list[Tensor]:
    """The features of nodes, and edges between them: so many a node."""
    return [torch.randn(size.batch, size.width), torch.randint(0, size.batch, (2, size.length * size.batch))]


def _network(cls: str, **options: Any) -> Callable[[Size], nn.Module]:
    def build(size: Size) -> nn.Module:
        import torch_geometric

        return getattr(torch_geometric.nn, cls)(size.width, size.width, 3, out_channels=CLASSES, **options)

    return build


def _before_norms(model: nn.Module) -> list[Tensor]:
    """All gradients but those of biases that a norm subtracts again."""
    named = model.named_parameters()
    return [p.grad for name, p in named if p.grad is not None and not (".lins." in name and name.endswith(".bias"))]


def _model(name: str, build: Callable[[Size], nn.Module], followed: int, **more: Any) -> Model:
    return Model("torch_geometric", name, build, _graph, REAL, SMALL, followed, linears=("Linear",), **more)


MODELS = [
    _model("GIN", _network("GIN"), 3),
    _model("GIN, batch norm", _network("GIN", norm="batch_norm"), 0, gradients=_before_norms),
    _model("EdgeCNN", _network("EdgeCNN"), 3),
]
