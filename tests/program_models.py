"""Models whose source says all that they compute, and models that do more."""

import torch
import torch.nn.functional as F
from operator_models import ModifiedMLP
from torch import nn


class Blocks(nn.Module):
    """Sums around two layers, of modules that go together."""

    def __init__(self, width=9, n=2):
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, n)
        self.a = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.b = nn.ModuleList(nn.Linear(width, width, bias=i > 0) for i in range(2))
        self.act = nn.GELU()

    def forward(self, x):
        """With a docstring."""
        x = self.act(self.first(x))
        for a, b in zip(self.a, self.b, strict=True):
            x = x + torch.tanh(b(self.act(a(x))))
        return self.last(x)


class Block(nn.Module):
    def __init__(self, width, skip):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.skip, self.scale = skip, nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        y = self.net(x)
        if self.skip:
            return self.scale * y + (1 - self.scale) * x
        return y


class Nested(nn.Module):
    """Modules in modules, branches, a cat, one number a row without its dimension."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 5)
        self.blocks = nn.Sequential(*(Block(10, skip) for skip in (True, False, True)))
        self.last = nn.Linear(10, 1)

    def features(self, x, scale=2.0):
        z = scale * self.embed(x) - 0.5
        return torch.cat([torch.sin(z), -z], dim=-1)

    def forward(self, x):
        return self.last(self.blocks(self.features(x))).squeeze(-1)


def wave(z, omega=3.0):
    return torch.sin(omega * z) / 2


class Shared(nn.Module):
    """A layer that is used twice, products of what is alike and of what is not, squares, functions of a user's."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 7), nn.Linear(7, 7)

    def forward(self, x):
        x = wave(self.a(x))
        y = self.b(F.softplus(self.b(x) * x))
        return y * y - x**2 + (1.0 - x)


class Factored(nn.Module):
    """A weight that is computed, as in random weight factorisation."""

    def __init__(self, k, n):
        super().__init__()
        self.s, self.bias = (nn.Parameter(torch.rand(n)) for _ in range(2))
        self.v = nn.Parameter(torch.randn(n, k))

    def forward(self, x):
        return F.linear(x, self.s.exp()[:, None] * self.v, self.bias)


class Computed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Factored(3, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.c = nn.Linear(8, 1)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.c(h + torch.sigmoid(self.b(h)))


MODELS = {m.__name__: m for m in (Blocks, Nested, Shared, Computed, ModifiedMLP)}


class Around(nn.Module):
    """Cannot be read; what it holds is a chain, of weights that are computed."""

    def __init__(self):
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        layers = norm(nn.Linear(3, 8)), nn.Tanh(), norm(nn.Linear(8, 8)), nn.SiLU(), nn.Linear(8, 2)
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        y = self.net(x)
        return y.clone() + 1.0


class WritesInPlace(Blocks):
    def forward(self, x):
        x = self.act(self.first(x))
        y = x
        y += 1.0
        return self.last(torch.tanh(x))


class ActsInPlace(Blocks):
    def forward(self, x):
        x = self.first(x)
        y = F.silu(x, inplace=True)
        return self.last(x + y)


class ChangesWeights(Blocks):
    def forward(self, x):
        x = self.act(self.first(x))
        h = self.a[0](x)
        self.a[1].weight.data = self.a[0].weight.data * 2  # which no mode sees
        return self.last(h + self.a[1](x))


class Counts(Blocks):
    seen = 0

    def forward(self, x):
        self.seen += 1
        x = self.act(self.first(x))
        return self.last(x + self.a[0](x)) * self.seen


class HasAProperty(Blocks):
    @property
    def factor(self):
        self.act = nn.Tanh()
        return 2.0

    def forward(self, x):
        x = self.factor * self.act(self.first(x))
        return self.last(x + self.a[0](x))


class Decorated(Blocks):
    @torch.no_grad()
    def features(self, x):
        return self.first(x)

    def forward(self, x):
        return self.last(torch.tanh(self.features(x)) + torch.tanh(self.first(x)))


def hooked(model):
    model.a[0].register_forward_hook(lambda m, args, y: 2 * y)


def replaced(model):
    model.a[0].forward = lambda x: 3 * x


REFUSED = WritesInPlace, ActsInPlace, ChangesWeights, Counts, HasAProperty, Decorated
REFUSED = {c.__name__: (c, lambda m: None) for c in REFUSED}
REFUSED |= {"hooked": (Blocks, hooked), "replaced": (Blocks, replaced)}
