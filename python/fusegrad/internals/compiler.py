"""Keeps torch.compile out of a call."""

import sys
from collections.abc import Callable
from typing import Any

import torch


def call_untraced(f: Callable, *args: Any) -> Any:
    """f(*args) in eager mode, with all that it calls, compiled or not: what is compiled does not see what f has put up.

    In compiled code the graph breaks here. Nothing to do where nobody has imported the compiler, which takes more than
    a second.
    """
    return f(*args) if "torch._dynamo" not in sys.modules else _untraced()(f, *args)


REASON = (
    "derivative operators of fusegrad run the model under a torch-function mode, which torch.compile does not trace "
    "right; a torch.nn.Sequential of layers and activations can be compiled"
)
_made: list[Callable] = []


def _untraced() -> Callable:
    if not _made:
        _made.append(torch.compiler.disable(_in_eager_mode, reason=REASON))
    return _made[0]


def _in_eager_mode(f: Callable, *args: Any) -> Any:
    with torch.compiler.set_stance("force_eager"):
        return f(*args)
