"""Which methods of a module its author wrote, and which torch."""

from collections.abc import Iterator
from types import FunctionType

from torch import nn


def author_of_forward(cls: type[nn.Module]) -> type:
    """The class that defines the forward of a class: nn.Module if nobody does."""
    return next(base for base in cls.__mro__ if "forward" in vars(base))


def is_torchs(cls: type | FunctionType) -> bool:
    return f"{cls.__module__}.".startswith("torch.")


# of torch's modules with a Linear that an activation follows: the method that calls them, and nothing else. What
# chooses the fast path of inference, which fuse would not see, is their forward
BLOCKS: dict[type, str] = {nn.TransformerEncoderLayer: "_ff_block", nn.TransformerDecoderLayer: "_ff_block"}


def methods(cls: type) -> Iterator[tuple[str, FunctionType]]:
    """The methods of a class that its author wrote, and those of torch's modules that are listed."""
    seen: set[str] = set()
    for base in cls.__mro__:
        for name, value in vars(base).items():
            if isinstance(value, FunctionType) and name not in seen and not name.startswith("__"):
                if not is_torchs(base) or BLOCKS.get(base) == name:
                    yield name, value
            seen.add(name)
