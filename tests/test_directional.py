"""Derivatives along a direction, to the fourth order, of whole models, and their gradients."""

import nested
import pytest
import torch
from operator_models import MODELS, model, points
from torch.testing import assert_close

import fusegrad as fg

models = pytest.mark.parametrize("name", MODELS)


@models
@pytest.mark.parametrize("fused", (False, True), ids=("stock", "fused"))
def test_derivatives(name, fused):
    net, x, v = model(name, fused), points(3, 3).requires_grad_(), points(6, 3)[3:]
    found, truth = fg.directional(net, x, v, order=4), nested.along(net, x, v, 4)
    for mine, true in zip(found, truth, strict=True):
        assert_close(mine, true, rtol=1e-8, atol=1e-8 * (1 + true.abs().max().item()))
    on = [x, *net.parameters()]
    mine, true = (
        torch.autograd.grad(sum(t.sin().sum() for t in of), on, allow_unused=True, materialize_grads=True)
        for of in (found, truth)
    )
    for a, b in zip(mine, true, strict=True):
        assert_close(a, b, rtol=1e-7, atol=1e-7 * (1 + b.abs().max().item()))


@pytest.mark.parametrize("order", (1, 2, 3, 4))
def test_orders(order):
    net, x = model("tanh"), points(4, 3)
    v = torch.tensor([1.0, 0.0, 2.0], dtype=x.dtype)
    found = fg.directional(net, x, v, order=order)
    assert len(found) == order + 1
    assert_close(found, tuple(fg.directional(net, x, v.expand(4, 3), order=4)[: order + 1]))


def test_along_an_axis():
    """The derivatives along axes are those of laplacian and hessian_diagonal."""
    net, x = model("Hard"), points(4, 3)
    r, h = fg.laplacian(net, x), fg.hessian_diagonal(net, x)
    for i, axis in enumerate(torch.eye(3, dtype=x.dtype)):
        y, first, second = fg.directional(net, x, axis, order=2)
        assert_close(y, r.value)
        assert_close(first, r.jacobian[..., i])
        assert_close(second, h[..., i])


def test_gradients_in_the_direction():
    net, x, v = model("silu"), points(4, 3), points(3).requires_grad_()
    _, first = fg.directional(net, x, v)
    (g,) = torch.autograd.grad(first.sum(), v)
    assert_close(g, fg.laplacian(net, x).jacobian.sum((0, 1)))
