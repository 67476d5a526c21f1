"""Runs a model with streams."""

import warnings
from typing import Any

import torch
from torch import Tensor

from ..internals.call import grad_mode, in_torch_func, is_ops_mode_on
from . import nested, rows, rules_elementwise, rules_layers, rules_products, rules_reductions, rules_shape  # noqa: F401
from .arguments import Model, check_value
from .run import ByNested, Refused, Run
from .streams import Rules, Streams


def evaluate(op: str, model: Model, x: Tensor, directions: Tensor, rules: Rules) -> tuple[Tensor, Streams]:
    """What the model makes of x (..., d), and its streams along the directions (R, ..., d)."""
    seed = (directions, *(None,) * (rules.order - 1))
    try:
        return _run_once(op, model, x, seed, rules)
    except Refused as why:
        raise ValueError(f"{op}: {why}") from None
    except ByNested as why:
        if is_ops_mode_on():
            raise  # to the run outside, which takes both as one
        return _run_nested(op, model, x, seed, rules, str(why))


def _run_once(op: str, model: Model, x: Tensor, seed: Streams, rules: Rules) -> tuple[Tensor, Streams]:
    """By the rules. The first run of a model has another one around it, which asks whether the rows are apart."""
    if not rows.is_asked(model, x):
        return _run(op, model, x, seed, rules)
    around = Run(rows.RULES, torch.is_grad_enabled())
    with grad_mode(True):
        z = around.keep(x.view_as(x), (rows.directions(x),))
        with around:
            y, streams = _run(op, model, z, seed, rules)
    y = around.value(y)
    _check_rows(x, y, around.streams(y)[0])
    rows.answered(model)
    return (y, streams) if around.records else (y.detach(), tuple(None if s is None else s.detach() for s in streams))


def _run(op: str, model: Model, x: Tensor, seed: Streams, rules: Rules) -> tuple[Tensor, Streams]:
    run = Run(rules, torch.is_grad_enabled())
    z = run.keep(x.view_as(x), seed)
    with grad_mode(True), run:
        y = model(z)
    y = run.value(y)
    check_value(op, x, y)
    return y if run.records else y.detach(), run.streams(y)


def _check_rows(x: Tensor, y: Tensor, along: Tensor | None) -> None:
    if not rows.are_apart(x, y, along):
        raise Refused(
            "a row of what the model returns depends on other rows of x (through batch norm in training, attention or "
            "a mean over the batch, say); need a model of each row for itself"
        )


def _run_nested(op: str, model: Model, x: Tensor, seed: Streams, rules: Rules, why: str) -> tuple[Tensor, Streams]:
    """Where the rules cannot follow: by nested derivatives of the model as a whole."""
    _tell(op, model, why)
    records, state = torch.is_grad_enabled(), nested.random_state(x)
    try:
        with grad_mode(True):
            moved = x + torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=not in_torch_func())
            y = model(moved)
        check_value(op, x, y)
        f = lambda z: (model(z),)
        if rows.is_asked(model, x):
            (found,) = nested.derivatives(f, [x], [(rows.directions(x),)], rows.RULES, state)
            _check_rows(x, y, found[0])
            rows.answered(model)
        (streams,) = nested.derivatives(f, [x], [seed], rules, state)
    except Refused as refused:
        raise ValueError(f"{op}: {refused}") from None
    return y if records else y.detach(), streams


_TOLD: set[str] = set()


def _tell(op: str, model: Any, why: str) -> None:
    if why not in _TOLD:
        _TOLD.add(why)
        name = getattr(model, "__name__", type(model).__name__)
        warnings.warn(
            f"{op}: the rules cannot follow {name}, as {why}; it is differentiated as a whole, by nested derivatives",
            stacklevel=4,
        )
