"""In which mode a call is made: plain eager mode, or a compiler, a transform, autocast, a mode, a tensor subclass."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, compiler
from torch._C import (
    _dispatch_tls_is_dispatch_key_included,
    _is_any_autocast_enabled,
    _is_torch_function_mode_enabled,
    _is_tracing,
    _len_torch_dispatch_stack,
)
from torch._C._autograd import _top_saved_tensors_default_hooks
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.autograd import forward_ad
from torch.compiler import is_compiling, is_dynamo_compiling, is_exporting
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import _CachedTorchDispatchMode, _CachingTorchDispatchMode

from .dispatcher import Overload, key

P = ParamSpec("P")
T = TypeVar("T")
_VMAP_MODE = key("VmapMode")  # torch's older vmap: grad(is_grads_batched=True), functional.jacobian
_NEVER_WRAPPED = frozenset((torch.nn.Parameter, type(None)))
_TORCHS = _NEVER_WRAPPED | {Tensor}
_LINEAR = torch._C._nn.linear
_SELECTIVE_CHECKPOINT = _CachedTorchDispatchMode, _CachingTorchDispatchMode


class OpsMode(TorchFunctionMode):
    """A torch-function mode that knows what the ops mean: under it they are called, and not torch's functions."""


def requires_grad(*tensors: Tensor | None) -> bool:
    """Whether backward can reach one of the tensors."""
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    return False


def in_plain_eager(*tensors: Tensor | None) -> bool:
    """Whether this is plain eager mode: no transform, no autocast, and torch's functions mean what they say.

    A dispatch mode sees what would run without it.
    """
    return not _is_any_autocast_enabled() and in_eager(*tensors)


def in_eager(*tensors: Tensor | None) -> bool:
    """The same, or autocast is on."""
    return (
        outside_transforms(*tensors)
        and not _is_tracing()
        and not (_is_torch_function_mode_enabled() and _mode_sees_functions())
        and not (_len_torch_dispatch_stack() > 0 and _in_selective_checkpoint())
    )


def outside_transforms(*tensors: Tensor | None) -> bool:
    """Whether there is no compiler, torch.func, vmap, forward mode or tensor subclass.

    A tensor of torch.func can outlive its level: what a pullback saved, for one. Only the dispatcher unwraps it.
    """
    if is_compiling():
        return False
    for t in tensors:
        kind = type(t)
        if kind is Tensor:
            if is_functorch_wrapped_tensor(t):  # type: ignore[arg-type]  # it is a Tensor
                return False
        elif kind not in _NEVER_WRAPPED:  # subclasses have ways of their own
            return False
    return (
        peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and not _dispatch_tls_is_dispatch_key_included(_VMAP_MODE)
    )


def traces() -> bool:
    """Whether a compiler, torch.func or torch.jit.trace is at work, to which sizes may be no numbers."""
    return is_dynamo_compiling() or compiler._is_compiling_flag or peek_interpreter_stack() is not None or _is_tracing()


def autocasts() -> bool:
    return _is_any_autocast_enabled()


def dtype_in_product(t: Tensor) -> torch.dtype:
    """The dtype of a tensor where a matrix product reads it: autocast casts it there."""
    dtype, device = t.dtype, t.device.type
    if not torch.is_autocast_enabled(device) or not dtype.is_floating_point or dtype is torch.float64:
        return dtype
    return torch.get_autocast_dtype(device)


def in_torch_func() -> bool:
    return peek_interpreter_stack() is not None


def transforms() -> tuple[int, int]:
    """How many levels of torch.func, and of forward mode, are on."""
    interpreter = peek_interpreter_stack()
    return 0 if interpreter is None else interpreter.level(), forward_ad._current_level + 1


def is_ops_mode_on() -> bool:
    return _is_torch_function_mode_enabled() and any(isinstance(m, OpsMode) for m in _get_current_function_mode_stack())


