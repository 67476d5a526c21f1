"""How long does a training step take whose loss has a Laplacian, by everything that a user could pick?

On one core, as two threads measure each other there: OMP_NUM_THREADS=1 taskset -c 0 python -m fusegrad bench laplacian.
The rivals: nested autograd, that step compiled as a whole, a forward Laplacian written by hand for this network and
compiled, and, where they are installed, JAX (jvp of grad) and folx.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad

import fusegrad as fg

from . import in_jax
from .harness import Case, Result, Step, gradients
from .providers import Cannot, network, normal

# points, widths, activation
NETWORKS = [
    (1000, (2, 32, 32, 32, 1), "tanh"),
    (1024, (3, 256, 256, 256, 1), "silu"),
    (3000, (2, 96, 96, 96, 96, 96, 1), "tanh"),
    (512, (10, 128, 128, 128, 1), "gelu"),
]
SMOKE = [(10, (2, 8, 8, 1), "tanh")]
BY_HAND = "by hand, compiled"
PROVIDERS = ("stock", "compile", BY_HAND, "jax", "folx", "fusegrad")
SECONDS = 6.0


def cases(device: str, smoke: bool) -> list[Case]:
    """In float32; ours is torch.nn.Sequential after fuse, and fusegrad.laplacian."""
    return [of_network(*network, device) for network in (SMOKE if smoke else NETWORKS)]


def of_network(
    n: int,
    widths: tuple[int, ...],
    act: str,
    device: str,
    dtype: torch.dtype = torch.float32,
    directions: int = 0,  # of each point its own, so many; 0 stands for the axes
    leave_out: tuple[str, ...] = (),
) -> Case:
    name = f"{n}: {'-'.join(map(str, widths))} {act}" + f", {directions} directions" * (directions > 0)
    return Case(name, dtype, partial(_build, n, widths, act, directions, device), leave_out)


def verdict(results: Sequence[Result]) -> str:
    """Against the best rival of each case, losses first."""
    lines = []
    for case in dict.fromkeys(r.case for r in results):
        of = {r.provider: r for r in results if r.case == case and not r.cannot}
        rivals = [r for name, r in of.items() if name != "fusegrad"]
        best = min(rivals, key=lambda r: r.ms)
        ratio = best.ms / of["fusegrad"].ms
        lines.append((ratio, f"  {ratio:.2f}  {case}: best rival {best.provider}, {best.ratio:.2f} of stock's speed"))
    lost = sum(ratio < 1 for ratio, _ in lines)
    said = f"fusegrad against the best rival: slower in {lost} of {len(lines)} cases; its speed over the rival's:"
    return "\n".join([said, *(line for _, line in sorted(lines))])


def residual(laplacian: Tensor, x: Tensor) -> Tensor:
    return (laplacian - x.sin().sum(1)).square().mean()


def nested(model: Callable[[Tensor], Tensor], along: Tensor | None, x: Tensor) -> Tensor:
    (du,) = grad(model(x).sum(), x, create_graph=True)
    if along is None:
        second = (grad(du[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1]))
    else:
        second = ((grad((du * v).sum(), x, create_graph=True)[0] * v).sum(1) for v in along)
    return residual(sum(second, torch.zeros_like(x[:, 0])), x)


def derivatives(act: str, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An activation with its first two derivatives, as one would write them."""
    if act == "tanh":
        y = torch.tanh(z)
        s = 1 - y * y
        return y, s, -2 * y * s
    if act == "sin":
        y = torch.sin(z)
        return y, torch.cos(z), -y
    if act == "silu":
        s = torch.sigmoid(z)
        p = s * (1 - s)
        return z * s, s + z * p, p * (2 + z * (1 - 2 * s))
    density = torch.exp(-0.5 * z * z) * 0.3989422804014327
    below = 0.5 * (1 + torch.erf(z * 0.7071067811865476))
    return z * below, below + z * density, density * (2 - z * z)


Streams = tuple[Tensor, Tensor, Tensor]  # a value, its derivatives along directions, and its Laplacian


def streams_of(x: Tensor, along: Tensor | None = None) -> Streams:
    n, d = x.shape
    axes = torch.eye(d, dtype=x.dtype, device=x.device).unsqueeze(1).expand(d, n, d)
    return x, axes if along is None else along, torch.zeros_like(x)


def layer_by_hand(of: Streams, w: Tensor, b: Tensor | None = None) -> Streams:
    """One product, of the rows of all."""
    y, t, second = of
    rows = torch.cat([y.unsqueeze(0), t, second.unsqueeze(0)]).reshape(-1, w.shape[1])
    made = (rows @ w.T).reshape(len(t) + 2, y.shape[0], -1)
    return made[0] if b is None else made[0] + b, made[1:-1], made[-1]


