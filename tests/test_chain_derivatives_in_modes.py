"""Derivatives, in its input, of a chain that ends in one number: what nodes have to stand, in all modes."""

import gc
import weakref
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from derived import ALL, a_network, gradient, is_of_derivatives, stock
from torch._dynamo import compiled_autograd
from torch.autograd import grad
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import fusegrad as fg
from fusegrad import backends, routing

pytestmark = pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
close = torch.testing.assert_close


def test_backward_twice_is_the_same():
    x, layers, on = a_network("tanh")
    y = fg.chain(x, layers)
    g = gradient(y, x)
    loss = gradient(g[..., 1], x).square().sum() + g.square().sum() + y.sum()
    first = grad(loss, on, retain_graph=True)
    assert all(map(torch.equal, first, grad(loss, on)))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        grad(loss, on)


def test_nothing_is_left_behind():
    x, layers, on = a_network("output saved at the end")
    y = fg.chain(x, layers)
    g = gradient(y, x)
    h = gradient(g[..., 0], x)
    refs = [weakref.ref(t) for t in (x, y, g, h, *on)]
    gc.disable()
    try:
        del x, layers, on, y, g, h
        assert all(r() is None for r in refs)
    finally:
        gc.enable()


def test_hooks_see_gradients_alone():
    x, layers, _ = a_network("tanh")
    y, seen = fg.chain(x, layers), []
    y.register_hook(lambda g: seen.append(g.shape) or 2 * g)
    g = gradient(y, x)
    g.register_hook(lambda t: seen.append(t.shape) or 3 * t)
    y2 = stock(x, layers)
    y2.register_hook(lambda g: 2 * g)
    g2 = gradient(y2, x)
    g2.register_hook(lambda t: 3 * t)
    w = layers[0][0]
    close(grad(g.square().sum(), w), grad(g2.square().sum(), w))
    assert seen == [y.shape, g.shape]


def test_changed_weights_are_refused():
    x, layers, _ = a_network("tanh")
    w = torch.nn.Parameter(layers[1][0].detach().clone())
    layers[1] = (w, *layers[1][1:])
    y = fg.chain(x, layers)
    g = gradient(y, x)
    h = gradient(g[..., 0].square(), x)
    w.data = w.detach().clone()
    for t in (y, g, h):
        with pytest.raises(RuntimeError, match="was given other data"):
            grad(t.sum(), x, retain_graph=True)
    y = fg.chain(x, layers)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        grad(y.sum(), x)


@pytest.mark.parametrize("name", ("tanh", "identity in the middle", "many features"))
def test_under_vmap(name):
    found = []
    for f in (fg.chain, stock):
        x, layers, on = a_network(name, (6,))
        y = f(x, layers)
        g = gradient(y, x)
        units = torch.eye(x.shape[-1], dtype=x.dtype).unsqueeze(1).expand(-1, *x.shape)
        (rows,) = grad(g, x, units, is_grads_batched=True, create_graph=True)
        found += [rows, *grad(rows.sin().sum(), on, retain_graph=True, **ALL)]
        found.append(torch.func.vmap(lambda v, g=g, x=x: grad(g, x, v, retain_graph=True)[0])(units))
        h = gradient(g[..., 0], x)
        found += grad(h, on, units, is_grads_batched=True, retain_graph=True, **ALL)
        found += torch.func.vmap(lambda v, h=h, on=on: grad(h, on[:-1], v, retain_graph=True, **ALL))(units)
    half = len(found) // 2
    close(found[:half], found[half:])


def test_what_takes_this_route(monkeypatch):
    monkeypatch.setattr(routing, "CHAIN_OF_DERIVED", False)
    x, layers, _ = a_network("tanh")
    y = fg.chain(x, layers)
    assert y.grad_fn.name() == "ChainBackward" and is_of_derivatives(y)
    assert fg.chain(x.detach(), layers).grad_fn.next_functions[0][0] is None
    two = [*layers[:-1], (torch.randn(2, 20, dtype=x.dtype), None, None)]
    assert fg.chain(x, two).grad_fn.name() != "ChainBackward"
    monkeypatch.setattr(routing, "CHAIN_WIDTH_OF_DERIVED", 19)
    assert fg.chain(x, layers).grad_fn.name() != "ChainBackward"


def test_in_compiled_autograd():
    found = []
    mode = partial(compiled_autograd._enable, lambda graph: torch.compile(graph, backend="eager"))
    for f, context in ((stock, nullcontext), (fg.chain, mode)):
        for order in range(3):
            x, layers, on = a_network("silu", (6,))
            t = total = f(x, layers)
            for i in range(order):
                t = gradient(t[..., i % t.shape[-1]], x)
                total = total + t[..., :1].sin()
            with context():
                total.square().sum().backward()
            found.append([t.grad for t in on])
            torch.compiler.reset()
    close(found[:3], found[3:])


def test_in_checkpoints_and_hooks():
    """Where saved tensors are copies, or made again."""
    found = []
    hooks = partial(saved_tensors_hooks, torch.clone, torch.clone)
    for f in (fg.chain, stock):
        x, layers, on = a_network("output saved at the end", (6,))
        y = checkpoint(lambda x, f=f, layers=layers: f(x, layers), x, use_reentrant=False)
        h = gradient(gradient(y, x).square().sum(-1), x)
        found.append(grad(h.square().sum() + y.sum(), on))
        with hooks():
            h = gradient(gradient(f(x, layers), x)[..., 0], x)
            found[-1] += grad(h.square().sum(), on, **ALL)
    close(*found)
