"""Networks in one Triton kernel, on a GPU, or by Triton's interpreter, in which test_triton.py runs this file."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

import fusegrad as fg
from fusegrad import backends
from fusegrad.activations import REGISTRY
from fusegrad.kernels import choice
from fusegrad.ops.chain import BACKWARD, FORWARD, plan
from fusegrad.ops.chain_by_layers import backward_by_layers, forward_by_layers

from cases import DEVICE, DTYPES

pytest.importorskip("triton")
SERVING = backends.INTERPRETED or DEVICE == "cuda"
pytestmark = pytest.mark.skipif(not SERVING, reason="runs in the interpreter, by test_triton.py")
close = torch.testing.assert_close
# rows, widths, activations, whether there are biases
NETWORKS = {
    "one row": (1, (1, 3), ("tanh",), True),
    "PINN": (17, (3, 20, 20, 20, 1), ("tanh", "tanh", "tanh", None), True),
    "widest": (300, (128, 100, 128), ("silu", "gelu"), True),
    "no biases": (65, (64, 64, 5), ("relu", None), False),
    "saves of each kind": (33, (5, 17, 16, 12, 40, 31, 7), ("softplus", None, "sigmoid", "sin", "exp", "elu"), True),
}


def fresh(*shape, dtype=torch.float64, seed=None):
    """New numbers each time, unless there is a seed."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(DEVICE, dtype)


def network(rows, widths, acts, bias, dtype):
    x = fresh(rows, widths[0], dtype=dtype).requires_grad_()
    layers = [
        (
            (fresh(n, k, dtype=dtype) / k**0.5).requires_grad_(),
            fresh(n, dtype=dtype).requires_grad_() if bias else None,
            act,
        )
        for (k, n), act in zip(pairwise(widths), acts, strict=True)
    ]
    return x, layers


def leaves(x, layers):
    return [t for t in (x, *(t for layer in layers for t in layer[:2])) if t is not None]


def stock(x, layers):
    for w, b, act in layers:
        x = F.linear(x, w, b)
        x = x if act is None else REGISTRY[act].value(x, REGISTRY[act].default)
    return x


def gradients(f, x, layers, gy):
    y = f(x, layers)
    return [y, *grad(y, leaves(x, layers), gy)]


def in_float64(x, layers):
    wide = lambda t: None if t is None else t.detach().double().requires_grad_()
    return wide(x), [(wide(w), wide(b), act) for w, b, act in layers]


def assert_near(x, layers, gy, roundings):
    """y and all gradients as far from the truth as stock's, by one op: on the whole, and at worst four times as far."""
    assert fg.chain(x, layers).grad_fn.name() == "ChainBackward"
    truths = gradients(stock, *in_float64(x, layers), gy.double())
    least = roundings * torch.finfo(x.dtype).eps
    errors = []
    for f in (fg.chain, stock):
        made = gradients(f, x, layers, gy)
        assert [y.shape for y in made] == [truth.shape for truth in truths]
        pairs = zip(made, truths, strict=True)
        off = [((y.double() - truth).abs().max() / truth.abs().max()).item() for y, truth in pairs]
        errors.append(torch.tensor(off, dtype=torch.float64).clamp_min(least))
    ours, stocks = errors
    assert ours.log().mean() <= stocks.log().mean() + 0.5 and (ours <= 4 * stocks).all(), errors


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_numbers(name, dtype, served):
    rows, widths, acts, bias = NETWORKS[name]
    x, layers = network(rows, widths, acts, bias, dtype)
    assert_near(x, layers, fresh(rows, widths[-1], dtype=dtype), 2 if dtype != torch.float64 else 200)


@pytest.fixture
def served(monkeypatch):
    """All widths in all dtypes: on a GPU some are not, as they would spill, which is no matter in the interpreter."""
    from fusegrad.kernels import chain

    if DEVICE != "cuda":
        monkeypatch.setattr(chain, "tile_of", lambda *args: chain.Tile((32, 4), (16, 4)))
    return chain


@pytest.mark.parametrize("act", REGISTRY)
def test_every_activation(act, served):
    """As a hidden layer, of which backward makes y again where z is saved, and as the last."""
    x, layers = network(19, (3, 20, 18), (act, act), True, torch.float32)
    with torch.no_grad():
        layers[1][0].mul_(0.3)  # exp(exp(z)) is large enough
    assert_near(x, layers, fresh(19, 18, dtype=torch.float32), 16)


