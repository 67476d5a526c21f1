"""explain gives reasons that one can act on."""

import pytest
import torch
from conftest import SMALL
from test_forwards import Base
from torch import nn

import fusegrad as fg
from fusegrad import backends, routing

from cases import DEVICE
from shapes import MAKES_IT_ONE


class Odd(nn.Module):
    def forward(self, z):
        return z.abs().log1p() * z


class Trained(Odd):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))


def odd(z):
    return z.abs().log1p() * z


def of_two(z, size):
    return z.expand(size, 4)


def whys(forward, **held):
    model = type("Net", (Base,), {"forward": forward})()
    for name, value in held.items():
        setattr(model, name, value)
    return {row.layer: row.why for row in fg.explain(fg.fuse(model))}


def test_what_may_become_an_activation_is_told_so():
    told = whys(lambda self, x: self.act(self.a(x)) + self.f(self.b(x)), act=Odd(), f=odd)
    assert told["a"] == f"followed by Odd, which is no activation of fusegrad{MAKES_IT_ONE}"
    assert told["b"] == f"read by f, which begins with no activation of fusegrad{MAKES_IT_ONE}"
    told = whys(lambda self, x: self.act(self.a(x)) + self.f(self.b(x), 3), act=Trained(), f=of_two)
    assert told["a"] == "followed by Trained, which is no activation of fusegrad"
    assert told["b"] == "read by f, which begins with no activation of fusegrad"


@pytest.mark.skipif(backends.extension is None or DEVICE != "cpu", reason="no limits")
def test_limits_on_rows_are_named(monkeypatch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(64, 64) for _ in range(3))
            self.slope, self.taken = nn.Parameter(torch.ones(1)), False

        def forward(self, x):
            return torch.tanh(self.a(x)), torch.tanh(self.slope * self.b(x)), self.last(x)

        def last(self, x):
            return torch.tanh(self.c(x)) if self.taken else self.c(x)

    scale = "ran alone: the scale is taken into the weight from 64 rows on"
    told = lambda rows: [row.why for row in fg.explain(fg.fuse(Net()), torch.ones(rows, 64))]
    assert told(63) == ["", scale, ""] and told(64) == ["", "", ""]
    for limit, value in SMALL.items():
        monkeypatch.setattr(routing, limit, value)
    assert told(1) == 3 * ["ran alone: of 1 row it is as fast"]


class Adapted(nn.Module):
    """As peft has it."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer, self.lora_a, self.lora_b = layer, nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x, *args, **kwargs):
        return self.base_layer(x, *args, **kwargs) + self.lora_b(self.lora_a(x))


def test_adapters_are_to_be_merged(monkeypatch):
    model = fg.fuse(nn.Sequential(Adapted(nn.Linear(4, 4)), nn.Tanh()))
    assert "merge" not in str(fg.explain(model))
    monkeypatch.setattr(Adapted, "__module__", "peft.tuners.lora.layer")
    model = fg.fuse(fg.unfuse(model))
    merge = "merge it, by merge_and_unload of peft"
    assert [row.why for row in fg.explain(model)] == [
        f"an adapter adds to its result: {merge}",
        *2 * [f"of an adapter: {merge}"],
    ]
