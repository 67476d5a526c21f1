"""What the source of a model says is what the model computes; where it says more than is known, the model runs."""

import pytest
import torch
from by_nested import counted_programs, gradients, nested, same
from reading_models import READ, Method, NothingReadsThese, OfRows
from torch import nn
from unread_models import OTHERS

import fusegrad as fg
from fusegrad import backends

from cases import DEVICE

pytestmark = pytest.mark.skipif(backends.node is None or DEVICE != "cpu", reason="there are no C++ nodes")


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    return counted_programs(monkeypatch)


@pytest.mark.parametrize("cls", READ, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("shape", ((1, 3), (45, 3), (2, 33, 3), (3,)), ids=str)
@pytest.mark.parametrize("own", (False, True))
def test_read(cls, shape, own, calls):
    torch.manual_seed(0)
    model, x = cls().double(), torch.rand(*shape, dtype=torch.float64, requires_grad=True)
    s = torch.rand(*shape, 2, dtype=torch.float64, requires_grad=True) if own else None
    drift = torch.rand(*shape, dtype=torch.float64) if own else None
    more = [x] if s is None else [x, s]
    for of in (model, lambda x: model(x)):
        calls.clear()
        found, truth = fg.laplacian(of, x, directions=s, drift=drift), nested(model, x, s, drift)
        assert len(calls) == 1
        same(found, truth)
        mine, theirs = gradients(found, model, *more), gradients(truth, model, *more)
        assert [g is None for g in mine] == [g is None for g in theirs]
        same(mine, theirs)


@pytest.mark.parametrize("cls", READ, ids=lambda cls: cls.__name__)
def test_read_with_second_derivatives(cls):
    torch.manual_seed(0)
    model, x = cls().double(), torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    given, results = [*model.parameters(), x], []
    for of in (fg.laplacian, nested):
        loss = sum(t.square().sum() for t in of(model, x))
        first = torch.autograd.grad(loss, given, create_graph=True, allow_unused=True)
        total = sum(g.square().sum() for g in first if g is not None)
        results.append(torch.autograd.grad(total, given, allow_unused=True))
    same(*results)


def test_of_rows(calls):
    model, x = OfRows().double(), torch.rand(6, 3, dtype=torch.float64)
    same(fg.laplacian(model, x), nested(model, x))
    assert len(calls) == 1
    with pytest.raises(ValueError, match="laplacian"):
        fg.laplacian(model, x[:1])  # whose result is squeezed in two dimensions


@pytest.mark.parametrize("cls", OTHERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("shape", ((7, 3), (2, 5, 3)), ids=str)
def test_as_the_model(cls, shape):
    torch.manual_seed(0)
    model, other = cls().double(), cls().double()
    other.load_state_dict(model.state_dict())
    x = torch.rand(*shape, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(4):
            assert (fg.laplacian(model, x).value - other(x)).abs().max() < 1e-12


CAT, TANH = torch.cat, torch.Tensor.tanh
REPLACED = {
    "function": (torch, "cat", lambda parts, dim=0: CAT([2 * p for p in parts], dim)),
    "method": (torch.Tensor, "tanh", lambda self: 2 * TANH(self)),
    "operator": (torch.Tensor, "__add__", torch.Tensor.sub),
}


@pytest.mark.parametrize("what", REPLACED)
def test_what_is_replaced_is_not_read(what, monkeypatch, calls):
    model, x = Method().double(), torch.rand(7, 3, dtype=torch.float64)
    same(fg.laplacian(model, x), nested(model, x))
    assert len(calls) == 1
    with monkeypatch.context() as at:
        at.setattr(*REPLACED[what])
        if what == "function":  # which is read as any other
            same(fg.laplacian(model, x), nested(model, x))
        else:
            fg.laplacian(model, x)
            assert len(calls) == 1
    same(fg.laplacian(model, x), nested(model, x))
    assert len(calls) > 1


@pytest.mark.parametrize("name", ("forward", "features"))
def test_a_method_set_on_a_class_of_fuse_is_obeyed(name, calls):
    x = torch.rand(7, 3, dtype=torch.float64)
    model = fg.fuse(Method().double())
    same(fg.laplacian(model, x), nested(model, x))
    assert len(calls) == 1
    before = vars(type(model)).get(name)
    try:
        setattr(type(model), name, lambda self, x: 3 * torch.sin(self.a(x)))
        same(fg.laplacian(model, x), nested(model, x))
    finally:
        setattr(type(model), name, before) if before else delattr(type(model), name)


def test_a_forward_set_on_a_sequential_of_fuse_is_obeyed():
    x = torch.rand(7, 3, dtype=torch.float64)
    layers = nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)
    model = fg.fuse(nn.Sequential(*layers).double())
    cls = type(model)
    same(fg.laplacian(model, x), nested(model, x))
    before = vars(cls)["forward"]
    try:
        cls.forward = lambda self, x: self[0](x).sum(-1, keepdim=True) ** 2
        for m in (model, fg.fuse(nn.Sequential(*layers)), fg.fuse(nn.Sequential(nn.Sequential(*layers), nn.Tanh()))):
            same(fg.laplacian(m, x), nested(m, x))
    finally:
        cls.forward = before


def test_what_was_refused_for_a_passing_reason_is_read_again(calls):
    model, x = Method().double(), torch.rand(7, 3, dtype=torch.float64)
    handle = model.a.register_forward_hook(lambda m, args, y: None)
    for _ in range(4):
        fg.laplacian(model, x)
    handle.remove()
    assert not calls
    for _ in range(20):
        fg.laplacian(model, x)
    assert calls
    calls.clear()
    fg.laplacian(model, x)
    assert calls


def test_layers_whose_result_is_not_used_have_no_gradient():
    model, x = NothingReadsThese().double(), torch.rand(7, 3, dtype=torch.float64)
    fg.laplacian(model, x).laplacian.square().sum().backward()
    assert model.c.weight.grad is None and model.s.grad is None and model.b.weight.grad is not None
