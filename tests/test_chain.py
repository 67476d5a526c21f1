"""A chain of layers as one op: numbers of all orders against stock, and what does not fit."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad
from torch.utils.flop_counter import FlopCounterMode

import fusegrad as fg
from fusegrad import backends, routing
from fusegrad.activations import REGISTRY

pytestmark = [pytest.mark.skipif(not backends.CHAINS, reason="no extension"), pytest.mark.usefixtures("nodes")]
close = torch.testing.assert_close
ACTS = ["tanh", "silu", "relu", "sigmoid", "gelu", "softplus", None, "elu", "leaky_relu", "sin", "softsign"]


def stock(x, layers):
    for w, b, act, *param in layers:
        x = F.linear(x, w, b)
        if act is not None:
            x = REGISTRY[act].value(x, param[0] if param else REGISTRY[act].default)
    return x


def a_chain(seed, dtype=torch.double):
    """x, layers, and the tensors of them that require a gradient."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda n: int(torch.randint(n, (), generator=random))
    tensor = lambda *shape: torch.randn(shape, generator=random, dtype=torch.double).to(dtype)
    sizes = [1 + draw(40) for _ in range(2 + draw(4))]
    if draw(4) == 0:
        sizes[1] = 513 + draw(90)  # so wide that it goes layer by layer
    lead = [(9,), (17,), (5, 7), (64,), (100,), (2, 1, 8), (1,), (3,), (2, 4)][draw(9)]
    x = tensor(*lead, sizes[0]).requires_grad_(draw(4) > 0)
    layers = []
    for k, n in pairwise(sizes):
        w = (tensor(n, k) if draw(3) else tensor(k, n).mT) / k**0.5
        b = tensor(n).requires_grad_(draw(4) > 0) if draw(4) else None
        layers.append((w.requires_grad_(draw(4) > 0 or len(layers) == 0), b, ACTS[draw(len(ACTS))]))
    return x, layers, [t for t in (x, *(t for layer in layers for t in layer[:2])) if t is not None and t.requires_grad]


def orders(f, x, layers, on, most):
    """y and its derivatives up to an order, and which of them require a gradient."""
    y = f(x, layers)
    gy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape).requires_grad_()
    found, total = [y], None
    for order in range(1, most + 1):
        to = on if order == 1 else [gy, *on]
        new = grad(y if order == 1 else total, to, gy if order == 1 else None, create_graph=True, allow_unused=True)
        found += [torch.zeros_like(t) if g is None else g for g, t in zip(new, to, strict=True)]
        new = [g for g in new if g is not None and g.requires_grad]
        if not new:
            break
        total = sum(g.sin().sum() for g in new)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_derivatives_of_three_orders(seed):
    x, layers, on = a_chain(seed)
    assert routing.may_be_a_chain(x)
    ours, stocks = orders(fg.chain, x, layers, on, 3), orders(stock, x, layers, on, 3)
    assert all(a.requires_grad == b.requires_grad or not b.any() for a, b in zip(ours, stocks, strict=True))
    close(ours, stocks)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_errors_are_no_larger_than_stocks(dtype):
    errors = []  # ours and stock's, of each tensor
    for seed in range(20):
        x, layers, on = a_chain(seed, dtype)
        assert fg.chain(x, layers).grad_fn.name() == "ChainBackward"
        tensors = [t for t in (x, *(t for layer in layers for t in layer[:2])) if t is not None]
        twin = {t: t.detach().double().requires_grad_(t.requires_grad) for t in tensors}
        exact = orders(stock, twin[x], [(twin[w], twin.get(b), act) for w, b, act in layers], [twin[t] for t in on], 1)
        found = (orders(f, x, layers, on, 1) for f in (fg.chain, stock))
        for *both, truth in zip(*found, exact, strict=True):
            errors.append([((t - truth).abs().max() / truth.abs().max()).item() for t in both])
    ours, stocks = torch.tensor(errors).clamp_min(1e-10).T
    assert ours.log().mean() <= stocks.log().mean() + 0.1 and ours.max() <= 2 * stocks.max()


