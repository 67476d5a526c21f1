"""Networks that were found to be one chain before: C++ asks whether they still are, and makes all derivatives at once.

What is kept of a Sequential that was fused, and why that is enough, is told in fusion/kept.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.compiler import is_compiling

from .. import backends
from ..fusion.chains import chain_from
from ..fusion.fused import UNFUSED, is_fused_sequential
from ..fusion.kept import KEPT, Kept, facts_of, may_try
from ..internals.module import HOOKS, children, is_hooked, reads_what_is_stored
from ..nn import Linear
from ..ops.chain import plan
from ..routing import have_kernels

_STREAMS = "streams"  # the place among what is kept of a Sequential


class Found(NamedTuple):
    """All layers of a Sequential, as csrc/autograd/streams.h reads them."""

    place: dict[str, nn.Module | None]  # its modules, by name
    modules: tuple[nn.Module, ...]  # what they were
    facts: tuple  # owner, name, value, ...
    parameters: tuple[dict, ...]  # of each layer
    acts: str


def laplacian_at_once(
    model: Any, x: Tensor, directions: Tensor | None, second: Tensor | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The value, first derivatives and Laplacian of a model that is one chain, by C++; None where that is left.

    Of directions and the second derivative of x as `evaluate` takes them; the axes are meant where there are none.
    """
    return _at_once(model, lambda found: backends.node.kept_streams(x, directions, second, found))


def directional_at_once(model: Any, x: Tensor, v: Tensor, order: int) -> tuple[Tensor, ...] | None:
    """The value and derivatives along v (1, ..., d) of such a model."""
    return _at_once(model, lambda found: backends.node.kept_taylor(x, v, order, found))


def _at_once(model: Any, run: Callable[[Found], tuple[Tensor, ...] | None]) -> Any:
    if backends.node is None or not backends.CHAINS or is_compiling() or not isinstance(model, nn.Module):
        return None
    if vars(type(model)).get(UNFUSED) is not nn.Sequential:
        return None
    held = model.__dict__
    kept = held.setdefault(KEPT, Kept())
    found = kept.get(_STREAMS)
    if found is not None and found.place is held["_modules"]:  # else it is of what this was copied from
        made = run(found)
        if made is not None:
            return made
    found = _find(model) if may_try(kept) else None
    if found is None:
        return None
    kept[_STREAMS] = found
    return run(found)


def _find(m: nn.Module) -> Found | None:
    """All layers of a Sequential that was fused."""
    place = children(m)
    if not is_fused_sequential(m) or is_hooked(m) or not reads_what_is_stored(Linear):
        return None
    modules = [child for child in place.values() if child is not None]
    layers, names, params, end = chain_from(modules, 0)
    if not layers or end < len(place) or not have_kernels(names) or not backends.KNOWN.issuperset(names):
        return None
    facts = facts_of(layers, [child for child in modules if type(child) is not Linear])
    if facts is None:
        return None
    parameters = tuple(layer.__dict__["_parameters"] for layer in layers)
    acts = plan(tuple(names), tuple(params), tuple(p["bias"] is not None for p in parameters)).acts
    return Found(place, tuple(modules), (*_facts_of_itself(m), *facts), parameters, acts)


def _facts_of_itself(m: nn.Module) -> list[Any]:
    held = m.__dict__
    facts = [m, None, type(m), held, "_modules", children(m), held, "forward", backends.node.ABSENT]
    facts += [part for name in HOOKS for part in (held, name, backends.node.EMPTY)]
    of_class = (type(m), "forward"), (nn.Sequential, "forward"), (nn.Sequential, "__iter__")
    return facts + [part for cls, name in of_class for part in (cls, name, getattr(cls, name))]
