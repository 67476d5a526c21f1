"""Each call of a Linear in the forward of a module and in its other methods, and the activation it is followed by.

`fuse` rewrites what is found here, `explain` prints it.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from itertools import takewhile
from typing import Any

from torch import nn

from .. import routing
from ..activations import REGISTRY
from ..internals.module import children, stored
from ..nn import Linear, why_alone, why_unfit
from ..nn_gated import GatedLinear, GatedMLP
from ..nn_mlp import MLP
from . import chains, opened, recognise, wrapped
from .authors import BLOCKS, author_of_forward, is_torchs, methods
from .code import Unreadable, names_in
from .facts import is_one_call
from .fused import SEQUENTIAL, SITES, UNFUSED, fused_class_of, is_sequential
from .kinds import Act, Gate, Held, Layer, Term, Variable, is_scaled, layers
from .match import match, why_unknown
from .opened import LEFT_OUT
from .paths import Path, find, join
from .reasons import WHEN_CALLED, is_of_containers, why_adapted
from .recognise import Spec
from .rewrite import Method, Passed, Site, longer, read
from .rows import Row, is_narrow

Key = tuple[str, int]  # name of a method, number of a site in it


@dataclass(frozen=True)
class Call:
    """A call of a Linear."""

    linear: nn.Module
    fused_with: str  # activation and where it stands, or ""
    why: str  # why it is called alone, or ""
    key: Key | None = None  # where in the source, None in a Sequential
    _: KW_ONLY
    acts: frozenset[str] = frozenset()  # what it may be fused with, but for gates
    scaled: bool = False  # before the activation
    chain: tuple[nn.Module, ...] = ()  # the layers that are one op with it, and itself
    multiplied: bool = False  # nothing is computed after it, but the product can be an op
    alone: bool = False  # nothing is to be told of it: the layer is called, whatever reads it
    sums: bool = False  # the same: the module adds two products
    undecided: bool = False  # what is called with its result is known when it is called
    by_rows: bool = False  # its input is multiplied by a number a row, in the place of its result
    one_by_one: int | None = None  # in a module of ours, which fuse leaves as it is: up to how many rows are two calls


def calls(m: nn.Module, path: str = "") -> Iterator[Call]:
    """The calls of Linears that m, which stands at `path`, makes."""
    for ours, parts in OURS.items():
        if isinstance(m, ours) and type(m).forward is ours.forward and "forward" not in vars(m):
            yield from _in_ours(m, ours, parts)
    fused = fused_class_of(m)
    original = type(m) if fused is None else vars(fused)[UNFUSED]
    if is_sequential(original):
        yield from _in_sequential(m, path)
        return
    author = author_of_forward(original)
    if is_torchs(author) and author not in (nn.Module, *BLOCKS) and not issubclass(original, nn.Linear):
        replaced = author is nn.Sequential and nn.Sequential.forward is not SEQUENTIAL["forward"]
        why = "torch.nn.Sequential.forward was replaced" if replaced else f"called by torch's own {author.__name__}"
        yield from (Call(child, "", why) for child in _linears(m))
    unread: dict[tuple[Linear, str], list[str]] = defaultdict(list)  # methods that may call a layer, by why
    for name, function in methods(original):
        if name in vars(m) or any(function is vars(ours).get(name) for ours in OURS):
            continue
        try:
            inner = wrapped.layers(function)[-1]
            method = read(inner, inner.__code__)
        except Unreadable as e:
            for child in _linears(m, None if name == "forward" else names_in(function)):
                unread[child, str(e)].append(name)
            continue
        for call in _in_method(m, path, name, method):
            adapted = why_adapted(m, call.linear) if call.why and not call.undecided else None
            yield replace(call, why=adapted) if adapted else call
    for (child, why), names in unread.items():
        yield Call(child, "", f"{original.__name__}.{', '.join(names)}: {why}")


# the modules of ours that make one op of several layers: which layers; none if each has layers of its own
OURS: dict[Any, tuple[str, ...]] = {
    MLP: (),
    GatedLinear: ("gate", "up"),
    GatedMLP: ("gate_proj", "up_proj"),
}


def _in_ours(m: Any, ours: type, names: tuple[str, ...]) -> Iterator[Call]:
    layers: list[Any] = [children(m).get(name) for name in (m.layer_names if ours is MLP else names)]
    why = next((why for layer in layers if (why := why_alone(layer) or why_unfit(layer))), "")
    for layer in layers:
        if isinstance(layer, Linear):
            k, n = (max(1, vars(layers[0]).get(name, 1)) for name in ("in_features", "out_features"))
            rows = routing.SMALL_TENSOR_IN_TRAINING // n if ours is MLP else routing.SMALL_GATED // (k * n)
            narrow = all(isinstance(each, Linear) and each.out_features <= routing.CHAIN_WIDTH for each in layers)
            with_ = "" if why else f"{_name(m._act or 'identity', m._param)} (its {ours.__name__})"
            chain = tuple(layers) if ours is MLP and not why and narrow else ()
            yield Call(layer, with_, why, chain=chain, one_by_one=rows)
    last = children(m).get("down_proj") if ours is GatedMLP else None
    if isinstance(last, Linear):
        yield Call(last, "", why_alone(last) or "the last of its GatedMLP")


def _in_sequential(m: nn.Module, path: str) -> Iterator[Call]:
    items = list(children(m).items())
    chained = chains.in_chains([*filter(None, children(m).values())]) if fused_class_of(m) is not None else {}
    for k, (_, child) in enumerate(items):
        after = next((item for item in items[k + 1 :] if type(item[1]) is not nn.Identity), (*items, None)[k + 1])
        if isinstance(child, nn.Module) and opened.is_layer(child):
            call = Call(child, "", "the last of its Sequential")
            if after is not None:
                call = _call(child, {join(path, after[0]): after[1]}, type(after[1]).__name__)
            yield replace(call, chain=chained.get(child, ()))


def _in_method(m: nn.Module, path: str, name: str, method: Method) -> Iterator[Call]:
    in_gates: set[Any] = set()  # activations that are told of with their gate
    chained: dict[nn.Module, tuple[nn.Module, ...]] = {}
    for k, site in enumerate(method.sites):
        if site.product:
            if LEFT_OUT not in vars(m):
                yield Call(m, "", "", (name, k), alone=True)
            continue
        if site.sums:
            yield Call(m, "", "", (name, k), alone=True, sums=True)
        elif site.alone:
            held = [*find(m, site.alone).values()]
            if all(map(is_one_call, held)):
                yield from (Call(layer, "", "", (name, k), alone=True) for layer in held)
            continue
        if site.rows is not None:
            yield from _by_rows(m, *site.rows, site.passed, (name, k))
            continue
        if site.longer and any(_is_identity(m, act) for act in site.longer.identities):
            k, site = longer(k), site.longer
        if site.after_loop is not None and (name, k) in vars(fused_class_of(m) or nn.Module).get(SITES, ()):
            chained |= chains.by_layer(_in_loop(m, site, site.after_loop))
        plain = all(find(m, paths) for paths in site.passed if paths)
        for act in site.reads:
            if isinstance(act, Gate):
                of_gate = [*_in_gate(m, path, act, plain, (name, k))]
                if any(call.fused_with for call in of_gate):
                    in_gates |= {a.node for side in (act.left, act.right) if (a := _act_of(side))}
                yield from of_gate
                continue
            if act.node in in_gates or not _is_reached(m, act):
                continue
            acts = _acts(m, path, act) if plain else {}
            for layer in layers(act):
                for linear in _held(m, layer.paths):
                    if plain and _is_undecided(m, act) and not _why_alone(linear):
                        why = f"read by {act.text}, {WHEN_CALLED}"
                        yield Call(linear, "", why, (name, k), undecided=True)
                        continue
                    args, kwargs = _arguments(m, act)
                    call = _call(linear, acts, act.text, join(path, act.text), (name, k), args, kwargs)
                    yield replace(call, chain=chained.get(linear, ()), scaled=is_scaled(act.of))
    for paths, why in method.alone:
        for linear in _held(m, paths):
            yield Call(linear, "", why, chain=chained.get(linear, ()))


def _by_rows(m: nn.Module, layer: Layer, row: Row, passed: Passed, key: Key) -> Iterator[Call]:
    """The layers that a product with a number a row is best made before."""
    held = [*_held(m, layer.paths)]
    if held and all(map(is_narrow, held)) and all(find(m, paths) for paths in passed if paths):
        why = f"of many rows its input is multiplied by {ast.unparse(row.node)}, in the place of its result"
        yield from (Call(linear, "", why, key, by_rows=True) for linear in held if LEFT_OUT not in vars(linear))


def _is_identity(m: nn.Module, act: Act) -> bool:
    return any(type(f) is nn.Identity for f in _acts(m, "", act).values())


def _is_reached(m: nn.Module, act: Act) -> bool:
    """Whether all that comes before an activation may be identities."""
    return act.through is None or (_is_identity(m, act.through) and _is_reached(m, act.through))


def _in_loop(m: nn.Module, site: Site, after: tuple[Path, ...]) -> list[nn.Module]:
    """The layers that a loop goes through, and the one after it, which are part of a chain."""
    reads = [read for read in site.reads if isinstance(read, Act)]
    turns = {linear: act for act in reads for each in layers(act) for linear in _held(m, each.paths)}
    acts = {act: (_acts(m, "", act).values(), _arguments(m, act)) for act in turns.values()}

    def may_turn(linear: nn.Module) -> bool:
        found, arguments = acts[turns[linear]]
        known = bool(found) and all(isinstance(match(act, *arguments), tuple) for act in found)
        return known and chains.may_turn(linear)

    begun = [*takewhile(may_turn, turns)]
    if len(begun) == len(turns):
        begun += filter(chains.may_turn, _held(m, after) if after else ())
    return begun if len(begun) > 1 else []


def _held(m: nn.Module, paths: tuple[Path, ...]) -> Iterator[nn.Module]:
    """The layers that a module holds at these places, or is itself where it calls torch's function."""
    if not paths:
        if LEFT_OUT not in vars(m):
            yield m
        return
    yield from (linear for linear in find(m, paths).values() if opened.is_layer(linear))


