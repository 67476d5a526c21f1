"""The same step of networks that are more than layers in a row: residual sums, gates, computed weights, embeddings.

The rivals and the rest are those of laplacian.py; each network is written once as its users write it, and once for a
forward Laplacian by hand and for JAX.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .harness import Case, Step
from .laplacian import (
    PROVIDERS,
    SECONDS,
    Streams,
    act_by_hand,
    layer_by_hand,
    residual,
    step_of,
    streams_of,
    verdict,
)
from .providers import normal

__all__ = ["PROVIDERS", "SECONDS", "cases", "verdict"]
COMPILE_SECONDS = {"compile": 120.0, "by hand, compiled": 120.0}


def cases(device: str, smoke: bool) -> list[Case]:
    """In float32; ours is the model after fuse, and fusegrad.laplacian."""
    made = []
    for cls in (Residual, Gated, WeightNorm, Factorised, Siren, Periodic):
        n, d, width = (10, 2, 8) if smoke else (1000, 2, 128 if cls is Residual else 64)
        made.append(Case(f"{n}: {cls.about}, {width} wide", torch.float32, partial(_build, cls, n, d, width, device)))
    return made


class Network(nn.Module):
    """A model, and `by`, which computes the same with functions that are given, of parameters as the model has them."""

    about = ""

    @staticmethod
    def by(f: Any, p: Sequence[Any], x: Any) -> Any:
        raise NotImplementedError


def _pairs(p: Sequence[Any], of: int = 2) -> list[tuple[Any, ...]]:
    return [tuple(p[i : i + of]) for i in range(0, len(p), of)]


class Residual(Network):
    about = "residual, 3 blocks of 2 tanh"

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(d, width)
        self.a, self.b = (nn.ModuleList(nn.Linear(width, width) for _ in range(3)) for _ in range(2))
        self.last = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        for a, b in zip(self.a, self.b, strict=True):
            h = h + torch.tanh(b(torch.tanh(a(h))))
        return self.last(h)

    @staticmethod
    def by(f: Any, p: Sequence[Any], x: Any) -> Any:
        first, *inner, last = _pairs(p)
        h = f.tanh(f.linear(x, *first))
        for a, b in zip(inner[:3], inner[3:], strict=True):
            h = f.add(h, f.tanh(f.linear(f.tanh(f.linear(h, *a)), *b)))
        return f.linear(h, *last)


class Gated(Network):
    """The modified MLP of Wang, Teng & Perdikaris, arXiv:2001.04536."""

    about = "gated, 3 layers of tanh"

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.u, self.v, self.first = (nn.Linear(d, width) for _ in range(3))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v, z = torch.tanh(self.u(x)), torch.tanh(self.v(x)), torch.tanh(self.first(x))
        for layer in self.inner:
            h = torch.tanh(layer(z))
            z = h * u + (1 - h) * v
        return self.last(z)

    @staticmethod
    def by(f: Any, p: Sequence[Any], x: Any) -> Any:
        u, v, first, *inner, last = _pairs(p)
        u, v, z = (f.tanh(f.linear(x, *layer)) for layer in (u, v, first))
        for layer in inner:
            h = f.tanh(f.linear(z, *layer))
            z = f.add(f.mul(h, u), f.mul(f.affine(h, -1.0, 1.0), v))
        return f.linear(z, *last)


class WeightNorm(Network):
    about = "weight norm, 3 layers of tanh"

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential()
        for k, n in pairwise((d, width, width, width)):
            self.net.extend([nn.utils.parametrizations.weight_norm(nn.Linear(k, n)), nn.Tanh()])
        self.net.append(nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    @staticmethod
    def by(f: Any, p: Sequence[Any], x: Any) -> Any:
        for b, g, v in _pairs(p[:-2], 3):
            x = f.tanh(f.linear(x, g * v / ((v * v).sum(1) ** 0.5)[:, None], b))
        return f.linear(x, *p[-2:])


class Factor(nn.Module):
    """A layer with random weight factorisation, Wang et al., arXiv:2210.01274."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.s = nn.Parameter(1.0 + 0.1 * torch.randn(n))
        self.v = nn.Parameter(torch.randn(n, k) * (2 / (n + k)) ** 0.5 / self.s.detach().exp()[:, None])
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch.exp(self.s)[:, None] * self.v, self.bias)


