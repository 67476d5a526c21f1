"""What a fused forward runs: a Linear and its activation as one op, or both as they are written.

Which of the two is decided on each call, from what is given: a layer that was replaced, hooked or parametrized, an
activation with another slope, a dtype that no op takes are obeyed without anyone having to notice the change.
"""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..activations import REGISTRY
from ..internals.call import calls_torch
from ..nn import Linear, fits, linear, why_alone, why_called
from . import recognise
from .recognise import Spec

LEFT_OUT = "_fusegrad_left_out"  # set on a module that filter_fn refused
IN_PLACE = "_fusegrad_in_place"  # set on the Linears of a model that writes in place
# torch saves the output of these for backward too, so that writing to it fails with and without fuse
_STOCK_SAVES_OUTPUT = frozenset({"relu", "sigmoid", "tanh", "exp"})
# torch saves neither input nor output of z - tanh z, but tanh z
_STOCK_SAVES_NEITHER = frozenset({"tanhshrink"})


class Deferred(NamedTuple):
    """A call of a Linear whose activation is the next operation."""

    layer: Linear
    x: Tensor
    w: Tensor
    b: Tensor | None


def defer(layer: Any, x: Any) -> Any:
    """layer(x), put off if that can be part of a fused call. Its weight is read once, as in torch."""
    if not isinstance(x, Tensor) or why_alone(layer) is not None:
        return layer(x)
    w, b = layer.weight, layer.bias
    if calls_torch(x, w, b):
        return F.linear(x, w, b)
    return Deferred(layer, x, w, b) if fits(x, w, b) else linear(x, w, b)


def apply(act: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
    """act(z, ...), or the method of that name; with the Linear that z waits for, as one op where they can be."""
    if type(z) is Deferred:
        layer, x, w, b = z
        spec = match(layer, act, args, kwargs)
        if isinstance(spec, tuple) and (not isinstance(act, str) or recognise.is_torchs_method(act, x, w)):
            return functional.linear_act(x, w, b, act=spec[0], param=spec[1])
        z = linear(x, w, b)
    return getattr(z, act)(*args, **kwargs) if isinstance(act, str) else act(z, *args, **kwargs)


def match(layer: Linear, act: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Spec | str | None:
    """The activation that a call of `act` is, if it can be fused with the Linear; else why not; None if it is none."""
    if isinstance(act, nn.Module):
        spec = None if args or kwargs else recognise.of_module(act)
        if spec is not None and (why := why_called(act)):
            return f"{type(act).__name__} after it {why}"
        if spec is not None and LEFT_OUT in vars(act):
            return f"filter_fn left {type(act).__name__} after it alone"
    else:
        spec = recognise.of_call(act, args, kwargs)
    if spec is None:
        return None
    if IN_PLACE in vars(layer) and _only_ours_saves_output(spec[0]):
        return f"the model writes in place, and {spec[0]} saves its output for backward"
    return spec


def _only_ours_saves_output(name: str) -> bool:
    return not REGISTRY[name].saves_input and name not in _STOCK_SAVES_OUTPUT


def adopts(act: nn.Module, in_place: bool) -> bool:
    """Whether an activation module becomes ours, in a model that writes in place or does not."""
    spec = recognise.of_module(act)
    if spec is None or LEFT_OUT in vars(act) or why_called(act) or vars(act).get("inplace"):
        return False
    return not in_place or not (_only_ours_saves_output(spec[0]) or spec[0] in _STOCK_SAVES_NEITHER)
