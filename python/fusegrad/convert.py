"""Swap fused layers into a model, and out again, in place.

Modules keep their identity: a torch.nn.Linear becomes a fusegrad.Linear by adopting the class, so parameters, hooks,
state_dict keys, device, dtype and mode stay as they are. An activation is fused at the place that calls it: the module
whose forward runs a Linear and then its activation gets a forward that runs both as one. The Linear itself is not
changed, so whoever else calls it, or replaces it, gets what is written.
"""

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from . import _recognise, functional
from ._recognise import Spec
from ._trace import CONTAINERS, NotProved, trace
from .nn import Act, Linear

Filter = Callable[[nn.Module, str], bool]  # (module, its path) -> whether to convert it


def fuse(model: nn.Module, filter_fn: Filter | None = None) -> nn.Module:
    """Replace the linear layers of a model by fused ones, in place.

    Every torch.nn.Linear becomes a fusegrad.Linear, every activation module a fusegrad.Act. Where an activation is
    proved to follow a Linear directly, as its only reader, both run as one op: neighbours in a torch.nn.Sequential,
    and pairs in any other forward that torch.fx can trace and that has no branches, such as torch.tanh(self.fc(x)).
    What is not safe is left alone: subclasses, parametrizations, hooked layers, tensor-subclass weights, activations
    that write in place. `explain` tells what became of each layer; `unfuse` is the exact inverse.

    Like torch.fx, which it uses, it must not run while another thread runs a model.

    Args:
        model: any module. Its parameters, state_dict keys, hooks, tied weights, device, dtype and mode stay.
        filter_fn: called with each Linear and activation and its path; False leaves it alone.

    Returns:
        The model itself.

    Raises:
        TypeError: model is no torch.nn.Module.

    >>> import torch, fusegrad as fg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> fg.fuse(model) is model
    True
    """
    check_model("fuse", model)
    for path, m in list(model.named_modules()):
        if filter_fn is not None and not filter_fn(m, path):
            continue
        if type(m) is nn.Linear and why_not(m) is None:
            vars(m)["_fused_from"] = type(m)
            m.__class__ = Linear
        elif type(m) is not Act and not getattr(m, "inplace", False) and why_not(m) is None:
            spec = _recognise.of_module(m)
            if spec is not None:
                vars(m).update(_fused_from=type(m), name=spec[0], param=spec[1])
                m.__class__ = Act
    for m in model.modules():
        if not isinstance(m, Fused) and holds_linear(m):
            _fuse_calls(m)
    return model


def unfuse(model: nn.Module) -> nn.Module:
    """Undo `fuse`, in place: every module gets back its own class. Returns the model itself.

    >>> import torch, fusegrad as fg
    >>> type(fg.unfuse(fg.fuse(torch.nn.Linear(2, 2))))
    <class 'torch.nn.modules.linear.Linear'>
    """
    check_model("unfuse", model)
    for m in model.modules():
        if isinstance(m, Fused) and "unfused" in vars(type(m)):
            _set_class(m, type(m).unfused)
        original = vars(m).pop("_fused_from", None)
        if original is not None:
            if type(m) is Act:
                del m.name, m.param
            m.__class__ = original
    return model


# --- fused calls --------------------------------------------------------------------------------------------------


def fused_call(linear: nn.Module, x: Tensor, act: nn.Module | Callable | Spec) -> Tensor:
    """act(linear(x)), as one op while nothing else has a hand in it: no hook, no other class, no activation yet."""
    spec = act if isinstance(act, tuple) else _recognise.of(act)
    if spec is not None and type(linear) is Linear and linear.act is None and not (hooked(linear) or hooked(act)):
        return functional.linear_act(x, linear.weight, linear.bias, act=spec[0], param=spec[1])
    z = linear(x)
    return functional.act(z, *act) if isinstance(act, tuple) else act(z)