def _acts(m: nn.Module, path: str, act: Act) -> dict[str, Any]:
    """What may be called after a layer, by where it stands."""
    if any(act.paths):
        return {join(path, at): held for at, held in find(m, act.paths).items()}
    return {} if act.target is None else {"called as a function": act.target}


def _is_undecided(m: nn.Module, act: Act) -> bool:
    """Whether what is called is not known before, and may be given a layer that was put off."""
    if act.method or act.target is not None or act.looked_up is None or find(m, act.paths):
        return False
    return all(find(m, paths) for paths in act.looked_up if paths) and not is_of_containers(act.node.func)


def _arguments(m: Any, act: Act) -> tuple[tuple, dict[str, Any]]:
    """The arguments of an activation after the tensor, as the module holds them."""

    def value(v: Any) -> Any:
        return next(iter(find(m, v.paths).values()), None) if isinstance(v, Held) else v

    return tuple(map(value, act.args)), {k: value(v) for k, v in act.kwargs.items()}


def _in_gate(m: nn.Module, path: str, gate: Gate, plain: bool, key: Key) -> Iterator[Call]:
    """The calls of the two layers of a gate, or of the one that is halved."""
    sides = gate.left, gate.right
    act = next(act for side in sides if (act := _act_of(side)))
    matched = {at: match(a, *_arguments(m, act)) for at, a in _acts(m, path, act).items()}
    found = {at: spec for at, spec in matched.items() if isinstance(spec, tuple)}
    if not plain or not found or act.method:
        return  # another site is that of the activation
    names = " or ".join(dict.fromkeys(_name(*spec) for spec in found.values()))
    places = join(path, act.text) if len(found) > 1 else next(iter(found))
    other = next(side for side in sides if _act_of(side) is not act)
    gates, ups = ([*_of(m, side)] for side in (act, other))
    inputs = _inputs(act), _inputs(other)
    for linear in dict.fromkeys((*gates, *ups)):
        if all(inputs) and inputs[0].isdisjoint(inputs[1]):
            yield Call(linear, "", "multiplied with the gate of another input: fused is act(gate(x)) * up(x)", key)
        elif why := _why_alone(linear):
            yield Call(linear, "", why, key)
        elif gates and ups:
            part = f"{names}, the gate" if linear in gates else f"times {names} of the gate"
            yield Call(linear, f"{part} ({places})", "", key)


