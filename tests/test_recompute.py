"""Layers that backward computes again: the same numbers in every mode, and nothing saved but what was given."""

import copy
import itertools
import pickle
import warnings
from contextlib import nullcontext

import pytest
import test_transforms  # noqa: F401  (fills them)
import torch
from test_chain import a_chain, orders, stock
from torch import nn
from torch.autograd import grad
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import fusegrad as fg
from fusegrad import backends
from fusegrad.benchmarks.memory import bytes_saved

from cases import Case
from transforms import COMPILED, TRANSFORMS, agree_in_compiled_autograd, compilers

close = torch.testing.assert_close


def again(x, layers):
    return fg.chain(x, layers, recompute=True)


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize("seed", range(40))
def test_derivatives_of_three_orders(seed):
    x, layers, on = a_chain(seed)
    close(orders(again, x, layers, on, 3), orders(stock, x, layers, on, 3))


@pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_the_same_bits_as_of_what_is_saved(dtype, seed):
    x, layers, on = a_chain(seed, dtype)
    y = again(x, layers)
    assert y.grad_fn.name() == "ChainBackward"
    assert all(a.equal(b) for a, b in zip(*(orders(f, x, layers, on, 1) for f in (again, fg.chain)), strict=True))


@pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
@pytest.mark.parametrize("ends", (None, "tanh", "silu"))
@pytest.mark.parametrize("rows", (1, 15, 17, 32, 1000, 3001))
def test_rows_of_many_tiles(rows, ends):
    """The last tile and the last panel are not whole; one layer alone saves nothing but what is computed again."""
    for sizes in ((3, 40, 70, 5), (3, 40), (600, 7, 2)):
        x = torch.randn(rows, sizes[0], dtype=torch.double, requires_grad=True)
        pairs = list(itertools.pairwise(sizes))
        tensor = lambda *shape: torch.randn(shape, dtype=torch.double, requires_grad=True)
        layers = [(tensor(n, k), tensor(n), "silu") for k, n in pairs]
        layers[-1] = (*layers[-1][:2], ends)
        on = [x, *(t for layer in layers for t in layer[:2])]
        gy = torch.randn(rows, 2 * sizes[-1], dtype=torch.double)[:, ::2]  # its numbers are not adjacent
        close(grad(again(x, layers), on, gy), grad(stock(x, layers), on, gy))
        close(grad(again(x[:, :], layers), on[1:2], gy), grad(stock(x, layers), on[1:2], gy))