def test_strides(served):
    """Rows apart, columns apart, a gradient that is one number, weights that are turned, and leading dimensions."""
    _, layers = network(1, (6, 20, 4), ("tanh", "silu"), True, torch.float32)
    turned = [(w.detach().mT.contiguous().mT.requires_grad_(), b, act) for w, b, act in layers]
    wide = fresh(14, 10, dtype=torch.float32)
    for x in (wide[:, 2:8], wide[::2, :6], wide[:6, :6].mT, wide[:, :6].reshape(2, 7, 6), wide[:1, :6].expand(9, 6)):
        x = x.detach().requires_grad_()
        for gy in (
            torch.ones((), device=DEVICE).expand(*x.shape[:-1], 4),
            fresh(*x.shape[:-1], 4, dtype=torch.float32),
        ):
            close(gradients(fg.chain, x, turned, gy), gradients(stock, x, layers, gy), rtol=1e-4, atol=1e-5)


def test_nothing_is_read_past_the_end(served):
    """What stands behind x, the weights, gy, and what is saved, is no number."""

    def guarded(t):
        behind = torch.full((999,), torch.nan, device=DEVICE)
        return torch.cat([t.detach().reshape(-1), behind])[: t.numel()].view(t.shape)

    x, layers = network(19, (5, 20, 3), ("silu", "tanh"), True, torch.float32)
    gy, acts = fresh(19, 3, dtype=torch.float32), "silu 1.0,tanh 1.0"
    truth = gradients(stock, x, layers, gy)
    weights = [guarded(t) for layer in layers for t in layer[:2]]
    with torch.inference_mode():
        y, saved = FORWARD(guarded(x), weights, acts, True)
        found = BACKWARD(guarded(gy), guarded(x), weights, guarded(y), guarded(saved), acts, 31)
    close([y, *found], truth, rtol=1e-4, atol=1e-5)


def test_numbers_that_are_none_stay_in_their_row(served):
    x, layers = network(40, (3, 20, 2), ("silu", "tanh"), True, torch.float32)
    with torch.no_grad():
        x[7, 1], x[20, 0] = torch.nan, torch.inf
        y = fg.chain(x, layers)
    good = torch.ones(40, dtype=torch.bool)
    good[[7, 20]] = False
    assert y[7].isnan().all() and not y[good].isnan().any()
    close(y, stock(x, layers).detach(), equal_nan=True)
    close(grad(fg.chain(x, layers).sum(), x)[0][good], grad(stock(x, layers).sum(), x)[0][good], rtol=1e-4, atol=1e-5)


def test_activations_that_are_infinite_at_0_stay_outside(served, monkeypatch):
    """Columns and rows that fill up a tile hold act(0), times a zero."""
    x, layers = network(19, (3, 20, 2), ("inverse_of_a_test", None), True, torch.float32)
    x = x.detach()
    fg.activation("inverse_of_a_test", lambda z: 1 / z)
    gy = fresh(19, 2, dtype=torch.float32)
    made, stocks = ([y, *grad(y, leaves(x, layers)[1:], gy)] for y in (f(x, layers) for f in (fg.chain, stock)))
    close(made, stocks, rtol=1e-2, atol=1e-3)


@torch.inference_mode()
def test_what_is_saved(served):
    """One number of each unit but the outputs, of which only z; and the kernel's order is that of the layers."""
    for acts, kept in ((("tanh", "tanh"), 20), (("silu", "gelu"), 24), (("silu", None), 20)):
        x, layers = network(9, (3, 20, 4), acts, True, torch.float32)
        weights = [t.detach() for layer in layers for t in layer[:2]]
        of = plan(tuple(a or "identity" for a in acts), (1.0, 1.0), (True, True))
        y, saved = FORWARD(x.detach(), weights, of.acts, True)
        assert saved.shape == (9 * kept,)
        close((y, saved), forward_by_layers(x.detach(), weights, of, True))
        assert FORWARD(x.detach(), weights, of.acts, False)[1].numel() == 0
        once = served.chain(x.detach(), weights, of, True)
        assert torch.equal(once[0], y) and torch.equal(once[1], saved)


