"""Derivatives along a direction as one op, of a chain and of an activation: as those of its layers one by one."""

import copy
import math

import nested
import pytest
import torch
from program_models import MODELS
from served_streams import calls_of
from test_streamed import network
from torch import nn
from torch.testing import assert_close

import fusegrad as fg
from fusegrad import backends
from fusegrad.activations import REGISTRY
from fusegrad.operators import elementwise, streamed, trust
from fusegrad.operators.layers import act_streams, one_by_one
from fusegrad.operators.streams import Rules, joined, whole
from fusegrad.ops.chain_streams import TAYLOR, TAYLOR_BACKWARD

from cases import DEVICE

pytestmark = pytest.mark.skipif(not backends.CHAINS or DEVICE != "cpu", reason="there is no kernel of chains")

orders = pytest.mark.parametrize("order", (1, 2, 3, 4))


@pytest.fixture(params=("C++", "Python"))
def served(request, monkeypatch):
    return calls_of(TAYLOR, "taylor", request.param, monkeypatch)


# whose derivatives torch does not take so often, or not rightly
TORCH_STOPS = {"hardsigmoid": lambda x: (x / 6 + 0.5).clamp(0, 1), "softplus": lambda x: torch.log1p(x.exp())}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def gradients(results, on):
    """First ones, and those of a sum of their squares."""
    loss = sum((k * t).sin().sum() for k, t in enumerate(results, 1))
    take = lambda of, **more: torch.autograd.grad(of, on, allow_unused=True, materialize_grads=True, **more)
    first, again = take(loss, retain_graph=True), take(loss, create_graph=True)
    return *first, *again, *take(sum(g.square().sum() for g in again))


def same(results, tolerance=1e-9):
    for mine, truth in zip(*results, strict=True):
        largest = truth.abs().max().item() if truth.numel() else 0
        assert_close(mine, truth, rtol=tolerance, atol=tolerance * (1 + largest))


CASES = [
    ((40,), (3, 32, 20, 1), "alike"),
    ((7, 3), (5, 64, 2), "each"),
    ((33,), (1, 40, 1), "each of all orders"),
    ((), (4, 6, 1), "each"),
    ((0,), (3, 5, 1), "alike"),
    ((17,), (2, 9, 9, 3), "three"),
    ((5,), (2, 33, 1), "three of all orders"),
    ((70,), (200, 96, 1), "each"),
]


@orders
@pytest.mark.parametrize("lead, widths, of", CASES, ids=str)
@pytest.mark.parametrize("act, bias, ends", (("tanh", True, False), ("silu", False, True), ("relu", True, True)))
def test_numbers_and_gradients(served, order, lead, widths, of, act, bias, ends):
    chain, count = network(widths, act, bias=bias, ends=ends), 3 if "three" in of else 1
    x = draw(*lead, widths[0]).requires_grad_()
    shape = (count, *((1,) * len(lead) if of == "alike" else lead), widths[0])
    streams = [draw(*shape, seed=k) / 3 if k == 0 or "all" in of else None for k in range(order)]
    on = [x, *(t for q in chain for t in q[:2] if t is not None)]
    if of != "alike":
        on += [s.requires_grad_() for s in streams if s is not None]
    rules, results = Rules(order, count, summed=False), []
    for run in (lambda *args: streamed.streamed(*args, one_by_one), one_by_one):
        y, made = run(rules, x, tuple(streams), chain)
        made = [torch.zeros(count, *y.shape, dtype=y.dtype) if s is None else whole(s, y.shape) for s in made]
        results.append((y, *made, *gradients((y, *made), on)))
        with torch.no_grad():
            results[-1] += (run(rules, x, tuple(streams), chain)[0],)
    assert len(served) == 2
    same(results)


