"""Binds an autograd.Function to an op, as the op's Autograd kernel. The only file that uses torch's internals.

torch.compile and torch.export then see one opaque op, while eager mode and torch.func dispatch into the Function
at each of their levels. A rule is written as for torch.autograd.Function: setup_context, backward, jvp.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import (
    _AutoDispatchBelowADInplaceOrView,
    _dispatch_tls_is_dispatch_key_included,
    _is_any_autocast_enabled,
    _is_torch_function_mode_enabled,
    _is_tracing,
    _len_torch_dispatch_stack,
    _parse_dispatch_key,
    _will_engine_execute_node,
)
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction
from torch.compiler import is_compiling
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import _CachedTorchDispatchMode, _CachingTorchDispatchMode


def _key(name: str) -> torch._C.DispatchKey:
    """The dispatch key of a name; torch._C.DispatchKey does not list all of them."""
    key = _parse_dispatch_key(name)
    assert key is not None
    return key


_VMAP_MODE = _key("VmapMode")  # torch's older vmap: grad(is_grads_batched=True), functional.jacobian
_NEVER_WRAPPED = frozenset((torch.nn.Parameter, type(None)))
_TORCHS = _NEVER_WRAPPED | {Tensor}
_LINEAR = torch._C._nn.linear
_SELECTIVE_CHECKPOINT = _CachedTorchDispatchMode, _CachingTorchDispatchMode


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
    return (
        outside_transforms(*tensors)
        and not (_is_torch_function_mode_enabled() and _mode_sees_functions())
        and not (_len_torch_dispatch_stack() > 0 and _in_selective_checkpoint())
        and not _is_tracing()
        and not _is_any_autocast_enabled()
    )


def outside_transforms(*tensors: Tensor | None) -> bool:
    """Whether there is no compiler, torch.func, vmap, forward mode or tensor subclass.

    A tensor of torch.func can outlive its level: what a pullback kept, for one. Only the dispatcher unwraps it.
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


def linear_is_replaced() -> bool:
    """Whether somebody has put a function of their own in the place of torch.nn.functional.linear."""
    return F.linear is not _LINEAR


def calls_torch(*tensors: Tensor | None) -> bool:
    """Whether torch's own functions are to be called, where this is not plain eager mode.

    A torch-function mode or a tensor subclass may have a meaning of its own for them, the policy of a selective
    checkpoint names ops of torch, and what a tracer records should run without fusegrad.
    """
    for t in tensors:
        if type(t) not in _TORCHS and isinstance(t, Tensor) and not _takes_ops(type(t)):
            return True
    return not is_compiling() and (
        _is_tracing()
        or (_is_torch_function_mode_enabled() and _mode_sees_functions())
        or (_len_torch_dispatch_stack() > 0 and _in_selective_checkpoint())
    )


def _takes_ops(cls: type[Tensor]) -> bool:
    """Whether tensors of a subclass can go to an op that it has not heard of: torch's distributed and fake ones can."""
    return cls.__module__.startswith(("torch.distributed.", "torch._subclasses."))


def _mode_sees_functions() -> bool:
    """Whether a torch-function mode is on other than that of torch.set_default_device, which makes no difference."""
    return any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack())


def _in_selective_checkpoint() -> bool:
    return any(isinstance(mode, _SELECTIVE_CHECKPOINT) for mode in _get_current_dispatch_mode_stack())


def allows_fused_ops(*tensors: Tensor) -> bool:
    """Whether a rule may call an op that does the work of several, and has fewer modes than they."""
    return (
        peek_interpreter_stack() is None and forward_ad._current_level < 0 and all(not _is_dtensor(t) for t in tensors)
    )


def saves_for_backward(*tensors: Tensor | None) -> bool:
    """Whether a call should keep what a derivative needs. If this is wrong, it is only computed again."""
    return requires_grad(*tensors) or not (is_compiling() or outside_transforms(*tensors))


def wanted(ctx, tensors: int, absent: Sequence[int] = ()) -> list[bool]:
    """For each of the leading `tensors` arguments: will this very backward pass use its gradient?

    ctx.needs_input_grad was fixed in forward: in grad(u, x) it still asks for the gradients of all weights, which
    costs a GEMM a layer and order. The engine knows which nodes it is going to run. It has no entry for None: such
    arguments are `absent`, in order, but for the last.
    """
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


def _keys(*names: str) -> torch._C.DispatchKeySet:
    return reduce(or_, (torch._C.DispatchKeySet(_key(name)) for name in names))


# the devices that torch.autocast knows, by their dispatch keys
AUTOCAST = {
    f"Autocast{name}": name.lower() for name in ("CPU", "CUDA", "HPU", "IPU", "MAIA", "MPS", "MTIA", "XLA", "XPU")
} | {"AutocastPrivateUse1": torch._C._get_privateuse1_backend_name()}
_DEFAULT_ON = _keys("BackendSelect", "ADInplaceOrView")
_DEFAULT_OFF = _keys(*AUTOCAST)


