"""A chain of layers with its streams as one op, on the CPU: where only the sum of second derivatives is asked for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backends
from ..internals.call import in_plain_eager, requires_grad
from ..internals.engine import wanted
from ..internals.function import below_autograd, single_level
from ..ops.chain import Plan, check_places, places, plan, plan_of
from ..ops.chain_streams import STREAMS, STREAMS_BACKWARD
from ..routing import streams_are_a_chain
from .streams import Rules, Streams, whole


class Layer(NamedTuple):
    """y = act(x w^T + b)."""

    w: Tensor  # (n, k)
    b: Tensor | None  # (n)
    act: str = "identity"
    param: float = 0.0


ByLayers = Callable[[Rules, Tensor, Streams, Sequence[Layer]], tuple[Tensor, Streams]]


def streamed(
    rules: Rules, x: Tensor, streams: Streams, chain: Sequence[Layer], by_layers: ByLayers
) -> tuple[Tensor, Streams]:
    """What layers make of x and its streams: by one op if that serves them, or else `by_layers`."""
    t = streams[0]
    if t is None or rules.order != 2 or not rules.summed or rules.apart:
        return by_layers(rules, x, streams, chain)
    weights = [tensor for layer in chain for tensor in layer[:2]]
    acts = tuple(layer.act for layer in chain)
    if t.shape[0] == 0 or not streams_are_a_chain(x, streams, weights, acts):
        return by_layers(rules, x, streams, chain)
    if (given := as_given(x, streams)) is None:
        return by_layers(rules, x, streams, chain)
    t, l = given  # noqa: E741  # as in the formulas
    of = plan(acts, tuple(layer.param for layer in chain), tuple(layer.b is not None for layer in chain))
    made = None if backends.node is None else backends.node.streams(x, t, l, tuple(weights), of.acts)
    if made is not None:
        y, ty, ly = made
    elif requires_grad(x, t, l, *weights):
        y, ty, ly = _apply(of, by_layers, x, t, l, *weights)
    else:
        y, ty, ly, _ = below_autograd(STREAMS, x, t, l, weights, of.acts, False)
    return y, (ty, ly)


def as_given(x: Tensor, streams: Streams) -> tuple[Tensor, Tensor | None] | None:
    """Tangents and the last stream of x, as the ops take them; None if they do not."""
    t, l = streams  # noqa: E741
    assert t is not None
    is_alike = l is None and x.dim() > 1 and all(size == 1 for size in t.shape[1:-1])
    if is_alike and requires_grad(t):  # of which the kernel makes no gradient
        return None
    t = whole(t, (*t.shape[1:-1], x.shape[-1])).reshape(t.shape[0], -1) if is_alike else whole(t, x.shape)
    return t, None if l is None else whole(l, x.shape)[0]


class StreamedChain:
    """y, its tangents and l; what the kernel saves of each layer is kept: (r + 2) M n numbers, and less of the first.

    Backward is the op chain_streams_backward. Its derivatives are those of the layers one by one, computed again.
    """

    @staticmethod
    def forward(ctx, of, by_layers, x, t, l, *weights):  # noqa: E741
        ctx.plan, ctx.by_layers, ctx.at = of, by_layers, places(weights)
        y, ty, ly, saved = below_autograd(STREAMS, x, t, l, weights, of.acts, True)
        ctx.has_l = l is not None
        ctx.save_for_backward(saved, t, l, x, *weights)
        ctx.set_materialize_grads(False)
        return y, ty, ly

    @staticmethod
    def backward(ctx, *grads):
        saved, t, l, x, *weights = ctx.saved_tensors  # noqa: E741
        inputs = (x, t, l, *weights)
        count = 2 + len(inputs)
        if all(g is None for g in grads):
            return (None,) * count
        absent = ctx.plan.shifted(5, 0, 1, *(() if ctx.has_l else (4,)))
        needed = wanted(ctx, count, absent)[2:]
        check_places("laplacian", weights, ctx.at)
        return None, None, *_gradients(ctx.plan, ctx.by_layers, grads, needed, saved, inputs)


def _gradients(
    of: Plan, by_layers: ByLayers, grads: Sequence[Any], needed: Sequence[bool], saved: Tensor, inputs: Sequence[Any]
) -> list[Tensor | None]:
    """Of x, t, l, w_1, b_1, ..., as the mode asks for them."""
    if torch.is_grad_enabled() or not in_plain_eager(*grads, *inputs):
        return _again(of, by_layers, inputs, grads, needed)
    if grads[0] is None:
        needed = [n and not is_constant for n, is_constant in zip(needed, _of_value_alone(of), strict=True)]
    mask = sum(1 << i for i, n in enumerate(needed) if n)
    x, t, l, *weights = inputs  # noqa: E741
    found = below_autograd(STREAMS_BACKWARD, *grads, x, t, l, weights, saved, of.acts, mask)
    return [g if n else None for g, n in zip(found, needed, strict=True)]


def _of_value_alone(of: Plan) -> list[bool]:
    """For x, t, l, w_1, b_1, ...: does only the value y depend on it? So do biases that no activation follows."""
    curved = max((i for i, name in enumerate(of.names) if name != "identity"), default=-1)
    return [curved < 0, False, False, *(bias and i > curved for i in range(len(of.names)) for bias in (False, True))]


def _again(
    of: Plan, by_layers: ByLayers, inputs: Sequence[Any], grads: Sequence[Any], needed: Sequence[bool]
) -> list[Tensor | None]:
    return again(lambda *given: _run_by_layers(of, by_layers, *given), inputs, grads, needed)


def again(
    run: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Any], grads: Sequence[Any], needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients, and where gradients are on, as functions of all that they depend on."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # of aliases: else what reaches a tensor through another, a weight that was computed from x say, counted twice
        alias = [a if a is None or not a.requires_grad else a.view_as(a) for a in inputs]
        made = [(out, g) for out, g in zip(run(*alias), grads, strict=True) if g is not None and out.requires_grad]
        on = [a for a, n in zip(alias, needed, strict=True) if n]
        outs, along = [out for out, _ in made], [g for _, g in made]
        options = {"create_graph": create_graph, "allow_unused": True}
        found = iter(torch.autograd.grad(outs, on, along, **options) if outs and on else [None] * len(on))
    return [next(found) if n else None for n in needed]


def _run_by_layers(of: Plan, by_layers: ByLayers, x: Tensor, t: Tensor, l: Tensor | None, *weights: Any):  # noqa: E741
    rules = Rules(2, t.shape[0], summed=True)
    if t.dim() <= x.dim():  # the same for all rows
        t = t.reshape(t.shape[0], *(1,) * (x.dim() - 1), -1)
    chain = list(map(Layer, weights[::2], weights[1::2], of.names, of.params))
    return made_whole(*by_layers(rules, x, (t, None if l is None else l.unsqueeze(0)), chain))


def made_whole(y: Tensor, streams: Streams) -> tuple[Tensor, Tensor, Tensor]:
    """A value with its streams, as the ops give them."""
    ty, ly = streams
    assert ty is not None  # as t is there
    return y, whole(ty, y.shape), torch.zeros_like(y).unsqueeze(0) if ly is None else whole(ly, y.shape)


def rule_by(by_layers: ByLayers) -> Callable[..., Sequence[Tensor | None]]:
    """The rule of a node that C++ made (csrc/autograd/streams.h), in all modes but plain eager mode."""

    def rule(ctx: Any, *grads: Tensor | None) -> Sequence[Tensor | None]:
        """Of x, t, l, w_1, b_1, ..."""
        saved, t, l, x, *weights = ctx.saved_tensors  # noqa: E741
        inputs = x, t, l, *weights
        return _gradients(plan_of(ctx.acts, weights), by_layers, grads, ctx.wanted, saved, inputs)

    return rule


_apply = single_level(StreamedChain)
