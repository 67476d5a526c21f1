"""The closed set of ops. Each reads top to bottom in one file: schema, fake kernel, reference, derivative rule.

act(s, g?, act, param, order)               g D_order(s)
act_vjp(gy, s, g, ...)                      act's gradients gs, gg and act itself, those that are needed
act_jvp(ts, tg, s, g, ...)                  act's tangent, and act itself if that is needed
mm(a, b, trans_a, trans_b)                  a b, each transposed first if asked
linear(x, w, b?)                            x w^T + b
linear_act(x, w, b?, act, param, save)      y = act(x w^T + b), and what backward needs of it
linear_act_backward(gy, x, w, s, ...)       its gradients gx, gw, gb, those that are needed
mm_dact(a, b, s, act, param, need_sum)      gz = (a b) D_1(s), and the sum of its rows
mlp(x, w1, b1?, w2, b2?, ...)               y = act(x w1^T + b1) w2^T + b2, and what backward needs of it
gated(x, w_gate, w_up, b_gate?, b_up?, ...) y = act(x w_gate^T + b_gate) (x w_up^T + b_up), and what backward needs
gated_backward(gy, x, w_gate, w_up, s, ...) its gradients, those that are needed
mul_constant(x, c)                          c x

chain.py is none of the set, but a short way through several: layers of which each is the input of the next, as one op.

How they run under vmap, autocast, as DTensors and for the flop counter: ../modes. What a class has to give: op.py.
"""

from .act import act, act_jvp, act_reference, act_vjp
from .gated import gated, gated_backward
from .linear import linear, linear_act, linear_act_backward, mm
from .mlp import mlp, mm_dact
from .mul_constant import mul_constant
from .op import OPS, library

__all__ = [
    "OPS", "act", "act_jvp", "act_reference", "act_vjp", "gated", "gated_backward", "library", "linear", "linear_act",
    "linear_act_backward", "mlp", "mm", "mm_dact", "mul_constant",
]  # fmt: skip
