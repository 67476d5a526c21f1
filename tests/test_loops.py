"""Loops over layers, `for layer in self.layers: x = act(layer(x))`: their turns are one op, and all is as in stock."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrize

import fusegrad as fg
from fusegrad import backends, routing

pytestmark = pytest.mark.skipif(not backends.CHAINS, reason="no extension")
SEEN = []  # what hooks and containers of the tests have to tell


class Net(nn.Module):
    def __init__(self, act=torch.tanh, last=2):
        super().__init__()
        torch.manual_seed(0)
        sizes = [3, 8, 5, 6, last]
        self.layers = nn.ModuleList(nn.Linear(m, n) for m, n in itertools.pairwise(sizes))
        self.act, self.flag = act, False
        self.double()


def over_all_but_the_last(self, x):
    for layer in self.layers[:-1]:
        x = self.act(layer(x))
    return self.layers[-1](x)


def over_numbers(self, x):
    y = x
    for i in range(len(self.layers) - 1):
        y = self.act(self.layers[i](y))
    y = self.layers[-1](y)
    return y


def counted(self, x):
    for j, layer in enumerate(self.layers[:-1]):
        x = self.act[j](layer(x)) if isinstance(self.act, list) else self.act(layer(x))
    x = self.layers[-1](x)
    return x


def over_all(self, x):
    for layer in self.layers:
        x = self.act(layer(x))
    return x.sum(-1)


def read_beside_the_last(self, x):
    for layer in self.layers[:-1]:
        x = self.act(layer(x))
    y = self.layers[-1](x)
    return y.sum() + x


def twice(self, x):
    for layer in self.layers[:2]:
        x = self.act(layer(x))
    for layer in self.layers[2:]:
        x = self.act(layer(x))
    return x


def stopped(self, x):
    for layer in self.layers:
        x = self.act(layer(x))
        if self.flag is not None:
            break
    return x


def of_its_own_input(self, x):
    for layer in self.layers[1:1]:
        y = self.act(layer(y))  # noqa: F821, F841  # which is never reached
    return x


def with_a_skip(self, x):
    for layer in self.layers[1:2]:
        x = self.act(layer(x[..., :1].expand(-1, 8))) + x[..., :1]
    return x


CHAINS = {over_all_but_the_last: [4], over_numbers: [4], counted: [4], over_all: [4], read_beside_the_last: [3]}
CHAINS |= {twice: [2, 2], stopped: [], of_its_own_input: [], with_a_skip: []}


def make(forward, **given):
    return type("Looped", (Net,), {"forward": forward})(**given)


def inputs():
    torch.manual_seed(1)
    return torch.randn(12, 3, dtype=torch.double)


def results(model, x):
    SEEN.clear()
    try:
        y = model(x)
    except (RuntimeError, TypeError):  # which says in other words what does not fit
        return [], [*SEEN]
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not y.requires_grad or not parameters:
        return [y.detach()], [*SEEN]
    return [y, *torch.autograd.grad(y.sin().sum(), parameters, materialize_grads=True, allow_unused=True)], [*SEEN]


def compare(stock, change=lambda m: None):
    """Stock's values, gradients, errors and what it tells; `change` is made in both after fuse."""
    fused = fg.fuse(copy.deepcopy(stock))
    for m in (stock, fused):
        change(m)
    (expected, told), (got, told_by_ours) = results(stock, inputs()), results(fused, inputs())
    assert told == told_by_ours and len(expected) == len(got)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    return fused


ACTS = {"tanh": torch.tanh, "SiLU": nn.SiLU(), "LeakyReLU": nn.LeakyReLU(0.3), "F.silu": F.silu, "F.elu": F.elu}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("forward, chain", CHAINS.items(), ids=lambda f: getattr(f, "__name__", ""))
def test_turns_are_one_op(forward, chain, act, ran):
    fused = compare(make(forward, act=act))
    assert ran == chain
    del ran[:]
    fg.unfuse(fused)(inputs())
    assert ran == []


@pytest.mark.parametrize("forward, chain", CHAINS.items(), ids=lambda f: getattr(f, "__name__", ""))
def test_explain_tells_of_the_layers_of_a_chain(forward, chain, monkeypatch):
    monkeypatch.setattr(routing, "SMALL_LAYER", 2**24)
    monkeypatch.setattr(backends, "node", None)  # else stock serves none
    in_chain = lambda model: [row.backend == "cpu" and row.stock_rows == 0 < row.chain for row in fg.explain(model)]
    model = fg.fuse(make(forward))
    assert in_chain(model) == [k < sum(chain) for k in range(4)]
    model.layers[1].register_forward_hook(_hook)
    assert not any(in_chain(model)[:2]) and not any(in_chain(fg.unfuse(model)))


