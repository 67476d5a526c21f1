"""Networks for differential equations, operators and atoms."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from . import D, shape


def many(n, act=None, **options):
    return nn.ModuleList(nn.Linear(D, D, **options) for _ in range(n))


@shape(3, untaken=("fcs.3",))  # omniscientoctopus/Physics-Informed-Neural-Networks
class loop_in_two_statements(nn.Module):
    def __init__(self):
        super().__init__()
        self.fcs, self.act, self.sizes = many(4), nn.Tanh(), [D] * 5

    def forward(self, x):
        if not torch.is_tensor(x):
            x = torch.from_numpy(x)
        a = x
        for i in range(len(self.sizes) - 2):
            z = self.fcs[i](a)
            a = self.act(z)
        return self.fcs[-1](a)


@shape(5)  # PredictiveIntelligenceLab/jaxpi, and its ports
class modified_mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.u, self.v, self.layers, self.last = nn.Linear(D, D), nn.Linear(D, D), many(3), nn.Linear(D, 1)
        self.activation = torch.tanh

    def forward(self, x):
        u = self.activation(self.u(x))
        v = self.activation(self.v(x))
        for layer in self.layers:
            h = self.activation(layer(x))
            x = h * u + (1 - h) * v
        return self.last(x)


@shape(2)  # greydanus/hamiltonian-nn
class nonlinearity_by_a_name(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear1, self.linear2, self.linear3 = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, 1, bias=False)
        self.nonlinearity = {"swish": lambda x: x * torch.sigmoid(x), "tanh": torch.tanh}["swish"]

    def forward(self, x):
        h = self.nonlinearity(self.linear1(x))
        h = self.nonlinearity(self.linear2(h))
        return self.linear3(h)


@shape(4)  # lululxvi/deepxde, DeepONet
class branch_and_trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D))
        self.trunk, self.activation_trunk = many(3), nn.Tanh()
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, x_func, x_loc):
        x_func = self.branch(x_func)
        for linear in self.trunk:
            x_loc = self.activation_trunk(linear(x_loc))
        return torch.einsum("bi,bi->b", x_func, x_loc) + self.b


@shape(2, untaken=("fcs.2",))  # neuraloperator/neuraloperator
class channel_mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fcs, self.depth, self.act, self.drops = many(3), 3, F.gelu, None

    def forward(self, x):
        for i, fc in enumerate(self.fcs):
            x = fc(x)
            if i < self.depth - 1:
                x = self.act(x)
            if self.drops is not None:
                x = self.drops[i](x)
        return x


@shape(1)  # rtqichen/ffjord
class gate_of_another_input(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.shift, self.open = nn.Linear(D, D), nn.Linear(1, D), nn.Linear(1, D)

    def forward(self, x, t):
        t = t[:1, :1]
        return self.fc(x) * torch.sigmoid(self.open(t.view(1, 1))) + self.shift(t.view(1, 1))


# --- atoms


class ScalarLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.factor = nn.Parameter(torch.randn(D, D)), 1 / math.sqrt(D)
        self.bias = None

    def forward(self, inputs):
        weight = self.weight * self.factor
        if self.bias is None:
            return torch.mm(inputs, weight)
        else:
            return torch.addmm(self.bias, inputs, weight)


@shape(2)  # mir-group/nequip
def scalar_mlp():
    return nn.Sequential(ScalarLinear(), nn.SiLU(), ScalarLinear(), nn.SiLU(), ScalarLinear())


@shape(0, {"net.0": "followed by LayerNorm, which is no activation of fusegrad"})  # ACEsuit/mace
class radial_mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D, D), nn.LayerNorm(D), nn.SiLU(), nn.Linear(D, D))

    def forward(self, x):
        return self.net(x)


@shape(1)  # torchmd/torchmd-net
class gated_equivariant(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.update, self.act = nn.Sequential(nn.Linear(2 * D, D), nn.SiLU(), nn.Linear(D, 2 * D)), nn.SiLU()

    def forward(self, x, v):
        v = torch.stack([v, v.cos(), v.sin()], 1)
        length = torch.norm(self.first(v), dim=-2)
        turned = self.second(v)
        x, v = torch.split(self.update(torch.cat([x, length], dim=-1)), D, dim=-1)
        v = v.unsqueeze(1) * turned
        if self.act is not None:
            x = self.act(x)
        return x + v.sum(1)


def swish(x):
    return x * x.sigmoid()


@shape(5)  # DimeNet in pyg-team/pytorch_geometric
class interaction(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.radial = swish, nn.Linear(D, D, bias=False)
        self.source, self.target, self.mix = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.layers = nn.ModuleList(Residual() for _ in range(1))

    def forward(self, x, r):
        r = self.radial(r)
        b = self.act(self.target(x))
        a = self.act(self.source(x))
        a = a * r
        h = b + a
        for layer in self.layers:
            h = layer(h)
        h = self.act(self.mix(h)) + x
        return self.act(h)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.lin1, self.lin2 = swish, nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x):
        return x + self.act(self.lin2(self.act(self.lin1(x))))