@pytest.mark.parametrize("sizes", ((3, 64, 64, 1), (300, 700, 50)))
def test_threads(sizes):
    """Who takes which part makes no difference to the bits."""
    x = torch.randn(3000, sizes[0], requires_grad=True)
    pairs = itertools.pairwise(sizes)
    layers = [((torch.randn(n, k) / k**0.5).requires_grad_(), torch.randn(n), "silu") for k, n in pairs]
    on = [x, *(w for w, *_ in layers)]
    expected = grad(stock(x, layers).sum(), on)
    torch.set_num_threads(2)  # one again in the next test
    found = [grad(f(x, layers).sum(), on) for f in (again, fg.chain) * 3]
    assert all(a.equal(b) for run in found for a, b in zip(run, found[0], strict=True))
    close(found[0], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
def test_only_what_was_given_is_saved(dtype):
    x = torch.randn(50, 6, dtype=dtype, requires_grad=True)
    layers = [(torch.randn(n, k, dtype=dtype, requires_grad=True), None, "silu") for k, n in ((6, 30), (30, 20))]
    given = sum(t.nbytes for t in (x, layers[0][0], layers[1][0]))
    assert bytes_saved(lambda: again(x, layers)) <= given < bytes_saved(lambda: fg.chain(x, layers))
    with torch.no_grad():
        assert again(x, layers).grad_fn is None


def mlp(case, recompute=True):
    return lambda x, w, b=None: fg.mlp(
        *(x, w, b, w.mT, None if b is None else b[:3]), act=case.name, param=case.param, recompute=recompute
    )


def composed(case):
    return lambda x, w, b=None: F.linear(case.stock_linear(x, w, b), w.mT, None if b is None else b[:3])


@pytest.mark.parametrize(
    "act, name", [*(("silu", name) for name in TRANSFORMS), *compilers("silu", all_names=False)], ids=str
)
def test_transform(act, name):
    case = Case(act)
    (TRANSFORMS | COMPILED)[name](mlp(case), composed(case))


def test_compiled_autograd():
    agree_in_compiled_autograd(
        *(f(Case("silu")) for f in (mlp, composed)),
        [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in ((7, 3), (5, 3), (5,))],
    )


def test_autocast():
    x, w = torch.randn(20, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    layers = [(w, None, "tanh"), (w.T, None, None)]
    with torch.autocast("cpu", torch.bfloat16):
        y, plain = again(x, layers), fg.chain(x, layers)
    assert y.dtype is torch.bfloat16
    close(grad(y.sum(), (x, w)), grad(plain.sum(), (x, w)), rtol=0, atol=0)


def test_inside_of_a_checkpoint_and_of_hooks():
    x, layers, on = a_chain(5)
    expected = grad(stock(x, layers).sum(), on)
    close(grad(checkpoint(again, x, layers, use_reentrant=False).sum(), on), expected)
    with torch.autograd.graph.save_on_cpu():
        y = again(x, layers)
    close(grad(y.sum(), on), expected)


@pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
def test_what_hooks_give_back_strided():
    x, layers, on = a_chain(7)
    spread = lambda t: torch.stack([t, t], -1)[..., 0]
    with torch.autograd.graph.saved_tensors_hooks(spread, lambda t: t):
        y = again(x, layers)
    close(grad(y.sum(), on), grad(stock(x, layers).sum(), on))


@pytest.mark.parametrize("create_graph", (False, True))
def test_gradients_that_are_left_to_python(create_graph):
    """Under a dispatch mode, and of what is negated as a view."""
    x, layers, on = a_chain(5)
    y, expected = again(x, layers), stock(x, layers)
    gy = torch.randn_like(expected)
    for mode, given in ((FlopCounterMode(display=False), gy), (nullcontext(), torch._neg_view(-gy))):
        with mode:
            found = grad(y, on, given, create_graph=create_graph, retain_graph=True)
        close(found, grad(expected, on, gy, retain_graph=True))


def test_a_weight_that_is_written_to():
    x, layers, _ = a_chain(5)
    y = again(x, layers)
    with torch.no_grad():
        layers[-1][0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_graph_that_stays():
    x, layers, on = a_chain(3)
    y = again(x, layers).sum()
    first, second = grad(y, on, retain_graph=True), grad(y, on)
    close(first, second, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        grad(y, on)


def test_what_does_not_fit_is_told():
    layers = [(torch.randn(4, 3, requires_grad=True), None, "tanh"), (torch.randn(2, 5), None, None)]
    with pytest.raises(ValueError, match=r"w has shape \(2, 5\), x has shape \(10, 4\)"):
        again(torch.randn(10, 3), layers)
    with pytest.raises(TypeError, match="x"):
        again([1.0], layers)


def a_network(recompute, sizes=(2, 20, 20, 1)):
    torch.manual_seed(1)
    return fg.MLP(list(sizes), act="tanh", recompute=recompute)


@pytest.mark.parametrize("sizes", ((2, 20, 20, 1), (3, 7, 2), (4, 3)))
def test_module(sizes):
    x = torch.randn(33, sizes[0], requires_grad=True)
    found = []
    for recompute in (False, True):
        net = a_network(recompute, sizes)
        for _ in range(3):
            y = net(x)
            net.zero_grad()
            (y.square().sum() + grad(y.sum(), x, create_graph=True)[0].square().sum()).backward()
        found.append((y, *(p.grad for p in net.parameters())))
    close(*found)
    assert ("recompute=True" in repr(net)) and "recompute" not in repr(a_network(False))


def test_copies():
    net, x = a_network(True), torch.randn(5, 2)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.recompute and other(x).equal(net(x))
    old = fg.MLP(3, 4)
    for name in ("recompute", "layer_names"):  # which modules of old have not
        del old.__dict__[name]
    assert pickle.loads(pickle.dumps(old))(torch.randn(2, 3)).shape == (2, 3)


def test_laplacian_of_it():
    x = torch.randn(9, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [fg.laplacian(a_network(recompute), x) for recompute in (False, True)]
        inner = [fg.laplacian(lambda x, r=r: a_network(r)(x.sin()), x) for r in (False, True)]
    close(*(tuple(r) for r in found))
    close(*(tuple(r) for r in inner))


def test_layers_that_are_called_by_themselves():
    net, x, seen = a_network(True), torch.randn(9, 2), []
    expected = net(x)
    net.fc2.register_forward_hook(lambda *args: seen.append(args))
    close(net(x), expected)
    assert len(seen) == 1
    net.fc2 = nn.Sequential(nn.Dropout(0.0), net.fc2)
    close(net(x), expected)
