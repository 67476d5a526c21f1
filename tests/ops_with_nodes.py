"""Ops whose nodes of autograd C++ makes: each as x, tensors that y = made() depends on, and made."""

from itertools import pairwise

import torch

import fusegrad as fg
from fusegrad.operators.layers import one_by_one
from fusegrad.operators.streamed import Layer, streamed
from fusegrad.operators.streams import Rules


def layers(last="tanh"):
    for (k, n), act in zip(pairwise((3, 8, 8, 2)), ("silu", "tanh", last), strict=True):
        w, b = torch.randn(n, k, dtype=torch.double), torch.randn(n, dtype=torch.double)
        yield w.requires_grad_(), b.requires_grad_(), act


def chain(last="tanh"):
    x, of = torch.randn(12, 3, dtype=torch.double, requires_grad=True), list(layers(last))
    return x, [x, *(t for layer in of for t in layer[:2])], lambda: fg.chain(x, of)


def layer(act, has_bias=True):
    x, (w, b, _) = torch.randn(12, 3, dtype=torch.double, requires_grad=True), next(layers())
    b = b if has_bias else None
    return x, [x, w, *([b] if has_bias else [])], lambda: fg.linear_act(x, w, b, act=act)


def act(name):
    z = torch.randn(12, 3, dtype=torch.double, requires_grad=True)
    return z, [z], lambda: fg.act(z, name)


def gated(name, has_bias=True):
    x, (w, b, _), (w2, b2, _) = (
        torch.randn(12, 3, dtype=torch.double, requires_grad=True),
        next(layers()),
        next(layers()),
    )
    b, b2 = (b, b2) if has_bias else (None, None)
    return x, [x, w, w2, *([b, b2] if has_bias else [])], lambda: fg.gated(x, w, w2, b, b2, act=name)


def mlp(name):
    x, ((w1, b1, _), (w2, b2, _), _) = torch.randn(5, 3, dtype=torch.double, requires_grad=True), layers()
    return x, [x, w1, b1, w2, b2], lambda: fg.mlp(x, w1, b1, w2, b2, act=name)


def streams(which, directions=2):
    """A chain with derivatives along directions: one of these, ty and ly."""
    x, of = torch.randn(12, 3, dtype=torch.double, requires_grad=True), [Layer(*layer) for layer in layers()]
    t = torch.randn(directions, 12, 3, dtype=torch.double, requires_grad=True)
    on = [x, t, *(t for layer in of for t in layer[:2])]

    def made():
        _, (ty, ly) = streamed(Rules(2, directions, summed=True), x, (t, None), of, one_by_one)
        return ty if which == "ty" else ly

    return x, on, made


OPS = {
    "chain": chain,
    "chain, input saved": lambda: chain("silu"),
    "chain, neither": lambda: chain(None),
    "layer": lambda: layer("tanh"),
    "layer, input saved": lambda: layer("silu"),
    "layer, no activation": lambda: layer(None),
    "layer, no bias": lambda: layer("gelu", False),
    "act": lambda: act("tanh"),
    "act, input saved": lambda: act("gelu"),
    "gated": lambda: gated("sigmoid"),
    "gated, input saved, no bias": lambda: gated("silu", False),
    "mlp": lambda: mlp("tanh"),
    "mlp, input saved": lambda: mlp("gelu"),
    "streams": lambda: streams("ly"),
    "streams, first derivatives": lambda: streams("ty"),
}
