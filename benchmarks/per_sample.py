"""How long do the gradients of each sample take: of a batch, by torch.func, vmap of grad?

These are megabytes that come and go: all providers have a process of their own, as what glibc gives back to the system
depends on what else is done in one. On one core: OMP_NUM_THREADS=1 taskset -c 0 python -m fusegrad bench per_sample.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import fusegrad as fg

from . import in_jax
from .elsewhere import KEPT, elsewhere, with_memory_kept
from .harness import Case, Step
from .providers import OURS_COMPILED, compiled, network, normal

# rows, widths, activation
NETWORKS: list[tuple[int, tuple[int, ...], str]] = [
    (48, (160, 224, 224, 10), "gelu"),
    (64, (784, 128, 64, 10), "relu"),
    (256, (64, 128, 64, 10), "silu"),
    (32, (64, 64, 64, 10), "tanh"),
]
PROVIDERS = ("stock", "compile", "jax", "fusegrad", OURS_COMPILED, *KEPT)
COMPILE_SECONDS = {"compile": 120.0, OURS_COMPILED: 120.0}
SMOKE: list[tuple[int, tuple[int, ...], str]] = [(10, (3, 8, 1), "tanh")]


def cases(device: str, smoke: bool) -> list[Case]:
    """Networks in float32, ours torch.nn.Sequential after fuse; a sample is one row of a batch."""
    return [_case(*given, device) for given in (SMOKE if smoke else NETWORKS)]


def _case(rows: int, widths: tuple[int, ...], act: str, device: str) -> Case:
    name = f"per sample {'→'.join(map(str, widths))} {act}, {rows} samples"
    return Case(name, torch.float32, partial(_in_its_process, device, rows, widths, act))


def _in_its_process(
    device: str, rows: int, widths: tuple[int, ...], act: str, provider: str, dtype: torch.dtype
) -> Step:
    build = partial(_build, device, rows, widths, act)
    if dtype != torch.float32:
        return build(provider, dtype)  # the truth
    return with_memory_kept(build, provider, dtype) if provider in KEPT else elsewhere(build, provider, dtype)


def _build(device: str, rows: int, widths: tuple[int, ...], act: str, provider: str, dtype: torch.dtype) -> Step:
    like = torch.float32
    given, parameters = network("stock", widths, act, device, like=like, dtype=dtype)
    assert isinstance(given, nn.Module)
    model = fg.fuse(given) if provider in ("fusegrad", OURS_COMPILED) else given
    x = normal(rows, widths[0], seed=1, like=like, dtype=dtype, device=device)
    target = normal(rows, widths[-1], seed=2, like=like, dtype=dtype, device=device)
    if provider == "jax":
        return _of_jax(act, parameters, x, target)
    held = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return (functional_call(model, p, (x[None],)) - target[None]).square().mean()

    of_each = vmap(grad(loss), in_dims=(None, 0, 0))
    if provider in ("compile", OURS_COMPILED):
        of_each = compiled(of_each, "compile")
    return Step(lambda: (*of_each(held, x, target).values(),), (x, target, *parameters))


def _of_jax(act: str, parameters: list[nn.Parameter], x: Tensor, target: Tensor) -> Step:
    in_jax.needs(x, "jax")
    import jax
    import jax.numpy as jnp

    net = in_jax.network(act)
    of_each = jax.jit(jax.vmap(jax.grad(lambda p, x, t: jnp.mean((net(p, x) - t) ** 2)), in_axes=(None, 0, 0)))
    given = [in_jax.to_jax(p) for p in parameters], in_jax.to_jax(x), in_jax.to_jax(target)

    def step() -> tuple[Tensor, ...]:
        return tuple(in_jax.to_torch(g) for g in jax.block_until_ready(of_each(*given)))

    return Step(step, (x, target, *parameters))
