"""Neural fields."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import D, shape
from .physics import many


class SineLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.omega, self.fc = 30, nn.Linear(D, D)

    def forward(self, x):
        return torch.sin(self.omega * self.fc(x))


@shape(2)  # vsitzmann/siren
class sine_layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(SineLayer(), SineLayer(), nn.Linear(D, 1))

    def forward(self, coords):
        coords = coords.clone()
        return self.net(coords)


@shape(4)  # yenchenlin/nerf-pytorch
class skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.fcs = nn.ModuleList(nn.Linear(2 * D if i == 2 else D, D) for i in range(4))
        self.last, self.skips = nn.Linear(D, 4), [1]

    def forward(self, x):
        h = x
        for i, _ in enumerate(self.fcs):
            h = self.fcs[i](h)
            h = F.relu(h)
            if i in self.skips:
                h = torch.cat([x, h], -1)
        return self.last(h)


# softplus is linear where its input is large, ours goes on smoothly
@shape(2, untaken=("fc2",), error=1e-6)  # Totoro97/NeuS, lioryariv/idr, amosgropp/IGR
class layers_by_name(nn.Module):
    def __init__(self):
        super().__init__()
        self.depth, self.skips, self.activation = 4, (1,), nn.Softplus(beta=100)
        for k in range(3):
            setattr(self, f"fc{k}", nn.utils.weight_norm(nn.Linear(2 * D if k == 1 else D, D)))

    def forward(self, points):
        x = points
        for k in range(0, self.depth - 1):
            fc = getattr(self, "fc" + str(k))
            if k in self.skips:
                x = torch.cat([x, points], 1) / np.sqrt(2)
            x = fc(x)
            if k < self.depth - 2:
                x = self.activation(x)
        return x


@shape(2, untaken=("fc2",))  # facebookresearch/DeepSDF
class decoder_with_options(nn.Module):
    def __init__(self):
        super().__init__()
        self.depth, self.bounded, self.act, self.bound, self.end = 4, False, nn.ReLU(), nn.Tanh(), nn.Tanh()
        self.normed, self.by_weight, self.dropout = (0, 1), True, [1]
        for k in range(3):
            setattr(self, f"fc{k}", nn.utils.parametrizations.weight_norm(nn.Linear(D, D)))

    def forward(self, x):
        for k in range(0, self.depth - 1):
            fc = getattr(self, "fc" + str(k))
            x = fc(x)
            if k == self.depth - 2 and self.bounded:
                x = self.bound(x)
            if k < self.depth - 2:
                if self.normed is not None and k in self.normed and not self.by_weight:
                    norm = getattr(self, "norm" + str(k))
                    x = norm(x)
                x = self.act(x)
                if self.dropout is not None and k in self.dropout:
                    x = F.dropout(x, p=0.2, training=self.training)
        if hasattr(self, "th"):
            x = self.end(x)
        return x


@shape(2, untaken=("fcs.2",))  # ashawkey/torch-ngp
class in_place_but_for_the_last(nn.Module):
    def __init__(self):
        super().__init__()
        self.depth, self.fcs = 3, many(3, bias=False)

    def forward(self, x):
        h = x
        for k in range(self.depth):
            h = self.fcs[k](h)
            if k != self.depth - 1:
                h = F.relu(h, inplace=True)
        return torch.sigmoid(h[..., 1:])


@shape(0, {"wave": "read by `self.w * self.wave(x)`, which is no activation of it"})  # vishwa91/wire
class real_gabor(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.s, self.wave, self.scale = 10.0, 2.0, nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x):
        phase = self.w * self.wave(x)
        scale = self.scale(x) * self.s
        return torch.cos(phase) * torch.exp(-(scale**2))


class Filter(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, x):
        return torch.sin(self.linear(x))


@shape(3)  # boschresearch/multiplicative-filter-networks, computational-imaging/bacon
class multiplied_filters(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.filters = many(2), nn.ModuleList(Filter() for _ in range(3))

    def forward(self, x):
        out = self.filters[0](x)
        for i in range(1, len(self.filters)):
            out = self.filters[i](x) * self.linear[i - 1](out)
        return out


READS = "`scale = scale.expand_as(x)`, `shift = shift.expand_as(x)`, `return torch.sin(scale * x + shift)`"


@shape(0, {"layer": f"not only an activation reads x: {READS}"})  # marcoamonteiro/pi-GAN
class film_siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, D)

    def forward(self, x, scale, shift):
        x = self.layer(x)
        scale = scale.expand_as(x)
        shift = shift.expand_as(x)
        return torch.sin(scale * x + shift)


class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(D, D) / D), nn.Parameter(torch.zeros(D))
        self.act, self.drop = Sine(), nn.Dropout(0.0)

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias)
        y = self.act(y)
        y = self.drop(y)
        return y


class Sine(nn.Module):
    def __init__(self, w0=30.0):
        super().__init__()
        self.w0 = w0

    def forward(self, x):
        return torch.sin(self.w0 * x)


@shape(4)  # lucidrains/siren-pytorch
class modulated_siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Siren() for _ in range(2))
        sizes = D, 2 * D
        self.modulator = nn.ModuleList(nn.Sequential(nn.Linear(n, D), nn.ReLU()) for n in sizes)

    def forward(self, x, latent):
        hiddens, z = (), latent
        for layer in self.modulator:
            z = layer(z)
            hiddens = (*hiddens, z)
            z = torch.cat((z, latent), dim=1)
        for layer, mod in zip(self.layers, hiddens, strict=True):
            x = layer(x)
            x = x * mod
        return x
