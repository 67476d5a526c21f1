"""Laplacians and other second-order operators, of any model."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..internals.call import is_ops_mode_on
from ..routing import streams_are_a_chain
from .arguments import Model, along_axes, along_columns, at_random, check_point, drift_of
from .chains import chain_of
from .evaluate import evaluate
from .kept import laplacian_at_once
from .streams import Rules, whole

MOST_WITH_DIAGONALS = 3  # dimensions: of more there are too many diagonals, and terms that cancel


class Laplacian(NamedTuple):
    """What `laplacian` returns."""

    value: Tensor  # (..., n)
    jacobian: Tensor  # (..., n, r)
    laplacian: Tensor  # (..., n)


def laplacian(
    model: Model,
    x: Tensor,  # (..., d)
    *,
    directions: Tensor | None = None,  # (d, r) or (..., d, r)
    drift: Tensor | None = None,  # (d) or (..., d)
    samples: int | None = None,
    distribution: str = "rademacher",
    generator: torch.Generator | None = None,
) -> Laplacian:
    """The value of a model, its first derivatives and its Laplacian, in one run of the model.

    Δy = Σ_i ∂²y/∂x_i². With directions S it is Σ_ij (S Sᵀ)_ij ∂²y/∂x_i∂x_j, and the first derivatives are those along
    the columns of S. A layer costs one product of r + 2 times its rows; nested autograd costs 2 + 2 r of them.

    With a drift b it is that plus b · ∇y, at no further product: as in Fokker-Planck and advection-diffusion equations,
    and in the heat equation, u_xx + u_yy - u_t, of directions x and y and a drift against t.

    The model is any function of points, of each for itself: it runs once, with tensors that carry their derivatives.
    The result can be differentiated again, in the parameters and in x, in all modes of PyTorch.

    Args:
        model: a torch.nn.Module or a function, (..., d) -> (..., n) or (...).
        x: points, (..., d).
        directions: columns s, the same for all points (d, r), or of each point its own (..., d, r).
        drift: vector of the first-order term, the same for all points (d), or of each point its own (..., d).
        samples: estimate the Laplacian by so many random directions for each point, for large d (Hutchinson). It is
            exact on average; the error falls as 1/√samples.
        distribution: of these: "rademacher" (±1 in each coordinate), "normal", or "sparse" (one axis each).
        generator: of their random numbers.

    Returns:
        value (..., n), the model's; jacobian (..., n, d): of each value its derivatives along the axes, or (..., n, r)
        along the directions, which for samples are divided by √samples; laplacian (..., n), with the drift's term.

    Raises:
        TypeError: x is no floating-point tensor, or the model returns none, or complex numbers.
        ValueError: the shapes do not fit, directions and samples are both given, a row of the result depends on other
            rows of x, or the model computes complex numbers.

    Source: Li et al., arXiv:2307.08214 (forward Laplacian); Dangel et al., NeurIPS 2025 (collapsed Taylor mode);
    Hutchinson, doi:10.1080/03610919008812866.

    >>> import torch, fusegrad as fg
    >>> r = fg.laplacian(lambda x: x.pow(3).sum(-1), torch.tensor([[1.0, 2.0]]))
    >>> r.value, r.jacobian, r.laplacian
    (tensor([9.]), tensor([[ 3., 12.]]), tensor([18.]))
    """
    check_point("laplacian", model, x)
    if directions is not None and samples is not None:
        raise ValueError("laplacian: got directions and samples; need one of them at most")
    if samples is not None:
        s = at_random("laplacian", x, samples, distribution, generator)
    elif directions is not None:
        s = along_columns("laplacian", x, directions)
    else:
        s = None  # the axes
    b = None if drift is None else drift_of("laplacian", x, drift)
    if (made := laplacian_at_once(model, x, s, b)) is not None:
        return Laplacian(*made)
    s = along_axes(x) if s is None else s
    y, (first, second) = evaluate("laplacian", model, x, s, Rules(2, s.shape[0], summed=True), b)
    return Laplacian(y, last(first, y, s.shape[0]), sum_of(second, y))


def hessian_diagonal(
    model: Model,
    x: Tensor,  # (..., d)
) -> Tensor:  # (..., n, d)
    """The second derivatives of a model along the axes: h_i = ∂²y/∂x_i².

    Their sum is the Laplacian, which `laplacian` computes with fewer products: here a layer costs one of 2 d + 1 times
    its rows, of 3 d times as one op.

    Args:
        model: as in `laplacian`.
        x: points, (..., d).

    Returns:
        h, (..., n, d).

    Raises:
        TypeError, ValueError: as `laplacian`.

    Source: Griewank & Walther, Evaluating Derivatives, chapter 13.

    >>> import torch, fusegrad as fg
    >>> fg.hessian_diagonal(lambda x: x.pow(3).sum(-1), torch.tensor([[1.0, 2.0]]))
    tensor([[ 6., 12.]])
    """
    check_point("hessian_diagonal", model, x)
    s = along_axes(x)
    y, (_, second) = evaluate("hessian_diagonal", model, x, s, Rules(2, s.shape[0], summed=False))
    return last(second, y, s.shape[0])


def bilaplacian(
    model: Model,
    x: Tensor,  # (..., d)
) -> Tensor:  # (..., n)
    """The Laplacian of the Laplacian: Δ²y = Σ_ij ∂⁴y/∂x_i²∂x_j².

    A layer costs one product of (d + 2)² times its rows; of 5 d² times, as one op, in a chain of up to 3 dimensions.

    Args:
        model: as in `laplacian`.
        x: points, (..., d).

    Returns:
        Δ²y, (..., n).

    Raises:
        TypeError, ValueError: as `laplacian`.

    Source: as `laplacian`, twice.

    >>> import torch, fusegrad as fg
    >>> fg.bilaplacian(lambda x: x.prod(-1).square(), torch.tensor([[1.0, 2.0]]))
    tensor([8.])
    """
    check_point("bilaplacian", model, x)
    if (of_chain := _bilaplacian_of_chain(model, x)) is not None:
        return of_chain

    def first(x: Tensor) -> Tensor:
        s = along_axes(x)
        y, (_, second) = evaluate("bilaplacian", model, x, s, Rules(2, s.shape[0], summed=True))
        return sum_of(second, y)

    s = along_axes(x)
    y, (_, second) = evaluate("bilaplacian", first, x, s, Rules(2, s.shape[0], summed=True))
    return sum_of(second, y)


def _bilaplacian_of_chain(model: Model, x: Tensor) -> Tensor | None:
    """That of a chain that is one op, by fourth derivatives D along axes and diagonals; None where that is left.

    As D_{i+j} + D_{i-j} = 2 D_i + 2 D_j + 12 ∂⁴y/∂x_i²∂x_j²,

        Δ²y = (4 - d)/3 Σ_i D_i + 1/6 Σ_{i<j} (D_{i+j} + D_{i-j})
    """
    d = x.shape[-1]
    if not 0 < d <= MOST_WITH_DIAGONALS or is_ops_mode_on() or (chain := chain_of(model, x)) is None:
        return None
    if not streams_are_a_chain(x, (), [t for layer in chain for t in layer[:2]], [layer.act for layer in chain]):
        return None
    axes = torch.eye(d, dtype=x.dtype, device=x.device)
    diagonals = [axes[i] + sign * axes[j] for i in range(d) for j in range(i) for sign in (1, -1)]
    s = torch.stack([*axes, *diagonals]).reshape(d * d, *(1,) * (x.dim() - 1), d)
    y, (*_, fourth) = evaluate("bilaplacian", model, x, s, Rules(4, d * d, summed=False))
    if fourth is None:
        return torch.zeros_like(y)
    fourth = whole(fourth, y.shape)
    return (4 - d) / 3 * fourth[:d].sum(0) + fourth[d:].sum(0) / 6


def last(stream: Tensor | None, y: Tensor, count: int) -> Tensor:
    """A stream of y with its directions last."""
    if stream is None:
        return y.new_zeros(*y.shape, count)
    return whole(stream, y.shape).movedim(0, -1)


def sum_of(stream: Tensor | None, y: Tensor) -> Tensor:
    """A stream of y that is a sum over the directions."""
    return torch.zeros_like(y) if stream is None else whole(stream, y.shape).squeeze(0)
