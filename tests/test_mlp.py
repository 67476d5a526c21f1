"""Two layers as one op: every transform, every gradient, and what is saved for backward."""

import copy
import itertools
import pickle

import pytest
import test_transforms  # noqa: F401  (fills them)
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

import fusegrad as fg
from fusegrad import backends, routing
from fusegrad.benchmarks.memory import bytes_saved
from fusegrad.ops import OPS

from cases import DEFAULTS, DEVICE, DTYPES, Case
from transforms import COMPILED, TRANSFORMS, agree_in_compiled_autograd, compilers

ACTS = ("silu", "tanh")  # which save their input, and their output
BIASES = list(itertools.product((True, False), repeat=2))


@pytest.fixture(autouse=True)
def _no_chain(monkeypatch):
    """All sizes run as mlp: what a chain computes has its tests in test_chain.py."""
    monkeypatch.setattr(routing, "CHAIN_WIDTH", 0)
    monkeypatch.setattr(routing, "CHAIN_LARGEST", 0)


def fresh(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def arguments(dtype=torch.float64, biases=(True, True), sizes=(3, 5, 4)):
    """x, w1, b1, w2, b2 that require gradients; a bias may be None."""
    k, h, n = sizes
    made = [fresh(s, t, dtype=dtype, seed=i) for i, (s, t) in enumerate(((6, k), (h, k), (n, h)))]
    b1, b2 = (fresh(s, dtype=dtype, seed=3) if there else None for s, there in zip((h, n), biases, strict=True))
    args = made[0].reshape(2, 3, k), made[1], b1, made[2], b2
    return [t if t is None else t.detach().requires_grad_() for t in args]


def stock(case):
    return lambda x, w1, b1, w2, b2: F.linear(case.stock_linear(x, w1, b1), w2, b2)


def ours(case):
    return lambda x, w1, b1, w2, b2: fg.mlp(x, w1, b1, w2, b2, act=case.name, param=case.param)


def there(tensors):
    return [t for t in tensors if t is not None]


@pytest.mark.parametrize(
    "act, name", [*itertools.product(ACTS, TRANSFORMS), *compilers(ACTS[0], all_names=False)], ids=str
)
def test_transform(act, name):
    """Both weights are made of one, so that every transform reaches both."""
    case = Case(act)
    f = lambda x, w, b=None: ours(case)(x, w, b, w.mT, None if b is None else b[:3])
    r = lambda x, w, b=None: stock(case)(x, w, b, w.mT, None if b is None else b[:3])
    (TRANSFORMS | COMPILED)[name](f, r)


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


@pytest.mark.parametrize("save", (True, False))
@pytest.mark.parametrize("act", ACTS)
def test_the_op_numerically(act, save):
    """With what is saved, which is an output; and without, where backward computes it again."""
    x, w1, b1, w2, b2 = arguments()
    op = lambda *args: [t for t in OPS["mlp"](*args, act, 0.0, save) if t.numel() > 0]
    assert gradcheck(op, (x, w1, b1, w2, b2), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(op, (x, w1, b1, w2, b2), check_fwd_over_rev=True)


@pytest.mark.parametrize("biases", ((False, True), (True, False)), ids=str)
def test_compiled_autograd(biases):
    """Without one of the biases; with both it is among the transforms."""
    agree_in_compiled_autograd(ours(Case("silu")), stock(Case("silu")), arguments(biases=biases))


@pytest.mark.parametrize("act", ACTS)
def test_vmap_over_any_argument(act):
    op = lambda *args: OPS["mlp"](*args, act, 0.0, True)
    composed = lambda x, w1, b1, w2, b2: (
        F.linear(Case(act).stock_linear(x, w1, b1), w2, b2),
        F.linear(x, w1, b1) if act == "silu" else Case(act).stock_linear(x, w1, b1),
    )
    x, w1, b1, w2, b2 = (t.detach() for t in arguments())
    for dims in itertools.product((None, 0, -1), repeat=5):
        if any(dim is not None for dim in dims):
            batched = [
                t if d is None else torch.stack([t, t + 1], d) for t, d in zip((x, w1, b1, w2, b2), dims, strict=True)
            ]
            torch.testing.assert_close(torch.vmap(op, dims)(*batched), torch.vmap(composed, dims)(*batched))


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_values_and_gradients(case):
    torch.testing.assert_close(*(f(*arguments()) for f in (ours(case), stock(case))))
    gradients = (grad(f(*(args := arguments())).sin().sum(), args) for f in (ours(case), stock(case)))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", (*ACTS, "gelu"))
def test_error(act, dtype):
    """At most twice stock's in the same dtype, and a few roundings."""
    sizes, case = (47, 129, 33), Case(act)
    args = arguments(dtype, sizes=sizes)
    wide = [t.detach().double().requires_grad_() for t in args]

    def run(f, args):
        y = f(*args)
        return [y, *grad(y, args, fresh(*y.shape, seed=7).to(y.dtype))]

    for mine, theirs, truth in zip(run(ours(case), args), run(stock(case), args), run(stock(case), wide), strict=True):
        error, of_stock = ((t.double() - truth).abs().max().item() for t in (mine, theirs))
        slack = (64 if dtype == torch.float64 else 4) * torch.finfo(dtype).eps * truth.abs().max().item()
        assert mine.dtype == dtype and error <= 2 * of_stock + slack


def test_empty():
    for sizes in ((0, 5, 4), (3, 0, 4), (3, 5, 0)):
        args = arguments(sizes=sizes)
        for f in (ours(Case("silu")), stock(Case("silu"))):
            gradients = grad(f(*args).sum(), args)
            assert [g.shape for g in gradients] == [t.shape for t in args]
        torch.testing.assert_close(gradients, grad(ours(Case("silu"))(*args).sum(), args))


@pytest.mark.parametrize("act, share", (("gelu", 0.5), ("silu", 0.5), ("tanh", 1.0), ("relu", 1.0)))
def test_the_hidden_layer_is_kept_once(act, share):
    args = arguments(torch.float32, sizes=(8, 64, 8))
    saved, of_stock = (bytes_saved(lambda f=f: f(*args), *args) for f in (ours(Case(act)), stock(Case(act))))
    assert saved == share * of_stock


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
        assert mine[0] == theirs[0], chosen
        assert mine[1] <= theirs[1] * 1.3, chosen  # the product that made gz is made again


@pytest.mark.parametrize("act", ACTS)
def test_backward_twice_and_in_place(act):
    args = arguments()
    y = ours(Case(act))(*args)
    first = grad(y.sum(), args, retain_graph=True)
    torch.testing.assert_close(first, grad(y.sum(), args, retain_graph=True), rtol=0, atol=0)
    y.mul_(2)  # y is nobody's to save
    torch.testing.assert_close([2 * g for g in first], list(grad(y.sum(), args)))


def test_autocast():
    for act in ACTS:
        args = arguments(torch.float32)
        with torch.autocast(DEVICE, torch.bfloat16):
            y, expected = (f(*args) for f in (ours(Case(act)), stock(Case(act))))
        assert y.dtype == expected.dtype == torch.bfloat16
        torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02)
        for mine, theirs in zip(grad(y.sum(), args), grad(expected.sum(), args), strict=True):
            assert mine.dtype == torch.float32
            torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.05)