def _inputs(term: Term) -> set[str]:
    """What the layers of a term are called with, as it is written."""
    return {ast.unparse(layer.node.args[0]) for layer in layers(term) if isinstance(layer, Layer)}


def _act_of(term: Term) -> Act | None:
    match term:
        case Act():
            return term
        case Variable(held=held) if held is not None:
            return _act_of(held)
    return None


def _of(m: nn.Module, term: Term) -> Iterator[nn.Module]:
    for layer in layers(term):
        yield from _held(m, layer.paths)


def _call(
    linear: nn.Module,
    acts: dict[str, Any],  # what may be called next, by where it stands
    text: str,  # what the author calls it
    several: str = "",  # where they stand if there are several
    key: Key | None = None,
    args: tuple = (),
    kwargs: dict[str, Any] | None = None,
) -> Call:
    if why := _why_alone(linear):
        return Call(linear, "", why, key)
    found = {at: activation_of(act, args, kwargs) for at, act in acts.items()}
    specs = {at: spec for at, spec in found.items() if isinstance(spec, tuple)}
    if not specs:
        whys = dict.fromkeys(why or why_unknown(acts[at], text) for at, why in found.items())
        nothing = bool(acts) and all(type(act) is nn.Identity for act in acts.values())
        return Call(linear, "", "; ".join(map(str, whys)) or f"read by {text}", key, multiplied=nothing)
    names = " or ".join(dict.fromkeys(_name(*spec) for spec in specs.values()))
    with_ = f"{names} ({several if len(acts) > 1 else next(iter(specs))})"
    return Call(linear, with_, "", key, acts=frozenset(name for name, _ in specs.values()))


