"""Networks that are nothing but layers, each the input of the next: they need no run, and can be compiled."""

from typing import Any

from torch import Tensor, nn

from ..activations import REGISTRY
from ..fusion.find import UNFUSED, is_sequential
from ..fusion.recognise import is_activation, of_adopted, of_module
from ..internals.module import children, is_hooked
from ..nn import MLP, Linear, fits, weight_and_bias, why_called
from .rules_layers import Layer


def chain_of(model: Any, x: Tensor) -> list[Layer] | None:
    """The layers of such a model, as its modules are now, or None. Their rows are apart by what they are."""
    if not isinstance(model, nn.Module):
        return None
    found: list[Layer] = []
    if not _add(model, found) or not found:
        return None
    width = x
    for layer in found:
        if not fits(width, layer.w, layer.b):
            return None
        width = layer.w[:, :1].mT  # as wide as the result
    return found


def _add(m: nn.Module, found: list[Layer]) -> bool:
    """Add what a module is, if it is a layer, an activation, or a sequence of them."""
    cls = type(m)
    if cls is nn.Sequential or (vars(cls).get(UNFUSED) is nn.Sequential and "forward" not in vars(m)):
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
        if is_hooked(m) or "forward" in vars(m) or not (_add(m.fc1, found) and found[-1].act == "identity"):
            return False
        _activate(found, m._act or "identity", m._param)
        return _add(m.fc2, found)
    if not is_activation(cls) and of_adopted(m) is None:
        return False
    spec = of_module(m) or of_adopted(m)
    if spec is None or why_called(m) is not None or not found or found[-1].act != "identity":
        return False
    _activate(found, *spec)
    return True


def _activate(found: list[Layer], act: str, param: float | None) -> None:
    """Of the last layer."""
    w, b, *_ = found[-1]
    found[-1] = Layer(w, b, act, _param(act, param))


def _param(act: str, param: float | None) -> float:
    return REGISTRY[act].default if param is None else float(param)
