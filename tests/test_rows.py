"""A layer whose result is multiplied by a number a row: fuse multiplies its narrow input, with the numbers of stock."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fusegrad as fg
from fusegrad.fusion import rows, runtime

from cases import on_cpu

pytestmark = on_cpu


class Dense(nn.Linear):
    """As SchNetPack's."""

    def __init__(self, k, n, activation=None, bias=True):
        super().__init__(k, n, bias)
        self.activation = activation or nn.Identity()

    def forward(self, input):
        y = F.linear(input, self.weight, self.bias)
        y = self.activation(y)
        return y


class Base(nn.Module):
    def __init__(self, layer=nn.Linear, bias=True):
        super().__init__()
        self.filter, self.net = layer(3, 24, bias=bias), nn.Linear(24, 2)
        self.wide = nn.Linear(3, 7)
        self.log = []


def forward(f):
    return type(f.__name__, (Base,), {"forward": f, "__module__": __name__})


@forward
def subscript(self, x, s):
    return self.net(torch.sin(self.filter(x) * s[:, None]))


@forward
def ellipsis(self, x, s):
    return self.net(torch.sin(self.filter(x) * s[..., None]))


@forward
def unsqueezed(self, x, s):
    return self.net(torch.sin(self.filter(x) * s.unsqueeze(-1)))


@forward
def viewed(self, x, s):
    return self.net(torch.sin(self.filter(x) * s.view(-1, 1)))


@forward
def on_the_left(self, x, s):
    return self.net(torch.sin(s[:, None] * self.filter(x)))


@forward
def no_number_a_row(self, x, s):
    return self.net(torch.sin(self.filter(x) * s.expand(2, -1)[:, :, None]).sum(0))


@forward
def as_wide(self, x, s):
    return self.wide(x) * s[:, None]


@forward
def of_another_kind(self, x, s):
    return self.filter(x) * Logged(self.log, s)[:, None]


class Logged:
    """No tensor, and tells when it is looked into."""

    def __init__(self, log, s):
        self.log, self.s = log, s

    def __getitem__(self, key):
        self.log.append("looked into")
        return self.s[key]


@forward
def of_a_name_of_another_kind(self, x, s):
    scale = Logged(self.log, s)
    return self.filter(x) * scale[:, None]


@pytest.fixture(autouse=True)
def scaled(monkeypatch):
    """How many layers had their input scaled."""
    monkeypatch.setattr(rows, "LEAST", 0)
    ran = []

    def scaled_by_rows(product, s):
        y = rows.scaled_by_rows(product, s)
        ran.extend([] if y is None else [y])
        return y

    monkeypatch.setattr(runtime, "scaled_by_rows", scaled_by_rows)
    return ran