def sequential_forward(self: nn.Sequential, input):
    """The forward of torch.nn.Sequential with each Linear and the activation after it as one call."""
    modules = list(self._modules.values())
    i = 0
    while i < len(modules):
        if type(modules[i]) is Linear and i + 1 < len(modules) and _recognise.of_module(modules[i + 1]) is not None:
            input = fused_call(modules[i], input, modules[i + 1])
            i += 2
        else:
            input = modules[i](input)
            i += 1
    return input


class Fused(nn.Module):
    """Marks a module whose forward was fused: its class is made from this and from its `unfused` class.

    Copies and pickles are made as the original class would, and fused again when they are restored, so that no
    generated code is stored.
    """

    unfused: type[nn.Module]

    def __reduce_ex__(self, protocol):
        reduced: Any = super().__reduce_ex__(max(protocol, 2))
        make, args, *state = reduced
        original = type(self).unfused
        return _restore, (original, make, tuple(original if a is type(self) else a for a in args)), *state

    def __setstate__(self, state):
        super().__setstate__(state)
        _set_class(self, type(self).unfused)
        _fuse_calls(self)


def _set_class(m: nn.Module, cls: type[nn.Module]) -> None:
    m.__class__ = cls


def _restore(original: type[nn.Module], make: Callable, args: tuple) -> nn.Module:
    module = make(*args)
    module.__class__ = _fused_class(original)
    return module


# Modules with equal forwards share a class, so that torch.compile compiles it once for all layers of a model.
_CLASSES: WeakValueDictionary[tuple, type[nn.Module]] = WeakValueDictionary()


def _fused_class(original: type[nn.Module], key: Hashable = None, **members: Any) -> type[nn.Module]:
    made = _CLASSES.get((original, key))
    if made is None:
        names = {k: getattr(original, k) for k in ("__module__", "__qualname__", "__doc__")}
        made = type(original.__name__, (Fused, original), names | {"unfused": original} | members)
        _CLASSES[original, key] = made
    return made


def _fuse_calls(m: nn.Module) -> None:
    """Give m a forward that runs its pairs as one, if it has any and that can be proved."""
    original = type(m)
    if original.__reduce_ex__ is not object.__reduce_ex__ or original.__reduce__ is not object.__reduce__:
        return
    if is_sequential(original):
        if "forward" not in vars(m):
            m.__class__ = _fused_class(original, "sequential", forward=sequential_forward)
        return
    try:
        traced = trace(m, original, fused_call)
    except NotProved:
        return
    if traced.pairs:
        m.__class__ = _fused_class(original, traced.key, forward=traced.forward)


def is_sequential(cls: type[nn.Module]) -> bool:
    return issubclass(cls, nn.Sequential) and cls.forward in (nn.Sequential.forward, sequential_forward)


def holds_linear(m: nn.Module) -> bool:
    """Whether the forward of m may call a Linear: one of its children, or of the containers among them."""
    if isinstance(m, (nn.ModuleList, nn.ModuleDict)):
        return False
    return any(type(c) is Linear or (isinstance(c, CONTAINERS) and _contains(c)) for c in m.children())


def _contains(m: nn.Module) -> bool:
    return any(type(c) is Linear or (isinstance(c, CONTAINERS) and _contains(c)) for c in m.children())


# --- what is safe -------------------------------------------------------------------------------------------------


def hooked(m: object) -> bool:
    return isinstance(m, nn.Module) and bool(
        m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
        or "forward" in vars(m)
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def why_not(m: nn.Module) -> str | None:
    """Why a Linear or an activation is left alone, or None."""
    if "forward" in vars(m):
        return "its forward was replaced"
    if nn.utils.parametrize.is_parametrized(m):
        return "parametrized"
    if hooked(m):
        return "has hooks"
    if isinstance(m, nn.Linear):
        if type(m) not in (nn.Linear, Linear):
            return f"a subclass, {type(m).__name__}"
        for name, p in (("weight", m.weight), ("bias", m.bias)):
            if p is not None and type(p) is not nn.Parameter:
                return f"its {name} is a {type(p).__name__}"
        if m.weight.dtype not in functional.DTYPES:
            return f"its weight is {m.weight.dtype}"
    return None


def check_model(op: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model must be a torch.nn.Module, got {type(model).__name__}")
