"""Runs a model with streams."""

import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..fusion.report import BY_NESTED
from ..internals.call import grad_mode, in_torch_func, is_dispatch_mode_on, is_ops_mode_on
from ..internals.compiler import call_untraced
from . import (  # noqa: F401
    nested,
    program,
    rows,
    rules_elementwise,
    rules_index,
    rules_layers,
    rules_products,
    rules_reductions,
    trust,
)
from .arguments import Model, check_value
from .calls import Names
from .chains import chain_of
from .escapes import Escapes
from .layers import layers
from .reading import accept, key_of, program_of, refuse, refuse_for_ever
from .run import ByNested, Refused, Run
from .streams import Rules, Streams, each, whole

NAMES = Names()  # now, as all rules are noted


def evaluate(
    op: str, model: Model, x: Tensor, directions: Tensor, rules: Rules, second: Tensor | None = None
) -> tuple[Tensor, Streams]:
    """What the model makes of x (..., d), and its streams along the directions (R, ..., d).

    `second` is the second derivative of x itself, if it has one.
    """
    seed = (directions, second, *(None,) * (rules.order - 2)) if rules.order > 1 else (directions,)
    if (chain := chain_of(model, x)) is not None and not is_ops_mode_on():
        return layers(rules, x.view_as(x), seed, chain)
    found = program_of(model, x) if program.serves(rules, x, seed) else None
    if found is not None and trust.is_trusted(key_of(model), found, x):
        made = _by_program(x, seed, rules, found)
        (refuse if made is None else accept)(model)
        if made is not None:
            return made
        found = None
    truth = call_untraced(_evaluate, op, model, x, seed, rules)
    if found is not None:
        _compare(model, x, seed, rules, found, truth)
    return truth


def _compare(
    model: Model, x: Tensor, seed: Streams, rules: Rules, found: program.Program, truth: tuple[Tensor, Streams]
) -> None:
    """What was read with what the model has computed."""
    with torch.no_grad():
        made = _by_program(x, seed, rules, found)
        if made is None:
            refuse(model)
        elif not trust.compare(key_of(model), found, x, made, truth):
            refuse_for_ever(model)


def _by_program(x: Tensor, seed: Streams, rules: Rules, found: program.Program) -> tuple[Tensor, Streams] | None:
    """Of a model whose source says all that it computes, where that is one op. Its rows are apart by what it is."""
    given = x.view_as(x)
    chain = found.chain()
    made = program.run(rules, given, seed, found) if chain is None else layers(rules, given, seed, chain)
    if made is None or not found.is_squeezed:
        return made
    y, streams = made
    return y.squeeze(-1), each(streams, lambda s: whole(s, y.shape).squeeze(-1))


def _evaluate(op: str, model: Model, x: Tensor, seed: Streams, rules: Rules) -> tuple[Tensor, Streams]:
    try:
        if known := rows.why_nested(model, x):
            raise ByNested(known)
        if name := NAMES.replaced():
            raise ByNested(f"{name} was replaced")
        return _run_once(op, model, x, seed, rules)
    except Refused as why:
        raise ValueError(f"{op}: {why}") from None
    except ByNested as why:
        if is_ops_mode_on():
            raise  # to the run outside, which takes both as one
        return _run_nested(op, model, x, seed, rules, str(why))


def _run_once(op: str, model: Model, x: Tensor, seed: Streams, rules: Rules) -> tuple[Tensor, Streams]:
    """By the rules. In its first run, and where it goes another way than before, a model is watched, and another run
    around it asks whether rows are apart.
    """
    if rows.is_first(model, x):
        return _run_first(op, model, x, seed, rules)
    state = nested.random_state(x)
    y, streams, path = _run(op, model, x, seed, rules)
    if not rows.is_new(model, x, path):
        return y, streams
    nested.set_random_state(state)
    return _run_first(op, model, x, seed, rules, path)


def _run_first(op: str, model: Model, x: Tensor, seed: Streams, rules: Rules, *paths: int) -> tuple[Tensor, Streams]:
    """A run that is watched. `paths`: of one before, unwatched."""
    watched = not is_dispatch_mode_on()  # but where there is another one
    if not rows.several(x):
        y, streams, path = _run(op, model, x, seed, rules, watched)
        if watched:
            rows.passed(model, x, path)
        return y, streams
    around = Run(rows.RULES, torch.is_grad_enabled())
    with grad_mode(True):
        z = around.start(x, (rows.directions(x),))
        with around:
            y, streams, path = _run(op, model, z, seed, rules, watched)
    y = around.value(y)
    _check_rows(x, y, around.streams(y)[0])
    if watched:
        rows.passed(model, x, path, *paths)
    return (y, streams) if around.records else (y.detach(), tuple(None if s is None else s.detach() for s in streams))


def _run(
    op: str, model: Model, x: Tensor, seed: Streams, rules: Rules, watched: bool = False
) -> tuple[Tensor, Streams, int]:
    """The value, its streams, and what the model called."""
    run = Run(rules, torch.is_grad_enabled(), watched)
    z = run.start(x, seed)
    escapes = Escapes(run) if watched else None
    with grad_mode(True), escapes or nullcontext(), run:
        y = model(z)
    if escapes is not None:
        escapes.check()
    _note(model, run.nested)
    y = run.value(y)
    check_value(op, x, y)
    return y if run.records else y.detach(), run.streams(y), run.path


def _check_rows(x: Tensor, y: Tensor, along: Tensor | None) -> None:
    if not rows.are_apart(x, y, along):
        raise Refused(
            "a row of what the model returns depends on other rows of x (through batch norm in training, attention or "
            "a mean over the batch, say); need a model of each row for itself"
        )


def _run_nested(op: str, model: Model, x: Tensor, seed: Streams, rules: Rules, why: str) -> tuple[Tensor, Streams]:
    """Where the rules cannot follow: by nested derivatives of the model as a whole."""
    _tell(op, model, why)
    _note(model, [f"all of it, as {why}"])
    records, state = torch.is_grad_enabled(), nested.random_state(x)
    try:
        with grad_mode(True):
            moved = x + torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=not in_torch_func())
            y = model(moved)
        check_value(op, x, y)
        f = lambda z: (model(z),)
        if rows.may_ask(x) and rows.several(x):  # each time, as no mode sees what the model calls
            (found,) = nested.derivatives(f, [x], [(rows.directions(x),)], rows.RULES, state)
            _check_rows(x, y, found[0])
        if rows.is_first(model, x):
            rows.passed(model, x, why=why)
        (streams,) = nested.derivatives(f, [x], [seed], rules, state)
    except Refused as refused:
        raise ValueError(f"{op}: {refused}") from None
    return y if records else y.detach(), streams


def _note(model: Model, what: Iterable[str]) -> None:
    """For explain."""
    if what and isinstance(model, nn.Module):
        BY_NESTED.setdefault(model, {}).update(dict.fromkeys(what))


_TOLD: set[str] = set()


def _tell(op: str, model: Any, why: str) -> None:
    if why not in _TOLD:
        _TOLD.add(why)
        name = getattr(model, "__name__", type(model).__name__)
        warnings.warn(
            f"{op}: the rules cannot follow {name}, as {why}; it is differentiated as a whole, by nested derivatives",
            stacklevel=4,
        )
