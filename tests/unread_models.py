"""Models of points (..., 3) that it would be wrong to read as if they were those of reading_models.py."""

import itertools
import types

import torch
import torch.nn.functional as F
from reading_models import Base
from torch import nn

import fusegrad as fg


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


class GoesThroughTwice(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        pairs = zip(self.layers, (0.3, 0.4, 0.5))  # noqa: B905
        for _ in range(2):
            for layer, s in pairs:
                h = h + s * torch.sin(layer(h))
        return self.last(h)


class GrowsMeanwhile(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        steps = [0.3, 0.4]
        for s in steps:
            h = h + s * torch.sin(self.b(h))
            if len(steps) < 4:
                steps.append(s)
        return self.last(h)


class GrowsForEver(Base):
    def __init__(self):
        super().__init__()
        self.seen = [1.0]

    def forward(self, x):
        self.seen.append(2.0)
        return self.last(torch.tanh(self.a(x)) * self.b(torch.sin(self.a(x))) * len(self.seen))


class OfASlice(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        if isinstance(self.layers[1:], nn.ModuleList):
            h = h + torch.sin(self.b(h))
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


class LazyGenerator(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        parts = (torch.sin(layer(h)) for layer in self.layers)
        h = h * 2.0
        return self.last(sum(parts))


class LazyInZip(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        for layer, s in zip(self.layers, (torch.sin(self.b(h)) for _ in range(3)), strict=True):
            h = torch.tanh(layer(h)) * s
        return self.last(h)


class OtherCall(Base):
    def __init__(self, name="_call_impl"):
        super().__init__()
        setattr(self.b, name, lambda z: torch.sin(self.c(z)))

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.last(h * self.b(h))


class CompiledCall(OtherCall):
    def __init__(self):
        super().__init__("_compiled_call_impl")


class OutOfOrder(Base):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList()
        self.layers.add_module("1", nn.Linear(8, 8))
        self.layers.add_module("0", nn.Linear(8, 8))

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.last(h * torch.sin(self.layers[0](h)))


class IsASize(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        if isinstance(x.shape, torch.Size) and isinstance(x.shape[:1], torch.Size):
            h = h * self.b(h)
        return self.last(h)


OTHERS = (LazyGenerator, LazyInZip, OtherCall, CompiledCall, OutOfOrder, IsASize,
          GoesThroughTwice, GrowsMeanwhile, GrowsForEver, OfASlice, IsAsMade, InPlace, Generator, LongRange,
          LenOfShape, IsOfDtype, LenOfWeight, LenOfRows, Mangled, WritesOut, HoldsAnIterator, WritesToAnother,
          WritesToAPart, OwnList, FewerInList, OwnGetattribute, OwnFile, OfOurs)  # fmt: skip
