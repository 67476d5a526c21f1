"""Rules of linear maps that only move numbers: each stream is moved in the same way."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .calls import CONSTANT, getter, rule
from .run import Run
from .streams import Streams, each, lifted, whole


def argument(at: int, name: str, args: tuple, kwargs: dict[str, Any], default: Any = None) -> Any:
    return args[at] if len(args) > at else kwargs.get(name, default)


def sequence(args: tuple, kwargs: dict[str, Any], name: str) -> list[Any]:
    """The numbers of f(x, 1, 2) or of f(x, (1, 2))."""
    given = args[1:] if len(args) > 1 else kwargs[name]
    return list(given[0]) if len(given) == 1 and not isinstance(given[0], int) else list(given)


def from_end(dim: int, rank: int) -> int:
    """A dimension counted from the last one, which streams have too."""
    return dim if dim < 0 else dim - max(rank, 1)


@rule("contiguous", "clone", "requires_grad_", "alias", "positive", getter("real"))
def same(run: Run, func, args, kwargs):
    return run.keep_of(args[:1], func(*args, **kwargs), run.streams(args[0]))


@rule(
    "to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu", "cuda"
)  # fmt: skip
def converted(run: Run, func, args, kwargs):
    y = func(*args, **kwargs)
    if not isinstance(y, Tensor) or not y.is_floating_point():
        return y
    return run.keep_of(args[:1], y, each(run.streams(args[0]), lambda p: p.to(y.device, y.dtype)))


@rule("reshape", "view", "flatten", "unflatten", "ravel", "view_as", "reshape_as", torch.atleast_1d, torch.atleast_2d)
def reshaped(run: Run, func, args, kwargs):
    x, y = args[0], func(*args, **kwargs)
    if not isinstance(y, Tensor) or y.dtype is not x.dtype:
        return run.without_rule(func, args, kwargs)
    return run.keep_of([x], y, each(run.streams(x), lambda p: whole(p, x.shape).reshape(p.shape[0], *y.shape)))


@rule("unsqueeze")
def unsqueezed(run: Run, func, args, kwargs):
    x, y = args[0], func(*args, **kwargs)
    dim = argument(1, "dim", args, kwargs)
    dim = dim if dim < 0 else dim - y.dim()
    return run.keep_of([x], y, each(run.streams(x), lambda p: lifted(p, x.dim()).unsqueeze(dim)))


@rule("squeeze")
def squeezed(run: Run, func, args, kwargs):
    x, y = args[0], func(*args, **kwargs)
    dims = argument(1, "dim", args, kwargs, range(x.dim()))
    dims = {from_end(dim, x.dim()) for dim in ([dims] if isinstance(dims, int) else dims)}
    gone = tuple(dim for dim in dims if x.dim() and x.shape[dim] == 1)
    return run.keep_of([x], y, each(run.streams(x), lambda p: lifted(p, x.dim()).squeeze(gone)))


@rule("expand", "expand_as", "broadcast_to")
def expanded(run: Run, func, args, kwargs):
    y = func(*args, **kwargs)
    return run.keep_of(args[:1], y, each(run.streams(args[0]), lambda p: lifted(p, y.dim())))


def _permuted(run: Run, func, args, kwargs, order: Sequence[int]) -> Tensor:
    """Of a result whose dimensions are those of x in this order, counted from the end."""
    x, y = args[0], func(*args, **kwargs)
    streams = each(run.streams(x), lambda p: lifted(p, x.dim()).permute(0, *(dim % (x.dim() + 1) for dim in order)))
    return run.keep_of([x], y, streams)


def _order(x: Tensor) -> list[int]:
    return list(range(-x.dim(), 0))


@rule("permute")
def permuted(run: Run, func, args, kwargs):
    return _permuted(run, func, args, kwargs, [from_end(d, args[0].dim()) for d in sequence(args, kwargs, "dims")])


@rule("transpose", "swapaxes", "swapdims")
def transposed(run: Run, func, args, kwargs):
    x = args[0]
    if len(args) < 3:
        return run.without_rule(func, args, kwargs)
    order, (a, b) = _order(x), (from_end(d, x.dim()) for d in args[1:3])
    if order:
        order[a], order[b] = order[b], order[a]
    return _permuted(run, func, args, kwargs, order)


@rule("t", getter("T"), getter("mT"), "adjoint", getter("mH"), getter("H"))
def turned(run: Run, func, args, kwargs):
    x = args[0]
    order = _order(x)
    order[-2:] = order[-2:][::-1]
    return (
        _permuted(run, func, args, kwargs, order)
        if x.dim() <= 2 or func != getter("T")
        else run.without_rule(func, args, kwargs)
    )


@rule("movedim", "moveaxis")
def moved(run: Run, func, args, kwargs):
    x = args[0]
    sizes = torch.empty(tuple(range(x.dim())), device="meta")  # each is the number of its dimension
    order = [size - x.dim() for size in func(sizes, *args[1:], **kwargs).shape]
    return _permuted(run, func, args, kwargs, order)


# --- several tensors as one -----------------------------------------------------------------------------------------


@rule("cat", "concat", "concatenate")
def joined(run: Run, func, args, kwargs):
    y = func(*args, **kwargs)
    dim = argument(1, "dim", args, kwargs, kwargs.get("axis", 0))
    parts = [t for t in args[0] if t.dim() == y.dim()]  # torch takes empty ones of one dimension too
    return run.keep(y, _joined(run, parts, y, from_end(dim, y.dim())))


def _joined(run: Run, parts: Sequence[Tensor], y: Tensor, dim: int) -> Streams:
    """Along a dimension. Elsewhere a size stays 1 if it is so in all."""
    made: list[Tensor | None] = []
    for k in range(1, run.rules.order + 1):
        of = [run.streams(t)[k - 1] for t in parts]
        if all(p is None for p in of):
            made.append(None)
            continue
        lift = [None if p is None else lifted(p, y.dim()) for p in of]
        sizes = [max(p.shape[i] for p in lift if p is not None) for i in range(1, y.dim() + 1)]
        full = []
        for p, t in zip(lift, parts, strict=True):
            sizes[dim] = t.shape[dim]
            shape = run.rules.directions(k), *sizes
            full.append(y.new_zeros(shape) if p is None else p.to(y.dtype).expand(shape))
        made.append(torch.cat(full, dim))
    return tuple(made)


@rule("stack")
def stacked(run: Run, func, args, kwargs):
    y = func(*args, **kwargs)
    dim = argument(1, "dim", args, kwargs, 0)
    dim = dim if dim < 0 else dim - y.dim()
    parts = [run.keep(t.unsqueeze(dim), each(run.streams(t), partial(_with_dim, t.dim(), dim))) for t in args[0]]
    return run.keep(y, _joined(run, parts, y, dim))


def _with_dim(rank: int, dim: int, p: Tensor) -> Tensor:
    return lifted(p, rank).unsqueeze(dim)


@rule("repeat", "tile")
def repeated(run: Run, func, args, kwargs):
    x, y = args[0], func(*args, **kwargs)
    times = [int(n) for n in sequence(args, kwargs, "repeats" if "repeats" in kwargs else "dims")]
    times = [1] * (y.dim() - len(times)) + times
    return run.keep(y, each(run.streams(x), lambda p: lifted(whole(p, x.shape), y.dim()).repeat(1, *times)))


def one_by_one(run: Run, func, args, kwargs):
    """Of a linear map whose arguments after the first are constants: each direction by a call of its own."""
    first, *rest = args
    several = isinstance(first, (list, tuple))
    given = list(first) if several else [first]
    if any(run.has(t) for t in (*rest, *kwargs.values())):
        return run.without_rule(func, args, kwargs)
    y = func(*args, **kwargs)
    made: list[Tensor | None] = []
    for k in range(1, run.rules.order + 1):
        of = [run.streams(t)[k - 1] for t in given]
        if all(p is None for p in of):
            made.append(None)
            continue
        full = [
            t.new_zeros(run.rules.directions(k), *t.shape) if p is None else whole(p, t.shape)
            for t, p in zip(given, of, strict=True)
        ]
        calls = [[p[i] for p in full] for i in range(run.rules.directions(k))]
        results = [func(c if several else c[0], *rest, **kwargs) for c in calls]
        made.append(torch.stack(results) if results else y.new_zeros(0, *y.shape))
    return run.keep_of(given, y, tuple(made))


rule(
    "roll", "flip", "fliplr", "flipud", "rot90", "tril", "triu", "diagonal", "diag", "diag_embed", "diagflat",
    "repeat_interleave", "hstack", "vstack", "dstack", "cumsum", "trace", "diff", "unfold", "take",
    "narrow_copy", "interpolate", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "pixel_shuffle", "pixel_unshuffle", "fold",
)(one_by_one)  # fmt: skip


@rule("pad")
def padded(run: Run, func, args, kwargs):
    mode, value = argument(2, "mode", args, kwargs, "constant"), argument(3, "value", args, kwargs)
    if mode != "constant":
        return one_by_one(run, func, args, kwargs)
    if run.has(value):
        return run.without_rule(func, args, kwargs)
    x, pad = args[0], argument(1, "pad", args, kwargs)
    return run.keep(func(*args, **kwargs), each(run.streams(x), lambda p: func(whole(p, x.shape), pad)))


CONSTANT |= {
    f
    for name in (
        "detach", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like",
        "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "sign", "sgn", "floor", "ceil", "round",
        "trunc", "fix", "heaviside", "bernoulli", "multinomial",
    )
    for owner in (torch, Tensor)
    if (f := getattr(owner, name, None)) is not None
} | {getter("data")}  # fmt: skip
