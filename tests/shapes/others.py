"""Agents, graphs, tables, autoencoders and diffusion."""

import torch
import torch.nn.functional as F
from torch import nn

from . import MAKES_IT_ONE, D, shape

LOG_STD_MAX, LOG_STD_MIN = 2, -5


@shape(3)  # vwxyzjn/cleanrl, soft actor critic
class squashed_gaussian(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.center, self.spread = (nn.Linear(D, D) for _ in range(4))

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        mu = self.center(x)
        s = self.spread(x)
        s = torch.tanh(s)
        s = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (s + 1)
        return torch.cat([mu, s], -1)


@shape(3)  # sfujim/TD3
class scaled_action(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1, self.l2, self.l3, self.max_action = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, 2), 2.0

    def forward(self, state):
        a = F.relu(self.l1(state))
        a = F.relu(self.l2(a))
        return self.max_action * torch.tanh(self.l3(a))


@shape(2, {"4": "followed by Identity, which is no activation of fusegrad"})  # openai/spinningup
def identity_at_the_end():
    acts = nn.Tanh, nn.Tanh, nn.Identity
    return nn.Sequential(*(module for act in acts for module in (nn.Linear(D, D), act())))


@shape(2)  # Denys88/rl_games
class dense_concatenation(nn.Module):
    def __init__(self):
        super().__init__()
        self.fcs = nn.ModuleList([nn.Linear(D, D), nn.Linear(2 * D, D)])
        self.acts = nn.ModuleList([nn.ELU(), nn.ELU()])
        self.norms, self.depth = nn.ModuleList([nn.Identity(), nn.Identity()]), 2

    def forward(self, seen):
        x = self.fcs[0](seen)
        x = self.acts[0](x)
        x = self.norms[0](x)
        for i in range(1, self.depth):
            x = torch.cat([x, seen], dim=1)
            x = self.fcs[i](x)
            x = self.norms[i](x)
            x = self.acts[i](x)
        return x


class NoisyLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.w_spread = nn.Parameter(torch.randn(D, D)), nn.Parameter(torch.randn(D, D))
        self.b, self.b_spread = nn.Parameter(torch.randn(D)), nn.Parameter(torch.randn(D))
        self.register_buffer("w_noise", torch.randn(D, D))
        self.register_buffer("b_noise", torch.randn(D))

    def forward(self, x):
        if self.training:
            weight = self.w + self.w_spread * self.w_noise
            return F.linear(x, weight, self.b + self.b_spread * self.b_noise)
        else:
            return F.linear(x, self.w, self.b)


@shape(2)  # Kaixhin/Rainbow
class noisy_and_dueling(nn.Module):
    def __init__(self):
        super().__init__()
        self.v1, self.a1, self.v2, self.a2 = (NoisyLinear() for _ in range(4))

    def forward(self, x):
        v = self.v2(F.relu(self.v1(x)))
        a = self.a2(F.relu(self.a1(x)))
        return v + a - a.mean(1, keepdim=True)


# --- graphs


@shape(1)  # GIN in pyg-team/pytorch_geometric
class norm_between(nn.Module):
    def __init__(self):
        super().__init__()
        self.nn = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D), nn.ReLU(), nn.Linear(D, D), nn.ReLU())

    def forward(self, x):
        return self.nn(x + x.roll(1, 0))


@shape(4)  # vgsatorras/egnn
class edge_attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.edges = nn.Sequential(nn.Linear(2 * D, D), nn.SiLU(), nn.Linear(D, D), nn.SiLU())
        self.nodes = nn.Sequential(nn.Linear(2 * D, D), nn.SiLU(), nn.Linear(D, D))
        self.weigh, self.weighed = nn.Sequential(nn.Linear(D, 1), nn.Sigmoid()), True

    def forward(self, h):
        m = torch.cat([h, h.roll(1, 0)], dim=1)
        m = self.edges(m)
        if self.weighed:
            share = self.weigh(m)
            m = m * share
        return h + self.nodes(torch.cat([h, m], dim=1))


@shape(1)  # GAT in dmlc/dgl
class activation_in_a_dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.attn_fc = nn.Linear(D, D, bias=False), nn.Linear(2 * D, 1, bias=False)

    def edge_attention(self, src, dst):
        z2 = torch.cat([src, dst], dim=1)
        a = self.attn_fc(z2)
        return {"e": F.leaky_relu(a)}

    def forward(self, h):
        z = self.fc(h)
        return self.edge_attention(z, z.roll(1, 0))["e"] * z


