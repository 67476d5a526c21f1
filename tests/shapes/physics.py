"""Networks for differential equations, operators and atoms."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from . import D, shape


def many(n, act=None, **options):
    return nn.ModuleList(nn.Linear(D, D, **options) for _ in range(n))


@shape(3, untaken=("linears.3",))  # omniscientoctopus/Physics-Informed-Neural-Networks
class loop_in_two_statements(nn.Module):
    def __init__(self):
        super().__init__()
        self.linears, self.activation, self.layers = many(4), nn.Tanh(), [D] * 5

    def forward(self, x):
        if not torch.is_tensor(x):
            x = torch.from_numpy(x)
        a = x
        for i in range(len(self.layers) - 2):
            z = self.linears[i](a)
            a = self.activation(z)
        return self.linears[-1](a)


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
        self.fcs, self.n_layers, self.non_linearity, self.dropout = many(3), 3, F.gelu, None

    def forward(self, x):
        for i, fc in enumerate(self.fcs):
            x = fc(x)
            if i < self.n_layers - 1:
                x = self.non_linearity(x)
            if self.dropout is not None:
                x = self.dropout[i](x)
        return x


@shape(1)  # rtqichen/ffjord
class gate_of_another_input(nn.Module):
    def __init__(self):
        super().__init__()
        self._layer, self._hyper_bias, self._hyper_gate = nn.Linear(D, D), nn.Linear(1, D), nn.Linear(1, D)

    def forward(self, x, t):
        t = t[:1, :1]
        return self._layer(x) * torch.sigmoid(self._hyper_gate(t.view(1, 1))) + self._hyper_bias(t.view(1, 1))


# --- atoms


class ScalarLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.alpha = nn.Parameter(torch.randn(D, D)), 1 / math.sqrt(D)
        self.bias = None

    def forward(self, x):
        weight = self.weight * self.alpha
        if self.bias is None:
            return torch.mm(x, weight)
        else:
            return torch.addmm(self.bias, x, weight)


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
        self.vec1_proj, self.vec2_proj = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.update_net, self.act = nn.Sequential(nn.Linear(2 * D, D), nn.SiLU(), nn.Linear(D, 2 * D)), nn.SiLU()

    def forward(self, x, v):
        v = torch.stack([v, v.cos(), v.sin()], 1)
        vec1 = torch.norm(self.vec1_proj(v), dim=-2)
        vec2 = self.vec2_proj(v)
        x, v = torch.split(self.update_net(torch.cat([x, vec1], dim=-1)), D, dim=-1)
        v = v.unsqueeze(1) * vec2
        if self.act is not None:
            x = self.act(x)
        return x + v.sum(1)


def swish(x):
    return x * x.sigmoid()


@shape(5)  # DimeNet in pyg-team/pytorch_geometric
class interaction(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.lin_rbf = swish, nn.Linear(D, D, bias=False)
        self.lin_kj, self.lin_ji, self.lin = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.layers = nn.ModuleList(Residual() for _ in range(1))

    def forward(self, x, rbf):
        rbf = self.lin_rbf(rbf)
        x_ji = self.act(self.lin_ji(x))
        x_kj = self.act(self.lin_kj(x))
        x_kj = x_kj * rbf
        h = x_ji + x_kj
        for layer in self.layers:
            h = layer(h)
        h = self.act(self.lin(h)) + x
        return self.act(h)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.lin1, self.lin2 = swish, nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x):
        return x + self.act(self.lin2(self.act(self.lin1(x))))
