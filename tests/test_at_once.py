"""What is small takes one call of C++, in plain eager mode: as the limits are, which are off in all other tests."""

import pytest
import torch
from conftest import SMALL
from torch.autograd import grad

import fusegrad as fg
from fusegrad import backends, routing
from fusegrad.activations import REGISTRY
from fusegrad.ops.operands import DTYPES

pytestmark = pytest.mark.skipif(backends.node is None, reason="no C++ nodes")


def is_in_cpp(fn):
    return type(fn).__name__ == "CppFunction"


@pytest.mark.parametrize("x_needs_one", (False, True), ids=("weights", "input"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_layers_take_the_node(dtype, x_needs_one, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(routing, name, value)
    x, w, b = (torch.randn(*size, dtype=dtype) for size in ((3, 4), (5, 4), (5,)))
    w.requires_grad_()
    x.requires_grad_(x_needs_one)
    y = fg.linear_act(x, w, b, act="tanh")
    assert is_in_cpp(y.grad_fn) and y.grad_fn.name() == "LinearActBackward"
    torch.testing.assert_close(y, torch.tanh(torch.nn.functional.linear(x, w, b)))
    torch.testing.assert_close(*(grad(t.sum(), w) for t in (y, torch.tanh(torch.nn.functional.linear(x, w, b)))))
    with torch.no_grad():
        assert torch.equal(fg.linear_act(x, w, b, act="tanh"), y)


@pytest.mark.parametrize("name", ("silu", "relu", "square"))
def test_in_16_bits_torch_serves_but_the_smallest_tensors(name, monkeypatch):
    """There it is slower with those that it computes as fast in 32 bits."""
    for limit, value in SMALL.items():
        monkeypatch.setattr(routing, limit, value)
    for dtype in DTYPES[2:]:
        z = torch.linspace(-7, 7, routing.SMALL_TENSOR + 1, dtype=dtype, requires_grad=True)
        assert is_in_cpp(fg.act(z, name).grad_fn) and not is_in_cpp(fg.act(z[1:], name).grad_fn)


STOCK = "exp", "hardswish", "hardtanh", "leaky_relu", "relu", "relu6", "sigmoid", "silu", "square", "tanh"


@pytest.mark.parametrize("name", STOCK)
def test_torch_serves_small_tensors(name, monkeypatch):
    """Of some activations, with their parameter, as it serves the module."""
    for limit, value in SMALL.items():
        monkeypatch.setattr(routing, limit, value)
    z, a = torch.linspace(-7, 7, 29, requires_grad=True), REGISTRY[name]
    for param in (None, 0.3) if a.param else (None,):
        y = fg.act(z, name, param)
        assert not is_in_cpp(y.grad_fn)
        assert torch.equal(y, a.value(z, a.default if param is None else param))
