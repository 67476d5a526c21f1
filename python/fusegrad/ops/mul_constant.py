"""A tensor times a number."""

import torch
from torch import Tensor

from .op import Op, laid_out_as


class MulConstant(Op):
    """y = c x; c is no tensor and has no gradient."""

    schema = "mul_constant(Tensor x, float c) -> Tensor"
    operands = "x (...)"

    @staticmethod
    def fake(x, c):
        return torch.empty_like(x)

    @staticmethod
    def reference(x: Tensor, c: float) -> Tensor:
        return laid_out_as(x, x * c)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.c = inputs[1]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy):
        return None if gy is None else mul_constant(gy, ctx.c), None

    @staticmethod
    def jvp(ctx, tx, _):
        return None if tx is None else mul_constant(tx, ctx.c)


mul_constant = MulConstant()
