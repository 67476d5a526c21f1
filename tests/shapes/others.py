"""Agents, graphs, tables, autoencoders and diffusion."""

import torch
import torch.nn.functional as F
from torch import nn

from . import D, shape

LOG_STD_MAX, LOG_STD_MIN = 2, -5


@shape(3)  # vwxyzjn/cleanrl, soft actor critic
class squashed_gaussian(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc_mean, self.fc_logstd = (nn.Linear(D, D) for _ in range(4))

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        mean = self.fc_mean(x)
        log_std = self.fc_logstd(x)
        log_std = torch.tanh(log_std)
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (log_std + 1)
        return torch.cat([mean, log_std], -1)


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


@shape(1, {"linears.1": "followed by Identity, which is no activation of fusegrad"})  # Denys88/rl_games
class dense_concatenation(nn.Module):
    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(D, D), nn.Linear(2 * D, D)])
        self.activations = nn.ModuleList([nn.ELU(), nn.ELU()])
        self.norms, self.num_layers = nn.ModuleList([nn.Identity(), nn.Identity()]), 2

    def forward(self, input):
        x = self.linears[0](input)
        x = self.activations[0](x)
        x = self.norms[0](x)
        for i in range(1, self.num_layers):
            x = torch.cat([x, input], dim=1)
            x = self.linears[i](x)
            x = self.norms[i](x)
            x = self.activations[i](x)
        return x


class NoisyLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight_mu, self.weight_sigma = nn.Parameter(torch.randn(D, D)), nn.Parameter(torch.randn(D, D))
        self.bias_mu, self.bias_sigma = nn.Parameter(torch.randn(D)), nn.Parameter(torch.randn(D))
        self.register_buffer("weight_epsilon", torch.randn(D, D))
        self.register_buffer("bias_epsilon", torch.randn(D))

    def forward(self, input):
        if self.training:
            weight = self.weight_mu + self.weight_sigma * self.weight_epsilon
            return F.linear(input, weight, self.bias_mu + self.bias_sigma * self.bias_epsilon)
        else:
            return F.linear(input, self.weight_mu, self.bias_mu)


@shape(2)  # Kaixhin/Rainbow
class noisy_and_dueling(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc_h_v, self.fc_h_a, self.fc_z_v, self.fc_z_a = (NoisyLinear() for _ in range(4))

    def forward(self, x):
        v = self.fc_z_v(F.relu(self.fc_h_v(x)))
        a = self.fc_z_a(F.relu(self.fc_h_a(x)))
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
        self.edge_mlp = nn.Sequential(nn.Linear(2 * D, D), nn.SiLU(), nn.Linear(D, D), nn.SiLU())
        self.node_mlp = nn.Sequential(nn.Linear(2 * D, D), nn.SiLU(), nn.Linear(D, D))
        self.att_mlp, self.attention = nn.Sequential(nn.Linear(D, 1), nn.Sigmoid()), True

    def forward(self, h):
        out = torch.cat([h, h.roll(1, 0)], dim=1)
        out = self.edge_mlp(out)
        if self.attention:
            att_val = self.att_mlp(out)
            out = out * att_val
        return h + self.node_mlp(torch.cat([h, out], dim=1))


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
    0, {"layers.0.linear0": "read by activation, which begins with no activation of fusegrad"}
)  # yandex-research/rtdl, FT-Transformer
class gate_by_a_function(nn.Module):
    def __init__(self):
        super().__init__()
        layers = {"linear0": nn.Linear(D, 2 * D), "linear1": nn.Linear(D, D)}, {"linear0": nn.Linear(D, 2 * D)}
        layers[1]["linear1"] = nn.Linear(D, D)
        self.layers, self.activation = nn.ModuleList(nn.ModuleDict(layer) for layer in layers), reglu

    def forward(self, x):
        for layer in self.layers:
            x_residual = layer["linear0"](x)
            x_residual = self.activation(x_residual)
            x_residual = F.dropout(x_residual, 0.1, self.training)
            x_residual = layer["linear1"](x_residual)
            x = x + x_residual
        return x


class HalvesOfColumns(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_units = D

    def forward(self, input):
        return input[..., : self.n_units] * torch.sigmoid(input[..., self.n_units :])


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
        self.nonlinear, self.linear, self.gate = (nn.ModuleList([nn.Linear(D, D)]) for _ in range(3))
        self.f = F.relu

    def forward(self, x):
        for layer in range(1):
            gate = torch.sigmoid(self.gate[layer](x))
            nonlinear = self.f(self.nonlinear[layer](x))
            linear = self.linear[layer](x)
            x = gate * nonlinear + (1 - gate) * linear
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

    def forward(self, x):
        x = x @ self.weight.to(x.dtype).t()
        if self.bias is not None:
            x = x.add_(self.bias.to(x.dtype))
        return x


@shape(0)  # NVlabs/edm
class bias_added_in_place(nn.Module):
    def __init__(self):
        super().__init__()
        self.map_layer0, self.map_layer1 = OwnLinear(), OwnLinear()

    def forward(self, emb):
        emb = F.silu(self.map_layer0(emb))
        return F.silu(self.map_layer1(emb))


@shape(2)  # hujie-frank/SENet, and its ports
class squeeze_and_excite(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(D, 2, bias=False), nn.ReLU(inplace=True), nn.Linear(2, D), nn.Sigmoid())

    def forward(self, x):
        y = self.fc(x.mean(0, keepdim=True))
        return x * y.expand_as(x)
