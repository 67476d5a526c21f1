"""Whether what is called after a layer is an activation that can be fused with it, as the model is now."""

import inspect
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn

from ..internals.module import children
from ..nn import why_called
from . import formula, recognise
from .opened import LEFT_OUT
from .reasons import why_cut_is_alone
from .recognise import Spec, is_activation

FAST = "_fusegrad_fast"  # set on the layers whose activation, when fuse found it, is one that stock computes as fast
IN_PLACE = {"leaky_relu": "leaky_relu_in_place"}  # of which torch saves the output where they write in place


def match(act: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Spec | str | None:
    """The activation that a call of `act` is, if it can be fused with the layer; else why not; None if it is none."""
    if isinstance(act, nn.Module):
        spec = None if args or kwargs else recognise.of_unchanged(act)
        if spec is None:
            spec = None if args or kwargs else recognise.of_module(act)
            if spec is not None and (why := why_called(act)):
                return f"{type(act).__name__} after it {why}"
            spec = spec or formula.of(act, args, kwargs)
        if spec is not None and LEFT_OUT in vars(act):
            return f"filter_fn left {type(act).__name__} after it alone"
    else:
        spec = recognise.of_call(act, args, kwargs) or formula.of(act, args, kwargs)
    if spec is None:
        return None
    return (IN_PLACE[spec[0]], spec[1]) if spec[0] in IN_PLACE and _is_in_place(act, kwargs) else spec


def why_unknown(act: Any, text: str) -> str:
    """Why what is called after a layer, and is no activation that matches, is not fused with it."""
    if isinstance(act, nn.Module):
        if LEFT_OUT in vars(act):
            return f"filter_fn left {type(act).__name__} after it alone"
        if function := _function_of_its_own(getattr(type(act), "forward", None)):
            return f"followed by {type(act).__name__}, whose {function} has a backward of its own"
        has = is_activation(type(act))
        lacks = "whose options fusegrad does not have" if has else f"which is no activation of fusegrad{_can_be(act)}"
        return f"followed by {type(act).__name__}, {lacks}"
    if isinstance(act, FunctionType) and not act.__module__.startswith("torch."):
        if function := _function_of_its_own(act):
            return f"read by {text}, whose {function} has a backward of its own"
        return f"read by {text}, which begins with no activation of fusegrad{_can_be(act)}"
    if any(act is f for f in ("chunk", "split", torch.chunk, torch.split)):
        return why_cut_is_alone(f"`{text}`")
    return f"read by {text}"


def _can_be(act: Any) -> str:
    """How a module of an author's, or a function, becomes an activation of fusegrad, if it may be one."""
    if isinstance(act, nn.Module):
        held = vars(act)
        of_author = not type(act).__module__.startswith("torch.")
        may_be = of_author and not (held["_parameters"] or held["_buffers"] or children(act))
    else:
        given = inspect.signature(act).parameters.values()
        may_be = sum(p.default is p.empty for p in given) == 1
    return ": if it is elementwise, fg.activation makes it one" if may_be else ""


def _function_of_its_own(f: Any) -> str | None:
    """The autograd.Function that a function mentions, if any: what its backward computes need be no derivative."""
    if not isinstance(f, FunctionType) or f.__module__.startswith("torch."):
        return None
    mentioned = (f.__globals__.get(name) for name in f.__code__.co_names)
    return next((m.__name__ for m in mentioned if isinstance(m, type) and issubclass(m, torch.autograd.Function)), None)


def _is_in_place(act: Any, kwargs: dict[str, Any] | None) -> bool:
    """Whether a call of an activation writes to its argument."""
    if isinstance(act, nn.Module):
        return bool(vars(act).get("inplace"))
    return bool((kwargs or {}).get("inplace")) or (isinstance(act, BuiltinFunctionType) and act.__name__.endswith("_"))


def adopts(act: nn.Module) -> bool:
    """Whether an activation module becomes ours."""
    held = vars(act)
    return recognise.of_module(act) is not None and not (LEFT_OUT in held or why_called(act) or held.get("inplace"))
