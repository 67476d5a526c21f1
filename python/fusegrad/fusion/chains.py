"""Layers, with activations, of which each is the input of the next, in a torch.nn.Sequential or a loop: those that are
one op, a chain.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from ..activations import REGISTRY
from ..at_once import are_as_found, kept_chain, may_be_layers
from ..chained import run_chain, run_seen
from ..internals.call import in_torch_func, is_ops_mode_on
from ..internals.module import children, has_own_hooks, is_any_module_hooked, reads_what_is_stored
from ..internals.parametrized import has_computed_weight
from ..internals.stock import as_written, called_as_written
from ..nn import Linear
from ..ops.chain import Plan, plan
from ..routing import may_be_a_chain
from . import kept
from .facts import OTHERWISE, WEIGHTS, is_one_call
from .kept import KEPT, Kept, keep, may_try
from .match import match
from .opened import LEFT_OUT
from .recognise import STOCK, Spec

_PARAMETERS = Tensor, nn.Parameter, type(None)


def run(m: nn.Module, modules: Sequence[nn.Module], at: int, x: Tensor) -> tuple[Tensor | None, int]:
    """What the modules of a Sequential make of x, from `at` on, as one op, or None; and up to where that was tried."""
    if at > 0:  # else that was tried
        y, end = run_again(m, at, x)
        if end > at:
            return y, end
    seen = is_ops_mode_on()
    if not (seen or _may_be_kept_for(x) or may_be_a_chain(x)) or not _may_be_chains():
        return None, len(modules)
    layers, names, params, end = chain_from(modules, at, seen)
    if not layers:
        return None, end
    if len(layers) == 1 and type(layers[0]) is not Linear:
        return None, at  # before a weight is computed
    weights, of = _plan(layers, names, params)
    if not seen:
        keep(m, modules, at, end, of)
        y, _ = run_again(m, at, x)
        if y is not None:
            return y, end
    if len(layers) < 2 or not (seen or may_be_a_chain(x)):
        return None, end
    return (run_seen if seen else run_chain)(x, weights, of), end


def _may_be_kept_for(x: Any) -> bool:
    """Whether layers of this input are worth to be kept: C++ may run them, in plain eager mode or under torch.func."""
    return may_be_layers(x) or (in_torch_func() and not is_compiling())


def _may_be_chains() -> bool:
    """Whether a call of a Linear is what its class says, as far as that is the same for all."""
    return not is_any_module_hooked() and reads_what_is_stored(Linear)


def _plan(
    layers: Sequence[nn.Module], names: Sequence[str], params: Sequence[float]
) -> tuple[list[Tensor | None], Plan]:
    weights: list[Any] = []
    for layer in layers:
        held = layer.__dict__["_parameters"]
        weights += held["weight"] if type(layer) is Linear else layer.weight, held["bias"]
    return weights, plan(tuple(names), tuple(params), tuple([b is not None for b in weights[1::2]]))


def run_again(m: nn.Module, at: int, x: Tensor) -> tuple[Tensor | None, int]:
    """The same of a chain that was found there before, and has not changed; where there is none, None and `at`.

    None and the end where its layers are best made one by one.
    """
    found = None if is_compiling() or (of := m.__dict__.get(KEPT)) is None else of.get(at)
    if found is None or (y := kept_chain(x, found)) is None:
        return None, at
    return None if y is False else y, found.end


def by_torch(m: nn.Module, x: Any) -> Any:
    """What a Sequential makes of an input that no op takes: torch's functions.

    Of layers that are as they were found before these are called at once, which leaves out what torch does around them.
    """
    modules: list[Any] = [*children(m).values()]
    end = 0
    found = m.__dict__.setdefault(KEPT, Kept()).get(0)
    if found is not None and are_as_found(found):
        end = found.end
    elif modules and may_try(m.__dict__[KEPT]):
        layers, names, params, upto = chain_from(modules, 0)
        if layers:
            keep(m, modules, 0, upto, _plan(layers, names, params)[1])
    for at, module in enumerate(modules):
        cls = type(module)
        if at < end and cls is Linear and module._fusegrad_act is None:
            parameters = module._parameters
            x = F.linear(x, parameters["weight"], parameters["bias"])
        elif at < end and (stock := getattr(cls, STOCK, None)) is not None:
            x = stock.forward(module, x)
        else:
            x = module(x)
    return x


def keep_activated(act: Any, layer: Any, x: Any, key: Any, spec: Spec) -> None:
    """Keep that an activation is called after a layer, if both are what their classes say and x is what they take."""
    if may_be_layers(x) and _may_be_kept(layer):
        kept.keep_activated(layer, act, key, spec[0], _parameter(*spec))


def may_be_met(layer: Any) -> bool:
    """Whether a layer may be kept where torch.func is at work, and is not yet."""
    return is_one_call(layer) and kept.may_be_found(layer) and _may_be_kept(layer)


def keep_met(act: Any, layer: Any, key: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> bool:
    """Keep that an activation is called after a layer, where torch.func is at work; whether that was not kept yet."""
    if is_compiling() or kept.is_found(layer, key) or not may_be_met(layer):
        return False
    spec = match(act, args, kwargs)
    if not isinstance(spec, tuple) or spec[0] == "identity":
        return False
    kept.keep_activated(layer, act, key, spec[0], _parameter(*spec))
    return True


def alone(f: Any, x: Any) -> Any:
    """f(x), of a layer, whatever reads it; in one call where it is as it was found before."""
    if type(x) is Tensor and not is_compiling():
        y = kept.alone(x, f)
        if y is None and is_one_call(f) and kept.is_new(f) and _may_be_kept_for(x) and _may_be_kept(f):
            kept.keep_alone(f)
            y = kept.alone(x, f)
        if y is not None:
            return y
    return f(x)


def keep_gated(act: Any, gate: Any, up: Any, x: Any) -> None:
    """The same of a gate: what comes of the one is multiplied with another layer of x."""
    if may_be_layers(x) and _are_links(gate, up) and isinstance(spec := match(act), tuple):
        kept.keep_gated(gate, up, act, spec[0], _parameter(*spec))


def _may_be_kept(layer: Any) -> bool:
    return _are_links(layer) if type(layer) is Linear else _may_be_chains() and _is_plain(layer)


def _are_links(*layers: Any) -> bool:
    """Whether each is a Linear that is what its class says, without an activation."""
    return (
        _may_be_chains()
        and as_written(Linear)
        and called_as_written(Linear)
        and all(_is_link(layer) and layer._fusegrad_act is None for layer in layers)
    )


def _is_link(layer: Any) -> bool:
    """Whether this is a Linear that is what its class says."""
    return type(layer) is Linear and _is_plain(layer)


def may_compute(layer: Any) -> bool:
    """Whether this is such a layer, under a mode that knows what chains mean: elsewhere they run one by one."""
    return is_ops_mode_on() and is_computed_link(layer)


def is_computed_link(layer: Any) -> bool:
    """Whether this is torch's layer, of a weight that it computes and that may be computed before other layers run."""
    return isinstance(layer, nn.Linear) and LEFT_OUT not in layer.__dict__ and has_computed_weight(layer)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer has no hooks, no forward of its own, and plain weights where its class looks for them."""
    held = layer.__dict__
    if any(map(held.__contains__, OTHERWISE)) or has_own_hooks(held):
        return False
    parameters = held["_parameters"]
    return parameters.keys() >= {*WEIGHTS} and all(type(parameters[name]) in _PARAMETERS for name in WEIGHTS)


def chain_from(
    modules: Sequence[nn.Module],
    at: int,
    computed: bool = False,  # whether their weights may be computed too
) -> tuple[list[nn.Module], list[str], list[float], int]:  # layers, activations and their parameters, the end
    """The layers from `at` on of which each is the input of the next, with their activations.

    Each module is asked whether it still is what its class says: what a Sequential does one by one, on each call.
    """
    layers: list[nn.Module] = []
    names: list[str] = []
    params: list[float] = []
    count, fits = len(modules), as_written(Linear) and called_as_written(Linear)
    while at < count and (_is_link(layer := modules[at]) or (computed and is_computed_link(layer))):
        held = layer.__dict__
        layers.append(layer)
        at += 1
        name, param = held.get("_fusegrad_act"), held.get("_fusegrad_param")
        if name is None and at < count:
            spec = match(modules[at])
            if isinstance(spec, tuple):
                name, param = spec
                at += 1
        names.append(name or "identity")
        params.append(_parameter(name, param))
    return layers if fits else [], names, params, at


def _parameter(name: str | None, param: float | None) -> float:
    return 0.0 if name is None else REGISTRY[name].default if param is None else param


def may_turn(layer: Any) -> bool:
    """Whether a layer that a loop goes through may be one of a chain."""
    return _is_link(layer) and layer._fusegrad_act is None


def _spec_of_turn(layer: Any, act: Any) -> tuple[str | None, float | None] | None:
    """The activation of a turn that may be one of a chain, (None, None) where there is none; else None."""
    if not may_turn(layer):
        return None
    spec = (None, None) if act is None else match(act)
    return spec if isinstance(spec, tuple) else None


class Turns:
    """Turns of a loop, `x = act(layer(x))`, that were put off: each is the input of the next."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.calls: list[tuple[Any, Any]] = []  # layer and activation, None after the loop
        self.names: list[str] = []
        self.params: list[float] = []
        self.seen = False  # by a mode that knows what chains mean
        self.before: kept.Turned | None = None  # what was kept, as long as all turns are as they were there
        self.count = 0  # of these

    def add(self, layer: Any, act: Any) -> bool:
        """Puts off a turn, if its layer may be one of a chain."""
        if self.before is None and not self.calls:
            self.before = kept.turned(layer, act)
            if self.before is None and not self._begins():
                return False
        if self.before is not None:
            turns, count = self.before.turns, self.count
            if count < len(turns) and turns[count][0] is layer and turns[count][1] is act:
                self.count = count + 1
                return True
            if (count == len(turns) and _spec_of_turn(layer, act) is None) or not self._is_replayed():
                return False
        return self._add(layer, act)

    def _begins(self) -> bool:
        """Whether a chain may come of x."""
        self.seen = is_ops_mode_on()
        return (
            (self.seen or _may_be_kept_for(self.x) or may_be_a_chain(self.x))
            and _may_be_chains()
            and as_written(Linear)
            and called_as_written(Linear)
        )

    def _is_replayed(self) -> bool:
        """Puts off again the turns that were as before, where those after them are not; whether all may be."""
        turns = self.before.turns[: self.count] if self.before else ()
        self.before, self.count = None, 0
        may = self._begins() and all(self._add(*turn) for turn in turns)
        self.calls = [*turns]
        return may

    def _add(self, layer: Any, act: Any) -> bool:
        spec = _spec_of_turn(layer, act)
        if spec is None:
            return False
        self.calls.append((layer, act))
        self.names.append(spec[0] or "identity")
        self.params.append(_parameter(*spec))
        return True

    def as_one_op(self) -> Tensor | None:
        if self.before is not None and self.count == len(self.before.turns):
            y = kept_chain(self.x, self.before.found)
            if isinstance(y, Tensor):
                return y
        if self.before is not None and not self._is_replayed():
            return None
        if len(self.names) < len(self.calls) or not self.calls:
            return None
        weights, of = _plan([layer for layer, _ in self.calls], self.names, self.params)
        if not self.seen and _may_be_kept_for(self.x) and (found := kept.keep_turns(self.calls, of)) is not None:
            y = kept_chain(self.x, found)
            if isinstance(y, Tensor):
                return y
        if len(self.calls) < 2 or not (self.seen or may_be_a_chain(self.x)):
            return None
        return (run_seen if self.seen else run_chain)(self.x, weights, of)


# what is gone through without doing anything else
_CALM = nn.ModuleList, list, tuple, range


def turns(x: Any, over: Any) -> Any:
    """The beginning of a loop over layers that change x, if a chain may come of it; else x."""
    return Turns(x) if type(over) in _CALM and isinstance(x, Tensor) and not is_compiling() else x


def in_chains(modules: Sequence[nn.Module]) -> dict[nn.Module, tuple[nn.Module, ...]]:
    """The layers of a Sequential that are part of a chain, for inputs that may be one's, each with all of it."""
    found: dict[nn.Module, tuple[nn.Module, ...]] = {}
    at = 0
    while at < len(modules):
        layers, _, _, end = chain_from(modules, at)
        if len(layers) > 1:
            found |= by_layer(layers)
        at = max(end, at + 1)
    return found


def by_layer(layers: Sequence[nn.Module]) -> dict[nn.Module, tuple[nn.Module, ...]]:
    return dict.fromkeys(layers, tuple(layers))
