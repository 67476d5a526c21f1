"""What a torch.nn.Module holds, seen without running anything of it."""

from typing import Any

from torch import nn
from torch.nn.modules import module as torchs
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

# What is asked before each call of a layer is written without calls of its own: there they are half of its time.


def is_hooked(m: nn.Module) -> bool:
    """Whether a hook wants to see a call of this module: one of its own, or one for all modules."""
    held = m.__dict__
    return bool(
        held["_forward_hooks"]
        or held["_forward_pre_hooks"]
        or held["_backward_hooks"]
        or held["_backward_pre_hooks"]
        or torchs._global_forward_hooks
        or torchs._global_forward_pre_hooks
        or torchs._global_backward_hooks
        or torchs._global_backward_pre_hooks
    )


HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"  # what a module holds them as


def has_own_hooks(held: dict[str, Any]) -> bool:
    """Whether there is a hook among what a module holds."""
    return bool(
        held["_forward_hooks"] or held["_forward_pre_hooks"] or held["_backward_hooks"] or held["_backward_pre_hooks"]
    )


HOOKS_OF_ALL = tuple((vars(torchs), f"_global{name}") for name in HOOKS)  # where they are


def is_any_module_hooked() -> bool:
    """Whether there is a hook for all modules."""
    return bool(
        torchs._global_forward_hooks
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


GETATTR = nn.Module.__getattr__
READS_WHAT_IS_STORED = "__getattr__", GETATTR  # what a class has that reads so


def reads_as_written(cls: type) -> bool:
    """Whether a class looks up attributes as torch wrote it."""
    return getattr(cls, "__getattr__", None) is GETATTR and cls.__getattribute__ is object.__getattribute__


def reads_what_is_stored(cls: type[nn.Module]) -> bool:
    """Whether reading the weight and the bias of a module looks up what it holds, as torch wrote it, and no more."""
    if cls.__getattr__ is not GETATTR:
        return False
    for base in cls.__mro__:  # hasattr takes four times as long where it says no
        held = base.__dict__
        if "weight" in held or "bias" in held:
            return False
    return True


def holders(m: nn.Module) -> tuple[dict[str, Any], ...]:
    """The dictionaries in which a module has what it holds."""
    return vars(m), m._modules, m._parameters, m._buffers


def holds(m: nn.Module, name: str) -> bool:
    """Whether a module itself, and not its class, has something under a name."""
    return any(name in held for held in holders(m))


def computes_weights_before(m: nn.Module) -> bool:
    """Whether the hooks of a module are those of torch's older weight_norm or spectral_norm, and no others."""
    hooks = m._forward_pre_hooks
    return (
        bool(hooks)
        and all(type(hook) in _COMPUTE_WEIGHTS for hook in hooks.values())
        and not (m._forward_hooks or m._backward_hooks or m._backward_pre_hooks)
        and not (torchs._global_forward_hooks or torchs._global_forward_pre_hooks)
        and not (torchs._global_backward_hooks or torchs._global_backward_pre_hooks)
    )


_COMPUTE_WEIGHTS = WeightNorm, SpectralNorm


def run_pre_hooks(m: nn.Module, args: tuple) -> None:
    """Lets the hooks of `computes_weights_before` compute the weights."""
    for hook in tuple(m._forward_pre_hooks.values()):
        hook(m, args)
