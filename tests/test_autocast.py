"""Torch.autocast of a CPU: the dtypes of stock, numbers as near to the truth as its, and the same copies of weights."""

import copy
import threading
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import grad
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

import fusegrad as fg
from fusegrad import backends, routing
from fusegrad.benchmarks.memory import bytes_saved

from cases import on_cpu

pytestmark = on_cpu
close = torch.testing.assert_close
in_cpp = pytest.mark.skipif(backends.node is None, reason="no C++ nodes")


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.last(x)


class Methods(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(8, 16, bias=False), nn.Linear(16, 4)

    def forward(self, x):
        h = F.silu(self.a(x)) * self.b(x)
        z = self.c(h)
        return z * torch.sigmoid(1.702 * z) + torch.sin(3.0 * self.c(h))


layers = nn.Sequential
MODELS = {
    "one layer": lambda: layers(nn.Linear(8, 4)),
    "tanh": lambda: layers(nn.Linear(8, 4), nn.Tanh()),
    "a chain": lambda: layers(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 32, bias=False), nn.ReLU(), nn.Linear(32, 4)),
    "a wide chain": lambda: layers(nn.Linear(8, 600), nn.SiLU(), nn.Linear(600, 600), nn.Mish(), nn.Linear(600, 4)),
    "softplus": lambda: layers(nn.Linear(8, 16), nn.Softplus(), nn.Linear(16, 4), nn.Softplus()),
    "alone": lambda: layers(nn.Linear(8, 16), nn.Dropout(0.0), nn.Tanh(), nn.Softmax(-1), nn.SiLU()),
    "a loop": Loop,
    "methods": Methods,
}
models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
large = pytest.mark.parametrize("large", (False, True), ids=("small", "large"))
dtypes = pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)


def both(model):
    torch.manual_seed(0)
    stock = model()
    return stock, fg.fuse(copy.deepcopy(stock))


def step(model, x, dtype=torch.bfloat16):
    with torch.autocast("cpu", dtype):
        y = model(x)
    on = [t for t in (x, *model.parameters()) if t.requires_grad]
    return y, *grad(y.float().square().sum(), on)


