"""Layers that were found in a Sequential or a loop, and activations after a layer.

C++ asks whether all is as it was found in one call (facts.py). Without it they are looked for anew on each call.
Parameters are read on each call too, and not kept.
"""

from collections.abc import Iterable, Sequence
from inspect import CO_NESTED
from types import CodeType, FunctionType
from typing import Any, NamedTuple
from weakref import WeakValueDictionary, ref

from torch import Tensor, nn

from .. import backends
from ..activations import REGISTRY
from ..at_once import kept_gated, kept_layer
from ..internals.module import children
from ..nn import Linear
from ..ops.chain import Plan
from . import facts as facts_

KEPT = "_fusegrad_kept"  # set on a Sequential, and on a Linear
_MOST, _TRIES = 8, 64  # of a layer
_VAIN, _AGAIN = 8, 256  # calls


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


class Turned(NamedTuple):
    """The same of the turns of a loop, and what they were: of each its layer, and what is called after it."""

    facts: tuple
    found: Found
    turns: tuple[tuple[nn.Module, Any], ...]


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


class Kept(dict[Any, Any]):
    """Of a Sequential by where they begin, of a layer by what is called after it.

    Copies of a module begin without.
    """

    tries = 0  # what changes on each call is not kept for ever
    tries_alone = 0
    misses = 0  # how often the layer was put off, and then called by itself
    alone: "Activated | None" = None  # the layer by itself

    def __copy__(self) -> "Kept":
        return Kept()

    def __deepcopy__(self, memo: Any) -> "Kept":
        return Kept()

    def __reduce__(self) -> Any:
        return Kept, ()


# Of layers of classes that are not ours, whose copies and pickles are theirs: by the identity of the layer.
_OF_OTHERS: dict[int, tuple[ref, type, Kept]] = {}


def _kept_of(layer: nn.Module) -> Kept:
    """What is kept of a layer; empty where nothing is yet."""
    if type(layer) is Linear:
        return layer.__dict__.setdefault(KEPT, Kept())
    key, found = id(layer), of_other(layer)
    if found is None:
        found = Kept()
        _OF_OTHERS[key] = ref(layer, lambda _: _OF_OTHERS.pop(key, None)), type(layer), found
    return found


def of_other(layer: Any) -> Kept | None:
    """What is kept of a layer of a class that is not ours."""
    entry = _OF_OTHERS.get(id(layer))
    return entry[2] if entry is not None and entry[0]() is layer and entry[1] is type(layer) else None


# Functions that are made anew on each call of what they are written in, and hold nothing of it: by their code.
_MET_FIRST: WeakValueDictionary[CodeType, FunctionType] = WeakValueDictionary()


def met_first(f: FunctionType) -> FunctionType:
    """The function itself, or the first that was met of all that do the same, as one made of the same lambda does."""
    if not f.__code__.co_flags & CO_NESTED or f.__closure__ or f.__defaults__ or f.__kwdefaults__:
        return f
    first = _MET_FIRST.setdefault(f.__code__, f)
    changed = first.__code__ is not f.__code__ or first.__defaults__ or first.__kwdefaults__
    return f if changed or first.__globals__ is not f.__globals__ else first


def of(f: Any) -> Kept | None:
    """What is kept of what may be a layer, if anything was tried."""
    return f.__dict__.get(KEPT) if type(f) is Linear else of_other(f)


def missed(layer: nn.Module) -> None:
    """Notes that a layer was put off in vain."""
    _kept_of(layer).misses += 1


def served(layer: nn.Module) -> None:
    """Notes that a layer was put off and became part of an op."""
    if (kept := of(layer)) is not None:
        kept.misses = 0


def is_vain(layer: Any) -> bool:
    """Whether a layer is best called where it stands: it was put off in vain, often, and not tried again lately."""
    kept = of(layer)
    if kept is None or kept:
        return False
    kept.misses += kept.misses >= _VAIN
    return kept.misses > _VAIN and kept.misses % _AGAIN > 0


def keep(m: nn.Module, modules: Sequence[nn.Module], at: int, end: int, of: Plan) -> None:
    """Keep layers that were found in a Sequential, if what makes them is known."""
    place, chosen = children(m), modules[at:end]
    if not _can_keep(of.names):
        return
    facts = facts_of([m for m in chosen if type(m) is Linear], [m for m in chosen if type(m) is not Linear])
    if facts is None:
        return
    one_by_one = of.names[-1] != "identity" or end == len(modules)
    facts = m.__dict__, "_modules", place, *facts
    found = Found(place, tuple(modules), facts, _parameters(chosen), of.acts, of.saves_input, one_by_one, end)
    m.__dict__.setdefault(KEPT, Kept())[at] = found


