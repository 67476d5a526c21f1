"""Models as people write them for differential equations, of points (..., 3) in float64."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fusegrad as fg


def network(*widths: int, act: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), act()]
    return nn.Sequential(*layers[:-1])


class ModifiedMLP(nn.Module):
    """With gates, after Wang, Teng & Perdikaris, arXiv:2001.04536."""

    def __init__(self):
        super().__init__()
        self.u, self.v = nn.Linear(3, 8), nn.Linear(3, 8)
        self.layers, self.last = nn.ModuleList([nn.Linear(3, 8), nn.Linear(8, 8)]), nn.Linear(8, 2)

    def forward(self, x):
        u, v = torch.tanh(self.u(x)), torch.tanh(self.v(x))
        for layer in self.layers:
            x = torch.tanh(layer(x))
            x = x * u + (1 - x) * v
        return self.last(x)


class Fourier(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(3, 5))
        self.net = network(10, 8, 2)

    def forward(self, x):
        z = 2 * torch.pi * x @ self.frequencies
        return self.net(torch.cat([z.sin(), z.cos()], -1))


class Residual(nn.Module):
    """Writes in place, too."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])

    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            h = h + F.gelu(block(h))
        h += 1
        h *= 0.5
        return self.last(F.silu(h, inplace=True)).squeeze(-1)


class DeepONet(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch, self.trunk = network(4, 8, 6), network(3, 8, 6, act=nn.GELU)
        self.register_buffer("f", torch.randn(4))

    def forward(self, x):
        b, t = self.branch(self.f), self.trunk(x)
        return torch.einsum("i,...i->...", b, t) + (b * t).sum(-1) + t @ b


class Attention(nn.Module):
    """Over the coordinates of each point."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.norm, self.last = nn.Linear(1, 8), nn.Linear(8, 24), nn.RMSNorm(8), nn.Linear(8, 1)

    def forward(self, x):
        q, k, v = self.qkv(self.embed(x[..., None])).chunk(3, -1)
        weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1)
        h = weights @ v + F.scaled_dot_product_attention(q, k, v)
        return self.last(self.norm(h).mean(-2))


class Periodic(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network(5, 16, 2)

    def forward(self, x):
        a, b, c = x.unbind(-1)
        return self.net(torch.stack([a.sin(), a.cos(), b**2, (-c).exp(), torch.sqrt(a * a + b * b + 1)], -1))


class Filled(nn.Module):
    """A result that is written part by part."""

    def __init__(self):
        super().__init__()
        self.net = network(3, 8, 2)

    def forward(self, x):
        out = torch.zeros(*x.shape[:-1], 4, dtype=x.dtype)
        out[..., 0] = x[..., 0] ** 3
        out[..., 1:3] = self.net(x)
        out[..., -1:] = x.prod(-1, keepdim=True)
        return out


class Factorised(nn.Module):
    """Weights that are computed; dropout that is off."""

    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.a = nn.utils.weight_norm(nn.Linear(3, 8))
        self.b = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.scale, self.last, self.drop = nn.Parameter(torch.ones(8)), nn.Linear(8, 1), nn.Dropout(0.5)
        self.eval()

    def forward(self, x):
        h = F.softplus(self.a(x), beta=2)
        h = F.linear(h, self.scale.exp().unsqueeze(1) * self.b.weight, self.b.bias)
        return self.last(self.drop(torch.sin(3 * h)))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(2, 8), nn.Mish(), nn.Linear(8, 4), nn.BatchNorm1d(4))
        self.eval()

    def forward(self, x):
        return self.net(x.reshape(-1, 3)).reshape(*x.shape[:-1], 4)


class Doubled(nn.Module):
    """One layer twice, a branch that depends on numbers, a loop."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Linear(3, 6), nn.Linear(6, 6)

    def forward(self, x):
        h = self.first(x)
        while h.abs().max() > 1:
            h = h / 2
        for _ in range(2):
            h = torch.atan(self.shared(h))
        return h if bool((h > -10).all()) else h.square()


class Hard(nn.Module):
    """Constraints on the boundary, built in."""

    def __init__(self):
        super().__init__()
        self.net = network(3, 8, 2, act=nn.SiLU)

    def forward(self, x):
        a, t = x[..., 0:1], x[..., 2:]
        return a * (1 - a) * t * self.net(x) + torch.sin(torch.pi * a) * torch.exp(-t)


MODELS = {
    "tanh": lambda: network(3, 16, 16, 2),
    "silu": lambda: network(3, 16, 16, 1, act=nn.SiLU),
    "one layer": lambda: nn.Linear(3, 2),
    "MLP": lambda: fg.MLP(3, 16, 2),
    "GatedMLP": lambda: fg.GatedMLP(3, 16),
    "Linear with act": lambda: nn.Sequential(fg.Linear(3, 8, act="softplus", param=5.0), fg.Linear(8, 2)),
    **{c.__name__: c for c in (ModifiedMLP, Fourier, Residual, DeepONet, Attention, Periodic, Filled, Factorised)},
    **{c.__name__: c for c in (Normed, Doubled, Hard)},
}


def model(name: str, fused: bool = False, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    made = MODELS[name]().to(dtype)
    return fg.fuse(made) if fused else made


def points(*sizes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)


class Sine(torch.autograd.Function):
    """Which the rules cannot follow."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()