@orders
@pytest.mark.parametrize("act", REGISTRY)
def test_every_activation(order, act):
    """Against nested autograd, of the formulas in torch."""
    param = REGISTRY[act].default or 0.0
    chain = [q._replace(w=q.w.detach().mul(0.5).requires_grad_()) for q in network((3, 17, 16, 2), act)]

    def model(x):
        for w, b, name, _ in chain:
            x = x @ w.mT + b
            if name != "identity":
                x = TORCH_STOPS.get(act, lambda x: REGISTRY[act].value(x, param))(x)
        return x

    x, v = draw(9, 3).requires_grad_(), draw(9, 3, seed=1)
    y, made = streamed.streamed(Rules(order, 1, summed=False), x, (v[None], *(None,) * (order - 1)), chain, one_by_one)
    results, on = [], [x, *(t for q in chain for t in q[:2])]
    for found in ((y, *(s[0] for s in made)), nested.along(model, x, v, order)):
        weighed = sum((t * draw(*t.shape, seed=k)).sum() for k, t in enumerate(found))
        results.append((*found, *torch.autograd.grad(weighed, on)))
    same(results, 1e-7)


@pytest.mark.skipif(backends.node is None, reason="there are no C++ nodes")
@orders
@pytest.mark.parametrize("shape", ((33,), (7, 5), (3, 40, 9), (2, 1000)), ids=str)
@pytest.mark.parametrize("given", ("all", "first", "but the first and last"))
@pytest.mark.parametrize("act", ("tanh", "gelu", "relu"))
def test_activation(order, shape, given, act):
    z = draw(*shape).requires_grad_()
    there = {"all": range(order), "first": [0]}.get(given, [0, *range(1, order - 1)])
    streams = [draw(1, *shape, seed=k + 1).requires_grad_() if k in there else None for k in range(order)]
    on, results = [z, *(s for s in streams if s is not None)], []
    for run in (elementwise.activated, act_streams):
        y, made = run(Rules(order, 1, summed=False), z, tuple(streams), act, 0.0)
        made = joined(made, y)
        results.append((y, made, *gradients((y, made), on)))
    same(results)


@orders
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_precision(order, dtype):
    """In float32 errors are those of rounding; of a wide layer in all orders."""
    net = nn.Sequential(nn.Linear(2, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1)).to(dtype)
    x, v = draw(100, 2).to(dtype), torch.tensor([1.0, 0.5], dtype=dtype)
    found = fg.directional(net, x, v, order=order)
    true = nested.along(net.double(), x.double().requires_grad_(), v.double(), order)
    for mine, truth in zip(found, true, strict=True):
        assert (mine.double() - truth).abs().max() <= 200 * torch.finfo(dtype).eps * truth.abs().max()


def test_nan_and_nothing():
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
    x = torch.tensor([[1.0, 2.0], [math.nan, 0.0], [0.0, 1.0]])
    for y in fg.directional(net, x, torch.ones(2), order=4):
        assert y.isnan().flatten().tolist() == [False, True, False]
    found = fg.directional(net, x[:0], torch.ones(2), order=4)
    assert [y.shape for y in found] == [(0, 1)] * 5
    found[4].sum().backward()
    assert net[0].weight.grad.count_nonzero() == 0


def test_refused():
    x, w = torch.ones(3, 2), torch.ones(1, 2)
    with pytest.raises(RuntimeError, match="chain_taylor"):
        TAYLOR(x, torch.ones(4, 3, 2), None, [w, None], "tanh 0.0", False)
    with pytest.raises(RuntimeError, match="act_taylor"):
        torch.ops.fusegrad.act_taylor(x, torch.ones(4, 3, 2), None, "tanh", 0.0)
    with pytest.raises(RuntimeError, match="has no derivative"):
        TAYLOR(x.requires_grad_(), torch.ones(2, 3, 2), None, [w, None], "tanh 0.0", False)[0].sum().backward()


def test_ops_check_what_was_saved():
    x, t, w = torch.ones(3, 2), torch.ones(3, 3, 2), torch.ones(1, 2)
    with pytest.raises(RuntimeError, match="chain_taylor_backward: saved"):
        TAYLOR_BACKWARD(None, None, None, x, t, None, [w, None], torch.empty(1), "tanh 0.0", 0)


