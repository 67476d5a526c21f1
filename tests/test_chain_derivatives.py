"""Derivatives, in its input, of a chain that ends in one number: of all orders against stock."""

import pytest
import torch
import torch.nn.functional as F
from derived import ALL, LEADS, NETWORKS, a_network, gradient, is_of_derivatives, of_many_orders, stock
from torch.autograd import grad, gradcheck, gradgradcheck

import fusegrad as fg
from fusegrad import backends
from fusegrad.activations import REGISTRY
from fusegrad.internals.function import below_autograd
from fusegrad.ops.chain import FORWARD
from fusegrad.ops.chain_by_layers import plan
from fusegrad.ops.chain_derivatives import DERIVATIVES, SLOPE, derivatives_by_layers

pytestmark = pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
close = torch.testing.assert_close
networks = pytest.mark.parametrize("name", NETWORKS)


@pytest.mark.parametrize("lead", LEADS, ids=str)
@networks
def test_orders_1_to_4(name, lead):
    x, layers, on = a_network(name, lead, bias=len(lead) == 1)
    assert is_of_derivatives(fg.chain(x, layers))
    close(of_many_orders(fg.chain, x, layers, on), of_many_orders(stock, x, layers, on), rtol=1e-7, atol=1e-9)


@networks
def test_float32_is_as_exact_as_stock(name):
    x, layers, on = a_network(name, (70,), dtype=torch.float32)
    twins = {t: t.detach().double().requires_grad_() for t in on}
    exact = of_many_orders(stock, twins[x], [(twins[w], twins[b], act) for w, b, act in layers], list(twins.values()))
    ours, theirs = of_many_orders(fg.chain, x, layers, on), of_many_orders(stock, x, layers, on)
    for a, b, truth in zip(ours, theirs, exact, strict=True):
        off = lambda t, truth=truth: (t - truth).abs().max() / (truth.abs().max() + 1e-30)
        assert off(a) <= 4 * off(b) + 2e-6


def test_gradients_are_checked_numerically():
    _, layers, on = a_network("silu", (3,))

    def of(x, *tensors):
        weights = iter(tensors)
        return gradient(fg.chain(x, [(next(weights), next(weights), act) for _, _, act in layers]), x)

    assert gradcheck(of, on) and gradgradcheck(of, on)


@pytest.mark.parametrize("wanted", (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 5), slice(5, 7), slice(0, None, 3)))
def test_what_is_wanted_is_computed(wanted):
    x, layers, on = a_network("tanh")
    some = on[wanted]
    for order in range(3):
        found = []
        for f in (fg.chain, stock):
            y = f(x, layers)
            for _ in range(order):
                y = gradient(y, x)[..., 0]
            found.append(grad(y.square().sum(), some, **ALL))
        close(*found)


def test_what_is_no_gradient_is_none():
    """The last bias moves no derivative: its .grad is left alone, as by stock."""
    for f in (fg.chain, stock):
        x, layers, _ = a_network("tanh")
        gradient(f(x, layers), x).square().sum().backward()
        assert layers[-1][1].grad is None and layers[0][1].grad is not None


def test_gradients_of_weights_can_be_differentiated():
    """Where more than the gradient of x is to be differentiated again, layers are computed one by one."""
    found = []
    for f in (fg.chain, stock):
        x, layers, on = a_network("silu", (5,))
        y = f(x, layers)
        g = gradient(y, x)
        h = gradient(g[..., 0], x)
        for value in (y.square().sum(), g.square().sum(), h.square().sum() + g.sum()):
            first = grad(value, on, create_graph=True, retain_graph=True, **ALL)
            found += first, grad(sum(t.square().sum() for t in first if t.requires_grad), on, retain_graph=True, **ALL)
    half = len(found) // 2
    close(found[:half], found[half:])


def test_a_row_keeps_its_nan():
    x, layers, _ = a_network("tanh", (40,))
    with torch.no_grad():
        x[3] = float("nan")
    y = fg.chain(x, layers)
    g = gradient(y, x)
    h = gradient(g[..., 0].sin() * g[..., 1], x)
    third = gradient(h.square().sum(-1), x)
    for t in (y, g, h, third):
        bad = t.isnan().any(-1)
        assert bad[3] and bad.sum() == 1


