"""Layers of tensors with streams: linear maps, and activations. A chain of layers is one call, `layers`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import functional, ops
from ..activations import REGISTRY, Activation
from ..ops.op import RULES
from ..ops.terms import rows, total
from . import elementwise
from .elementwise import PIECEWISE_LINEAR
from .functions import Derivative
from .kinds import ALONG, LAPLACIAN
from .streamed import Layer, rule_by, streamed
from .streams import Rules, Streams, whole


def layers(rules: Rules, x: Tensor, streams: Streams, chain: Sequence[Layer]) -> tuple[Tensor, Streams]:
    """What layers of which each is the input of the next make of x (..., k) and its streams: y (..., n), and its."""
    return streamed(rules, x, streams, chain, one_by_one)


def one_by_one(rules: Rules, x: Tensor, streams: Streams, chain: Sequence[Layer]) -> tuple[Tensor, Streams]:
    """The same, a layer after another."""
    for layer in chain:
        x, streams = product(rules, x, streams, layer.w, layer.b)
        if layer.act != "identity":
            made = elementwise.by_triton(rules, x, streams, layer.act, layer.param)
            x, streams = made or act_streams(rules, x, streams, layer.act, layer.param)
    return x, streams


def product(rules: Rules, x: Tensor, streams: Streams, w: Tensor, b: Tensor | None) -> tuple[Tensor, Streams]:
    """z = x w^T + b and z_k = x_k w^T: one product, of the rows of all.

    What is the same for all rows, as the directions are before the first layer, is one row: tz = s w^T are columns of w
    for the directions of the axes.
    """
    lead = x.shape[:-1]
    alike: dict[int, Tensor] = {}
    varied: dict[int, Tensor] = {}
    for k, p in enumerate(streams):
        if p is not None:
            one_row = all(size == 1 for size in p.shape[1:-1])
            (alike if one_row and x.dim() > 1 else varied)[k] = whole(p, (*p.shape[1:-1], x.shape[-1]))
    found: list[Tensor | None] = [None] * len(streams)
    for k, p in alike.items():
        found[k] = functional.linear(p, w)
    if not varied:
        return functional.linear(x, w, b), tuple(found)
    of_rows = [rows(whole(p, x.shape)) for p in varied.values()]
    if not rules.apart:
        of_rows.append(rows(x))
    made = functional.linear(torch.cat(of_rows), w).split([r.shape[0] for r in of_rows])
    for k, t in zip(varied, made, strict=False):
        found[k] = t.reshape(varied[k].shape[0], *lead, w.shape[0])
    if rules.apart:
        return functional.linear(x, w, b), tuple(found)
    z = made[-1].reshape(*lead, w.shape[0])
    return z if b is None else z + b.to(z.dtype), tuple(found)


def act_streams(rules: Rules, z: Tensor, streams: Streams, act: str, param: float) -> tuple[Tensor, Streams]:
    """y = σ(z), and for K = 2: t = σ'(z) tz, l = σ'(z) lz + σ''(z) Σ_i tz_i².

    Where σ saves its output, l = D_1 (lz + D_2 Σ_i tz_i²): see `derivatives`.
    """
    y = ops.act(z, None, act, param, 0)
    if all(s is None for s in streams):
        return y, streams
    a = REGISTRY[act]
    made: dict[int, Tensor] = {}

    def D(k: int) -> Tensor:
        if k not in made:
            made[k] = ops.act(z if a.saves_input else y, None, act, param, k)
        return made[k]

    t, second = streams if rules.order == 2 else (None, None)
    if t is not None and not a.saves_input and act not in PIECEWISE_LINEAR:
        inner = total(second, _times(D(2), rules.gathered(2, t * t)))
        return y, (D(1) * t, _times(D(1), inner))
    return y, rules.function(streams, derivatives(a, D))


def _times(d: Tensor, t: Tensor | None) -> Tensor | None:
    return None if t is None else d * t


def derivatives(a: Activation, D: Callable[[int], Tensor]) -> Derivative:
    """σ^(k)(z) of an activation, None where it is zero.

    Of one that saves its input that is D_k(z). Of one that saves its output D_{k+1} = dD_k/dy (ops/act.py), and
    dy/dz = D_1, so

        σ' = D_1,  σ'' = D_1 D_2,  σ''' = D_1 (D_2² + D_1 D_3),  σ'''' = D_1 (D_2³ + 4 D_1 D_2 D_3 + D_1² D_4).
    """

    def of(k: int) -> Tensor | None:
        if k > 1 and a.name in PIECEWISE_LINEAR:
            return None
        if a.saves_input or k == 1:
            return D(k)
        if k == 2:
            return D(1) * D(2)
        if k == 3:
            return D(1) * (D(2) * D(2) + D(1) * D(3))
        return D(1) * (D(2) ** 3 + 4 * D(1) * D(2) * D(3) + D(1) * D(1) * D(4))

    return of


def activated(rules: Rules, z: Tensor, streams: Streams, act: str, param: float) -> tuple[Tensor, Streams]:
    """y = σ(z) with its streams: by one op if that serves them."""
    made = elementwise.activated(rules, z, streams, act, param)
    return act_streams(rules, z, streams, act, param) if made is None else made


RULES["chain_streams"] = rule_by(LAPLACIAN, one_by_one)
RULES["chain_taylor"] = rule_by(ALONG, one_by_one)
elementwise.set_rules(act_streams)
