"""Every transform of PyTorch gives what it gives for stock, through each way of computing a layer."""

import pytest
import torch
from torch.func import functional_call

import fusegrad as fg

from cases import DEFAULTS, Case
from transforms import COMPILED, TRANSFORMS, backward, compiler, forward, func  # noqa: F401  (the last four fill them)


def through_module(case: Case):
    layer = fg.Linear(3, 4, act=case.name, param=case.param, device="meta")
    return lambda x, w, b: functional_call(layer, {"weight": w, "bias": b}, (x,))


ROUTES = {
    "linear_act": lambda case: case.linear_act,
    "act_of_linear": lambda case: lambda x, w, b: fg.act(fg.linear(x, w, b), case.name, case.param),
    "module": through_module,
}
SAMPLE = ("silu", "tanh", "softplus", "relu")


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
@pytest.mark.parametrize("route", ROUTES)
def test_transform(route, case, name):
    TRANSFORMS[name](ROUTES[route](case), case.stock_linear)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("act", SAMPLE)
@pytest.mark.parametrize("route", ROUTES)
def test_compiled_transform(route, act, name):
    COMPILED[name](ROUTES[route](Case(act)), Case(act).stock_linear)


@pytest.mark.parametrize("name", TRANSFORMS | COMPILED)
def test_linear(name):
    (TRANSFORMS | COMPILED)[name](fg.linear, torch.nn.functional.linear)


def test_the_grid_is_whole():
    assert len(TRANSFORMS) + len(COMPILED) >= 48