def test_a_model_takes_them(monkeypatch):
    """A chain inside a model that was fused, and activations of one that was not."""
    if backends.node is None:
        pytest.skip("no C++ nodes")
    calls = []
    for name in ("taylor", "act_taylor"):
        run = getattr(backends.node, name)
        monkeypatch.setattr(backends.node, name, lambda *args, run=run, name=name: calls.append(name) or run(*args))
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    model, x, v = lambda x: x[:, :1].sinh() * net(x), draw(9, 2).requires_grad_(), draw(2)
    truth = nested.along(model, x, v, 4)
    for fused in (False, True):
        if fused:
            fg.fuse(net)
        fg.directional(model, x, v, order=4)
        calls.clear()
        found = fg.directional(model, x, v, order=4)
        assert calls == (["taylor"] if fused else ["taylor", "act_taylor", "taylor"])
        same([found, truth], 1e-10)


@pytest.mark.skipif(backends.node is None, reason="there are no C++ nodes")
@orders
@pytest.mark.parametrize("name", MODELS)
def test_programs(order, name, monkeypatch):
    """A model whose source says all that it does is one op, and its gradients those of nested autograd."""
    monkeypatch.setattr(trust, "is_trusted", lambda *args: True)
    calls, run = [], backends.node.program_taylor
    monkeypatch.setattr(backends.node, "program_taylor", lambda *args: calls.append(1) or run(*args))
    torch.manual_seed(0)
    model = MODELS[name]().double()
    x, v = draw(9, 3).requires_grad_(), draw(3)
    on, results = [x, *model.parameters()], []
    for found in (fg.directional(model, x, v, order=order), nested.along(model, x, v, order)):
        first = torch.autograd.grad(
            sum(t.sin().sum() for t in found), on, create_graph=order < 3, allow_unused=True, materialize_grads=True
        )
        of = sum(g.square().sum() for g in first)
        second = torch.autograd.grad(of, on, allow_unused=True, materialize_grads=True) if order < 3 else ()
        results.append((*found, *first, *second))
    assert calls
    same(results, 1e-8)


@orders
def test_kept(order):
    """A Sequential that was fused: the same from the second call on, also after a weight was replaced."""
    net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2)).double()
    stock, x = copy.deepcopy(net), draw(9, 3).requires_grad_()
    fg.fuse(net)
    for v in (draw(3), draw(3), draw(9, 3), draw(9, 3).requires_grad_()):
        on, results = [x, *net.parameters()][:-1], []
        found, truth = fg.directional(net, x, v, order=order), nested.along(stock, x, v, order)
        results.append((*found, *gradients(found, on)))
        results.append((*truth, *gradients(truth, [x, *stock.parameters()][:-1])))
        same(results, 1e-8)
        with torch.no_grad():
            same([fg.directional(net, x, v, order=order), truth])
            net[0].weight = nn.Parameter(net[0].weight * 0.9)
            stock[0].weight = nn.Parameter(stock[0].weight * 0.9)
    y = fg.directional(net, x[:0], draw(3), order=order)[order]
    assert y.shape == (0, 2)


def test_results_can_be_written_to():
    net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2)).double()
    for _ in range(2):
        for y in fg.directional(net, draw(9, 3), draw(3), order=4):
            y += 1
        fg.fuse(net)


def test_transforms():
    """Under torch.func, by the layers; compiled, too."""
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x, v = draw(5, 2), draw(2)
    run = lambda x: fg.directional(net, x, v, order=4)[4]
    truth = nested.along(net, x.requires_grad_(), v, 5)
    x = x.detach()
    assert_close(torch.vmap(run)(x), truth[4])
    assert_close(torch.func.jvp(run, (x,), (v.expand(5, 2),))[1], truth[5])
    (g,) = torch.autograd.grad(truth[4].sum(), [net[0].weight])
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(x)
    assert_close(compiled, truth[4])
    assert_close(torch.autograd.grad(compiled.sum(), [net[0].weight]), (g,))


@pytest.mark.parametrize(("width", "d"), ((128, 5), (129, 5), (256, 3), (257, 3)))
def test_diagonals_of_wide_layers_go_layer_by_layer(width, d, served):
    """Which takes fewer products; the numbers are the same."""
    net = nn.Sequential(
        nn.Linear(d, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    ).double()
    x = torch.rand(4, d, dtype=torch.float64)
    h = fg.hessian_diagonal(net, x)
    assert bool(served) is (width in (128, 256))
    _, _, hessian = nested.hessians(net, x.requires_grad_())
    assert_close(h, hessian.diagonal(dim1=-2, dim2=-1))
