"""What is changed in a model after fuse is obeyed: it computes what the same change does to the stock model."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fusegrad as fg

from cases import DEVICE
from models import Functional, Mlp, Pinn, inputs, make, nested

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
    "parametrized": (Functional, lambda m: nn.utils.parametrizations.spectral_norm(m.b)),
    "layer replaced": (Functional, lambda m: setattr(m, "b", nn.Linear(4, 4))),
    "layer's forward replaced": (Functional, lambda m: setattr(m.b, "forward", lambda x: x * 0)),
    "activation's forward replaced": (Mlp, lambda m: setattr(m.act, "forward", lambda x: x * 0)),
    "function of the class": (ClassAct, lambda m: setattr(m, "act", torch.cos)),
    "static method of the class": (ClassAct, lambda m: setattr(m, "plain", torch.cos)),
    "method": (ClassAct, lambda m: setattr(m, "nonlin", torch.cos)),
    "alias": (Block, lambda m: setattr(m, "again", nn.Linear(4, 8))),
    "children": (Block, lambda m: m.hidden.add_module("last", nn.Linear(8, 8))),
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
