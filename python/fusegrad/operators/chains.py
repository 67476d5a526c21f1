"""Networks that are nothing but layers, each the input of the next: they need no run, and can be compiled."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .. import routing
from ..activations import REGISTRY
from ..fusion.chains import chain_from
from ..fusion.fused import is_fused_sequential, is_sequential
from ..fusion.recognise import is_activation, of_adopted, of_module
from ..internals.module import children, is_hooked, reads_what_is_stored
from ..nn import Linear, fits, weight_and_bias, why_called
from ..nn_mlp import MLP
from .streamed import Layer


def chain_of(model: Any, x: Tensor) -> list[Layer] | None:
    """The layers of such a model, as its modules are now, or None. Their rows are apart by what they are."""
    if not isinstance(model, nn.Module):
        return None
    found = _in_short(model)
    if not found and not (_add(model, found) and found):
        return None
    if not fits(x, found[0].w, found[0].b):
        return None
    for before, layer in pairwise(found):
        if not _is_alike(before.w, layer) and not fits(before.w[:, :1].mT, layer.w, layer.b):
            return None
    return found


def _in_short(m: nn.Module) -> list[Layer]:
    """The layers of a Sequential that was fused, in a shorter way; none where that is not enough."""
    if not is_fused_sequential(m) or is_hooked(m):
        return []
    modules = [child for child in children(m).values() if child is not None]
    if len(modules) < len(children(m)) or not reads_what_is_stored(Linear):
        return []
    layers, names, params, end = chain_from(modules, 0)
    if end < len(modules):
        return []
    weights = [layer.__dict__["_parameters"] for layer in layers]
    return [Layer(w["weight"], w["bias"], act, param) for w, act, param in zip(weights, names, params, strict=True)]


def _is_alike(before: Tensor, layer: Layer) -> bool:
    """Whether a layer fits one with such a weight, as far as the least tells."""
    w, b = layer.w, layer.b
    return (
        type(w) is nn.Parameter
        and type(before) is nn.Parameter
        and routing.fits(w, b, before.dtype, before.shape[0])
        and w.layout is torch.strided
        and not w.is_nested
        and w.device == before.device
        and (b is None or b.device == w.device)
    )


def _add(m: Any, found: list[Layer]) -> bool:
    """Add what a module is, if it is a layer, an activation, or a sequence of them."""
    cls = type(m)
    if cls is nn.Sequential or is_fused_sequential(m):
        if is_hooked(m) or "forward" in vars(m) or not is_sequential(nn.Sequential):
            return False
        return all([_add(child, found) for child in children(m).values()])
    if isinstance(m, nn.Linear) and (cls is nn.Linear or cls is Linear):
        if why_called(m) is not None:
            return False
        w, b = weight_and_bias(m)
        act = vars(m).get("_fusegrad_act") or "identity"
        found.append(Layer(w, b, act, _param(act, vars(m).get("_fusegrad_param"))))
        return True
    if isinstance(m, MLP) and cls is MLP:
        if is_hooked(m) or "forward" in vars(m):
            return False
        *hidden, last = m.layers()
        for layer in hidden:
            if not (_add(layer, found) and found[-1].act == "identity"):
                return False
            _activate(found, m._act or "identity", m._param)
        return _add(last, found)
    if not is_activation(cls) and of_adopted(m) is None:
        return False
    spec = of_module(m) or of_adopted(m)
    if spec is None or why_called(m) is not None or not found or found[-1].act != "identity":
        return False
    _activate(found, *spec)
    return True


def layers_in(m: Any) -> list[Layer] | None:
    """Those of a layer by itself, or of an MLP."""
    found: list[Layer] = []
    return found if isinstance(m, (nn.Linear, MLP)) and _add(m, found) else None


def _activate(found: list[Layer], act: str, param: float | None) -> None:
    """Of the last layer."""
    w, b, *_ = found[-1]
    found[-1] = Layer(w, b, act, _param(act, param))


def _param(act: str, param: float | None) -> float:
    return REGISTRY[act].default if param is None else float(param)
