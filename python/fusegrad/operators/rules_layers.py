"""Rules of layers and activations, torch's functions and the ops."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..nn import fits
from ..ops.chain import FORWARD as CHAIN
from .calls import rule
from .layers import activated, layers
from .run import Run
from .streamed import Layer
from .streams import each, whole


def activation(run: Run, z: Tensor, act: str, param: float) -> Tensor:
    """y = σ(z) of a tensor with streams."""
    return run.keep(*activated(run.rules, z, run.streams(z), act, param))


# --- torch's, and the ops ---------------------------------------------------------------------------------------------


@rule(F.linear)
def linear(run: Run, func, args, kwargs):
    x, w, b = (*args, *(kwargs[name] for name in ("weight", "bias") if name in kwargs), None)[:3]
    if run.has(w) or run.has(b):
        return run.composed(_linear, x, w, b)
    if not fits(x, w, b):
        return run.keep(func(*args, **kwargs), each(run.streams(x), lambda p: func(whole(p, x.shape), w)))
    return run.keep(*layers(run.rules, x, run.streams(x), [Layer(w, b)]))


def _linear(x, w, b):
    z = torch.matmul(x, w.mT if w.dim() > 1 else w)
    return z if b is None else z + b


@rule(ops.OPS["linear"])
def op_linear(run: Run, func, args, kwargs):
    return linear(run, F.linear, args, kwargs)


@rule(ops.OPS["linear_act"])
def op_linear_act(run: Run, func, args, kwargs):
    x, w, b, act, param, _ = args
    if run.has(w) or run.has(b):
        z = run.composed(_linear, x, w, b)
        return activation(run, z, act, param), x.new_empty(0)
    y, streams = layers(run.rules, x, run.streams(x), [Layer(w, b, act, param)])
    return run.keep(y, streams), x.new_empty(0)


@rule(ops.OPS["mlp"])
def op_mlp(run: Run, func, args, kwargs):
    x, w1, b1, w2, b2, act, param, _ = args
    if any(run.has(t) for t in (w1, b1, w2, b2)):
        return run.composed(lambda: (_linear(ops.linear_act(x, w1, b1, act, param, False)[0], w2, b2), x.new_empty(0)))
    y, streams = layers(run.rules, x, run.streams(x), [Layer(w1, b1, act, param), Layer(w2, b2)])
    return run.keep(y, streams), x.new_empty(0)


@rule(CHAIN)
def op_chain(run: Run, func, args, kwargs):
    x, weights, acts, _ = args
    names = [act.split(" ") for act in acts.split(",")]
    chain = [
        Layer(w, b, *of)
        for w, b, of in zip(weights[::2], weights[1::2], [(n, float(p)) for n, p in names], strict=True)
    ]
    if any(map(run.has, weights)):
        return run.composed(_one_by_one, x, chain), x.new_empty(0)
    y, streams = layers(run.rules, x, run.streams(x), chain)
    return run.keep(y, streams), x.new_empty(0)


def _one_by_one(x: Tensor, chain: Sequence[Layer]) -> Tensor:
    for layer in chain:
        x = _linear(x, layer.w, layer.b)
        x = x if layer.act == "identity" else ops.act(x, None, layer.act, layer.param, 0)
    return x


@rule(ops.OPS["gated"])
def op_gated(run: Run, func, args, kwargs):
    x, w_gate, w_up, b_gate, b_up, act, param, _ = args

    def made():
        return ops.act(F.linear(x, w_gate, b_gate), None, act, param, 0) * F.linear(x, w_up, b_up)

    return run.composed(made), x.new_empty(0)


@rule(ops.OPS["mm"])
def op_mm(run: Run, func, args, kwargs):
    a, b, trans_a, trans_b = args
    return run.composed(lambda: torch.matmul(a.mT if trans_a else a, b.mT if trans_b else b))


@rule(ops.OPS["mul_constant"])
def op_mul_constant(run: Run, func, args, kwargs):
    x, c = args
    return run.keep(func(x, c), each(run.streams(x), lambda p: p * c))


@rule(ops.OPS["act"])
def op_act(run: Run, func, args, kwargs):
    """y = g D_k(s); the derivatives of D_k in s are D_{k+1}, D_{k+2}, ..."""
    s, g, act, param, order = args
    if order == 0:
        return activation(run, s, act, param)
    y = ops.act(s, None, act, param, order)
    found = run.rules.function(run.streams(s), lambda k: ops.act(s, None, act, param, order + k))
    if g is None:
        return run.keep(y, found)
    return run.keep(y * g, run.rules.product(torch.mul, y, found, g, run.streams(g)))