def assert_as_near(ours, stock, truth):
    """Of the dtypes of stock's, and no further from the truth than twice as far."""
    for a, b, c in zip(ours, stock, truth, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        error, of_stock = ((t.double() - c).norm() for t in (a, b))
        assert error <= 2 * of_stock + 1e-2 * c.norm()


def agree(run, stock, ours, times=1):
    """run(model) gives what it gives of stock's, as near to what it gives in float64, where autocast casts nothing."""
    expected, truth = run(stock), run(copy.deepcopy(stock).double())
    for _ in range(times):
        assert_as_near(run(ours), expected, truth)


def like(x, model):
    return x.to(next(model.parameters()).dtype)


@models
@dtypes
@pytest.mark.parametrize("needs", (False, True), ids=("x", "x differentiated"))
@pytest.mark.parametrize("rows", ((5,), (2, 3), ()), ids=str)
def test_values_and_gradients(model, dtype, needs, rows):
    x = torch.randn(*rows, 8)

    def run(m):
        given = like(x, m).clone()
        with torch.no_grad(), torch.autocast("cpu", dtype):
            y = m(given)
        return y, *step(m, given.requires_grad_(needs), dtype)

    agree(run, *both(model), times=3)  # found, kept, again


@in_cpp
@models
def test_nodes_are_made_in_cpp(model):
    _, ours = both(model)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            y = ours(torch.randn(5, 8))
    nodes, names = [y.grad_fn], set()
    while nodes:
        node = nodes.pop()
        names.add(type(node).__name__ if type(node).__name__ == "CppFunction" else node.name())
        nodes += [n for n, _ in node.next_functions if n is not None]
    assert "CppFunction" in names and not {"AddmmBackward0", "LinearBackward0"} & names
    assert not any(name.endswith("Backward") for name in names)  # of Python


def by_layers(x, w, b, v):
    return F.gelu(F.linear(torch.tanh(F.linear(x, w, b)), v))


def chain(x, w, b, v, **how):
    return fg.chain(x, [(w, b, "tanh"), (v, None, "gelu")], **how)


CALLS = {
    "linear": (lambda x, w, b, v: fg.linear(x, w, b), lambda x, w, b, v: F.linear(x, w, b)),
    "linear_act": (
        lambda x, w, b, v: fg.linear_act(x, w, b, act="softplus"),
        lambda x, w, b, v: F.softplus(F.linear(x, w, b)),
    ),
    "act": (lambda x, w, b, v: fg.act(x, "exp"), lambda x, w, b, v: torch.exp(x)),
    "mlp": (
        lambda x, w, b, v: fg.mlp(x, w, b, v, act="silu"),
        lambda x, w, b, v: F.linear(F.silu(F.linear(x, w, b)), v),
    ),
    "chain": (chain, by_layers),
    "recomputed": (lambda *of: chain(*of, recompute=True), by_layers),
    "gated": (
        lambda x, w, b, v: fg.gated(x, w, w.sin(), b, act="silu"),
        lambda x, w, b, v: F.silu(F.linear(x, w, b)) * F.linear(x, w.sin()),
    ),
}
each_call = pytest.mark.parametrize("name", CALLS)
inside = pytest.mark.parametrize("inside", (False, True), ids=("outside", "inside"))


@each_call
@inside
@pytest.mark.parametrize("given", (torch.float32, torch.bfloat16, torch.float64), ids=str)
def test_three_orders(name, inside, given):
    """Derivatives are taken inside of the region, or after it, of an input in any dtype."""
    torch.manual_seed(0)
    ours, stock = CALLS[name]
    tensors = torch.randn(5, 8), torch.randn(16, 8), torch.randn(16), torch.randn(4, 16)

    def orders(f, to=None):
        of_weights = to or (given if given is torch.float64 else torch.float32)
        dtypes = to or given, *(of_weights for _ in tensors[1:])
        on = [t.detach().to(dtype).requires_grad_() for t, dtype in zip(tensors, dtypes, strict=True)]
        with torch.autocast("cpu", torch.bfloat16, enabled=to is None):
            y = f(*on)
        with torch.autocast("cpu", torch.bfloat16, enabled=to is None and inside):
            first = grad(y.sin().sum(), on, create_graph=True, allow_unused=True, materialize_grads=True)
            loss = sum(g.square().sum() for g in first)
            return y, *first, *grad(loss, on, allow_unused=True, materialize_grads=True)

    assert_as_near(orders(ours), orders(stock), orders(stock, torch.float64))


@inside
def test_a_region_that_is_off(inside):
    stock, ours = both(MODELS["a chain"])
    x = torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=inside):
        for _ in range(2):
            with torch.autocast("cpu", enabled=False):
                close(ours(x), stock(x))
            assert ours(x).dtype == (torch.bfloat16 if inside else torch.float32)


@in_cpp
@models
@pytest.mark.parametrize("cache", (True, False))
def test_weights_that_change_inside_of_a_region(model, cache):
    """Torch's copies stay what they were; what has none sees the change."""
    stock, ours = both(model)
    x = torch.randn(5, 8)

    def twice(m):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
            before = m(x)
            with torch.no_grad():
                for p in m.parameters():
                    p.mul_(2.0)
            after = m(x)
        gradients = grad(after.float().sum(), list(m.parameters()))
        with torch.no_grad():
            for p in m.parameters():
                p.mul_(0.5)
        return before, after, *gradients

    for got, expected in zip(twice(ours), twice(stock), strict=True):
        assert (got - expected).norm() <= 0.1 * expected.norm()


