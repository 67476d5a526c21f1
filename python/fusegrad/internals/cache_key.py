"""Tells torch's caches on disk, of compiled graphs and their backward passes, with which rules these were made.

Their keys know our ops by name alone: without this a graph that an older fusegrad compiled would be used again. They
know an activation by its name alone, too. So they are told the formula of a user's own: what a graph was made for
depends on what the activation saves, and a program may be made of the formula itself (decomposes).
"""

import hashlib
from pathlib import Path

from torch.compiler import config

_rules = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parents[1].rglob("*.py"))))
_formulas: dict[str, str] = {}  # of a user's own activations
_tag = ""


def tell_formula(name: str, formula: str) -> None:
    """What a new activation is: graphs that are compiled from now on are those of just these activations."""
    _formulas[name] = hashlib.sha256(formula.encode()).hexdigest()
    _tell()


def _tell() -> None:
    """Put the tag after what the user has set: where that is for this thread, and in what all threads fall back to."""
    global _tag
    tag = " ".join((f" fusegrad {_rules.hexdigest()}", *(f"{k} {v}" for k, v in sorted(_formulas.items()))))
    entry = config._config["cache_key_tag"]  # type: ignore[attr-defined]  # not in torch's stubs
    for source in ("default", "env_value_default"):
        if isinstance(given := getattr(entry, source, None), str):
            setattr(entry, source, given.replace(_tag, "") + tag)
    if not config.cache_key_tag.endswith(tag):
        config.cache_key_tag = config.cache_key_tag.replace(_tag, "") + tag
    _tag = tag


_tell()
