"""Which activation of the registry a stock module or function stands for; the classes that stock modules adopt."""

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from .. import functional, routing
from ..activations import REGISTRY, Activation
from ..activations.definition import Facts
from ..at_once import act_at_once, is_short
from ..internals.call import is_one_of_others
from ..internals.module import has_own_hooks, is_any_module_hooked
from ..internals.stock import as_written, called_as_written, stands_for, stands_for_what_it_is, torchs
from ..nn import Act, Linear, takes_input, why_called
from ..nn_mlp import MLP
from ..routing import AS_FAST_IN_STOCK, PIECEWISE, route_of_tensor, stock_maps

Spec = tuple[str, float | None]  # name and parameter of an activation

_BY_MODULE: dict[type, list[Activation]] = defaultdict(list)
_BY_FUNCTION: dict[Callable, list[Activation]] = defaultdict(list)
_BY_METHOD: dict[str, list[Activation]] = defaultdict(list)
METHOD: dict[str, Any] = {}  # what torch.Tensor has under these names


def _defaults(a: Activation) -> dict[str, Any]:
    parameters = {} if a.module is None else inspect.signature(a.module).parameters
    named = {k: parameters[k].default for k in a.options}
    return named | ({a.param: a.default} if a.param else {})


_DEFAULTS = {a.name: _defaults(a) for a in REGISTRY.values()}
for a in REGISTRY.values():
    if a.module is not None:
        _BY_MODULE[a.module].append(a)
    for f in a.functions:
        if not isinstance(f, FunctionType) or f.__globals__ is vars(F):  # else someone replaced it before we came
            _BY_FUNCTION[f].append(a)
    for m in a.methods:
        _BY_METHOD[m].append(a)
        METHOD[m] = torchs(Tensor, m)


def add(a: Activation, target: Any) -> None:
    """A class of modules, or a function, that computes an activation of a user's own. Not to be adopted."""
    known = (_BY_MODULE if isinstance(target, type) else _BY_FUNCTION)[target]
    if a in known:
        return
    known[:] = [a]
    _OF_PLAIN_CALL.clear()
    _DEFAULTS.setdefault(a.name, {a.param: a.default} if a.param else {})
    if isinstance(target, type):
        stands_for_what_it_is(target)


# of torch's classes that are no activations of the registry, those that a user's own may be
_ELEMENTWISE = (nn.Hardshrink, nn.Softshrink)
_LAYERS = (Act, Linear, MLP, nn.Linear, nn.Bilinear, nn.PReLU)


def why_not_for(a: Facts, target: Any) -> str | None:
    """Why a class or a function is none that `add` takes, or None."""
    known = (*_BY_MODULE.get(target, ()), *_BY_FUNCTION.get(target, ()))
    if taken := [k.name for k in known if k.name != a.name]:
        return f"is taken for {taken[0]!r} already"
    if isinstance(target, type):
        if not issubclass(target, nn.Module):
            return "is no class of modules"
        if issubclass(target, _LAYERS) or (target.__module__.startswith("torch.nn.") and target not in _ELEMENTWISE):
            return "is no activation: it has weights, or does more than compute y = f(z) of each element"
        return None
    if not inspect.isroutine(target):
        return "is neither a class nor a function"
    try:
        given = inspect.signature(target).parameters
    except ValueError:  # of a function of torch's that says nothing
        return f"does not say what it takes as {a.param}" if a.param else None
    if list(given)[1:] != ([a.param] if a.param else []):
        return f"takes ({', '.join(given)}); need (z{f', {a.param}' if a.param else ''})"
    if a.param and given[a.param].default not in (a.default, inspect.Parameter.empty):
        return f"takes {a.param}={given[a.param].default!r} where none is given; need {a.default}"
    return None


def of_module(module: nn.Module) -> Spec | None:
    """The activation of an activation module, None for any other module, a subclass, or options we do not have."""
    if type(module) is Act:
        return module._act, module._param
    return _of_options(type(module), vars(module))


_PLAIN_OPTIONS = frozenset((bool, int, float, str, type(None)))
_BY_OPTIONS: dict[tuple, Spec | None] = {}


def options_of(module: nn.Module) -> tuple[str, ...] | None:
    """The attributes that `of_adopted` reads, where they are all that counts."""
    names, held = _OPTIONS_OF.get(type(module)), module.__dict__
    return names if names is not None and all(type(held.get(name)) in _PLAIN_OPTIONS for name in names) else None


