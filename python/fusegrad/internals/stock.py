"""Whether torch's modules still do what torch wrote.

Other libraries replace `forward` on a class, or a function, for the whole process. Whoever computes what a module would
have computed asks here first, on each call, by identity.
"""

import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

_MISSING = object()  # is nothing that can be found


def torchs(owner: type | ModuleType, name: str) -> Any:
    """What torch wrote under a name of a class or a file; where it was replaced before we came, what is never found."""
    found = getattr(owner, name, _MISSING)
    file = sys.modules[owner.__module__] if isinstance(owner, type) else owner
    return found if not isinstance(found, FunctionType) or found.__globals__ is vars(file) else _MISSING


_WRITTEN: dict[type, tuple[tuple[Any, str, Any], ...]] = {}
_CALL, _CALL_IMPL = torchs(nn.Module, "__call__"), torchs(nn.Module, "_call_impl")


CALLED_AS_WRITTEN = ("__call__", _CALL), ("_call_impl", _CALL_IMPL)  # of a class that `called_as_written` is true of


def stands_for(cls: type, *definitions: tuple[Any, str]) -> None:
    """Notes what the forward of a class consists of: names of classes and files, which have to stay what they are."""
    _WRITTEN[cls] = tuple((owner, name, torchs(owner, name)) for owner, name in definitions)


def stands_for_what_it_is(cls: type) -> None:
    """Notes that the forward of a class, which is not torch's, has to stay what it is now."""
    _WRITTEN[cls] = ((cls, "forward", getattr(cls, "forward", _MISSING)),)


def _written(cls: type) -> tuple[tuple[Any, str, Any], ...]:
    return _WRITTEN[cls if cls in _WRITTEN else next(base for base in cls.__mro__ if base in _WRITTEN)]


def as_written(cls: type) -> bool:
    """Whether the forward of a class, which may be inherited, is still made of what was noted."""
    for owner, name, value in _written(cls):
        if getattr(owner, name) is not value:
            return False
    return True


def called_as_written(cls: type) -> bool:
    """Whether a call of a module of this class is torch's own: hooks, then forward."""
    return cls.__call__ is _CALL and cls._call_impl is _CALL_IMPL  # type: ignore[attr-defined]  # of nn.Module


def definitions(cls: type) -> Iterator[tuple[Any, str, Any]]:
    """Owners, names and values of all that both ask for."""
    yield from _written(cls)
    yield from ((cls, name, value) for name, value in CALLED_AS_WRITTEN)
