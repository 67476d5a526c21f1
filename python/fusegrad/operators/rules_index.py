"""Rules of indices: parts of a tensor, and writing to parts."""

from typing import Any

import torch
from torch import Tensor

from .calls import rule
from .in_place import WRITES
from .rules_shape import argument, from_end
from .run import Run
from .streams import each, narrowed, whole


def _part(run: Run, func, args, kwargs, take) -> Any:
    """Of a result, or several, that are parts of x; `take` takes the same of a stream with all its sizes."""
    x, y = args[0], func(*args, **kwargs)
    streams = [None if s is None else take(whole(s, x.shape)) for s in run.streams(x)]
    if isinstance(y, Tensor):
        return run.keep_of([x], y, each(tuple(streams), narrowed))
    for i, part in enumerate(y):
        run.keep_of([x], part, tuple(None if s is None else narrowed(s[i]) for s in streams))
    return y


@rule(Tensor.__getitem__)
def item(run: Run, func, args, kwargs):
    x, at = args
    index = full_index(at, x.dim())
    if all(i is None or isinstance(i, (int, slice)) for i in index):
        return _part(run, func, args, kwargs, lambda p: p[(slice(None), *index)])
    # advanced: the directions go last, where an index leaves them
    return _part(run, func, args, kwargs, lambda p: p.movedim(0, -1)[tuple(index)].movedim(-1, 0))


def full_index(at: Any, rank: int) -> list[Any]:
    """An index without an ellipsis."""
    index = list(at) if isinstance(at, tuple) else [at]
    used = sum(0 if i is None or i is Ellipsis or isinstance(i, bool) else i.dim() if _is_mask(i) else 1 for i in index)
    for place, i in enumerate(index):
        if i is Ellipsis:
            return [*index[:place], *(slice(None),) * (rank - used), *index[place + 1 :]]
    return index


def _is_mask(i: Any) -> bool:
    return isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)


def set_item(x: Tensor, at: Any, value: Any) -> Tensor:
    """x with other numbers at an index."""
    y = x.clone()
    y[at] = value
    return y


WRITES[Tensor.__setitem__] = set_item


@rule(set_item)
def item_set(run: Run, func, args, kwargs):
    x, at, value = args
    y = func(*args)
    index = tuple(full_index(at, x.dim()))
    return run.keep(y, tuple(_set(run, k, p, q, x, index) for k, (p, q) in enumerate(
        zip(run.streams(x), run.streams(value), strict=True), 1)))  # fmt: skip


def _set(run: Run, k: int, p: Tensor | None, q: Tensor | None, x: Tensor, index: tuple) -> Tensor | None:
    """x_k with those of the value at the index."""
    if p is None and q is None:
        return None
    count = run.rules.directions(k)
    before = x.new_zeros(count, *x.shape) if p is None else whole(p, x.shape)
    last = set_item(before.movedim(0, -1), index, 0 if q is None else q.movedim(0, -1).to(x.dtype))
    return last.movedim(-1, 0)


def fill(x: Tensor, value: Any) -> Tensor:
    """x with all numbers replaced."""
    return torch.zeros_like(x) + value


def copied(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return source.to(x.device, x.dtype, non_blocking).expand(x.shape)


WRITES |= {Tensor.copy_: copied, Tensor.fill_: fill, Tensor.zero_: torch.zeros_like}
for function in (copied, fill):
    rule(function)(lambda run, func, args, kwargs: run.composed(func, *args, **kwargs))


@rule("select")
def selected(run: Run, func, args, kwargs):
    dim = argument(1, "dim", args, kwargs)
    if not isinstance(dim, int):
        return run.without_rule(func, args, kwargs)
    dim, index = from_end(dim, args[0].dim()), argument(2, "index", args, kwargs)
    return _part(run, func, args, kwargs, lambda p: p.select(dim, index))


@rule("narrow")
def narrow(run: Run, func, args, kwargs):
    dim = from_end(argument(1, "dim", args, kwargs), args[0].dim())
    start, length = argument(2, "start", args, kwargs), argument(3, "length", args, kwargs)
    return _part(run, func, args, kwargs, lambda p: p.narrow(dim, start, length))


@rule("index_select")
def index_selected(run: Run, func, args, kwargs):
    dim = from_end(argument(1, "dim", args, kwargs), args[0].dim())
    return _part(run, func, args, kwargs, lambda p: p.index_select(dim, argument(2, "index", args, kwargs)))


@rule("gather", "take_along_dim")
def gathered(run: Run, func, args, kwargs):
    if func in (torch.gather, Tensor.gather):
        dim, index = from_end(argument(1, "dim", args, kwargs), args[0].dim()), argument(2, "index", args, kwargs)
        return _part(run, func, args, kwargs, lambda p: p.gather(dim, index.expand(p.shape[0], *index.shape)))
    return run.without_rule(func, args, kwargs)


@rule("unbind")
def unbound(run: Run, func, args, kwargs):
    dim = from_end(argument(1, "dim", args, kwargs, 0), args[0].dim())
    return _part(run, func, args, kwargs, lambda p: p.unbind(dim))


@rule("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(run: Run, func, args, kwargs):
    """The parts have what sizes they have: the streams are split into these."""
    x = args[0]
    dim = from_end(argument(2, "dim", args, kwargs, 0), x.dim())
    y = func(*args, **kwargs)
    sizes = [part.shape[dim] for part in y]
    return _part(run, lambda *_, **__: y, args, kwargs, lambda p: p.split(sizes, dim))