def of_adopted(module: nn.Module) -> Spec | None:
    """The same in a shorter way, of torch's classes and of ours of the same; None also where that is not enough."""
    cls = type(module)
    if cls in _ONLY:
        return _ONLY[cls]
    names = _OPTIONS_OF.get(cls)
    held = module.__dict__
    if names is None or is_compiling():  # which would compile again where more is known
        return None if names is None else _of_options(cls, held)
    values = [held.get(name) for name in names]
    for value in values:
        if type(value) not in _PLAIN_OPTIONS:
            return None
    key = cls, *values
    if key not in _BY_OPTIONS:
        if len(_BY_OPTIONS) > 1000:  # a slope that changes on each call
            _BY_OPTIONS.clear()
        _BY_OPTIONS[key] = _of_options(cls, held)
    return _BY_OPTIONS[key]


def of_unchanged(module: nn.Module) -> Spec | None:
    """The same of one whose call is what its class says: no hook, no other forward."""
    spec = of_adopted(module)
    return spec if spec is not None and is_unchanged(module) else None


def is_unchanged(module: nn.Module) -> bool:
    """Whether a call of a module of torch's or ours is what its class says: no hook, no other forward."""
    held, cls = module.__dict__, type(module)
    if "forward" in held or has_own_hooks(held) or is_any_module_hooked():
        return False
    return as_written(cls) and called_as_written(cls)


def is_activation(cls: type) -> bool:
    """Whether the modules of a class are activations of ours, if their options are."""
    return cls is Act or cls in _BY_MODULE


def _of_options(cls: type, options: dict[str, Any]) -> Spec | None:
    for a in _BY_MODULE.get(cls, ()):
        if spec := _spec(a, options):
            return spec
    return None


