"""Gates with a branch on the way to them, which leaves: what was put off is run there, and numbers are stock's."""

import pytest
import torch
from test_put_off import HOOKS, compare, make
from torch import nn

import fusegrad as fg

from models import inputs


def left_before_the_halves(self, x):
    h = self.a(x)
    if self.flag:
        return h * 3
    else:
        h, gate = h.chunk(2, dim=-1)
        return h * torch.sigmoid(gate)


def raised_before_the_second_layer(self, x):
    g = torch.sigmoid(self.a(x))
    if self.flag:
        raise ValueError(f"of shape {g.shape}")
    u = self.b(x)
    return g * u


def left_without_reading(self, x):
    g = self.a(x)
    if self.flag:
        return x
    u = self.b(x)
    y = u * torch.sigmoid(g)
    return y + 1


def read_after_the_gate(self, x):
    g = torch.sigmoid(self.a(x))
    if self.flag:
        return g
    else:
        u = self.b(x)
        y = g * u
    return y + g


def left_between_the_halves(self, x):
    h, gate = self.a(x).chunk(2, dim=-1)
    if self.flag:
        return h
    return h * torch.sigmoid(gate)


@pytest.mark.parametrize("hook", ("", *HOOKS))
@pytest.mark.parametrize("flag", (True, False))
@pytest.mark.parametrize(
    "forward, fused",
    {
        left_before_the_halves: 1,
        raised_before_the_second_layer: 2,
        left_without_reading: 2,
        read_after_the_gate: 1,  # the activation
        left_between_the_halves: 0,
    }.items(),
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_gates_after_a_branch(forward, fused, flag, hook):
    model = compare(make(forward, flag=flag, act=nn.SiLU()), HOOKS.get(hook, lambda m: None))
    if not flag and not hook:
        assert sum(row.ran.fused for row in fg.explain(model, inputs())) == fused
