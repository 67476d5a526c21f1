"""fusegrad: fused linear and elementwise layers for PyTorch, differentiable as often as you like, in every mode."""

from importlib.metadata import version

from . import backends, nn
from .activations import REGISTRY
from .functional import act, linear, linear_act, mm, mul_constant
from .nn import Act, Linear

__version__ = version("fusegrad")

ACTIVATIONS: tuple[str, ...] = tuple(REGISTRY)

__all__ = [
    "ACTIVATIONS", "Act", "Linear", "act", "backends", "linear", "linear_act", "mm", "mul_constant", "nn",
]  # fmt: skip
