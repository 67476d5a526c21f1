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
        self.omega_0, self.linear = 30, nn.Linear(D, D)

    def forward(self, input):
        return torch.sin(self.omega_0 * self.linear(input))


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
        self.pts_linears = nn.ModuleList(nn.Linear(2 * D if i == 2 else D, D) for i in range(4))
        self.output_linear, self.skips = nn.Linear(D, 4), [1]

    def forward(self, x):
        h = x
        for i, _ in enumerate(self.pts_linears):
            h = self.pts_linears[i](h)
            h = F.relu(h)
            if i in self.skips:
                h = torch.cat([x, h], -1)
        return self.output_linear(h)


# softplus is linear where its input is large, ours goes on smoothly
@shape(2, untaken=("lin2",), error=1e-6)  # Totoro97/NeuS, lioryariv/idr, amosgropp/IGR
class layers_by_name(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_layers, self.skip_in, self.activation = 4, (1,), nn.Softplus(beta=100)
        for k in range(3):
            setattr(self, f"lin{k}", nn.utils.weight_norm(nn.Linear(2 * D if k == 1 else D, D)))

    def forward(self, inputs):
        x = inputs
        for k in range(0, self.num_layers - 1):
            lin = getattr(self, "lin" + str(k))
            if k in self.skip_in:
                x = torch.cat([x, inputs], 1) / np.sqrt(2)
            x = lin(x)
            if k < self.num_layers - 2:
                x = self.activation(x)
        return x


@shape(2, untaken=("lin2",))  # facebookresearch/DeepSDF
class decoder_with_options(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_layers, self.use_tanh, self.relu, self.tanh, self.th = 4, False, nn.ReLU(), nn.Tanh(), nn.Tanh()
        self.norm_layers, self.weight_norm, self.dropout = (0, 1), True, [1]
        for k in range(3):
            setattr(self, f"lin{k}", nn.utils.parametrizations.weight_norm(nn.Linear(D, D)))

    def forward(self, x):
        for layer in range(0, self.num_layers - 1):
            lin = getattr(self, "lin" + str(layer))
            x = lin(x)
            if layer == self.num_layers - 2 and self.use_tanh:
                x = self.tanh(x)
            if layer < self.num_layers - 2:
                if self.norm_layers is not None and layer in self.norm_layers and not self.weight_norm:
                    bn = getattr(self, "bn" + str(layer))
                    x = bn(x)
                x = self.relu(x)
                if self.dropout is not None and layer in self.dropout:
                    x = F.dropout(x, p=0.2, training=self.training)
        if hasattr(self, "th"):
            x = self.th(x)
        return x


@shape(2, untaken=("net.2",))  # ashawkey/torch-ngp
class in_place_but_for_the_last(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_layers, self.net = 3, many(3, bias=False)

    def forward(self, x):
        h = x
        for k in range(self.num_layers):
            h = self.net[k](h)
            if k != self.num_layers - 1:
                h = F.relu(h, inplace=True)
        return torch.sigmoid(h[..., 1:])


@shape(0, {"freqs": "read by `self.omega_0 * self.freqs(input)`, which is no activation of it"})  # vishwa91/wire
class real_gabor(nn.Module):
    def __init__(self):
        super().__init__()
        self.omega_0, self.scale_0, self.freqs, self.scale = 10.0, 2.0, nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, input):
        omega = self.omega_0 * self.freqs(input)
        scale = self.scale(input) * self.scale_0
        return torch.cos(omega) * torch.exp(-(scale**2))


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


READS = (
    "`freq = freq.expand_as(x)`, `phase_shift = phase_shift.expand_as(x)`, `return torch.sin(freq * x + phase_shift)`"
)


@shape(0, {"layer": f"not only an activation reads x: {READS}"})  # marcoamonteiro/pi-GAN
class film_siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, D)

    def forward(self, x, freq, phase_shift):
        x = self.layer(x)
        freq = freq.expand_as(x)
        phase_shift = phase_shift.expand_as(x)
        return torch.sin(freq * x + phase_shift)


class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(D, D) / D), nn.Parameter(torch.zeros(D))
        self.activation, self.dropout = Sine(), nn.Dropout(0.0)

    def forward(self, x):
        out = F.linear(x, self.weight, self.bias)
        out = self.activation(out)
        out = self.dropout(out)
        return out


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
