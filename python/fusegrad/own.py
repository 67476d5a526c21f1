"""An activation of one's own: derived from its formula, compiled, and from then on known everywhere by its name."""

import math
import re
import sys
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from . import backends
from .activations import REGISTRY, as_float
from .activations.compile import TRITON, Unavailable, library
from .fusion import recognise
from .internals import cache_key

_LOCK = threading.Lock()
_DEFINED: dict[str, tuple] = {}  # what each of the user's own was made from


def activation(
    name: str,
    formula: Callable[..., Any],
    *,
    param: str | None = None,
    default: float | None = None,
    stands_for: Any = (),
    bound: float | None = None,
) -> str:
    """Define an activation, y = formula(z), or formula(z, param), by an expression. Its derivatives are worked out.

    From then on its name is taken by `linear_act`, `act`, `mlp`, `Linear`, `MLP` and `Act`, in every mode and order of
    differentiation, and `fuse` fuses what it stands for. Kernels are generated, C++ for CPUs and Triton for GPUs. Those
    in C++ are compiled here, by c++ or what the environment variable CXX names: about a second, once, as they are
    kept in ~/.cache/fusegrad (or $XDG_CACHE_HOME/fusegrad). That is done when the activation is defined, so that no
    step of a training, no compiled graph and no thread has to wait for a compiler later, and processes that start
    together share the work. Where that is not possible a warning says why, and the reference in PyTorch serves.

    Args:
        name: of the activation, an identifier that is not taken.
        formula: a function of z, or of z and the parameter, made of arithmetic, numbers and the functions
            `fusegrad.exp`, `log`, `log1p`, `expm1`, `sqrt`, `sin`, `cos`, `tanh`, `sigmoid`, `softplus`, `erf`, `abs`,
            `sign`, `where`, `clamp`, `maximum`, `minimum`. What these are of must depend on z: give what depends on the
            parameter alone, such as its root, as the parameter.
        param: what the parameter is called, if there is one: a real number, which has no gradient.
        default: its value where none is given.
        stands_for: a class of modules, a function, or a tuple of these, which `fuse` is to take for this activation
            where it follows a Linear. A module has its parameter, if there is one, as an attribute of that name; a
            function takes it as its second argument. That they compute the formula is on your word. Of a class only its
            own modules count, not those of subclasses, and only while it has the forward that it has now. Of torch's
            classes only elementwise activations can be named.
        bound: derivatives are taken as those at ±bound where z is beyond it. For formulas of which a product of 0 and
            infinity would give NaN at huge arguments, as of z**2 * exp(-z**2): there they have reached their limits.

    Returns:
        The name.

    Raises:
        ValueError: the name is taken by another formula, or is no identifier; the formula has no derivative, or the
            parameter no legal default; the bound is not above 0, or above 3.4e38; `stands_for` does not take the
            parameter as it should, or is a layer.
        TypeError: the formula is no function of these arguments, is made of other functions or of tensors, or decides
            by `if`, == or != what only `fusegrad.where` can; the default is no number; `stands_for` is neither class
            nor function.

    A definition that is repeated changes nothing. A pickle has the name alone: define it before you load one.

    >>> import torch, fusegrad as fg
    >>> ripple = fg.activation("ripple", lambda z, a: z + fg.sin(a * z) / a, param="a", default=1.0)
    >>> fg.act(torch.tensor([0.0, 1.0]), ripple, 2.0)
    tensor([0.0000, 1.4546])
    >>> layer = fg.Linear(3, 4, act="ripple")
    """
    _check(name, param, default, bound)
    from .activations import generate  # and sympy, which takes half a second to import

    definition = generate.derive(name, formula, param, default or 0.0, bound=as_float(bound))
    struct, triton = _as_own(generate.cpp(definition)), generate.triton(definition)
    made_from = generate.programs(definition), param, definition.default
    targets = stands_for if isinstance(stands_for, tuple) else (stands_for,)
    for target in targets:
        if why := recognise.why_not_for(definition, target):
            raise (ValueError if callable(target) else TypeError)(f"activation: stands_for={target!r} {why}")
    with _LOCK:
        if name in REGISTRY and not _is_same(made_from, name):
            raise ValueError(
                f"activation: {name!r} is another activation already; need another name, or, to give this one another "
                "formula, a new Python"
            )
        if name not in REGISTRY:
            entry, path = generate.torch_formulas(definition), _compiled(name, struct)
            if backends.extension is not None:
                backends.extension.know_activation(name, entry.saves_input)
            if path is not None:
                _load(path)
            cache_key.tell_formula(name, repr(made_from))
            TRITON[name] = triton
            _DEFINED[name], REGISTRY[name] = made_from, entry
            if "fusegrad.kernels.own" in sys.modules:
                sys.modules["fusegrad.kernels.own"].add(name)
        for target in targets:
            recognise.add(REGISTRY[name], target)
    return name


def _check(name: str, param: str | None, default: float | None, bound: float | None) -> None:
    if not isinstance(name, str) or not (name.isidentifier() and name.isascii()):
        raise ValueError(f"activation: name must be an identifier, got {name!r}")
    if param is not None and not (isinstance(param, str) and param.isidentifier()):
        raise ValueError(f"activation: param must be an identifier, got {param!r}")
    if param is None and default is not None:
        raise ValueError(f"activation: {name!r} has no param to which default={default!r} belongs")
    largest, limit = torch.finfo(torch.float32).max, as_float(bound)
    if bound is not None and limit is None:
        raise TypeError(f"activation: bound must be a number, got {bound!r}")
    if limit is not None and not 0 < limit <= largest:
        raise ValueError(f"activation: bound must be above 0 and at most {largest:g}, got {bound!r}")
    if param is not None and default is None:
        raise TypeError(f"activation: param {param!r} needs a default")
    number = as_float(default)
    if param is not None and number is None:
        raise TypeError(f"activation: default of {param!r} must be a number, got {default!r}")
    if number is not None and not math.isfinite(number):
        raise ValueError(f"activation: default of {param!r} must be finite, got {default!r}")


def _is_same(made_from: tuple, name: str) -> bool:
    """Whether what has a name was made from the same; of fusegrad's own activations the formula alone counts."""
    if name in _DEFINED:
        return _DEFINED[name] == made_from
    from .activations.generate import DEFINITIONS, programs

    ours, (of_orders, *others) = DEFINITIONS.get(name), made_from
    return ours is not None and [programs(ours)[0], ours.param, ours.default] == [of_orders[0], *others]


def _as_own(struct: str) -> str:
    """The text that csrc/cpu/own.h includes."""
    text = re.sub(r"^struct \w+", "struct Own", struct, count=1, flags=re.MULTILINE)
    return f"namespace fusegrad {{\nnamespace FUSEGRAD_ISA {{\n\n{text.rstrip()}\n\n}}  // namespace FUSEGRAD_ISA\n}}\n"


def _compiled(name: str, struct: str) -> Path | None:
    """The library of its kernels; None where there is none, after a warning if there could be one."""
    from . import __version__

    try:
        return (
            None if backends.extension is None else library(name, struct, backends.extension.capability(), __version__)
        )
    except Unavailable as e:
        return _warn(str(e))


def _load(path: Path) -> None:
    try:
        backends.extension.load_activation(str(path))
    except ValueError as e:
        _warn(f"{e} (remove {path.parent} to compile it again)")


@cache
def _warn(why: str) -> None:
    warnings.warn(f"fusegrad: {why}; so activations of your own run on the PyTorch reference", stacklevel=4)
