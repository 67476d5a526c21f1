"""Layers that were found in a Sequential, and activations after a layer; and what has to be as it was for that.

C++ asks all that in one call (csrc/autograd/facts.h): classes, hooks, slopes, functions of torch. Without it they are
looked for anew on each call. Parameters are read on each call too, and not kept.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from .. import backends
from ..activations import REGISTRY
from ..at_once import kept_gated, kept_layer
from ..internals.call import LINEAR_AS_IT_IS
from ..internals.module import HOOKS, HOOKS_OF_ALL, READS_WHAT_IS_STORED, children
from ..internals.stock import definitions
from ..nn import Linear
from ..ops.chain import Plan
from .match import IN_PLACE
from .opened import LEFT_OUT
from .recognise import of_call, options_of

KEPT = "_fusegrad_kept"  # set on a Sequential, and on a Linear
WEIGHTS = "weight", "bias"
OTHERWISE = IN_PLACE, "forward", *WEIGHTS  # held by a layer itself: it is not read, or called, as its class says


class Found(NamedTuple):
    """Layers of which each is the input of the next, as csrc/autograd/chain.h reads them."""

    place: dict[str, nn.Module | None]  # all modules of the Sequential, by name
    modules: tuple[nn.Module, ...]  # what they were
    facts: tuple  # owner, name, value, ...
    parameters: tuple[dict, ...]  # of each layer
    acts: str
    saves_input: int  # bits
    one_by_one: bool  # whether they may run so: else the last is left to what comes after it
    end: int  # where it ends among them


class Activated(NamedTuple):
    """A layer and what is called after it, as csrc/autograd/chain.h reads them."""

    act: Any
    facts: tuple  # the first owner is what the layer holds
    parameters: dict
    name: str
    param: float
    saves_input: bool


class Gated(NamedTuple):
    """Two layers of one input, and what is called after the first."""

    act: Any
    up: nn.Module
    facts: tuple  # the same, of the gate
    of_gate: dict
    of_up: dict
    name: str
    param: float


_MOST = 8  # of a layer


class Kept(dict[int, Any]):
    """Of a Sequential by where they begin, of a layer by the identity of what is called after it.

    Copies of a module begin without.
    """

    def __copy__(self) -> "Kept":
        return Kept()

    def __deepcopy__(self, memo: Any) -> "Kept":
        return Kept()

    def __reduce__(self) -> Any:
        return Kept, ()


def keep(m: nn.Module, modules: Sequence[nn.Module], at: int, end: int, of: Plan) -> None:
    """Keep layers that were found, if what makes them is known."""
    if not _can_keep(of.names):
        return
    place, layers = children(m), [module for module in modules[at:end] if type(module) is Linear]
    facts = [m.__dict__, "_modules", place, *_facts_of_all()]
    for module in modules[at:end]:
        of_module = _facts_of(module)
        if of_module is None:
            return
        facts += of_module
    for cls in {type(module) for module in modules[at:end]}:
        facts += _facts_of_class(cls)
    parameters = tuple(layer.__dict__["_parameters"] for layer in layers)
    one_by_one = of.names[-1] != "identity" or end == len(modules)
    found = Found(place, tuple(modules), tuple(facts), parameters, of.acts, of.saves_input, one_by_one, end)
    m.__dict__.setdefault(KEPT, Kept())[at] = found


def is_known(act: Any) -> bool:
    """Whether an activation is known by what it is: not by its code, which may read what changes."""
    return (of_call(act) if not isinstance(act, nn.Module) else options_of(act)) is not None


def keep_activated(layer: nn.Module, act: Any, name: str, param: float) -> None:
    """Keep that an activation that is known was found after a layer."""
    if _can_keep((name,)):
        of_layer, saves_input = layer.__dict__["_parameters"], REGISTRY[name].saves_input
        _keep(layer, Activated(act, _facts_of_activated((layer,), act), of_layer, name, param, saves_input))


def keep_gated(gate: nn.Module, up: nn.Module, act: Any, name: str, param: float) -> None:
    """The same of a gate, of two layers."""
    if _can_keep((name,)):
        of_gate, of_up = gate.__dict__["_parameters"], up.__dict__["_parameters"]
        _keep(gate, Gated(act, up, _facts_of_activated((gate, up), act), of_gate, of_up, name, param))


def _keep(layer: nn.Module, found: Activated | Gated) -> None:
    kept = layer.__dict__.setdefault(KEPT, Kept())
    if len(kept) >= _MOST:
        kept.clear()
    kept[id(found.act)] = found


def _facts_of_activated(layers: Sequence[nn.Module], act: Any) -> tuple:
    modules = [*layers, act] if isinstance(act, nn.Module) else layers
    facts = [part for module in modules for part in _facts_of(module) or ()]
    facts += [part for cls in {type(module) for module in modules} for part in _facts_of_class(cls)]
    return *facts, *_facts_of_all()


def activated(x: Any, act: Any, layer: Any) -> Tensor | None:
    """act(layer(x)), as they were found before, if nothing has changed; else None. Not under a compiler."""
    found = _found(layer, act)
    return None if type(found) is not Activated else kept_layer(x, act, found)


def gated(x: Any, act: Any, gate: Any, up: Any) -> Tensor | None:
    """act(gate(x)) up(x), the same."""
    found = _found(gate, act)
    return None if type(found) is not Gated else kept_gated(x, act, up, found)


def _found(layer: Any, act: Any) -> Activated | Gated | None:
    if type(layer) is not Linear:
        return None
    held = layer.__dict__
    found: Any = None if (kept := held.get(KEPT)) is None else kept.get(id(act))
    return found if found is not None and found.facts[0] is held else None  # else it is of what this was copied from


def _can_keep(names: Iterable[str]) -> bool:
    return backends.node is not None and backends.KNOWN.issuperset(names)


def _facts_of(module: nn.Module) -> list[Any] | None:
    """What is true of a layer or an activation; None if more may count."""
    cls, held, absent = type(module), module.__dict__, backends.node.ABSENT
    names: tuple[str, ...]
    if cls is Linear:
        names = "_parameters", "_fusegrad_act", "_fusegrad_param", *OTHERWISE
    elif (options := options_of(module)) is not None:
        names = *options, LEFT_OUT
    else:
        return None
    facts = [held, "forward", absent, module, None, cls]
    facts += [part for name in HOOKS for part in (held, name, backends.node.EMPTY)]
    return facts + [part for name in names for part in (held, name, held.get(name, absent))]


def _facts_of_class(cls: type) -> list[Any]:
    return [part for definition in definitions(cls) for part in definition]


def _facts_of_all() -> list[Any]:
    """What is true of all modules."""
    facts: list[Any] = [*LINEAR_AS_IT_IS]
    for owner, name in HOOKS_OF_ALL:
        facts += owner, name, backends.node.EMPTY
    name, value = READS_WHAT_IS_STORED
    facts += Linear, name, value
    for weight in WEIGHTS:
        facts += Linear, weight, backends.node.ABSENT
    return facts
