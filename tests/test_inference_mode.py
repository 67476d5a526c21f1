"""Torch.inference_mode on a CPU: C++ serves it as plain eager mode, and what it makes is what torch makes there."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fusegrad as fg
from fusegrad import backends

from cases import on_cpu

pytestmark = [on_cpu, pytest.mark.skipif(backends.node is None, reason="no C++ nodes")]
close = torch.testing.assert_close

W, V, B = torch.randn(16, 8), torch.randn(16, 8), torch.randn(16)
CALLS = {
    "linear": (lambda x: fg.linear(x, W, B), lambda x: F.linear(x, W, B)),
    "linear_act": (lambda x: fg.linear_act(x, W, B, act="tanh"), lambda x: F.linear(x, W, B).tanh()),
    "act": (lambda x: fg.act(x, "gelu"), F.gelu),
    "gated": (lambda x: fg.gated(x, W, V, B, act="silu"), lambda x: F.silu(F.linear(x, W, B)) * F.linear(x, V)),
    "mlp": (lambda x: fg.mlp(x, W, B, V.T, act="silu"), lambda x: F.linear(F.silu(F.linear(x, W, B)), V.T)),
    "chain": (
        lambda x: fg.chain(x, [(W, B, "tanh"), (V.T, None, "silu")]),
        lambda x: F.silu(F.linear(F.linear(x, W, B).tanh(), V.T)),
    ),
}
made = pytest.mark.parametrize("made", ("before", "inside"))


@pytest.mark.parametrize("name", CALLS)
@made
def test_calls(name, made):
    ours, stock = CALLS[name]
    x = torch.randn(5, 8)
    with torch.inference_mode():
        given = x.clone() if made == "inside" else x
        y = ours(given)
        assert y.is_inference() and not y.requires_grad
        close(y, stock(given))
        close(y.mul_(2), 2 * stock(given))


def model():
    torch.manual_seed(0)
    stock = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))
    return stock, fg.fuse(copy.deepcopy(stock))


@made
@pytest.mark.parametrize("autocast", (False, True))
def test_models(made, autocast):
    stock, ours = model()
    x = torch.randn(5, 8)
    for _ in range(2):  # first, and after a step outside
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            given = x.clone() if made == "inside" else x
            expected = stock(given)
            for _ in range(2):
                y = ours(given)
                assert y.is_inference() and y.dtype == expected.dtype
                close(y, expected, **({"rtol": 3e-2, "atol": 3e-2} if autocast else {}))
        y = ours(x)
        close(torch.autograd.grad(y.sum(), ours[0].weight), torch.autograd.grad(stock(x).sum(), stock[0].weight))


def test_a_tensor_of_inference_outside():
    stock, ours = model()
    with torch.inference_mode():
        x = torch.randn(5, 8)
    with torch.no_grad():
        close(ours(x), stock(x))
    for m in (stock, ours):
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
            m(x)


def test_training_inside():
    stock, ours = model()
    x = torch.randn(5, 8)
    with torch.inference_mode(), torch.inference_mode(False):
        first, second = (torch.autograd.grad(m(x).square().sum(), list(m.parameters())) for m in (ours, stock))
    close(first, second)


def test_laplacian():
    _, ours = model()
    x = torch.randn(5, 8)
    expected = fg.laplacian(ours, x)
    with torch.inference_mode():
        for given in (x, x.clone()):
            r = fg.laplacian(ours, given)
            assert r.laplacian.is_inference()
            close(r.laplacian, expected.laplacian.detach())


@made
def test_c_plus_plus_serves_it(made):
    x = torch.randn(5, 8)
    with torch.inference_mode():
        y = backends.node.layer(x.clone() if made == "inside" else x, W, B, "tanh", 0.0, False)
        close(y, F.linear(x, W, B).tanh())
