"""What a module of a model is, where it is read: layers, activations, modules in a row, or a method with a source."""

from types import FunctionType
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..fusion.classes import original_class
from ..fusion.find import UNFUSED, is_sequential
from ..fusion.recognise import is_activation, of_adopted, of_module
from ..internals.module import GETATTR, is_hooked
from ..internals.parametrized import has_computed_weight
from ..internals.stock import called_as_written
from ..nn import Linear, why_called
from .chains import layers_in


class Held(NamedTuple):
    """A layer."""

    w: Tensor
    b: Tensor | None


def leaf(m: nn.Module) -> list[Any] | FunctionType | None:
    """What a call of a module computes: parts in a row, or the method that says it; None if more may happen."""
    if is_hooked(m):
        return None
    cls = type(m)
    if cls is nn.Identity:
        return [] if why_called(m) is None else None
    if is_sequential(cls) or (vars(cls).get(UNFUSED) is nn.Sequential and is_sequential(nn.Sequential)):
        return parts_of(m) if "forward" not in vars(m) and called_as_written(cls) else None
    if isinstance(m, nn.Linear) and cls is not Linear and has_computed_weight(m):
        return [Held(m.weight, m.bias)]
    found = layers_in(m)
    if found is not None:
        return [part for layer in found for part in (Held(layer.w, layer.b), (layer.act, layer.param))]
    if is_activation(cls) or of_adopted(m) is not None:
        spec = of_module(m) or of_adopted(m)
        if spec is None or why_called(m) is not None or vars(m).get("inplace"):  # which another name may see
            return None
        return [spec]
    if "forward" in vars(m) or not called_as_written(cls) or cls.__module__.startswith("torch.nn."):
        return None
    if cls.__getattr__ is not GETATTR:
        return None
    forward = getattr(original_class(cls), "forward", None)
    return forward if isinstance(forward, FunctionType) else None


_ITERATES = {cls: cls.__iter__ for cls in (nn.Sequential, nn.ModuleList, nn.ParameterList)}


def parts_of(m: Any) -> list[Any] | None:
    """What a list of modules, or of parameters, goes through; None of all else."""
    for cls, iterates in _ITERATES.items():
        if isinstance(m, cls) and type(m).__iter__ is iterates:
            return [*m]
    return None
