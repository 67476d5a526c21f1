"""Which activation of the registry a stock module or function stands for; the classes that stock modules adopt."""

import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from . import functional
from .activations import REGISTRY, Activation
from .nn import Act, takes_input

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
    return _of_options(type(module), vars(module))


def _of_options(cls: type, options: dict[str, Any]) -> Spec | None:
    return next((spec for a in _BY_MODULE.get(cls, ()) if (spec := _spec(a, options))), None)


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


# --- classes to adopt ---------------------------------------------------------------------------------------------

STOCK = "_fusegrad_stock"  # on a class that a stock activation module adopts: its own class


class AdoptedAct(Act):
    """A stock activation module that became ours: runs the op for the options that it has now, or else as in torch."""

    def forward(self, input: Tensor) -> Tensor:
        stock = getattr(type(self), STOCK)
        spec = None if vars(self).get("inplace") else _of_options(stock, vars(self))
        if spec is not None and isinstance(input, Tensor) and takes_input(input) and _lets_ops_through(type(input)):
            return functional.act(input, *spec)
        return stock.forward(self, input)


def _lets_ops_through(cls: type[Tensor]) -> bool:
    """Whether a class of tensors can be given to an op that it has not heard of; torch.masked.MaskedTensor cannot."""
    if cls.__torch_dispatch__ is Tensor.__torch_dispatch__:
        return True
    return cls.__module__.startswith(("torch.distributed.", "torch._subclasses."))  # DTensor, FakeTensor


def _adopted(stock: type[nn.Module]) -> type[AdoptedAct]:
    members = {k: getattr(stock, k) for k in ("__init__", "extra_repr")}
    members |= {"__module__": __name__, STOCK: stock}
    return type(stock.__name__, (AdoptedAct, stock), members)


ADOPTED = {stock: _adopted(stock) for stock in _BY_MODULE}
for stock, adopted in ADOPTED.items():
    _BY_MODULE[adopted] = _BY_MODULE[stock]
    globals()[adopted.__name__] = adopted  # where pickle looks for it
