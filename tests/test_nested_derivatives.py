"""Derivatives of torch.autograd, taken of what torch.func made inside, in every nesting."""

import itertools

import pytest
import torch
from test_modes import LAYERS, close, layers
from torch.autograd import functional, grad

from cases import leaves


def pullback(h, x, w, b):
    """That of torch.func.vjp, called when the level has ended."""
    y, pull = torch.func.vjp(lambda x, w: h(x, w, b), x, w)
    return pull(y.detach().sin())


def pullback_of_inputs(h, x, w, b):
    y, pull = torch.func.vjp(lambda x: h(x, w, b), x)
    return pull(y.sin())


def pullback_of_pullback(h, x, w, b):
    def first(x):
        y, pull = torch.func.vjp(lambda x: h(x, w, b), x)
        return pull(y.sin())[0]

    y, pull = torch.func.vjp(first, x)
    return pull(y.cos())


def batch_of_pullbacks(h, x, w, b):
    y, pull = torch.func.vjp(lambda x: h(x, w, b), x)
    return torch.func.vmap(pull)(torch.stack([y, y.cos()]))


def gradient_of_pullback(h, x, w, b):
    y, pull = torch.func.vjp(lambda x: h(x, w, b), x)
    return torch.func.grad(lambda v: pull(v)[0].sin().sum())(y)


def pushforward(h, x, w, b):
    y, push = torch.func.linearize(lambda x: h(x, w, b), x)
    return y, push(x.detach().sin())


def leaked(h, x, w, b):
    """What a function under torch.func has put aside."""
    aside = []

    def f(x):
        aside.append(x * 2)
        aside.append(h(x, w, b))
        return aside[-1].sum()

    torch.func.grad(f)(x)
    return h(aside[0], w, b), aside[1]


def per_sample(h, x, w, b):
    return torch.func.vmap(torch.func.grad(lambda x, w: h(x[None], w, b).sin().sum(), (0, 1)), (0, None))(x, w)


INSIDE = {
    "pullback": pullback,
    "pullback of inputs": pullback_of_inputs,
    "pullback of pullback": pullback_of_pullback,
    "batch of pullbacks": batch_of_pullbacks,
    "gradient of pullback": gradient_of_pullback,
    "pushforward": pushforward,
    "leaked": leaked,
    "per sample": per_sample,
    "grad": lambda h, x, w, b: torch.func.grad(lambda x, w: h(x, w, b).sin().sum(), (0, 1))(x, w),
    "grad of grad": lambda h, x, w, b: torch.func.grad(
        lambda x: torch.func.grad(lambda x: h(x, w, b).sin().sum())(x).square().sum()
    )(x),
    "jvp": lambda h, x, w, b: torch.func.jvp(lambda x, w: h(x, w, b), (x, w), (x.sin(), w.cos())),
    "jvp of grad": lambda h, x, w, b: torch.func.jvp(
        torch.func.grad(lambda x: h(x, w, b).sin().sum()), (x,), (x.detach().cos(),)
    ),
    "jacrev": lambda h, x, w, b: torch.func.jacrev(lambda w: h(x, w, b))(w),
    "jacfwd": lambda h, x, w, b: torch.func.jacfwd(lambda w: h(x, w, b))(w),
    "hessian": lambda h, x, w, b: torch.func.hessian(lambda x: h(x, w, b).sin().sum())(x),
    "functional.vjp": lambda h, x, w, b: functional.vjp(
        lambda x: h(x, w, b), x, h(x, w, b).detach().cos(), create_graph=True
    ),
    "functional.jvp": lambda h, x, w, b: functional.jvp(lambda x: h(x, w, b), x, x.detach().cos(), create_graph=True),
    "functional.hvp": lambda h, x, w, b: functional.hvp(
        lambda x: h(x, w, b).sin().sum(), x, x.detach().cos(), create_graph=True
    ),
}


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("needs", ((1, 1, 1), (1, 0, 0), (0, 1, 1)), ids=str)
@layers
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # in torch.func.linearize
def test_derivatives_outside_of_derivatives_inside(layer, needs, inside):
    """Two more orders by torch.autograd, of what torch.func has computed, in each that requires a gradient."""

    def run(h):
        args = [t.detach().requires_grad_(bool(need)) for t, need in zip(leaves(), needs, strict=True)]
        results = INSIDE[inside](h, *args)
        flat = torch.utils._pytree.tree_leaves(results)
        on = [t for t in args if t.requires_grad]
        y = sum(t.sin().sum() for t in flat)
        orders = [tuple(flat)]
        for _ in range(2):
            if not y.requires_grad:
                break
            orders.append(grad(y, on, create_graph=True, allow_unused=True, materialize_grads=True))
            y = sum(g.square().sum() for g in orders[-1])
        return orders

    for mine, stocks in itertools.zip_longest(*map(run, LAYERS[layer])):
        close([torch.zeros_like(t) for t in stocks] if mine is None else mine, stocks)


# --- autocast -----------------------------------------------------------------------------------------------------
