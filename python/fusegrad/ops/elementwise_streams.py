"""Functions of each element of tensors with streams, as one op each: an activation, and a product.

They are a route of plain eager mode, on the CPU, and an activation of a Laplacian on a GPU too; and have no derivatives
of their own: operators/elementwise.py gives them these.
"""

import torch
from torch import Tensor

from .chain import without_derivative
from .op import library
from .operands import DTYPES, described

_TAGS = (torch.Tag.pt2_compliant_tag,)
# z is (...), t (r, ...), l (1, ...), or None for zero; so are y, ty and ly. Of act_taylor t are the derivatives along
# one direction of orders 1 to K - 1, and l is that of order K, 1 to 4.
#
# Backward: gz, gt, gl, each if `needed` has its bit. Cotangents are zero if they are None
for _name in ("act_streams", "act_taylor"):
    library.define(
        f"{_name}(Tensor z, Tensor t, Tensor? l, str act, float param) -> (Tensor, Tensor, Tensor)", tags=_TAGS
    )
    library.define(
        f"{_name}_backward(Tensor? gy, Tensor? gty, Tensor? gly, Tensor z, Tensor t, Tensor? l, str act, float param, "
        "int needed) -> Tensor[]",
        tags=_TAGS,
    )
# of a and b, one of which may have size 1 in the last dimension, and the streams of each
_OPERANDS = "Tensor a, Tensor? ta, Tensor? la, Tensor b, Tensor? tb, Tensor? lb"
library.define(f"multiply_streams({_OPERANDS}) -> (Tensor, Tensor, Tensor)", tags=_TAGS)
# ga, gta, gla, gb, gtb, glb
library.define(
    f"multiply_streams_backward(Tensor? gy, Tensor? gty, Tensor? gly, {_OPERANDS}, int needed) -> Tensor[]", tags=_TAGS
)

_fusegrad = torch.ops.fusegrad
ACT, ACT_BACKWARD = _fusegrad.act_streams.default, _fusegrad.act_streams_backward.default
TAYLOR, TAYLOR_BACKWARD = _fusegrad.act_taylor.default, _fusegrad.act_taylor_backward.default
MULTIPLY, MULTIPLY_BACKWARD = _fusegrad.multiply_streams.default, _fusegrad.multiply_streams_backward.default

for op in (ACT, ACT_BACKWARD, MULTIPLY, MULTIPLY_BACKWARD):
    without_derivative(op, "differentiate what fusegrad.laplacian gives")
for op in (TAYLOR, TAYLOR_BACKWARD):
    without_derivative(op, "differentiate what fusegrad.directional gives")


def check_streams(op: str, z: Tensor, t: Tensor | None, *others: Tensor | None) -> None:
    """Raise TypeError or ValueError where kernels in Python can't take t (r, ...) and others (1, ...) of z (...)."""
    if z.dtype not in DTYPES:
        raise TypeError(f"{op}: got {described(z)}; need one of {', '.join(map(str, DTYPES))}")
    for s, counts in ((t, None), *((other, 1) for other in others)):
        if s is None:
            continue
        if s.dtype != z.dtype or s.device != z.device or s.layout is not torch.strided or z.layout is not torch.strided:
            raise TypeError(f"{op}: a stream is {described(s)} of a tensor that is {described(z)}; need both alike")
        if s.shape[1:] != z.shape or s.dim() == 0 or counts not in (None, s.shape[0]):
            raise ValueError(
                f"{op}: a stream is {described(s)} of a tensor that is {described(z)}; need (r, ...) or (1, ...)"
            )
