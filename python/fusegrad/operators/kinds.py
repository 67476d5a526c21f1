"""The two kinds of streams that are one op on the CPU, and how streams are given to the ops.

Of a Laplacian, where only the sum of second derivatives is asked for: tangents t (r, ...), and that sum, l.

Of derivatives along one direction: t (K - 1, ...) has those of orders 1 to K - 1, and l that of order K, 1 to 4. Those
along several directions are rows of one x that has all points for each.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..internals.call import requires_grad
from ..ops.chain_streams import STREAMS, STREAMS_BACKWARD, TAYLOR, TAYLOR_BACKWARD
from .streams import Rules, Streams, each, joined, parted, whole


class Kind(NamedTuple):
    asked: str  # for by which function
    forward: Any  # the op of a chain
    backward: Any
    chain: str  # names in C++
    program: str

    def rules(self, t: Tensor) -> Rules:
        return Rules(2, t.shape[0], summed=True) if self is LAPLACIAN else Rules(t.shape[0] + 1, 1, summed=False)

    def streams(self, t: Tensor, l: Tensor | None) -> Streams:  # noqa: E741  # as in the formulas
        """Those that ops give as t and l (1, ...)."""
        return (t, l) if self is LAPLACIAN else (*parted(t), l)

    def given(self, x: Tensor, t: Tensor, l: Tensor | None) -> Streams:  # noqa: E741
        """Those of x that ops are given as t and l."""
        if t.dim() <= x.dim():  # the same for all rows
            t = t.reshape(t.shape[0], *(1,) * (x.dim() - 1), x.shape[-1])
        return self.streams(t, None if l is None else l.unsqueeze(0))

    def made(self, y: Tensor, streams: Streams) -> tuple[Tensor, Tensor, Tensor]:
        """A value with its streams, as the ops give them."""
        if self is LAPLACIAN:
            ty, ly = streams
            assert ty is not None  # as t is there
            return y, whole(ty, y.shape), joined([ly], y)
        *lower, last = streams
        return y, joined(lower, y), joined([last], y)


LAPLACIAN = Kind("laplacian", STREAMS, STREAMS_BACKWARD, "streams", "program")
ALONG = Kind("directional", TAYLOR, TAYLOR_BACKWARD, "taylor", "program_taylor")


def kind_of(rules: Rules, streams: Streams) -> Kind | None:
    """That of streams which ops may serve."""
    if rules.apart or rules.count == 0 or all(s is None for s in streams):
        return None
    if not rules.summed:
        return ALONG
    return LAPLACIAN if rules.order == 2 and streams[0] is not None else None


# Of second derivatives along several directions one op computes the value for each again, 3 d products in the place of
# 2 d + 1: in layers of 256, and 5 to 10 directions, it took 1.1 times as long as layer by layer, in layers of 128 up to
# 0.94, and of 256 with 2 or 3 directions 0.78 (Zen 4, 2026-11-27).
WIDEST, WIDEST_ALONG_FEW, FEW = 128, 256, 3


def pays(rules: Rules, weights: Sequence[Tensor | None]) -> bool:
    """Whether layers of these weights, and their biases, are best made as one op."""
    if rules.summed or rules.count == 1 or rules.order != 2:
        return True
    widest = max(w.shape[0] for w in weights if w is not None)
    return widest <= (WIDEST_ALONG_FEW if rules.count <= FEW else WIDEST)


def to_ops(rules: Rules, x: Tensor, streams: Streams) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """x, t and l, as the ops take them; None if they do not."""
    if rules.summed:
        t, l = streams  # noqa: E741
        assert t is not None
        is_alike = l is None and _are_alike(x, t)
        if is_alike and requires_grad(t):  # of which the kernel makes no gradient
            return None
        t = whole(t, (*t.shape[1:-1], x.shape[-1])).reshape(t.shape[0], -1) if is_alike else whole(t, x.shape)
        return x, t, None if l is None else whole(l, x.shape)[0]
    if rules.count > 1:
        streams = each(streams, lambda s: whole(s, x.shape).unsqueeze(0))
        x = x.expand(rules.count, *x.shape)
    first, *higher = streams
    *lower, last = streams
    if first is not None and higher and all(s is None for s in higher) and _are_alike(x, first):
        if not requires_grad(first):
            t = first.new_zeros(len(lower), x.shape[-1])
            t[0] = first.flatten()
            return x, t, None
    return x, joined(lower, x), None if last is None else whole(last, x.shape)[0]


def _are_alike(x: Tensor, t: Tensor) -> bool:
    """Whether directions are the same for all rows."""
    return x.dim() > 1 and all(size == 1 for size in t.shape[1:-1])


def from_ops(rules: Rules, y: Tensor, streams: Streams) -> tuple[Tensor, Streams]:
    """What an op made, as of all directions."""
    if rules.summed or rules.count == 1:
        return y, streams
    return y[0], each(streams, lambda s: s.squeeze(0))