@torch.inference_mode()
def test_only_what_is_needed(served):
    """Down to the lowest layer of which something is needed; sums have the same bits each time."""
    x, layers = network(200, (3, 20, 20, 2), ("tanh", "silu", None), True, torch.float32)
    weights, of = (
        [t.detach() for layer in layers for t in layer[:2]],
        plan(("tanh", "silu", "identity"), (1.0,) * 3, (True,) * 3),
    )
    x, gy = x.detach(), fresh(200, 2, dtype=torch.float32)
    y, saved = FORWARD(x, weights, of.acts, True)
    for bits in (1, 0b10, 0b110, 0b1000000, 0b1010001, 0b1111111, 0):
        needed = [bool(bits >> i & 1) for i in range(7)]
        found = served.chain_backward(gy, x, weights, y, saved, of, needed)
        assert [g is not None for g in found] == needed
        close(found, backward_by_layers(gy, x, weights, of, needed), rtol=1e-4, atol=1e-5)
        again = served.chain_backward(gy, x, weights, y, saved, of, needed)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True) if a is not None)


def test_higher_orders(served):
    """The second derivative is the layers', of which all others are made."""
    x, layers = network(9, (3, 20, 1), ("tanh", None), True, torch.float64)

    def laplacian(f):
        (slope,) = grad(f(x, layers).sum(), x, create_graph=True)
        second = [grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(3)]
        return [*second, *grad(sum(second).square().sum(), leaves(x, layers)[:-1])]

    close(laplacian(fg.chain), laplacian(stock))


def test_which_chains_are_one_kernel(monkeypatch):
    """Narrow ones, in plain eager mode, unless a table says otherwise."""
    served = lambda *args, dtype=torch.bfloat16: chained(*network(*args, dtype)).grad_fn.name() == "ChainBackward"
    chained = lambda x, layers: fg.chain(x, layers)
    narrow = (20, (3, 64, 64, 1), ("relu", "relu", None), True)
    assert served(*narrow)
    assert not served(20, (3, 129, 1), ("relu", None), True)
    assert not served(20, (129, 3, 1), ("relu", None), True)
    assert not served(20, (3,) * 10, ("relu",) * 9, True)
    x, layers = network(*narrow, torch.bfloat16)
    assert fg.chain(x[:0], layers).shape == (0, 1)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert fg.chain(x, layers).grad_fn.name() != "ChainBackward"
    close(torch.vmap(lambda row: fg.chain(row, layers))(x), stock(x, layers), rtol=2e-2, atol=2e-2)
    monkeypatch.setattr(choice, "table", lambda family: [choice.Row("chain", "bfloat16", 20, 64, 3, "cublas")])
    choice.algorithm_for.cache_clear()
    try:
        assert not served(*narrow)
    finally:
        choice.algorithm_for.cache_clear()


def test_what_a_user_calls():
    """A Sequential, a loop and an MLP."""
    x = fresh(20, 3, dtype=torch.bfloat16)
    sizes = pairwise((3, 32, 32, 2))
    model = torch.nn.Sequential(*(m for k, n in sizes for m in (torch.nn.Linear(k, n), torch.nn.Tanh()))).to(x)
    truth = model(x)
    fg.fuse(model)
    for _ in range(2):
        y = model(x)
        assert y.grad_fn.name() == "ChainBackward"
        close(y, truth, rtol=2e-2, atol=2e-2)
    y = fg.MLP(3, 32, 2, act="gelu", device=DEVICE, dtype=torch.bfloat16)(x)
    assert y.grad_fn.name() == "ChainBackward"


@torch.inference_mode()
def test_the_raw_ops(served):
    """They refuse what does not fit, and make layer by layer what one kernel can't take."""
    acts, x, gy = "tanh 0.0,identity 0.0", fresh(9, 3), fresh(9, 4)
    weights = [fresh(20, 3), fresh(20), fresh(4, 20), fresh(4)]
    with pytest.raises(ValueError, match=r"need x \(..., a\), w1 \(b, a\), b1 \(b\), w2 \(c, b\), b2 \(c\)"):
        FORWARD(x[:, :2], weights, acts, False)
    with pytest.raises(ValueError, match="need w and b or None for each"):
        FORWARD(x, weights[:2], acts, False)
    y, saved = FORWARD(x, weights, acts, True)
    with pytest.raises(ValueError, match="do not fit"):
        BACKWARD(gy, x, weights, y, saved[1:], acts, 1)
    wide = [fresh(200, 3), None, fresh(4, 200), None]
    of, needed = plan(("tanh", "identity"), (0.0, 0.0), (False, False)), (True, True, False, True, False)
    y, saved = FORWARD(x, wide, acts, True)
    assert saved.shape == (9 * 200,)
    found = BACKWARD(gy, x, wide, y, saved, acts, 0b1011)
    truth = backward_by_layers(gy, x, wide, of, needed)
    close([g for g, n in zip(found, needed, strict=True) if n], [g for g in truth if g is not None])
