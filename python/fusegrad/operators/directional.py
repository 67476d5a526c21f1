"""Derivatives of a model along one direction."""

import torch
from torch import Tensor

from .arguments import Model, along_one, check_point
from .evaluate import evaluate
from .kept import directional_at_once
from .streams import Rules, whole

HIGHEST = 4


def directional(
    model: Model,
    x: Tensor,  # (..., d)
    v: Tensor,  # (d) or (..., d)
    *,
    order: int = 1,
) -> tuple[Tensor, ...]:  # order + 1 of (..., n)
    """The value of a model and its derivatives along a direction: y_k = dᵏ/dsᵏ model(x + s v) at s = 0.

    All are computed in one run of the model, in which a layer costs one product of order + 1 times its rows. Nested
    autograd doubles with each order.

    Args:
        model: as in `laplacian`.
        x: points, (..., d).
        v: the direction, the same for all points (d), or of each point its own (..., d).
        order: the highest, 1 to 4.

    Returns:
        y, y_1, ..., y_order, each (..., n).

    Raises:
        TypeError, ValueError: as `laplacian`; ValueError also for another order.

    Source: Taylor mode, Griewank & Walther, Evaluating Derivatives, chapter 13.

    >>> import torch, fusegrad as fg
    >>> fg.directional(lambda x: x.pow(3).sum(-1), torch.tensor([[1.0, 2.0]]), torch.tensor([1.0, 0.0]), order=3)
    (tensor([9.]), tensor([3.]), tensor([6.]), tensor([6.]))
    """
    check_point("directional", model, x)
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= HIGHEST:
        raise ValueError(f"directional: order must be 1 to {HIGHEST}, got {order!r}")
    v = along_one("directional", x, v)
    if (made := directional_at_once(model, x, v, order)) is not None:
        return made
    y, streams = evaluate("directional", model, x, v, Rules(order, 1, summed=False))
    return y, *(torch.zeros_like(y) if s is None else whole(s, y.shape).squeeze(0) for s in streams)
