"""explain says what runs: each fused call it lists is a call of the op, each other one has a reason."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fusegrad as fg
from fusegrad import backends, routing

from cases import DEVICE
from models import MODELS, Functional, Pinn, count_fused, fused_with, inputs, make


def test_what_is_fused():
    assert fused_with(fg.fuse(make("functional"))) == {
        "a": "tanh (called as a function)",
        "b": "gelu_tanh (called as a function)",
        "c": "leaky_relu, 0.2 (called as a function)",
        "d": "sigmoid (called as a function)",
    }
    assert fused_with(fg.fuse(make("nested"))) == {"0.0": "silu (0.1)", "0.2.0": "relu (0.2.1)", "2": "tanh (3)"}
    assert fused_with(fg.fuse(make("blocks"))) == {
        "0.fc1": "gelu (0.act)", "0.fc2": "", "1.fc1": "relu (1.act)", "1.fc2": "",
    }  # fmt: skip
    assert fused_with(fg.fuse(make("pinn"))) == {
        "first": "sin (act)", "hidden.0": "sin (act)", "hidden.1": "sin (act)", "hidden.2": "sin (act)", "last": "",
    }  # fmt: skip
    assert fused_with(fg.fuse(make("shared"))) == {"0": "gelu (1)", "4": "gelu (5)"}
    assert fused_with(fg.fuse(make("hooked"))) == {"0": "", "2": "", "4": "gelu (5)"}


def assert_listed(model):
    listed = sum(row.fused_with.count("(") for row in fg.explain(model))
    assert count_fused(model, inputs()) == listed


@pytest.mark.parametrize("name", MODELS)
def test_explain_says_what_runs(name):
    """Each fused call that explain lists is one call of the op."""
    assert_listed(fg.fuse(make(name)))


def test_explain_is_readable():
    text = str(fg.explain(fg.fuse(make("blocks"))))
    assert "0.fc1" in text and "gelu (0.act)" in text and "4 -> 16" in text and "followed by Dropout, which is" in text
    assert "not converted: call fuse" in str(fg.explain(make("blocks")))


class Lists(nn.Module):
    """The ways to go through lists of layers."""

    def __init__(self):
        super().__init__()
        self.ls = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.acts = nn.ModuleList([nn.Tanh(), nn.SiLU(), nn.Softsign()])
        self.named = nn.ModuleDict({"in": nn.Linear(4, 4), "act": nn.GELU()})

    def forward(self, x):
        x = self.named["act"](self.named["in"](x))
        for i, layer in enumerate(self.ls[:-1]):
            x = self.acts[i](layer(x))
        for layer, act in zip(self.ls[1:2], self.acts[1:2], strict=True):
            x = act(layer(x))
        return F.relu(self.ls[-1](x))


def test_lists_are_followed():
    model = fg.fuse(Lists().to(DEVICE))
    assert fused_with(model) == {
        "ls.0": "tanh or silu or softsign (acts[i])",
        "ls.1": "tanh or silu or softsign (acts[i]), silu (acts.1)",
        "ls.2": "relu (called as a function)",
        "named.in": "gelu (named.act)",
    }
    assert sum(row.ran.fused for row in fg.explain(model, inputs())) == 5  # some in a chain


class Zipped(nn.Module):
    """A loop over layers and norms, which ends with the norms; and layers that are not torch's."""

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))

        def forward(self, x):
            return F.linear(x, self.weight, self.bias)

    def __init__(self, layer):
        super().__init__()
        self.ls = nn.ModuleList(layer() for _ in range(3))
        self.norms, self.act = nn.ModuleList([nn.Identity(), nn.Identity()]), nn.ReLU()

    def forward(self, x):
        for layer, norm in zip(self.ls, self.norms):  # noqa: B905
            x = layer(x)
            x = norm(x)
            x = self.act(x)
        x = self.ls[-1](x)
        return F.dropout(x, 0.0)


@pytest.mark.parametrize("layer", (lambda: nn.Linear(4, 4), Zipped.Plain), ids=("torch's", "a library's"))
def test_lists_that_are_gone_through_together_end_with_the_shortest(layer):
    rows = fg.explain(fg.fuse(Zipped(layer).to(DEVICE)), inputs())
    assert [(row.layer, row.fused_with, row.ran.fused) for row in rows] == [
        ("ls.0", "relu (act)", 1), ("ls.1", "relu (act)", 1), ("ls.2", "", 0)
    ]  # fmt: skip
    assert "F.dropout" in rows[-1].why and rows[-1].backend == rows[0].backend


def hook(module):
    module.register_forward_hook(lambda *_: None)


