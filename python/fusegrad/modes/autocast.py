"""How the ops run under autocast.

Matrix products run in the autocast dtype, as torch's do. An activation keeps the dtype it is given, but for those that
autocast runs in float32 on every device but a CPU (exp, pow, softplus: docs.pytorch.org/docs/stable/amp.html).
What C++ runs at once on a CPU (at_once.py) does not come here: csrc/autograd/autocast.h casts that.
"""

from collections.abc import Callable
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ..activations import REGISTRY
from ..internals.call import outside_transforms, saved_tensor_hooks_work
from ..internals.dispatcher import AUTOCAST, autocasts_to_float32, under_autocast, view_of
from ..ops import (
    OPS,
    act,
    act_jvp,
    act_vjp,
    gated,
    gated_backward,
    library,
    linear,
    linear_act,
    linear_act_backward,
    mlp,
    mm,
    mm_dact,
)


def _cast(device: str, dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    def cast(t: Tensor | None) -> Tensor | None:
        if t is None or not t.is_floating_point() or t.dtype == torch.float64 or t.device.type != device:
            return t
        return _cached(t, dtype) if _is_cached(t, dtype) else t.to(dtype)

    return tuple(cast(t) for t in tensors)


def _alike(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the widest of their dtypes, as torch promotes them.

    A gradient may come from outside of autocast, and what was saved from inside.
    """
    dtype = reduce(torch.promote_types, (t.dtype for t in tensors if t is not None))
    return tuple(None if t is None else t.to(dtype) for t in tensors)


def _is_cached(t: Tensor, dtype: torch.dtype) -> bool:
    """Whether torch would cast a matrix once in an autocast region, and keep one copy however often it is used."""
    return (
        t.dtype == torch.float32 != dtype
        and t.requires_grad
        and t.is_leaf
        and t.dim() == 2
        and torch.is_grad_enabled()
        and torch.is_autocast_cache_enabled()
        and saved_tensor_hooks_work()
        and outside_transforms(t)
    )


def _cached(w: Tensor, dtype: torch.dtype) -> Tensor:
    """w in dtype, from torch's cache. Python cannot ask for it, so a product without rows is made, which saves it."""
    saved: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        saved.append(t)
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        F.linear(w.new_empty(0, w.shape[1], dtype=dtype).requires_grad_(), w)
    for t in saved:  # w transposed: a view of the copy
        base = view_of(t)
        if base is not None and base.dtype == dtype and base.shape == w.shape:
            return base
    return w.to(dtype)


def _register(key: str, device: str) -> None:
    low = lambda *tensors: _cast(device, torch.get_autocast_dtype(device), *tensors)
    wide = lambda *tensors: _cast(device, torch.float32, *tensors)
    in_float32 = lambda name: REGISTRY[name].autocast_to_float32 and autocasts_to_float32(key)

    def elementwise(op, tensors):
        def cast(*args):
            given, name = args[:tensors], args[tensors]
            return partial(op, *(wide(*given) if in_float32(name) else _alike(*given)), *args[tensors:])

        return cast

    def wide_linear_act(x, w, b, name, param):
        y = act(*wide(linear(x, w, b)), None, name, param, 0)
        return y, y.new_empty(0)

    def linear_act_cast(x, w, b, name, param, save):
        args = *low(x, w, b), name, param
        return partial(wide_linear_act, *args) if in_float32(name) else partial(linear_act, *args, save)

    def wide_mlp(x, w1, b1, w2, b2, name, param):
        y = linear(*low(wide_linear_act(x, w1, b1, name, param)[0], w2, b2))
        return y, y.new_empty(0)

    def mlp_cast(x, w1, b1, w2, b2, name, param, save):
        args = *low(x, w1, b1, w2, b2), name, param
        return partial(wide_mlp, *args) if in_float32(name) else partial(mlp, *args, save)

    def wide_gated(x, w_gate, w_up, b_gate, b_up, name, param):
        y = wide_linear_act(x, w_gate, b_gate, name, param)[0] * linear(x, w_up, b_up)
        return y, y.new_empty(0), y.new_empty(0)

    def gated_cast(x, w_gate, w_up, b_gate, b_up, name, param, save):
        args = *low(x, w_gate, w_up, b_gate, b_up), name, param
        return partial(wide_gated, *args) if in_float32(name) else partial(gated, *args, save)

    casts: dict[str, Callable[..., Callable]] = {
        "act": elementwise(act, 2),
        "act_vjp": elementwise(act_vjp, 3),
        "act_jvp": elementwise(act_jvp, 4),
        "mm": lambda a, b, *flags: partial(mm, *low(a, b), *flags),
        "linear": lambda x, w, b: partial(linear, *low(x, w, b)),
        "linear_act": linear_act_cast,
        "mlp": mlp_cast,
        "mm_dact": lambda *args: partial(mm_dact, *_alike(*args[:3]), *args[3:]),
        "linear_act_backward": lambda *args: partial(linear_act_backward, *_alike(*args[:4]), *args[4:]),
        "gated": gated_cast,
        "gated_backward": lambda *args: partial(gated_backward, *_alike(*args[:6]), *args[6:]),
    }
    for name, cast in casts.items():
        under_autocast(library, OPS[name], key, cast)


for key, device in AUTOCAST.items():
    _register(key, device)
