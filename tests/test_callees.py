"""What is called with a layer's result, and known only when it is called, is looked up where the author looks it up."""

import pytest
import torch
from test_kept_calls import X, close, written
from test_put_off import HOOKS, SEEN, compare, make
from torch import nn

import fusegrad as fg
from fusegrad import backends


def picked(self, x):
    def pick():
        SEEN.append("picked")
        return torch.tanh if torch.rand(()) > 0.5 else torch.cos

    return pick()(self.a(x)) + pick()(self.b(x))


def writes_to_the_weights(self, x):
    def act(z):
        self.a.weight.data.mul_(0.5)
        return torch.tanh(z)

    return act(self.a(x))


def writes_to_the_input(self, x):
    x = x * 1

    def act(z):
        x.data.mul_(0)
        return torch.tanh(z)

    return act(self.a(x))


def cannot_be_picked(self, x):
    acts = {}
    return acts["tanh"](self.a(x))


def is_not_there(self, x):
    if self.s is None:
        act = torch.tanh
    return act(self.a(x))


def is_not_there_in_statements(self, x):
    if self.s is None:
        act = torch.tanh
    x = self.a(x)
    return act(x)


def is_none(self, x):
    act = None
    return act(self.a(x))


def is_text(self, x):
    act = "tanh"
    x = self.a(x)
    return act(x)


def is_a_class(self, x):
    make = torch.nn.Parameter
    return torch.tanh(make(self.a(x.detach())))


def is_another_layer(self, x):
    layer = self.b
    x = self.a(x)
    return torch.tanh(layer(x))


CALLEES = (
    *(picked, writes_to_the_weights, writes_to_the_input, cannot_be_picked, is_not_there, is_not_there_in_statements),
    *(is_none, is_text, is_a_class, is_another_layer),
)


@pytest.mark.parametrize("hook", (None, *HOOKS))
@pytest.mark.parametrize("forward", CALLEES, ids=lambda f: f.__name__)
def test_what_is_called_is_found_where_the_author_looks_for_it(forward, hook):
    compare(make(forward, act=nn.SiLU(), s=1), HOOKS.get(hook, lambda m: None))


# --- what is kept of it


def given_by_a_call(self, x):
    return self.last(vars(self).get("other", torch.tanh)(self.fc(x)))


@pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
@pytest.mark.parametrize("of", ("torch's", "a library's layer"))
def test_what_is_called_may_change_with_each_call(of):
    m, theirs = fg.fuse(written(given_by_a_call, of)), written(given_by_a_call, of)
    assert [row.fused_with for row in fg.explain(m)] == ["", ""]
    for other in (torch.tanh, nn.LayerNorm(8).double(), torch.tanh, lambda z: z * torch.sigmoid(z)):
        vars(m)["other"] = vars(theirs)["other"] = other
        for _ in range(300):
            y = m(X)
        close(y, theirs(X))
        assert bool(fg.explain(m, X)[0].ran.fused) == (not isinstance(other, nn.Module))


SLOPE = 1.0


def with_a_lambda(self, x):
    return self.last((lambda z: z * torch.sigmoid(SLOPE * z))(self.fc(x)))


@pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
def test_a_function_that_is_made_on_each_call_is_found_once(by_cpp, monkeypatch):
    m, theirs = fg.fuse(written(with_a_lambda, "torch's")), written(with_a_lambda, "torch's")
    for k in range(3):
        close(m(X), theirs(X))
        assert by_cpp == ["kept_layer"] * (2 * k + 1)
    monkeypatch.setitem(globals(), "SLOPE", 2.0)
    close(m(X), theirs(X))
