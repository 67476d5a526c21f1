"""A chain with its streams as one op: its numbers and gradients are those of its layers one by one."""

from itertools import pairwise, permutations

import pytest
import torch
from served_streams import calls_of
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import fusegrad as fg
from fusegrad import backends, ops
from fusegrad.activations import REGISTRY
from fusegrad.operators import streamed
from fusegrad.operators.layers import one_by_one
from fusegrad.operators.streamed import Layer
from fusegrad.operators.streams import Rules
from fusegrad.ops.chain import MOST_LAYERS
from fusegrad.ops.chain_streams import STREAMS

from cases import DEVICE

pytestmark = pytest.mark.skipif(not backends.CHAINS or DEVICE != "cpu", reason="there is no kernel of chains")


@pytest.fixture(params=("C++", "Python"))
def served(request, monkeypatch):
    return calls_of(STREAMS, "streams", request.param, monkeypatch)


def network(widths, act="tanh", dtype=torch.float64, bias=True, ends=False):
    g = torch.Generator().manual_seed(1)
    made = []
    for i, (k, n) in enumerate(pairwise(widths)):
        w = (torch.randn(n, k, generator=g, dtype=torch.float64) / k**0.5).to(dtype).requires_grad_()
        b = torch.randn(n, generator=g, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
        last = i == len(widths) - 2 and not ends
        made.append(Layer(w, b, "identity" if last else act, REGISTRY[act].default or 0.0))
    return made


def run_one_by_one(rules, x, streams, chain):
    y, (ty, ly) = one_by_one(rules, x, streams, chain)
    return y, (ty, torch.zeros(1, *y.shape, dtype=y.dtype) if ly is None else ly)  # of what has no second derivative


def given(lead, d, r, alike, with_l, dtype=torch.float64):
    g = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
    t = draw(r, *(1,) * len(lead), d) if alike else draw(r, *lead, d)
    return draw(*lead, d).requires_grad_(), (t, draw(1, *lead, d) if with_l else None)


CASES = [
    ((40,), (3, 32, 20, 1), 3, True, False),
    ((7, 3), (5, 64, 2), 2, False, True),
    ((1,), (2, 9, 9, 3), 1, True, False),
    ((33,), (1, 40, 1), 20, False, False),
    ((), (4, 6, 1), 4, False, False),
    ((0,), (3, 5, 1), 3, True, False),
    ((70,), (3, 600, 1), 2, True, False),
    ((70,), (200, 96, 1), 5, False, False),  # of the first layer the gradient is made by blocks of what was given
    ((37,), (130, 70, 1), 2, False, True),
]


@pytest.mark.parametrize("lead, widths, r, alike, with_l", CASES, ids=str)
@pytest.mark.parametrize("act, bias, ends", (("tanh", True, False), ("silu", False, True), ("relu", True, True)))
def test_numbers_and_gradients(served, lead, widths, r, alike, with_l, act, bias, ends):
    chain = network(widths, act, bias=bias, ends=ends)
    x, streams = given(lead, widths[0], r, alike, with_l)
    if not alike:
        streams = tuple(s if s is None else s.requires_grad_() for s in streams)
    on = [
        x,
        *(s for s in streams if s is not None and s.requires_grad),
        *(t for q in chain for t in q[:2] if t is not None),
    ]
    rules, results = Rules(2, r, summed=True), []
    for run in (lambda *args: streamed.streamed(*args, one_by_one), run_one_by_one):
        y, (ty, ly) = run(rules, x, streams, chain)
        ty, ly = torch.broadcast_to(ty, (r, *y.shape)), torch.broadcast_to(ly, (1, *y.shape))
        loss = y.sin().sum() + ty.cos().sum() + (ly * (y + 1)).sum()
        first = torch.autograd.grad(loss, on, retain_graph=True)
        again = torch.autograd.grad(loss, on, create_graph=True)
        second = torch.autograd.grad(
            sum(g.square().sum() for g in again), on, allow_unused=True, materialize_grads=True
        )
        results.append((y, ty, ly, *first, *again, *second))
        with torch.no_grad():
            results[-1] += (run(rules, x, streams, chain)[1][1].expand_as(ly),)
    assert len(served) == 2
    for mine, truth in zip(*results, strict=True):
        assert_close(mine, truth, rtol=1e-9, atol=1e-9 * (1 + truth.abs().sum().item() ** 0.5))


@pytest.mark.parametrize("act", REGISTRY)
def test_every_activation(served, act):
    chain = [layer._replace(w=layer.w.detach().mul(0.3).requires_grad_()) for layer in network((3, 17, 16, 2), act)]
    x, streams = given((21,), 3, 3, True, False)
    results = []
    for run in (lambda *args: streamed.streamed(*args, one_by_one), run_one_by_one):
        y, (ty, ly) = run(Rules(2, 3, summed=True), x, streams, chain)
        ty = ty.expand(3, *y.shape)
        results.append((y, ty, ly, *torch.autograd.grad((ly * y + ty.sum(0)).sum(), [x, *(q.w for q in chain)])))
    assert len(served) == 1
    for mine, truth in zip(*results, strict=True):
        assert_close(mine, truth, rtol=1e-8, atol=1e-11 * (100 + truth.abs().max().item()))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("act", REGISTRY)
def test_values_far_out(act, dtype):
    """What is shared with the derivatives gives the values of the activation by itself, and its limits."""
    far = torch.cat([torch.logspace(-6, 4, 100), torch.tensor([torch.inf])])
    x = torch.cat([far, -far, torch.tensor([0.0, torch.nan])]).to(dtype).unsqueeze(1)
    param, one = REGISTRY[act].default or 0.0, torch.ones(1, 1, dtype=dtype)
    y, ty, _, _ = STREAMS(x, one, None, [one, None], f"{act} {param}", False)
    value = ops.act(x, None, act, param, 0)
    first = ops.act(x if REGISTRY[act].saves_input else value, None, act, param, 1)
    finite = x.isfinite()
    roundings = 1024 if act == "gelu_tanh" else 16  # e^2u, of a u to -350, has 2u roundings for one of u
    for mine, truth in ((y, value), (ty[0][finite], first[finite])):
        assert_close(mine, truth, rtol=roundings * torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny, equal_nan=True)


MODULES = {
    "tanh": nn.Tanh(), "silu": nn.SiLU(), "softplus": nn.Softplus(), "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
}  # fmt: skip


@pytest.mark.parametrize("act", MODULES)
def test_float32_error(act):
    """At most twice that of nested autograd, and a rounding, of each result and gradient, in four draws together."""

    def nested(net, x):
        x = x.detach().requires_grad_()
        y = net(x)
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        second = [torch.autograd.grad(g[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])]
        return y[:, 0], sum(second)

    def drawn():
        net = nn.Sequential(nn.Linear(3, 64), MODULES[act], nn.Linear(64, 64), MODULES[act], nn.Linear(64, 1))
        x = torch.randn(300, 3)
        for run, dtype in ((nested, torch.float64), (nested, torch.float32), (None, torch.float32)):
            net.to(dtype)
            if run is None:
                r = fg.laplacian(net, x.to(dtype))
                y, of_l = r.value[:, 0], r.laplacian[:, 0]
            else:
                y, of_l = run(net, x.to(dtype))
            yield y, of_l, *torch.autograd.grad(((of_l + y) ** 2).mean(), list(net.parameters()))

    draws = [
        [torch.cat([t.double().flatten() for t in of]) for of in zip(*run, strict=True)]
        for run in zip(*(list(drawn()) for _ in range(4)), strict=True)
    ]
    for truth, stock, mine in zip(*draws, strict=True):
        error, of_stock = ((t - truth).norm().item() for t in (mine, stock))
        assert error <= 2 * of_stock + torch.finfo(torch.float32).eps * truth.norm().item()


def test_the_flop_counter_counts_its_products():
    """Of 3-20-10-1 and 40 points: forward and backward, by hand."""
    chain, m, r = network((3, 20, 10, 1)), 40, 3
    first, second, last = 3 * 20, 20 * 10, 10
    hidden = (r + 2) * m * (second + last)  # of streams y, t_1, t_2, t_3, l

    def flops(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    def loss(x, streams):
        y, (ty, ly) = streamed.streamed(Rules(2, r, summed=True), x, streams, chain, one_by_one)
        return (y + ly).sum() + ty.sum()

    x, alike = given((m,), 3, r, True, False)
    _, own = given((m,), 3, r, False, False)
    _, own_with_l = given((m,), 3, r, False, True)
    assert flops(lambda: loss(x, alike)) == 2 * ((m + r) * first + hidden)
    assert flops(lambda: loss(x, own)) == 2 * (m * (1 + r) * first + hidden)
    assert flops(lambda: loss(x, own_with_l)) == 2 * (m * (2 + r) * first + hidden)
    run = loss(x, alike)
    of = lambda *on: flops(lambda: torch.autograd.grad(run, on, retain_graph=True))
    assert of(x) == 2 * (m * first + hidden)
    assert of(*(t for layer in chain for t in layer[:2])) == 2 * (m * first + 2 * hidden)
    assert of(chain[1].w) == 2 * m * (r + 2) * (second + last)
    run = loss(x, own)
    assert of(chain[0].w) == 2 * ((r + 2) * m * first + hidden)


def test_nan_stays_in_its_row():
    net = nn.Sequential(nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    x = torch.randn(40, 2, dtype=torch.float64)
    x[35, 1] = torch.nan
    r = fg.laplacian(net, x)
    assert r.laplacian.isnan().nonzero()[:, 0].tolist() == [35] and r.jacobian.isnan().any(-1).any(-1).sum() == 1


def test_a_module_that_stands_twice():
    """One activation, and one layer, in several places of a Sequential."""
    act, hidden, x = nn.Tanh(), nn.Linear(9, 9).double(), torch.randn(20, 3, dtype=torch.float64)
    first, end = nn.Linear(3, 9).double(), nn.Linear(9, 1).double()
    net = nn.Sequential(first, act, hidden, act, hidden, act, end)
    truth = fg.laplacian(lambda x: end(hidden(hidden(first(x).tanh()).tanh()).tanh()), x)
    for mine, expected in zip(fg.laplacian(net, x), truth, strict=True):
        assert_close(mine, expected)


def test_a_weight_that_changes_before_backward():
    net = nn.Sequential(nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 1))
    x = torch.randn(40, 2)
    loss = fg.laplacian(net, x).laplacian.sum()
    with torch.no_grad():
        net[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    loss = fg.laplacian(net, x).laplacian.sum()
    net[0].weight.data = net[0].weight.data.clone()
    with pytest.raises(RuntimeError, match="was given other data"):
        loss.backward()


def test_compiled_autograd(served):
    net = nn.Sequential(nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    x = torch.randn(40, 2, dtype=torch.float64)
    loss, parameters = fg.laplacian(net, x).laplacian.square().sum(), list(net.parameters())
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert [g is None for g in expected] == [False, False, False, True]  # the last bias, as in nested autograd
    loss = fg.laplacian(net, x).laplacian.square().sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward()
    for p, g in zip(net.parameters(), expected, strict=True):
        assert (p.grad is None) == (g is None)
        if g is not None:
            assert_close(p.grad, g)


def test_inside_of_a_model(served):
    """A Sequential that is a part of what is differentiated, after fuse."""
    net = nn.Sequential(nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    features = torch.randn(2, 3, dtype=torch.float64)

    def model(x):
        z = (x @ features).clone()  # which is not read
        return x[:, :1] * (1 - x[:, :1]) * net(torch.cat([z.sin(), z.cos()], -1)) + net[0].weight.sum() * x[:, 1:]

    x = torch.randn(25, 2, dtype=torch.float64, requires_grad=True)
    results = []
    for change in (lambda net: net, fg.fuse):
        change(net)
        for _ in range(2):  # the first time is watched
            r = fg.laplacian(model, x)
        loss = sum(t.sin().sum() for t in r)
        first = torch.autograd.grad(loss, [x, *net.parameters()], create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, *net.parameters()])
        results.append((*r, *first, *second))
    assert served
    for mine, truth in zip(*results, strict=True):
        assert_close(mine, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("order", permutations(range(3)), ids=str)
def test_directions_as_they_lie_in_memory(order, dtype):
    """They are read where they are, or copied: the numbers are the same."""
    for r, m, d in ((1, 70, 5), (2, 33, 40), (3, 1, 300), (16, 70, 230), (17, 45, 33), (40, 40, 20)):
        x, (t, second) = given((m,), d, r, alike=False, with_l=r % 2 == 0, dtype=dtype)
        second = None if second is None else second[0]
        weights = [w for layer in network((d, 20, 3), dtype=dtype) for w in layer[:2]]
        results = []
        for laid_out in (t, t.permute(order).contiguous().permute([order.index(i) for i in range(3)])):
            acts, ops_of = "tanh 0.0,identity 0.0", torch.ops.fusegrad
            with torch.no_grad():
                *y, saved = ops_of.chain_streams(x, laid_out, second, weights, acts, True)
                cotangents = [c.sin() for c in y]
                results.append(
                    (*y, *ops_of.chain_streams_backward(*cotangents, x, laid_out, second, weights, saved, acts, -1))
                )
        assert all(map(torch.equal, *results))


def test_bits_are_the_same_again():
    """In a second backward pass, and in another call, on two threads; nothing that was given is written to."""
    net = nn.Sequential(nn.Linear(3, 90), nn.Tanh(), nn.Linear(90, 90), nn.Tanh(), nn.Linear(90, 1))
    x, parameters = torch.randn(500, 3), list(net.parameters())
    before = [t.clone() for t in (x, *parameters)]
    torch.set_num_threads(2)
    found = []
    for _ in range(2):
        loss = fg.laplacian(net, x).laplacian.square().sum()
        for _ in range(2):
            found.append(torch.autograd.grad(loss, parameters[:-1], retain_graph=True))
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))
    assert all(map(torch.equal, (x, *parameters), before))


def test_no_graph_is_made_of_gradients_that_need_none():
    """In a mode in which the op does not serve backward."""
    net, x = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 1)), torch.randn(20, 3)
    loss = fg.laplacian(net, x).laplacian.square().sum()
    expected = torch.autograd.grad(loss, list(net.parameters())[:-1], retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(loss, list(net.parameters())[:-1])
    for mine, truth in zip(found, expected, strict=True):
        assert not mine.requires_grad
        assert (mine - truth).norm() <= 0.05 * truth.norm()  # bfloat16


def test_keeps_less_than_nested():
    """Of a network of two hidden layers, and x: for d = 3, 5 numbers of each feature, of the first layer z alone."""
    net = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 1))
    x = torch.randn(100, 3)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        fg.laplacian(net, x).laplacian  # noqa: B018
    weights = {p.data_ptr() for p in net.parameters()}
    assert sum(t.numel() for at, t in kept.items() if at not in weights) <= 100 * (50 + 5 * 50 + 3) + 9 + 3 * 50


@pytest.mark.parametrize("more", (0, 1))
def test_as_many_layers_as_a_chain_has_and_one_more(served, more):
    model = nn.Sequential(*(part for _ in range(MOST_LAYERS + more) for part in (nn.Linear(2, 2), nn.Tanh()))).double()
    x = torch.randn(5, 2, dtype=torch.double, requires_grad=True)
    fg.laplacian(model, x).laplacian.sum().backward()
    assert bool(served) == (more == 0)
    first, last = model[0].weight.grad, model[-2].bias.grad
    wanted = torch.autograd.grad(fg.hessian_diagonal(model, x).sum(), [model[0].weight, model[-2].bias])
    assert_close([first, last], [*wanted])
