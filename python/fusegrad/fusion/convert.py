"""Swap fused layers into a model, and out again, in place.

Modules keep their identity: a torch.nn.Linear becomes a fusegrad.Linear by adopting the class, and an activation module
a fusegrad.Act, so parameters, hooks, state_dict keys, device, dtype and mode stay as they are. A module whose methods
call a Linear and then its activation adopts a class whose methods do the two as one (rewrite.py). What the activation
and the Linear compute by themselves is not changed, so whoever else calls them, or replaces them, gets what is written.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.parameter import is_lazy

from .. import routing
from ..internals.module import children, stored
from ..nn import SMALL, Linear, why_called, why_unfit
from ..routing import AS_FAST_IN_STOCK
from . import rewrite
from .classes import CONVERTED, Fused, fused_class, original_class, set_class, why_class_stays
from .find import Call, activation_of, calls
from .fused import fused_class_of
from .kept import KEPT
from .match import FAST, adopts
from .opened import LEFT_OUT, is_layer
from .recognise import ADOPTED, STOCK, AdoptedAct, is_derived_twice

Filter = Callable[[nn.Module, str], bool]  # (Linear or activation, its path) -> whether it may be fused

_MARKS = CONVERTED, LEFT_OUT, FAST, SMALL, KEPT  # attributes that fuse sets


def fuse(model: nn.Module, filter_fn: Filter | None = None) -> nn.Module:
    """Replace the linear layers of a model by fused ones, in place.

    Every torch.nn.Linear becomes a fusegrad.Linear, and every activation module a fusegrad.Act, but for in-place ones.
    Where an activation is the next to read the result of a linear layer, or a gate of two, they run as one op:
    neighbours in a torch.nn.Sequential, and in methods with source `torch.tanh(self.fc(x))`, `x = self.fc(x)` with
    `x = F.relu(x)` as the next statement, `self.act(self.gate(x)) * self.up(x)`. Layers may be subclasses or
    parametrized, activations functions or modules of your own. All else runs as it is written. What cannot be proved
    safe is left alone: hooked layers, tensor-subclass weights, methods without source, torch's own modules but for its
    transformer layers, classes whose methods depend on their exact class. `explain` tells what became of each layer;
    `unfuse` is the exact inverse. What you change in the model later (layers, hooks, slopes, attributes) is obeyed.

    Nothing of the model is run, and where anything is raised it is as it was. The class of an activation module, and of
    a module that has such a pair, changes to a subclass of the same name.

    Args:
        model: any module. Its parameters, state_dict keys, hooks, tied weights, device, dtype and mode stay.
        filter_fn: called with each Linear and each activation module, and its path; False leaves it alone.

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
    with _all_or_nothing(model):
        acts: dict[nn.Module, frozenset[str]] = defaultdict(frozenset)  # that layers are fused with
        for path, m in list(model.named_modules()):
            for mark in (LEFT_OUT, FAST, SMALL):
                vars(m).pop(mark, None)
            if is_linear(m) or is_activation(m):
                _convert(m, filter_fn is not None and not filter_fn(m, path))
        # another library may have made a class of its own from ours
        found = {m: [*calls(m)] for m in model.modules() if fused_class_of(m) in (None, type(m))}
        ours = {m: [call for call in of if _runs_ours(m, call)] for m, of in found.items()}
        rewritten = {original_class(type(m)) for m, of in ours.items() if of}
        for m, of in found.items():
            for call in ours[m]:
                acts[call.linear] |= call.acts
            original = original_class(type(m))
            alone = [call for call in of if call.alone] if original in rewritten else []
            keys = {call.key for call in (*ours[m], *alone) if call.key is not None}
            if (ours[m] or keys) and why_class_stays(original) is None:
                set_class(m, fused_class(original, keys))
            _mark_small(m, [call.linear for call in found[m]])
        for linear, names in acts.items():
            if names and names <= AS_FAST_IN_STOCK:
                vars(linear)[FAST] = True
    return model


