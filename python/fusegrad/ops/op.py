"""What an op is, and how one is made known to torch."""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from ..internals.call import in_plain_eager, requires_grad
from ..internals.dispatcher import Overload, count_tensors, decomposes, stays_whole
from ..internals.engine import Noted
from ..internals.function import below_autograd, bind
from .operands import check

library = torch.library.Library("fusegrad", "DEF")
OPS: dict[str, Overload] = {}  # by name, as torch calls them
RULES: dict[str, Callable[..., Any]] = {}  # by name: backward of each


class Op:
    """An op of the library, called as a function. A subclass says what it is, and is made once.

    schema     what torch.library.define takes. Tensors come first.
    operands   the shapes of the tensors, as operands.py reads them; `check` refuses all others.
    fake       shapes, dtypes and layouts of the results, without computing them.
    reference  the op in plain torch, for any device and dtype: oracle, fallback, baseline. It runs below autograd.
               Results are laid out as `fake` says: what a matrix product makes is contiguous, what is elementwise is
               laid out as its first argument.
    setup_context, backward, jvp
               its derivative, written as for torch.autograd.Function. It is made of ops of the set and of plain aten
               only, so every order of every transform follows from it.
    """

    schema: str
    operands: str
    fake: Callable[..., Any]
    reference: Callable[..., Any]
    setup_context: Callable[..., None]
    backward: Callable[..., Any]
    jvp: Callable[..., Any]

    def __init__(self) -> None:
        self.name = self.schema.partition("(")[0]
        library.define(self.schema, tags=(torch.Tag.pt2_compliant_tag,))
        self.overload: Overload = getattr(torch.ops.fusegrad, self.name).default
        OPS[self.name], RULES[self.name] = self.overload, self.backward
        torch.library.register_fake(f"fusegrad::{self.name}", self.traced, lib=library)
        self.serve("CompositeExplicitAutograd", self.reference)
        decomposes(self.overload, self.reference)
        self.tensors = count_tensors(self.overload)
        # In plain eager mode only, the shortest ways: with a derivative, and without one.
        self.apply: Callable[..., Any] = bind(library, self.overload, self)
        self.kernel: Callable[..., Any] = partial(below_autograd, self.overload)

    def __call__(self, *args: Any) -> Any:
        """The op, in any mode; in plain eager mode past the dispatcher's autograd."""
        tensors = args[: self.tensors]
        if not in_plain_eager(*tensors):
            return self.overload(*args)
        return self.apply(*args) if requires_grad(*tensors) else self.kernel(*args)

    def traced(self, *args: Any) -> Any:
        """The op on fake tensors, as compilers and exporters trace it."""
        stays_whole(self.overload)
        self.check(args)
        return self.fake(*args)

    def serve(self, key: str, kernel: Callable) -> None:
        """Let a kernel serve the op on a dispatch key."""
        library.impl(self.name, self.checked(kernel), key)

    def checked(self, kernel: Callable) -> Callable:
        """A kernel that refuses what the op does not take."""

        @wraps(kernel)
        def call(*args: Any) -> Any:
            self.check(args)
            return kernel(*args)

        return call

    def check(self, args: Sequence[Any]) -> None:
        """Raise TypeError or ValueError if the arguments are not as the op needs them."""
        check(self.name, self.operands, args)


def by_rule(
    name: str, facts: dict[str, Any], needed: Sequence[bool], grads: Sequence[Any], saved: Sequence[Any]
) -> Sequence[Tensor | None]:
    """The gradients of an op's tensors, each if needed, for a node that C++ made (csrc/autograd/rule.h)."""
    return RULES[name](Noted(facts, needed, saved), *grads)[: len(needed)]


def laid_out_as(s: Tensor, y: Tensor) -> Tensor:
    """y with the strides that torch.empty_like(s) has, whatever else it was computed from."""
    if s.is_contiguous() and y.stride() == s.stride():
        return y
    out = torch.empty_like(s)
    return y if y.stride() == out.stride() else out.copy_(y)
