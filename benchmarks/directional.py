"""How long does a training step take whose loss has a derivative along a direction, of the first to fourth order?

On one core, as two threads measure each other there:
OMP_NUM_THREADS=1 taskset -c 0 python -m fusegrad bench directional
The rivals: nested autograd, that step compiled as a whole, Taylor mode written by hand for this network and compiled,
and, where it is installed, JAX (nested jvp, and jax.experimental.jet).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from . import in_jax
from .harness import Case, Step
from .laplacian import BY_HAND, training, verdict, with_autograd_traced
from .providers import network, normal

__all__ = ["PROVIDERS", "SECONDS", "cases", "verdict"]

PROVIDERS = ("stock", "compile", BY_HAND, "jax", "jax jet", "fusegrad")
SECONDS = 6.0
# points, widths, activation, order
NETWORKS = [
    *((1000, (2, 32, 32, 32, 1), "tanh", order) for order in (1, 2, 3, 4)),
    (1000, (2, 64, 64, 64, 1), "tanh", 4),
    (512, (3, 128, 128, 128, 1), "silu", 3),
    (512, (2, 128, 128, 128, 1), "tanh", 4),
    (256, (2, 64, 64, 1), "gelu", 4),
]
SMOKE = [(10, (2, 8, 8, 1), "tanh", 3)]
# y_k is the sum of c f_j z_a z_b ... of (j, c, (a, b, ...))
BELL: dict[int, list[tuple[int, int, tuple[int, ...]]]] = {
    1: [(1, 1, (1,))],
    2: [(1, 1, (2,)), (2, 1, (1, 1))],
    3: [(1, 1, (3,)), (2, 3, (1, 2)), (3, 1, (1, 1, 1))],
    4: [(1, 1, (4,)), (2, 4, (1, 3)), (2, 3, (2, 2)), (3, 6, (1, 1, 2)), (4, 1, (1, 1, 1, 1))],
}


def cases(device: str, smoke: bool) -> list[Case]:
    """In float32; ours is torch.nn.Sequential after fuse, and fusegrad.directional."""
    return [
        Case(f"{n}: {'-'.join(map(str, widths))} {act}, order {order}", torch.float32,
             partial(_build, n, widths, act, order, device), ("compile",) if order > 3 else ())
        for n, widths, act, order in (SMOKE if smoke else NETWORKS)
    ]  # fmt: skip


def residual(y: Tensor, x: Tensor) -> Tensor:
    return (y - x.sin().sum(1)).square().mean()


def nested(model: Callable[[Tensor], Tensor], v: Tensor, order: int, x: Tensor) -> Tensor:
    y = model(x).squeeze(-1)
    for _ in range(order):
        y = grad(y.sum(), x, create_graph=True)[0] @ v
    return residual(y, x)


def derivatives(act: str, z: Tensor, order: int) -> list[Tensor]:
    """An activation with its first derivatives, as one would write them."""
    if act == "tanh":
        y = torch.tanh(z)
        s = 1 - y * y
        return [y, s, -2 * y * s, s * (6 * y * y - 2), 8 * y * s * (2 - 3 * y * y)][: order + 1]
    if act == "silu":
        s = torch.sigmoid(z)
        p, r = s * (1 - s), 1 - 2 * s
        q, t = p * r, p * (1 - 6 * p)  # the second and third derivatives of s
        return [z * s, s + z * p, 2 * p + z * q, 3 * q + z * t, 4 * t + z * q * (1 - 12 * p)][: order + 1]
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    below, u = 0.5 * (1 + torch.erf(z * math.sqrt(0.5))), z * z
    higher = [density * (2 - u), density * z * (u - 4), density * ((7 - u) * u - 4)]
    return [z * below, below + z * density, *higher][: order + 1]


def by_hand(model: nn.Sequential, act: str, v: Tensor, order: int, x: Tensor) -> Tensor:
    """Taylor mode (Griewank & Walther, Evaluating Derivatives, chapter 13): one product a layer, of the rows of all."""
    layers = [m for m in model if isinstance(m, nn.Linear)]
    of = torch.stack([x, v.expand_as(x), *(torch.zeros_like(x) for _ in range(order - 1))])
    for i, layer in enumerate(layers):
        of = (of.reshape(-1, of.shape[-1]) @ layer.weight.T).reshape(order + 1, x.shape[0], -1)
        if i < len(layers) - 1:  # of the last no derivative depends on the bias
            z, *dz = of
            f = derivatives(act, z + layer.bias, order)
            made = [f[0]]
            for k in range(1, order + 1):
                total = torch.zeros_like(z)
                for j, c, parts in BELL[k]:
                    term = c * f[j]
                    for part in parts:
                        term = term * dz[part - 1]
                    total = total + term
                made.append(total)
            of = torch.stack(made)
    return residual(of[-1].squeeze(-1), x)


def _build(
    n: int, widths: tuple[int, ...], act: str, order: int, device: str, provider: str, dtype: torch.dtype
) -> Step:
    like = torch.float32
    x = normal(n, widths[0], seed=1, like=like, dtype=dtype, device=device)
    v = normal(widths[0], seed=2, like=like, dtype=dtype, device=device)
    model, _ = network("stock", widths, act, device, like=like, dtype=dtype)
    assert isinstance(model, nn.Sequential)
    parameters = list(model.parameters())
    if provider.startswith("jax"):
        in_jax.needs(x, "jax")
        return _of_jax(provider, parameters, in_jax.network(act), v, order, x)
    loss: Callable[[Tensor], Tensor]
    if provider == "fusegrad":
        model = fg.fuse(model)
        loss = lambda x: residual(fg.directional(model, x, v, order=order)[order].squeeze(-1), x)
    elif provider == BY_HAND:
        loss = torch.compile(partial(by_hand, model, act, v, order), fullgraph=True, dynamic=False)
    else:
        loss = partial(nested, model, v, order)
        x.requires_grad_()
    if provider == "compile":
        loss = with_autograd_traced(torch.compile(loss, fullgraph=True, dynamic=False))
    return training(loss, x, parameters)


def _of_jax(provider: str, parameters: Sequence[Tensor], net: Any, v: Tensor, order: int, x: Tensor) -> Step:
    import jax
    import jax.numpy as jnp
    from jax.experimental import jet

    points = in_jax.to_jax(x)
    along = jnp.broadcast_to(in_jax.to_jax(v), points.shape)

    def once(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda z: jax.jvp(f, (z,), (along,))[1]

    def highest(f: Callable[[Any], Any]) -> Any:
        if provider == "jax jet":
            return jet.jet(f, (points,), ((along, *(jnp.zeros_like(along) for _ in range(order - 1))),))[1][-1]
        for _ in range(order):
            f = once(f)
        return f(points)

    def loss(p: Sequence[Any]) -> Any:
        return jnp.mean((highest(lambda z: net(p, z))[:, 0] - jnp.sin(points).sum(1)) ** 2)

    return in_jax.step(loss, parameters, x, independent=1)  # no derivative depends on the last bias