# --- the module ---------------------------------------------------------------------------------------------------


class Stock(nn.Module):
    """As timm has it."""

    def __init__(self):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 4)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


def pair():
    """An MLP and the stock one whose state it has."""
    theirs = Stock().to(DEVICE)
    mine = fg.MLP(3, 5, 4).to(DEVICE)
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def test_the_module_is_a_drop_in():
    mine, theirs = pair()
    x = fresh(7, 3, dtype=torch.float32)
    torch.testing.assert_close(mine(x), theirs(x))
    for m in (mine, theirs):
        m(x).square().sum().backward()
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    for copied in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        torch.testing.assert_close(copied(x), theirs(x))
    torch.testing.assert_close(torch.compile(mine, backend="aot_eager", fullgraph=True)(x), theirs(x))
    assert "act='gelu'" in repr(mine) and [*mine.state_dict()] == [*theirs.state_dict()]
    assert fg.MLP(3)(fresh(2, 3, dtype=torch.float32).cpu()).shape == (2, 3)
    linear = fg.MLP(3, 0, act=None)
    assert linear.fc1.out_features == 0 and linear(torch.ones(2, 3)).equal(linear.fc2.bias.expand(2, 3))


def test_the_module_obeys_its_layers():
    """A hook, a parametrization, another layer in the place of one: as in stock."""
    x = fresh(7, 3, dtype=torch.float32)
    changes = (
        lambda m: m.fc1.register_forward_hook(lambda m, args, y: 2 * y),
        lambda m: m.fc2.register_forward_pre_hook(lambda m, args: (args[0] + 1,)),
        lambda m: nn.utils.parametrizations.weight_norm(m.fc2),
        lambda m: setattr(m, "fc2", nn.Identity()),
        lambda m: setattr(m.fc1, "bias", None),
    )
    for change in changes:
        mine, theirs = pair()
        for m in (mine, theirs):
            change(m)
        torch.testing.assert_close(mine(x), theirs(x))


def test_the_module_in_fuse_and_explain():
    model = nn.Sequential(fg.MLP(3, 5, act="leaky_relu", param=0.3), nn.Linear(3, 2))
    for _ in range(2):
        rows = fg.explain(model)
        assert [r.fused_with for r in rows] == ["leaky_relu, 0.3 (its MLP)", "leaky_relu, 0.3 (its MLP)", ""]
        fg.fuse(model)
    assert type(fg.unfuse(model)[0]) is fg.MLP
    model[0].fc1.register_forward_hook(lambda *args: None)
    assert [r.why for r in fg.explain(model)[:2]] == ["has hooks", "has hooks"]
    del model[0].fc2
    assert [r.layer for r in fg.explain(model)] == ["0.fc1", "1"]


