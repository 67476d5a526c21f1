"""Gated layers: every transform, every gradient, packed weights, and what is saved for backward."""

import itertools

import pytest
import test_transforms  # noqa: F401  (fills them)
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

import fusegrad as fg
from fusegrad import backends, functional_gated, ops, routing
from fusegrad.benchmarks.memory import bytes_saved
from fusegrad.ops import OPS
from fusegrad.ops.arguments import PACKINGS

from cases import DEFAULTS, DEVICE, DTYPES, Case
from transforms import COMPILED, TRANSFORMS, agree_in_compiled_autograd, compilers

ACTS = ("silu", "tanh")  # which save their input, and their output
BIASES = list(itertools.product((True, False), repeat=2))


def fresh(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def arguments(dtype=torch.float64, biases=(True, True), sizes=(3, 4), lead=(2, 3)):
    """x, w_gate, w_up, b_gate, b_up that require gradients; a bias may be None."""
    k, n = sizes
    made = [fresh(*lead, k, seed=0), fresh(n, k, seed=1), fresh(n, k, seed=2), fresh(n, seed=3), fresh(n, seed=4)]
    there = (True, True, True, *biases)
    return [t.to(dtype).requires_grad_() if is_there else None for t, is_there in zip(made, there, strict=True)]


def stock(case):
    return lambda x, w_gate, w_up, b_gate, b_up: case.stock_linear(x, w_gate, b_gate) * F.linear(x, w_up, b_up)


def ours(case):
    return lambda *args: fg.gated(*args, act=case.name, param=case.param)


def there(tensors):
    return [t for t in tensors if t is not None]


@pytest.mark.parametrize(
    "act, name", [*itertools.product(ACTS, TRANSFORMS), *compilers(ACTS[0], all_names=False)], ids=str
)
def test_transform(act, name):
    """Both layers are made of one, so that every transform reaches both."""
    case = Case(act)
    both = lambda f: lambda x, w, b=None: f(case)(x, w, w.flip(0).sin(), b, None if b is None else b.cos())
    (TRANSFORMS | COMPILED)[name](both(ours), both(stock))


@pytest.mark.parametrize("biases", BIASES, ids=str)
@pytest.mark.parametrize("act", (*ACTS, "relu", "identity"))
def test_gradients_of_every_order(act, biases):
    args = arguments(biases=biases)
    case = Case(act)

    def run(f):
        y = f(*args)
        first = grad(y.sin().sum(), there(args), create_graph=True)
        second = grad(sum(g.square().sum() for g in first), there(args), create_graph=True)
        return y, first, second, grad(sum(g.sin().sum() for g in second), there(args))

    torch.testing.assert_close(run(ours(case)), run(stock(case)))


@pytest.mark.parametrize("need", range(1, 32))
def test_any_subset_needs_a_gradient(need):
    args = [t.detach().requires_grad_(bool(need >> i & 1)) for i, t in enumerate(arguments())]
    on = [t for t in args if t.requires_grad]

    def run(f):
        first = grad(f(*args).sin().sum(), on, create_graph=True)
        return first, grad(sum(g.square().sum() for g in first), on, allow_unused=True, materialize_grads=True)

    torch.testing.assert_close(run(ours(Case("silu"))), run(stock(Case("silu"))))


@pytest.mark.parametrize("save", (True, False))
@pytest.mark.parametrize("act", ACTS)
def test_the_op_numerically(act, save):
    """With what is saved, which are outputs; and without, where backward computes it again."""
    op = lambda *args: [t for t in OPS["gated"](*args, act, 0.0, save) if t.numel() > 0]
    args = arguments(sizes=(2, 3), lead=(2, 2))
    assert gradcheck(op, args, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(op, args, check_fwd_over_rev=True)


@pytest.mark.parametrize("biases", ((False, True), (True, False)), ids=str)
def test_compiled_autograd(biases):
    """Without one of the biases; with both it is among the transforms."""
    agree_in_compiled_autograd(ours(Case("silu")), stock(Case("silu")), arguments(biases=biases))


@pytest.mark.parametrize("act", ACTS)
def test_vmap_over_any_argument(act):
    op = lambda *args: OPS["gated"](*args, act, 0.0, True)

    def composed(x, w_gate, w_up, b_gate, b_up):
        z, up = F.linear(x, w_gate, b_gate), F.linear(x, w_up, b_up)
        h = Case(act).stock(z)
        return h * up, z if act == "silu" else h, up

    args = arguments()
    for there in itertools.product((False, True), repeat=5):
        if any(there):
            batched = [torch.stack([t, t + 1]) if b else t for t, b in zip(args, there, strict=True)]
            dims = tuple(0 if b else None for b in there)
            torch.testing.assert_close(torch.vmap(op, dims)(*batched), torch.vmap(composed, dims)(*batched))


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error(case, dtype):
    """At most twice stock's in the same dtype, and a few roundings."""
    args = arguments(dtype, sizes=(129, 33), lead=(47,))
    args[1:3] = [(t.detach() / 8).requires_grad_() for t in args[1:3]]
    wide = [t.detach().double().requires_grad_() for t in args]

    def run(f, args):
        y = f(*args)
        return [y, *grad(y, args, fresh(*y.shape, seed=7).to(y.dtype))]

    for mine, theirs, truth in zip(run(ours(case), args), run(stock(case), args), run(stock(case), wide), strict=True):
        error, of_stock = ((t.double() - truth).abs().max().item() for t in (mine, theirs))
        slack = (64 if dtype == torch.float64 else 4) * torch.finfo(dtype).eps * truth.abs().max().item()
        assert mine.dtype == dtype and error <= 2 * of_stock + slack


def test_empty():
    for sizes, lead in (((0, 4), (2, 3)), ((3, 0), (2, 3)), ((3, 4), (0,)), ((3, 4), (2, 0)), ((3, 4), ())):
        args = arguments(sizes=sizes, lead=lead)
        mine, theirs = (f(Case("silu"))(*args) for f in (ours, stock))
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(grad(mine.sum(), args), grad(theirs.sum(), args))


@pytest.mark.parametrize("as_one", (True, False))
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bias", (True, False))
def test_packed(packing, bias, as_one, monkeypatch):
    """As two layers; and as one, where that is faster."""
    monkeypatch.setattr(functional_gated, "is_one_layer", lambda *args: as_one)
    x, w_gate, w_up, b_gate, b_up = arguments()
    order = {"gate_first": lambda a, b: torch.cat([a, b]), "gate_last": lambda a, b: torch.cat([b, a])}
    pack = order.get(packing, lambda a, b: torch.stack([a, b], 1).flatten(0, 1))
    args = [x, pack(w_gate, w_up), pack(b_gate, b_up) if bias else None]
    args = [t if t is None else t.detach().requires_grad_() for t in args]

    def halves(t):
        if t is None:
            return None, None
        a, b = (t[::2], t[1::2]) if packing == "interleaved" else t.chunk(2)
        return (b, a) if packing == "gate_last" else (a, b)

    def written(x, w, b):
        return stock(Case("silu"))(x, *halves(w), *halves(b))

    mine = lambda x, w, b: fg.gated_packed(x, w, b, act="silu", packing=packing)

    def run(f):
        y = f(*args)
        first = grad(y.sin().sum(), there(args), create_graph=True)
        return y, first, grad(sum(g.square().sum() for g in first), there(args))

    torch.testing.assert_close(run(mine), run(written))
    if packing == "gate_last" and bias:
        torch.testing.assert_close(fg.gated_packed(*args, act="sigmoid", packing=packing), F.glu(F.linear(*args)))


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_no_more_is_saved_than_by_stock(case):
    args = arguments(torch.float32, sizes=(8, 64))
    saved, of_stock = (bytes_saved(lambda f=f: f(case)(*args), *args) for f in (ours, stock))
    assert saved <= of_stock
    if case.name in ("silu", "gelu"):  # z and up, of z, act(z) and up
        assert 3 * saved == 2 * of_stock


@pytest.mark.parametrize("act", ACTS)
def test_no_more_products_than_stock(act):
    """In a first and in a second derivative, of all arguments or of few."""

    def flops(f, chosen):
        args = arguments()
        with FlopCounterMode(display=False) as counter:
            y = f(*args).sin().sum()
            first = grad(y, [args[i] for i in chosen], create_graph=True)
            after_first = counter.get_total_flops()
            grad(sum(g.square().sum() for g in first), args)
        return after_first, counter.get_total_flops()

    for chosen in ((0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4)):
        mine, theirs = flops(ours(Case(act)), chosen), flops(stock(Case(act)), chosen)
        assert mine[0] == theirs[0] and mine[1] <= theirs[1], chosen


@pytest.mark.parametrize("act", ACTS)
def test_backward_twice_and_in_place(act):
    args = arguments()
    y = ours(Case(act))(*args)
    first = grad(y.sum(), args, retain_graph=True)
    torch.testing.assert_close(first, grad(y.sum(), args, retain_graph=True), rtol=0, atol=0)
    y.mul_(2)  # y is nobody's to save
    torch.testing.assert_close([2 * g for g in first], list(grad(y.sum(), args)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", (1, 8, 20))
def test_same_bits_each_time(rows, dtype):
    """In blocks of k too, of which there are several, and whether or not what backward needs is saved."""
    args = arguments(dtype, sizes=(2100, 37), lead=(rows,))

    def run():
        y = ours(Case("silu"))(*args)
        return [y, *grad(y.sum(), args)]

    first = run()
    torch.testing.assert_close(run(), first, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(ours(Case("silu"))(*args), first[0].detach(), rtol=0, atol=0)
    expected = stock(Case("silu"))(*(t.double() for t in args))
    scale = expected.abs().max().item()
    assert (first[0].double() - expected).abs().max().item() <= 64 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("act", (*ACTS, "softplus"))
def test_autocast(act):
    args = arguments(torch.float32)
    with torch.autocast(DEVICE, torch.bfloat16):
        y, expected = (f(Case(act))(*args) for f in (ours, stock))
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.04)
    for mine, theirs in zip(grad(y.sum(), args), grad(expected.sum(), args), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.1)


def test_small_inputs_and_replaced_functions(monkeypatch):
    """Stock torch computes what is small, and what somebody has given another meaning."""
    args = arguments()
    expected = stock(Case("silu"))(*args)
    monkeypatch.setattr(routing, "SMALL_GATED", 2**17)
    monkeypatch.setattr(backends, "node", None)  # else it is one call of C++ at any size
    with monkeypatch.context() as without, pytest.raises(TypeError, match="not callable"):
        without.setattr(ops.gated, "apply", None)  # by which plain eager mode calls it
        torch.testing.assert_close(ours(Case("silu"))(*args), expected)
        ours(Case("silu"))(*arguments(lead=(2**15,)))
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda x, w, b=None: 2 * linear(x, w, b))
    torch.testing.assert_close(ours(Case("silu"))(*args), stock(Case("silu"))(*args))


X, W, B = torch.ones(2, 4), torch.ones(6, 4), torch.ones(6)


@pytest.mark.parametrize(
    "make, error, says",
    (
        (lambda: fg.gated(X, W, W[:5], act="silu"), ValueError, r"gated: w_gate .*\(6, 4\), w_up .*\(5, 4\)"),
        (lambda: fg.gated(X, W.mT, W, act="silu"), ValueError, r"w_gate has shape \(4, 6\), x has shape \(2, 4\)"),
        (lambda: fg.gated(X, W, W.mT, act="silu"), ValueError, r"w_up has shape \(4, 6\), x has shape \(2, 4\)"),
        (lambda: fg.gated(X, W, W, B, B[:5], act="silu"), ValueError, r"b_up has shape \(5,\), w_up .*\(6, 4\)"),
        (lambda: fg.gated(X, W, W.double(), act="silu"), TypeError, "w_up .*float64"),
        (lambda: fg.gated(X, W, None, act="silu"), TypeError, "gated: w_up must be a tensor, got NoneType"),
        (lambda: fg.gated(X, W, W, act="siluu"), ValueError, "gated: unknown act 'siluu'"),
        (lambda: fg.gated(X, W, W, act="tanh", param=1.0), ValueError, "'tanh' takes no param"),
        (lambda: fg.gated_packed(X, W, act="silu", packing="first"), ValueError, "packing must be one of 'gate_first'"),
        (lambda: fg.gated_packed(X, W[:5], act="silu"), ValueError, r"w has shape \(5, 4\); need \(2 out_features"),
        (lambda: fg.gated_packed(X, W, B[:5], act="silu"), ValueError, r"b has shape \(5,\), w has shape \(6, 4\)"),
        (lambda: fg.gated_packed(X, 3, act="silu"), TypeError, "gated_packed: w must be a tensor, got int"),
    ),
)
def test_refuses(make, error, says):
    with pytest.raises(error, match=says):
        make()
