"""What a user does in place to an output gives what it gives for stock."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import grad
from torch.func import grad as func_grad
from torch.func import jvp, vmap

import fusegrad as fg

from cases import DEVICE, leaves


def backward(f):
    args = leaves()
    return grad(f(*args).sum(), args)


def second_backward(f):
    args = leaves()
    first = grad(f(*args).sin().sum(), args, create_graph=True)
    return grad(sum(g.square().sum() for g in first), args)


def compiled(f):
    torch._dynamo.reset()
    return torch.compile(f, fullgraph=True, backend="aot_eager")


SHAPES = {1: lambda x: x[0], 2: lambda x: x, 3: lambda x: x[:, None]}
MODES = {
    "forward": lambda f: f(*(t.detach() for t in leaves())),
    "backward": backward,
    "second backward": second_backward,
    "func": lambda f: func_grad(lambda *a: f(*a).sin().sum(), argnums=(0, 1, 2))(*leaves()),
    "vmap": lambda f: vmap(func_grad(lambda x, w, b: f(x, w, b).sin().sum()), (0, None, None))(*leaves()),
    "jvp": lambda f: jvp(f, tuple(leaves()), tuple(leaves())),
    "compile": lambda f: backward(compiled(f)),
    "compile func": lambda f: compiled(func_grad(lambda *a: f(*a).sin().sum()))(*(t.detach() for t in leaves())),
    "after compile": lambda f: backward(lambda *a: compiled(f)(*a).mul_(3)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rank", SHAPES)
def test_on_the_output_of_linear(rank, mode):
    """F.linear's output is a view for some ranks; torch forbids to change a view that a Function made."""

    def through(linear):
        def f(x, w, b):
            y = linear(SHAPES[rank](x.reshape(-1, 3)), w, b)  # under vmap x is one row
            y.mul_(2)
            y += w.sum()
            return y.sin_()

        return f

    torch.testing.assert_close(MODES[mode](through(fg.linear)), MODES[mode](through(F.linear)))


def test_on_the_output_of_linear_act():
    def f(layer):
        args = leaves()
        y = layer(args[0].reshape(5, 1, 3), *args[1:])
        y.mul_(2).relu_()
        return grad(y.sum(), args)

    stock = f(lambda *a: F.gelu(F.linear(*a)))
    torch.testing.assert_close(f(lambda *a: fg.linear_act(*a, act="gelu")), stock)


def test_without_gradients():
    x, w, b = (t.detach() for t in leaves())
    y = fg.linear(x.reshape(5, 1, 3), w, b)
    torch.testing.assert_close(y.clone().relu_(), y.relu_())
    scale = torch.ones(4, dtype=x.dtype, device=DEVICE, requires_grad=True)
    y.mul_(scale)  # from here on it has a gradient
    torch.testing.assert_close(grad(y.sum(), scale)[0], y.detach().sum((0, 1)))


@pytest.mark.parametrize("act", (nn.LeakyReLU(0.2, inplace=True), nn.Hardtanh(inplace=True), nn.ReLU6(inplace=True)))
def test_an_activation_that_itself_writes_in_place(act):
    """Of a leaky ReLU torch then saves the output for backward too, and raises as well if that is written to."""
    stock = nn.Sequential(nn.Linear(3, 8), act, nn.Linear(8, 8), nn.Sequential(act), nn.Linear(8, 2)).double()
    fused, x = fg.fuse(copy.deepcopy(stock)), torch.randn(12, 3, dtype=torch.double)
    assert [bool(row.fused_with) for row in fg.explain(fused)] == [True, False, False]
    results = [torch.autograd.grad(m(x).sin().sum(), [*m.parameters()], create_graph=True) for m in (stock, fused)]
    torch.testing.assert_close(*results)
    second = (torch.autograd.grad(sum(g.square().sum() for g in found), m.parameters(), allow_unused=True)
              for m, found in zip((stock, fused), results, strict=True))  # fmt: skip
    torch.testing.assert_close(*second)
    for m in (stock[:2], fused[:2]):
        y = m(x)
        with torch.no_grad():
            y.mul_(2)
        if isinstance(act, nn.LeakyReLU):
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
        else:
            y.sum().backward()


def test_a_function_that_writes_in_place_is_fused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 8).double()

        def forward(self, x):
            return F.leaky_relu(self.fc(x), 0.2, inplace=True)

    stock, x = Net(), torch.randn(12, 3, dtype=torch.double)
    fused = fg.fuse(copy.deepcopy(stock))
    assert fg.explain(fused)[0].fused_with
    results = [[y := m(x), *torch.autograd.grad(y.sum(), m.parameters())] for m in (stock, fused)]
    torch.testing.assert_close(*results)
