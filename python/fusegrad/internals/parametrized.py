"""Layers whose weight torch computes of what they hold, by a formula that does nothing else: weight normalisation."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList, _inject_property

from .module import children, has_own_hooks
from .stock import called_as_written, torchs

_FORWARDS: dict[type, Any] = {cls: torchs(cls, "forward") for cls in (nn.Linear, ParametrizationList, _WeightNorm)}
_READS = next((c for c in _inject_property.__code__.co_consts if getattr(c, "co_name", "") == "get_parametrized"), None)


def has_computed_weight(m: Any) -> bool:
    """Whether a module is torch's Linear but for its weight, which weight_norm computes when it is read.

    It is then all the same whether it is read before or after other layers run. Hooks of all modules are not asked for.
    """
    held, cls = m.__dict__, type(m)
    parts = children(m).get("parametrizations")
    if (
        parts is None
        or len(children(m)) > 1
        or children(parts).keys() != {"weight"}
        or not _is_as_written(m, nn.Linear)
    ):
        return False
    if "weight" in held or "bias" in held or type(held["_parameters"].get("bias", 0)) not in _BIASES:
        return False
    read = vars(cls).get("weight")
    if not isinstance(read, property) or getattr(read.fget, "__code__", None) is not _READS or hasattr(cls, "bias"):
        return False
    of_weight: Any = children(parts)["weight"]
    steps: list[Any] = [*children(of_weight).values()]
    return (
        type(of_weight) is ParametrizationList
        and _is_as_written(of_weight, ParametrizationList)
        and all(type(step) is _WeightNorm and _is_as_written(step, _WeightNorm) for step in steps)
    )


_BIASES = Tensor, nn.Parameter, type(None)


def _is_as_written(m: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a call of a module is what torch wrote for a class, and no hook of its own sees it."""
    held = m.__dict__
    return (
        type(m).forward is _FORWARDS[cls]
        and called_as_written(type(m))
        and "forward" not in held
        and not has_own_hooks(held)
    )
