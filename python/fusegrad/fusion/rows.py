"""Layers whose result is multiplied by one number a row: self.filter(x) * cutoff[..., None].

    (x w^T + b) s  =  (s x) w^T + s b^T  =  [s x, s] [w, b]^T

Where x is much narrower than the result, scaling x saves passes over the result: one forward, and in each derivative
those for the gradients of both factors.
"""

import ast
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import functional
from ..at_once import route_at_once
from ..internals.module import stored
from ..routing import route_of_layer
from .notes import Product

_VIEWS = {"view", "reshape", "unsqueeze"}
# How many times narrower x is, and how many elements the result has, at least: of fewer the calls that scale x, and
# join w and b, cost as much as the passes (20 -> 384 with 1000 rows: 0.91 of the time in training, 0.80 on forces, and
# 0.99 without gradients; 50 -> 128 with 500: 1.1 of it. Zen 4, 2026-11-27)
NARROWER, LEAST = 5, 2**18


class Row(NamedTuple):
    """An expression that may give a number a row: a view of what a name stands for."""

    node: ast.expr
    of: ast.expr
    how: str  # a method of a tensor
    args: list[ast.expr]


def row_of(e: ast.expr) -> Row | None:
    """s[:, None], s[..., None], s.unsqueeze(-1), s.view(-1, 1) of a name or an attribute, or None."""
    match e:
        case ast.Subscript(value=of, slice=ast.Tuple(elts=[*_, ast.Constant(value=None)] as keys)):
            if all(isinstance(key, (ast.Constant, ast.Slice)) for key in keys) and _is_looked_up(of):
                if not any(getattr(key, part, None) for key in keys for part in ("lower", "upper", "step")):
                    return Row(e, of, "__getitem__", keys)
        case ast.Call(func=ast.Attribute(value=of, attr=name), args=args, keywords=[]) if name in _VIEWS:
            if args and _is_looked_up(of) and all(_is_number(a) for a in args):
                return Row(e, of, name, args)
    return None


def _is_looked_up(e: ast.expr) -> bool:
    while isinstance(e, ast.Attribute):
        e = e.value
    return isinstance(e, ast.Name)


def _is_number(e: ast.expr) -> bool:
    try:
        return isinstance(ast.literal_eval(e), int)
    except ValueError:
        return False


def is_narrow(layer: nn.Module) -> bool:
    """Whether a layer's input is so much narrower than its result that it is best scaled in its place."""
    w = stored(layer, "weight")
    return isinstance(w, Tensor) and w.dim() == 2 and _saves(w, 1)


def _saves(w: Tensor, extra: int) -> bool:
    return w.shape[0] >= NARROWER * (w.shape[1] + extra)


def view_of(s: Any, how: str, args: tuple) -> Any:
    """s.how(*args), of what the author wrote so."""
    if how != "__getitem__":
        return getattr(s, how)(*args)
    return itemgetter(tuple(args))(s)


def scaled_by_rows(product: Product, s: Any) -> Tensor | None:
    """The result of a layer times s, if that is a number a row and best multiplied with x; or None.

    In plain eager mode only, as `route` tells.
    """
    x, w, b, route = product
    if x.dtype is torch.float16:  # in which s x may overflow, or lose digits, where the result does not
        return None
    if route not in ("function", "kernel") or type(s) is not Tensor or s.dtype is not x.dtype:
        return None
    if s.shape != (*x.shape[:-1], 1) or s.device != x.device or s.layout is not torch.strided:
        return None
    if not _saves(w, b is not None) or s.numel() * w.shape[0] < LEAST or s.numel() < w.shape[1]:
        return None
    if s.requires_grad and not w.requires_grad and torch.is_grad_enabled():
        x = x.clone()  # x s saves it for the gradient of s; stock does not, so its owner may write to it
    x = x * s
    if b is not None:
        x, w, b = torch.cat((x, s), -1), torch.cat((w, b.unsqueeze(1)), 1), None
    return functional.by_route(route_at_once(x, w, b) or route_of_layer(x, w, b), x, w, b)