@models
def test_a_weight_that_was_used_without_gradients_first(model):
    x = torch.randn(5, 8)

    def gradients(m):
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                m(like(x, m))
            y = m(like(x, m))
        return grad(y.float().sum(), list(m.parameters()))

    agree(gradients, *both(model))


@in_cpp
def test_copies_of_large_weights_are_kept_as_in_stock():
    """The first layer's is not, where nothing is asked along x."""
    stock, ours = both(lambda: layers(nn.Linear(512, 600), nn.Tanh(), nn.Linear(600, 8)))
    x = torch.randn(16, 512)

    def run(m):
        with torch.autocast("cpu", torch.bfloat16):
            return m(x)

    run(ours)
    assert bytes_saved(lambda: run(ours)) <= bytes_saved(lambda: run(stock))


@models
@pytest.mark.parametrize("reentrant", (False, True))
def test_checkpoint(model, reentrant):
    x = torch.randn(5, 8)

    def gradients(m):
        given = like(x, m).clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = checkpoint(m, given, use_reentrant=reentrant)
        for p in m.parameters():
            p.grad = None
        y.float().square().sum().backward()
        return y, given.grad, *(p.grad for p in m.parameters())

    agree(gradients, *both(model))


@models
def test_saved_tensors_elsewhere(model):
    _, ours = both(model)
    x = torch.randn(5, 8)
    expected = step(ours, x)
    with save_on_cpu():
        close(step(ours, x), expected, rtol=0, atol=0)


def test_training_with_a_scaler():
    stock, ours = both(MODELS["a chain"])
    x = torch.randn(5, 8)
    for m in (stock, ours):
        optimizer, scaler = torch.optim.SGD(m.parameters(), 0.01), torch.amp.GradScaler("cpu", init_scale=256.0)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = m(x).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    close(list(ours.parameters()), list(stock.parameters()), rtol=1e-2, atol=1e-3)


def test_threads():
    _, ours = both(MODELS["a chain"])
    x, found = torch.randn(5, 8), {}

    def run(on):
        for _ in range(50):
            with torch.autocast("cpu", torch.bfloat16, enabled=on):
                y = ours(x)
            found.setdefault(on, []).append((y, *grad(y.float().sum(), list(ours.parameters()))))

    threads = [threading.Thread(target=run, args=(on,)) for on in (False, True)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for on, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        assert len(found[on]) == 50 and found[on][0][0].dtype == dtype
        for made in found[on]:
            close(made, found[on][0], rtol=0, atol=0)


@in_cpp
def test_autocast_of_another_device():
    """It does nothing to tensors of a CPU."""
    _, ours = both(MODELS["a chain"])
    x = torch.randn(5, 8)
    expected = ours(x)
    torch.set_autocast_enabled("cuda", True)
    try:
        y = ours(x)
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert type(y.grad_fn).__name__ == "CppFunction"
    close(y, expected, rtol=0, atol=0)


@models
@pytest.mark.parametrize("transform", ("grad", "vmap of grad", "jvp"))
@large
def test_torch_func(model, transform, large):
    x = torch.randn(5, 8)

    def transformed(m):
        def loss(p, x):
            with torch.autocast("cpu", torch.bfloat16):
                return torch.func.functional_call(m, p, (x,)).float().square().sum()

        p, given = {name: value.detach() for name, value in m.named_parameters()}, like(x, m)
        if transform == "jvp":
            return torch.func.jvp(lambda x: loss(p, x), (given,), (torch.ones_like(given),))
        f = torch.func.grad(loss)
        if transform == "vmap of grad":
            f = torch.func.vmap(f, (None, 0), randomness="different")
        return list(f(p, given).values())

    with routing.at_all_sizes() if large else nullcontext():
        agree(transformed, *both(model))


@models
@large
def test_without_cpp(model, large, monkeypatch):
    monkeypatch.setattr(backends, "node", None)
    x = torch.randn(5, 8)
    with routing.at_all_sizes() if large else nullcontext():
        agree(lambda m: step(m, like(x, m)), *both(model))
