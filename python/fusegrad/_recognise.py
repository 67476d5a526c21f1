"""Which activation of the registry a stock module or function stands for."""

import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import nn

from .activations import REGISTRY, Activation
from .nn import Act

Spec = tuple[str, float | None]  # name and parameter of an activation

_BY_MODULE: dict[type, list[Activation]] = defaultdict(list)
_BY_FUNCTION: dict[Callable, list[Activation]] = defaultdict(list)
_BY_METHOD: dict[str, list[Activation]] = defaultdict(list)


def _defaults(a: Activation) -> dict[str, Any]:
    parameters = {} if a.module is None else inspect.signature(a.module).parameters
    named = {k: parameters[k].default for k in a.options}
    return named | ({a.param: a.default} if a.param else {})


_DEFAULTS = {a.name: _defaults(a) for a in REGISTRY.values()}
for a in REGISTRY.values():
    if a.module is not None:
        _BY_MODULE[a.module].append(a)
    for f in a.functions:
        _BY_FUNCTION[f].append(a)
    for m in a.methods:
        _BY_METHOD[m].append(a)


def of_module(module: nn.Module) -> Spec | None:
    """The activation of an activation module, None for any other module, a subclass, or options we do not have."""
    if type(module) is Act:
        return module._name, module._param
    for a in _BY_MODULE.get(type(module), ()):
        if spec := _spec(a, vars(module)):
            return spec
    return None


def of_call(target: object, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Spec | None:
    """The activation of a call of a function, or of a Tensor method by name, with arguments after the tensor."""
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


def _spec(a: Activation, given: dict[str, Any]) -> Spec | None:
    if any(given.get(k) != v for k, v in a.options.items()):
        return None
    param = given.get(a.param) if a.param else None
    return None if a.param and not a.accepts(param) else (a.name, param)
