"""An activation, and a product, of tensors with streams as one op each: as torch's functions make them."""

import pytest
import torch
from torch.testing import assert_close

import fusegrad as fg
from fusegrad import backends
from fusegrad.activations import REGISTRY
from fusegrad.operators import elementwise
from fusegrad.operators.layers import act_streams
from fusegrad.operators.streams import Rules

from cases import DEVICE

pytestmark = pytest.mark.skipif(backends.node is None or DEVICE != "cpu", reason="there are no C++ nodes")

SHAPES = [(33,), (7, 5), (1, 1), (3, 40, 9), (300, 1), (2, 1000)]


def draw(*shape, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()


def gradients(made, given):
    """First ones, and those of a sum of their squares."""
    y, (t, l) = made  # noqa: E741
    loss = y.sin().sum() + t.cos().sum() + (0 if l is None else (l * (y + 1)).sum())
    first = torch.autograd.grad(loss, given, retain_graph=True)
    again = torch.autograd.grad(loss, given, create_graph=True)
    of = sum(g.square().sum() for g in again)
    return *first, *again, *torch.autograd.grad(of, given, allow_unused=True, materialize_grads=True)


def same(results, **tolerance):
    tolerance = tolerance or {"rtol": 1e-9, "atol": 1e-9}
    for mine, truth in zip(*results, strict=True):
        assert_close(mine, truth, **tolerance)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("r, with_l", ((1, True), (3, False), (20, True)))
@pytest.mark.parametrize("act", ("tanh", "silu", "sin", "relu"))
def test_activation(shape, r, with_l, act):
    z, t, l = draw(*shape), draw(r, *shape), draw(1, *shape) if with_l else None  # noqa: E741
    given, rules, param = (
        [s for s in (z, t, l) if s is not None],
        Rules(2, r, summed=True),
        REGISTRY[act].default or 0.0,
    )
    results = []
    for run in (elementwise.activated, act_streams):
        y, (ty, ly) = run(rules, z, (t, l), act, param)
        ly = torch.zeros(1, *shape, dtype=y.dtype) if ly is None else ly
        results.append((y, ty, ly, *gradients((y, (ty, ly)), given)))
    same(results)


@pytest.mark.parametrize("act", REGISTRY)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_every_activation(act, dtype):
    z, t, l = draw(45, dtype=dtype), draw(2, 45, dtype=dtype), draw(1, 45, dtype=dtype)  # noqa: E741
    param, rules, results = REGISTRY[act].default or 0.0, Rules(2, 2, summed=True), []
    for run, given in ((elementwise.activated, (z, t, l)), (act_streams, tuple(s.double() for s in (z, t, l)))):
        y, (ty, ly) = run(rules, given[0], given[1:], act, param)
        found = torch.autograd.grad((ty * y).sum() + (0 if ly is None else ly.sin().sum()), (z, t, l))
        results.append([s.double() for s in (y, ty, *found)])
    allowed = 1e-5 if dtype is torch.float32 else 1e-10
    for mine, truth in zip(*results, strict=True):
        assert_close(mine, truth, rtol=10 * allowed, atol=allowed * (10 + truth.abs().max().item()))


PAIRS = [
    ((7, 5), (7, 5)),
    ((7, 5), (7, 1)),
    ((40, 1), (40, 300)),
    ((9,), (1,)),
    ((2, 3, 1), (2, 3, 1)),
    ((600,), (600,)),
]
STREAMS = ("tl", "tl"), ("t", "tl"), ("tl", "t"), ("t", "t"), ("", "tl"), ("t", "l")


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("of", STREAMS, ids=str)
def test_product(pair, of):
    r, tensors = 3, []
    for seed, (shape, has) in enumerate(zip(pair, of, strict=True)):
        t = draw(r, *shape, seed=seed + 10) if "t" in has else None
        last = draw(1, *shape, seed=seed + 20) if "l" in has else None
        tensors += [draw(*shape, seed=seed), t, last]
    a, ta, la, b, tb, lb = tensors
    given, rules, results = [s for s in tensors if s is not None], Rules(2, r, summed=True), []
    for made in (
        elementwise.multiplied(rules, a, (ta, la), b, (tb, lb)),
        (a * b, rules.product(torch.mul, a, (ta, la), b, (tb, lb))),
    ):
        y, (t, l) = made  # noqa: E741
        l = torch.zeros(1, *y.shape, dtype=y.dtype) if l is None else l  # noqa: E741
        results.append((y, t, l, *gradients((y, (t, l)), given)))
    same(results)


def test_only_some_gradients_and_cotangents():
    a, ta, b, tb = draw(6, 4), draw(2, 6, 4).detach(), draw(6, 1, seed=1).detach(), draw(2, 6, 1, seed=2)
    rules = Rules(2, 2, summed=True)
    results = []
    for y, (t, l) in (  # noqa: E741
        elementwise.multiplied(rules, a, (ta, None), b, (tb, None)),
        (a * b, rules.product(torch.mul, a, (ta, None), b, (tb, None))),
    ):
        results.append(
            [
                g
                for of in (y, t, l)
                for g in torch.autograd.grad(of.sum(), [a, tb], retain_graph=True, allow_unused=True)
            ]
        )
    for mine, truth in zip(*results, strict=True):
        assert_close(
            torch.zeros(()) if mine is None else mine.sum(),
            torch.zeros((), dtype=mine.dtype) if truth is None else truth.sum(),
        )


def test_what_is_laid_out_otherwise():
    z, t = draw(5, 8).mT, draw(8, 5, 2).movedim(-1, 0)
    rules = Rules(2, 2, summed=True)
    same([[y, *s] for y, s in (run(rules, z, (t, t[:1]), "tanh", 0.0) for run in (elementwise.activated, act_streams))])
    made = elementwise.multiplied(rules, z, (t, None), z, (t, None))
    y, (first, second) = made
    same([(y, first, second), (z * z, 2 * z * t, 2 * t.square().sum(0, keepdim=True))])


def test_nan_and_nothing():
    z, t = torch.tensor([1.0, torch.nan, 2.0]), torch.ones(1, 3)
    y, (first, second) = elementwise.activated(Rules(2, 1, summed=True), z, (t, None), "tanh", 0.0)
    for s in (y, first[0], second[0]):
        assert s.isnan().tolist() == [False, True, False]
    nothing = torch.empty(0, 3)
    assert elementwise.activated(Rules(2, 1, summed=True), nothing, (torch.empty(1, 0, 3), None), "tanh", 0.0) is None


def test_refused():
    with pytest.raises(RuntimeError, match="act_streams"):
        torch.ops.fusegrad.act_streams(torch.ones(3), torch.ones(2, 4), None, "tanh", 0.0)
    with pytest.raises(RuntimeError, match="no kernel of act"):
        torch.ops.fusegrad.act_streams(torch.ones(3), torch.ones(2, 3), None, "nothing", 0.0)
    with pytest.raises(RuntimeError, match="multiply_streams"):
        torch.ops.fusegrad.multiply_streams(torch.ones(3, 2), torch.ones(1, 3, 2), None, torch.ones(2, 3), None, None)


def test_a_model_takes_them(monkeypatch):
    calls = []
    for name in ("act_streams", "multiply_streams"):
        run = getattr(backends.node, name)
        monkeypatch.setattr(backends.node, name, lambda *args, run=run, name=name: calls.append(name) or run(*args))
    model = lambda x: torch.sigmoid(x[:, :1]) * (1 - x[:, 1:]) * x.square()
    x = draw(9, 2)
    for _ in range(2):
        calls.clear()
        found = fg.laplacian(model, x)
    assert calls.count("act_streams") == 2 and calls.count("multiply_streams") == 2
    hessian = torch.func.vmap(torch.func.hessian(lambda p: model(p[None])[0]))(x)
    assert_close(found.laplacian, hessian.diagonal(dim1=-2, dim2=-1).sum(-1))