def test_activations_that_work_in_place_are_part_of_a_chain(ran):
    torch.manual_seed(0)
    layers = nn.Linear(3, 8), nn.ReLU(inplace=True), nn.Linear(8, 5), nn.LeakyReLU(0.2, inplace=True), nn.Linear(5, 2)
    fused = compare(nn.Sequential(*layers).double())
    compare(fg.unfuse(fused))
    assert ran == [3, 3] and type(fused[1]) is nn.ReLU


class Written(nn.ModuleList):
    """Writes to the layers that it gives."""

    def __iter__(self):
        for layer in super().__iter__():
            SEEN.append("gives")
            yield layer
            layer.weight.data.mul_(0.5)

    def __getitem__(self, index):
        return self


def _hook(module, args, output):
    SEEN.append("hook")
    return output * 2


def _parametrize(m):
    parametrize.register_parametrization(m.layers[1], "weight", nn.Tanh())


CHANGES = {
    "a hook": lambda m: m.layers[1].register_forward_hook(_hook),
    "a hook of the activation": lambda m: setattr(m, "act", _hooked_act()),
    "another activation": lambda m: setattr(m, "act", torch.sin),
    "no activation": lambda m: setattr(m, "act", nn.Softmax(-1)),
    "activations that differ": lambda m: setattr(m, "act", [torch.tanh, torch.sin, torch.relu]),
    "another layer": lambda m: m.layers.__setitem__(2, nn.Bilinear(5, 5, 6).double()),
    "a layer that is none": lambda m: m.layers.__setitem__(1, nn.LayerNorm(8).double()),
    "a layer of another width": lambda m: m.layers.__setitem__(1, nn.Linear(7, 5).double()),
    "a forward of its own": lambda m: setattr(m.layers[1], "forward", lambda x: x[..., :5] * 3),
    "a parametrization": _parametrize,
    "no bias": lambda m: setattr(m.layers[1], "bias", None),
    "a frozen layer": lambda m: m.layers[1].requires_grad_(False),
    "all frozen": lambda m: m.requires_grad_(False),
    "a container with side effects": lambda m: setattr(m, "layers", Written(m.layers)),
    "a list": lambda m: vars(m).__setitem__("layers", [*m._modules.pop("layers")]),
}


def _hooked_act():
    act = nn.Tanh()
    act.register_forward_hook(_hook)
    return act


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("forward", (over_all_but_the_last, counted), ids=lambda f: f.__name__)
def test_what_changes_later_is_obeyed(forward, change):
    compare(make(forward), CHANGES[change])


def test_what_is_differentiated_too_runs_one_by_one(ran, monkeypatch):
    monkeypatch.setattr(routing, "CHAIN_OF_DERIVED", False)
    stock = make(over_all_but_the_last)
    fused, x = fg.fuse(copy.deepcopy(stock)), inputs().requires_grad_()
    for order in (1, 2, 3):
        both = []
        for m in (stock, fused):
            g = m(x).sum()
            for _ in range(order):
                (g,) = torch.autograd.grad(g.sum(), x, create_graph=True)
            both.append(g)
        torch.testing.assert_close(both[1], both[0])
    assert ran == []


MODES = {
    "vmap": lambda m, x: vmap(m)(x),
    "functional_call": lambda m, x: functional_call(m, dict(m.named_parameters()), (x,)),
    "one row": lambda m, x: m(x[:1]),
    "float32 under autocast": lambda m, x: _autocast(m.float(), x.float()),
    "compile": lambda m, x: torch.compile(m, backend="eager", fullgraph=True)(x),
    "export": lambda m, x: torch.export.export(m, (x,)).module()(x),
    "a Laplacian": lambda m, x: fg.laplacian(m, x)[1],
}


def _autocast(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        return m(x)


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode):
    stock = make(over_all_but_the_last)
    fused = fg.fuse(copy.deepcopy(stock))
    expected, got = (MODES[mode](m, inputs()) for m in (stock, fused))
    torch.testing.assert_close(got, expected, **({"atol": 1e-2, "rtol": 1e-2} if "autocast" in mode else {}))
