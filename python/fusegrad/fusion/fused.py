"""What fuse leaves on the classes that it makes, and what stood there before."""

from typing import Any

from torch import nn

from ..internals.stock import torchs

# on a class that fuse made: the class it was made from, the keys of what was rewritten in it, and its methods
UNFUSED, SITES, METHODS = "_fusegrad_unfused", "_fusegrad_sites", "_fusegrad_methods"

SEQUENTIAL = {name: torchs(nn.Sequential, name) for name in ("forward", "__iter__")}


def is_sequential(cls: type) -> bool:
    """Whether the class runs its modules as torch.nn.Sequential does."""
    return issubclass(cls, nn.Sequential) and all(getattr(cls, k) is f for k, f in SEQUENTIAL.items())


def fused_class_of(m: nn.Module) -> Any:
    """The class that fuse made for m, which another library may have derived from since; None if there is none."""
    return next((cls for cls in type(m).__mro__ if UNFUSED in vars(cls)), None)


def is_fused_sequential(m: nn.Module) -> bool:
    """Whether m was a torch.nn.Sequential and is as fuse left it."""
    held = vars(type(m))
    if held.get(UNFUSED) is not nn.Sequential or "forward" in vars(m) or not is_sequential(nn.Sequential):
        return False
    return held["forward"] is held[METHODS]["forward"]


def method_before_fuse(cls: type, name: str) -> Any:
    """What a class has under a name, and where that is what fuse put there, what stood there."""
    for base in cls.__mro__:
        held = vars(base)
        if name in held:
            made = held.get(METHODS, {})
            return getattr(held[UNFUSED], name) if name in made and made[name] is held[name] else held[name]
    return None
