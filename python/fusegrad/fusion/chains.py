"""Layers and activations that stand one after another in a torch.nn.Sequential: those that are one op, a chain."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.compiler import is_compiling

from ..activations import REGISTRY
from ..chained import run_chain, run_seen
from ..internals.call import is_ops_mode_on
from ..internals.module import has_own_hooks, is_any_module_hooked, reads_what_is_stored
from ..internals.stock import as_written, called_as_written
from ..nn import Linear
from ..ops.chain import plan
from ..routing import CHAIN_WIDTH, kept_chain, may_be_a_chain
from .kept import KEPT, OTHERWISE, WEIGHTS, keep
from .runtime import match


def run(m: nn.Module, modules: Sequence[nn.Module], at: int, x: Tensor) -> tuple[Tensor | None, int]:
    """What the modules of a Sequential make of x, from `at` on, as one op, or None; and up to where that was tried."""
    if at > 0:  # else that was tried
        y, end = run_again(m, at, x)
        if y is not None:
            return y, end
    seen = is_ops_mode_on()
    if not (seen or may_be_a_chain(x)) or is_any_module_hooked() or not reads_what_is_stored(Linear):
        return None, len(modules)
    layers, names, params, end = chain_from(modules, at)
    if len(layers) < 2:
        return None, end
    weights = []
    for layer in layers:
        held = layer.__dict__["_parameters"]
        weights += held["weight"], held["bias"]
    of = plan(tuple(names), tuple(params), tuple([b is not None for b in weights[1::2]]))
    if not seen:
        keep(m, modules, at, end, of)
    return (run_seen if seen else run_chain)(x, weights, of), end


def run_again(m: nn.Module, at: int, x: Tensor) -> tuple[Tensor | None, int]:
    """The same of a chain that was found there before, and has not changed; where there is none, None and `at`."""
    found = None if is_compiling() or (kept := m.__dict__.get(KEPT)) is None else kept.get(at)
    y = None if found is None else kept_chain(x, found)
    return (None, at) if y is None else (y, found.end)


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
        if cls is not Linear or any(map(held.__contains__, OTHERWISE)) or has_own_hooks(held):
            break
        if not held["_parameters"].keys() >= {*WEIGHTS}:
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
