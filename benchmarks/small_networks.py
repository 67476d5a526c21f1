"""How fast are networks so small that calls and passes cost more than products: a training step, and inference?

On one core, as two threads measure each other there: OMP_NUM_THREADS=1 taskset -c 0 python -m fusegrad bench
small_networks.
"""

from functools import partial

import torch

import fusegrad as fg

from . import in_jax
from .elsewhere import KEPT, with_memory_kept
from .harness import Case, Step
from .mlp_training import training
from .providers import COMPILE_MODES, network, normal

# rows, widths, activation: of PINNs, force fields, policies, classifiers
NETWORKS: list[tuple[int, tuple[int, ...], str]] = [
    (64, (8, 64, 64, 4), "tanh"),
    (32, (16, 32, 32, 1), "tanh"),
    (1000, (2, 20, 20, 20, 1), "tanh"),
    (2048, (3, 64, 64, 64, 64, 1), "silu"),
    (128, (784, 128, 64, 10), "relu"),
    (64, (4, 64, 64, 2), "tanh"),
    (256, (17, 256, 256, 6), "relu"),
    (77, (11, 200, 150, 3), "gelu"),
    (500, (3, 128, 128, 128, 1), "softplus"),
    (3000, (2, 96, 96, 96, 1), "tanh"),
    (1024, (20, 256, 256, 256, 1), "silu"),
    (300, (440, 440, 440, 440), "tanh"),
]
PROVIDERS = ("stock", *COMPILE_MODES, "stock, memory kept", "jax", "fusegrad")
COMPILE_SECONDS = {"max-autotune": 60.0}
# as wide as one kernel of a GPU serves, in 16 bits: radiance fields, policies, collocation points by the thousand
ON_GPU: list[tuple[int, tuple[int, ...], str]] = [
    (4096, (32, 64, 64, 16), "relu"),
    (65536, (32, 64, 64, 64, 3), "relu"),
    (65536, (16, 128, 128, 128, 128, 1), "silu"),
    (1024, (17, 128, 128, 6), "tanh"),
    (262144, (32, 32, 32, 1), "gelu"),
]
SMOKE: list[tuple[int, tuple[int, ...], str]] = [(10, (3, 8, 1), "tanh")]


def cases(device: str, smoke: bool) -> list[Case]:
    """Training in float32 and float64, inference in float32; ours is torch.nn.Sequential after fuse.

    On a GPU in bfloat16 too, and of networks that one kernel serves in 16 bits.
    """
    kinds = [("train", torch.float32), ("train", torch.float64), ("infer", torch.float32)]
    if device == "cuda":
        kinds = [("train", torch.bfloat16), ("infer", torch.bfloat16), *kinds]
    return [
        case(what, rows, widths, act, like, device)
        for what, like in kinds
        for rows, widths, act in (SMOKE if smoke else [*(ON_GPU if like == torch.bfloat16 else ()), *NETWORKS])
    ]


def case(what: str, rows: int, widths: tuple[int, ...], act: str, like: torch.dtype, device: str) -> Case:
    """A network that trains, or infers."""
    build = partial(_build, what == "train", device, rows, widths, act, like)
    name = f"{what} {'→'.join(map(str, widths))} {act}, {rows} rows"
    return Case(name, like, build)


def _build(train: bool, device, rows, widths, act, like, provider, dtype) -> Step:
    if provider in KEPT:
        return with_memory_kept(partial(_build, train, device, rows, widths, act, like), provider, dtype)
    if provider == "jax":
        return _of_jax(train, rows, widths, act, like, dtype)
    return (_training if train else _inference)(device, rows, widths, act, like, provider, dtype)


def _model(provider: str, device: str, widths: tuple[int, ...], act: str, like: torch.dtype, dtype: torch.dtype):
    ours = provider == "fusegrad"
    model, parameters = network("stock" if ours else provider, widths, act, device, like=like, dtype=dtype)
    return fg.fuse(model) if ours else model, parameters  # type: ignore[arg-type]  # stock is a Sequential


def _training(device, rows, widths, act, like, provider, dtype) -> Step:
    model, parameters = _model(provider, device, widths, act, like, dtype)
    x = normal(rows, widths[0], seed=1, like=like, dtype=dtype, device=device)
    target = normal(rows, widths[-1], seed=2, like=like, dtype=dtype, device=device)
    return training(model, parameters, x, target)


def _inference(device, rows, widths, act, like, provider, dtype) -> Step:
    model, parameters = _model(provider, device, widths, act, like, dtype)
    x = normal(rows, widths[0], seed=1, like=like, dtype=dtype, device=device)

    def step() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return (model(x),)

    return Step(step, (x, *parameters))


def _of_jax(train, rows, widths, act, like, dtype) -> Step:
    x = normal(rows, widths[0], seed=1, like=like, dtype=dtype, device="cpu")
    in_jax.needs(x, "jax")
    import jax
    import jax.numpy as jnp

    _, parameters = network("stock", widths, act, "cpu", like=like, dtype=dtype)
    net, points = in_jax.network(act), in_jax.to_jax(x)
    if train:
        target = in_jax.to_jax(normal(rows, widths[-1], seed=2, like=like, dtype=dtype, device="cpu"))
        return in_jax.step(lambda p: jnp.mean((net(p, points) - target) ** 2), parameters, x)
    infer, weights = jax.jit(net), [in_jax.to_jax(p) for p in parameters]
    return Step(lambda: (in_jax.to_torch(infer(weights, points)),), (x, *parameters))
