"""Chains that were found in a Sequential, and what has to be as it was for them to be found again.

C++ asks all that in one call (csrc/autograd/facts.h): classes, hooks, slopes, functions of torch. Without it chains are
looked for anew on each call. Parameters are read on each call too, and not kept.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from .. import backends
from ..internals.call import LINEAR_AS_IT_IS
from ..internals.module import HOOKS, HOOKS_OF_ALL, READS_WHAT_IS_STORED, children
from ..internals.stock import definitions
from ..nn import Linear
from ..ops.chain import Plan
from .match import IN_PLACE
from .opened import LEFT_OUT
from .recognise import options_of

KEPT = "_fusegrad_kept"  # set on a Sequential
WEIGHTS = "weight", "bias"
OTHERWISE = IN_PLACE, "forward", *WEIGHTS  # held by a layer itself: it is not read, or called, as its class says


class Found(NamedTuple):
    """A chain, as csrc/autograd/chain.h reads it."""

    place: dict[str, nn.Module | None]  # all modules of the Sequential, by name
    modules: tuple[nn.Module, ...]  # what they were
    facts: tuple  # owner, name, value, ...
    parameters: tuple[dict, ...]  # of each layer
    acts: str
    saves_output: bool
    end: int  # where it ends among them


class Kept(dict[int, Found]):
    """By where they begin. Copies of a module begin without."""

    def __copy__(self) -> "Kept":
        return Kept()

    def __deepcopy__(self, memo: Any) -> "Kept":
        return Kept()

    def __reduce__(self) -> Any:
        return Kept, ()


def keep(m: nn.Module, modules: Sequence[nn.Module], at: int, end: int, of: Plan) -> None:
    """Keep a chain that was found, if what makes it is known."""
    if backends.node is None or not backends.KNOWN.issuperset(of.names):
        return
    absent, place = backends.node.ABSENT, children(m)
    facts = [m.__dict__, "_modules", place, *_facts_of_all()]
    parameters = []
    names: tuple[str, ...]
    for module in modules[at:end]:
        cls, held = type(module), module.__dict__
        facts += [module, None, cls, held, "forward", absent]
        facts += [part for name in HOOKS for part in (held, name, backends.node.EMPTY)]
        if cls is Linear:
            parameters.append(held["_parameters"])
            names = "_parameters", "_fusegrad_act", "_fusegrad_param", *OTHERWISE
        elif (options := options_of(module)) is not None:
            names = *options, LEFT_OUT
        else:
            return
        facts += [part for name in names for part in (held, name, held.get(name, absent))]
    for cls in {type(module) for module in modules[at:end]}:
        facts += [part for definition in definitions(cls) for part in definition]
    found = Found(place, tuple(modules), tuple(facts), tuple(parameters), of.acts, of.saves_output, end)
    m.__dict__.setdefault(KEPT, Kept())[at] = found


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
