"""How the ops run under each of torch's modes. A file registers its rules when it is imported."""

from ..internals.function import when_dtensors_come
from . import autocast, flops, vmap  # noqa: F401


def _register_sharding() -> None:
    from . import sharding  # noqa: F401


when_dtensors_come.append(_register_sharding)