CHANGES = {
    "hook on the layer": (Functional, lambda m: hook(m.a), "has hooks"),
    "hook on the activation": (lambda: Pinn(nn.SiLU()), lambda m: hook(m.act), "SiLU after it has hooks"),
    "another activation": (lambda: Pinn(nn.SiLU()), lambda m: setattr(m, "act", nn.PReLU()), "followed by PReLU"),
    "parametrized": (
        Functional,
        lambda m: nn.utils.parametrizations.weight_norm(m.a),
        "",
    ),
    "layer added": (Pinn, lambda m: m.hidden.append(nn.Linear(8, 8)), ""),
    "dtype": (Functional, lambda m: setattr(m.a, "weight", nn.Parameter(torch.ones(4, 4).cfloat())), "its weight is"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_after_fuse_are_told(change):
    make_, apply, why = CHANGES[change]
    model = fg.fuse(make_())
    apply(model)
    model.to(DEVICE)
    assert fg.explain(model)[0].why.startswith(why)
    if change != "dtype":  # which cannot run
        assert_listed(model)
        fg.explain(copy.deepcopy(model)) if change != "parametrized" else None


class Tools(nn.Module):
    """Methods that cannot be read: two that call a layer, and one that has nothing to do with it."""

    def keeps(function):
        """A decorator that may do more than call the function."""
        kept = [function]
        return functools.wraps(function)(lambda *args: kept[0](*args))

    def __init__(self):
        super().__init__()
        self.fc, self.last, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.PReLU()

    @keeps
    def sample(self, x):
        return self.last(x)

    @keeps
    def sample_twice(self, x):
        return self.last(self.sample(x))

    @keeps
    def to_onnx(self, path):
        torch.onnx.export(self, path)

    def forward(self, x):
        return self.act(self.fc(self.act(self.fc(x))))


def test_a_reason_is_told_once_and_by_what_it_is_about():
    whys = {row.layer: row.why for row in fg.explain(fg.fuse(Tools()))}
    assert whys == {
        "fc": "followed by PReLU, which is no activation of fusegrad",
        "last": "Tools.sample, sample_twice: it is wrapped by a decorator that may do more than call it",
    }
    model = fg.fuse(nn.Sequential(nn.Linear(4, 4), nn.Softplus(threshold=5)))
    assert fg.explain(model)[0].why == "followed by Softplus, whose options fusegrad does not have"


def test_the_table_shows_what_is_in_brackets():
    assert "(acts[i])" in str(fg.explain(fg.fuse(Lists())))


def test_weights_that_are_elsewhere():
    """On the meta device, until a hook or another forward fetches them."""
    model = fg.fuse(Functional().to("meta"))
    fetch = model.a.forward
    model.a.forward = lambda x: fetch(x)
    assert [row.why for row in fg.explain(model)] == ["has another forward", "", "", ""]
    assert [row.fused_with.split()[0] for row in fg.explain(model)[1:]] == ["gelu_tanh", "leaky_relu,", "sigmoid"]


class Torchs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.AdaptiveLogSoftmaxWithLoss(4, 6, [2])

    def forward(self, x):
        return self.layer(x)


def test_layers_that_torch_calls_are_left_alone():
    whys = {row.layer: row.why for row in fg.explain(fg.fuse(Torchs()))}
    assert whys["layer.head"] == "called by torch's own AdaptiveLogSoftmaxWithLoss"


def test_nothing_but_a_model_is_explained():
    with pytest.raises(TypeError, match=r"explain: model must be a torch\.nn.Module, got int"):
        fg.explain(1)


def test_the_rows_that_go_to_stock_are_told(monkeypatch):
    """As many as backends.py sends there, and none where every size goes to the ops."""
    monkeypatch.setattr(backends, "node", None)
    layer = fg.Linear(30, 40, device=DEVICE)
    x, w, b = torch.randn(30, 30, device=DEVICE), layer.weight, layer.bias
    assert fg.explain(layer)[0].stock_rows == 0
    monkeypatch.setattr(routing, "SMALL_LAYER", 10 * 30 * 40 + 7)
    rows = fg.explain(layer)[0].stock_rows
    assert rows == (10 if DEVICE == "cpu" and backends.extension is not None else 0)
    for count in (rows, rows + 1):
        route = routing.route_with("identity", routing.route_of_layer(x[:count], w, b), x[:count], w)
        assert (route == "stock") == (0 < count <= rows)
    assert ("10 rows" in str(fg.explain(layer))) == (rows == 10)


def test_a_bias_of_one_number_is_told():
    """Which torch broadcasts."""
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh()).to(DEVICE)
    net[0].bias = nn.Parameter(torch.ones(1, device=DEVICE))
    assert fg.explain(fg.fuse(net))[0].why == "its bias has shape (1,)"
    torch.testing.assert_close(net(torch.ones(2, 4, device=DEVICE)), fg.unfuse(net)(torch.ones(2, 4, device=DEVICE)))


def test_a_replaced_forward_of_sequential_is_told(monkeypatch):
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    before = nn.Sequential.forward
    monkeypatch.setattr(nn.Sequential, "forward", lambda self, x: before(self, x))
    assert fg.explain(fg.fuse(net))[0].why == "torch.nn.Sequential.forward was replaced"


def test_a_wrong_call_of_a_fused_sequential_names_it():
    with pytest.raises(TypeError, match=r"Sequential\.forward\(\) missing 1 required positional argument: 'input'"):
        fg.fuse(nn.Sequential(nn.Linear(4, 8), nn.Tanh()))()


def test_a_weight_that_is_a_buffer_is_told():
    layer = nn.Linear(4, 8)
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    net = nn.Sequential(layer, nn.Tanh()).to(DEVICE)
    assert fg.explain(fg.fuse(net))[0].fused_with == "tanh (1)"
    assert_listed(net)


class Gate(nn.Module):
    """A gate, and a layer whose weight is computed."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)
        nn.utils.parametrizations.weight_norm(self.down)
        self.act = nn.SiLU()

    def forward(self, x):
        return torch.tanh(self.down(self.act(self.gate(x)) * self.up(x)))


def test_a_run_is_told():
    model, x = fg.fuse(Gate().to(DEVICE)), inputs()
    assert all(row.ran is None for row in fg.explain(model))
    rows = {row.layer: row for row in fg.explain(model, x)}
    assert {name: (row.ran.fused, row.ran.alone) for name, row in rows.items()} == dict.fromkeys(rows, (1, 0))
    assert rows["gate"].fused_with == "silu, the gate (act)" and rows["up"].fused_with == "times silu of the gate (act)"
    assert rows["gate"].ran.seconds > 0 and rows["up"].ran.seconds == 0  # the time of both stands at the gate
    assert "ran fused" in str(fg.explain(model, x)) and "ran fused" not in str(fg.explain(model))
    alone = [row.ran for row in fg.explain(fg.unfuse(model), x)]
    assert [(ran.fused, ran.alone) for ran in alone] == [(0, 1)] * 3


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(4, 2))

    def forward(self, w):
        return w + self.b @ self.a


COMPUTED = {
    "orthogonal": nn.utils.parametrizations.orthogonal,
    "of low rank": lambda m: nn.utils.parametrize.register_parametrization(m, "weight", LowRank()),
}


@pytest.mark.parametrize("computed", COMPUTED.values(), ids=COMPUTED)
def test_products_that_compute_a_weight_are_no_calls_of_its_layer(computed):
    net = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4))
    for m in net[::2]:
        computed(m)
    for rows in (1, 15):
        with routing.at_all_sizes():
            ran = [row.ran for row in fg.explain(fg.fuse(net.to(DEVICE)), torch.ones(rows, 4, device=DEVICE))]
        assert [(r.fused, r.alone) for r in ran] == [(1, 0), (0, 1)]


def test_a_run_is_the_models_own():
    """In its mode, with its arguments, and what it raises is raised."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.seen = nn.Linear(4, 4), []

        def forward(self, x, *, times=1):
            self.seen.append((self.training, times, torch.is_grad_enabled()))
            for _ in range(times):
                x = torch.tanh(self.fc(x))
            return x

    model, x = fg.fuse(Net().to(DEVICE)).eval(), inputs()
    (row,) = fg.explain(model, x, times=3)
    assert row.ran.fused == 3 and model.seen == [(False, 3, False)]
    with pytest.raises(TypeError, match="unexpected keyword"):
        fg.explain(model, x, size=3)
    torch.testing.assert_close(model(x), fg.unfuse(model)(x))


def test_chains_are_numbered():
    """Layers that are one op have one number; there is no such column where there is no chain."""
    layers = lambda: [nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)]
    model = fg.fuse(nn.Sequential(nn.Sequential(*layers()), fg.MLP(3, 8, 3), nn.LayerNorm(3), nn.Sequential(*layers())))
    assert [row.chain for row in fg.explain(model)] == ([1, 1, 2, 2, 3, 3] if backends.CHAINS else [0] * 6)
    assert ("chain" in str(fg.explain(model))) == backends.CHAINS
    model[0][0].register_forward_hook(lambda *_: None)
    assert [row.chain for row in fg.explain(model)][:2] == [0, 0]
    assert "chain" not in str(fg.explain(nn.Sequential(*layers())))
