"""Layers and activations that stand one after another in a torch.nn.Sequential: those that are one op, a chain."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..activations import REGISTRY
from ..functional_chain import run_chain
from ..internals.module import has_own_hooks, is_any_module_hooked
from ..internals.stock import as_written, called_as_written
from ..nn import Linear
from ..routing import CHAIN_WIDTH, may_be_a_chain
from .opened import LEFT_OUT
from .recognise import of_adopted
from .runtime import IN_PLACE, match


def run(modules: Sequence[nn.Module], at: int, x: Tensor) -> tuple[Tensor | None, int]:
    """What the modules from `at` on make of x as one op, or None; and up to where that was tried.

    Each is asked on each call whether it still is what its class says: what a Sequential does one by one.
    """
    if not may_be_a_chain(x) or is_any_module_hooked():
        return None, len(modules)
    weights: list[Tensor | None] = []
    names: list[str] = []
    params: list[float] = []
    known: set[type] = set()  # classes whose forward is as it was written
    count, fits = len(modules), True
    while at < count:
        layer = modules[at]
        held = layer.__dict__
        if type(layer) is not Linear or not _is_plain(layer, known) or IN_PLACE in held:
            break
        fits = fits and held["out_features"] <= CHAIN_WIDTH
        of_layer = held["_parameters"]
        weights += of_layer["weight"], of_layer["bias"]
        at += 1
        name, param = held.get("_fusegrad_act"), held.get("_fusegrad_param")
        if name is None and at < count:
            act = modules[at]
            spec = of_adopted(act)
            if spec is not None and (LEFT_OUT in act.__dict__ or not _is_plain(act, known)):
                spec = None
            elif spec is None:
                found = match(layer, act)
                spec = found if isinstance(found, tuple) else None
            if spec is not None:
                name, param = spec
                at += 1
        names.append(name or "identity")
        params.append(0.0 if name is None else REGISTRY[name].default if param is None else param)
    if len(names) < 2 or not fits:
        return None, at
    return run_chain(x, weights, names, params), at


def _is_plain(m: nn.Module, known: set[type]) -> bool:
    """Whether a call of a module is its forward as it was written, and no more."""
    cls = type(m)
    if cls not in known:
        if not (as_written(cls) and called_as_written(cls)):
            return False
        known.add(cls)
    return "forward" not in m.__dict__ and not has_own_hooks(m)
