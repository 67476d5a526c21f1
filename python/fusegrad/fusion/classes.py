"""The classes that fuse gives to modules whose methods it rewrote: how they are made, copied and pickled."""

import copyreg
import functools
import secrets
from abc import ABCMeta
from collections.abc import Iterable
from operator import is_
from types import FunctionType, MethodType
from typing import Any, Generic
from weakref import WeakValueDictionary

import torch
from torch import nn
from torch.compiler import is_compiling

from ..internals.call import is_one_of_others
from ..internals.module import children
from ..nn import Linear
from . import chains, runtime, wrapped
from .code import Unreadable
from .find import Key
from .fused import METHODS, SITES, UNFUSED, is_sequential
from .kept import KEPT
from .opened import is_layer
from .own_class import class_methods, makers, needs_its_own
from .recognise import ADOPTED, STOCK, is_activation
from .rewrite import rewrite
from .runtime import NOTES, alone, apply, later, now, passed

CONVERTED = "_fusegrad_converted"  # set on a Linear that was torch's


class Fused(nn.Module):
    """Marks a module whose methods were rewritten: its class is made from this and from the original class."""

    _fusegrad_small = False  # SMALL

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if UNFUSED not in vars(cls):  # ours is no subclass that an author would want to hear of
            super().__init_subclass__(**kwargs)


# Modules with the same sites share a class, so that torch.compile compiles it once for all layers of a model.
_CLASSES: WeakValueDictionary[tuple, type[nn.Module]] = WeakValueDictionary()


def fused_class(original: type[nn.Module], sites: Iterable[Key]) -> type[nn.Module]:
    """The class with these sites rewritten, or the original where its source has gone."""
    sites = frozenset(sites)
    names = {"forward"} if is_sequential(original) else {name for name, _ in sites}
    functions = {name: getattr(original, name) for name in sorted(names) if hasattr(original, name)}
    try:
        wrappers = {name: wrapped.layers(function) for name, function in functions.items()}
    except Unreadable:
        return original
    key = original, sites, *(part for found in wrappers.values() for f in found for part in (f, f.__code__))
    made = _CLASSES.get(key)
    if made is not None:
        return made
    members: dict[str, Any] = {k: getattr(original, k) for k in ("__module__", "__qualname__", "__doc__")}
    members |= {UNFUSED: original, SITES: sites, METHODS: {}, "__reduce_ex__": _reduce}
    members |= class_methods(original) | makers(original)
    try:
        for name, found in wrappers.items():
            chosen = frozenset(k for at, k in sites if at == name)
            fused: Any = sequential_forward if is_sequential(original) else rewrite(found[-1], chosen, runtime)
            members[name] = members[METHODS][name] = _while_unchanged(original, name, found, fused)
    except Unreadable:
        return original
    bases = (Fused, original) if _has_the_layout_of_a_module(original) else (original, Fused)
    metaclass: Any = type(original)
    made = metaclass(original.__name__, bases, members)
    _CLASSES[key] = made
    return made


def _has_the_layout_of_a_module(cls: type) -> bool:
    """Whether Python lets an instance adopt a class whose first base is Fused: not that of `class Net(ABC, Module)`.

    What counts is the class that brought in the instance's dictionary, and its base: for nn.Module that is object.
    """
    while cls.__base__ is not None and cls.__base__.__dictoffset__:
        cls = cls.__base__
    return cls.__base__ is object


def _while_unchanged(original: type, name: str, found: list[FunctionType], fused: FunctionType) -> Any:
    """The fused method, until someone sets another one on the original class."""
    seen, (code, defaults, named) = found[0], _parts(found[:1])
    if len(found) > 1:
        return _Wrapped(original, name, found, wrapped.rewrapped(found, fused))

    @functools.wraps(seen)
    def method(self, *args, **kwargs):
        live = getattr(original, name)
        if self._fusegrad_small and is_compiling():
            return live(self, *args, **kwargs)
        same = live is seen and live.__code__ is code
        same = same and live.__defaults__ is defaults and live.__kwdefaults__ is named
        return (fused if same else live)(self, *args, **kwargs)

    return method


def _parts(functions: list[FunctionType]) -> list[Any]:
    return [part for f in functions for part in (f.__code__, f.__defaults__, f.__kwdefaults__)]


class _Wrapped:
    """The same for a method in wrappers, which may ask whether they are the method of the class."""

    def __init__(self, original: type, name: str, found: list[FunctionType], fused: FunctionType) -> None:
        self.original, self.name, self.found, self.fused = original, name, found, fused
        self.parts = _parts(found)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        live = getattr(self.original, self.name)
        if instance is not None and instance._fusegrad_small and is_compiling():
            return MethodType(live, instance)
        same = live is self.found[0] and all(map(is_, _parts(self.found), self.parts))
        function = self.fused if same and wrapped.are_as_they_were(self.found) else live
        return function if instance is None else MethodType(function, instance)


