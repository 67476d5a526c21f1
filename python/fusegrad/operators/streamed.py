"""A chain of layers with its streams as one op, on the CPU."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backends
from ..internals.call import in_plain_eager, requires_grad
from ..internals.engine import wanted
from ..internals.function import below_autograd, single_level
from ..ops.chain import Plan, check_places, places, plan, plan_of
from ..routing import streams_are_a_chain
from .kinds import Kind, from_ops, kind_of, pays, to_ops
from .streams import Rules, Streams


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
    kind = kind_of(rules, streams)
    weights = [tensor for layer in chain for tensor in layer[:2]]
    acts = tuple(layer.act for layer in chain)
    if kind is None or not pays(rules, weights) or not streams_are_a_chain(x, streams, weights, acts):
        return by_layers(rules, x, streams, chain)
    if (given := to_ops(rules, x, streams)) is None:
        return by_layers(rules, x, streams, chain)
    of = plan(acts, tuple(layer.param for layer in chain), tuple(layer.b is not None for layer in chain))
    return from_ops(rules, *_run(kind, of, by_layers, *given, weights))


def _run(
    kind: Kind,
    of: Plan,
    by_layers: ByLayers,
    x: Tensor,
    t: Tensor,
    l: Tensor | None,  # noqa: E741
    weights: list[Tensor | None],
) -> tuple[Tensor, Streams]:
    made = None if backends.node is None else getattr(backends.node, kind.chain)(x, t, l, tuple(weights), of.acts)
    if made is not None:
        y, ty, ly = made
    elif requires_grad(x, t, l, *weights):
        y, ty, ly = _apply(kind, of, by_layers, x, t, l, *weights)
    else:
        y, ty, ly, _ = below_autograd(kind.forward, x, t, l, weights, of.acts, False)
    return y, kind.streams(ty, ly)


class StreamedChain:
    """y, its tangents and l; what the kernel saves of each layer is kept: (r + 2) M n numbers, and less of the first.

    Backward is the op chain_streams_backward. Its derivatives are those of the layers one by one, computed again.
    """

    @staticmethod
    def forward(ctx, kind, of, by_layers, x, t, l, *weights):  # noqa: E741
        ctx.kind, ctx.plan, ctx.by_layers, ctx.at = kind, of, by_layers, places(weights)
        y, ty, ly, saved = below_autograd(kind.forward, x, t, l, weights, of.acts, True)
        ctx.has_l = l is not None
        ctx.save_for_backward(saved, t, l, x, *weights)
        ctx.set_materialize_grads(False)
        return y, ty, ly

    @staticmethod
    def backward(ctx, *grads):
        saved, t, l, x, *weights = ctx.saved_tensors  # noqa: E741
        inputs = (x, t, l, *weights)
        count = 3 + len(inputs)
        if all(g is None for g in grads):
            return (None,) * count
        absent = ctx.plan.shifted(6, 0, 1, 2, *(() if ctx.has_l else (5,)))
        needed = wanted(ctx, count, absent)[3:]
        check_places(ctx.kind.asked, weights, ctx.at)
        return None, None, None, *_gradients(ctx.kind, ctx.plan, ctx.by_layers, grads, needed, saved, inputs)


def _gradients(
    kind: Kind,
    of: Plan,
    by_layers: ByLayers,
    grads: Sequence[Any],
    needed: Sequence[bool],
    saved: Tensor,
    inputs: Sequence[Any],
) -> list[Tensor | None]:
    """Of x, t, l, w_1, b_1, ..., as the mode asks for them."""
    if torch.is_grad_enabled() or not in_plain_eager(*grads, *inputs):
        return again(lambda *given: _run_by_layers(kind, of, by_layers, *given), inputs, grads, needed)
    if grads[0] is None:
        needed = [n and not is_constant for n, is_constant in zip(needed, _of_value_alone(of), strict=True)]
    mask = sum(1 << i for i, n in enumerate(needed) if n)
    x, t, l, *weights = inputs  # noqa: E741
    found = below_autograd(kind.backward, *grads, x, t, l, weights, saved, of.acts, mask)
    return [g if n else None for g, n in zip(found, needed, strict=True)]


def _of_value_alone(of: Plan) -> list[bool]:
    """For x, t, l, w_1, b_1, ...: does only the value y depend on it? So do biases that no activation follows."""
    curved = max((i for i, name in enumerate(of.names) if name != "identity"), default=-1)
    return [curved < 0, False, False, *(bias and i > curved for i in range(len(of.names)) for bias in (False, True))]


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


def _run_by_layers(
    kind: Kind,
    of: Plan,
    by_layers: ByLayers,
    x: Tensor,
    t: Tensor,
    l: Tensor | None,  # noqa: E741
    *weights: Any,
) -> tuple[Tensor, ...]:
    chain = list(map(Layer, weights[::2], weights[1::2], of.names, of.params))
    return kind.made(*by_layers(kind.rules(t), x, kind.given(x, t, l), chain))


def rule_by(kind: Kind, by_layers: ByLayers) -> Callable[..., Sequence[Tensor | None]]:
    """The rule of a node that C++ made (csrc/autograd/streams.h), in all modes but plain eager mode."""

    def rule(ctx: Any, *grads: Tensor | None) -> Sequence[Tensor | None]:
        """Of x, t, l, w_1, b_1, ..."""
        saved, t, l, x, *weights = ctx.saved_tensors  # noqa: E741
        inputs = x, t, l, *weights
        return _gradients(kind, plan_of(ctx.acts, weights), by_layers, grads, ctx.wanted, saved, inputs)

    return rule


_apply = single_level(StreamedChain)