def derivatives(model, x, s):
    """The value, the gradients, and those of a loss that is made of gradients."""
    x, s = (t.clone().requires_grad_() for t in (x, s))
    y = model(x, s)
    inner = torch.autograd.grad((y * torch.linspace(1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum(), (x, s),
                                create_graph=True)  # fmt: skip
    loss = y.square().sum() + sum(g.square().sum() for g in inner)
    return [y, *inner, *torch.autograd.grad(loss, [x, s, *model.parameters()], allow_unused=True)]


def of(cls, *args, **kwargs):
    torch.manual_seed(0)
    stock = cls(*args, **kwargs).double()
    x, s = torch.randn(30, 3, dtype=torch.double), torch.randn(30, dtype=torch.double)
    s[:3] = 0
    return stock, fg.fuse(copy.deepcopy(stock)), x, s


@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no bias"))
@pytest.mark.parametrize("layer", (nn.Linear, Dense))
@pytest.mark.parametrize("cls", (subscript, ellipsis, unsqueezed, viewed, on_the_left), ids=lambda c: c.__name__)
def test_the_input_is_scaled(cls, layer, bias, scaled):
    stock, fused, x, s = of(cls, layer, bias)
    torch.testing.assert_close(derivatives(fused, x, s), derivatives(stock, x, s))
    assert len(scaled) == 1
    why = fg.explain(fused)[0].why
    assert why.startswith("of many rows its input is multiplied by s") and why.endswith("in the place of its result")
    with torch.no_grad():
        torch.testing.assert_close(fused(x, s), stock(x, s))
    assert len(scaled) == 2 and scaled[1].grad_fn is None
    assert type(fg.unfuse(fused)) is cls


@pytest.mark.parametrize("cls", (no_number_a_row, as_wide, of_another_kind), ids=lambda c: c.__name__)
def test_the_result_is(cls, scaled):
    stock, fused, x, s = of(cls)
    torch.testing.assert_close(derivatives(fused, x, s), derivatives(stock, x, s))
    assert not scaled


def test_what_is_no_tensor_is_looked_into_after_the_layer():
    stock, fused, x, s = of(of_a_name_of_another_kind)
    for model in (stock, fused):
        model.filter.weight.register_hook(lambda grad: None)
        model.filter.register_forward_hook(lambda m, _, y, log=model.log: log.append("layer"))
        torch.testing.assert_close(model(x, s), stock(x, s))
    assert fused.log == ["layer", "looked into"]


def test_what_changes_later_is_obeyed(scaled):
    stock, fused, x, s = of(subscript, Dense)
    assert type(fused.filter) is not Dense  # rewritten
    for change in (
        lambda m: setattr(m.filter, "activation", nn.Tanh()),
        lambda m: setattr(m.filter, "activation", nn.Identity()),
        lambda m: m.filter.register_forward_hook(lambda m, x, y: 2 * y),
    ):
        for model in (stock, fused):
            change(model)
        scaled.clear()
        torch.testing.assert_close(derivatives(fused, x, s), derivatives(stock, x, s))
        assert len(scaled) == (type(fused.filter.activation) is nn.Identity and not fused.filter._forward_hooks)


@pytest.mark.parametrize("cls", (subscript, on_the_left), ids=lambda c: c.__name__)
def test_under_transforms_and_autocast(cls, scaled):
    stock, fused, x, s = of(cls)
    results = []
    for model in (stock, fused):
        jacobian = torch.func.jacrev(lambda s, m=model: m(x, s))(s)
        batched = torch.func.vmap(lambda x, s, m=model: m(x, s))(x.view(5, 6, 3), s.view(5, 6))
        _, tangent = torch.func.jvp(lambda x, s, m=model: m(x, s), (x, s), (x.cos(), s.cos()))
        results.append((jacobian, batched, tangent))
    torch.testing.assert_close(*results)
    assert not scaled
    with torch.autocast("cpu", torch.bfloat16):
        values = [m.float()(x.float(), s.float()) for m in (stock, fused)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("trained", (("weight", "bias"), ("weight",), ("bias",), ()), ids=lambda names: "+".join(names))
@pytest.mark.parametrize("of_s", (True, False), ids=("s", "s alone is not"))
def test_writing_to_the_input_before_backward(trained, of_s, scaled):
    """Where stock saves the input, to train the weight, that raises; ours may."""
    stock, fused, x, s = of(subscript)
    results = []
    for model in (stock, fused):
        for name, p in model.filter.named_parameters():
            p.requires_grad_(name in trained)
        a, t = x.clone().requires_grad_(), s.clone().requires_grad_(of_s)
        on = [a, *model.filter.parameters(), *model.net.parameters(), *[t] * of_s]
        given = a * 1
        y = model(given, t)
        given.add_(1)
        try:
            results.append(torch.autograd.grad(y.square().sum(), [p for p in on if p.requires_grad]))
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
            results.append(None)
    assert len(scaled) == 1
    assert (results[0] is None) == ("weight" in trained)
    if results[0] is not None:
        torch.testing.assert_close(*results)


def test_few_rows_are_left_as_written(monkeypatch, scaled):
    monkeypatch.setattr(rows, "LEAST", 30 * 24 + 1)
    stock, fused, x, s = of(subscript)
    for _ in range(20):  # it is then called where it stands
        torch.testing.assert_close(fused(x, s), stock(x, s))
    assert not scaled


def test_in_float16_the_result_is_multiplied(scaled):
    """s x would overflow, or lose digits, where the result does not."""
    torch.manual_seed(0)
    stock = as_wide().half()
    stock.wide = nn.Linear(3, 24).half()
    ours, x = fg.fuse(copy.deepcopy(stock)), 1000 * torch.rand(30, 3).half()
    s = torch.full((30,), 100.0).half()
    with torch.no_grad():
        for model in (stock, ours):
            model.wide.weight.fill_(1e-2), model.wide.bias.zero_()
        assert ours(x, s).isfinite().all() and not scaled
        torch.testing.assert_close(ours(x, s), stock(x, s))
        ours.float()(x.float(), s.float())
        assert scaled