def sequential_forward(self: nn.Sequential, input):
    """The forward of torch.nn.Sequential, with each layer noted, and applied by what follows it; chains as one op."""
    if is_one_of_others(input):
        return chains.by_torch(self, input)
    y, tried = chains.run_again(self, 0, input)
    if y is not None and tried == len(children(self)):
        return y
    modules, done = list(self), 0  # up to where a chain has run; `tried`: up to where one was looked for
    if y is not None:
        input, done = y, tried
    for at, module in enumerate(modules):
        if at < done:
            continue
        noted = type(input) in NOTES
        if at >= tried and not noted and (type(module) is Linear or chains.may_compute(module)):
            y, tried = chains.run(self, modules, at, input)
            if y is not None:
                input, done = y, tried
                continue
        if is_activation(type(module)):
            input = apply(module, input) if noted else module(input)
        elif is_layer(module):
            input = (later if at + 1 < len(modules) else alone)(module, now(input))
        elif noted:
            input = passed(module, input)
        else:
            input = module(input)
    return now(input)


sequential_forward.__qualname__ = nn.Sequential.forward.__qualname__  # which an error names


def original_class(cls: type) -> type:
    """The class before fuse; also where another library has since made a class of its own from ours."""
    if cls is Linear:
        return nn.Linear
    for made_from in (UNFUSED, STOCK):
        if made_from in vars(cls):
            return vars(cls)[made_from]
    bases = tuple(original_class(base) for base in cls.__bases__)
    if bases == cls.__bases__:
        return cls
    members = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    return type(cls)(cls.__name__, bases, members)


def set_class(m: nn.Module, cls: type[nn.Module]) -> None:
    object.__setattr__(m, "__class__", cls)  # whatever the author's __setattr__ does


def why_class_stays(cls: type) -> str | None:
    """Why a class is not derived from, or None."""
    if type(cls) not in (type, ABCMeta):
        return f"{cls.__name__} has a metaclass, {type(cls).__name__}"
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        return f"{cls.__name__} says itself how it is pickled"
    if not _has_the_layout_of_a_module(cls) and any(
        "__init_subclass__" in vars(base) for base in cls.__mro__ if base not in (object, Generic)
    ):
        return f"{cls.__name__} wants to hear of its subclasses"
    method = needs_its_own(cls)
    return method and f"{cls.__name__}.{method} depends on its exact class"


# --- copies and pickles -------------------------------------------------------------------------------------------
# They name the class before fuse, and the sites that were rewritten in it: no code is stored, and no class of ours.


def restore(original: type[nn.Module], sites: tuple[Key, ...], args: tuple, kwargs: dict[str, Any]) -> nn.Module:
    """A module of this class, without its state, as fuse left it."""
    m = original.__new__(original, *args, **kwargs)
    cls = _FIXED.get(original) or fused_class(original, sites)
    _allow_like(original, cls)
    set_class(m, cls)
    return m


def _allow_like(original: type, cls: type) -> None:
    """torch.load(weights_only=True) may build what fuse made of a class that the user has allowed."""
    allowed = torch.serialization.get_safe_globals()
    classes = [entry[0] if isinstance(entry, tuple) else entry for entry in allowed]
    if original in classes and cls not in classes:
        # under a name that no file can know, as it stays allowed when the user's own permission ends
        torch.serialization.add_safe_globals([(cls, f"fusegrad.{secrets.token_hex()}")])


def _reduce(m: nn.Module, protocol: int = 2) -> Any:
    cls = type(m)
    reduced: Any = object.__reduce_ex__(m, max(protocol, 2))
    make, (_, *new), *state = reduced
    if state and isinstance(state[0], dict):
        state[0] = {name: value for name, value in state[0].items() if name != KEPT}
    if not (UNFUSED in vars(cls) or STOCK in vars(cls) or (cls is Linear and CONVERTED in vars(m))):
        return make, (reduced[1][0], *new), *state  # the user's own, or a class that another library made from ours
    args, kwargs = new if make is copyreg.__newobj_ex__ else (tuple(new), {})  # type: ignore[attr-defined]  # typeshed lacks it
    return restore, (original_class(cls), tuple(sorted(vars(cls).get(SITES, ()))), args, kwargs), *state


_FIXED: dict[type, type[nn.Module]] = {nn.Linear: Linear, **ADOPTED}
for fixed in _FIXED.values():
    copyreg.pickle(fixed, _reduce)
torch.serialization.add_safe_globals([restore])
