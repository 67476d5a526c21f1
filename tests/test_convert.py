"""fuse keeps what a model is and computes; unfuse is its exact inverse; what is not proved safe is left alone."""

import copy
import io
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import fusegrad as fg
from fusegrad.activations import REGISTRY

from cases import DEFAULTS, DEVICE, Case


class Functional(nn.Module):
    """Activations called as functions and methods."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        x = torch.tanh(self.a(x))
        x = F.gelu(self.b(x), approximate="tanh")
        x = F.leaky_relu(self.c(x), 0.2)
        return self.d(x).sigmoid()


class Pinn(nn.Module):
    """Layers in a list, an activation held as an attribute, and values read anew on each call."""

    def __init__(self, act=torch.sin):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.hidden = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.last = nn.Linear(8, 1)
        self.act, self.scale = act, 2.0

    def forward(self, x):
        x = self.act(self.first(x))
        for layer in self.hidden:
            x = self.act(layer(x)) * self.scale
        x = F.dropout(x, 0.5, training=self.training)
        return self.last(x)


class Mlp(nn.Module):
    """The feed-forward block of a transformer."""

    def __init__(self, act=None):
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(4, 16), nn.Linear(16, 4), act or nn.GELU()
        self.norm, self.drop = nn.LayerNorm(4), nn.Dropout(0.0)

    def forward(self, x):
        return x + self.drop(self.fc2(self.act(self.fc1(self.norm(x)))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.again = self.a

    def forward(self, x):
        return self.again(torch.relu(self.b(torch.relu(self.a(x)))))


def nested():
    inner = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Sequential(nn.Linear(8, 4), nn.ReLU(inplace=True)))
    return nn.Sequential(inner, nn.Dropout(0.0), nn.Linear(4, 2), nn.Tanh())


def parametrized():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.GELU(), nn.Linear(4, 4), nn.GELU())


def double(module, args, output):
    return output * 2


def hooked():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.GELU())
    model[0].register_forward_hook(double)
    model[3].register_forward_hook(double)
    return model


def shared():
    act = nn.GELU()
    return nn.Sequential(nn.Linear(4, 4), act, nn.LayerNorm(4), act, nn.Linear(4, 4), act)


MODELS = {
    "functional": Functional,
    "pinn": Pinn,
    "pinn of modules": lambda: Pinn(nn.SiLU()),
    "blocks": lambda: nn.Sequential(Mlp(), Mlp(nn.ReLU(inplace=True))),
    "tied": Tied,
    "nested": nested,
    "parametrized": parametrized,
    "hooked": hooked,
    "shared": shared,
    "a linear": lambda: nn.Linear(4, 4),
    "an activation": lambda: nn.Tanh(),
    "encoder": lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    "mixed list": lambda: nn.Sequential(nn.ModuleDict({"a": nn.Linear(4, 4)})["a"], nn.PReLU(), nn.Linear(4, 4)),
}


def make(name, dtype=torch.float32):
    torch.manual_seed(0)
    return MODELS[name]().to(DEVICE, dtype).eval()


def inputs(dtype=torch.float32):
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)


def snapshot(model):
    """What must come back: classes, attributes and parameters by identity."""
    modules = {name: (m, type(m), dict(vars(m))) for name, m in model.named_modules()}
    parameters = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    return modules, list(model.state_dict()), parameters


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_fuse_computes_the_same_and_unfuse_restores(name, dtype):
    model, x = make(name, dtype), inputs(dtype)
    before, keys, parameters = snapshot(model)
    y = model(x)
    assert fg.fuse(model) is model
    _, fused_keys, fused_parameters = snapshot(model)
    assert (fused_keys, fused_parameters) == (keys, parameters)
    assert all(isinstance(m, before[n][1]) or isinstance(m, fg.Act) for n, m in model.named_modules())
    torch.testing.assert_close(model(x), y)
    fg.fuse(model)  # twice is once
    torch.testing.assert_close(model(x), y)
    assert fg.unfuse(model) is model
    after, keys_after, parameters_after = snapshot(model)
    assert after == before and (keys_after, parameters_after) == (keys, parameters)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_same(name):
    x = inputs(torch.float64)
    grads = []
    for convert in (lambda m: m, fg.fuse):
        model = convert(make(name, torch.float64))
        leaf = x.clone().requires_grad_()
        model(leaf).square().sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters()} | {"x": leaf.grad})
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", MODELS)
def test_copies_pickles_and_compiles(name):
    model, x = make(name), inputs()
    y = model(x)
    fg.fuse(model)
    if name != "parametrized":  # torch refuses to pickle these
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        for again in (torch.load(buffer, weights_only=False), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(again(x), y)
            assert str(fg.explain(again)) == str(fg.explain(model))
            torch.testing.assert_close(fg.unfuse(again)(x), y)
    clone = copy.deepcopy(model)
    assert str(fg.explain(clone)) == str(fg.explain(model))
    with torch.no_grad():
        for p in clone.parameters():
            p.zero_()
    torch.testing.assert_close(model(x), y)  # the clone owns its own
    if name != "an activation":
        assert not torch.equal(clone(x), y)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=name != "hooked")
    torch.testing.assert_close(compiled(x), y)


def with_(rows):
    return {row.layer: row.fused_with for row in rows}


def test_what_is_fused():
    assert with_(fg.explain(fg.fuse(make("functional")))) == {
        "a": "tanh (called as a function)",
        "b": "gelu_tanh (called as a function)",
        "c": "leaky_relu, 0.2 (called as a function)",
        "d": "sigmoid (called as a function)",
    }
    assert with_(fg.explain(fg.fuse(make("nested")))) == {"0.0": "silu (0.1)", "0.2.0": "relu (0.2.1)", "2": "tanh (3)"}
    assert with_(fg.explain(fg.fuse(make("blocks")))) == {
        "0.fc1": "gelu (0.act)", "0.fc2": "", "1.fc1": "relu (1.act)", "1.fc2": "",
    }  # fmt: skip
    assert with_(fg.explain(fg.fuse(make("pinn")))) == {
        "first": "sin (act)", "hidden.0": "sin (act)", "hidden.1": "sin (act)", "hidden.2": "sin (act)", "last": "",
    }  # fmt: skip
    assert with_(fg.explain(fg.fuse(make("shared")))) == {"0": "gelu (1)", "4": "gelu (5)"}
    assert with_(fg.explain(fg.fuse(make("hooked")))) == {"0": "", "2": "", "4": "gelu (5)"}


def counts_fused(model, x):
    """How often the forward of the model calls the fused op."""
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(x)
    return sum(e.count for e in profile.key_averages() if e.key == "fusegrad::linear_act")


@pytest.mark.parametrize("name", MODELS)
def test_explain_says_what_runs(name):
    """Each fused call that explain lists is one call of the op."""
    model = fg.fuse(make(name))
    listed = sum(row.fused_with.count("(") for row in fg.explain(model))
    calls = counts_fused(model, inputs())
    assert calls == listed


class Branch(Functional):
    def forward(self, x):
        if self.training:
            return torch.tanh(self.a(x))
        return self.a(x)


class Conditional(Functional):
    def forward(self, x, mask=None):
        return torch.tanh(self.a(x)) if mask is None else self.a(x)


class NoGrad(Functional):
    @torch.no_grad()
    def forward(self, x):
        return torch.tanh(self.a(x))


class NoGradInside(Functional):
    def forward(self, x):
        with torch.no_grad():
            x = torch.tanh(self.a(x))
        return self.b(x)


class Counts(Functional):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.tanh(self.a(x))


class Random(Functional):
    def forward(self, x):
        return torch.tanh(self.a(x)) * random.random()


class Noise(Functional):
    def forward(self, x):
        return torch.tanh(self.a(x)) + torch.randn(4)


class Prints(Functional):
    def forward(self, x):
        print("called")
        return torch.tanh(self.a(x))


class Attribute(Functional):
    flag = True

    def forward(self, x):
        return torch.tanh(self.a(x)) * (1.0 * bool(self.flag))


class Twice(Functional):
    def forward(self, x):
        z = self.a(x)
        return torch.tanh(z) + z


class Out(Functional):
    def forward(self, x):
        return F.hardtanh(self.a(x), -2.0, 2.0) + F.softplus(self.b(x), threshold=5) + F.leaky_relu(self.c(x), -0.5)


def helper_with_branch(x):
    return x if x is not None else 0


class Helper(Functional):
    def forward(self, x):
        return helper_with_branch(torch.tanh(self.a(x)))


UNSAFE = (Branch, Conditional, NoGrad, NoGradInside, Counts, Random, Noise, Prints, Attribute, Twice, Out, Helper)


@pytest.mark.parametrize("cls", UNSAFE, ids=lambda c: c.__name__)
def test_what_is_not_proved_is_left_alone(cls, capsys):
    torch.manual_seed(0)
    model, x = cls().to(DEVICE), inputs()
    attributes = dict(vars(model))
    fg.fuse(model)
    assert type(model) is cls and vars(model) == attributes
    assert capsys.readouterr().out == ""
    row = fg.explain(model)[0]
    assert row.fused_with == "" and row.why
    assert counts_fused(model, x) == 0
    assert model(x).requires_grad is (cls not in (NoGrad,))


def test_subclasses_and_foreign_weights_are_left_alone():
    class Mine(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.Sequential(Mine(4, 4), nn.ReLU(), nn.Linear(4, 4).to(torch.float8_e4m3fn), nn.ReLU())
    fg.fuse(model)
    rows = fg.explain(model)
    assert [row.why for row in rows] == ["a subclass, Mine", "its weight is torch.float8_e4m3fn"]
    assert type(model[0]) is Mine and type(model[2]) is nn.Linear


def test_changes_after_fuse_are_obeyed():
    """A layer replaced, added, hooked or parametrized later is run as it then is."""
    x = inputs()

    def check(change, model):
        twin = copy.deepcopy(model)
        fg.fuse(model)
        torch.manual_seed(7)
        change(model)
        torch.manual_seed(7)
        change(twin)
        torch.testing.assert_close(model(x), twin(x))

    pinn = lambda m: m.hidden.append(nn.Linear(8, 8))
    check(pinn, make("pinn"))
    check(lambda m: setattr(m, "first", nn.Sequential(nn.Linear(4, 8), nn.ReLU())), make("pinn"))
    check(lambda m: setattr(m, "act", torch.cos), make("pinn"))
    check(lambda m: setattr(m, "scale", 3.0), make("pinn"))
    check(lambda m: setattr(m, "act", nn.Softsign()), make("pinn of modules"))
    check(lambda m: m.first.register_forward_hook(double), make("pinn"))
    check(lambda m: m[2].register_forward_pre_hook(lambda m, a: (a[0] * 2,)), make("nested"))
    check(lambda m: m[0].__setitem__(0, nn.Linear(4, 8)), make("nested"))
    check(lambda m: m[0].insert(1, nn.Softsign()), make("nested"))
    check(lambda m: nn.utils.parametrizations.spectral_norm(m.b), make("functional"))
    check(lambda m: setattr(m, "b", nn.Linear(4, 4)), make("functional"))


def test_train_and_eval_are_obeyed():
    model = fg.fuse(make("pinn"))
    x = inputs()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_inner_layers_called_directly_are_unchanged():
    """A fused neighbour does not change what the Linear alone computes."""
    model, x = make("nested"), inputs()
    z = model[0][0](x)
    fg.fuse(model)
    torch.testing.assert_close(model[0][0](x), z)


def test_filter():
    model = fg.fuse(make("nested"), filter_fn=lambda m, path: not path.startswith("0.2"))
    assert type(model[2]) is fg.Linear and type(model[0][2][0]) is nn.Linear
    assert with_(fg.explain(model)) == {"0.0": "silu (0.1)", "0.2.0": "", "2": "tanh (3)"}


def test_meta_device():
    with torch.device("meta"):
        model = nested()
    fg.fuse(model)
    assert model(torch.empty(3, 4, device="meta")).shape == (3, 2)
    fg.unfuse(model)
    assert all(p.is_meta for p in model.parameters())


def test_user_built_layers_survive_unfuse():
    model = nn.Sequential(fg.Linear(4, 4, act="relu"), fg.Act("tanh"), nn.Linear(4, 4))
    fg.unfuse(fg.fuse(model))
    assert [type(m) for m in model] == [fg.Linear, fg.Act, nn.Linear]
    assert with_(fg.explain(model))["0"] == "relu (its own)"


STOCK_MODULES = [c for c in DEFAULTS if REGISTRY[c.name].module is not None]


@pytest.mark.parametrize("case", STOCK_MODULES, ids=str)
def test_every_stock_activation_module_is_recognised(case):
    a = REGISTRY[case.name]
    module = a.module(**{k: v for k, v in a.options.items() if k == "approximate"})
    model = nn.Sequential(nn.Linear(4, 4), module).to(DEVICE)
    y = model(inputs())
    assert with_(fg.explain(fg.fuse(model))) == {"0": f"{case.name} (1)"}
    torch.testing.assert_close(model(inputs()), y)


@pytest.mark.parametrize("module", (nn.LeakyReLU(0.3), nn.ELU(0.5), nn.CELU(2.0), nn.Softplus(100.0)), ids=str)
def test_parameters_are_taken_over(module):
    model = nn.Sequential(nn.Linear(4, 4), module).to(DEVICE)
    y = model(inputs())
    fg.fuse(model)
    assert counts_fused(model, inputs()) == 1
    torch.testing.assert_close(model(inputs()), y)


@pytest.mark.parametrize(
    "module", (nn.Softplus(threshold=5), nn.Hardtanh(-2, 2), nn.LeakyReLU(-0.5), nn.PReLU(), nn.RReLU()), ids=str
)
def test_other_activations_are_left_alone(module):
    model = nn.Sequential(nn.Linear(4, 4), module).to(DEVICE).eval()
    y = model(inputs())
    fg.fuse(model)
    assert counts_fused(model, inputs()) == 0 and type(model[1]) is type(module)
    torch.testing.assert_close(model(inputs()), y)


def test_equal_layers_share_compiled_code():
    model = fg.fuse(nn.Sequential(Mlp(), Mlp(), Mlp()))
    assert type(model[0]) is type(model[1]) is type(model[2])
    assert issubclass(type(model[0]), Mlp) and type(model[0]).__name__ == "Mlp"


def test_functional_call_and_state_dict():
    model, x = fg.fuse(make("blocks")), inputs()
    stock = make("blocks")
    stock.load_state_dict(model.state_dict())
    torch.testing.assert_close(stock(x), model(x))
    new = {k: v * 0.5 for k, v in model.state_dict().items()}
    torch.testing.assert_close(functional_call(model, new, (x,)), functional_call(stock, new, (x,)))


def test_explain_is_readable():
    text = str(fg.explain(fg.fuse(make("blocks"))))
    assert "0.fc1" in text and "gelu (0.act)" in text and "4 -> 16" in text and "read by drop" in text
    assert "not converted: call fuse" in str(fg.explain(make("blocks")))


def test_module_repr():
    assert repr(fg.Linear(2, 3, act="elu", param=0.5)).endswith("bias=True, act='elu', param=0.5)")
    assert repr(Case("elu", 0.5)) and repr(fg.Act("elu", 0.5)) == "Act('elu', param=0.5)"
