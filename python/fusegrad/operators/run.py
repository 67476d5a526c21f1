"""Runs a model once, with streams of derivatives beside its tensors: a torch-function mode that sees each call.

The model is given plain tensors, so that its branches, loops and hooks run as they do. For each call on a tensor that
has streams a rule computes the result and its streams. What has no rule is differentiated by itself (nested.py).
"""

import warnings
import weakref
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..internals.call import (
    SETS_GRAD_MODE,
    OpsMode,
    grad_mode,
    is_view,
    mutates,
    saved_tensor_hooks,
    transforms,
    without_override,
)
from ..internals.dispatcher import without_dispatch_modes
from . import nested
from .calls import ARITHMETIC, CONSTANT, METADATA, OUTSIDE, RULES, mapped, name_of, storage, tensors
from .in_place import out_of_place, without_inplace, written
from .streams import Rules, Streams


class ByNested(BaseException):
    """Raised where the rules cannot follow: the model as a whole has to be differentiated. No model catches it."""


class Refused(ValueError):
    """What the model does has no such derivatives."""


class Entry(NamedTuple):
    of: weakref.ref  # the tensor
    value: Tensor | None  # what it is by now, if the model wrote to it in place
    streams: Streams


class Run(OpsMode):
    """One run of a model. `keep` and `streams` say what tensors carry."""

    def __init__(self, rules: Rules, records: bool, watched: bool = False) -> None:
        super().__init__()
        self.rules = rules
        self.records = records  # whether what is computed has a graph
        self.watched = watched  # whether a dispatch mode looks for what is computed by no rule
        self.grad = True  # in which mode the model believes to be
        self.transforms, self.hooks = transforms(), saved_tensor_hooks()
        self.held: dict[int, Entry] = {}
        self.shared: dict[int, list[weakref.ref]] = {}  # tensors, by the memory that they share with others
        self.nested: dict[str, None] = {}  # functions that had no rule
        self.path = 0  # what the model has called so far
        self.sizes: dict[int, str] = {}  # those of the points, which may be others in the next run

    # --- what tensors carry ---------------------------------------------------------------------------------------

    def keep(self, t: Tensor, streams: Streams, value: Tensor | None = None) -> Tensor:
        """Note the streams of a tensor, and its value where that is another by now; returns the tensor."""
        if t.is_complex():
            raise Refused("it computes complex numbers, for which there are no rules")
        if value is not None or any(s is not None for s in streams) or id(t) in self.held or self._is_alias(t):
            at, held = id(t), self.held
            held[at] = Entry(weakref.ref(t, lambda _: held.pop(at, None)), value, streams)
        return t

    def constant(self, made: Any) -> Any:
        """Note that tensors have no streams, though others that have some may share their memory; returns them."""
        for t in tensors((made,)) if self.watched else ():
            self.keep(t, self.rules.zero)
        return made

    def _is_alias(self, t: Tensor) -> bool:
        """Whether a tensor shares its memory with one that is known; asked where the run is watched."""
        at = storage(t) if self.watched else 0
        return at != 0 and any((other := e.of()) is not None and storage(other) == at for e in [*self.held.values()])

    def entry(self, t: Any) -> Entry | None:
        found = self.held.get(id(t))
        return found if found is not None and found.of() is t else None

    def streams(self, t: Any) -> Streams:
        """The streams of a tensor, or of what else may stand in its place."""
        found = self.held.get(id(t))
        return found.streams if found is not None and found.of() is t else self.rules.zero

    def has(self, t: Any) -> bool:
        """Whether a tensor has streams."""
        return any(s is not None for s in self.streams(t))

    def value(self, t: Any) -> Any:
        """What a tensor is by now; lists, tuples and dicts of tensors too."""
        if isinstance(t, Tensor):
            found = self.entry(t)
            return t if found is None or found.value is None else found.value
        if type(t) in (list, tuple):
            return type(t)(self.value(a) for a in t)
        return {k: self.value(v) for k, v in t.items()} if type(t) is dict else t

    # --- calls ----------------------------------------------------------------------------------------------------

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {} if kwargs is None else kwargs
        if not self.watched:
            if func in METADATA:  # most of what is called, in a model that was fused
                return func(*self.value(args), **kwargs)
            return self._called(func, args, kwargs)
        with without_dispatch_modes():  # under which torch computes some derivatives in another way
            return self._called(func, args, kwargs)

    def _called(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if func is SETS_GRAD_MODE:
            self._check_grad_mode()
            self.grad = args[0]
            return func(*args)
        given = [*tensors((*args, *kwargs.values()))]
        if self.watched and any(self.entry(t) is None and self._is_alias(t) for t in given):
            raise ByNested("it makes another tensor of the same memory past all modes, as Tensor.as_subclass does")
        if not any(map(self.entry, given)):
            self._check_transforms()
            with grad_mode(self.records and torch.is_grad_enabled()):
                return func(*args, **kwargs)
        if func in METADATA:
            return func(*self.value(args), **kwargs)
        if func in OUTSIDE:
            raise ByNested(OUTSIDE[func])
        said = () if func in ARITHMETIC else (*map(self._said, args), *map(self._said, kwargs.items()))
        self.path = hash((self.path, func, *said))
        self._check_transforms()
        self._check_grad_mode()
        if not args and "input" in kwargs:
            kwargs = dict(kwargs)
            args = (kwargs.pop("input"),)
        if kwargs.get("out") is not None or mutates(func):
            raise ByNested(f"it calls {name_of(func)}, which writes to what it is given")
        target = written(func, args, kwargs)
        if target is not None:
            return self._in_place(func, target, args, kwargs)
        args, kwargs = self.value(args), self.value(kwargs)
        if not self.grad:
            return self.constant(func(*args, **kwargs))
        return self._applied(func, args, kwargs)

    def composed(self, func: Callable, *args: Any, **kwargs: Any) -> Any:
        """A function of several calls that have rules."""
        with grad_mode(True), self:
            return func(*args, **kwargs)

    def _applied(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if func in CONSTANT:
            return self.constant(func(*args, **kwargs))
        rule = RULES.get(func)
        if rule is None and isinstance(func, FunctionType) and (inside := without_override(func)) is not None:
            return self.composed(inside, *args, **kwargs)
        with grad_mode(self.records):
            return self.without_rule(func, args, kwargs) if rule is None else rule(self, func, args, kwargs)

    def start(self, x: Tensor, streams: Streams) -> Tensor:
        """x as the model is given it."""
        rows = x.numel() // max(1, x.shape[-1])
        self.sizes = {rows: "rows", **{n: f"rows of dimension {i}" for i, n in enumerate(x.shape[:-1])}}
        given = self.keep(x.view_as(x), streams)
        self.constant(x)  # where the model has it from elsewhere
        return given

    def _said(self, argument: Any) -> Any:
        """What tells of a call which dimensions and elements it is about: all but the numbers of tensors."""
        if isinstance(argument, (int, str)):
            return self.sizes.get(argument, argument) if type(argument) is int else argument
        if isinstance(argument, (tuple, list)):
            return tuple(map(self._said, argument))
        if isinstance(argument, slice):
            return tuple(map(self._said, (argument.start, argument.stop, argument.step)))
        return type(argument)

    def _check_grad_mode(self) -> None:
        """A Function has it off inside, which no mode sees."""
        if torch.is_grad_enabled() is not self.grad:
            raise ByNested("it calls a torch.autograd.Function")

    def _check_transforms(self) -> None:
        if transforms() != self.transforms:
            raise ByNested("it differentiates or maps by torch.func")
        if saved_tensor_hooks() != self.hooks:
            raise ByNested("it has a checkpoint, or other hooks of saved tensors")

    # --- what has no rule -----------------------------------------------------------------------------------------

    def without_rule(self, func: Callable, args: Any, kwargs: Any) -> Any:
        """Differentiate this one function by nested derivatives."""
        given = [t for t in {id(t): t for t in tensors((*args, *kwargs.values()))}.values() if self.has(t)]
        if not given:
            return func(*args, **kwargs)
        state = nested.random_state(given[0])
        out = func(*args, **kwargs)
        if any(t.is_complex() for t in tensors((out,))):
            raise Refused(f"{name_of(func)} makes complex numbers, and there are no rules for them")
        if not any(t.is_floating_point() for t in tensors((out,))):
            return out
        self._tell(func)
        places = {id(t): i for i, t in enumerate(given)}

        def call(*values: Tensor) -> tuple[Tensor, ...]:
            put = lambda t: values[places[id(t)]] if id(t) in places else t
            made = func(*mapped(args, put), **mapped(kwargs, put))
            return tuple(t for t in tensors((made,)) if t.is_floating_point())

        found = nested.derivatives(call, given, [self.streams(t) for t in given], self.rules, state)
        for t, streams in zip((t for t in tensors((out,)) if t.is_floating_point()), found, strict=True):
            self.keep_of(given, t, streams)
        return out

    def keep_of(self, given: Iterable[Tensor], t: Tensor, streams: Streams) -> Tensor:
        """`keep` of what may be a view of what it was computed from."""
        at = storage(t)
        if sharing := [g for g in given if storage(g) == at]:
            self.shared.setdefault(at, []).extend(map(weakref.ref, (t, *sharing)))
        return self.keep(t, streams)

    def _is_shared(self, t: Tensor) -> bool:
        """Whether another tensor that is still there has the numbers of this one."""
        others = (other() for other in self.shared.get(storage(t), ()))
        return any(other is not None and other is not t for other in others)

    def _tell(self, func: Callable) -> None:
        name = name_of(func)
        if name not in self.nested and name not in nested.PARTS:
            self.nested[name] = None
            if name not in _TOLD:
                _TOLD.add(name)
                warnings.warn(
                    f"fusegrad: derivative operators have no rule for {name}: right, but by nested derivatives of it",
                    stacklevel=2,
                )

    # --- writing in place -----------------------------------------------------------------------------------------

    def _in_place(self, func: Callable, target: Tensor, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Compute the new value as a tensor of its own, and note that it is what the target is by now."""
        if not self.grad:
            raise ByNested("it writes in place, without gradients, to what has derivatives")
        if self._is_shared(self.value(target)) or (self.entry(target) is None and is_view(target)):
            raise ByNested(f"it writes in place ({name_of(func)}) to a tensor that shares its memory with another")
        fresh = out_of_place(func)
        if fresh is None:
            raise ByNested(f"it calls {name_of(func)}, which writes in place")
        args, kwargs = without_inplace(func, args, kwargs)
        result = self._applied(fresh, self.value(args), self.value(kwargs))
        like = self.value(target)
        if result.shape != like.shape or result.dtype != like.dtype:
            result = self.composed(lambda r: r.expand(like.shape).to(like.dtype), result)
        self.keep(target, self.streams(result), self.value(result))
        return target


_TOLD: set[str] = set()
