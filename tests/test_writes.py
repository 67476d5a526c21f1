"""What writes to the result of a fused layer in place, or past autograd, does to backward what it does in stock."""

import copy
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fusegrad as fg
from fusegrad import routing
from fusegrad.activations import REGISTRY

from cases import DEVICE

ACTS = {name: a.module(**{k: v for k, v in a.options.items() if k == "approximate"})
        for name, a in REGISTRY.items() if a.module is not None}  # fmt: skip
ACTS |= {name: a.functions[0] for name, a in REGISTRY.items() if a.module is None and a.functions}
ACTS |= {f"{name} in place": ACTS[name].__class__(inplace=True) for name in ("relu", "relu6", "leaky_relu", "hardtanh")}
ACTS |= {"relu6 as a function": F.relu6, "leaky_relu_": F.leaky_relu_}
SAVE_OUTPUT = "relu", "relu in place", "leaky_relu in place", "leaky_relu_", "sigmoid", "tanh", "exp"  # in torch

HELD: list[torch.Tensor] = []


def through_a_global(y):
    HELD[:] = [y]
    HELD[0] -= 1
    return y


def by_item(y):
    y[1:] = 0.3
    return y


def past_autograd(y):
    y.detach().numpy()[:, 0] = 0.3
    return y


PAST_AUTOGRAD = "data", "numpy"
# no reader of code would find all
WRITES = {
    "operator": lambda y: operator.iadd(y, 1),
    "method": lambda y: y.mul_(2),
    "dunder": lambda y: y.__imul__(2),
    "by name": operator.methodcaller("mul_", 2),
    "foreach": lambda y: (torch._foreach_mul_([y], 2), y)[1],
    "aten": lambda y: torch.ops.aten.mul_.Tensor(y, torch.tensor(2.0).to(y)),
    "item": by_item,
    "global": through_a_global,
    "view": lambda y: (y.view(-1)[::2].mul_(2), y)[1],
    "turned": lambda y: (y.t().unsqueeze(0).add_(1), y)[1],
    "row": lambda y: (y[0].zero_(), y)[1],
    "options": lambda y: F.relu(y, **{"inplace": True}),
    "out": lambda y: (torch.add(y.detach(), 1, **{"out": y.detach()}), y)[1],
    "detached": lambda y: (y.detach().add_(1), y)[1],
    "data": lambda y: (y.data.add_(1), y)[1],
    "numpy": past_autograd,
}  # fmt: skip


class Base(nn.Module):
    def __init__(self, act, write):
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 4)
        self.act, self.write = act, write
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in ((3, 5), (5, 5)))
        self.up = nn.Linear(3, 6)
        self.net = nn.Sequential(nn.Linear(3, 6), act, nn.Linear(6, 6), act) if isinstance(act, nn.Module) else None


def after_a_layer(self, x):
    return self.b(self.write(self.act(self.a(x))))


def after_a_function(self, x):
    return self.b(self.write(self.act(F.linear(x, self.a.weight, self.a.bias))))


def after_the_model(self, x):
    y = self.a(x)
    return self.act(y)


def after_a_chain(self, x):
    return self.b(self.write(self.net(x)))


def after_a_loop(self, x):
    for layer in self.layers:
        x = self.act(layer(x))
    return self.write(x)


def after_a_gate(self, x):
    return self.b(self.write(self.act(self.a(x)) * self.up(x)))


FORWARDS = after_a_layer, after_a_function, after_the_model, after_a_chain, after_a_loop, after_a_gate


def gradients(model, write):
    """Of the parameters, and of a gradient penalty; or that backward raised."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).to(DEVICE, torch.double).requires_grad_()
    try:
        y = model(x)
        y = write(y) if "after_the_model" in type(model).__name__ else y
        (gx,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        loss = y.square().sum() + (gx.square().sum() if gx.requires_grad else 0)
        return [y, gx, *torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)]
    except RuntimeError as error:
        assert any(says in str(error) for says in ("modified by an inplace operation", "not implemented"))
        return None


SOME = "relu", "relu6", "leaky_relu", "hardtanh", "leaky_relu in place", "relu6 as a function", "silu", "tanh"
MODELS = [(f, act) for f in FORWARDS for act in (ACTS if f is after_a_layer else SOME)]


@pytest.mark.parametrize("forward, act", MODELS, ids=lambda v: getattr(v, "__name__", v))
def test_what_is_written_to_a_result(forward, act, monkeypatch):
    monkeypatch.setattr(routing, "SMALL_LAYER", -1)
    if forward is after_a_chain and not isinstance(ACTS[act], nn.Module):
        pytest.skip("a Sequential holds modules")
    for name, write in WRITES.items():
        if (DEVICE != "cpu" and name == "numpy") or (act in SAVE_OUTPUT and name in PAST_AUTOGRAD):
            continue  # that changes what torch saved, and so gradients
        torch.manual_seed(0)
        cls = type(f"Model_{forward.__name__}", (Base,), {"forward": forward, "__module__": __name__})
        stock = cls(copy.deepcopy(ACTS[act]), write).to(DEVICE, torch.double)
        fused = fg.fuse(copy.deepcopy(stock))
        fused.write = write
        assert any(row.fused_with for row in fg.explain(fused))
        for _ in range(2):  # as it is found, and as it is kept
            expected, found = gradients(stock, write), gradients(fused, write)
            if expected is not None:
                assert found is not None, name
                torch.testing.assert_close(found, expected, msg=lambda m, name=name: f"{name}: {m}")
