"""What torch.compile sees of a fused model: small networks as they are written, others as ops."""

import copy

import pytest
import torch
from torch import nn

import fusegrad as fg
from fusegrad import routing

from cases import DEVICE


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(4, width), nn.Linear(width, width)
        self.act = nn.Softplus()

    def forward(self, x):
        return self.act(self.second(torch.tanh(self.first(x))))


def sequential(width):
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Softplus())


def ops_in(model, x):
    """The names of what a compiler is given, and what it makes of x."""
    names = set()

    def backend(graph, _):
        names.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compiler.reset()
    y = torch.compile(model, backend=backend, fullgraph=True)(x)
    return names, y


@pytest.mark.parametrize("make", (sequential, Net))
@pytest.mark.parametrize("width, small", ((32, True), (600, False)))
def test_small_networks_are_seen_as_they_are_written(make, width, small, monkeypatch):
    monkeypatch.setattr(routing, "SMALL_TO_COMPILERS", 2**18)
    model, x = make(width).to(DEVICE), torch.randn(8, 4, device=DEVICE)
    fused = fg.fuse(copy.deepcopy(model))
    names, y = ops_in(fused, x)
    assert any("fusegrad" in name for name in names) != small
    assert not small or names == ops_in(model, x)[0]
    torch.testing.assert_close(y, model(x))
    assert not any("_fusegrad_small" in vars(m) for m in fg.unfuse(fused).modules())


def test_a_forward_that_is_set_later_is_seen(monkeypatch):
    model, x = fg.fuse(Net(8)).to(DEVICE), torch.randn(2, 4, device=DEVICE)
    monkeypatch.setattr(Net, "forward", lambda self, x: self.first(x) * 3)
    torch.testing.assert_close(ops_in(model, x)[1], 3 * nn.functional.linear(x, model.first.weight, model.first.bias))
