"""Functions and modules that are gone into: an activation that takes a layer put off, a layer that gives one.

    def shifted_softplus(x):                        is called with the layer put off: softplus is applied to it first,
        return F.softplus(x) - math.log(2)          as one op with the layer, and the rest is as written

    class WeightNormLinear(nn.Module):              is called, and gives the layer put off, whose weight is computed
        def forward(self, x):
            return F.linear(x, self.g * self.v, self.bias)

What runs is the author's code, with these calls rewritten, and the author's variables; only code is kept.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import nn
from torch.compiler import is_compiling

from ..internals.module import children, computes_weights_before, is_hooked
from ..internals.stock import called_as_written
from ..nn import is_ours
from .code import HELPERS, Unreadable, with_code
from .fused import method_before_fuse
from .paths import Path, stored_by
from .rewrite import Passed, Site, gives_later, takes_later

LEFT_OUT = "_fusegrad_left_out"  # set on a module that filter_fn refused


@dataclass(frozen=True)
class _Opened:
    code: CodeType
    passed: Passed = ()  # what is looked up between the layer and its activation
    layers: frozenset[str] = frozenset()  # the attributes that hold what a layer returns the result of, "" for itself
    identities: frozenset[str] = frozenset()  # those that have to hold an identity
    made: list[FunctionType] = field(default_factory=list)  # the function, if it has no variables and no defaults
    looked_up: WeakKeyDictionary[type, bool] = field(default_factory=WeakKeyDictionary)


def _helpers() -> Any:
    return sys.modules[f"{__package__}.runtime"]


_TAKES: dict[tuple[CodeType, int], _Opened | None] = {}
_GIVES: dict[CodeType, _Opened | None] = {}


def taking(act: Any) -> Callable[[Any], Any] | None:
    """What computes act(z) of a layer z that was put off; None if act cannot be gone into."""
    function, owner = _function_of(act)
    if function is None or (isinstance(owner, nn.Module) and (is_hooked(owner) or LEFT_OUT in vars(owner))):
        return None
    if isinstance(act, nn.Module) and type(act).__module__.startswith("torch."):
        return None  # which is known as it is
    opened = _taking(function, 0 if owner is None else 1)
    if opened is None or (owner is not None and not _looks_up(type(owner), opened)):
        return None
    made = _bound(function, opened)
    return made if owner is None else MethodType(made, owner)


# Modules and functions that were gone into, as they are no activation themselves: by identity. Going into them is right
# whatever becomes of them, and to ask again what they are takes longer than a small layer.
_GONE_INTO: dict[int, ref] = {}


def note_gone_into(act: Any) -> None:
    key = id(act)
    if key not in _GONE_INTO and isinstance(act, (nn.Module, FunctionType)):
        _GONE_INTO[key] = ref(act, lambda _: _GONE_INTO.pop(key, None))


def was_gone_into(act: Any) -> bool:
    found = _GONE_INTO.get(id(act))
    return found is not None and found() is act


def applied_first(act: Any) -> tuple[Any, Site] | None:
    """What taking(act) applies first, and the module that its names are looked up in."""
    function, owner = _function_of(act)
    if function is None:
        return None
    try:
        made = takes_later(function, 0 if owner is None else 1, _helpers())  # anew: its variables may hold others now
    except Unreadable:
        return None
    return made and (owner, made[1])


def is_layer(m: Any) -> bool:
    """Whether a module is a layer that can be part of a fused call: a Linear, or one that returns what one gives."""
    return is_ours(m) or (not is_compiling() and isinstance(m, nn.Module) and giving(m) is not None)


def giving(layer: nn.Module) -> Callable[..., Any] | None:
    """What gives the layer that a module returns the result of, put off; None if it returns none."""
    function, owner = _function_of(layer)
    if function is None or owner is None:
        return None
    before = method_before_fuse(type(layer), "forward")
    if function is not before and isinstance(before, FunctionType):
        if any(map(is_ours, children(owner).values())):
            return None  # what was rewritten of it fuses these
        function = before
    code = function.__code__
    if code not in _GIVES:
        try:
            made = gives_later(function, _helpers())
        except Unreadable:
            made = None
        names = _names(made[1]) if made else frozenset()
        _GIVES[code] = _Opened(made[0].__code__, made[3], names, _names(made[2])) if made and names else None
    opened = _GIVES[code]
    if opened is None or not _looks_up(type(owner), opened):
        return None
    if not all(type(children(owner).get(name)) is nn.Identity for name in opened.identities):
        return None
    if not any(not name or is_layer(children(owner).get(name)) for name in opened.layers):
        return None
    return MethodType(_bound(function, opened), owner)


def _names(paths: set[Path]) -> frozenset[str]:
    """The attributes at these places."""
    return frozenset(str(path[0][1]) if path else "" for path in paths if len(path) <= 1)


def _taking(function: FunctionType, argument: int) -> _Opened | None:
    key = function.__code__, argument
    if key not in _TAKES:
        try:
            made = takes_later(function, argument, _helpers())
        except Unreadable:
            made = None
        _TAKES[key] = made and _Opened(made[0].__code__, made[1].passed)
    return _TAKES[key]


def _function_of(f: Any) -> tuple[FunctionType | None, Any]:
    """The function that a call of f is, and what it gets as its first argument, if any."""
    if isinstance(f, nn.Module):
        cls = type(f)
        function = getattr(cls, "forward", None)
        called = (
            called_as_written(cls) and "forward" not in vars(f) and (not is_hooked(f) or computes_weights_before(f))
        )
        return (function, f) if called and isinstance(function, FunctionType) else (None, None)
    if isinstance(f, MethodType) and isinstance(f.__func__, FunctionType):
        return f.__func__, f.__self__
    return (f if isinstance(f, FunctionType) else None), None


def _bound(function: FunctionType, opened: _Opened) -> FunctionType:
    """The code, with the variables of the function."""
    plain = not (function.__closure__ or function.__defaults__ or function.__kwdefaults__)
    if plain and opened.made and opened.made[0].__globals__ is function.__globals__:
        return opened.made[0]
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    made = with_code(function, opened.code, cells | {HELPERS: CellType(_helpers())})
    if plain:  # else it would keep alive what these hold
        opened.made[:] = [made]
    return made


def _looks_up(cls: type, opened: _Opened) -> bool:
    """Whether what is looked up between the two calls is stored as it is by the instances of a class."""
    if cls not in opened.looked_up:
        names = {path[0][1] for paths in opened.passed for path in paths if path}
        plain = all(len(path) <= 1 for paths in opened.passed for path in paths)
        opened.looked_up[cls] = plain and all(_is_stored(inspect.getattr_static(cls, name, None)) for name in names)
    return opened.looked_up[cls]


def _is_stored(value: Any) -> bool:
    if isinstance(value, property):
        return stored_by(value) is not None
    return not hasattr(type(value), "__set__")
