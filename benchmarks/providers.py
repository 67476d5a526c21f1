"""Who takes part: stock torch, what else a user could pick, and fusegrad."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fusegrad as fg
from fusegrad.activations import REGISTRY

# our names -> attr and algorithm of torch.ops.mkldnn._linear_pointwise
MKLDNN = {
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "sigmoid": ("sigmoid", ""),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
}
# max-autotune tries cuBLAS and Triton templates, and replays CUDA graphs: on a GPU it is the compiler's best
COMPILE_MODE = {"cpu": None, "cuda": "max-autotune"}


class Cannot(Exception):
    """Why a provider can't run a case."""


def needs_autograd(provider: str) -> None:
    """What a case that differentiates says first."""
    if provider == "mkldnn":
        raise Cannot("it has no autograd")


def providers(device: str) -> tuple[str, ...]:
    """The providers on a device, stock first."""
    mkldnn = ("mkldnn",) if device == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise") else ()
    return ("stock", "compile", *mkldnn, "fusegrad")


def compiled(fn: Callable, device: str) -> Callable:
    """fn under torch.compile, for the shapes it is first called with."""
    torch.compiler.reset()  # else a case counts against the recompile limit of the cases before it
    return torch.compile(fn, dynamic=False, mode=COMPILE_MODE[device])


def linear_act(provider: str, act: str, device: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(x, w, b) -> act(x w^T + b), as a function."""
    if provider == "fusegrad":
        return lambda x, w, b: fg.linear_act(x, w, b, act=act)
    if provider == "mkldnn":
        return _mkldnn(act)
    a = REGISTRY[act]
    f = partial(a.functions[0], **a.options) if a.options else a.functions[0]
    stock = lambda x, w, b: f(F.linear(x, w, b))
    return compiled(stock, device) if provider == "compile" else stock


def network(
    provider: str,
    widths: Sequence[int],  # of the input, of each layer
    act: str,
    device: str,
    *,
    like: torch.dtype,  # what the parameters are rounded to
    dtype: torch.dtype,  # what they are then stored in
    act_last: bool = False,
) -> tuple[Callable[[Tensor], Tensor], list[nn.Parameter]]:
    """An MLP with an activation between its layers, and its parameters: the same numbers for every provider."""
    torch.manual_seed(0)
    a = REGISTRY[act]
    assert a.module is not None, f"{act} has no module in torch"
    layers = list(pairwise(widths))
    acts = [act] * (len(layers) - 1) + [act if act_last else None]
    stock = nn.Sequential()
    for (k, n), name in zip(layers, acts, strict=True):
        stock.extend([nn.Linear(k, n)] + ([] if name is None else [a.module(**a.options)]))
    stock.to(like).to(device, dtype)
    parameters = list(stock.parameters())
    if provider == "stock":
        return stock, parameters
    if provider == "compile":
        return compiled(stock, device), parameters
    if provider == "mkldnn":
        w, b = parameters  # of one layer
        layer = _mkldnn(act)
        return lambda x: layer(x, w, b), parameters
    ours = nn.Sequential(*[fg.Linear(k, n, act=name) for (k, n), name in zip(layers, acts, strict=True)])
    ours.to(device, dtype)
    with torch.no_grad():
        for p, q in zip(ours.parameters(), parameters, strict=True):
            p.copy_(q)
    return ours, list(ours.parameters())


def normal(*shape: int, seed: int, like: torch.dtype, dtype: torch.dtype, device: str) -> Tensor:
    """Normally distributed numbers, rounded to `like`, stored in `dtype`: the same for every provider."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(like).to(device, dtype)


def _mkldnn(act: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if act not in MKLDNN:
        raise Cannot(f"it has no {act}")
    attr, algorithm = MKLDNN[act]
    return lambda x, w, b: torch.ops.mkldnn._linear_pointwise(x, w, b, attr, [], algorithm)
