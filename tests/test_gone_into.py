"""Functions and modules that a layer is given to, put off: what they hold, look up and compute is what they say."""

import copy
import functools
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from test_put_off import SEEN, compare, make, two_statements
from torch import nn

import fusegrad as fg
from fusegrad.fusion import match

from cases import DEVICE
from models import count_fused, inputs

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


class LooksUp(nn.Module):
    """A layer that asks for a shape when its product is made, which writes to the weight."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.zeros(4))

    @property
    def shape(self):
        with torch.no_grad():
            self.weight.mul_(2)
        return -1, 4

    def forward(self, x):
        y = torch.addmm(self.bias, x.reshape(-1, 4), self.weight)
        y = y.view(self.shape)
        return y


def test_what_a_layer_looks_up_after_its_product():
    stock = make(lambda self, x: torch.tanh(self.f(x)), f=LooksUp().to(DEVICE))
    model = fg.fuse(copy.deepcopy(stock))
    with torch.no_grad():
        torch.testing.assert_close(model(inputs()), stock(inputs()))


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
    gc.freeze()  # what is there already, which takes a second to go through
    held, model = made()
    fg.explain(fg.fuse(model))
    model(inputs())
    seen = weakref.ref(held)
    del held, model
    for _ in range(3):
        gc.collect()
    gc.unfreeze()
    assert seen() is None


class Dense(nn.Linear):
    """As SchNetPack's."""

    def __init__(self, k, n, activation):
        super().__init__(k, n)
        self.activation = activation

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias)
        return self.activation(y)


def test_a_layer_that_applies_nothing_is_multiplied_by_ours():
    layer = fg.fuse(Dense(4, 2, nn.Identity()).to(DEVICE))
    y = layer(inputs())
    assert y.grad_fn.name() == "LinearBackward"  # the op's, where stock has another
    torch.testing.assert_close(y, F.linear(inputs(), layer.weight, layer.bias))


class Chosen(nn.Module):
    """As e3nn's: an activation follows the product, or none."""

    def __init__(self, act=None):
        super().__init__()
        self.weight, self.act = nn.Parameter(torch.randn(4, 4)), act

    def forward(self, x):
        if self.act is not None:
            x = x @ self.weight
            x = self.act(x)
        else:
            x = x @ (2 * self.weight)
        return x


def test_products_alone_are_ours_in_the_modules_of_a_class_that_is_rewritten():
    layers = nn.Sequential(Chosen(Shifted()), Chosen()).to(DEVICE)
    fused, x = fg.fuse(copy.deepcopy(layers)), inputs().requires_grad_()
    assert fused(x).grad_fn.name() == "LinearBackward"
    torch.testing.assert_close(
        *(torch.autograd.grad(m(x).square().sum(), (x, *m.parameters()))[0] for m in (layers, fused))
    )
    asked = []
    fg.fuse(make(lambda self, x: x @ self.a.weight), lambda m, path: asked.append(path))
    assert "" not in asked  # which is no layer that an activation may follow
    only = fg.fuse(Chosen().to(DEVICE))
    assert type(only) is Chosen and only(x).grad_fn.name() != "LinearBackward"


class Shifted(nn.Module):
    """None that is known by its formula, and one that it begins with."""

    def __init__(self):
        super().__init__()
        self.shift = 0.7

    def forward(self, x):
        return F.softplus(x) - self.shift


class Gives(nn.Module):
    """The result of a layer, after other things."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = 2 * x
        x = self.fc(x)
        return x


WAYS = {
    "a layer": lambda act: make(lambda self, x: self.act(self.a(x)), act=act),
    "a product": lambda act: Chosen(act).to(DEVICE),
    "what gives a layer": lambda act: make(two_statements, a=Gives().to(DEVICE), act=act),
    "a Sequential": lambda act: nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4)).to(DEVICE),
}
CHANGES = {
    "nothing": lambda act: None,
    "what it holds": lambda act: setattr(act, "shift", 1.0),
    "hook": lambda act: act.register_forward_hook(lambda m, args, y: 3 * y),
    "forward": lambda act: setattr(act, "forward", torch.sin),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", WAYS)
def test_what_was_gone_into_is_not_asked_again_what_it_is(way, change, monkeypatch):
    acts = [Shifted() for _ in range(2)]
    models = [WAYS[way](act) for act in acts]
    models[1].load_state_dict(models[0].state_dict())
    fg.fuse(models[1])
    x, asked = inputs(), []
    for _ in range(3):
        models[1](x)
    before = match.formula.of
    monkeypatch.setattr(match.formula, "of", lambda *args: asked.append(args) or before(*args))
    for act in acts:
        CHANGES[change](act)
    torch.testing.assert_close(*(m(x) for m in models))
    assert change != "nothing" or not asked
