"""A layer that is put off is as if it had been called: order, errors, side effects and numbers are those of stock."""

import copy
import functools
import gc
import math
import weakref

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


def read_in_a_branch_of_a_branch(self, x):
    h = self.a(x)
    y = x
    if self.flag:
        if self.calls == 0:
            y = torch.relu(h)
    return y


@pytest.mark.parametrize("flag", (True, False))
@pytest.mark.parametrize(
    "forward",
    (read_by_an_error, stored_as_it_is_read, deleted_in_a_branch, read_in_one_branch, read_in_a_branch_of_a_branch),
    ids=lambda f: f.__name__,
)
def test_variables_that_hold_a_layer(forward, flag):
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


# --- functions and modules that are gone into


def times(k):
    def act(x, *, factor=k):
        return torch.tanh(x) * factor

    return act


def test_defaults_of_functions_of_one_code():
    model = make(lambda self, x: self.g(self.b(self.f(self.a(x)))), f=times(1.0), g=times(3.0))
    assert count_fused(compare(model), inputs()) == 2


class ActThenLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return F.linear(torch.tanh(x), self.weight)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_hooks_that_compute_the_weights_of_what_comes_after():
    models = [make(lambda self, x: self.act(self.a(x)), act=ActThenLinear().to(DEVICE)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for m in models:
        nn.utils.weight_norm(m.act)
    fg.fuse(models[1])
    x = inputs()
    for _ in range(2):
        torch.testing.assert_close(*(m(x) for m in models))
        for m in models:
            m.act.weight_g.data.mul_(3)


# --- formulas


def quick_gelu(x):
    return x * (1.702 * x).sigmoid()


def test_a_formula_whose_method_was_replaced(monkeypatch):
    model = make(lambda self, x: quick_gelu(self.a(x)))
    assert count_fused(compare(model), inputs()) == 1
    sigmoid = torch.Tensor.sigmoid
    monkeypatch.setattr(torch.Tensor, "sigmoid", lambda z: sigmoid(z) * 2)
    compare(model)


class Bound(nn.Module):
    function = F.silu  # gets the module as its first argument

    def forward(self, x):
        return self.function(x)


class Counting(nn.Module):
    beta = 2.0

    def __getattribute__(self, name):
        if name == "beta":
            SEEN.append(name)
        return super().__getattribute__(name)

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


@pytest.mark.parametrize("act", (Bound, Counting))
def test_what_a_formula_looks_up_in_its_own_way(act):
    compare(make(lambda self, x: self.act(self.a(x)), act=act()))


# --- memory


def through_a_closure():
    held = nn.Linear(4, 4)
    return held, make(lambda self, x: torch.tanh(held(self.a(x))))


def through_a_function_that_is_gone_into():
    held = nn.Tanh()

    def act(x):
        return held(x)

    return held, make(lambda self, x: self.f(self.a(x)), f=act)


def through_a_decorator():
    held = nn.Linear(4, 4)

    def decorate(f):
        @functools.wraps(f)
        def wrapper(self, x):
            return f(self, held(x))

        return wrapper

    return held, make(decorate(two_statements), act=nn.SiLU())


@pytest.mark.parametrize(
    "made", (through_a_closure, through_a_function_that_is_gone_into, through_a_decorator), ids=lambda f: f.__name__
)
def test_what_functions_hold_is_not_kept(made):
    held, model = made()
    fg.explain(fg.fuse(model))
    model(inputs())
    seen = weakref.ref(held)
    del held, model
    for _ in range(3):
        gc.collect()
    assert seen() is None
