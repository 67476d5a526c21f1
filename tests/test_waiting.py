"""Layers that stand in any model are one op where they follow one another; what the model computes is unchanged."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import fusegrad as fg
from fusegrad import backends
from fusegrad.operators import layers as operators_layers

from cases import DEVICE

pytestmark = pytest.mark.skipif(backends.node is None or DEVICE != "cpu", reason="there are no C++ nodes")


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.a, self.b, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.double()


class Loop(Base):
    def forward(self, x):
        for layer in (self.first, self.a, self.b):
            x = torch.tanh(layer(x))
        return self.last(x)


class Residual(Base):
    def forward(self, x):
        x = F.silu(self.first(x))
        x = x + F.silu(self.b(F.silu(self.a(x))))
        x = F.silu(self.a(F.silu(self.b(x)))) + x
        return self.last(x)


class Scaled(Base):
    def forward(self, x):
        return self.last(torch.sin(self.a(torch.sin(30 * self.first(x))) * 2.0))


class Factorised(Base):
    def __init__(self):
        super().__init__()
        for layer in (self.first, self.a, self.last):
            nn.utils.parametrizations.weight_norm(layer)

    def forward(self, x):
        return self.last(torch.tanh(self.a(torch.tanh(self.first(x)))))


class Heads(Base):
    def forward(self, x):
        h = torch.tanh(self.a(torch.tanh(self.first(x))))
        one = torch.exp(self.last(h)) * 2
        return one + self.last(torch.tanh(self.b(h)))


class Swish(Base):
    def forward(self, x):
        z = self.first(x)
        h = z * torch.sigmoid(z)
        return self.last(torch.relu(torch.tanh(self.a(h))))


class Keeps(Base):
    def forward(self, x):
        self.kept = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.a(self.kept)))


class Changes(Base):
    def forward(self, x):
        h = torch.tanh(self.a(torch.tanh(self.first(x))))
        self.a.weight.data.mul_(1.5)
        return self.last(h)


class Asks(Base):
    def forward(self, x):
        h = self.first(x)
        assert h.shape == (*x.shape[:-1], 8) and h.dim() == x.dim() and len(h) == len(x)
        h = torch.tanh(h) if h.mean() < 100 else h
        h = F.relu(self.a(h), inplace=True)
        with torch.no_grad():
            scale = self.b(h).abs().mean()
        return self.last(h) * scale + self.last(h.detach())


MODELS = (Loop, Residual, Scaled, Factorised, Heads, Swish, Keeps, Asks)


def nested(model, x):
    z = x.clone().requires_grad_()
    y = model(z)
    jacobian, laplacian = [], []
    for k in range(y.shape[-1]):
        (g,) = torch.autograd.grad(y[..., k].sum(), z, create_graph=True)
        jacobian.append(g)
        second = (torch.autograd.grad(g[..., i].sum(), z, create_graph=True)[0][..., i] for i in range(3))
        laplacian.append(sum(second))
    return y, torch.stack(jacobian, -2), torch.stack(laplacian, -1)


def gradients(found, model):
    y, jacobian, laplacian = found
    loss = (laplacian.sin() * y).sum() + jacobian.square().sum()
    return torch.autograd.grad(loss, [*model.parameters()], allow_unused=True, materialize_grads=True)


@pytest.fixture
def chains(monkeypatch):
    """The lengths of the chains that were one op."""
    calls, run = [], operators_layers.streamed
    monkeypatch.setattr(operators_layers, "streamed", lambda *args: calls.append(len(args[3])) or run(*args))
    return calls


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("fused", (False, True), ids=("stock", "fused"))
def test_numbers_and_gradients(model, fused):
    model = model()
    x = torch.rand(11, 3, dtype=torch.float64)
    truth = nested(model, x)
    truth = *truth, *gradients(truth, model)
    model = fg.fuse(model) if fused else model
    for _ in range(4):  # the first run is watched, later ones know more of the model
        found = fg.laplacian(model, x)
        for mine, theirs in zip((*found, *gradients(found, model)), truth, strict=True):
            assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


LENGTHS = {
    Loop: [4],
    Residual: [1, 2, 2, 1],
    Scaled: [3],
    Factorised: [3],
    Heads: [2, 1, 2],
    Swish: [1, 1, 1],  # z is read twice, and torch.relu after tanh is no layer
}


@pytest.mark.parametrize("model", LENGTHS, ids=lambda m: m.__name__)
def test_layers_that_follow_one_another_are_one(chains, model):
    want, model = LENGTHS[model], model()
    x = torch.rand(11, 3, dtype=torch.float64)
    for _ in range(3):
        chains.clear()
        fg.laplacian(model, x)
    assert chains == want


def test_without_gradients_and_of_gradients_in_x():
    model, x = Residual(), torch.rand(5, 3, dtype=torch.float64)
    fg.laplacian(model, x)
    with torch.no_grad():
        assert not fg.laplacian(model, x).laplacian.requires_grad
    of_x = []
    for of in (fg.laplacian, nested):
        z = x.clone().requires_grad_()
        if of is nested:
            y = model(z)
            of_x.append(torch.stack([_laplacian_gradient(model, z, k) for k in range(y.shape[-1])]).sum(0))
        else:
            of_x.append(torch.autograd.grad(of(model, z).laplacian.sum(), z)[0])
    assert_close(*of_x)


def _laplacian_gradient(model, z, k):
    hessian = torch.func.hessian(lambda p: model(p[None])[0, k])
    return torch.func.vmap(torch.func.grad(lambda p: hessian(p).diagonal().sum()))(z)


def test_a_hook_on_what_waits():
    seen = []

    class Hooked(Base):
        def forward(self, x):
            h = torch.tanh(self.first(x))
            if h.requires_grad:
                h.register_hook(seen.append)
            return self.last(h)

    model, x = Hooked(), torch.rand(4, 3, dtype=torch.float64)
    for _ in range(2):
        seen.clear()
        fg.laplacian(model, x).laplacian.sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("lead", ((7,), (2, 3)), ids=str)
def test_what_the_model_keeps_has_its_graph(lead):
    model, x = Keeps(), torch.rand(*lead, 3, dtype=torch.float64)
    for _ in range(2):
        found = fg.laplacian(model, x)
    loss = model.kept.square().sum() + found.laplacian.sum() * 0
    mine = torch.autograd.grad(loss, [*model.first.parameters()])
    model(x)
    truth = torch.autograd.grad(model.kept.square().sum(), [*model.first.parameters()])
    for a, b in zip(mine, truth, strict=True):
        assert_close(a, b)


def test_a_weight_that_changes_after_its_layer():
    model, x = Changes(), torch.rand(4, 3, dtype=torch.float64)
    for _ in range(2):
        w = model.a.weight.detach().clone()
        truth = fg.laplacian(lambda x: model.last(torch.tanh(F.linear(torch.tanh(model.first(x)), w, model.a.bias))), x)
        with torch.no_grad():
            found = fg.laplacian(model, x)
        assert_close(found.laplacian, truth.laplacian.detach())
