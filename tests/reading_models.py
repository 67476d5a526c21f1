"""Models of points (..., 3) whose source is read."""

import math

import torch
from torch import nn


class Base(nn.Module):
    depth, weight = 3, 0.5

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.d, self.wide = nn.Linear(5, 8), nn.Linear(9, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.register_buffer("low", torch.tensor([-0.5, 0.1, 0.2]))
        self.register_buffer("n", torch.ones(8))
        self.s, self.gain, self.shift = (nn.Parameter(torch.rand(n)) for n in (1, 8, 8))
        self.frequencies = nn.Parameter(torch.rand(3, 4))

    def out(self, h):
        return self.last(h + torch.sin(self.b(h)))


class ScaledFirst(Base):
    def forward(self, x):
        return self.out(torch.tanh(self.a(torch.sin(self.s * x))))


class Encoded(Base):
    def forward(self, x):
        return self.out(torch.tanh(self.wide(torch.cat([x, torch.sin(2 * x), torch.cos(4 * x)], -1))))


class Fourier(Base):
    def forward(self, x):
        z = 2 * torch.pi * x @ self.frequencies
        z = torch.cat((z.cos(), z.sin()), dim=-1)
        return self.last(torch.tanh(self.b(z)))


class Normalised(Base):
    def forward(self, x):
        x = 2.0 * (x - self.low) / (self.low.abs() + 1.0) - 1.0
        return self.out(torch.tanh(self.a(x)))


class Columns(Base):
    """An embedding that is periodic in the first two features."""

    def forward(self, x):
        u, v, t = x[..., 0:1], x[..., -2:-1], x[..., 1:][..., 1::2]
        z = torch.cat([torch.cos(u), torch.sin(u), torch.cos(math.pi * v), torch.sin(math.pi * v), t], dim=-1)
        return self.out(torch.tanh(self.d(z)))


class Split(Base):
    def forward(self, x):
        assert x.shape[-1] == 3 and x.size(-1) == 3, "x has three features"
        first, rest = x.split([1, 2], dim=-1)
        u, v = rest.chunk(2, -1)
        return self.last(torch.tanh(self.a(torch.cat([v, first, u], -1))))


class HardConstraints(Base):
    """Zero where the first feature is zero or one: products of one feature and of several."""

    def forward(self, x):
        return x[..., :1] * (1 - x[..., :1]) * self.out(torch.tanh(self.a(x)))


class Flat(Base):
    def forward(self, x):
        u, v, t = x.unbind(-1)
        z = torch.stack([u * v, torch.sin(t), u - 2 * t], dim=-1)
        y = self.last(torch.tanh(self.a(z)))
        return y[..., 1] * torch.exp(-x[..., 0]) + self.s.sum()


class EachFeature(Base):
    def forward(self, x):
        h = torch.tanh(self.gain * self.a(x) + self.shift)
        return self.last(self.shift - torch.sin(h * self.gain) / self.n)


class AddsInPlace(Base):
    def forward(self, x):
        total = 0
        h = torch.tanh(self.a(x))
        for layer in self.layers:
            y = torch.sin(layer(h))
            y *= 0.5
            h = h + y
            total += y
        total -= self.shift
        return self.last(h + total)


class Either(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        for i in range(self.depth or 1):
            h = h + (self.weight and 0.7) * torch.sin(self.layers[i](h))
        return self.last(h)


class Functions(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        h = torch.mul(h, torch.add(self.b(h), 1.0))
        return torch.matmul(torch.pow(h, 2), self.last.weight.t())


class ByName(Base):
    """Layers by their names, with what was given once more between them."""

    def __init__(self):
        super().__init__()
        self.lin0, self.lin1, self.lin2 = nn.Linear(3, 8), nn.Linear(11, 8), nn.Linear(8, 2)
        self.act: nn.Module = nn.Softplus(beta=5.0)

    def forward(self, points):
        x: torch.Tensor = points
        skip = None
        for k in range(3):
            if k == 1 and isinstance(x, torch.Tensor) and not isinstance(self.act, (list, tuple)):
                x = torch.cat((x, points), -1)
            x = getattr(self, f"lin{k}")(x)
            x = self.act(x) if callable(self.act) and k < 2 else x
        return x if skip is None else x + skip


class Lists(Base):
    def __init__(self):
        super().__init__()
        self.by_name = nn.ModuleDict({"sin": nn.Linear(8, 8), "tanh": nn.Linear(8, 8)})

    @property
    def doubled(self):
        return 2 * self.gain

    def forward(self, x):
        parts = [self.a(x)]
        for i, layer in enumerate(self.layers[:-1]):
            parts.append(layer(torch.tanh(parts[i])))
        h = sum(torch.sin(p) for p in parts if len(parts) == 3)
        h = self.doubled * h + self.by_name["sin"](h)
        return self.last(torch.cat([torch.sin(f(h)) for f in self.layers[1:]], dim=-1)[..., 4:12])


class NothingReadsThese(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        aux = self.s * self.c(h)  # noqa: F841
        return self.last(h + torch.sin(self.b(h)))


READ = (ScaledFirst, Encoded, Fourier, Normalised, Columns, Split, HardConstraints, Flat, EachFeature, AddsInPlace,
        Either, Functions, ByName, Lists, NothingReadsThese)  # fmt: skip


class OfRows(Base):
    """What is written for points (n, 3) alone."""

    def forward(self, x):
        u, v, t = x[:, 0:1], x[:, 1, None], x[:, 2]
        z = torch.cat([torch.sin(u), v * u, t[:, None]], 1)
        return self.last(torch.tanh(self.a(z))).split(1, dim=1)[1].squeeze()


class Method(Base):
    def features(self, x):
        return self.a(x).tanh()

    def forward(self, x):
        h = self.features(x)
        return self.last(torch.cat([h, self.b(h).sin()], -1)[..., 8:] + torch.split(h, 8, -1)[0])
