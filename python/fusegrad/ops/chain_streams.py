"""A chain of layers with derivatives along directions as one op: values, tangents, and sums of second derivatives.

It is a route of plain eager mode on the CPU, and has no derivative of its own: operators/chain.py gives it one.
"""

from math import prod

import torch

from ..internals.call import requires_grad
from ..internals.function import below_autograd
from .op import library

# t (r, k) is the same for all rows of x (..., k), or (r, ..., k); l (..., k) is zero if it is None
library.define(
    "chain_streams(Tensor x, Tensor t, Tensor? l, Tensor?[] weights, str acts, bool save) "
    "-> (Tensor y, Tensor ty, Tensor ly, Tensor saved)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# gx, gt, gl, gw_1, gb_1, ...; `needed` has a bit for each
library.define(
    "chain_streams_backward(Tensor gy, Tensor gty, Tensor gly, Tensor x, Tensor t, Tensor? l, Tensor?[] weights, "
    "Tensor saved, str acts, int needed) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
STREAMS, STREAMS_BACKWARD = torch.ops.fusegrad.chain_streams.default, torch.ops.fusegrad.chain_streams_backward.default


def _without_derivative(op):
    def call(*args):
        tensors = [t for a in args for t in (a if isinstance(a, (list, tuple)) else [a]) if isinstance(t, torch.Tensor)]
        if requires_grad(*tensors):
            raise RuntimeError(f"{op.name()}: has no derivative; differentiate what fusegrad.laplacian gives")
        return below_autograd(op, *args)

    return call


def _fake(x, t, l, weights, acts, save):  # noqa: E741  # as in the formulas
    widths = [w.shape[0] for w in weights[::2]]
    roomy = [n if n % 32 else n + 4 for n in widths]  # as kernels.h has it
    kept = sum(roomy[:-1] if acts.rpartition(",")[2].startswith("identity ") else roomy)
    y = x.new_empty(*x.shape[:-1], widths[-1])
    saved = (t.shape[0] + 2) * prod(x.shape[:-1]) * kept if save else 0
    return y, y.new_empty(t.shape[0], *y.shape), torch.empty_like(y), x.new_empty(saved)


torch.library.register_fake("fusegrad::chain_streams", _fake, lib=library)
for op in (STREAMS, STREAMS_BACKWARD):
    library.impl(op.name().split("::")[1], _without_derivative(op), "Autograd")
