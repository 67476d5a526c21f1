"""What was read is compared once with what the model computes, and believed from then on; or never."""

import pytest
import torch
from by_nested import nested, same
from reading_models import READ, AddsInPlace, Base, Method
from torch import nn

import fusegrad as fg
from fusegrad import backends
from fusegrad.operators import evaluate
from fusegrad.operators.steps import Steps

from cases import DEVICE

pytestmark = pytest.mark.skipif(backends.node is None or DEVICE != "cpu", reason="there are no C++ nodes")


@pytest.fixture
def runs(monkeypatch):
    """Grows by one with each run of a model as it is."""
    found, run = [], evaluate._evaluate
    monkeypatch.setattr(evaluate, "_evaluate", lambda *args: found.append(1) or run(*args))
    return found


def points():
    return torch.rand(7, 3, dtype=torch.float64)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("cls", READ, ids=lambda cls: cls.__name__)
def test_a_model_is_compared_once(cls, dtype, runs):
    torch.manual_seed(0)
    model, x = cls().to(dtype), points().to(dtype)
    for _ in range(4):
        same(fg.laplacian(model, x), nested(model, x), rtol=1e-4, atol=1e-4)
    assert len(runs) == 1


class Straight(Base):
    """Of which second derivatives are zero, and have no directions."""

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.last(h + torch.relu(self.b(h)))


@pytest.mark.parametrize("order", (2, 3, 4))
def test_what_is_zero_is_compared_too(order, runs):
    model, x, v = Straight().double(), points(), points()
    for _ in range(2):
        assert not fg.directional(model, x, v, order=order)[order].any()
    assert len(runs) == 1
    for call in (fg.laplacian, fg.hessian_diagonal):
        model = Straight().double()
        for _ in range(2):
            found = call(model, x)
            assert not (found.laplacian if call is fg.laplacian else found).any()


class Another(Base):
    def forward(self, x):
        h = torch.tanh(self.weight * self.a(x))
        if self.depth == 2:
            h = h + torch.sin(self.b(h))
        return self.last(h * h)


def test_numbers_may_change_and_steps_are_compared_again(runs):
    model = Another().double()
    for i in range(5):
        model.weight = 0.1 * i + 0.2
        same(fg.laplacian(model, x := points()), nested(model, x))
    assert len(runs) == 1
    model.depth = 2
    for _ in range(3):
        same(fg.laplacian(model, x := points()), nested(model, x))
    assert len(runs) == 2
    other = Another().double()
    for m in (other, lambda x: other(x)):
        fg.laplacian(m, points())
    assert len(runs) == 4


BROKEN = {
    "another activation": ("act", lambda act: lambda self, a, name, param: act(self, a, "sin", 1.0)),
    "another feature": ("taken", lambda taken: lambda self, a, of: taken(self, a, range(1))),
    "no shift": ("joined", lambda joined: lambda self, kind, a, b: joined(self, "mul", a, b)),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("cls", (Method, AddsInPlace, Another))
def test_what_is_read_wrong_is_never_used(what, cls, monkeypatch, runs):
    name, broken = BROKEN[what]
    monkeypatch.setattr(Steps, name, broken(getattr(Steps, name)))
    model = cls().double()
    for _ in range(6):
        same(fg.laplacian(model, x := points()), nested(model, x))


def test_a_result_that_is_constant_proves_nothing(runs):
    model = Another().double()
    nn.init.zeros_(model.last.weight)
    for _ in range(3):
        fg.laplacian(model, points())
    assert len(runs) == 3
    nn.init.ones_(model.last.weight)
    for _ in range(3):
        same(fg.laplacian(model, x := points()), nested(model, x))
    assert len(runs) == 4


def test_nan_is_no_difference(runs):
    model, x = Another().double(), points()
    x[2, 1] = torch.nan
    for _ in range(3):
        fg.laplacian(model, x)
    assert len(runs) == 1
