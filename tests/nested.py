"""Derivatives of a model by nested torch.autograd, one number of the result after another: the truth of operators."""

import torch
from torch import Tensor

ALL = {"create_graph": True, "allow_unused": True, "materialize_grads": True}


def grad(y: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(y, x, **ALL)[0] if y.requires_grad else torch.zeros_like(x)


def hessians(model, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value (..., n), the Jacobian (..., n, d) and the Hessian (..., n, d, d); x requires a gradient."""
    y = model(x)
    lead, d = x.shape[:-1], x.shape[-1]
    flat = y.reshape(*lead, y[(0,) * len(lead)].numel() if y.numel() else 1)
    jacobian = [grad(flat[..., i].sum(), x) for i in range(flat.shape[-1])]
    hessian = [torch.stack([grad(g[..., i].sum(), x) for i in range(d)], -2) for g in jacobian]
    if not flat.shape[-1]:
        return y, x.new_zeros(*y.shape, d), x.new_zeros(*y.shape, d, d)
    return y, torch.stack(jacobian, -2).reshape(*y.shape, d), torch.stack(hessian, -3).reshape(*y.shape, d, d)


def along(model, x: Tensor, v: Tensor, order: int) -> list[Tensor]:
    """The value and its derivatives along v, each of the shape of the value.

    Of u . y, a number, the derivative is linear in u; its gradient is the derivative of all of y.
    """
    s = torch.zeros((), dtype=x.dtype, requires_grad=True)
    found = [model(x + s * v)]
    for _ in range(order):
        u = torch.zeros_like(found[-1], requires_grad=True)
        found.append(grad(grad((u * found[-1]).sum(), s), u))
    return found
