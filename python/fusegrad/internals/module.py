"""What a torch.nn.Module holds, seen without running anything of it."""

from typing import Any

from torch import nn
from torch.nn.modules import module as torchs


def is_hooked(m: nn.Module) -> bool:
    """Whether a hook wants to see a call of this module: one of its own, or one for all modules."""
    return bool(
        m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
        or torchs._global_forward_hooks
        or torchs._global_forward_pre_hooks
        or torchs._global_backward_hooks
        or torchs._global_backward_pre_hooks
    )


def children(m: nn.Module) -> dict[str, nn.Module | None]:
    """The modules of a module, by name; named_children() leaves out None, and all but the first name of each."""
    return m._modules


def stored(m: nn.Module, name: str) -> Any:
    """What a module holds under a name, or None, without running what computes it: a property, a parametrization."""
    return m._parameters.get(name, m._buffers.get(name, vars(m).get(name)))
