"""How the ops run under each of torch's modes. Importing a file registers its rules."""

from . import autocast, flops, vmap  # noqa: F401