class Gated(fg.MLP):
    def __init__(self):
        super().__init__(3, 5)
        self.out = nn.Linear(3, 3)

    def gate(self, x):
        return torch.tanh(self.out(x)) * self(x)


def test_a_subclass_of_the_module():
    torch.manual_seed(0)
    model = fg.fuse(Gated())
    assert [r.fused_with for r in fg.explain(model)] == [
        "gelu (its MLP)",
        "gelu (its MLP)",
        "tanh (called as a function)",
    ]
    x = torch.randn(4, 3)
    torch.testing.assert_close(model.gate(x), fg.unfuse(model).gate(x))
    model.forward = lambda x: model.fc1(x)
    assert [r.fused_with for r in fg.explain(model)][:2] == ["", ""]


def test_up_to_how_many_rows_stock_computes_the_module(monkeypatch):
    monkeypatch.setattr(backends, "node", None)
    monkeypatch.setattr(routing, "SMALL_LAYER", 2**28)
    monkeypatch.setattr(routing, "SMALL_TENSOR_IN_TRAINING", 2**16)
    assert [r.stock_rows for r in fg.explain(fg.MLP(3, 64, 4))] == [1024, 1024]


def test_nested_tensors():
    rows = [torch.ones(2, 3, device=DEVICE), torch.ones(1, 3, device=DEVICE)]
    mine, theirs = pair()
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 4)).to(DEVICE)
    for layout in (torch.strided, torch.jagged):
        x = torch.nested.nested_tensor(rows, layout=layout)
        expected = model(x).unbind()
        torch.testing.assert_close(mine(x).unbind(), theirs(x).unbind())
        torch.testing.assert_close(fg.fuse(model)(x).unbind(), expected)
        fg.unfuse(model)


@pytest.mark.parametrize("sizes", ([3, 4], (3, 7, 5, 4), [3, *[6] * 8, 4], torch.Size([3, 5, 4])), ids=str)
def test_of_any_number_of_layers(sizes):
    torch.manual_seed(0)
    model = fg.MLP(sizes, act="silu").to(DEVICE)
    layers = [module for name, k in enumerate(sizes[1:], 1) for module in (getattr(model, f"fc{name}"), nn.SiLU())][:-1]
    twin = nn.Sequential(*(nn.Linear(m.in_features, m.out_features) if isinstance(m, nn.Linear) else m for m in layers))
    twin.to(DEVICE).load_state_dict(dict(zip(twin.state_dict(), model.state_dict().values(), strict=True)))
    assert list(model.state_dict())[-2:] == [f"fc{len(sizes) - 1}.weight", f"fc{len(sizes) - 1}.bias"]
    x = torch.randn(9, 3, device=DEVICE, requires_grad=True)
    for _ in range(3):
        found = [(y := m(x), *grad(y.sin().sum(), (x, *m.parameters()))) for m in (model, twin)]
        torch.testing.assert_close(*found)
    rows = torch.nested.nested_tensor([x[:4].detach(), x[4:].detach()], layout=torch.jagged)
    torch.testing.assert_close(model(rows).unbind(), twin(rows).unbind())
    laplacians = [fg.laplacian(m, x.detach()).laplacian for m in (model, twin)]
    torch.testing.assert_close(*laplacians)
    seen = []
    model.fc1.register_forward_hook(lambda *args: seen.append(args))
    torch.testing.assert_close(model(x), twin(x))
    assert len(seen) == 1


def test_all_layers_of_the_module_are_explained():
    found = [r.fused_with for r in fg.explain(nn.Sequential(fg.MLP([3, 7, 5, 4])))]
    assert found == ["gelu (its MLP)"] * 3


@pytest.mark.parametrize(
    "make, error, says",
    (
        (lambda: fg.MLP([3]), ValueError, r"MLP: sizes \[3\]"),
        (lambda: fg.MLP([3, 4], 5), ValueError, "MLP: sizes .*hidden=5"),
        (lambda: fg.MLP(3, act="geluu"), ValueError, "MLP: unknown act 'geluu'"),
        (lambda: fg.MLP(3, act="tanh", param=1.0), ValueError, "'tanh' takes no param"),
        (lambda: fg.MLP(3, 5)(torch.ones(2, 4)), ValueError, r"w has shape \(5, 3\), x has shape \(2, 4\)"),
        (lambda: fg.MLP(3, 5, 4, "cpu"), TypeError, "MLP: act='cpu'.*give device and dtype by name"),
    ),
)
def test_the_module_refuses(make, error, says):
    with pytest.raises(error, match=says):
        make()
