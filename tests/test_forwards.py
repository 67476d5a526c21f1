"""Whatever a forward does, it does after fuse too: the same values, side effects, random numbers and types."""

import contextlib
import copy
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import fusegrad as fg
from fusegrad import backends

from cases import DEVICE
from models import Functional, count_fused, inputs


class Base(Functional):
    """Four layers, an activation, and one that writes in place."""

    flag, calls = True, 0

    def __init__(self):
        super().__init__()
        self.gelu, self.relu_ = nn.GELU(), nn.ReLU(inplace=True)

    @property
    def counted(self):
        self.calls += 1
        return self.gelu


def forward(fused):
    """Makes a model of a forward, and notes how many calls of the op one run of it makes."""

    def model(f):
        cls = type(f.__name__, (Base,), {"forward": f})
        return pytest.param(cls, fused, id=f.__name__)

    return model


def helper_with_branch(x):
    return x if x is not None else 0


class Dict(dict):
    pass


# --- fused, and the rest of the forward as written


@forward(1)
def branch(self, x):
    if not self.training:
        return torch.tanh(self.a(x))
    return self.a(x)


@forward(1)
def conditional(self, x, mask=None):
    return torch.tanh(self.a(x)) if mask is None else self.a(x)


@forward(1)
def no_grad_inside(self, x):
    with torch.no_grad():
        x = torch.tanh(self.a(x))
    return self.b(x)


@forward(1 if backends.node is not None else 2)  # else one call is seen before and after the casts
def autocast_inside(self, x):
    with torch.autocast(x.device.type, torch.bfloat16):
        return torch.tanh(self.a(x))


@forward(1)
def counts(self, x):
    self.calls += 1
    return torch.tanh(self.a(x)) * self.calls


@forward(1)
def python_random(self, x):
    return torch.tanh(self.a(x)) * random.random()


@forward(1)
def numpy_random(self, x):
    return torch.tanh(self.a(x)) * np.random.rand()


@forward(1)
def torch_random(self, x):
    return torch.tanh(self.a(x)) * float(torch.rand(())) + torch.randn(4, device=x.device)


@forward(2)
def loop_as_long_as_a_tensor_says(self, x):
    for _ in range(int(torch.full((), 2))):
        x = torch.tanh(self.a(x))
    return x


@forward(1)
def prints(self, x):
    print("called")
    return torch.tanh(self.a(x))


@forward(1)
def helper(self, x):
    return helper_with_branch(torch.tanh(self.a(x)))


@forward(1)
def adds_to_its_input(self, x):
    y = x
    y += 1
    return torch.tanh(self.a(y)) + x


@forward(1)
def bare_except(self, x):
    try:
        return torch.tanh(self.a(x[..., :3]))
    except:  # noqa: E722  (as users write it)
        return torch.tanh(self.b(x))


@forward(1)
def ordered_dict(self, x):
    return OrderedDict(y=torch.tanh(self.a(x)))


@forward(1)
def own_dict(self, x):
    return Dict(y=torch.tanh(self.a(x)))


@forward(1)
def asks_for_the_class(self, x):
    return self.gelu(self.a(x)) if isinstance(self.gelu, nn.GELU) else x


@forward(1)
def property_elsewhere(self, x):
    return torch.tanh(self.a(x)) + self.counted(x)


@forward(1)
def checkpointed(self, x):
    return checkpoint(lambda x: torch.tanh(self.a(x)), x, use_reentrant=False)


@forward(2)
def comprehension(self, x):
    return sum([torch.tanh(layer(x)) for layer in (self.a, self.b)], torch.relu(self.c(x)) + torch.relu(self.d(x)))


@forward(4)
def two_statements(self, x):
    x = self.a(x)
    x = F.dropout(F.relu(x), 0.5, self.training)
    z = self.b(x)
    y = z.sigmoid() + x
    h = self.c(y)
    h = torch.tanh(h)[..., :4] * self.calls
    h = self.d(h)
    return self.gelu(h) - 1


@forward(1)
def in_place_activation(self, x):
    return self.relu_(self.a(x))


# --- not fused


@forward(0)
def writes_between(self, x):
    z = self.a(x)
    x.mul_(2)
    return torch.tanh(z) + x


@forward(0)
def writes_before_the_activation(self, x):
    z = self.a(x)
    return x.mul_(2) + torch.tanh(z)


@forward(0)
def module_writes_between(self, x):
    z = self.a(x)
    r = self.relu_(x)
    return torch.tanh(z) + r


@forward(0)
def read_twice(self, x):
    z = self.a(x)
    y = torch.tanh(z)
    return y + z


@forward(0)
def read_again_in_a_loop(self, x):
    z = x
    for _ in range(2):
        x = x + z
        z = self.a(x)
        y = torch.tanh(z)
    return y


@forward(0)
def read_by_an_operator(self, x):
    z = self.a(x[0])
    y = torch.tanh(z)
    z += 1
    return y + 1


@forward(0)
def index_that_writes(self, x):
    z = self.a(x)
    z = [self.gelu, self.gelu][int(x.mul_(2).sum() > 0)](z)
    return z


@forward(0)
def read_in_a_closure(self, x):
    z = self.a(x)
    y = torch.tanh(z)
    return y + (lambda: z)()


@forward(0)
def read_through_locals(self, x):
    z = self.a(x)
    y = torch.tanh(z)
    return y + locals()["z"]


@forward(0)
def suppressed(self, x):
    with contextlib.suppress(RuntimeError):
        x = self.a(x)
        x = torch.tanh(x[..., :3])
        x = self.b(x)
        x = torch.tanh(x)
    return x


@forward(0)
def property_between(self, x):
    x = self.a(x)
    x = self.counted(torch.tanh(x))
    return x


@forward(0)
def other_options(self, x):
    return F.hardtanh(self.a(x), -2.0, 2.0) + F.softplus(self.b(x), threshold=5) + F.leaky_relu(self.c(x), -0.5)


@forward(0)
def computed_option(self, x):
    return F.leaky_relu(self.a(x), float(torch.rand(())))


@forward(1)
@torch.no_grad()
def no_grad(self, x):
    return torch.tanh(self.a(x))


FORWARDS = [v for v in list(globals().values()) if isinstance(v, type(branch)) and type(v) is type(pytest.param())]


@pytest.mark.parametrize("cls, fused", FORWARDS)
def test_a_forward_does_what_it_did(cls, fused, capsys):
    torch.manual_seed(0)
    stock = cls().to(DEVICE).eval()
    model = fg.fuse(copy.deepcopy(stock))
    assert capsys.readouterr().out == ""  # fuse runs nothing

    def run(m):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(1)
        x = inputs()
        y = [m(x), m(x)]
        return y, x, m.calls, capsys.readouterr().out

    expected, got = run(stock), run(model)
    torch.testing.assert_close(got[:2], expected[:2])
    assert got[2:] == expected[2:] and type(got[0][0]) is type(expected[0][0])
    assert getattr(got[0][0], "requires_grad", None) == getattr(expected[0][0], "requires_grad", None)
    assert count_fused(model, inputs()) == fused
    assert fused or all(row.why and not row.fused_with for row in fg.explain(model))
