"""Models whose source says all that they compute: one op, with all derivatives, as torch makes them one by one."""

import copy

import pytest
import torch
from by_nested import counted_programs, gradients, loss_of, nested, same
from program_models import MODELS, REFUSED, Around, Counts, WritesInPlace
from torch import nn
from torch.testing import assert_close

import fusegrad as fg
from fusegrad import backends
from fusegrad.operators import reading

from cases import DEVICE

pytestmark = pytest.mark.skipif(backends.node is None or DEVICE != "cpu", reason="there are no C++ nodes")


def made(name, dtype=torch.float64):
    torch.manual_seed(0)
    return MODELS[name]().to(dtype)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    return counted_programs(monkeypatch)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", ((1, 3), (45, 3), (2, 33, 3), (3,)), ids=str)
def test_as_nested(name, shape, calls):
    model, x = made(name), torch.rand(*shape, dtype=torch.float64, requires_grad=True)
    truth = nested(model, x)
    for fused in (False, True):
        model = fg.fuse(model) if fused else model
        calls.clear()
        found = fg.laplacian(model, x)
        assert len(calls) == 1
        same(found, truth)
        same(gradients(found, model, x), gradients(nested(model, x), model, x))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("own", (False, True))
@pytest.mark.parametrize("with_drift", (False, True))
def test_directions_and_drift(name, own, with_drift, calls):
    model, x = made(name), torch.rand(50, 3, dtype=torch.float64)
    s = torch.rand(*((50,) if own else ()), 3, 2, dtype=torch.float64).requires_grad_(own)
    drift = torch.rand(50, 3, dtype=torch.float64, requires_grad=True) if with_drift else None
    found, truth = fg.laplacian(model, x, directions=s, drift=drift), nested(model, x, s, drift)
    more = [t for t in (s, drift) if t is not None and t.requires_grad]
    same(found, truth)
    same(gradients(found, model, *more), gradients(truth, model, *more))
    assert calls


@pytest.mark.parametrize("name", MODELS)
def test_second_derivatives(name):
    model, x = made(name), torch.rand(7, 3, dtype=torch.float64, requires_grad=True)
    results = []
    for of in (fg.laplacian, nested):
        given = [*model.parameters(), x]
        first = torch.autograd.grad(loss_of(*of(model, x)), given, create_graph=True, allow_unused=True)
        total = sum(g.square().sum() for g in first if g is not None)
        results.append(torch.autograd.grad(total, given, allow_unused=True))
    same(*results)


@pytest.mark.parametrize("name", MODELS)
def test_float32_no_worse_than_nested(name):
    model, x = made(name, torch.float32), torch.rand(300, 3)
    exact = copy.deepcopy(model).double()
    truth = nested(exact, x.double())
    wants = [t.detach() for t in (*truth, *gradients(truth, exact)) if t is not None]
    errors = []
    for of in (fg.laplacian, nested):
        found = of(model, x)
        got = [t.detach() for t in (*found, *gradients(found, model)) if t is not None]
        errors.append([((g - w).norm() / (w.norm() + 1e-9)).item() for g, w in zip(got, wants, strict=True)])
    for mine, theirs in zip(*errors, strict=True):
        assert mine <= 2 * theirs + 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_what_is_asked_for_alone(name):
    """Gradients of one result, of some parameters; what only the value depends on has none of the Laplacian."""
    model, x = made(name), torch.rand(9, 3, dtype=torch.float64)
    for frozen in (False, True):
        for p in [*model.parameters()][:: 2 if frozen else 1000][1 - frozen :]:
            p.requires_grad_(False)
        given = [p for p in model.parameters() if p.requires_grad]
        for k in range(3):
            losses = [of(model, x)[k].square().sum() for of in (fg.laplacian, nested)]
            mine, truth = (torch.autograd.grad(loss, given, allow_unused=True) for loss in losses)
            assert [g is None for g in mine] == [g is None for g in truth]
            same(mine, truth)
        with torch.no_grad():
            found = fg.laplacian(model, x)
        assert not any(t.requires_grad for t in found)
        same(found, nested(model, x))


def new_data(p):
    p.data = p.data * 0.9


