"""fusegrad: fused linear and elementwise layers for PyTorch, differentiable as often as you like, in every mode."""

from typing import Any

from . import backends  # first, as it may tell Triton to interpret, and modes.flops imports what imports Triton

# isort: split
from . import modes, nn  # noqa: F401  (modes registers)
from .activations import REGISTRY
from .activations.primitives import (  # noqa: F401  (what an activation of one's own is written with)
    abs,
    clamp,
    cos,
    erf,
    exp,
    expm1,
    log,
    log1p,
    maximum,
    minimum,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    tanh,
    where,
)
from .backends import empty_cache
from .functional import act, linear, linear_act, mlp, mm, mul_constant
from .functional_chain import chain
from .functional_gated import gated, gated_packed
from .fusion.convert import fuse, unfuse
from .fusion.report import explain
from .memory import keep_memory
from .nn import Act, Linear
from .nn_gated import GatedLinear, GatedMLP
from .nn_mlp import MLP
from .operators.directional import directional
from .operators.laplacian import bilaplacian, hessian_diagonal, laplacian
from .own import activation

__version__ = "0.1.0"

ACTIVATIONS: tuple[str, ...]


def __getattr__(name: str) -> Any:
    if name == "ACTIVATIONS":  # with those that a user has defined since
        return tuple(REGISTRY)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Act",
    "GatedLinear",
    "GatedMLP",
    "Linear",
    "act",
    "activation",
    "backends",
    "bilaplacian",
    "chain",
    "directional",
    "empty_cache",
    "explain",
    "fuse",
    "gated",
    "gated_packed",
    "hessian_diagonal",
    "keep_memory",
    "laplacian",
    "linear",
    "linear_act",
    "mlp",
    "mm",
    "mul_constant",
    "nn",
    "unfuse",
]  # fmt: skip
