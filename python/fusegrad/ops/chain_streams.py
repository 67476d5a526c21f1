"""A chain of layers with derivatives along directions as one op: values, tangents, and sums of second derivatives.

It is a route of plain eager mode on the CPU, and has no derivative of its own: operators/streamed.py gives it one.
"""

import torch

from .chain import without_derivative
from .op import library

# t (r, k) is the same for all rows of x (..., k), or (r, ..., k); l (..., k) is zero if it is None. y is (..., n), ty
# (r, ..., n), ly (1, ..., n). Backward: gx, gt, gl, gw_1, gb_1, ...; `needed` has a bit for each, and cotangents are
# zero if they are None. A program has steps as csrc/cpu/program.cpp reads them; its weights are w and b of layers.
#
# Of those called taylor all are derivatives along one direction: t (K - 1, ...) of orders 1 to K - 1, l of order K,
# which is 1 to 4.
for _name in ("chain_streams", "program_streams", "chain_taylor", "program_taylor"):
    _says = "acts" if _name.startswith("chain") else "steps"
    library.define(
        f"{_name}(Tensor x, Tensor t, Tensor? l, Tensor?[] weights, str {_says}, bool save) "
        "-> (Tensor y, Tensor ty, Tensor ly, Tensor saved)",
        tags=(torch.Tag.pt2_compliant_tag,),
    )
    library.define(
        f"{_name}_backward(Tensor? gy, Tensor? gty, Tensor? gly, Tensor x, Tensor t, Tensor? l, "
        f"Tensor?[] weights, Tensor saved, str {_says}, int needed) -> Tensor[]",
        tags=(torch.Tag.pt2_compliant_tag,),
    )
STREAMS, STREAMS_BACKWARD = torch.ops.fusegrad.chain_streams.default, torch.ops.fusegrad.chain_streams_backward.default
TAYLOR, TAYLOR_BACKWARD = torch.ops.fusegrad.chain_taylor.default, torch.ops.fusegrad.chain_taylor_backward.default

PROGRAM = torch.ops.fusegrad.program_streams.default
PROGRAM_BACKWARD = torch.ops.fusegrad.program_streams_backward.default

for op in (STREAMS, STREAMS_BACKWARD, PROGRAM, PROGRAM_BACKWARD):
    without_derivative(op, "differentiate what fusegrad.laplacian gives")
PROGRAM_TAYLOR = torch.ops.fusegrad.program_taylor.default
PROGRAM_TAYLOR_BACKWARD = torch.ops.fusegrad.program_taylor_backward.default

for op in (TAYLOR, TAYLOR_BACKWARD, PROGRAM_TAYLOR, PROGRAM_TAYLOR_BACKWARD):
    without_derivative(op, "differentiate what fusegrad.directional gives")
