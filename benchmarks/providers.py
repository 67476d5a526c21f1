"""Who takes part: stock torch, what else a user could pick, and fusegrad.

QuACK's GEMMs have an epilogue with bias and activation. It differentiates that once, and only where another linear
layer follows: so it computes a layer without gradients, and an MLP of two layers. Liger has no part: its layers have no
activation, and its MLPs are gated.
"""

import importlib.util
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
# our names -> QuACK's
QUACK = {"gelu_tanh": "gelu_tanh_approx", "relu": "relu", "silu": "silu", "tanh": "tanh"}
QUACK_ALIGNMENT = 8  # elements, of k and n
# max-autotune tries cuBLAS and Triton templates, and replays CUDA graphs
COMPILE_MODES = {"compile": None, "max-autotune": "max-autotune"}
OURS_COMPILED = "fusegrad, compiled"
_COMPILED = (*COMPILE_MODES, "quack", "by hand, compiled")
RIVALS = (*_COMPILED, "mkldnn", "jax", "folx")
COMPILING = (*_COMPILED, OURS_COMPILED)  # what spends time on each new shape


class Cannot(Exception):
    """Why a provider can't run a case."""


def needs_autograd(provider: str) -> None:
    """What a case that differentiates says first."""
    if provider == "mkldnn":
        raise Cannot("it has no autograd")


def providers(device: str) -> tuple[str, ...]:
    """The providers on a device, stock first."""
    if device == "cuda":
        rivals = [*COMPILE_MODES, *(["quack"] if importlib.util.find_spec("quack") else [])]
    else:
        rivals = ["compile", *(["mkldnn"] if hasattr(torch.ops.mkldnn, "_linear_pointwise") else [])]
    return ("stock", *rivals, "fusegrad")


def compiled(fn: Callable, provider: str) -> Callable:
    """fn under torch.compile, for the shapes it is first called with."""
    return torch.compile(fn, dynamic=False, mode=COMPILE_MODES[provider])


def linear_act(provider: str, act: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(x, w, b) -> act(x w^T + b), as a function."""
    if provider == "fusegrad":
        return lambda x, w, b: fg.linear_act(x, w, b, act=act)
    if provider == "mkldnn":
        return _mkldnn(act)
    if provider == "quack":
        return _quack(act)
    a = REGISTRY[act]
    f = partial(a.functions[0], **a.options) if a.options else a.functions[0]
    stock = lambda x, w, b: f(F.linear(x, w, b))
    return compiled(stock, provider) if provider in COMPILE_MODES else stock


def network(
    provider: str,
    widths: Sequence[int],  # of the input, of each layer
    act: str,
    device: str,
    *,
    like: torch.dtype,  # what the parameters are rounded to
    dtype: torch.dtype,  # what they are then stored in
    act_last: bool = False,
    as_one: bool = False,
) -> tuple[Callable[[Tensor], Tensor], list[nn.Parameter]]:
    """An MLP with an activation between its layers, and its parameters: the same numbers for every provider.

    Ours is a layer a Linear, or, of two layers `as_one`, an MLP.
    """
    torch.manual_seed(0)
    a = REGISTRY[act]
    assert a.module is not None, f"{act} has no module in torch"
    layers = list(pairwise(widths))
    acts = [act] * (len(layers) - 1) + [act if act_last else None]
    stock = nn.Sequential()
    for (k, n), name in zip(layers, acts, strict=True):
        stock.extend([nn.Linear(k, n, device=device)] + ([] if name is None else [a.module(**a.options)]))
    stock.to(like).to(dtype)
    parameters = list(stock.parameters())
    if provider == "stock":
        return stock, parameters
    if provider in COMPILE_MODES:
        return compiled(stock, provider), parameters
    if provider == "mkldnn" or (provider == "quack" and act_last and len(layers) == 1):
        w, b = parameters
        layer = linear_act(provider, act)
        return lambda x: layer(x, w, b), parameters
    if provider == "quack":
        if len(layers) != 2 or act_last:
            raise Cannot("it has no MLP of other than two layers")
        return _quack_mlp(act, *parameters), parameters
    ours: nn.Module = nn.Sequential(*[fg.Linear(k, n, act=name) for (k, n), name in zip(layers, acts, strict=True)])
    if as_one:
        k, hidden, n = widths
        ours = fg.MLP(k, hidden, n, act=act)
    ours.to(device, dtype)
    with torch.no_grad():
        for p, q in zip(ours.parameters(), parameters, strict=True):
            p.copy_(q)
    return ours, list(ours.parameters())


def normal(*shape: int, seed: int, like: torch.dtype, dtype: torch.dtype, device: str) -> Tensor:
    """Normally distributed numbers, rounded to `like`, stored in `dtype`: the same for every provider."""
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device).to(like).to(dtype)


def _mkldnn(act: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if act not in MKLDNN:
        raise Cannot(f"it has no {act}")
    attr, algorithm = MKLDNN[act]
    return lambda x, w, b: torch.ops.mkldnn._linear_pointwise(x, w, b, attr, [], algorithm)


def _quack_name(act: str) -> str:
    if act not in QUACK:
        raise Cannot(f"it has no {act}")
    return QUACK[act]


def _suits_quack(x: Tensor, *ws: Tensor) -> None:
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise Cannot("it is tried in 16 bits only")
    if any(size % QUACK_ALIGNMENT for w in ws for size in w.shape):
        raise Cannot(f"sizes must be multiples of {QUACK_ALIGNMENT}")


def _quack(act: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from quack.gemm_interface import gemm_act

    name = _quack_name(act)

    def layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, w, b)):
            raise Cannot("it differentiates an activation only where a linear layer follows")
        _suits_quack(x, w)
        return gemm_act(x, w.mT, bias=b, activation=name, store_preact=False)[1]

    return layer


def _quack_mlp(act: str, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Callable[[Tensor], Tensor]:
    from quack.linear import act_linear_func, linear_act_func

    name = _quack_name(act)

    def mlp(x: Tensor) -> Tensor:
        _suits_quack(x, w1, w2)
        z, y = linear_act_func(x, w1, name, bias=b1)
        return act_linear_func(z, w2, y, name, bias=b2)

    return mlp
