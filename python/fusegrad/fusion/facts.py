"""What has to stay as it was for a layer, and what is called after it, to be what they were found to be.

Facts are owner, name, value, owner, name, value, ...: owner[name] of a dictionary, owner.name of all else, the class of
an owner without a name. C++ asks for all of them in one call (csrc/autograd/facts.h).
"""

import ast
import functools
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn

from .. import backends
from ..internals.call import LINEAR_AS_IT_IS, is_linear
from ..internals.module import HOOKS, HOOKS_OF_ALL, READS_WHAT_IS_STORED
from ..internals.stock import CALLED_AS_WRITTEN, definitions
from ..nn import Linear
from . import formula
from .code import Unreadable, parse
from .mentioned import MISSING, Unknown, name_of, read_name
from .opened import LEFT_OUT
from .recognise import METHOD, of_call, options_of

WEIGHTS = "weight", "bias"
OTHERWISE = "forward", *WEIGHTS  # held by a layer itself: it is not read, or called, as its class says

_ACT = "_fusegrad_act", "_fusegrad_param"

Facts = list[Any]


def of_layer(layer: nn.Module) -> Facts | None:
    """Those of a layer, what it holds first; None if more may count."""
    held, cls = layer.__dict__, type(layer)
    facts = [held, "_parameters", held["_parameters"], *_not_hooked(held)]
    facts += [part for name in OTHERWISE for part in (held, name, held.get(name, MISSING))]
    if cls is Linear:
        facts += layer, None, cls
        return _known(facts + [part for name in _ACT for part in (held, name, held.get(name, MISSING))])
    of_forward = _of_forward(cls)
    if of_forward is None:
        return None
    facts += of_forward
    facts += held, LEFT_OUT, MISSING, cls, "__getattribute__", object.__getattribute__, cls, *READS_WHAT_IS_STORED
    facts += [part for name in WEIGHTS for part in (cls, name, MISSING)]
    return _known(facts + [part for name, value in CALLED_AS_WRITTEN for part in (cls, name, value)])


def of_act(act: Any) -> Facts | None:
    """Those of an activation that is called with a layer's result alone; None if more may count."""
    if isinstance(act, str):
        return [Tensor, act, METHOD[act], nn.Parameter, act, METHOD[act]]
    if not isinstance(act, nn.Module):
        if of_call(act) is not None:
            return _of_partial(act) if type(act) is functools.partial else []
        facts = formula.facts_of(act)
        return None if facts is None else _known(facts)
    cls, held = type(act), act.__dict__
    facts = [held, "forward", MISSING, act, None, cls, *_not_hooked(held), held, LEFT_OUT, MISSING]
    options = options_of(act)
    if options is not None:
        names = *options, "inplace"
        return _known(facts + [part for name in names for part in (held, name, held.get(name, MISSING))])
    of_formula = formula.facts_of(act)
    if of_formula is None:
        return None
    facts += [part for name, value in (*CALLED_AS_WRITTEN, ("forward", cls.forward)) for part in (cls, name, value)]
    return _known(facts + of_formula)


def _of_partial(act: functools.partial) -> Facts:
    facts = [part for name in ("func", "args", "keywords") for part in (act, name, getattr(act, name))]
    return facts + [part for name, value in act.keywords.items() for part in (act.keywords, name, value)]


def of_classes(modules: Iterable[Any]) -> Facts:
    """Those of the classes of ours among these modules."""
    classes = {
        type(m) for m in modules if type(m) is Linear or (isinstance(m, nn.Module) and options_of(m) is not None)
    }
    return [part for cls in classes for definition in definitions(cls) for part in definition]


def of_all() -> Facts:
    """What is true of all modules."""
    facts: list[Any] = [*LINEAR_AS_IT_IS]
    for owner, name in HOOKS_OF_ALL:
        facts += owner, name, backends.node.EMPTY
    name, value = READS_WHAT_IS_STORED
    facts += Linear, name, value
    for weight in WEIGHTS:
        facts += Linear, weight, backends.node.ABSENT
    return facts


def _not_hooked(held: dict[str, Any]) -> Facts:
    return [part for name in HOOKS for part in (held, name, backends.node.EMPTY)]


def _known(facts: Facts) -> Facts:
    return [backends.node.ABSENT if part is MISSING else part for part in facts]


# --- classes whose forward is a linear layer, and no more ----------------------------------------------------------

_FORWARDS: dict[CodeType, str | None] = {}  # what each calls


def _of_forward(cls: type[nn.Module]) -> Facts | None:
    """Those of a class whose forward is `return F.linear(x, self.weight, self.bias)`; None of all others."""
    forward = cls.forward
    if not isinstance(forward, FunctionType):
        return None
    code = forward.__code__
    if code not in _FORWARDS:
        _FORWARDS[code] = _calls_linear(forward)
    called = _FORWARDS[code]
    if called is None:
        return None
    facts: Facts = [cls, "forward", forward, forward, "__code__", code]
    try:
        return facts if is_linear(read_name(called, forward, facts)) else None
    except Unknown:
        return None


def is_one_call(layer: Any) -> bool:
    """Whether a module is a layer by its class, and no more."""
    cls = type(layer)
    return cls is Linear or (
        isinstance(layer, nn.Module) and not issubclass(cls, nn.Linear) and _of_forward(cls) is not None
    )


def _calls_linear(forward: FunctionType) -> str | None:
    """The name of what a forward returns a call of, with its input, its weight and its bias."""
    try:
        definition = parse(forward, forward.__code__)[1]
    except Unreadable:
        return None
    body = getattr(definition, "body", [])
    if isinstance(body, list) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]  # what it says of itself
    match definition.args, body:
        case ast.arguments(posonlyargs=[], args=[self_, x], vararg=None, kwonlyargs=[], kwarg=None, defaults=[]), [
            ast.Return(value=ast.Call(func=f, args=[ast.Name(id=given), *weights], keywords=[]))
        ] if given == x.arg and [name_of(w)[1] for w in weights] == [f"{self_.arg}.{name}" for name in WEIGHTS]:
            root, called = name_of(f)
            return called if root not in (None, self_.arg, x.arg) else None
    return None
