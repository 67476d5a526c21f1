"""Methods other than a plain forward: inherited, closed over, generated, wrapped."""

import copy
import functools

import pytest
import torch
from test_forwards import Base
from torch import nn

import fusegrad as fg

from cases import DEVICE
from models import count_fused, inputs


class Named(Base):
    """Its class has names that a careless implementation would use."""

    unfused, sites, act, param, linear = "unfused", "sites", "act", "param", "linear"

    def forward(self, x):
        return torch.tanh(self.a(x)) * len(self.unfused + self.sites + self.act + self.param + self.linear)


def test_names_of_the_class_are_its_own():
    model, x = Named().to(DEVICE), inputs()
    y = model(x)
    torch.testing.assert_close(copy.deepcopy(fg.fuse(model))(x), y)


class Reversed(nn.Sequential):
    def __iter__(self):
        return reversed(list(self._modules.values()))


def test_a_sequential_that_goes_its_own_way():
    model, x = Reversed(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(DEVICE), inputs()
    y = model(x)
    torch.testing.assert_close(fg.fuse(model)(x), y)


class Encoder(nn.Module):
    """A base class whose forward calls what a subclass defines, and closures over a class and a variable."""

    def __init__(self):
        super().__init__()
        self.__hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def encode(self, x):
        return torch.tanh(self.__hidden(x))

    def forward(self, x):
        return self.head(self.encode(x))


def make_subclass(scale):
    class Scaled(Encoder):
        def encode(self, x):
            return super().encode(x) * scale + torch.relu(self.head(x)).mean()

    return Scaled


def test_methods_inheritance_and_closures():
    for cls, fused in ((Encoder, 1), (make_subclass(2.0), 1)):
        model, x = cls().to(DEVICE), inputs()
        y = model(x)
        torch.testing.assert_close(fg.fuse(model)(x), y)
        assert count_fused(model, x) == fused
        assert model.encode(x).shape


def test_arguments_and_errors_are_the_authors():
    class Net(Base):
        def forward(self, x, /, *, scale=2.0):
            return torch.tanh(self.a(x)) * scale

    model, x = fg.fuse(Net().to(DEVICE)), inputs()
    torch.testing.assert_close(model(x, scale=4.0), 2 * model(x))
    for args, kwargs in (((x, 4.0), {}), ((), {"x": x})):
        with pytest.raises(TypeError, match=r"Net\.forward\(\)|required positional"):
            model(*args, **kwargs)
    with pytest.raises(RuntimeError, match=r"w has shape \(\d, \d\), x has shape \(2, 5\)") as error:
        model(torch.ones(2, 5, device=DEVICE))
    assert "test_methods.py" in str([entry.path for entry in error.traceback])  # at the author's own line


def test_a_method_without_its_source_is_left_alone():
    scope = {"Base": Base, "torch": torch}
    exec("class Net(Base):\n    def forward(self, x):\n        return torch.tanh(self.a(x))", scope)
    model = fg.fuse(scope["Net"]())
    assert fg.explain(model)[0].why == "Net.forward: its source cannot be found"

    class Moved(Base):
        def forward(self, x):
            return torch.tanh(self.a(x))

    Moved.forward.__code__ = Moved.forward.__code__.replace(co_firstlineno=1)
    assert fg.explain(fg.fuse(Moved()))[0].fused_with == ""


def counted(f):
    @functools.wraps(f)
    def wrapper(*args):
        wrapper.calls += 1
        return f(*args)

    wrapper.calls = 0
    return wrapper


TIMES = {}


def timed(f):
    @functools.wraps(f)
    def wrapper(*args):
        TIMES.setdefault(f, []).append(len(args))
        return f(*args)

    return wrapper


def test_what_a_decorator_writes_down():
    class Net(Base):
        @counted
        def forward(self, x):
            return torch.tanh(self.a(x))

        @timed
        def twice(self, x):
            return torch.tanh(self.a(x)) * 2

    model, x = fg.fuse(Net().to(DEVICE)), inputs()
    model(x), model.twice(x)
    assert Net.forward.calls == model.forward.calls == 1 and [*TIMES] == [Net.twice.__wrapped__]
    assert count_fused(model, x) == 1


@pytest.mark.parametrize("decorate", (lambda f: f, counted), ids=("plain", "decorated"))
@pytest.mark.parametrize("by_name", (False, True))
def test_defaults_that_are_replaced(decorate, by_name):
    def positional(self, x, scale=2.0):
        return torch.tanh(self.a(x)) * scale

    def named(self, x, *, scale=2.0):
        return torch.tanh(self.a(x)) * scale

    forward = named if by_name else positional
    model, x = fg.fuse(type("Net", (Base,), {"forward": decorate(forward)})().to(DEVICE)), inputs()
    y = model(x)
    forward.__defaults__, forward.__kwdefaults__ = (None, {"scale": 6.0}) if by_name else ((6.0,), None)
    torch.testing.assert_close(model(x), 3 * y)
