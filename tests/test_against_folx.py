"""Laplacians of networks drawn at random: those of JAX's folx, and of nested autograd, in float64.

In float32 ours is at most twice as far from these as nested autograd is. Runs where JAX and folx are installed.
"""

import random
from itertools import pairwise

import pytest
import torch
from nested import hessians
from torch import Tensor, nn

import fusegrad as fg

jax = pytest.importorskip("jax")
folx = pytest.importorskip("folx")
jnp = jax.numpy

ACTS = {
    "tanh": (nn.Tanh, jnp.tanh),
    "silu": (nn.SiLU, jax.nn.silu),
    "gelu": (nn.GELU, lambda z: jax.nn.gelu(z, approximate=False)),
    "gelu_tanh": (lambda: nn.GELU(approximate="tanh"), jax.nn.gelu),
    "softplus": (nn.Softplus, jax.nn.softplus),
    "sigmoid": (nn.Sigmoid, jax.nn.sigmoid),
}
KINDS = "axes", "directions", "drift", "directions and drift"
SEEDS = range(12)


class Drawn:
    """A network of d numbers to n, points, and along what: numbers that float32 has, in float64."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        g = torch.Generator().manual_seed(seed)
        normal = lambda *shape: torch.randn(*shape, generator=g).double()
        self.act = draw.choice(list(ACTS))
        self.kind = KINDS[seed % len(KINDS)]
        d, n = draw.randint(1, 7), draw.choice((1, 1, 2, 3))
        widths = [d, *(draw.randint(1, 150) for _ in range(draw.randint(1, 5))), n]
        torch.manual_seed(seed)
        parts = [part for k, m in pairwise(widths) for part in (nn.Linear(k, m), ACTS[self.act][0]())]
        self.net = nn.Sequential(*parts[:-1]).double()
        with torch.no_grad():
            for p in self.net.parameters():
                p.copy_((normal(*p.shape) / (p.shape[-1] ** 0.5 if p.dim() > 1 else 3)).float())
        self.x = normal(draw.randint(1, 120), d)
        self.s = normal(d, draw.randint(1, 4)) if "directions" in self.kind else torch.eye(d, dtype=torch.float64)
        self.b = normal(d) if "drift" in self.kind else None
        self.weight = normal(len(self.x), n)  # of the loss

    def __repr__(self) -> str:
        layers = [m for m in self.net if isinstance(m, nn.Linear)]
        widths = "-".join(map(str, (self.x.shape[1], *(m.out_features for m in layers))))
        return f"{len(self.x)}: {widths} {self.act}, {self.kind}"

    def to(self, dtype: torch.dtype) -> tuple[nn.Sequential, Tensor, Tensor, Tensor | None, Tensor]:
        b = None if self.b is None else self.b.to(dtype)
        return self.net.to(dtype), self.x.to(dtype), self.s.to(dtype), b, self.weight.to(dtype)

    def results(self, laplacian: Tensor, first: Tensor) -> list[Tensor]:
        """The operator, and what it adds to the gradients of the weights by which it depends on them."""
        weights = list(self.net.parameters())[:-1]  # no derivative depends on the last bias
        loss = (laplacian * self.weight.to(laplacian.dtype)).square().sum() + first.sin().sum()
        return [laplacian.detach(), first.detach(), *torch.autograd.grad(loss, weights)]


def by_fusegrad(of: Drawn, dtype: torch.dtype) -> list[Tensor]:
    net, x, s, b, _ = of.to(dtype)
    r = fg.laplacian(net, x, directions=None if of.kind in ("axes", "drift") else s, drift=b)
    return of.results(r.laplacian, r.jacobian)


def by_nested(of: Drawn, dtype: torch.dtype) -> list[Tensor]:
    net, x, s, b, _ = of.to(dtype)
    _, jacobian, hessian = hessians(net, x.requires_grad_())
    along = torch.einsum("pnij,ir,jr->pn", hessian, s, s)
    return of.results(along if b is None else along + jacobian @ b, jacobian @ s)


def by_folx(of: Drawn) -> list[Tensor]:
    """In float64. Along directions s the Laplacian is that of u(x + s q) in q, at 0."""
    net, x, s, b, weight = of.to(torch.float64)
    f, to = ACTS[of.act][1], lambda t: jnp.asarray(t.detach().numpy())
    parameters = [to(p) for p in net.parameters()]

    def u(p, v):
        layers = list(zip(p[::2], p[1::2], strict=True))
        for w, bias in layers[:-1]:
            v = f(w @ v + bias)
        return layers[-1][0] @ v + layers[-1][1]

    def of_point(p, v):
        found = folx.forward_laplacian(lambda q: u(p, v + to(s) @ q), 0)(jnp.zeros(s.shape[1]))
        first = found.jacobian.dense_array.T.reshape(-1, s.shape[1])
        moved = 0 if b is None else jax.jvp(lambda v: u(p, v), (v,), (to(b),))[1]
        return found.laplacian + moved, first

    def loss(p):
        second, first = jax.vmap(lambda v: of_point(p, v))(to(x))
        return jnp.sum((second * to(weight)) ** 2) + jnp.sum(jnp.sin(first)), (second, first)

    (_, made), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(parameters)
    return [torch.from_numpy(jnp.asarray(t).__array__().copy()) for t in (*made, *grads[:-1])]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_laplacian(seed):
    of = Drawn(seed)
    with jax.enable_x64(True):
        truth = by_folx(of)
    nested, stock = by_nested(of, torch.float64), by_nested(of, torch.float32)
    for change in (lambda net: net, fg.fuse):
        change(of.net)
        exact, ours = by_fusegrad(of, torch.float64), by_fusegrad(of, torch.float32)
        for of_folx, of_nested, mine in zip(truth, nested, exact, strict=True):
            assert (of_folx - of_nested).norm() <= 1e-11 * of_nested.norm(), of
            assert (mine - of_folx).norm() <= 1e-11 * of_folx.norm(), of
        for of_folx, of_stock, mine in zip(truth, stock, ours, strict=True):
            error, of_nested = ((t.double() - of_folx).norm() for t in (mine, of_stock))
            assert error <= 2 * of_nested + 4 * torch.finfo(torch.float32).eps * of_folx.norm(), of
