"""The ops (schema.py) as differentiable functions.

The derivative rule of each is made of these ops and of plain aten only, so every order of every transform follows from
it: _act.py, _linear.py, _mlp.py. How they run under vmap, autocast and the flop counter: _vmap.py, _autocast.py,
_flops.py.
"""

from .act import act, act_jvp, act_nth, act_vjp, low_act, mul_constant
from .linear import linear, linear_act, linear_act_backward, mm
from .mlp import mlp, mm_dact

__all__ = [
    "act",
    "act_jvp",
    "act_nth",
    "act_vjp",
    "linear",
    "linear_act",
    "linear_act_backward",
    "low_act",
    "mlp",
    "mm",
    "mm_dact",
    "mul_constant",
]  # fmt: skip
