"""What is changed in a model after fuse is obeyed: it computes what the same change does to the stock model."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrize, prune

import fusegrad as fg
from fusegrad import backends, routing

from cases import DEVICE, on_cpu
from models import Functional, Mlp, Pinn, count_fused, inputs, make, nested

GLOBAL = 2.0


class ClassAct(Functional):
    act = torch.tanh
    plain = staticmethod(F.gelu)

    def nonlin(self, x):
        return torch.tanh(x)

    def forward(self, x):
        return self.nonlin(self.a(self.act(self.b(self.plain(self.c(x)))))) * GLOBAL


def double(module, args, output):
    return output * 2


def slopes():
    return nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.1), nn.LayerNorm(4), nn.ELU())


class Block(Pinn):
    def forward(self, x):
        return self.children_in_turn(x) + torch.tanh(self.again(x))

    def __init__(self):
        super().__init__()
        self.again = self.other = nn.Linear(4, 8)

    def children_in_turn(self, x):
        for layer in self.hidden.children():
            x = torch.tanh(layer(F.pad(x, (0, 8 - x.shape[-1]))))
        return x


def packed():
    return nn.Sequential(nn.Linear(4, 8), nn.GLU())


CHANGES = {
    "layer added": (Pinn, lambda m: m.hidden.append(nn.Linear(8, 8))),
    "layer replaced by two": (Pinn, lambda m: setattr(m, "first", nn.Sequential(nn.Linear(4, 8), nn.ReLU()))),
    "activation replaced": (Pinn, lambda m: setattr(m, "act", torch.cos)),
    "constant replaced": (Pinn, lambda m: setattr(m, "scale", 3.0)),
    "module replaced": (lambda: Pinn(nn.SiLU()), lambda m: setattr(m, "act", nn.Softsign())),
    "layer hooked": (Pinn, lambda m: m.first.register_forward_hook(double)),
    "activation hooked": (nested, lambda m: m[1].register_forward_hook(double)),
    "activation pre-hooked": (nested, lambda m: m[3].register_forward_pre_hook(lambda m, a: (a[0] * 2,))),
    "item set": (nested, lambda m: m[0].__setitem__(0, nn.Linear(4, 8))),
    "item inserted": (nested, lambda m: m[0].insert(1, nn.Softsign())),
    "pruned": (Functional, lambda m: prune.l1_unstructured(m.b, "weight", 0.5)),
    "parametrized": (Functional, lambda m: nn.utils.parametrizations.spectral_norm(m.b)),
    "layer replaced": (Functional, lambda m: setattr(m, "b", nn.Linear(4, 4))),
    "layer's forward replaced": (Functional, lambda m: setattr(m.b, "forward", lambda x: x * 0)),
    "activation's forward replaced": (Mlp, lambda m: setattr(m.act, "forward", lambda x: x * 0)),
    "function of the class": (ClassAct, lambda m: setattr(m, "act", torch.cos)),
    "static method of the class": (ClassAct, lambda m: setattr(m, "plain", torch.cos)),
    "method": (ClassAct, lambda m: setattr(m, "nonlin", torch.cos)),
    "alias": (Block, lambda m: setattr(m, "again", nn.Linear(4, 8))),
    "children": (Block, lambda m: m.hidden.add_module("last", nn.Linear(8, 8))),
    "forward of a GLU": (packed, lambda m: setattr(m[1], "forward", lambda z: z * 0)),
    "hooked GLU": (packed, lambda m: m[1].register_forward_hook(double)),
    "slope": (slopes, lambda m: setattr(m[1], "negative_slope", 0.9)),
    "alpha of a single activation": (slopes, lambda m: setattr(m[3], "alpha", 0.1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_obeyed(change):
    torch.manual_seed(0)
    build, apply = CHANGES[change]
    stock = build().to(DEVICE).eval()
    fused = fg.fuse(copy.deepcopy(stock))
    x = inputs()
    before = stock(x)
    torch.testing.assert_close(fused(x), before)
    for model in (stock, fused):
        torch.manual_seed(7)
        apply(model)
        model.to(DEVICE)
    torch.testing.assert_close(fused.eval()(x), stock.eval()(x))
    assert not torch.equal(stock(x), before)


@pytest.mark.parametrize("patch", ("forward", "code", "method", "global"))
def test_patches_of_the_class_and_its_file_are_obeyed(monkeypatch, patch):
    class Net(ClassAct):
        def nonlin(self, x):
            return torch.relu(self.d(x))

        def forward(self, x):
            return self.nonlin(torch.tanh(self.a(x))) * GLOBAL

    model, x = fg.fuse(Net().to(DEVICE)), inputs()
    y = model(x)
    if patch == "forward":
        monkeypatch.setattr(Net, "forward", lambda self, x: x)
    elif patch == "code":
        monkeypatch.setattr(Net.forward, "__code__", (lambda self, x: x).__code__)
    elif patch == "method":
        monkeypatch.setattr(Net, "nonlin", lambda self, x: self.d(x))
    else:
        monkeypatch.setitem(globals(), "GLOBAL", 3.0)
    assert not torch.equal(model(x), y)
    torch.testing.assert_close(model(x), fg.unfuse(model)(x))


def test_train_and_eval_are_obeyed():
    model = fg.fuse(make("pinn"))
    x = inputs()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_slopes_are_obeyed_in_a_compiled_model():
    """No graph break where a slope becomes one that no op takes: nothing is raised to find that out."""
    model, x = fg.fuse(nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.1))).to(DEVICE), inputs()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for slope in (0.1, 0.9, -0.5, 0.2):
        model[1].negative_slope = slope
        torch.testing.assert_close(compiled(x), model[1](model[0](x)))


class Noisy(nn.Module):
    """A parametrization that counts how often it runs, and gives another weight each time."""

    runs = 0

    def forward(self, weight):
        Noisy.runs += 1
        return weight + torch.rand_like(weight)


LAYERS = {
    "method": (Mlp, 2),
    "sequential": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), 1),
    "a linear": (lambda: nn.Linear(4, 4), 1),
    "with its own activation": (lambda: fg.Linear(4, 4, act="tanh"), 1),
    "mlp": (lambda: fg.MLP(4), 2),
    "gated": (lambda: fg.GatedMLP(4, 8), 3),
}


@pytest.mark.parametrize("when", ("before", "after"))
@pytest.mark.parametrize("name", LAYERS)
def test_a_weight_is_computed_once_a_call(name, when):
    build, layers = LAYERS[name]
    model = build().to(DEVICE)
    model = fg.fuse(model) if when == "after" else model
    for layer in [m for m in model.modules() if isinstance(m, nn.Linear)]:
        parametrize.register_parametrization(layer, "weight", Noisy(), unsafe=True)
    Noisy.runs = 0
    fg.explain(fg.fuse(model))
    assert Noisy.runs == 0
    model(inputs())
    assert Noisy.runs == layers


def test_a_weight_that_cannot_be_computed_is_tried_once():
    class Fails(Noisy):
        def forward(self, weight):
            Noisy.runs += 1
            if Noisy.runs > 0:
                raise ValueError("not now")
            return weight

    layer, Noisy.runs = fg.fuse(nn.Linear(4, 4)), -1
    parametrize.register_parametrization(layer, "weight", Fails(), unsafe=True)
    Noisy.runs = 0
    with pytest.raises(ValueError, match="not now"):
        layer(inputs())
    assert Noisy.runs == 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_copy_of_a_layer_with_the_old_weight_norm():
    """Without gradients, where torch can copy it: with them its weight is no leaf."""
    model, x = fg.fuse(make("functional")), inputs()
    with torch.no_grad():
        nn.utils.weight_norm(model.a)
        torch.testing.assert_close(copy.deepcopy(model)(x), model(x))


def test_models_whose_weights_are_stacked():
    models = [make("functional") for _ in range(2)]
    nn.init.ones_(models[1].a.weight)
    weights, x = stack_module_state(models), inputs()
    run = lambda model: vmap(lambda w, b: functional_call(model, (w, b), (x,)))(*weights)
    torch.testing.assert_close(run(fg.fuse(make("functional"))), torch.stack([m(x) for m in models]))


def doubled(function):
    return lambda *args, **kwargs: 2 * function(*args, **kwargs)


PATCHES = {
    "Linear.forward": (nn.Linear, "forward"),
    "SiLU.forward": (nn.SiLU, "forward"),
    "Sequential.forward": (nn.Sequential, "forward"),
    "Module.__call__": (nn.Module, "__call__"),
    "Module._call_impl": (nn.Module, "_call_impl"),
    "Linear.__call__": (nn.Linear, "__call__"),
    "the function of a module": (F, "silu"),
    "a function": (torch, "tanh"),
    "a method": (torch.Tensor, "sigmoid"),
}


class Patched(Functional):
    def __init__(self):
        super().__init__()
        self.act, self.alone = nn.SiLU(), nn.Sequential(self.c, nn.SiLU(), nn.LayerNorm(4), nn.SiLU())

    def forward(self, x):
        return self.alone(torch.tanh(self.a(self.act(self.b(x))))) + self.d(x).sigmoid()


@pytest.mark.parametrize("when", ("before", "after"))
@pytest.mark.parametrize("patch", PATCHES)
def test_what_is_replaced_for_everyone_is_obeyed(monkeypatch, patch, when):
    """As loaders of adapters do; and no more when it is put back."""
    owner, name = PATCHES[patch]
    stock, x = Patched().to(DEVICE), inputs()
    fused, y = copy.deepcopy(stock), stock(x)
    fused = fg.fuse(fused) if when == "after" else fused
    with monkeypatch.context() as patches:
        patches.setattr(owner, name, doubled(getattr(owner, name)))
        torch.testing.assert_close(fg.fuse(fused)(x) if when == "before" else fused(x), stock(x))
        assert not torch.equal(stock(x), y)
    torch.testing.assert_close(fused(x), y)


REPLACED = {
    "lazy": lambda m: setattr(m, "a", nn.LazyLinear(4)),
    "nothing": lambda m: setattr(m, "a", None),
    "no layer": lambda m: setattr(m, "a", nn.Identity()),
    "no weight": lambda m: delattr(m.a, "weight"),
    "weight is None": lambda m: setattr(m.a, "weight", None),
    "weight not initialized": lambda m: m.a.register_parameter("weight", nn.UninitializedParameter()),
    "weight of three dimensions": lambda m: setattr(m.a, "weight", nn.Parameter(torch.ones(1, 4, 4))),
    "weight of integers": lambda m: setattr(m.a, "weight", nn.Parameter(torch.ones(4, 4).int(), requires_grad=False)),
    "bias of one number": lambda m: setattr(m.a, "bias", nn.Parameter(torch.ones(1))),
    "another dtype": lambda m: m.a.double(),
    "another size": lambda m: setattr(m, "a", nn.Linear(5, 4)),
}


@pytest.mark.parametrize("change", REPLACED)
def test_a_layer_that_no_op_takes_does_what_it_does_in_torch(change):
    """The result, or an error that whoever catches torch's catches too."""

    def result(model):
        torch.manual_seed(0)
        try:
            return model(inputs())
        except Exception as e:
            return e

    stock = make("functional")
    fused = fg.fuse(copy.deepcopy(stock))
    for model in (stock, fused):
        torch.manual_seed(7)
        REPLACED[change](model)
        model.a = model.a.to(DEVICE) if isinstance(model.a, nn.Module) else model.a
    got, expected = result(fused), result(stock)
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(got, expected)
    assert isinstance(got, type(expected))
    assert all(row.why or row.fused_with for row in fg.explain(fused))


@on_cpu
@pytest.mark.parametrize("act, rows, ours", [(nn.SiLU, 128, 0), (nn.Tanh, 128, 1), (nn.Tanh, 8, 0), (nn.SiLU, 1024, 1)])
def test_what_gains_nothing_by_an_op_runs_torchs(act, rows, ours, nodes, monkeypatch):
    """By the activation that fuse found, where that matters; another one that is set later is still right.

    Where C++ makes the nodes, an op always gains something.
    """
    for name, value in (SMALL | {"SMALL_LAYER": 2**24}).items():
        monkeypatch.setattr(routing, name, value)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(256, 256), act()

        def forward(self, x):
            return self.act(self.fc(x))

    model, x = Net(), torch.randn(rows, 256)
    fused = fg.fuse(copy.deepcopy(model))
    assert count_fused(fused, x) == (ours if backends.node is None else 1)
    for m in (model, fused):
        m.act = nn.Softplus()
    torch.testing.assert_close(fused(x), model(x))
    assert vars(fg.unfuse(fused).fc).keys() == vars(model.fc).keys()
