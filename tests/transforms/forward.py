"""Forward mode without torch.func, and inference mode."""

import torch
import torch.autograd.forward_ad as forward_ad
from torch.autograd import grad
from torch.func import grad as func_grad
from torch.func import jvp

from cases import leaves, plain
from transforms import agree, close, dual_tangent, ones, transform


@transform
def dual_level(f, r):
    agree(f, r, dual_tangent)


@transform
def dual_level_through_two_gradients(f, r):
    def compute(h):
        x, w, b = leaves()
        with forward_ad.dual_level():
            x = forward_ad.make_dual(x, torch.ones_like(x))
            (gx,) = grad(h(x, w, b).square().sum(), x, create_graph=True)
            return grad(forward_ad.unpack_dual(gx).tangent.square().sum(), w)

    def by_func(w):
        x, _, b = plain()
        tangent = jvp(func_grad(lambda x: r(x, w, b).square().sum()), (x,), ones(x))[1]
        return tangent.square().sum()

    w = leaves()[1]
    close(compute(f), grad(by_func(w), w))  # not compute(r): stock's silu_backward knows no forward mode


@transform
def inference_mode(f, r):
    with torch.inference_mode():
        close(f(*plain()), r(*plain()))
