"""The ops (schema.py) as differentiable functions.

The derivative rule of each is made of these ops and of plain aten only, so every order of every transform follows from
it: _act.py, _linear.py, _mlp.py. How they run under vmap, autocast and the flop counter: _vmap.py, _autocast.py,
_flops.py.
"""

from ._act import act, act_backward, act_jvp, act_nth, low_act, mul_constant
from ._linear import linear, linear_act, linear_act_backward, mm
from ._mlp import mlp, mm_gz

__all__ = [
    "act", "act_backward", "act_jvp", "act_nth", "linear", "linear_act", "linear_act_backward", "low_act", "mlp", "mm",
    "mm_gz", "mul_constant",
]  # fmt: skip