def _why_alone(linear: nn.Module) -> str | None:
    """Why a layer cannot be part of a fused call, as far as that is known before the call, or None."""
    if LEFT_OUT in vars(linear):
        return "filter_fn left it alone"
    why = why_alone(linear) if isinstance(linear, Linear) else None
    is_stored = isinstance(linear, nn.Linear) and stored(linear, "weight") is not None
    return why or (why_unfit(linear) if is_stored else None)


def activation_of(act: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Spec | str | None:
    """As `match`, and of an activation that is gone into: what it applies first."""
    spec = match(act, args, kwargs)
    if spec is None and recognise.of_glu(act, args, kwargs or {}) is not None:
        return "glu", None
    if spec is not None or args or kwargs or opened.taking(act) is None:
        return spec
    owner, site = opened.applied_first(act) or (None, None)
    for begun in site.reads if isinstance(site, Site) else ():
        a = begun if isinstance(begun, Act) else _act_of(begun.left) or _act_of(begun.right)
        assert a is not None
        held = [*find(owner, a.paths).values()] if isinstance(owner, nn.Module) and any(a.paths) else [a.target]
        for first in held:
            if (spec := activation_of(first, *_arguments(owner, a))) is not None:
                return spec if a is begun or isinstance(spec, str) else (f"{_name(*spec)}, the gate", None)
    return None


def _name(name: str, param: float | None) -> str:
    return name if param is None or param == REGISTRY[name].default else f"{name}, {param:g}"


def _linears(m: nn.Module, names: set[str] | None = None) -> Iterator[Linear]:
    """The layers that a module holds, under these names, or any; in lists too."""
    for name, child in children(m).items():
        if names is not None and name not in names:
            continue
        if isinstance(child, Linear):
            yield child
        elif isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _linears(child)
