"""fusegrad: fused linear and elementwise layers for PyTorch, differentiable as often as you like, in every mode."""

from . import backends  # first, as it may tell Triton to interpret, and modes.flops imports what imports Triton

# isort: split
from . import modes, nn  # noqa: F401  (modes registers)
from .activations import REGISTRY
from .backends import empty_cache
from .functional import act, linear, linear_act, mlp, mm, mul_constant
from .fusion.convert import fuse, unfuse
from .fusion.report import explain
from .nn import MLP, Act, Linear

__version__ = "0.1.0"

ACTIVATIONS: tuple[str, ...] = tuple(REGISTRY)

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Act",
    "Linear",
    "act",
    "backends",
    "empty_cache",
    "explain",
    "fuse",
    "linear",
    "linear_act",
    "mlp",
    "mm",
    "mul_constant",
    "nn",
    "unfuse",
]  # fmt: skip
