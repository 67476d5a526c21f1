"""Models that the tests of fuse share, one for each way to write a layer and its activation."""

import torch
import torch.nn.functional as F
from torch import nn

import fusegrad as fg

from cases import DEVICE


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
    "encoder": lambda: nn.TransformerEncoderLayer(4, 2, 8),
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


def fused_with(model):
    return {row.layer: row.fused_with for row in fg.explain(model)}


def count_fused(model, x):
    """How often the forward of the model calls the fused op."""
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(x)
    return sum(e.count for e in profile.key_averages() if e.key == "fusegrad::linear_act")