class Factorised(Network):
    about = "random weight factorisation, 3 layers of tanh"

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Factor(k, n) for k, n in pairwise((d, width, width, width)))
        self.last = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.last(x)

    @staticmethod
    def by(f: Any, p: Sequence[Any], x: Any) -> Any:
        for s, v, b in _pairs(p[:-2], 3):
            x = f.tanh(f.linear(x, f.exp(s)[:, None] * v, b))
        return f.linear(x, *p[-2:])


class Siren(Network):
    """Sitzmann et al., arXiv:2006.09661."""

    about = "SIREN, 3 layers of sin"

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(k, n) for k, n in pairwise((d, width, width, width)))
        self.last = nn.Linear(width, 1)
        for i, layer in enumerate(self.layers):
            bound = 1 / d if i == 0 else (6 / width) ** 0.5 / 30
            nn.init.uniform_(layer.weight, -bound, bound)  # type: ignore[arg-type]  # a layer of a list has any type

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(30.0 * layer(x))
        return self.last(x)

    @staticmethod
    def by(f: Any, p: Sequence[Any], x: Any) -> Any:
        *layers, last = _pairs(p)
        for w, b in layers:
            x = f.sin(f.linear(x, 30.0 * w, 30.0 * b))
        return f.linear(x, *last)


class Periodic(Network):
    """Periodic in the first feature, which is split off."""

    about = "periodic embedding, 3 layers of tanh"

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(k, n) for k, n in pairwise((d + 1, width, width, width)))
        self.last = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, rest = x[:, :1], x[:, 1:]
        h = torch.cat([torch.cos(u), torch.sin(u), rest], dim=1)
        for layer in self.layers:
            h = torch.tanh(layer(h))
        return self.last(h)

    @staticmethod
    def by(f: Any, p: Sequence[Any], x: Any) -> Any:
        *layers, last = _pairs(p)
        u, rest = f.part(x, 0, 1), f.part(x, 1, None)
        h = f.cat([f.sin(f.affine(u, 1.0, 0.5 * torch.pi)), f.sin(u), rest])
        for layer in layers:
            h = f.tanh(f.linear(h, *layer))
        return f.linear(h, *last)


def _product(a: Streams, b: Streams) -> Streams:
    (y, ty, ly), (z, tz, lz) = a, b
    return y * z, y * tz + z * ty, y * lz + z * ly + 2 * (ty * tz).sum(0)


BY_HAND = SimpleNamespace(
    linear=layer_by_hand,
    tanh=partial(act_by_hand, "tanh"),
    sin=partial(act_by_hand, "sin"),
    exp=torch.exp,
    add=lambda a, b: tuple(p + q for p, q in zip(a, b, strict=True)),
    mul=_product,
    affine=lambda a, alpha, beta: (alpha * a[0] + beta, alpha * a[1], alpha * a[2]),
    part=lambda a, start, end: tuple(s[..., start:end] for s in a),
    cat=lambda parts: tuple(torch.cat(s, -1) for s in zip(*parts, strict=True)),
)


def _for_jax() -> SimpleNamespace:
    import jax.numpy as jnp

    return SimpleNamespace(
        linear=lambda x, w, b: x @ w.T + b,
        tanh=jnp.tanh,
        sin=jnp.sin,
        exp=jnp.exp,
        add=lambda a, b: a + b,
        mul=lambda a, b: a * b,
        affine=lambda a, alpha, beta: alpha * a + beta,
        part=lambda a, start, end: a[..., start:end],
        cat=lambda parts: jnp.concatenate(parts, -1),
    )


def _build(cls: type[Network], n: int, d: int, width: int, device: str, provider: str, dtype: torch.dtype) -> Step:
    torch.manual_seed(0)
    make: Callable[[int, int], Network] = cls
    model = make(d, width).to(device, torch.float32).to(dtype)
    x = normal(n, d, seed=1, like=torch.float32, dtype=dtype, device=device)

    def written(x: Tensor) -> Tensor:
        return residual(cls.by(BY_HAND, list(model.parameters()), streams_of(x))[2].squeeze(-1), x)

    return step_of(provider, model, written, lambda: partial(cls.by, _for_jax()), None, x)
