"""Swap fused layers into a model, and out again, in place.

Modules keep their identity: a torch.nn.Linear becomes a fusegrad.Linear by adopting the class, and an activation module
a fusegrad.Act, so parameters, hooks, state_dict keys, device, dtype and mode stay as they are. A module whose methods
call a Linear and then its activation adopts a class whose methods do the two as one (_source.py). What the activation
and the Linear compute by themselves is not changed, so whoever else calls them, or replaces them, gets what is written.
"""

import dis
import functools
from abc import ABCMeta
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from . import _recognise, functional
from ._calls import IN_PLACE, LEFT_OUT, adopts, later, now
from ._code import Unreadable, nested
from ._pairs import SITES, UNFUSED, Key, calls, fused_class_of, is_sequential, methods
from ._recognise import ADOPTED, STOCK, AdoptedAct
from ._source import LATER, NOW, rewrite
from .nn import Linear, hooked

Filter = Callable[[nn.Module, str], bool]  # (Linear or activation, its path) -> whether it may be fused

CONVERTED = "_fusegrad_converted"  # set on a Linear that was torch's


def fuse(model: nn.Module, filter_fn: Filter | None = None) -> nn.Module:
    """Replace the linear layers of a model by fused ones, in place.

    Every torch.nn.Linear becomes a fusegrad.Linear, and every activation module a fusegrad.Act, but for in-place ones.
    Where an activation is the very next operation after a Linear, both run as one op: neighbours in a
    torch.nn.Sequential, and in your own methods `torch.tanh(self.fc(x))`, or `x = self.fc(x)` with `x = F.relu(x)` as
    the next statement. All else in your methods runs as you wrote it. What cannot be proved safe is left alone:
    subclasses, parametrizations, hooked layers, tensor-subclass weights, methods without source, modules of torch
    itself. `explain` tells what became of each layer; `unfuse` is the exact inverse. What you change in the model later
    (layers, hooks, slopes, attributes) is obeyed.

    Nothing of the model is run. The class of an activation module, and of a module that has such a pair, changes to a
    subclass of the same name.

    Args:
        model: any module. Its parameters, state_dict keys, hooks, tied weights, device, dtype and mode stay.
        filter_fn: called with each Linear and each activation module, and its path; False leaves it alone.

    Returns:
        The model itself.

    Raises:
        TypeError: model is no torch.nn.Module.

    >>> import torch, fusegrad as fg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> fg.fuse(model) is model
    True
    """
    check_model("fuse", model)
    in_place = any(writes_in_place(m) for m in model.modules())
    for path, m in list(model.named_modules()):
        if not isinstance(m, nn.Linear) and _recognise.of_module(m) is None:
            continue
        vars(m).pop(LEFT_OUT, None)
        if filter_fn is not None and not filter_fn(m, path):
            vars(m)[LEFT_OUT] = True
        elif type(m) is nn.Linear and why_not(m) is None:
            vars(m)[CONVERTED] = True
            m.__class__ = Linear
        vars(m).pop(IN_PLACE, None)
        if type(m) is Linear and in_place:
            vars(m)[IN_PLACE] = True
        stock: type[nn.Module] = vars(type(m)).get(STOCK, type(m))
        if stock in ADOPTED:
            _set_class(m, ADOPTED[stock] if adopts(m, in_place) else stock)
    for m in model.modules():
        if fused_class_of(m) not in (None, type(m)):
            continue  # another library has made a class of its own from ours
        original = original_class(type(m))
        found = [call for call in calls(m) if call.fused_with and call.one_by_one is None]
        if found and why_class_stays(original) is None:
            _set_class(m, fused_class(original, frozenset(call.key for call in found if call.key is not None)))
    return model


def unfuse(model: nn.Module) -> nn.Module:
    """Undo `fuse`, in place: every module gets back its own class. Returns the model itself.

    Raises:
        TypeError: model is no torch.nn.Module.

    >>> import torch, fusegrad as fg
    >>> type(fg.unfuse(fg.fuse(torch.nn.Linear(2, 2))))
    <class 'torch.nn.modules.linear.Linear'>
    """
    check_model("unfuse", model)
    for m in model.modules():
        converted = vars(m).pop(CONVERTED, False)
        for mark in (LEFT_OUT, IN_PLACE):
            vars(m).pop(mark, None)
        if converted or isinstance(m, (Fused, AdoptedAct)):
            _set_class(m, original_class(type(m)))
    return model


# --- classes ------------------------------------------------------------------------------------------------------


