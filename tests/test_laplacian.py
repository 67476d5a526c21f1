"""Laplacians and their like of whole models, and their gradients, are those of nested autograd."""

import nested
import pytest
import torch
from operator_models import MODELS, model, network, points
from torch import nn
from torch.testing import assert_close

import fusegrad as fg

models = pytest.mark.parametrize("name", MODELS)
fused = pytest.mark.parametrize("fused", (False, True), ids=("stock", "fused"))


def close(mine, truth):
    assert_close(mine, truth, rtol=1e-9, atol=1e-10)


@models
@fused
def test_derivatives(name, fused):
    net, x = model(name, fused), points(5, 3).requires_grad_()
    y, jacobian, hessian = nested.hessians(net, x)
    for _ in range(2):  # the first asks whether rows are apart
        r = fg.laplacian(net, x)
        close(r.value, y)
        close(r.jacobian, jacobian)
        close(r.laplacian, hessian.diagonal(dim1=-2, dim2=-1).sum(-1))
    close(fg.hessian_diagonal(net, x), hessian.diagonal(dim1=-2, dim2=-1))
    with torch.no_grad():
        without = fg.laplacian(net, x)
    for t, same in zip(without, r, strict=True):
        assert not t.requires_grad
        close(t, same.detach())


@models
@fused
def test_gradients(name, fused):
    """In the parameters and in x, of the first and the second order."""
    net, x = model(name, fused), points(4, 3).requires_grad_()
    y, jacobian, hessian = nested.hessians(net, x)
    r = fg.laplacian(net, x)
    on = [x, *(p for p in net.parameters() if p.requires_grad)]
    results = []
    for found in (r, (y, jacobian, hessian.diagonal(dim1=-2, dim2=-1).sum(-1))):
        loss = sum(t.sin().square().sum() for t in found)
        first = torch.autograd.grad(loss, on, create_graph=True, allow_unused=True, materialize_grads=True)
        second = torch.autograd.grad(
            sum(g.square().sum() for g in first), on, allow_unused=True, materialize_grads=True
        )
        results.append((*first, *second))
    for mine, truth in zip(*results, strict=True):
        assert_close(mine, truth, rtol=1e-8, atol=1e-8 * (1 + truth.abs().max().item()))


def test_directions():
    net, x = model("ModifiedMLP"), points(5, 3).requires_grad_()
    _, jacobian, hessian = nested.hessians(net, x)
    alike, own = points(3, 2), points(5, 3, 4)
    for s in (alike, own):
        r = fg.laplacian(net, x, directions=s)
        full = s.expand(5, *s.shape[-2:])
        close(r.jacobian, jacobian @ full)
        close(r.laplacian, torch.einsum("bnij,bir,bjr->bn", hessian, full, full))
    heat = torch.eye(3, dtype=x.dtype)[:, :2]  # the Laplacian in space, of (x, y, t)
    close(fg.laplacian(net, x, directions=heat).laplacian, hessian[..., 0, 0] + hessian[..., 1, 1])