def above_autograd():
    """A context for the inside of a kernel: derivatives can be taken again, of what is computed there.

    It gives the thread the dispatch keys that it has outside of all kernels, modes and autocast.
    """
    return torch._C._ForceDispatchKeyGuard(_DEFAULT_ON, _DEFAULT_OFF)


def differentiable(library: torch.library.Library, op: torch._ops.OpOverload, rule: Any) -> Any:
    """Make `rule` (setup_context, backward, jvp) the derivative of `op`, in every mode. Its tensors come first.

    Returns the op as a function that takes the shortest way: in plain eager mode past the dispatcher's autograd. For
    who knows already that this is plain eager mode it has `apply`, with a derivative, and `kernel`, without. The op's
    own kernel never skips the Function: inside a compiled graph Python does not see that forward mode is on.
    """

    # Below ADInplaceOrView too: a kernel may return a view of what it made (F.linear does for some ranks), and a view
    # that is known to come from a Function cannot be changed in place.
    def forward(*args):
        if peek_interpreter_stack() is None:
            with _AutoDispatchBelowADInplaceOrView():
                return op(*args)
        # the outer levels' derivatives go on inside, if the caller has them on: torch.no_grad() is for all levels
        grad = torch.set_grad_enabled(_caller.grad[-1])
        with grad, _set_fwd_grad_enabled(True), _AutoDispatchBelowADInplaceOrView():
            return op(*args)

    # torch.func has chosen the level before it calls this kernel; a plain Function would start over at the
    # outermost one. Function.apply would also bind the arguments by inspect.signature, 10 us a call.
    members = {k: v for k, v in vars(rule).items() if k in ("setup_context", "backward", "__doc__")}
    members |= {"forward": staticmethod(forward), "jvp": staticmethod(_jvp_of_all_levels(rule.jvp))}
    members |= {"_compiled_autograd_key": staticmethod(torch.autograd.Function._compiled_autograd_key)}
    function: Any = type(rule.__name__, (_SingleLevelFunction,), members)
    apply = function.apply

    def kernel(*args):
        tensors = [a for a in args if isinstance(a, Tensor)]
        _teach_dtensor(tensors)
        if peek_interpreter_stack() is None:
            return apply(*args)
        _caller.grad.append(torch.is_grad_enabled())  # apply turns it off
        try:
            with enable_single_level_autograd_function():
                return apply(*args)
        finally:
            _caller.grad.pop()

    library.impl(unqualified(op), kernel, "Autograd")
    count = sum("Tensor" in str(a.type) for a in op._schema.arguments)

    def below_autograd(*args):
        with _AutoDispatchBelowADInplaceOrView():
            return op(*args)

    def call(*args) -> Any:
        tensors = args[:count]
        if not in_plain_eager(*tensors):
            return op(*args)
        return apply(*args) if requires_grad(*tensors) else below_autograd(*args)

    vars(call).update(apply=apply, kernel=below_autograd)
    return call


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
        if peek_interpreter_stack() is None:
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


def under_autocast(
    library: torch.library.Library, op: torch._ops.OpOverload, key: str, cast: Callable[..., Callable]
) -> None:
    """Where `op` is called under the autocast of a key, call what `cast` makes of its arguments, with autocast off."""
    off = _keys(key)

    def kernel(*args):
        call = cast(*args)
        with torch._C._ExcludeDispatchKeyGuard(off):
            return call()

    library.impl(unqualified(op), kernel, key)


def autocasts_to_float32(key: str) -> bool:
    """Whether the autocast of a dispatch key runs torch's softplus, and all that it treats alike, in float32."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("aten::softplus", key)


def saved_tensor_hooks_work() -> bool:
    return torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]


def decomposes(op: torch._ops.OpOverload, into: Callable) -> None:
    """Let an exported program that is to run without fusegrad, ONNX say, be made of torch's own ops instead of `op`."""
    torch._decomp.register_decomposition(op)(into)


def has_kernel(op: str, device: str) -> bool:
    """Whether the op has a kernel of its own for a device, rather than the reference."""
    key = torch._C._dispatch_key_for_device(device)
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fusegrad::{op}", key)


def unqualified(op: torch._ops.OpOverload) -> str:
    """fusegrad::act -> act."""
    return op.name().split("::")[1]


def _is_dtensor(t: Tensor) -> bool:
    dtensor = sys.modules.get("torch.distributed.tensor")
    return dtensor is not None and isinstance(t, dtensor.DTensor)


def _teach_dtensor(tensors: list[Tensor]) -> None:
    """Register the sharding rules when the first DTensor comes: the import costs 1.4 s, too much for all others."""
    if any(map(_is_dtensor, tensors)):
        from ..modes import sharding as _sharding  # noqa: F401  (registers)
