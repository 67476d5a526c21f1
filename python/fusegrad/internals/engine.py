"""Which gradients the autograd engine is going to use."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _will_engine_execute_node


class Noted:
    """What a node that C++ made keeps, as the rule of its op reads it from a context."""

    has_saved = save = True
    absent: tuple[int, ...] = ()  # `wanted` has a place for each

    def __init__(self, facts: dict[str, Any], needed: Sequence[bool], saved: Sequence[Tensor | None]) -> None:
        vars(self).update(facts)
        self.wanted, self.saved_tensors = list(needed), saved


def wanted(ctx, tensors: int, absent: Sequence[int] = ()) -> list[bool]:
    """For each of the leading `tensors` arguments: will this very backward pass use its gradient?

    ctx.needs_input_grad was fixed in forward: in grad(u, x) it still asks for the gradients of all weights, which
    costs a GEMM a layer and order. The engine knows which nodes it is going to run. An argument that is None has no
    entry there: `absent` gives the places of those, in order; at the end they may be left out.
    """
    if type(ctx) is Noted:
        return ctx.wanted
    if torch.compiler.is_dynamo_compiling():  # compiled autograd: no engine is running
        return list(ctx.needs_input_grad[:tensors])
    used = [fn is not None and _will_run(fn) for fn, _ in ctx.next_functions]
    for i in absent:
        used.insert(i, False)
    return used + [False] * (tensors - len(used))


def _will_run(fn) -> bool:
    try:
        return _will_engine_execute_node(fn)
    except RuntimeError:  # a leaf that grad() was asked for
        return True
