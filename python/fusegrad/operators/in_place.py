"""Which functions of torch write to their first argument, and what they write."""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

OWNERS = torch, Tensor, torch.nn.functional
OPERATORS = "add", "sub", "mul", "truediv", "idiv", "pow", "mod", "floordiv"
NO_WRITES = {"requires_grad_", "retains_grad_", "share_memory_", "rename_"}


def _writes() -> dict[Any, Callable | None]:
    found: dict[Any, Callable | None] = {}
    for owner in OWNERS:
        for name in dir(owner):
            if name.endswith("_") and not name.startswith("_") and name not in NO_WRITES:
                function = getattr(owner, name)
                if callable(function) and not isinstance(function, type):
                    found.setdefault(function, getattr(owner, name[:-1], None))
    for name in OPERATORS:
        if (function := getattr(Tensor, f"__i{name}__", None)) is not None:
            found[function] = getattr(Tensor, f"__{name}__", None)
    return found


def _places() -> dict[Any, int]:
    functions = (f for f in vars(torch.nn.functional).values() if isinstance(f, FunctionType))
    named = ((f, list(inspect.signature(f).parameters)) for f in functions)
    return {f: names.index("inplace") for f, names in named if "inplace" in names}


WRITES: dict[Any, Callable | None] = _writes()  # to the function that computes what is written, where there is one
INPLACE: dict[Any, int] = _places()  # the place of the argument that asks for it


def out_of_place(func: Any) -> Callable | None:
    """The function that computes what another writes."""
    return WRITES[func] if func in WRITES else func


def written(func: Any, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that a call writes to, or None."""
    if func in WRITES:
        return args[0]
    if func in INPLACE:
        at = INPLACE[func]
        if args[at] if len(args) > at else kwargs.get("inplace", False):
            return args[0]
    return None


def without_inplace(func: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments of the function that writes nothing."""
    if func not in INPLACE:
        return args, kwargs
    return args[: INPLACE[func]], {k: v for k, v in kwargs.items() if k != "inplace"}
