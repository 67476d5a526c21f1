"""How the ops run on DTensors: for each, the placements of outputs and inputs that need no communication.

DTensor picks the cheapest and moves the inputs there. A list entry is (outputs, arguments); an argument that is no
tensor is None.
"""

from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from ..activations import REGISTRY
from ..ops import OPS

ALL = Replicate()


def _optional(t, placement):
    return None if t is None else placement


@register_sharding([OPS["act"], OPS["act_reference"]])
def _(s, g, act, param, order):
    options = [ALL, *(Shard(d) for d in range(s.ndim))]
    return [([p], [p, _optional(g, p), None, None, None]) for p in options]


@register_sharding(OPS["act_vjp"])
def _(gy, s, g, act, param, order, *needed):
    options = [ALL, *(Shard(d) for d in range(s.ndim))]
    return [([p if n else ALL for n in needed], [p, p, p, *[None] * 6]) for p in options]


@register_sharding(OPS["act_jvp"])
def _(ts, tg, s, g, act, param, order, need_y):
    options = [ALL, *(Shard(d) for d in range(s.ndim))]
    return [([p, p if need_y else ALL], [p] * 4 + [None] * 4) for p in options]


@register_sharding(OPS["mul_constant"])
def _(x, c):
    return [([p], [p, None]) for p in (ALL, Partial(), *(Shard(d) for d in range(x.ndim)))]


@register_sharding(OPS["mm"])
def _(a, b, trans_a, trans_b):
    row, inner_a = (1, 0) if trans_a else (0, 1)
    inner_b, col = (1, 0) if trans_b else (0, 1)
    return [
        ([ALL], [ALL, ALL, None, None]),
        ([Shard(0)], [Shard(row), ALL, None, None]),
        ([Shard(1)], [ALL, Shard(col), None, None]),
        ([Partial()], [Shard(inner_a), Shard(inner_b), None, None]),
    ]


def _linear(x, b):
    """Placements of z and of (x, w, b) that are right for any function of z too: z is nowhere a partial sum."""
    last = x.ndim - 1
    whole = (ALL, [ALL, ALL, _optional(b, ALL)])
    columns = (Shard(last), [ALL, Shard(0), _optional(b, Shard(0))])
    return [whole, columns, *((Shard(d), [Shard(d), ALL, _optional(b, ALL)]) for d in range(last))]


@register_sharding(OPS["linear"])
def _(x, w, b):
    rows = (Partial(), [Shard(x.ndim - 1), Shard(1), _optional(b, Partial())])
    return [([z], args) for z, args in [*_linear(x, b), rows]]


@register_sharding(OPS["linear_act"])
def _(x, w, b, act, param, save):
    saved_is_z = save and REGISTRY[act].saves_input
    return [([z, z if saved_is_z else ALL], [*args, None, None, None]) for z, args in _linear(x, b)]


@register_sharding(OPS["mm_dact"])
def _(a, b, s, act, param, need_sum):
    def option(gz, gb, a, b, s):
        return [gz, gb if need_sum else ALL], [a, b, s, None, None, None]

    return [
        option(ALL, ALL, ALL, ALL, ALL),
        option(Shard(0), Partial(), Shard(0), ALL, Shard(0)),
        option(Shard(1), Shard(0), ALL, Shard(1), Shard(1)),
    ]


@register_sharding(OPS["mlp"])
def _(x, w1, b1, w2, b2, act, param, save):
    last = x.ndim - 1

    def option(y, saved, x, w1, p1, w2, p2):
        return [y, saved if save else ALL], [x, w1, _optional(b1, p1), w2, _optional(b2, p2), None, None, None]

    return [
        option(ALL, ALL, ALL, ALL, ALL, ALL, ALL),
        # columns of the first layer, which are rows of the second
        option(Partial(), Shard(last), ALL, Shard(0), Shard(0), Shard(1), Partial()),
        *(option(Shard(d), Shard(d), Shard(d), ALL, ALL, ALL, ALL) for d in range(last)),
    ]


@register_sharding(OPS["gated"])
def _(x, w_gate, w_up, b_gate, b_up, act, param, save):
    last = x.ndim - 1

    def option(y, x, w, b):
        saved = y if save else ALL
        return [y, saved, saved], [x, w, w, _optional(b_gate, b), _optional(b_up, b), None, None, None]

    return [
        option(ALL, ALL, ALL, ALL),
        option(Shard(last), ALL, Shard(0), Shard(0)),
        *(option(Shard(d), Shard(d), ALL, ALL) for d in range(last)),
    ]
