"""Networks in JAX, a rival where it is installed: on a CPU, in float32."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .harness import Step
from .providers import Cannot


def needs(tensor: Tensor, *packages: str) -> None:
    """What a case says first."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise Cannot(f"{name} is not installed")
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
        raise Cannot("float32 on a CPU only")


def to_jax(tensor: Tensor) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(tensor.detach().numpy())


def to_torch(array: Any) -> Tensor:
    import numpy

    return torch.from_numpy(numpy.array(array))


def network(act: str) -> Callable[[Sequence[Any], Any], Any]:
    """(w_1, b_1, ...), x (..., k) -> the output of an MLP."""
    import jax
    import jax.numpy as jnp

    own = {"tanh": jnp.tanh, "gelu": lambda z: jax.nn.gelu(z, approximate=False)}
    f = own[act] if act in own else getattr(jax.nn, act)

    def net(p, v):
        layers = list(zip(p[::2], p[1::2], strict=True))
        for w, b in layers[:-1]:
            v = f(v @ w.T + b)
        return v @ layers[-1][0].T + layers[-1][1]

    return net


def step(loss: Callable[[Sequence[Any]], Any], parameters: Sequence[Tensor], x: Tensor, independent: int = 0) -> Step:
    """A loss and its gradients as one compiled function: but of the last parameters, of which it is independent."""
    import jax

    of, weights = jax.jit(jax.value_and_grad(loss)), [to_jax(p) for p in parameters]
    count = len(weights) - independent

    def run() -> tuple[Tensor, ...]:
        value, found = jax.block_until_ready(of(weights))
        return torch.tensor(float(value)), *(to_torch(g) for g in found[:count])

    return Step(run, (x, *parameters))
