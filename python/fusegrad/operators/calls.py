"""Calls of torch's functions: which rule serves them, which tensors they are given, what they are called."""

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from .in_place import OWNERS

Rule = Callable[..., Any]  # (run, function, args, kwargs) -> what the call returns
RULES: dict[Any, Rule] = {}
CONSTANT: set[Any] = set()  # functions whose results are constants, whatever they are given
METADATA: set[Any] = {  # functions that compute no numbers
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout",
                                                 "is_cuda", "grad_fn", "is_leaf", "is_sparse", "is_quantized",
                                                 "is_nested", "is_cpu", "is_meta")),
    *(getattr(Tensor, name) for name in ("size", "dim", "numel", "stride", "is_contiguous", "is_floating_point",
                                         "is_complex", "element_size", "data_ptr", "__len__", "__hash__",
                                         "register_hook", "retain_grad")),
}  # fmt: skip
OUTSIDE: dict[Any, str] = {  # functions that the rules cannot follow: why
    torch.autograd.grad: "it calls torch.autograd.grad",
    torch.autograd.backward: "it calls torch.autograd.backward",
    Tensor.backward: "it calls backward",
}


def rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Note a rule for these functions; names stand for all that torch has under them, as functions and as methods."""

    def note(f: Rule) -> Rule:
        for function in functions:
            for found in named(function) if isinstance(function, str) else [function]:
                RULES[found] = f
        return f

    return note


def named(name: str) -> Iterator[Any]:
    """What torch, its tensors and torch.nn.functional have under a name."""
    for owner in OWNERS:
        found = getattr(owner, name, None)
        if callable(found):
            yield found


_ARITHMETIC = "add sub subtract rsub mul multiply div divide true_divide pow maximum minimum where lerp addcmul addcdiv"
_OPERATORS = "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv pow rpow lt le gt ge eq ne"
# where an integer is one that is computed with, and no dimension or index
ARITHMETIC = {f for name in _ARITHMETIC.split() for f in named(name)}
ARITHMETIC |= {f for name in _OPERATORS.split() for f in named(f"__{name}__")}


class Names:
    """Where torch has functions that have rules, to tell when somebody replaces one. Rules compute by these names too:
    what a replaced function does, before or after it calls the original, they would do once more."""

    def __init__(self) -> None:
        self._held: list[tuple[Any, list[str], attrgetter, tuple]] = []
        for owner in OWNERS:
            names = [name for name in dir(owner) if _is_served(getattr(owner, name))]
            get = attrgetter(*names)
            self._held.append((owner, names, get, get(owner)))

    def replaced(self) -> str | None:
        """The name of one that is not what it was."""
        for owner, names, get, before in self._held:
            now = get(owner)
            if now != before:
                name = next(n for n, a, b in zip(names, now, before, strict=True) if a is not b)
                return f"{'Tensor' if owner is Tensor else owner.__name__}.{name}"
        return None


def _is_served(function: Any) -> bool:
    try:
        return function in RULES
    except TypeError:  # which cannot be a key
        return False


def getter(name: str) -> Any:
    """What a mode sees where a property of a tensor is read."""
    return getattr(Tensor, name).__get__


def tensors(given: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, and in lists, tuples and dicts of them."""
    for a in given:
        if isinstance(a, Tensor):
            yield a
        elif isinstance(a, (list, tuple)):
            yield from tensors(a)
        elif isinstance(a, dict):
            yield from tensors(a.values())


def mapped(a: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """Arguments or results with f of each tensor."""
    if isinstance(a, Tensor):
        return f(a)
    if isinstance(a, dict):
        return type(a)((k, mapped(v, f)) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        made = [mapped(b, f) for b in a]
        return type(a)(*made) if hasattr(a, "_fields") else type(a)(made)
    return a


def storage(t: Tensor) -> int:
    """Where the numbers of a tensor are; 0 where that is not known."""
    try:
        return t.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # under torch.func
        return 0


def name_of(func: Any) -> str:
    """A function as a user calls it."""
    name = getattr(func, "__name__", str(func))
    if getattr(torch.nn.functional, name, None) is func:
        return f"torch.nn.functional.{name}"
    if getattr(Tensor, name, None) is func:
        return f"Tensor.{name}"
    return f"torch.{name}" if getattr(torch, name, None) is func else name
