"""Binds the derivative rule of an op as a torch.autograd.Function, which is the op's Autograd kernel.

torch.compile and torch.export then see one opaque op, while eager mode and torch.func dispatch into the Function
at each of their levels.
"""

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C import _AutoDispatchBelowADInplaceOrView
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

from .call import in_torch_func, is_dtensor
from .dispatcher import Overload, unqualified


class Rule(Protocol):
    """The derivative of an op. Its methods are written as for torch.autograd.Function."""

    def setup_context(self, ctx, inputs, output) -> None: ...
    def backward(self, ctx, *grads) -> Any: ...
    def jvp(self, ctx, *tangents) -> Any: ...


def bind(library: torch.library.Library, op: Overload, rule: Rule) -> Callable:
    """Make `rule` the derivative of `op`, in every mode, and return the `apply` of its Function.

    The op's tensors come first. `apply` is for plain eager mode, and the shortest way there: past the dispatcher's
    autograd. The op's own Autograd kernel never skips the Function: inside a compiled graph Python does not see that
    forward mode is on.
    """

    # Below ADInplaceOrView too: a kernel may return a view of what it made (F.linear does for some ranks), and a view
    # that is known to come from a Function cannot be changed in place.
    def forward(*args):
        if not in_torch_func():
            return below_autograd(op, *args)
        # the outer levels' derivatives go on inside, if the caller has them on: torch.no_grad() is for all levels
        with torch.set_grad_enabled(_caller.grad[-1]), _set_fwd_grad_enabled(True):
            return below_autograd(op, *args)

    # torch.func has chosen the level before it calls this kernel; a plain Function would start over at the
    # outermost one. Function.apply would also bind the arguments by inspect.signature, 10 us a call.
    members = {
        "__doc__": rule.__doc__,
        "forward": staticmethod(forward),
        "setup_context": staticmethod(rule.setup_context),
        "backward": staticmethod(rule.backward),
        "jvp": staticmethod(_jvp_of_all_levels(rule.jvp)),
        "_compiled_autograd_key": staticmethod(torch.autograd.Function._compiled_autograd_key),
    }
    name = type(rule).__name__
    function: Any = type(name, (_SingleLevelFunction,), members)
    apply = function.apply

    # For plain eager mode: one call of Python less, and nothing saved for forward mode, which is off.
    def forward_and_save(ctx, *args):
        output = below_autograd(op, *args)
        rule.setup_context(ctx, args, output)
        return output

    plain: Any = type(name, (_SingleLevelFunction,), members | {"forward": staticmethod(forward_and_save)})
    del plain.setup_context
    plain._backward_cls.save_for_forward = lambda ctx, *tensors: None

    def kernel(*args):
        _on_dtensors([a for a in args if isinstance(a, Tensor)])
        if not in_torch_func():
            return apply(*args)
        _caller.grad.append(torch.is_grad_enabled())  # apply turns it off
        try:
            with enable_single_level_autograd_function():
                return apply(*args)
        finally:
            _caller.grad.pop()

    library.impl(unqualified(op), kernel, "Autograd")
    return plain.apply


def single_level(rule: Any) -> Callable:
    """The `apply` of a Function with these forward and backward, for plain eager mode alone."""
    members = {
        "__doc__": rule.__doc__,
        "forward": staticmethod(rule.forward),
        "backward": staticmethod(rule.backward),
        "_compiled_autograd_key": staticmethod(torch.autograd.Function._compiled_autograd_key),
    }
    return type(rule.__name__, (_SingleLevelFunction,), members).apply  # type: ignore[attr-defined]  # made in C++


def below_autograd(op: Overload, *args: Any) -> Any:
    """What the op's kernel computes, without a derivative."""
    with _AutoDispatchBelowADInplaceOrView():
        return op._op(*args)  # what calling op calls


class _Caller(threading.local):
    def __init__(self) -> None:
        self.grad: list[bool] = []  # whether gradients are on, for each call of an op that goes on under torch.func


_caller = _Caller()


def _jvp_of_all_levels(jvp: Callable) -> Callable:
    """A rule in forward mode, which the outer levels of torch.func differentiate too.

    Torch calls it with forward mode off, as what it computes must not be differentiated at this level again. That turns
    it off at the outer levels too, and jvp of jvp silently lacks terms. Here it stays on, and this level's tangents are
    taken from what was saved.
    """

    def run(ctx, *tangents):
        if not in_torch_func():
            return jvp(ctx, *tangents)
        with _set_fwd_grad_enabled(True):
            return jvp(_Primals(ctx), *tangents)

    return run


class _Primals:
    """A context whose saved tensors have no tangents at this level."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        # below forward_ad.unpack_dual, which does nothing inside a compiled graph
        return tuple(t if t is None else torch._VF._unpack_dual(t, level=0)[0] for t in self._ctx.saved_tensors)


# What to do before an op is called with DTensors: the import of what shards them costs 1.4 s, too much for all others.
when_dtensors_come: list[Callable[[], object]] = []


def _on_dtensors(tensors: list[Tensor]) -> None:
    if any(map(is_dtensor, tensors)):
        for prepare in when_dtensors_come:
            prepare()