# --- tables and series


def reglu(x):
    assert x.shape[-1] % 2 == 0
    a, b = x.chunk(2, dim=-1)
    return a * F.relu(b)


@shape(
    0, {"layers.0.up": f"read by act, which begins with no activation of fusegrad{MAKES_IT_ONE}"}
)  # yandex-research/rtdl, FT-Transformer
class gate_by_a_function(nn.Module):
    def __init__(self):
        super().__init__()
        layers = {"up": nn.Linear(D, 2 * D), "down": nn.Linear(D, D)}, {"up": nn.Linear(D, 2 * D)}
        layers[1]["down"] = nn.Linear(D, D)
        self.layers, self.act = nn.ModuleList(nn.ModuleDict(layer) for layer in layers), reglu

    def forward(self, x):
        for layer in self.layers:
            h = layer["up"](x)
            h = self.act(h)
            h = F.dropout(h, 0.1, self.training)
            h = layer["down"](h)
            x = x + h
        return x


class HalvesOfColumns(nn.Module):
    def __init__(self):
        super().__init__()
        self.size = D

    def forward(self, x):
        return x[..., : self.size] * torch.sigmoid(x[..., self.size :])


@shape(0, {"fc": "followed by BatchNorm1d, which is no activation of fusegrad"})  # dreamquark-ai/tabnet
class gate_after_a_norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bn, self.glu = nn.Linear(D, 2 * D, bias=False), nn.BatchNorm1d(2 * D), HalvesOfColumns()

    def forward(self, input):
        x = self.fc(input)
        x = self.bn(x)
        x = self.glu(x)
        return x


@shape(2)  # sktime/pytorch-forecasting, temporal fusion transformer
class gated_residual_network(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.elu, self.fc2 = nn.Linear(D, D), nn.ELU(), nn.Linear(D, D)
        self.fc, self.fc_a, self.fc_b = nn.Linear(D, 2 * D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x):
        residual = x
        x = self.fc1(x)
        x = self.elu(x)
        x = self.fc2(x)
        x = self.fc(x)
        x = F.glu(x, dim=-1)
        return residual + x + self.fc_a(x)


@shape(2)  # kefirski/pytorch_Highway
class highway(nn.Module):
    def __init__(self):
        super().__init__()
        self.bent, self.straight, self.open = (nn.ModuleList([nn.Linear(D, D)]) for _ in range(3))
        self.f = F.relu

    def forward(self, x):
        for k in range(1):
            open = torch.sigmoid(self.open[k](x))
            bent = self.f(self.bent[k](x))
            straight = self.straight[k](x)
            x = open * bent + (1 - open) * straight
        return x


@shape(0, {"x2h": "read by `self.x2h(x) + self.h2h(h)`, which is no activation of it"})  # recurrent cells
class sum_of_two_layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.x2h, self.h2h = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x, h):
        return torch.tanh(self.x2h(x) + self.h2h(h))


# --- autoencoders and diffusion


@shape(3)  # pytorch/examples
class encode_and_decode(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc21, self.fc22, self.fc3, self.fc4 = (nn.Linear(D, D) for _ in range(5))

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def decode(self, z):
        h3 = F.relu(self.fc3(z))
        return torch.sigmoid(self.fc4(h3))

    def forward(self, x):
        mu, logvar = self.encode(x.view(-1, D))
        return self.decode(mu + torch.exp(0.5 * logvar))


class SiLU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


@shape(1)  # openai/guided-diffusion
class time_embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(D, 4 * D), SiLU(), nn.Linear(4 * D, D))
        self.emb_layers = nn.Sequential(SiLU(), nn.Linear(D, D))

    def forward(self, t):
        return self.emb_layers(self.time_embed(t))


class OwnLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(D, D)), nn.Parameter(torch.zeros(D))

    def forward(self, y):
        y = y @ self.weight.to(y.dtype).t()
        if self.bias is not None:
            y = y.add_(self.bias.to(y.dtype))
        return y


@shape(0)  # NVlabs/edm
class bias_added_in_place(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = OwnLinear(), OwnLinear()

    def forward(self, emb):
        emb = F.silu(self.first(emb))
        return F.silu(self.second(emb))


@shape(2)  # hujie-frank/SENet, and its ports
class squeeze_and_excite(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(D, 2, bias=False), nn.ReLU(inplace=True), nn.Linear(2, D), nn.Sigmoid())

    def forward(self, x):
        y = self.fc(x.mean(0, keepdim=True))
        return x * y.expand_as(x)
