"""The closed set of ops: the schema and the fake kernel of each. Their derivative rules are in ops.py, what they need
of their operands in operands.py.

act(s, g?, act, param, order)               g * D_order(s), orders 0 to 3
act_nth(s, g?, act, param, order)           the same for any order and entry, on the reference
act_vjp(gy, s, g, ...)                 act's gradients gs, gg and act itself, those that are needed
act_jvp(ts, tg, s, g, ...)                  act's tangent, and act itself if that is needed
mm(a, b, trans_a, trans_b)                  a b, each transposed first if asked
linear(x, w, b?)                            x w^T + b
linear_act(x, w, b?, act, param, save)      y = act(x w^T + b), and what backward needs of it
linear_act_backward(gy, x, w, s, ...)       its gradients gx, gw, gb, those that are needed
mm_dact(a, b, s, act, param, need_sum)        gz = (a b) D_1(s), and the sum of its rows
mlp(x, w1, w2, b1?, b2?, ...)               y = act(x w1^T + b1) w2^T + b2, and what backward needs of it
mul_constant(x, c)                          c x
"""

import torch

from ..activations import REGISTRY
from .operands import checked

library = torch.library.Library("fusegrad", "DEF")
SCHEMAS = (
    "act(Tensor s, Tensor? g, str act, float param, int order) -> Tensor",
    "act_nth(Tensor s, Tensor? g, str act, float param, int order) -> Tensor",
    # orders 1 and 2; an output that is not needed is empty
    "act_vjp(Tensor gy, Tensor s, Tensor g, str act, float param, int order, "
    "bool need_s, bool need_g, bool need_y) -> (Tensor gs, Tensor gg, Tensor y)",
    # orders 1 and 2
    "act_jvp(Tensor ts, Tensor tg, Tensor s, Tensor g, str act, float param, int order, bool need_y) "
    "-> (Tensor ty, Tensor y)",
    "mm(Tensor a, Tensor b, bool trans_a, bool trans_b) -> Tensor",
    "linear(Tensor x, Tensor w, Tensor? b) -> Tensor",
    # save: whether y comes with what backward needs; if not, backward computes it again
    "linear_act(Tensor x, Tensor w, Tensor? b, str act, float param, bool save) -> (Tensor y, Tensor saved)",
    # a gradient that is not needed is empty
    "linear_act_backward(Tensor gy, Tensor x, Tensor w, Tensor s, str act, float param, "
    "bool need_x, bool need_w, bool need_b) -> (Tensor gx, Tensor gw, Tensor gb)",
    # dgrad of a layer, a = gz and b = w, makes gz of the layer before it, which saved s; gb is empty if not needed
    "mm_dact(Tensor a, Tensor b, Tensor s, str act, float param, bool need_sum) -> (Tensor gz, Tensor gb)",
    "mlp(Tensor x, Tensor w1, Tensor w2, Tensor? b1, Tensor? b2, str act, float param, bool save) "
    "-> (Tensor y, Tensor saved)",
    "mul_constant(Tensor x, float c) -> Tensor",
)
for schema in SCHEMAS:
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
OPS = {name: getattr(torch.ops.fusegrad, name).default for name in (s.split("(")[0] for s in SCHEMAS)}


# --- fake kernels: shapes, dtypes and layouts ---------------------------------------------------------------------


def _fake(*names: str):
    def register(kernel):
        for name in names:
            torch.library.register_fake(f"fusegrad::{name}", checked(name, kernel), lib=library)

    return register


@_fake("act", "act_nth")
def _(s, g, act, param, order):
    return torch.empty_like(s)


@_fake("act_vjp")
def _(gy, s, g, act, param, order, *needed):
    return tuple(torch.empty_like(s) if n else s.new_empty(0) for n in needed)


@_fake("act_jvp")
def _(ts, tg, s, g, act, param, order, need_y):
    return torch.empty_like(s), torch.empty_like(s) if need_y else s.new_empty(0)


@_fake("mm")
def _(a, b, trans_a, trans_b):
    return a.new_empty(a.shape[1 if trans_a else 0], b.shape[0 if trans_b else 1])


@_fake("linear")
def _(x, w, b):
    return x.new_empty(*x.shape[:-1], w.shape[0])


@_fake("linear_act")
def _(x, w, b, act, param, save):
    y = x.new_empty(*x.shape[:-1], w.shape[0])
    return y, torch.empty_like(y) if save and REGISTRY[act].saves_input else x.new_empty(0)


@_fake("linear_act_backward")
def _(gy, x, w, s, act, param, need_x, need_w, need_b):
    return (
        x.new_empty(x.shape if need_x else 0),
        w.new_empty(w.shape if need_w else 0),
        w.new_empty(w.shape[0] if need_b else 0),
    )


@_fake("mm_dact")
def _(a, b, s, act, param, need_sum):
    return a.new_empty(s.shape), a.new_empty(s.shape[1] if need_sum else 0)


@_fake("mlp")
def _(x, w1, w2, b1, b2, act, param, save):
    lead = x.shape[:-1]
    return x.new_empty(*lead, w2.shape[0]), x.new_empty(*lead, w1.shape[0]) if save else x.new_empty(0)


@_fake("mul_constant")
def _(x, c):
    return torch.empty_like(x)
