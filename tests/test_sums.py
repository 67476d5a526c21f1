"""Sums of two products, of which factors are broadcast: as one op, with the numbers and derivatives of torch."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck

import fusegrad as fg
from fusegrad.fusion import sums
from fusegrad.ops.sum_of_products import BACKWARD, FORWARD, sum_of_products

from cases import on_cpu

pytestmark = [on_cpu, pytest.mark.skipif(fg.backends.extension is None, reason="no kernels in C++")]

SHAPES = {
    "message": ((5, 1, 7), (5, 3, 1), (5, 1, 7), (5, 3, 7)),
    "all alike": ((4, 2, 6),) * 4,
    "rows": ((6, 33), (6, 1), (6, 33), (6, 33)),
    "numbers a row": ((3, 4, 1), (3, 1, 18), (3, 4, 18), (3, 1, 1)),
    "one column": ((7, 2, 1),) * 4,
    "one row": ((1, 5), (1, 5), (1, 1), (1, 5)),
    "none": ((0, 3, 4), (0, 3, 4), (0, 1, 4), (0, 3, 1)),
    "four": ((3, 5), (3, 5), (3, 1), (3, 5), (3, 5), (3, 1), (3, 5), (3, 5)),
}


def by_torch(*factors):
    return sum(a * b for a, b in zip(factors[::2], factors[1::2], strict=True))


def factors_of(shapes, dtype=torch.double, strided=False):
    g = torch.Generator().manual_seed(0)
    make = lambda shape: torch.randn(shape, generator=g, dtype=torch.double).to(dtype)
    if strided:  # parts of a row of something wider, and what is turned
        made = [make((*s[:-1], 2 * s[-1] + 3))[..., 2 : 2 + s[-1]] if k % 2 else make(s[::-1]).permute(
            *reversed(range(len(s)))) for k, s in enumerate(shapes)]  # fmt: skip
    else:
        made = [make(s) for s in shapes]
    return [t.detach().requires_grad_() for t in made]


def derivatives(f, factors, needed, order=3):
    """y, and all derivatives up to an order, each of the sum of squares of those below it."""
    y = f(*factors)
    on = [t for t, n in zip(factors, needed, strict=True) if n]
    found, last = [y], [y]
    for k in range(order):
        last = grad(sum(t.sin().square().sum() for t in last), on, create_graph=k + 1 < order)
        found += last
    return found


@pytest.mark.parametrize("strided", (False, True), ids=("dense", "strided"))
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_the_op_is_what_torch_computes(shapes, strided):
    factors = factors_of(shapes, strided=strided)
    for needed in (
        [True] * len(factors),
        [k % 3 == 0 for k in range(len(factors))],
        [k == 1 for k in range(len(factors))],
    ):
        for f, n in zip(factors, needed, strict=True):
            f.requires_grad_(n)
        results = [derivatives(f, factors, needed) for f in (sum_of_products, by_torch)]
        assert "SumOfProducts" in type(results[0][0].grad_fn).__name__
        torch.testing.assert_close(*results)


def test_gradients_numerically():
    factors = factors_of(SHAPES["message"])
    assert gradcheck(sum_of_products, factors, check_batched_grad=True)
    assert gradgradcheck(sum_of_products, factors, check_batched_grad=True)


@pytest.mark.parametrize("shapes", (SHAPES["message"], ((9, 1, 200), (9, 3, 1), (9, 1, 200), (9, 3, 200))))
def test_error_is_at_most_twice_that_of_torch(shapes):
    factors = factors_of(shapes, torch.float32)
    truth = derivatives(by_torch, [f.detach().double().requires_grad_() for f in factors], [True] * 4, 2)
    ours, stock = (derivatives(f, factors, [True] * 4, 2) for f in (sum_of_products, by_torch))
    for t, a, b in zip(truth, ours, stock, strict=True):
        error = lambda y, t=t: (y.double() - t).abs().max().item()
        assert error(a) <= 2 * error(b) + 1e-7 * t.abs().max().item()


def test_nan_goes_where_it_goes_in_torch():
    factors = factors_of(SHAPES["message"])
    with torch.no_grad():
        factors[0][1, 0, 2] = factors[3][2, 1, 3] = torch.nan
    ours, stock = ([t.isnan() for t in derivatives(f, factors, [True] * 4, 2)] for f in (sum_of_products, by_torch))
    assert all(map(torch.equal, ours, stock))


def test_several_threads():
    factors = [torch.randn(s, requires_grad=True) for s in ((700, 1, 24), (700, 3, 1), (700, 1, 24), (700, 3, 24))]
    one = derivatives(sum_of_products, factors, [True] * 4, 2)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert all(map(torch.equal, one, derivatives(sum_of_products, factors, [True] * 4, 2)))
    finally:
        torch.set_num_threads(before)


def test_the_raw_ops_refuse_what_they_do_not_take():
    a, b = torch.randn(4, 3, 5), torch.randn(3, 3, 5)
    for bad in ([a, b], [a], [a, a[0]], [a, a.double()], [a.half(), a.half()], [a[0, 0], a[0, 0]]):
        with pytest.raises(RuntimeError, match="sum_of_products: "):
            FORWARD(bad)
    for factors, shapes, needed in (([a, None], [4, 3, 5] * 2, 1), ([a, a], [4, 3], 1), ([a, b], [4, 3, 5] * 2, 1)):
        with pytest.raises(RuntimeError, match="sum_of_products_backward: "):
            BACKWARD(a, factors, shapes, needed)
    with pytest.raises(RuntimeError, match="no derivative"):
        FORWARD([a.requires_grad_(), a])


# --- in models


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 2)


def forward(f):
    return type(f.__name__, (Base,), {"forward": f, "__module__": __name__})


@forward
def message(self, x, r, v):
    a, b = torch.split(x, 8, dim=-1)
    dv = a * r[..., None] + b * v
    return self.net(dv)


@forward
def views(self, x, r, v):
    x, y, s, t = x[:, 0, :8], v[:, 1], r[:, 0], r[:, 1]
    return x * s.unsqueeze(1) + t[:, None] * y


@forward
def left_of_more(self, x, r, v):
    a, b = torch.split(x, 8, dim=-1)
    s = r[..., None]
    return torch.tanh(a * s + b * v - 1)


@forward
def of_an_attribute(self, x, r, v):
    return self.scale * v + v * v


@forward
def of_what_is_put_off(self, x, r, v):
    g = self.net(v)
    u = self.net(v)
    return torch.tanh(g) * u + u * u


@forward
def of_other_things(self, x, r, v):
    a, b = [1], 2
    return v, a * b + b * a, b * b + b * b


REWRITTEN, LEFT = (message, views, left_of_more), (of_an_attribute, of_what_is_put_off)


@pytest.fixture(autouse=True)
def ran(monkeypatch):
    """The sums that ran as one op."""
    monkeypatch.setattr(sums, "LEAST", 0)
    monkeypatch.setattr(sums, "SHORTEST", 0)
    seen = []
    monkeypatch.setattr(sums, "sum_of_products", lambda *factors: seen.append(factors) or sum_of_products(*factors))
    return seen


def of(cls):
    torch.manual_seed(0)
    stock = cls().double()
    stock.scale = torch.randn(8, dtype=torch.double)
    return (
        stock,
        fg.fuse(copy.deepcopy(stock)),
        [torch.randn(s, dtype=torch.double) for s in ((9, 1, 16), (9, 3), (9, 3, 8))],
    )


def second(model, inputs):
    inputs = [t.clone().requires_grad_() for t in inputs]
    y = model(*inputs)
    first = grad(y.square().sum(), inputs, create_graph=True, allow_unused=True)
    loss = y.sin().sum() + sum(g.square().sum() for g in first if g is not None)
    return [y, *first, *grad(loss, [*inputs, *model.parameters()], allow_unused=True)]


@pytest.mark.parametrize("cls", (*REWRITTEN, *LEFT), ids=lambda c: c.__name__)
def test_in_a_model(cls, ran):
    stock, fused, inputs = of(cls)
    torch.testing.assert_close(second(fused, inputs), second(stock, inputs))
    assert len(ran) == (cls in REWRITTEN)
    with torch.no_grad():
        torch.testing.assert_close(fused(*inputs), stock(*inputs))
    assert type(fg.unfuse(fused)) is cls


def test_what_is_no_tensor_is_added_as_it_is(ran):
    stock, fused, inputs = of(of_other_things)
    assert fused(*inputs)[1:] == stock(*inputs)[1:] == ([1, 1, 1, 1], 8) and not ran


def test_views_are_made_where_they_are_written(ran):
    class Logged:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, key):
            log.append(f"view of {self.name}")
            return self

        def __mul__(self, other):
            log.append("product")
            return self

        def __add__(self, other):
            log.append("sum")
            return self

    class Net(nn.Module):
        def forward(self, a, b, c, d):
            return a * b[..., None] + c * d[:, None]

    logs = []
    for model in (Net(), fg.fuse(Net())):
        log = []
        model(*map(Logged, "abcd"))
        logs.append(log)
    assert logs[0] == logs[1] == ["view of b", "product", "view of d", "product", "sum"] and not ran


@pytest.mark.parametrize("trained", range(16))
def test_what_it_saves_is_what_products_save(trained):
    """Writing to a factor in place raises where it does in stock, and nowhere else."""
    shapes = (9, 1, 8), (9, 3, 1), (9, 1, 8), (9, 3, 8)
    for written in range(4):
        raised = []
        for model in (of_four(), fg.fuse(of_four())):
            on = [torch.randn(s).requires_grad_(trained >> k & 1 == 1) for k, s in enumerate(shapes)]
            given = [t * 1 for t in on]
            y = model(*given)
            given[written].add_(1)
            try:
                (y.sum() + sum(t.sum() for t in on if t.requires_grad)).backward() if trained else None
                raised.append(False)
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)
                raised.append(True)
        assert raised[0] == raised[1], written


class of_four(nn.Module):
    def forward(self, a, b, c, d):
        return a * b + c * d


def test_under_transforms_and_modes(ran):
    stock, fused, inputs = of(message)
    results = []
    for model in (stock, fused):
        jacobian = torch.func.jacrev(lambda x, m=model: m(x, *inputs[1:]))(inputs[0])
        hessian = torch.func.hessian(lambda r, m=model: m(inputs[0], r, inputs[2]).square().sum())(inputs[1])
        batched = torch.func.vmap(model)(*(t.view(3, 3, *t.shape[1:]) for t in inputs))
        _, tangent = torch.func.jvp(model, tuple(inputs), tuple(t.cos() for t in inputs))
        results.append((jacobian, hessian, batched, tangent))
    torch.testing.assert_close(*results)
    assert not ran
    vectorized = [torch.autograd.functional.hessian(lambda r, m=m: m(inputs[0], r, inputs[2]).square().sum(), inputs[1],
                                                    vectorize=True) for m in (stock, fused)]  # fmt: skip
    torch.testing.assert_close(*vectorized)
    assert ran
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(*[m.float()(*(t.float() for t in inputs)) for m in (stock, fused)])
    saved = [[], []]
    for model, to in zip((stock, fused), saved, strict=True):
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=to: to.append(t.numel()) or t, lambda t: t):
            model(*(t.float().requires_grad_() for t in inputs))
    assert sum(saved[1]) <= sum(saved[0])


def test_replaced_operators_are_obeyed(ran, monkeypatch):
    add = torch.Tensor.__add__
    monkeypatch.setattr(torch.Tensor, "__add__", lambda a, b: add(a, 2 * b))
    stock, fused, inputs = of(message)
    torch.testing.assert_close(fused(*inputs), stock(*inputs))
    assert not ran


def test_compiled(ran):
    torch._dynamo.reset()
    stock, fused, inputs = of(message)
    results = [m(*inputs) for m in (stock, torch.compile(fused, backend="aot_eager", fullgraph=True))]
    torch.testing.assert_close(*results)
    assert not ran


def test_what_is_not_broadcast_is_left_to_torch(ran):
    factors = [torch.randn(4, 3, 5) for _ in range(4)]
    torch.testing.assert_close(fg.fuse(of_four())(*factors), of_four()(*factors))
    assert not ran


def test_copies_and_pickles(ran):
    stock, fused, inputs = of(message)
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    for model in (copy.deepcopy(fused), torch.load(file, weights_only=False)):
        ran.clear()
        torch.testing.assert_close(model(*inputs), stock(*inputs))
        assert len(ran) == 1


@pytest.mark.parametrize("limit", ({"LEAST": 9 * 3 * 8 + 1}, {"SHORTEST": 9}), ids=str)
def test_few_rows_are_left_to_torch(limit, monkeypatch, ran):
    monkeypatch.setattr(sums, *limit.popitem())
    stock, fused, inputs = of(message)
    torch.testing.assert_close(second(fused, inputs), second(stock, inputs))
    assert not ran