@pytest.mark.parametrize("name", ("tanh", "ModifiedMLP", "a model that no rule follows"))
@fused
def test_drift(name, fused):
    """A term of the first order beside the Laplacian, and gradients in all that it depends on."""
    net = nothing_known if name.startswith("a model") else model(name, fused)
    x, alike, own = points(20, 3).requires_grad_(), points(3).requires_grad_(), points(20, 3).requires_grad_()
    y, jacobian, hessian = nested.hessians(net, x)
    on = [x, *(net.parameters() if isinstance(net, nn.Module) else ())]
    unused = {"allow_unused": True, "materialize_grads": True}
    for b in (alike, own):
        for s in (None, points(3, 2), points(20, 3, 2)):
            r = fg.laplacian(net, x, drift=b, directions=s)
            full = torch.eye(3, dtype=x.dtype) if s is None else s
            truth = torch.einsum("bnij,bir,bjr->bn", hessian, *[full.expand(20, 3, -1)] * 2)
            truth = truth + torch.einsum("bni,bi->bn", jacobian, b.expand(20, 3))
            close(r.value, y)
            close(r.jacobian, jacobian @ full)
            close(r.laplacian, truth)
            for mine, true in zip(
                torch.autograd.grad(r.laplacian.sin().sum(), [b, *on], **unused),
                torch.autograd.grad(truth.sin().sum(), [b, *on], retain_graph=True, **unused),
                strict=True,
            ):
                assert_close(mine, true, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        close(fg.laplacian(net, x, drift=b, samples=2).value, y)


def nothing_known(x):
    return Cubes.apply(x).sum(-1, keepdim=True) * x


class Cubes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


@pytest.mark.parametrize("distribution", ("rademacher", "normal", "sparse"))
def test_samples_are_right_on_average(distribution):
    net, x = model("tanh"), points(2, 3)
    generator = torch.Generator().manual_seed(0)
    exact = fg.laplacian(net, x).laplacian
    n = 4000
    found = fg.laplacian(net, x, samples=n, distribution=distribution, generator=generator).laplacian
    spread = torch.stack(
        [fg.laplacian(net, x, samples=1, distribution=distribution, generator=generator).laplacian for _ in range(100)]
    ).std(0)
    assert ((found - exact).abs() < 5 * spread / n**0.5 + 1e-12).all()
    again = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    a, b = (fg.laplacian(net, x, samples=3, distribution=distribution, generator=g).laplacian for g in again)
    assert torch.equal(a, b)


@pytest.mark.parametrize("shape", ((3,), (1, 3), (0, 3), (2, 0, 3), (2, 4, 3)), ids=str)
def test_shapes(shape):
    net, x = model("silu"), points(*shape).requires_grad_()
    y, jacobian, hessian = nested.hessians(net, x)
    r = fg.laplacian(net, x)
    close(r.value, y)
    close(r.jacobian, jacobian)
    close(r.laplacian, hessian.diagonal(dim1=-2, dim2=-1).sum(-1))
    close(fg.hessian_diagonal(net, x), hessian.diagonal(dim1=-2, dim2=-1))


@pytest.mark.parametrize("d", (1, 2, 10, 100))
def test_dimensions(d):
    torch.manual_seed(0)
    net, x = network(d, 8, 1, act=nn.GELU).double(), points(3, d).requires_grad_()
    _, _, hessian = nested.hessians(net, x)
    close(fg.laplacian(net, x).laplacian, hessian.diagonal(dim1=-2, dim2=-1).sum(-1))


def test_frozen_parameters_and_a_model_that_does_not_depend_on_x():
    net, x = model("tanh"), points(4, 3)
    net[0].requires_grad_(False)
    r = fg.laplacian(net, x)
    r.laplacian.square().sum().backward()
    assert net[0].weight.grad is None and net[2].weight.grad is not None
    net.requires_grad_(False)
    assert not fg.laplacian(net, x).laplacian.requires_grad
    r = fg.laplacian(lambda x: torch.ones(4, 2, dtype=x.dtype), x)
    assert r.jacobian.shape == (4, 2, 3) and not r.jacobian.any() and not r.laplacian.any()
    r = fg.laplacian(lambda x: x.detach() ** 2, x)
    assert not r.jacobian.any() and not r.laplacian.any()


def test_gradients_in_x_of_what_is_no_leaf():
    net, leaf = model("Fourier"), points(4, 3).requires_grad_()
    mine, truth = [], []
    for x, found in ((leaf * 2, mine), (leaf * 2, truth)):
        lap = (
            fg.laplacian(net, x).laplacian if found is mine else nested.hessians(net, x)[2].diagonal(0, -2, -1).sum(-1)
        )
        found.append(torch.autograd.grad(lap.sum(), leaf)[0])
    close(mine, truth)


@pytest.mark.parametrize("d", (1, 2, 3, 4))
def test_bilaplacian(d):
    x = points(3, d).requires_grad_()
    net = network(d, 6, 2).double()
    lap = lambda x: nested.hessians(net, x)[2].diagonal(dim1=-2, dim2=-1).sum(-1)
    _, _, hessian = nested.hessians(lap, x)
    found, truth = fg.bilaplacian(net, x), hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
    close(found, truth)
    on = [x, *list(net.parameters())[:-1]]
    close(*(torch.autograd.grad(y.sin().sum(), on) for y in (found, truth)))


def test_bilaplacian_of_a_function():
    x = points(3, 2)
    close(fg.bilaplacian(lambda x: x.square().sum(-1).square(), x), torch.full((3,), 64.0, dtype=x.dtype))


def test_norms():
    """Torch's own third derivatives of LayerNorm and InstanceNorm are wrong: the truth is the formula, written out."""
    rms = lambda h: h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    for norm, by_hand in (
        (nn.LayerNorm(8), lambda h: rms(h - h.mean(-1, keepdim=True))),
        (nn.RMSNorm(8, eps=1e-5), rms),
        (lambda h: nn.InstanceNorm1d(1)(h[:, None])[:, 0], lambda h: rms(h - h.mean(-1, keepdim=True))),
        (nn.Softmax(-1), lambda h: h.exp() / h.exp().sum(-1, keepdim=True)),
    ):  # fmt: skip
        torch.manual_seed(0)
        first, last, x = nn.Linear(3, 8).double(), nn.Linear(8, 2).double(), points(4, 3).requires_grad_()
        if isinstance(norm, nn.Module):
            norm.double()
        lap = fg.laplacian(lambda x: last(norm(first(x))), x).laplacian
        _, _, hessian = nested.hessians(lambda x: last(by_hand(first(x))), x)
        truth = hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
        close(lap, truth)
        on = [first.weight, last.weight, x]
        close(torch.autograd.grad(lap.square().sum(), on), torch.autograd.grad(truth.square().sum(), on))
