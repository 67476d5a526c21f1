"""What an activation is defined by, and what becomes of it: an entry of the registry."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn


def as_float(number: object) -> float | None:
    """A real number, NumPy's included, as the float that an op takes; None for all else."""
    if type(number) is float:
        return number  # to ask whether it is a real number takes longer than the kernel of 1000 numbers
    real = isinstance(number, (numbers.Real, torch.SymInt, torch.SymFloat)) and not isinstance(number, bool)
    return float(number) if real else None  # type: ignore[arg-type]  # it is real


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What is known of an activation besides its formulas."""

    name: str
    formula: str
    saves: Literal["input", "output"] = "input"
    param: str | None = None  # what torch calls the parameter
    default: float = 0.0
    legal: tuple[str, Callable[[float], bool]] = ("finite", lambda p: True)
    module: type[nn.Module] | None = None  # the stock module
    functions: tuple[Callable, ...] = ()  # stock functions
    methods: tuple[str, ...] = ()  # stock Tensor methods
    options: dict[str, Any] = field(default_factory=dict)  # what their other options must be, in positional order
    autocast_to_float32: bool = False  # autocast runs the stock function in float32, but on a CPU
    stock_derives_twice: bool = True  # torch can differentiate the stock function twice, and rightly

    @property
    def saves_input(self) -> bool:
        return self.saves == "input"

    def check(self, op: str, param: float | None) -> float:
        """The value of the parameter: the default for None; ValueError if it is not legal or there is none."""
        if param is None:
            return self.default
        if self.param is None:
            raise ValueError(f"{op}: act={self.name!r} takes no param, got {param!r}")
        value = as_float(param)
        if value is None:
            raise TypeError(f"{op}: param ({self.param} of {self.name!r}) must be a number, got {param!r}")
        if not self.accepts(value):
            raise ValueError(f"{op}: param ({self.param} of {self.name!r}) must be {self.legal[0]}, got {param!r}")
        return value

    def accepts(self, param: object) -> bool:
        """Whether this is a number, and legal. Comparisons only, nothing raised: a compiler can trace them."""
        value = as_float(param)
        return value is not None and abs(value) < math.inf and self.legal[1](value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation(Facts):
    """An entry of the registry: the facts, with the formulas in torch."""

    value: Callable[[Tensor, float], Tensor]  # (z, param) -> act(z)
    first: Callable[[Tensor, Tensor, float], Tensor]  # (g, s, param) -> g D_1(s)
    second: Callable[[Tensor, float], Tensor]  # (s, param) -> D_2(s)
    third: Callable[[Tensor, float], Tensor]  # (s, param) -> D_3(s)


@dataclass(frozen=True, kw_only=True, eq=False)
class Definition(Facts):
    """An activation as it is written, once: expressions by primitives.py, of z or s, then of the parameter and the
    constants, if there are. What is left out of `first` to `fifth` is derived.

    `first` is D_1 in terms of what is saved: to be stated where that is the output.
    """

    value: Callable[..., Any]
    first: Callable[..., Any] | None = None
    second: Callable[..., Any] | None = None
    third: Callable[..., Any] | None = None
    fourth: Callable[..., Any] | None = None
    fifth: Callable[..., Any] | None = None
    constants: dict[str, float] = field(default_factory=dict)
    bound: float | None = None  # derivatives are those at ±bound beyond it: there they have rounded to their limits
    torch_value: Callable[[Tensor, float], Tensor] | None = None  # torch's own kernels, which say what "as stock" is
    torch_first: Callable[[Tensor, Tensor, float], Tensor] | None = None

    def entry(self, orders: dict[str, Callable], zero: Callable) -> Activation:
        """The entry of the registry, of the functions of its orders in torch; what is not among them is torch's own
        kernel, or zero."""
        value, first = orders.get("value", self.torch_value), orders.get("first", self.torch_first)
        if value is None or first is None:
            raise ValueError(f"{self.name}: no formulas; run python -m fusegrad.activations.generate")
        facts = {f.name: getattr(self, f.name) for f in fields(Facts)}
        second, third = orders.get("second", zero), orders.get("third", zero)
        return Activation(**facts, value=value, first=first, second=second, third=third)