def unseen(f: Callable[P, T]) -> Callable[P, T]:
    """A function that only asks tensors what they are; modes that know the ops do not see these questions."""

    @wraps(f)
    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        if is_compiling() or not is_ops_mode_on():
            return f(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            return f(*args, **kwargs)

    return asked


def is_dispatch_mode_on() -> bool:
    return _len_torch_dispatch_stack() > 0


def mutates(f: object) -> bool:
    """Whether this is an op of torch.ops that writes to what it is given."""
    return isinstance(f, Overload) and f._schema.is_mutable


def is_view(t: Tensor) -> bool:
    """Whether this is a view of another tensor, as far as autograd knows."""
    return t._base is not None


@lru_cache(maxsize=1000)
def without_override(f: FunctionType) -> FunctionType | None:
    """A function that torch wrote in Python, without its question for torch-function modes; None for all others."""
    asks = [name for name in f.__code__.co_names if name.startswith("has_torch_function")]
    if not asks or not f.__module__.startswith("torch."):
        return None
    told = f.__globals__ | dict.fromkeys(asks, lambda *_: False)
    return FunctionType(f.__code__, told, f.__name__, f.__defaults__, f.__closure__)


SETS_GRAD_MODE = torch._C._set_grad_enabled  # what torch.no_grad and its like call


@contextmanager
def grad_mode(on: bool) -> Iterator[None]:
    """torch.set_grad_enabled, unseen by torch-function modes."""
    before = torch.is_grad_enabled()
    if before is on:
        yield
        return
    _set_grad_mode(on)
    try:
        yield
    finally:
        _set_grad_mode(before)


def _set_grad_mode(on: bool) -> None:
    with torch._C.DisableTorchFunction():
        SETS_GRAD_MODE(on)


LINEAR_AS_IT_IS = vars(F), "linear", _LINEAR  # owner, name, value, where nobody has


def linear_is_replaced() -> bool:
    """Whether somebody has put a function of their own in the place of torch.nn.functional.linear."""
    return F.linear is not _LINEAR


def is_linear(f: object) -> bool:
    """Whether this is torch.nn.functional.linear, torch's own or what somebody has put in its place."""
    return f is _LINEAR or f is F.linear


def calls_torch(*tensors: Tensor | None) -> bool:
    """Whether torch's own functions are to be called, where this is not plain eager mode.

    A torch-function mode or a tensor subclass may have a meaning of its own for them, the policy of a selective
    checkpoint names ops of torch, and what a tracer records should run without fusegrad.
    """
    if any(map(is_of_others, tensors)):
        return True
    return not is_compiling() and (
        _is_tracing()
        or (_is_torch_function_mode_enabled() and _mode_sees_functions(OpsMode))
        or (_len_torch_dispatch_stack() > 0 and _in_selective_checkpoint())
    )


def is_of_others(t: Any) -> bool:
    """Whether this is a tensor of a subclass that has a meaning of its own for torch's functions, in any mode."""
    cls = type(t)
    return cls not in _TORCHS and Tensor in cls.__mro__ and not _takes_ops(cls)  # isinstance takes twice as long here


def is_one_of_others(a: Any, b: Any = None) -> bool:
    """Whether one of two is such a tensor, where no compiler asks."""
    return (
        not (type(a) in _TORCHS and type(b) in _TORCHS)
        and not is_dynamo_compiling()
        and (is_of_others(a) or is_of_others(b))
    )


def _takes_ops(cls: type[Tensor]) -> bool:
    """Whether tensors of a subclass can go to an op that it has not heard of: torch's distributed and fake ones can."""
    return cls.__module__.startswith(("torch.distributed.", "torch._subclasses."))


def _mode_sees_functions(*but: type[TorchFunctionMode]) -> bool:
    """Whether a torch-function mode is on other than that of torch.set_default_device, which makes no difference."""
    return any(not isinstance(mode, (DeviceContext, *but)) for mode in _get_current_function_mode_stack())


def _in_selective_checkpoint() -> bool:
    return any(isinstance(mode, _SELECTIVE_CHECKPOINT) for mode in _get_current_dispatch_mode_stack())


def allows_fused_ops(*tensors: Tensor) -> bool:
    """Whether a rule may call an op that does the work of several. Some modes have rules for these only."""
    return not in_torch_func() and forward_ad._current_level < 0 and not any(map(is_dtensor, tensors))


def saves_for_backward(*tensors: Tensor | None) -> bool:
    """Whether a call should save what a derivative needs. Where the answer is no, a derivative computes it again."""
    return requires_grad(*tensors) or not (is_compiling() or outside_transforms(*tensors))


def saved_tensor_hooks() -> Any:
    """The innermost hooks of saved tensors, or None: a checkpoint has its own."""
    return _top_saved_tensors_default_hooks(False)


def checkpoints_work(*tensors: Tensor | None) -> bool:
    """Whether torch.utils.checkpoint serves a function of these.

    Not under torch.func, whose levels refuse its hooks, nor in forward mode, nor where a program is recorded.
    """
    if is_compiling():
        return is_dynamo_compiling() and not is_exporting()
    return outside_transforms(*tensors) and not _is_tracing() and not is_ops_mode_on()


def saved_tensor_hooks_work() -> bool:
    return torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]  # not in the stubs


def holds_its_numbers(t: Tensor) -> bool:
    """Whether the memory of a tensor has its numbers: not negated ones, nor none at all, of one that is known as zero.

    The dispatcher gives kernels what they can read, but not in a list.
    """
    return not t.is_neg() and not t._is_zerotensor()


def is_dtensor(t: Tensor) -> bool:
    dtensor = sys.modules.get("torch.distributed.tensor")
    return dtensor is not None and isinstance(t, dtensor.DTensor)
