"""Small layers under torch.func, which are torch's functions with a node of ours at the levels that differentiate."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import fusegrad as fg
from fusegrad import backends, routing

from transforms import TRANSFORMS, func  # noqa: F401  (which fills TRANSFORMS)

pytestmark = pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(routing, "SMALL_IN_TRANSFORMS", 2**27)
    monkeypatch.setattr(routing, "SMALL_IN_TRANSFORMS_IN_BFLOAT16", 2**27)


LAYERS = {
    "linear": (fg.linear, F.linear),
    "gelu": (lambda x, w, b: fg.linear_act(x, w, b, act="gelu"), lambda x, w, b: F.gelu(F.linear(x, w, b))),
    "tanh": (lambda x, w, b: fg.linear_act(x, w, b, act="tanh"), lambda x, w, b: F.linear(x, w, b).tanh()),
}


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name.startswith("func_")])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_transform(layer, name):
    TRANSFORMS[name](*LAYERS[layer])


def draw(*shape):
    return torch.randn(*shape, dtype=torch.double)


SHAPES = {"a vector": (3,), "one row": (1, 3), "one row of three dimensions": (1, 1, 3), "rows": (4, 3), "none": (0, 3)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no bias"))
def test_gradients_of_whatever_is_batched(shape, bias):
    """x, w and b each with a batch or none, in any of their dimensions."""
    args = draw(*shape), draw(5, 3), draw(5) if bias else None
    for batched in itertools.product((False, True), repeat=2 + bias):
        if not any(batched):
            continue
        for last in (False, True):
            dims = [(t.dim() if last else 0) if many else None for t, many in zip(args, batched, strict=False)]
            given = [
                t if dim is None else torch.stack((t, t.cos(), t + 1), dim) for t, dim in zip(args, dims, strict=False)
            ]
            along = tuple(range(len(given)))

            def gradients(f, along=along, given=given, dims=dims):
                loss = lambda *a: f(*a, *() if bias else (None,)).sin().sum()
                second = lambda *a: sum(g.square().sum() for g in grad(loss, along)(*a))
                each = [vmap(g, tuple(dims))(*given) for g in (grad(loss, along), grad(second, along))]
                return *each, grad(lambda *a: vmap(loss, tuple(dims))(*a).sum(), along)(*given)

            ours, theirs = LAYERS["gelu"]
            close(gradients(ours), gradients(theirs))


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def a_sequential(act=nn.GELU):
    return nn.Sequential(nn.Linear(4, 6), act(), nn.Linear(6, 5, bias=False), nn.Softplus(3.0), nn.Linear(5, 4))


MODELS = {
    "a Sequential": a_sequential,
    "a loop": Loop,
    "activations that torch has not": lambda: nn.Sequential(nn.Linear(4, 6), nn.SELU(), nn.Linear(6, 4), nn.Softsign()),
}


def calls_of(m, x):
    p = {name: t.detach() for name, t in m.named_parameters()}
    of_row = lambda p, x: functional_call(m, p, (x[None],))
    number = lambda p, x: of_row(p, x).square().sum()
    value, pullback = vjp(lambda p: of_row(p, x[0]), p)
    ones = {name: torch.ones_like(t) for name, t in p.items()}
    many = {name: torch.stack((t, 2 * t)) for name, t in p.items()}

    def without(p, x):
        with torch.no_grad():
            constant = number(p, x)
        return constant * number(p, x)

    yield vmap(grad(number), (None, 0))(p, x)
    yield vmap(grad(lambda p, x: functional_call(m, p, (x,)).square().sum()), (None, 0))(p, x)
    yield vmap(vmap(grad(number), (None, 0)), (0, None))(many, x)
    yield vmap(grad(lambda p: functional_call(m, p, (x,)).square().sum()))(many)
    yield grad(lambda p: vmap(number, (None, 0))(p, x).sum())(p)
    yield vmap(jacrev(of_row), (None, 0))(p, x)
    yield vmap(jacrev(of_row, 1), (None, 0))(p, x)
    yield vmap(jacfwd(of_row, 1), (None, 0))(p, x)
    yield vmap(hessian(number, 1), (None, 0))(p, x)
    yield jvp(grad(lambda p: number(p, x[0])), (p,), (ones,))
    yield grad(lambda p: jvp(lambda x: number(p, x), (x[0],), (x[1],))[1])(p)
    yield vmap(grad(without), (None, 0))(p, x)
    yield pullback(value.cos())
    yield linearize(m, x)[1](x.cos())
    outside = vmap(grad(lambda x: m(x[None]).square().sum()))(x)
    yield torch.autograd.grad(outside.square().sum(), list(m.parameters()), allow_unused=True)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_models(make):
    def both():
        torch.manual_seed(1)
        return make().double()

    x = draw(3, 4)
    for ours, theirs in zip(calls_of(fg.fuse(both()), x), calls_of(both(), x), strict=True):
        close(ours, theirs)


def test_what_was_written_to_is_refused():
    m = fg.fuse(a_sequential().double())

    def loss(w):
        x = w[:1] * 2
        y = m(x)
        x.add_(1)
        return y.sum()

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        grad(lambda p: loss(p["0.weight"]) + functional_call(m, p, (draw(1, 4),)).sum())(dict(m.named_parameters()))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
def test_the_gradients_of_samples_are_no_products_of_matrices(dtype):
    """But in bfloat16, of which these are as fast."""
    torch.manual_seed(1)
    m, x = fg.fuse(a_sequential().to(dtype)), draw(3, 4).to(dtype)
    p = {name: t.detach() for name, t in m.named_parameters()}
    of_each = vmap(grad(lambda p, x: functional_call(m, p, (x[None],)).square().sum()), (None, 0))
    of_each(p, x)
    with torch.profiler.profile() as ran:
        found = of_each(p, x)
    names = {event.name for event in ran.events()}
    assert ("aten::bmm" in names) is (dtype is torch.bfloat16)
    assert "LevelLinearBackward" in names and "fusegrad::linear_act" not in names
    wanted = vmap(grad(lambda p, x: functional_call(fg.unfuse(m), p, (x[None],)).square().sum()), (None, 0))(p, x)
    close(found, wanted)


def test_a_sequential_is_one_call_of_cpp(again):
    """Also where it was never called outside of torch.func."""
    m, x = a_sequential().double(), draw(3, 4)
    wanted = vmap(m)(x)
    fg.fuse(m)
    for _ in range(3):
        close(vmap(m)(x), wanted)
    assert again[-2:] == [True, True]


def test_large_layers_are_ops(monkeypatch):
    monkeypatch.setattr(routing, "SMALL_IN_TRANSFORMS", 4 * 4 * 6 - 1)
    m, x = fg.fuse(a_sequential().double()), draw(3, 4, 4)
    with torch.profiler.profile() as ran:
        found = vmap(m)(x)
    assert "fusegrad::linear_act" in {event.name for event in ran.events()}
    close(found, vmap(fg.unfuse(m))(x))


def test_a_compiler_sees_torchs_functions():
    """It makes loops of its own of what a transform leaves of them."""
    model, x, target = fg.fuse(nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))), torch.randn(5, 3), 0.5
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    loss = lambda p, x: (functional_call(model, p, (x,)) - target).square().mean()
    of_each = vmap(grad(loss), in_dims=(None, 0))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    mine = torch.compile(of_each, backend=backend, fullgraph=True)(parameters, x)
    for name, true in of_each(parameters, x).items():
        torch.testing.assert_close(mine[name], true)
    assert graphs and not [n for graph in graphs for n in graph.graph.nodes if "fusegrad" in str(n.target)]
