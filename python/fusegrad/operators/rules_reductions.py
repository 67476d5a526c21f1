"""Rules of sums over dimensions and of what is made of them: means, norms, softmax, normalisation."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.terms import total
from .calls import name_of, rule
from .rules_elementwise import composition
from .rules_shape import argument, from_end
from .run import Refused, Run
from .streams import Rules, Streams, each, whole


def dims_of(given: Any, x: Tensor) -> tuple[int, ...]:
    """Dimensions, counted from the end; all for none."""
    if given is None or (isinstance(given, (list, tuple)) and not given):
        return tuple(range(-x.dim(), 0))
    return tuple(from_end(d, x.dim()) for d in ([given] if isinstance(given, int) else given))


@rule("sum", "mean")
def summed(run: Run, func, args, kwargs):
    x, y = args[0], func(*args, **kwargs)
    if not x.is_floating_point():
        return y
    given = argument(1, "dim", args, kwargs, kwargs.get("axis"))
    given = args[1:] if len(args) > 1 and isinstance(given, int) and not isinstance(args[-1], bool) else given
    dims, keep = dims_of(given, x), y.dim() == x.dim()
    add = Tensor.mean if func.__name__ == "mean" else Tensor.sum

    def over(p: Tensor) -> Tensor:
        p = whole(p, x.shape).to(y.dtype)
        return add(p, dims, keepdim=keep) if dims else p

    return run.keep(y, each(run.streams(x), over))


@rule("amax", "amin")
def largest(run: Run, func, args, kwargs):
    """Those that are equally large have equal parts of the derivative, as in torch."""
    x, y = args[0], func(*args, **kwargs)
    dims = dims_of(argument(1, "dim", args, kwargs), x)
    keep = y.dim() == x.dim() and x.dim() > 0
    top = y if keep or not dims else func(x, dims, keepdim=True)
    equal = (x == top).to(x.dtype)
    share = equal / equal.sum(dims, keepdim=True) if dims else equal
    over = lambda p: (whole(p, x.shape) * share).sum(dims, keepdim=keep) if dims else p
    return run.keep(y, each(run.streams(x), over))


@rule("max", "min", "sort", "topk", "kthvalue", "median", "mode")
def ordered(run: Run, func, args, kwargs):
    """Of (values, indices): the streams of those that the indices name."""
    x = args[0]
    if len(args) > 1 and isinstance(args[1], Tensor):
        return run.composed(torch.maximum if func.__name__ == "max" else torch.minimum, *args)
    name = func.__name__
    if name in ("max", "min") and len(args) + len(kwargs) == 1:
        return run.composed(torch.amax if name == "max" else torch.amin, x)
    result = func(*args, **kwargs)
    if isinstance(result, Tensor):
        return run.without_rule(func, args, kwargs)
    values, indices = result
    dim = argument(2 if name in ("topk", "kthvalue") else 1, "dim", args, kwargs, -1)
    dim = from_end(dim, x.dim())
    at = indices if indices.dim() == x.dim() else indices.unsqueeze(dim)
    take = lambda p: whole(p, x.shape).gather(dim, at.expand(p.shape[0], *at.shape))
    streams = each(run.streams(x), take)
    run.keep(values, streams if indices.dim() == x.dim() else each(streams, lambda p: p.squeeze(dim)))
    return result


# --- norms ------------------------------------------------------------------------------------------------------------


def _norm(run: Run, func, args, kwargs, x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """y = |x|, from y² = <x, x>: y y_k = Σ_{j≤k} C(k, j) <x_j, x_{k-j}> / 2 - Σ_{0<j<k} C(k, j) y_j y_{k-j} / 2.

    Where y is 0 there are none; torch takes the first to be 0.
    """
    y = func(*args, **kwargs)
    dot = lambda p, q: (whole(p, x.shape) * whole(q, x.shape)).sum(dims, keepdim=True)
    top = y if y.dim() == x.dim() else y.reshape([1 if d - x.dim() in dims else n for d, n in enumerate(x.shape)])
    s = run.streams(x)
    squares = run.rules.product(dot, x, s, x, s)
    found = root(run.rules, top, squares)
    drop = [d for d in dims] if y.dim() != x.dim() else []
    return run.keep(y, each(found, lambda p: p.squeeze(drop) if drop else p))


def root(rules: Rules, y: Tensor, squares: Streams) -> Streams:
    """The streams of y from those of y²; the first is 0 where y is."""
    nought = y == 0
    found: list[Tensor | None] = []
    for k in range(1, rules.order + 1):
        middle = [
            math.comb(k, j) * (a * b)
            for j in range(1, k)
            if (a := found[j - 1]) is not None and (b := found[k - j - 1]) is not None
        ]
        less = rules.gathered(k, total(*middle))
        p = total(squares[k - 1], None if less is None else -less)
        p = None if p is None else p / (2 * torch.where(nought, 1.0, y) if k == 1 else 2 * y)
        found.append(p.masked_fill(nought, 0) if k == 1 and p is not None else p)
    return tuple(found)


@rule("norm", torch.linalg.norm, torch.linalg.vector_norm)
def norm(run: Run, func, args, kwargs):
    x = args[0]
    name = "ord" if func in (torch.linalg.norm, torch.linalg.vector_norm) else "p"
    p, dim = argument(1, name, args, kwargs, None), argument(2, "dim", args, kwargs)
    dims = dims_of(dim, x)
    euclid = p in (2, 2.0) or p is None or (p == "fro" and name == "p")
    if func is torch.linalg.norm and p is not None and len(dims) > 1:
        euclid = False  # of a matrix
    if not euclid or not x.dim() or any(not isinstance(d, int) for d in dims):
        return run.without_rule(func, args, kwargs)
    return _norm(run, func, args, kwargs, x, dims)


@composition("normalize")
def _normalize(input, p=2.0, dim=1, eps=1e-12, out=None):
    return input / torch.norm(input, p, dim, keepdim=True).clamp_min(eps).expand_as(input)


@composition("cosine_similarity")
def _cosine_similarity(a, b, dim=1, eps=1e-8):
    dot = lambda p, q: (p * q).sum(dim)
    return dot(a, b) / (torch.norm(a, 2, dim).clamp_min(eps) * torch.norm(b, 2, dim).clamp_min(eps))


@composition("pairwise_distance")
def _pairwise_distance(a, b, p=2.0, eps=1e-6, keepdim=False):
    return torch.norm(a - b + eps, p, -1, keepdim)


@composition("cdist")
def _cdist(a, b, p=2.0, compute_mode=None):
    return torch.norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)


@composition("mse_loss")
def _mse_loss(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    off = (input - target).square()
    off = off if weight is None else off * weight
    return off if reduction == "none" else off.mean() if reduction == "mean" else off.sum()


@composition("var")
def _var(x, dim=None, unbiased=True, keepdim=False, *, correction=None):
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    dims = dims_of(dim, x)
    count = math.prod([x.shape[d] for d in dims])
    less = (1 if unbiased else 0) if correction is None else correction
    return (x - x.mean(dims, keepdim=True)).square().sum(dims, keepdim=keepdim) / max(count - less, 0)


@rule("std")
def std(run: Run, func, args, kwargs):
    y = func(*args, **kwargs)
    return run.keep(y, root(run.rules, y, run.streams(run.composed(_var, *args, **kwargs))))


# --- softmax and normalisation ----------------------------------------------------------------------------------------


@composition("softmax", torch.special.softmax)
def _softmax(input, dim=None, _stacklevel=3, dtype=None):
    z = input if dtype is None else input.to(dtype)
    e = torch.exp(z - z.detach().amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)


@composition("softmin")
def _softmin(input, dim=None, _stacklevel=3, dtype=None):
    return _softmax(-input, dim, dtype=dtype)


@composition("log_softmax", torch.special.log_softmax)
def _log_softmax(input, dim=None, _stacklevel=3, dtype=None):
    z = input if dtype is None else input.to(dtype)
    return z - torch.logsumexp(z, dim, keepdim=True)


@composition("logsumexp", torch.special.logsumexp)
def _logsumexp(input, dim, keepdim=False):
    top = input.detach().amax(dim, keepdim=True)
    top = torch.where(top.isfinite(), top, 0.0)
    y = torch.exp(input - top).sum(dim, keepdim=True).log() + top
    return y if keepdim else y.squeeze(dim)


@composition("logaddexp")
def _logaddexp(a, b):
    top = torch.maximum(a.detach(), b.detach())
    return torch.log(torch.exp(a - top) + torch.exp(b - top)) + top


def _normed(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    x = x - x.mean(dims, keepdim=True)
    return x * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps)


@composition("layer_norm")
def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    y = _normed(input, tuple(range(-len(normalized_shape), 0)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@composition("rms_norm")
def _rms_norm(input, normalized_shape, weight=None, eps=None):
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    y = input * torch.rsqrt(input.square().mean(dims, keepdim=True) + eps)
    return y if weight is None else y * weight


@composition("group_norm")
def _group_norm(input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    groups = input.reshape(input.shape[0], num_groups, -1)
    return _affine(_normed(groups, (-1,), eps).reshape(input.shape), weight, bias)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """One number for each channel, the second dimension."""
    shape = (-1, *(1,) * (y.dim() - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _batch_norm(input, running_mean, running_var, weight, bias, eps):
    shape = (-1, *(1,) * (input.dim() - 2))
    y = (input - running_mean.reshape(shape)) * torch.rsqrt(running_var + eps).reshape(shape)
    return _affine(y, weight, bias)


@composition(F.instance_norm)
def _instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    if not use_input_stats:
        return _batch_norm(input, running_mean, running_var, weight, bias, eps)
    if running_mean is not None:  # which are to be updated
        F.instance_norm(input.detach(), running_mean, running_var, weight, bias, True, momentum, eps)
    return _affine(_normed(input, tuple(range(2, input.dim())), eps), weight, bias)


@rule(F.batch_norm)
def batch_norm(run: Run, func, args, kwargs):
    """With the statistics that are stored; those of a batch make each row depend on all others."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    if given.get("training", False):
        raise Refused(
            f"{name_of(func)} in training normalises with the statistics of all rows, so that no row has derivatives "
            "of its own; need model.eval(), or a norm of each row (LayerNorm, GroupNorm)"
        )
    stored = given["running_mean"], given["running_var"]
    return run.composed(
        _batch_norm, given["input"], *stored, given.get("weight"), given.get("bias"), given.get("eps", 1e-5)
    )