def act_by_hand(act: str, of: Streams) -> Streams:
    z, t, second = of
    y, first, curvature = derivatives(act, z)
    return y, first * t, first * second + curvature * t.square().sum(0)


def by_hand(model: nn.Sequential, act: str, along: Tensor | None, x: Tensor) -> Tensor:
    """Values, tangents and Laplacians of this network (arXiv:2307.08214)."""
    layers = [m for m in model if isinstance(m, nn.Linear)]
    of = streams_of(x, along)
    for i, layer in enumerate(layers):
        of = layer_by_hand(of, layer.weight, layer.bias)
        if i < len(layers) - 1:
            of = act_by_hand(act, of)
    return residual(of[2].squeeze(-1), x)


def _build(
    n: int, widths: tuple[int, ...], act: str, directions: int, device: str, provider: str, dtype: torch.dtype
) -> Step:
    like = torch.float32
    along = normal(directions, n, widths[0], seed=2, like=like, dtype=dtype, device=device) if directions else None
    x = normal(n, widths[0], seed=1, like=like, dtype=dtype, device=device)
    model, _ = network("stock", widths, act, device, like=like, dtype=dtype)
    assert isinstance(model, nn.Sequential)
    written = partial(by_hand, model, act, along)
    return step_of(provider, model, written, lambda: in_jax.network(act), along, x)


def step_of(
    provider: str,
    model: nn.Module,
    written: Callable[[Tensor], Tensor],  # the loss by hand
    for_jax: Callable[[], Any],  # the model in JAX, of its parameters and a point
    along: Tensor | None,
    x: Tensor,
) -> Step:
    """A training step of a provider."""
    parameters = list(model.parameters())
    if provider in ("jax", "folx"):
        in_jax.needs(x, "jax", provider)
        return _of_jax(provider, parameters, for_jax(), along, x)
    loss: Callable[[Tensor], Tensor]
    if provider == "fusegrad":
        model = fg.fuse(model)
        of_points = None if along is None else along.permute(1, 2, 0)
        loss = lambda x: residual(fg.laplacian(model, x, directions=of_points).laplacian.squeeze(-1), x)
    elif provider == BY_HAND:
        loss = torch.compile(written, dynamic=False)
    else:
        loss = partial(nested, model, along)
        x.requires_grad_()
    if provider == "compile":
        loss = with_autograd_traced(torch.compile(loss, fullgraph=True, dynamic=False))
    return training(loss, x, parameters)


def training(loss: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor]) -> Step:
    """A step that gives the loss and its gradients in the parameters."""

    def step() -> tuple[Tensor, ...]:
        for p in (x, *parameters):
            p.grad = None
        value = loss(x)
        value.backward()
        return value.detach(), *gradients(parameters)

    return Step(step, (x, *parameters))


def with_autograd_traced(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The compiler has to be told to take autograd.grad into its graph, when it makes it."""
    import torch._dynamo

    traced: list[bool] = []

    def run(x: Tensor) -> Tensor:
        if traced:
            return loss(x)
        traced.append(True)
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            return loss(x)

    return run


def _of_jax(provider: str, parameters: Sequence[Tensor], of_points: Any, along: Tensor | None, x: Tensor) -> Step:
    if provider == "folx" and along is not None:
        raise Cannot("along the axes only")
    import jax
    import jax.numpy as jnp

    points = in_jax.to_jax(x)
    net = lambda p, v: of_points(p, v)[0]

    def jvp_of_grad(p, v, s):
        first = jax.grad(lambda q: net(p, q))
        if s is not None:
            return jax.vmap(lambda t: jax.jvp(first, (v,), (t,))[1] @ t)(s).sum()
        return sum(jax.jvp(first, (v,), (axis,))[1][i] for i, axis in enumerate(jnp.eye(v.shape[0], dtype=v.dtype)))

    def forward(p, v, _):
        import folx

        return folx.forward_laplacian(lambda q: net(p, q), 0)(v).laplacian

    of = jvp_of_grad if provider == "jax" else forward
    own = None if along is None else in_jax.to_jax(along.movedim(0, 1))
    laplacians = lambda p: jax.vmap(lambda v, s: of(p, v, s))(points, own)
    loss = lambda p: jnp.mean((laplacians(p) - jnp.sin(points).sum(1)) ** 2)
    return in_jax.step(loss, parameters, x, independent=1)  # no Laplacian depends on the last bias