class Fused(nn.Module):
    """Marks a module whose methods were rewritten: its class is made from this and from the original class.

    Copies and pickles name the original class and the sites that were rewritten in it, so that no code is stored.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if UNFUSED not in vars(cls):  # ours is no subclass that an author would want to hear of
            super().__init_subclass__(**kwargs)

    def __reduce_ex__(self, protocol):
        reduced: Any = super().__reduce_ex__(max(protocol, 2))
        make, args, *state = reduced
        cls = type(self)
        if UNFUSED not in vars(cls):
            return reduced
        return (
            _restore,
            (vars(cls)[UNFUSED], vars(cls)[SITES], make, tuple(vars(cls)[UNFUSED] if a is cls else a for a in args)),
            *state,
        )


setattr(Fused, LATER, staticmethod(later))
setattr(Fused, NOW, staticmethod(now))


def _restore(original: type[nn.Module], sites: frozenset[Key], make: Callable, args: tuple) -> nn.Module:
    module = make(*args)
    _set_class(module, fused_class(original, sites))
    return module


def _set_class(m: nn.Module, cls: type[nn.Module]) -> None:
    m.__class__ = cls


# Modules with the same sites share a class, so that torch.compile compiles it once for all layers of a model.
_CLASSES: WeakValueDictionary[tuple, type[nn.Module]] = WeakValueDictionary()


def fused_class(original: type[nn.Module], sites: frozenset[Key]) -> type[nn.Module]:
    """The class with these sites rewritten, or the original where its source has gone."""
    names = {"forward"} if is_sequential(original) else {name for name, _ in sites}
    functions = {name: getattr(original, name) for name in sorted(names) if hasattr(original, name)}
    key = original, sites, *functions.values(), *(f.__code__ for f in functions.values())
    made = _CLASSES.get(key)
    if made is not None:
        return made
    members: dict[str, Any] = {k: getattr(original, k) for k in ("__module__", "__qualname__", "__doc__")}
    members |= {UNFUSED: original, SITES: sites}
    try:
        for name, function in functions.items():
            chosen = frozenset(k for at, k in sites if at == name)
            fused = sequential_forward if is_sequential(original) else rewrite(function, chosen)
            members[name] = _while_unchanged(original, name, function, fused)
    except Unreadable:
        return original
    metaclass: Any = type(original)
    made = metaclass(original.__name__, (Fused, original), members)
    _CLASSES[key] = made
    return made


def _while_unchanged(original: type, name: str, seen: FunctionType, fused: Callable) -> Callable:
    """The fused method, until someone sets another one on the original class."""
    code = seen.__code__

    @functools.wraps(seen)
    def method(self, *args, **kwargs):
        live = getattr(original, name)
        return (fused if live is seen and live.__code__ is code else live)(self, *args, **kwargs)

    return method


def sequential_forward(self: nn.Sequential, input):
    """The forward of torch.nn.Sequential, with each Linear and what follows it given to `later` and `now`."""
    modules = list(self)
    while modules:
        module, *modules = modules
        if type(module) is Linear and modules:
            after, *modules = modules
            input = now(after, later(module, input))
        else:
            input = module(input)
    return input


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


# --- what is safe -------------------------------------------------------------------------------------------------


def why_not(m: nn.Linear) -> str | None:
    """Why a Linear does not become ours, or None."""
    if "forward" in vars(m):
        return "its forward was replaced"
    if nn.utils.parametrize.is_parametrized(m):
        return "parametrized"
    if type(m) not in (nn.Linear, Linear):
        return f"a subclass, {type(m).__name__}"
    if hooked(m):
        return "has hooks"
    for name, p in (("weight", m.weight), ("bias", m.bias)):
        if p is not None and type(p) is not nn.Parameter:
            return f"its {name} is a {type(p).__name__}"
    if m.weight.dtype not in functional.DTYPES:
        return f"its weight is {m.weight.dtype}"
    return None


def why_class_stays(cls: type) -> str | None:
    """Why a class is not derived from, or None."""
    if type(cls) not in (type, ABCMeta):
        return f"{cls.__name__} has a metaclass, {type(cls).__name__}"
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        return f"{cls.__name__} says itself how it is pickled"
    return None


def writes_in_place(m: nn.Module) -> bool:
    """Whether a module may write to what another returned, as far as its author's code shows."""
    if vars(m).get("inplace"):
        return True
    return any(_writes_in_place(function.__code__) for _, function in methods(original_class(type(m))))


@functools.lru_cache(maxsize=1024)
def _writes_in_place(code: CodeType) -> bool:
    if any(name.endswith("_") and not name.endswith("__") for name in code.co_names):
        return True  # x.mul_(2)
    if any(isinstance(c, tuple) and ("inplace" in c or "out" in c) for c in code.co_consts):
        return True  # F.relu(x, inplace=True)
    for i in dis.get_instructions(code):
        if i.opname.startswith(("INPLACE_", "STORE_SUBSCR")) or (i.opname == "BINARY_OP" and i.argrepr.endswith("=")):
            return True  # x += 1, x[0] = 1
    return any(_writes_in_place(c) for c in nested(code))


def check_model(op: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model must be a torch.nn.Module, got {type(model).__name__}")