def of_call(target: object, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Spec | None:
    """The activation of a call of a function, or of a Tensor method by name, with arguments after the tensor."""
    if not args and not kwargs and isinstance(target, (BuiltinFunctionType, FunctionType)):
        if target not in _OF_PLAIN_CALL and target in _BY_FUNCTION:
            _OF_PLAIN_CALL[target] = _of_call(target, (), {})
        return _OF_PLAIN_CALL.get(target)
    return _of_call(target, args, kwargs)


_OF_PLAIN_CALL: dict[Callable, Spec | None] = {}


def _of_call(target: object, args: tuple, kwargs: dict[str, Any] | None) -> Spec | None:
    if type(target) is functools.partial and not target.args:
        return of_call(target.func, args, target.keywords | (kwargs or {}))
    if isinstance(target, str):
        known = _BY_METHOD.get(target, ())
    else:
        known = _BY_FUNCTION.get(target, ()) if inspect.isroutine(target) else ()
    for a in known:
        names = ([a.param] if a.param else []) + [*a.options, "inplace"]
        if len(args) > len(names):
            continue
        given = _DEFAULTS[a.name] | dict(zip(names, args, strict=False)) | (kwargs or {})
        if set(given) <= set(names) and (spec := _spec(a, given)):
            return spec
    return None


_GLU = torchs(F, "glu")


def of_glu(act: Any, args: tuple, kwargs: dict[str, Any]) -> int | None:
    """The dimension that torch's GLU halves, whose second half is the gate; None for all else."""
    if type(act) is nn.GLU:
        return None if args or kwargs or why_called(act) else act.dim
    if act is F.glu and act is _GLU and len(args) + len(kwargs) <= 1:
        dim = kwargs.get("dim", *args) if args or kwargs else -1
        return dim if isinstance(dim, int) else None
    return None


stands_for(nn.GLU, (nn.GLU, "forward"), (F, "glu"))


def is_torchs_method(name: str, *tensors: Tensor) -> bool:
    """Whether what is computed from these tensors has this method, an activation, from torch.Tensor."""
    return all(getattr(type(t), name) is METHOD[name] for t in tensors)


def _spec(a: Activation, given: dict[str, Any]) -> Spec | None:
    for k, v in a.options.items():
        if given.get(k) != v:
            return None
    if a.param is None:
        return a.name, None
    param = given.get(a.param)
    return (a.name, param) if a.accepts(param) else None


# --- classes to adopt ---------------------------------------------------------------------------------------------

STOCK = "_fusegrad_stock"  # on a class that a stock activation module adopts: its own class


_NAME = {cls: known[0].name for cls, known in _BY_MODULE.items()}  # the first, of several
# by torch's derivatives
_DERIVED_TWICE = {cls for cls, known in _BY_MODULE.items() if all(a.stock_derives_twice for a in known)}


def is_derived_twice(m: nn.Module) -> bool:
    """Whether this is an adopted activation of which torch's own function can be differentiated twice."""
    return isinstance(m, AdoptedAct) and getattr(type(m), STOCK) in _DERIVED_TWICE


# by torch's derivatives, and as fast as by the ops
_AS_FAST = {cls for cls in _DERIVED_TWICE if _NAME[cls] in AS_FAST_IN_STOCK}


# what torch computes as fast, up to which limit of routing.py
_UP_TO = {cls: "SMALL_TENSOR_PIECEWISE" if _NAME[cls] in PIECEWISE else "SMALL_TENSOR_AS_FAST" for cls in _AS_FAST}
_UP_TO[nn.Tanh] = "TINY_TENSOR"


# Where torch's forward is as fast at all sizes, saves the same, and can be differentiated as often: that. And of z -
# tanh z, of which torch saves only tanh z, so that z may be written to in place
_AS_OURS: dict[type, tuple[str, ...]] = {nn.ReLU: ("forward",), nn.Tanhshrink: ("forward",)}


class AdoptedAct(Act):
    """A stock activation module that became ours: runs the op for the options that it has now, or else as in torch."""

    _fusegrad_small = False  # SMALL

    def forward(self, input: Tensor) -> Tensor:
        stock = getattr(type(self), STOCK)
        if self._fusegrad_small and is_compiling():
            return stock.forward(self, input)
        if stock in _UP_TO and is_short(input, getattr(routing, _UP_TO[stock])):
            return stock.forward(self, input)
        if is_one_of_others(input) or (stock in _AS_FAST and stock_maps(input, _NAME[stock])):
            return stock.forward(self, input)
        spec = of_adopted(self)
        if spec is not None and not vars(self).get("inplace") and as_written(stock):
            y = act_at_once(input, spec[0], spec[1] if spec[1] is None else float(spec[1]))
            if y is not None:
                return y
        route = route_of_tensor(input, _NAME[stock]) if isinstance(input, Tensor) else "written"
        if route == "written" or (route == "stock" and stock in _DERIVED_TWICE):
            return stock.forward(self, input)
        if as_written(stock) and takes_input(input) and not vars(self).get("inplace"):
            spec = _of_options(stock, vars(self))
            if spec is not None:
                a, param = REGISTRY[spec[0]], spec[1]
                return functional.act_by_route(route, input, a, a.default if param is None else float(param))
        return stock.forward(self, input)


def _adopted(stock: type[nn.Module]) -> type[AdoptedAct]:
    members = {k: getattr(stock, k) for k in ("__init__", "extra_repr", *_AS_OURS.get(stock, ()))}
    members |= {"__module__": __name__, STOCK: stock}
    return type(stock.__name__, (AdoptedAct, stock), members)


def _definitions(stock: type[nn.Module]) -> list[tuple[Any, str]]:
    """Its forward, and the functions of torch's that this calls."""
    functions = {f for a in _BY_MODULE[stock] for f in a.functions}
    names = stock.forward.__code__.co_names
    called = [(owner, k) for owner in (torch, F) for k in names if getattr(owner, k, None) in functions]
    return [(stock, "forward"), *called]


ADOPTED = {stock: _adopted(stock) for stock in _BY_MODULE}
for stock, adopted in ADOPTED.items():
    _BY_MODULE[adopted] = _BY_MODULE[stock]
    stands_for(stock, *_definitions(stock))
    of_ours = () if "forward" in _AS_OURS.get(stock, ()) else ((AdoptedAct, "forward"), (adopted, "forward"))
    stands_for(adopted, *of_ours, *_definitions(stock))
    globals()[adopted.__name__] = adopted  # where pickle looks for it
_OPTIONS_OF: dict[type, tuple[str, ...]] = {
    cls: tuple({name for a in _BY_MODULE[cls] for name in (*([a.param] if a.param else []), *a.options)})
    for cls in (*ADOPTED, *ADOPTED.values())
}
_ONLY = {cls: _of_options(cls, {}) for cls, names in _OPTIONS_OF.items() if not names}
