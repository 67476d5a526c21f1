"""A model whose rows depend on each other is refused by derivative operators, whenever it comes to do so."""

import pytest
import torch
from operator_models import Sine, points
from torch import nn
from torch.testing import assert_close

import fusegrad as fg

MIXES = {
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double(),
    "mean": lambda: lambda x: x.sin() - x.mean(0),
    "attention": lambda: lambda x: torch.softmax(x @ x.T, -1) @ x,
    "one row": lambda: lambda x: x[:1] * x,
    "sum of rows before": lambda: lambda x: x.cumsum(0),
    "Function": lambda: lambda x: Sine.apply(x) * x.mean(0),
}


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("rows", (2, 7))
@pytest.mark.filterwarnings("ignore:.*nested derivatives")
def test_models_that_mix_rows_are_refused(name, rows):
    f = MIXES[name]()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"other rows|statistics of all rows"):
            fg.laplacian(f, points(rows, 3))


class MixesLater(nn.Module):
    """Rows are apart, until something is set: then one function more is called, or the same of another dimension."""

    dim, centred = -1, False

    def __init__(self):
        super().__init__()
        self.first, self.last, self.runs = nn.Linear(3, 8), nn.Linear(8, 1), 0

    def forward(self, x):
        self.runs += 1
        h = torch.tanh(self.first(x)).softmax(dim=self.dim)
        return self.last(h - h.mean(0) if self.centred else h)

    def by_function(self, x):
        return Sine.apply(self(x))


@pytest.mark.parametrize("name, value", [("centred", True), ("dim", 0)])
@pytest.mark.parametrize("method", ("forward", "by_function"))
@pytest.mark.filterwarnings("ignore:.*nested derivatives")
def test_models_that_mix_rows_later_are_refused(method, name, value):
    model = MixesLater().double()
    of = lambda: fg.laplacian(getattr(model, method), points(5, 3)).laplacian
    before = of()
    setattr(model, name, value)
    for _ in range(2):
        with pytest.raises(ValueError, match="other rows"):
            of()
    delattr(model, name)
    assert_close(of(), before)


def test_a_dimension_is_no_number_of_points():
    """Where there are as many points as the number of a dimension, this is told apart all the same."""
    model, x = MixesLater().double(), points(2, 3).unsqueeze(0)
    model.dim = 2
    for _ in range(2):  # the way of a run that is watched, and of one that is not
        fg.laplacian(model, x)
    model.dim = 1
    with pytest.raises(ValueError, match="other rows"):
        fg.laplacian(model, x)


def test_a_model_is_asked_once_on_each_way():
    """Another number of points is no other way, nor is a number that is computed with."""
    model = MixesLater().double()
    f = lambda x: model(x).reshape(-1, 1, 1).squeeze(1) * model.runs
    runs = []
    for n in (5, 5, 5, 6, 7):
        fg.laplacian(f, points(n, 3))
        runs.append(model.runs)
    assert runs[2:] == [runs[1] + k for k in (1, 2, 3)]
