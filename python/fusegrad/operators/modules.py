"""What a module of a model is, where it is read: layers, activations, modules in a row, or a method with a source."""

from types import FunctionType
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..fusion.fused import is_fused_sequential, is_sequential, method_before_fuse
from ..fusion.recognise import is_activation, of_adopted, of_module
from ..internals.module import children, is_hooked, reads_as_written
from ..internals.parametrized import has_computed_weight
from ..internals.stock import called_as_written
from ..nn import Act, Linear, why_called
from ..nn_gated import GatedLinear, GatedMLP
from ..nn_mlp import MLP
from .chains import layers_in

_OURS = Linear, MLP, Act, GatedLinear, GatedMLP


class Held(NamedTuple):
    """A layer."""

    w: Tensor
    b: Tensor | None


def leaf(m: nn.Module) -> list[Any] | FunctionType | None:
    """What a call of a module computes: parts in a row, or the method that says it; None if more may happen."""
    cls = type(m)
    if is_hooked(m) or not reads_as_written(cls) or "_call_impl" in vars(m) or vars(m).get("_compiled_call_impl"):
        return None
    if cls is nn.Identity:
        return [] if why_called(m) is None else None
    if is_sequential(cls) or is_fused_sequential(m):
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
    if isinstance(m, _OURS):  # which do more than they say
        return None
    forward = method_before_fuse(cls, "forward")
    return forward if isinstance(forward, FunctionType) else None


_GOES_THROUGH = {
    cls: tuple((name, getattr(cls, name)) for name in ("__iter__", "__len__", "__getitem__"))
    for cls in (nn.Sequential, nn.ModuleList, nn.ParameterList)
}


def parts_of(m: Any) -> list[Any] | None:
    """What a list of modules, or of parameters, goes through; None of all else."""
    for cls, methods in _GOES_THROUGH.items():
        if isinstance(m, cls):
            as_written = reads_as_written(type(m)) and all(getattr(type(m), name) is f for name, f in methods)
            by_number = cls is not nn.ModuleList or [*children(m)] == [*map(str, range(len(children(m))))]  # as m[i] is
            return [*m] if as_written and by_number and not hasattr(type(m), "__reversed__") else None
    return None