def keep_turns(turns: Sequence[tuple[nn.Module, Any]], of: Plan) -> Found | None:
    """The same of turns of a loop."""
    layers, acts = [layer for layer, _ in turns], [act for _, act in turns if act is not None]
    kept = _kept_of(layers[0])
    facts = facts_of(layers, {id(act): act for act in acts}.values()) if _can_keep(of.names) and may_try(kept) else None
    if facts is None:
        return None
    found = Found({}, (), facts, _parameters(layers), of.acts, of.saves_input, True, 0)
    kept["turns", id(turns[0][1])] = Turned(facts, found, tuple(turns))
    return found


def turned(layer: nn.Module, act: Any) -> Turned | None:
    """The turns that were kept, and begin with these."""
    found = _found(layer, ("turns", id(act)))
    return found if type(found) is Turned else None


def keep_activated(layer: nn.Module, act: Any, key: Any, name: str, param: float) -> None:
    """Keep that an activation was found after a layer, if what makes them is known."""
    kept = _kept_of(layer)
    if not may_try(kept) or not _can_keep((name,)):
        return
    facts = facts_of([layer], [act])
    if facts is not None:
        of_layer, saves_input = layer.__dict__["_parameters"], REGISTRY[name].saves_input
        kept[key] = Activated(act, facts, of_layer, name, param, saves_input)


def keep_alone(layer: nn.Module) -> None:
    """Keep what is true of a layer by itself."""
    facts = facts_of([layer], []) if _can_keep(("identity",)) else None
    if facts is not None:
        _kept_of(layer).alone = Activated(None, facts, layer.__dict__["_parameters"], "identity", 0.0, False)


def keep_gated(gate: nn.Module, up: nn.Module, act: Any, name: str, param: float) -> None:
    """The same of a gate, of two layers."""
    kept = _kept_of(gate)
    if not may_try(kept) or not _can_keep((name,)):
        return
    facts = facts_of([gate, up], [act])
    if facts is not None:
        of_gate, of_up = gate.__dict__["_parameters"], up.__dict__["_parameters"]
        kept[id(act)] = Gated(act, up, facts, of_gate, of_up, name, param)


def may_try(kept: Kept) -> bool:
    """Whether there is still to be looked for what may be kept."""
    kept.tries += 1
    if len(kept) >= _MOST:
        kept.clear()
    return kept.tries <= _TRIES


def activated(x: Any, act: Any, layer: Any, key: Any) -> Tensor | None:
    """act(layer(x)), as they were found before, if nothing has changed; else None. Not under a compiler."""
    found = _found(layer, key)
    return None if type(found) is not Activated else kept_layer(x, act, found)


def alone(x: Any, layer: Any) -> Tensor | None:
    """layer(x), the same."""
    kept = of(layer)
    found = None if kept is None else kept.alone
    return None if found is None or found.facts[0] is not layer.__dict__ else kept_layer(x, None, found)


def may_be_found(layer: Any) -> bool:
    """Whether what is called after a layer was not looked for often."""
    kept = of(layer)
    return kept is None or kept.tries < _TRIES


def is_found(layer: Any, key: Any) -> bool:
    return _found(layer, key) is not None


def is_new(layer: Any) -> bool:
    """Whether it is not kept yet that a layer is called alone, and that was not tried often."""
    kept = _kept_of(layer)
    kept.tries_alone += 1
    return (kept.alone is None or kept.alone.facts[0] is not layer.__dict__) and kept.tries_alone <= _TRIES


def gated(x: Any, act: Any, gate: Any, up: Any) -> Tensor | None:
    """act(gate(x)) up(x), the same."""
    found = _found(gate, id(act))
    return None if type(found) is not Gated else kept_gated(x, act, up, found)


def _found(layer: Any, key: Any) -> Any:
    kept = of(layer)
    if not kept:
        return None
    found = kept.get(key)
    # else it is of what this was copied from
    return found if found is not None and found.facts[0] is layer.__dict__ else None


def _can_keep(names: Iterable[str]) -> bool:
    return backends.node is not None and backends.KNOWN.issuperset(names)


def _parameters(modules: Iterable[nn.Module]) -> tuple[dict, ...]:
    return tuple(m.__dict__["_parameters"] for m in modules if type(m) is Linear)


def facts_of(layers: Sequence[nn.Module], acts: Iterable[Any]) -> tuple | None:
    """What is true of layers and activations, and of all that makes them; None if more may count."""
    acts = [*acts]
    parts = [*map(facts_.of_layer, layers), *map(facts_.of_act, acts)]
    if any(part is None for part in parts):
        return None
    of_each = [fact for part in parts for fact in part or ()]
    return *of_each, *facts_.of_classes((*layers, *acts)), *facts_.of_all()
