"""Layers and activations that stand one after another in a torch.nn.Sequential: those that are one op, a chain."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ..activations import REGISTRY
from ..chained import run_chain, run_seen
from ..internals.call import is_ops_mode_on
from ..internals.module import has_own_hooks, is_any_module_hooked, reads_what_is_stored
from ..internals.stock import as_written, called_as_written
from ..nn import Linear
from ..routing import CHAIN_WIDTH, may_be_a_chain
from .runtime import IN_PLACE, match

_WEIGHTS = frozenset(("weight", "bias"))
_OTHERWISE = IN_PLACE, "forward", *_WEIGHTS  # held by a layer itself: it is not read, or called, as its class says


def run(modules: Sequence[nn.Module], at: int, x: Tensor) -> tuple[Tensor | None, int]:
    """What the modules from `at` on make of x as one op, or None; and up to where that was tried."""
    seen = is_ops_mode_on()
    if not (seen or may_be_a_chain(x)) or is_any_module_hooked() or not reads_what_is_stored(Linear):
        return None, len(modules)
    layers, names, params, end = chain_from(modules, at)
    if len(layers) < 2:
        return None, end
    weights: list[Tensor | None] = []
    for layer in layers:
        held = layer.__dict__["_parameters"]
        weights += held["weight"], held["bias"]
    return (run_seen if seen else run_chain)(x, weights, names, params), end


def chain_from(
    modules: Sequence[nn.Module], at: int
) -> tuple[list[nn.Module], list[str], list[float], int]:  # layers, activations and their parameters, the end
    """The layers from `at` on of which each is the input of the next, with their activations.

    Each module is asked whether it still is what its class says: what a Sequential does one by one, on each call.
    """
    layers: list[nn.Module] = []
    names: list[str] = []
    params: list[float] = []
    plain: set[type] = set()  # classes whose call is their forward as it was written
    count, fits = len(modules), True
    while at < count:
        layer = modules[at]
        held, cls = layer.__dict__, type(layer)
        if cls is not Linear or any(map(held.__contains__, _OTHERWISE)) or has_own_hooks(held):
            break
        if not held["_parameters"].keys() >= _WEIGHTS:
            break
        if cls not in plain:
            if not (as_written(cls) and called_as_written(cls)):
                break
            plain.add(cls)
        fits = fits and held.get("out_features", math.inf) <= CHAIN_WIDTH
        layers.append(layer)
        at += 1
        name, param = held.get("_fusegrad_act"), held.get("_fusegrad_param")
        if name is None and at < count:
            spec = match(layer, modules[at])
            if isinstance(spec, tuple):
                name, param = spec
                at += 1
        names.append(name or "identity")
        params.append(0.0 if name is None else REGISTRY[name].default if param is None else param)
    return layers if fits else [], names, params, at


def in_chains(modules: Sequence[nn.Module]) -> set[nn.Module]:
    """The layers of a Sequential that are part of a chain, for inputs that may be one's."""
    found: set[nn.Module] = set()
    at = 0
    while at < len(modules):
        layers, _, _, end = chain_from(modules, at)
        if len(layers) > 1:
            found.update(layers)
        at = max(end, at + 1)
    return found