def test_what_is_large_runs_by_layers(monkeypatch):
    """Wide layers, and 16 bits, are one op where calls cost much of what they do."""
    multiplied = 20 * (8 * 4 + 2 * 8)
    monkeypatch.setattr(routing, "CHAIN_WIDTH", 7)
    for largest, name in ((multiplied, "ChainBackward"), (multiplied - 1, "LinearBackward")):
        monkeypatch.setattr(routing, "CHAIN_LARGEST", largest)
        for dtype in (torch.float32, torch.float16):
            m = fg.fuse(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))).to(dtype)
            for _ in range(3):  # found, and kept
                assert m(torch.randn(20, 4, dtype=dtype)).grad_fn.name() == name
    monkeypatch.setattr(routing, "CHAIN_WIDTH", 8)
    m = fg.fuse(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)))
    assert m(torch.randn(20, 4)).grad_fn.name() == "ChainBackward"


def test_only_what_is_wanted_is_computed():
    x, layers, on = torch.randn(20, 3, requires_grad=True), [], []
    for k, n in ((3, 8), (8, 8), (8, 2)):
        layers.append((torch.randn(n, k, requires_grad=True), torch.randn(n, requires_grad=True), "tanh"))
    on = [x, *(t for layer in layers for t in layer[:2])]
    for wanted in [on[:1], on[1:2], on[2:3], on[5:], on[3:5], on[::-1]]:
        close(grad(fg.chain(x, layers).sum(), wanted), grad(stock(x, layers).sum(), wanted), rtol=1e-4, atol=1e-5)
    with FlopCounterMode(display=False) as ours:
        grad(fg.chain(x, layers).sum(), x)
    with FlopCounterMode(display=False) as theirs:
        grad(stock(x, layers).sum(), x)
    assert ours.get_total_flops() == theirs.get_total_flops()
    with FlopCounterMode(display=False) as ours:
        fg.chain(x, layers).sum().backward()
    with FlopCounterMode(display=False) as theirs:
        stock(x, layers).sum().backward()
    assert ours.get_total_flops() == theirs.get_total_flops()


def test_sums_over_many_rows_are_as_exact_as_stocks():
    torch.manual_seed(0)
    b = torch.randn(1, requires_grad=True)
    layers = [(torch.randn(8, 2), torch.randn(8), "tanh"), (torch.randn(1, 8), b, None)]
    x, gy = torch.randn(300_000, 2), torch.rand(300_000, 1)
    (gb,) = grad(fg.chain(x, layers), b, gy)
    exact = gy.double().sum()
    assert abs(gb.double() - exact) <= 2 * abs(gy.sum().double() - exact) + 2**-23 * exact


def test_what_does_not_fit_is_told():
    layers = [(torch.randn(4, 3), None, "tanh"), (torch.randn(2, 5), None, None)]
    with pytest.raises(ValueError, match=r"w has shape \(2, 5\), x has shape \(10, 4\)"):
        fg.chain(torch.randn(10, 3), layers)
    with pytest.raises(ValueError, match="there is no layer"):
        fg.chain(torch.randn(10, 3), [])
    with pytest.raises(ValueError, match="unknown act"):
        fg.chain(torch.randn(10, 3), [(torch.randn(4, 3), None, "tanhh")])
    raw, weights = torch.ops.fusegrad.chain, [t for layer in layers for t in layer[:2]]
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match="layer 1 has w"):
            raw(torch.randn(10, 3), weights, "tanh 0.0,tanh 0.0", False)
        for acts in ("tanh 0.0", "tanh", "tanh 0.0,", "tanh 0.0;tanh 0.0", "", "tanh 0.0,tanh 0.0,tanh 0.0"):
            with pytest.raises(RuntimeError, match="chain: "):
                raw(torch.randn(10, 3), [*weights[:2], torch.randn(2, 4), None], acts, False)


def test_the_raw_op_is_differentiable():
    x, layers, on = a_chain(5)
    weights = [t for layer in layers for t in layer[:2]]
    acts = ",".join(f"{a or 'identity'} {REGISTRY[a or 'identity'].default!r}" for _, _, a in layers)
    close(grad(torch.ops.fusegrad.chain(x, weights, acts, True)[0].sum(), on), grad(stock(x, layers).sum(), on))
