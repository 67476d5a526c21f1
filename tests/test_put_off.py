"""A layer that is put off is as if it had been called: order, errors, side effects and numbers are those of stock."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_forwards import Base
from torch import nn

import fusegrad as fg

from cases import DEVICE
from models import count_fused, inputs

SEEN = []  # what hooks and functions of the tests have to tell


def compare(stock, change=lambda m: None):
    """What two runs give, or raise, before and after fuse; `change` is made in both models after fuse."""
    model = fg.fuse(copy.deepcopy(stock))
    expected, got = (_run(m, change) for m in (stock, model))
    torch.testing.assert_close(got[0], expected[0], equal_nan=True)
    assert got[1:] == expected[1:]
    return model


def _run(m, change):
    torch.manual_seed(1)
    change(m)
    SEEN.clear()
    x = inputs().requires_grad_()
    numbers, errors = [], []
    for _ in range(2):
        try:
            y = m(x)
            numbers.append(y)
            numbers += torch.autograd.grad(y.float().square().sum(), (x, *m.parameters()), allow_unused=True)
        except Exception as e:
            errors.append((type(e), str(e)))
    return numbers, errors, [*SEEN], torch.rand(3).tolist()


def make(forward, **held):
    torch.manual_seed(0)
    model = type("Net", (Base,), {"forward": forward})().to(DEVICE)
    for name, value in held.items():
        setattr(model, name, value)
    return model


# --- what is changed after fuse is called where the author calls it


def one_call(self, x):
    return self.act(self.a(x))


def two_statements(self, x):
    x = self.a(x)
    x = self.act(x)
    return x


def a_branch(self, x):
    x = self.a(x)
    if self.flag:
        x = self.act(x)
    return x


def a_method_of_its_own(self, x):
    x = self.a(x)
    if self.is_lucky():
        x = self.act(x)
    return x


def a_gate(self, x):
    return self.act(self.a(x)) * self.b(x)


def a_gate_in_statements(self, x):
    g = self.act(self.a(x))
    u = self.b(x)
    return u * g


def _draw(name):
    def hook(module, args, output):
        SEEN.append(name)
        return output * torch.rand((), device=DEVICE)

    return hook


HOOKS = {
    "changes the branch": lambda m: m.a.register_forward_hook(lambda *_: setattr(m, "flag", not m.flag)),
    "changes the activation": lambda m: m.a.register_forward_hook(lambda *_: setattr(m, "act", nn.Tanh())),
    "draws": lambda m: [getattr(m, k).register_forward_hook(_draw(k)) for k in ("a", "b", "act")],
    "draws in the second": lambda m: [getattr(m, k).register_forward_hook(_draw(k)) for k in ("b", "act")],
}


def is_lucky(self):
    SEEN.append("asked")
    return bool(torch.rand(()) > 0.5)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "forward",
    (one_call, two_statements, a_branch, a_method_of_its_own, a_gate, a_gate_in_statements),
    ids=lambda f: f.__name__,
)
def test_hooks_run_where_the_layer_is_called(forward, hook, monkeypatch):
    monkeypatch.setattr(Base, "is_lucky", is_lucky, raising=False)
    compare(make(forward, act=nn.SiLU()), HOOKS[hook])


# --- variables that hold a layer


def read_by_an_error(self, x):
    h = self.a(x)
    if self.flag:
        raise ValueError(f"of shape {h.shape}")
    h = torch.relu(h)
    return h


def stored_as_it_is_read(self, x):
    h = self.a(x)
    y = torch.relu(h) * (1 if self.flag else (h := 3))
    return y + h


def deleted_in_a_branch(self, x):
    h = self.a(x)
    if self.flag:
        h = torch.relu(h)
        y = h + 1
        del h
    else:
        y = x
    return y


def read_in_one_branch(self, x):
    h = self.a(x)
    if self.flag:
        y = torch.relu(h)
    else:
        y = x
    return y


def weight_written_by_a_method(self, x):
    h = self.a(x)
    if self.is_halved():
        h = torch.relu(h)
    return h


def read_in_a_branch_of_a_branch(self, x):
    h = self.a(x)
    y = x
    if self.flag:
        if self.calls == 0:
            y = torch.relu(h)
    return y


def is_halved(self):
    self.a.weight.data.mul_(0.5)
    return self.flag


@pytest.mark.parametrize("flag", (True, False))
@pytest.mark.parametrize(
    "forward",
    (
        *(read_by_an_error, stored_as_it_is_read, deleted_in_a_branch, read_in_one_branch),
        *(read_in_a_branch_of_a_branch, weight_written_by_a_method),
    ),
    ids=lambda f: f.__name__,
)
def test_variables_that_hold_a_layer(forward, flag, monkeypatch):
    monkeypatch.setattr(Base, "is_halved", is_halved, raising=False)
    model = compare(make(forward, flag=flag))
    with torch.profiler.profile() as profile:  # the layer runs once
        if forward is not read_by_an_error:
            model(inputs())
    products = {"fusegrad::linear", "fusegrad::linear_act"}
    assert sum(e.count for e in profile.key_averages() if e.key in products) <= 1


# --- what is no layer and its activation


class Labelled(torch.Tensor):
    def tanh(self):
        return self * 2


WRITTEN = {
    "a layer of two arguments": lambda self, x: torch.tanh(self.a(x, 2.0)),
    "a layer with an option": lambda self, x: torch.tanh(self.a(x, scale=2.0)),
    "a gate of two arguments": lambda self, x: torch.tanh(self.a(x, 2.0)) * self.b(x),
    "bits in another dtype": lambda self, x: torch.tanh(self.a(x).view(torch.int32)),
    "a method of a subclass": lambda self, x: self.a(x.as_subclass(Labelled)).view(-1, 2).tanh(),
}


@pytest.mark.parametrize("forward", WRITTEN.values(), ids=WRITTEN)
def test_what_looks_like_a_layer_and_its_activation(forward):
    compare(make(forward))


PRODUCTS = {
    "matmul": lambda self, x: torch.tanh(x @ self.a.weight),
    "addmm": lambda self, x: torch.tanh(torch.addmm(self.a.bias, x[0], self.a.weight)),
}


@pytest.mark.parametrize("forward", PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize("owner, name", ((F, "linear"), (torch, "addmm")), ids=("linear", "addmm"))
def test_functions_of_torch_that_were_replaced(forward, owner, name, monkeypatch):
    function = getattr(owner, name)

    def replaced(*args):
        SEEN.append(name)
        return function(*args) * 2

    model = make(forward)
    assert count_fused(compare(model), inputs()) == 1
    monkeypatch.setattr(owner, name, replaced)
    compare(model)


@pytest.mark.parametrize("factor", (math.inf, -math.inf, math.nan, 1e300, 1e-300, 0.0, True, 10**9))
def test_a_scale_that_is_no_factor_of_a_weight(factor):
    compare(make(lambda self, x: torch.sigmoid(self.s * self.a(x)), s=factor))


def test_text_is_no_activation():
    compare(make(lambda self, x: self.act(self.a(x)), act="tanh"))


# --- a gate whose second layer writes to the input of the first


class Doubles(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x.mul_(2)
        return self.fc(x)


def in_one_expression(self, x):
    return self.act(self.a(x)) * self.f(x)


def in_three_statements(self, x):
    g = self.a(x)
    u = self.f(x)
    return self.act(g) * u


def with_the_activation_first(self, x):
    g = self.act(self.a(x))
    u = self.f(x)
    h = g * u
    return h


def with_the_gate_last(self, x):
    return self.f(x) * self.act(self.a(x))


@pytest.mark.parametrize(
    "forward",
    (in_one_expression, in_three_statements, with_the_activation_first, with_the_gate_last),
    ids=lambda f: f.__name__,
)
def test_a_gate_is_made_before_what_writes_to_its_input(forward):
    stock = make(forward, act=nn.SiLU(), f=Doubles().to(DEVICE))
    with torch.no_grad():
        torch.testing.assert_close(fg.fuse(copy.deepcopy(stock))(inputs()), stock(inputs()))