def test_by_layers_is_as_the_kernel():
    for name in NETWORKS:
        x, layers, _ = a_network(name, (12,))
        x = x.detach()
        weights = [None if t is None else t.detach() for layer in layers for t in layer[:2]]
        acts = tuple(act or "identity" for _, _, act in layers)
        of = plan(acts, tuple(REGISTRY[a].default for a in acts), (True,) * len(acts))
        y, saved = below_autograd(FORWARD, x, weights, of.acts, True)
        gy, t = torch.randn_like(y), torch.randn_like(x)
        f = torch.randn(*x.shape, x.shape[-1], dtype=x.dtype)
        f[..., -1, :] = f[..., :, -1] = 0
        _, cotangents = SLOPE(gy, x, weights, y, saved, of.acts)
        needed = [True] * (2 + len(weights))
        for given in ((gy, t, f), (None, t, f), (gy, None, f), (None, t, None), (gy, t, None)):
            want = derivatives_by_layers(*given, x, weights, of, needed)
            for kept in (None, cotangents) if cotangents.numel() else (None,):
                found = DERIVATIVES(*given, None, x, weights, y, saved, kept, of.acts, (1 << len(needed)) - 1)
                close(found, [torch.zeros_like(a) if b is None else b for a, b in zip(found, want, strict=True)])
            gl = torch.full_like(y, 2)
            if given[0] is None:
                twice = DERIVATIVES(*given, gl, x, weights, y, saved, None, of.acts, (1 << len(needed)) - 1)
                close(twice[1:], [2 * t for t in found[1:]])


def test_raw_ops_refuse_what_does_not_fit():
    x, layers, _ = a_network("output saved at the end", (12,))
    x = x.detach()
    weights = [t.detach() for layer in layers for t in layer[:2]]
    acts = "gelu 0.0,sigmoid 0.0,tanh 0.0"
    y, saved = below_autograd(FORWARD, x, weights, acts, True)
    good = {"gy": y, "t": x, "f": None, "gl": None, "y": y, "saved": saved, "cotangents": None, "needed": 3}

    def call(**changed):
        a = good | changed
        given = [a[name] for name in ("gy", "t", "f", "gl")]
        return DERIVATIVES(*given, x, weights, a["y"], a["saved"], a["cotangents"], acts, a["needed"])

    call()
    wrong = torch.zeros(12, 2, dtype=x.dtype)
    for name in ("gy", "t", "f", "gl", "y"):
        for value in (wrong, good["gy"].float()):
            with pytest.raises(RuntimeError, match="chain_derivatives: "):
                call(**{name: value})
    for changed in ({"y": None}, {"saved": saved[1:]}, {"cotangents": saved[1:]}, {"gl": y, "cotangents": saved}):
        with pytest.raises(RuntimeError, match="chain_derivatives: "):
            call(**changed)
    for args in ((wrong, x, weights, y, saved), (y, x, weights, None, saved), (y, x, weights, y, saved[1:])):
        with pytest.raises(RuntimeError, match="chain_slope: "):
            SLOPE(*args, acts)
    with pytest.raises(RuntimeError, match="has no derivative"):
        SLOPE(y, x.clone().requires_grad_(), weights, y, saved, acts)


def test_an_activation_of_ones_own():
    fg.activation("wave_for_derivatives", lambda z: fg.sin(z) + z)
    found = []
    for f, act in ((fg.chain, "wave_for_derivatives"), (stock, None)):
        x, layers, on = a_network("tanh")
        value = (lambda x, ls: f(x, [(*layer[:2], act) for layer in ls])) if act else _wave
        found.append(of_many_orders(value, x, layers, on))
    close(*found)


def _wave(x, layers):
    for w, b, _ in layers:
        z = F.linear(x, w, b)
        x = z + z.sin()
    return x


@pytest.mark.parametrize("threads", (1, 3))
def test_many_rows_and_threads(threads):
    torch.set_num_threads(threads)
    try:
        x, layers, on = a_network("wide", (1001,))
        close(of_many_orders(fg.chain, x, layers, on), of_many_orders(stock, x, layers, on), rtol=1e-7, atol=1e-8)
    finally:
        torch.set_num_threads(1)


def test_strided_inputs_and_gradients():
    found = []
    for f in (fg.chain, stock):
        x, layers, _ = a_network("tanh", (30,))
        layers = [(w.mT.contiguous().mT.detach().requires_grad_(), b, act) for w, b, act in layers]
        z = x.mT.contiguous().mT[::2]
        y = f(z, layers)
        g = grad(y, z, torch.ones_like(y[:1]).expand_as(y), create_graph=True)[0]
        h = grad(g, z, torch.randn(3, 1, dtype=x.dtype, generator=torch.Generator().manual_seed(1)).mT.expand_as(g),
                 create_graph=True)[0]  # fmt: skip
        found += [g, h, *grad(h.mT.square().sum(), [x, *(t for layer in layers for t in layer[:2])], **ALL)]
    half = len(found) // 2
    close(found[:half], found[half:])
