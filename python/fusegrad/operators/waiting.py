"""Layers whose derivatives wait until they are asked for: those that follow one another are then one op.

The model is given their values meanwhile, without a graph. When anything but another layer reads one, all that it waits
for is computed again, with streams, as one chain (streamed.py), and what the model has stands for that.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends, ops, routing
from ..activations import REGISTRY
from ..fusion.recognise import of_call
from ..internals.call import in_plain_eager
from ..internals.function import below_autograd
from ..ops.chain import FORWARD as CHAIN
from .calls import getter
from .layers import activated, layers
from .streamed import Layer
from .streams import Rules, Streams

# functions that say the same of what waits as of what it will be
SIZES = frozenset(
    (
        *map(getter, ("shape", "dtype", "device", "ndim", "layout", "is_nested", "is_cpu", "is_cuda", "is_sparse")),
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.__len__),
    )
)
REQUIRES_GRAD = getter("requires_grad")


class Act(NamedTuple):
    name: str
    param: float


class Waiting:
    """What makes a tensor of another: layers, or an activation."""

    def __init__(
        self, at: int, before: Tensor, of: list[Layer] | Act, follows: "Waiting | None", requires_grad: bool
    ) -> None:
        self.at, self.before, self.of, self.requires_grad = at, before, of, requires_grad
        last = of[-1].w if isinstance(of, list) else None if follows is None else follows.weight
        self.weight: Tensor | None = last  # of the last layer
        self.is_followed = self.is_passed = False  # by another that waits; by what was computed


def may_wait(rules: Rules, x: Tensor, watched: bool) -> bool:
    """Whether layers of a run do: those of a Laplacian, in plain eager mode on the CPU."""
    if rules.order != 2 or not rules.summed or rules.apart or watched or backends.node is None:
        return False
    return x.numel() > 0 and in_plain_eager(x) and routing.streams_are_a_chain(x, (), (), ())


def what_waits(
    x: Tensor, waits: Waiting | None, func: Any, args: tuple, kwargs: dict[str, Any]
) -> tuple[Tensor, list[Layer] | Act] | None:
    """The layers or the activation that a call is, and of which tensor, if it is to wait: of x, or what x waits for."""
    made = _layers_of(func, args, kwargs, waits is not None)
    if made is not None:
        return (x, made) if _suit(x, made) else None
    if waits is None:
        return None
    if func in _PRODUCTS:
        return _scaled(waits, args, kwargs)
    if func is ops.OPS["act"]:
        _, g, act, param, order = args
        return (x, Act(act, param)) if g is None and order == 0 else None
    if func not in _ACTIVATIONS:
        return None
    spec = of_call(_ACTIVATIONS[func], args[1:], kwargs)
    if spec is None:
        return None
    return x, Act(spec[0], REGISTRY[spec[0]].default if spec[1] is None else float(spec[1]))


def _suit(x: Tensor, made: Sequence[Layer]) -> bool:
    width = x.shape[-1] if x.dim() else 0
    for w, b, *_ in made:
        if not isinstance(w, Tensor) or w.device != x.device or not routing.fits(w, b, x.dtype, width):
            return False
        width = w.shape[0]
    weights = [t for layer in made for t in layer[:2]]
    return routing.streams_are_a_chain(x, (), weights, [layer.act for layer in made])


def _layers_of(func: Any, args: tuple, kwargs: dict[str, Any], goes_on: bool) -> list[Layer] | None:
    """Layers that are a chain already wait only for what waits before them."""
    if func is F.linear:
        w, b = (*args[1:], *(kwargs[name] for name in ("weight", "bias") if name in kwargs), None)[:2]
        return [Layer(w, b)]
    if func is ops.OPS["linear"]:
        return [Layer(*args[1:3])]
    if func is ops.OPS["linear_act"]:
        return [Layer(*args[1:5])]
    if not goes_on:
        return None
    if func is ops.OPS["mlp"]:
        _, w1, b1, w2, b2, act, param, _ = args
        return [Layer(w1, b1, act, param), Layer(w2, b2)]
    if func is CHAIN:
        names = [act.split(" ") for act in args[2].split(",")]
        return [Layer(w, b, n, float(p)) for w, b, (n, p) in zip(args[1][::2], args[1][1::2], names, strict=True)]
    return None


def _scaled(waits: Waiting, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, list[Layer]] | None:
    """c (x w^T + b), of a number c, as a layer."""
    if kwargs or len(args) != 2 or not isinstance(waits.of, list) or waits.of[-1].act != "identity":
        return None
    c = args[0] if isinstance(args[1], Tensor) else args[1]
    if type(c) not in (int, float):
        return None
    w, b, *_ = waits.of[-1]
    return waits.before, [*waits.of[:-1], Layer(w * c, None if b is None else b * c)]


def value_of(func: Any, args: tuple, kwargs: dict[str, Any], of: list[Layer] | Act) -> Tensor:
    """What the model is given meanwhile, without a graph."""
    if isinstance(of, Act):
        return below_autograd(ops.OPS["act"], args[0], None, *of, 0)
    if gives_two(func):
        return below_autograd(func, *args[:-1], False)[0]  # nothing is saved for backward
    return func(*args, **kwargs)


def gives_two(func: Any) -> bool:
    """Whether a call returns what it saves for backward, too."""
    return func is ops.OPS["linear_act"] or func is ops.OPS["mlp"] or func is CHAIN


def links_to(waits: Waiting, waits_of: Callable[[Tensor], Waiting | None]) -> tuple[Tensor, list[Waiting]]:
    """All that waits before something, the first one first, and what that starts from."""
    if waits.is_passed:
        _note_end(waits)
    found, link = [waits], waits
    while (before := waits_of(link.before)) is not None:
        before.is_passed = True
        found.append(before)
        link = before
    return link.before, found[::-1]


def computed(rules: Rules, x: Tensor, streams: Streams, links: Sequence[Waiting]) -> tuple[Tensor, Streams]:
    """What all of these make of x and its streams: layers that follow one another by one op."""
    chain: list[Layer] = []
    for link in links:
        if isinstance(link.of, list):
            chain += link.of
        elif chain and chain[-1].act == "identity":
            chain[-1] = Layer(*chain[-1][:2], *link.of)
        else:
            if chain:
                x, streams = layers(rules, x, streams, chain)
                chain = []
            x, streams = activated(rules, x, streams, *link.of)
    return layers(rules, x, streams, chain) if chain else (x, streams)


# Weights of layers that more than one thing was seen to read, alone or after an activation: nothing that follows is one
# op with them.
_ENDS: dict[tuple[int, bool], weakref.ref] = {}


def _key(waits: Waiting) -> tuple[int, bool]:
    return id(waits.weight), isinstance(waits.of, Act)


def _note_end(waits: Waiting) -> None:
    if waits.weight is not None:
        key = _key(waits)
        _ENDS[key] = weakref.ref(waits.weight, lambda _: _ENDS.pop(key, None))


def is_end(waits: Waiting) -> bool:
    """Whether what follows is to start from what this gives."""
    found = _ENDS.get(_key(waits))
    return waits.is_followed or (found is not None and found() is waits.weight)


_PRODUCTS = frozenset((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__))
_ACTIVATIONS: dict[Any, Any] = {
    **{function: function for a in REGISTRY.values() for function in a.functions},
    **{getattr(Tensor, name): name for a in REGISTRY.values() for name in a.methods},
}