def _mark_small(m: nn.Module, linears: list[nn.Module]) -> None:
    """What a compiler is to see as it is written: small layers, what calls no others, and activations by themselves.

    Of these it makes one pass with what stands around them.
    """
    if CONVERTED in vars(m):
        linears = [m]
    small = bool(linears) and isinstance(m, (Fused, Linear)) and all(map(_is_small, linears))
    if small or (is_derived_twice(m) and routing.SMALL_TO_COMPILERS > 0):
        vars(m)[SMALL] = True


def _is_small(m: nn.Module) -> bool:
    weights = [w for w in vars(m)["_parameters"].values() if w is not None]
    fit = all(not is_lazy(w) and w.numel() <= routing.SMALL_TO_COMPILERS for w in weights)
    return fit and all(_is_small(child) for child in children(m).values() if child is not None)


def _runs_ours(m: nn.Module, call: Call) -> bool:
    """Whether a call is to be rewritten: one that may be fused, or of a layer that is no Linear of ours."""
    may_be_fused = call.fused_with or call.undecided or call.by_rows or call.sums
    return call.one_by_one is None and bool(may_be_fused or (call.multiplied and call.linear is m))


def _convert(m: nn.Module, left_out: bool) -> None:
    """Give a Linear or an activation module the class that it is to have."""
    if left_out:
        vars(m)[LEFT_OUT] = True
    if not left_out and type(m) is nn.Linear and why_not(m) is None:
        vars(m)[CONVERTED] = True
        set_class(m, Linear)
    stock: type[nn.Module] = vars(type(m)).get(STOCK, type(m))
    if stock in ADOPTED:
        set_class(m, ADOPTED[stock] if adopts(m) else stock)


@contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Where anything is raised, every module is again what it was."""
    before = [(m, type(m), {k: vars(m)[k] for k in _MARKS if k in vars(m)}) for m in model.modules()]
    try:
        yield
    except BaseException:
        for m, cls, marks in before:
            set_class(m, cls)
            for mark in _MARKS:
                vars(m).pop(mark, None)
            vars(m).update(marks)
        raise
    finally:
        forget_functions()


def forget_functions() -> None:
    """What was read of functions is kept no longer than a call of ours: a function may hold a model."""
    rewrite.METHODS.clear()


def unfuse(model: nn.Module) -> nn.Module:
    """Undo `fuse`, in place: every module gets back its own class. Returns the model itself.

    Raises:
        TypeError: model is no torch.nn.Module.

    >>> import torch, fusegrad as fg
    >>> type(fg.unfuse(fg.fuse(torch.nn.Linear(2, 2))))
    <class 'torch.nn.modules.linear.Linear'>
    """
    check_model("unfuse", model)
    with _all_or_nothing(model):
        for m in model.modules():
            if CONVERTED in vars(m) or isinstance(m, (Fused, AdoptedAct)):
                set_class(m, original_class(type(m)))
            for mark in _MARKS:
                vars(m).pop(mark, None)
    return model


def is_linear(m: nn.Module) -> bool:
    """Whether a module is a linear layer: torch's or ours, one that returns what one gives, or calls F.linear."""
    return isinstance(m, nn.Linear) or is_layer(m) or any(call.linear is m and not call.alone for call in calls(m))


def is_activation(m: nn.Module) -> bool:
    """Whether a module is an activation: one of torch's, of a known formula, or one that applies such a one first."""
    return isinstance(activation_of(m), tuple)


def why_not(m: nn.Linear) -> str | None:
    """Why a Linear does not become ours, or None. Runs nothing of it."""
    if "parametrizations" in children(m):
        return "parametrized"
    if type(m) not in (nn.Linear, Linear):
        return f"a subclass, {type(m).__name__}"
    if why := why_called(m):
        return why
    for name in ("weight", "bias"):
        p = stored(m, name)
        if p is not None and type(p) is not nn.Parameter:
            return f"its {name} is a {type(p).__name__}"
    return why_unfit(m)


def check_model(op: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model must be a torch.nn.Module, got {type(model).__name__}")
