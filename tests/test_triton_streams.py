"""An activation of a Laplacian's streams in one Triton pass, and its backward in another, on a GPU, or by Triton's
interpreter, in which test_triton.py runs this file.
"""

import itertools

import pytest
import torch
from by_nested import loss_of, nested
from nested import along
from torch.testing import assert_close

import fusegrad as fg
from fusegrad import backends
from fusegrad.activations import REGISTRY
from fusegrad.operators import elementwise
from fusegrad.operators.layers import act_streams
from fusegrad.operators.streams import Rules
from fusegrad.ops.elementwise_streams import ACT, ACT_BACKWARD

from cases import CASES, DEVICE, DTYPES, Case

pytest.importorskip("triton")
SERVING = backends.INTERPRETED or DEVICE == "cuda"
pytestmark = pytest.mark.skipif(not SERVING, reason="runs in the interpreter, by test_triton.py")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}

# what torch cannot derive twice, or not without two seconds of imports
WRITTEN = {
    "hardsigmoid": lambda z, _: (z + 3).clamp(0, 6) / 6,
    "softsign": lambda z, _: z / (1 + z.square().sqrt()),
}


def fresh(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(DEVICE, dtype)


def streams(shape, r, has_l, dtype=torch.float64, seed=0):
    """z, t and l, or their cotangents."""
    return [
        fresh(*shape, dtype=dtype, seed=seed),
        fresh(r, *shape, dtype=dtype, seed=seed + 1),
        fresh(1, *shape, dtype=dtype, seed=seed + 2) if has_l else None,
    ]


def truth(given, cotangents, case):
    """y, ty, ly, gz, gt, gl in float64, by nested autograd; what is not given is zero."""
    z, t, l = (s if s is None else s.detach().double().requires_grad_() for s in given)  # noqa: E741
    y = WRITTEN.get(case.name, REGISTRY[case.name].value)(z, case.value)
    options = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
    first = torch.autograd.grad(y.sum(), z, **options)[0]
    second = torch.autograd.grad(first.sum(), z, **options)[0] if first.requires_grad else torch.zeros_like(z)
    ly = second * t.square().sum(0, keepdim=True) + (0 if l is None else first * l)
    made = y, first * t, ly
    loss = sum((out * g.double()).sum() for out, g in zip(made, cotangents, strict=True) if g is not None)
    leaves = [s for s in (z, t, l) if s is not None]
    found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [s.detach() for s in (*made, *found)]


def assert_near(made, truths, roundings=1.0):
    for y, expected in zip(made, truths, strict=True):
        assert y.shape == expected.shape
        allowed = roundings * TOLERANCE[y.dtype]
        largest = expected.abs().max().item() if expected.numel() else 0
        assert_close(y.double(), expected, rtol=allowed, atol=allowed * (1 + largest))


def check(given, cotangents, case, roundings=1.0):
    """Both ops, against nested autograd."""
    args = case.name, case.value
    made = ACT(*given, *args)
    found = ACT_BACKWARD(*cotangents, *given, *args, 3 if given[2] is None else 7)
    found = found[: 2 if given[2] is None else 3]
    assert all(s.dtype == given[0].dtype for s in (*made, *found))
    assert_near((*made, *found), truth(given, cotangents, case), roundings)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_activation(case):
    given, cotangents = streams((9, 5), 2, True, torch.float32), streams((9, 5), 2, True, torch.float32, seed=3)
    check(given, cotangents, case, 4)


SIZES = [((33,), 3, False), ((7, 5), 0, True), ((2, 520), 5, True), ((300, 1), 1, False), ((0, 3), 2, True)]


@pytest.mark.parametrize("shape, r, has_l", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers(shape, r, has_l, dtype):
    """One that saves its input, and one that saves its output."""
    given = streams(shape, r, has_l, dtype)
    for name in ("silu", "tanh"):
        check(given, streams(shape, r, True, dtype, seed=3), Case(name))


def test_strides():
    """Columns apart, rows alike, as tangents are before the first layer, and what is no sheet. Results lie as z."""
    case = Case("tanh")
    of_row = streams((40,), 3, True, seed=5)
    alike = [s.unsqueeze(-2).expand(*s.shape[:-1], 6, 40) for s in of_row]
    turned = [fresh(40, 6).mT, fresh(40, 6, 3).movedim(-1, 0).mT, fresh(1, 40, 6).mT]
    for given in ([fresh(6, 40), *alike[1:]], turned, [fresh(6, 80)[:, ::2], turned[1], alike[2]], alike):
        ones = torch.ones((), dtype=torch.float64, device=DEVICE)
        for cotangents in (turned, [ones.expand(6, 40), ones.expand(3, 6, 40), ones.expand(1, 6, 40)]):
            check(given, cotangents, case)
        y, ty, ly = ACT(*given, "tanh", 0.0)
        like = torch.empty_like(given[0])
        assert y.stride() == like.stride() == ty[0].stride() == ly[0].stride()
    given = [fresh(4, 3, 5), fresh(2, 5, 4, 3).movedim(1, -1), fresh(1, 3, 4, 5).transpose(1, 2)]
    check(given, streams((4, 3, 5), 2, True, seed=3), case)


@pytest.mark.parametrize("name", ("silu", "tanh", "relu"))
def test_only_what_is_there_and_needed(name):
    case, every = Case(name), streams((7, 5), 2, True, seed=3)
    given = streams((7, 5), 2, True)
    for there in itertools.product((False, True), repeat=3):
        cotangents = [g if is_there else None for g, is_there in zip(every, there, strict=True)]
        if any(there):
            check(given, cotangents, case)
    expected = truth(given, every, case)[3:]
    for needed in range(8):
        found = ACT_BACKWARD(*every, *given, name, 0.0, needed)
        assert [g.numel() > 0 for g in found] == [bool(needed >> i & 1) for i in range(3)]
        pairs = [(g, e) for g, e in zip(found, expected, strict=True) if g.numel()]
        assert_near([g for g, _ in pairs], [e for _, e in pairs])


def test_nothing_is_read_past_the_end():
    """What stands behind is no number, and NaN stays where it is."""

    def guarded(t):
        return torch.cat([t.reshape(-1), torch.full((999,), torch.nan, device=DEVICE)])[: t.numel()].view(t.shape)

    given, cotangents = streams((19, 3), 2, True), streams((19, 3), 2, True, seed=3)
    check([guarded(s) for s in given], [guarded(s) for s in cotangents], Case("silu"))
    given[0][7, 1] = given[1][0, 2, 2] = torch.nan
    y, ty, ly = ACT(*given, "silu", 0.0)
    gz, gt, gl = ACT_BACKWARD(*cotangents, *given, "silu", 0.0, 7)
    at = lambda s: {tuple(i) for i in s.isnan().nonzero().tolist()}
    assert at(y) == {(7, 1)} and at(ly) == {(0, 7, 1), (0, 2, 2)}
    assert at(ty) == {(0, 7, 1), (1, 7, 1), (0, 2, 2)}
    assert at(gz) == {(7, 1), (2, 2)} and at(gl) == {(0, 7, 1)} and at(gt) == at(ty)


def test_refused():
    with pytest.raises(ValueError, match=r"act_streams: .*\(2, 4\)"):
        ACT(fresh(3), fresh(2, 4), None, "tanh", 0.0)
    with pytest.raises(TypeError, match="act_streams"):
        ACT(fresh(3), fresh(2, 3).float(), None, "tanh", 0.0)
    with pytest.raises(ValueError, match="no kernel of act"):
        ACT(fresh(3), fresh(2, 3), None, "nothing", 0.0)
    with pytest.raises(ValueError, match="act_streams_backward"):
        ACT_BACKWARD(fresh(3), fresh(1, 3), None, fresh(3), fresh(2, 3), None, "tanh", 0.0, 3)


@pytest.mark.parametrize("act, has_l", (("tanh", True), ("gelu", False), ("relu", False)))
def test_derivatives_of_derivatives(act, has_l):
    """As those of the layers' functions."""
    results, rules, case = [], Rules(2, 2, summed=True), Case(act)
    for run in (elementwise.activated, act_streams):
        leaves = [None if s is None else s.requires_grad_() for s in streams((5, 4), 2, has_l)]
        y, (t, l) = run(rules, leaves[0], tuple(leaves[1:]), act, case.value)  # noqa: E741
        assert (l is None) == (act == "relu")
        given = [s for s in leaves if s is not None]
        loss = y.sin().sum() + t.cos().sum() + (0 if l is None else (l * (y + 1)).sum())
        first = torch.autograd.grad(loss, given, create_graph=True)
        again = torch.autograd.grad(sum(g.square().sum() for g in first), given, create_graph=True)
        third = torch.autograd.grad(sum(g.sin().sum() for g in again), given, allow_unused=True, materialize_grads=True)
        results.append((y, t, *first, *again, *third))
    for mine, expected in zip(*results, strict=True):
        assert_close(mine, expected, rtol=1e-9, atol=1e-9)


class Layered(torch.nn.Module):
    """A network, and what stands around it: read by no chain."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) * torch.sin(x).sum(-1, keepdim=True)


def network(act=torch.nn.Tanh, dtype=torch.float64):
    torch.manual_seed(0)
    sizes = (torch.nn.Linear(3, 20), act(), torch.nn.Linear(20, 16), act(), torch.nn.Linear(16, 1))
    return torch.nn.Sequential(*sizes).to(DEVICE, dtype)


@pytest.fixture
def counted(monkeypatch):
    """Calls of the kernels, by name: of these, and of the activation's own."""
    kernels, own = backends._kernels_of("act_streams"), backends._kernels_of("act")
    calls = []
    for module, name in ((kernels, "act_streams"), (kernels, "act_streams_backward"), (own, "launch")):
        run = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, run=run, name=name: calls.append(name) or run(*args))
    return calls


@pytest.mark.parametrize("kind", ("layers", "fused", "more than layers"))
def test_a_model_takes_them(kind, counted):
    """One pass of each activation forward, and one backward; numbers as by nested autograd."""
    net = network()
    model = {"layers": net, "fused": fg.fuse(network()), "more than layers": Layered(net)}[kind]
    x = fresh(9, 3, seed=4).requires_grad_()
    params = [*model.parameters()][:-1]
    expected = nested(Layered(net) if kind == "more than layers" else net, x)
    of_loss = torch.autograd.grad(loss_of(*expected), [*net.parameters()][:-1])
    fg.laplacian(model, x)  # the first run of a model is watched
    counted.clear()
    r = fg.laplacian(model, x)
    found = torch.autograd.grad(loss_of(r.value, r.jacobian, r.laplacian), params)
    count = 3 if kind == "more than layers" else 2  # of which sin of x has no weight before it
    assert sorted(counted) == ["act_streams"] * count + ["act_streams_backward"] * 2
    assert_close([*r, *found], [*expected, *of_loss], rtol=1e-8, atol=1e-9)


def test_a_laplacian_of_the_gradient_in_x():
    """Gradients of the Laplacian in x, and theirs in the weights."""
    net, x = network(torch.nn.SiLU), fresh(5, 3, seed=4).requires_grad_()
    results = []
    for laplacian in (fg.laplacian(net, x).laplacian, nested(net, x)[2]):
        (g,) = torch.autograd.grad(laplacian.sum(), x, create_graph=True)
        results.append([g, *torch.autograd.grad(g.square().sum(), [*net.parameters()][:-1])])
    assert_close(*results, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("order", (1, 2, 3))
def test_along_a_direction(order, counted):
    """Up to the second order; above it the layers' functions serve."""
    net, x, v = network(), fresh(5, 3, seed=4), fresh(5, 3, seed=5)
    y, *found = fg.directional(net, x, v, order=order)
    assert counted.count("act_streams") == (2 if order < 3 else 0)
    assert_close([y, *found], along(net, x, v, order), rtol=1e-8, atol=1e-9)


def test_other_modes(counted):
    """Under torch.func and autocast the layers' functions serve; a user's activation has kernels too."""
    net, x = network(), fresh(4, 3, seed=4)
    expected = nested(net, x)[2]
    of_rows = torch.func.vmap(lambda p: fg.laplacian(net, p[None]).laplacian[0])(x)
    assert_close(of_rows, expected, rtol=1e-8, atol=1e-9)
    with torch.autocast(DEVICE, torch.bfloat16):
        fg.laplacian(network(dtype=torch.float32), x.float())
    assert "act_streams" not in counted
    counted.clear()
    fg.activation("sine_of_a_test_of_streams", lambda z: fg.sin(z))
    z, t, _ = streams((3, 2), 1, False)
    of_user, (ty, _) = elementwise.activated(Rules(2, 1, summed=True), z, (t, None), "sine_of_a_test_of_streams", 0.0)
    assert_close((of_user, ty), (z.sin(), z.cos() * t))
    assert counted == ["act_streams"]


def test_16_bits():
    """Nearer to the truth than the layers' functions, whose derivatives are rounded one by one."""
    net, x = network(dtype=torch.float32), fresh(50, 3, dtype=torch.float32, seed=4)
    expected = nested(net, x)[2]
    low = network(dtype=torch.bfloat16)
    errors = []
    for served in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not served:
                patch.setattr(elementwise, "by_triton", lambda *args: None)
            found = fg.laplacian(low, x.bfloat16()).laplacian
        errors.append((found.float() - expected).norm() / expected.norm())
    assert errors[0] < max(1.2 * errors[1], 0.02)