CHANGES = {
    "in place": lambda p: p.mul_(1.1),
    "foreach": lambda p: torch._foreach_mul_([p], 0.8),
    "data": new_data,
    "data in place": lambda p: p.data.add_(0.1),
    "requires_grad": lambda p: p.requires_grad_(not p.requires_grad),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_calls_is_obeyed(name, change, calls):
    model, x = fg.fuse(made(name)), torch.rand(12, 3, dtype=torch.float64)
    for step in range(4):
        found, truth = fg.laplacian(model, x), nested(model, x)
        same(found, truth)
        given = [p for p in model.parameters() if p.requires_grad]
        same(*(torch.autograd.grad(loss_of(*of), given, allow_unused=True) for of in (found, truth)))
        with torch.no_grad():
            x.add_(0.1)
            CHANGES[change]([*model.parameters()][step])
    assert len(calls) == 4


@pytest.mark.parametrize("change", CHANGES)
def test_computed_weights_in_a_model_that_runs(change, calls, monkeypatch):
    chains, run = [], backends.node.streams
    monkeypatch.setattr(backends.node, "streams", lambda *args: chains.append(len(args[3])) or run(*args))
    model, x = fg.fuse(Around().double()), torch.rand(12, 3, dtype=torch.float64)
    fg.laplacian(model, x)
    for step in range(4):
        chains.clear()
        found, truth = fg.laplacian(model, x), nested(model, x)
        assert chains == [6]
        same(found, truth)
        given = [p for p in model.parameters() if p.requires_grad]
        same(*(torch.autograd.grad(loss_of(*of), given, allow_unused=True) for of in (found, truth)))
        with torch.no_grad():
            CHANGES[change]([*model.parameters()][step])
    model.net[2].parametrizations.weight[0].register_forward_hook(lambda m, args, y: 2 * y)
    chains.clear()
    same(fg.laplacian(model, x), nested(model, x))
    assert len(chains) > 1 and not calls


def test_a_write_between_forward_and_backward_is_an_error():
    model, x = made("Blocks"), torch.rand(5, 3, dtype=torch.float64)
    loss = loss_of(*fg.laplacian(model, x))
    with torch.no_grad():
        model.a[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    loss = loss_of(*fg.laplacian(model, x))
    model.a[0].weight.data = model.a[0].weight.data * 2
    with pytest.raises(RuntimeError, match="other data between forward and backward"):
        loss.backward()


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_more_runs_as_it_is(name, calls):
    cls, change = REFUSED[name]
    torch.manual_seed(0)
    model, other = (cls().double() for _ in range(2))
    other.load_state_dict(model.state_dict())
    change(model), change(other)
    x = torch.rand(6, 3, dtype=torch.float64)
    for _ in range(3):
        found = fg.laplacian(model, x)
        if isinstance(model, Counts):
            truth = nested(lambda x: Counts.forward(other, x) / other.seen * model.seen, x)
        else:
            truth = nested(other, x)
        same(found, truth)
    assert not calls


def test_hooks_and_methods_that_come_later_are_obeyed(calls):
    model, x = made("Blocks"), torch.rand(6, 3, dtype=torch.float64)
    same(fg.laplacian(model, x), nested(model, x))
    handle = model.b[0].register_forward_hook(lambda m, args, y: y * 2)
    same(fg.laplacian(model, x), nested(model, x))
    handle.remove()
    model.act = nn.Sigmoid()
    same(fg.laplacian(model, x), nested(model, x))
    model.a, model.b = model.a[:1], model.b[:1]
    same(fg.laplacian(model, x), nested(model, x))
    assert len(calls) == 3
    model.a.append(nn.Linear(9, 9))
    with pytest.raises(ValueError, match="zip"):
        fg.laplacian(model, x)


@pytest.mark.parametrize("mode", ("vmap", "jvp", "autocast", "hessian"))
def test_other_modes(mode, calls):
    model, x = made("Blocks"), torch.rand(4, 5, 3, dtype=torch.float64)
    f = lambda x: fg.laplacian(model, x).laplacian
    truth = nested(model, x)[2]
    if mode == "vmap":
        assert_close(torch.func.vmap(f)(x), truth)
    elif mode == "jvp":
        y, _ = torch.func.jvp(f, (x,), (torch.ones_like(x),))
        assert_close(y, truth)
    elif mode == "hessian":
        assert_close(fg.hessian_diagonal(model, x).sum(-1), truth)
        found = torch.func.hessian(lambda p: f(p).sum())(x[0, 0])
        assert found.isfinite().all()
    else:
        with torch.autocast("cpu", torch.bfloat16):
            found = f(x)
        assert_close(found, truth, rtol=0.2, atol=0.2, check_dtype=False)


def test_nothing_and_nan():
    model = made("Blocks")
    found = fg.laplacian(model, torch.empty(0, 3, dtype=torch.float64))
    assert found.jacobian.shape == (0, 2, 3)
    x = torch.rand(40, 3, dtype=torch.float64)
    x[7, 1] = torch.nan
    for t in fg.laplacian(model, x):
        assert t.reshape(40, -1).isnan().any(1).nonzero().flatten().tolist() == [7]


def test_refused_by_the_op():
    x, t, w = torch.rand(4, 3), torch.eye(3), torch.rand(5, 3)
    run = lambda steps, *weights: torch.ops.fusegrad.program_streams(x, t, None, [*weights], steps, False)
    for steps, weights in (
        ("layer 0 1", (w, None)),
        ("layer 1 0", (w, None)),
        ("what 0 0", (w, None)),
        ("layer 0 0,add 0 1", (w, None)),
        ("act 0 nothing 0.0", (w, None)),
        ("", (w, None)),
        ("layer 0 0", (w.double(), None)),
        ("layer 0 0", (None, torch.rand(1))),
        ("scale 0 0", (w, None)),
        ("scale 0 0", (None, torch.rand(2))),
        ("shift 0 0", (w, None)),
        *((f"take 0 {places}", (w, None)) for places in ("0 1 4", "-1 1 1", "3 0 1", "0 -1 2", "0 1 0", "0 9 9", "")),
    ):
        with pytest.raises(RuntimeError, match="program_streams"):
            run(steps, *weights)


def test_models_that_cannot_be_read_are_tried_ever_less_often(monkeypatch):
    model, x = WritesInPlace().double(), torch.rand(4, 3, dtype=torch.float64)
    tried, reader = [], reading.Reader
    monkeypatch.setattr(reading, "Reader", lambda x: tried.append(1) or reader(x))
    for _ in range(40):
        fg.laplacian(model, x)
    assert len(tried) == 5
