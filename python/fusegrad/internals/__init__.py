"""All that touches private parts of torch, and what is true of a call: in which mode it is made."""

from . import cache_key  # noqa: F401  (registers)
