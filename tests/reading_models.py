"""Models of points (..., 3) whose source is read, and models that it would be wrong to read so."""

import itertools
import math
import types

import torch
import torch.nn.functional as F
from torch import nn

import fusegrad as fg


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


class NothingReadsThese(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        aux = self.s * self.c(h)  # noqa: F841
        return self.last(h + torch.sin(self.b(h)))


READ = (ScaledFirst, Encoded, Fourier, Normalised, Columns, Split, HardConstraints, Flat, EachFeature, AddsInPlace,
        Either, Functions, NothingReadsThese)  # fmt: skip


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


class IsAsMade(Base):
    def __init__(self):
        super().__init__()
        self.act = fg.Act("identity")

    def forward(self, x):
        h = self.a(x)
        g = self.act(h)
        return self.last(h * (torch.sin(h) if g is h else torch.tanh(h)))


class LenOfShape(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.out(h) if len(x.shape) == 3 else self.last(h * self.c(h))


class IsOfDtype(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        if x.dtype is torch.float64:
            h = h + torch.sin(self.b(h))
        return self.last(h * self.c(h))


class LenOfWeight(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.last(h * self.b(h) / len(self.a.bias.shape))


class LenOfRows(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.last(h * self.b(h) / len(h[..., 0]))


class Mangled(Base):
    def forward(self, x, __scale=3.0):
        h = torch.tanh(self.a(x))
        return self.last(h * self.b(h)) if __scale is None else self.last(h * self.c(h))


class WritesOut(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        y = F.linear(h, self.b.weight, self.n)
        written = torch.mul(self.n, 0.5, out=self.n)
        return self.last(torch.sin(y) + h * written)


class HoldsAnIterator(Base):
    def __init__(self):
        super().__init__()
        self.steps = itertools.cycle([1.0, 2.0, 3.0, 4.0, 5.0])

    def forward(self, x):
        h = torch.tanh(self.a(x))
        for layer, s in zip(self.layers, self.steps):  # noqa: B905
            h = h + s * torch.sin(layer(h))
        return self.last(h)


class InPlace(Base):
    def forward(self, x):
        h = self.a(x)
        y = h.relu_()
        return self.last(h + torch.sin(y))


class Generator(Base):
    more = False

    def parts(self, h):
        if self.more:
            yield torch.sin(h)
        return [h, torch.sin(h)]

    def forward(self, x):
        h = torch.tanh(self.a(x))
        for p in self.parts(h):
            h = h + p
        return self.last(h)


class LongRange(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        for i in range(10**12):
            if i == self.depth:
                return self.last(h)
            h = h + torch.sin(self.b(h))


class WritesToAnother(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        y = h
        y += self.b(x[..., :1] * self.n)
        return self.last(h * torch.sin(y))


class WritesToAPart(Base):
    def forward(self, x):
        h = self.a(x)
        part = h[..., 2:5]
        part *= 3.0
        return self.last(torch.sin(h))


class _Next(nn.ModuleList):
    def __getitem__(self, i):
        return super().__getitem__((i + 1) % len(self))


class _Fewer(nn.ModuleList):
    def __len__(self):
        return 2


class _Sine(nn.Module):
    def __getattribute__(self, name):
        return torch.sin if name == "forward" else super().__getattribute__(name)

    def forward(self, x):
        return torch.tanh(x)


class OwnList(Base):
    def __init__(self, cls=_Next):
        super().__init__()
        self.layers.__class__ = cls

    def forward(self, x):
        h = torch.tanh(self.a(x))
        for i in range(len(self.layers)):
            h = h + torch.sin(self.layers[i](h))
        return self.last(h)


class FewerInList(OwnList):
    def __init__(self):
        super().__init__(_Fewer)


class OwnGetattribute(Base):
    def __init__(self):
        super().__init__()
        self.act = _Sine()

    def forward(self, x):
        h = self.a(x)
        return self.last(self.act(h) * h)


class _Lazy(types.ModuleType):
    tanh = property(lambda self: torch.sin)


lazy = _Lazy("lazy")
lazy.__dict__["tanh"] = torch.tanh


class OwnFile(Base):
    def forward(self, x):
        h = self.a(x)
        return self.last(lazy.tanh(h) * h)


class SinLinear(fg.Linear):
    pass


class OfOurs(Base):
    def __init__(self):
        super().__init__()
        self.a = SinLinear(3, 8, act="sin")

    def forward(self, x):
        h = self.a(x)
        return self.last(h * h)


OTHERS = (IsAsMade, InPlace, Generator, LongRange,
          LenOfShape, IsOfDtype, LenOfWeight, LenOfRows, Mangled, WritesOut, HoldsAnIterator, WritesToAnother,
          WritesToAPart, OwnList, FewerInList, OwnGetattribute, OwnFile, OfOurs)  # fmt: skip
