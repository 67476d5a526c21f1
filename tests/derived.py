"""Chains that end in one number, whose input is differentiated: networks, and derivatives of many orders of them."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch.autograd import grad

from fusegrad.activations import REGISTRY

ALL = {"allow_unused": True, "materialize_grads": True}
# widths, activations: those that save their input and those that save their output, none in the middle, one at the end
NETWORKS = {
    "tanh": ((3, 20, 20, 1), ("tanh", "tanh", None)),
    "silu": ((2, 33, 17, 1), ("silu", "silu", None)),
    "identity in the middle": ((2, 19, 5, 31, 1), ("silu", None, "sin", None)),
    "activation at the end": ((3, 8, 1), ("sin", "softplus")),
    "output saved at the end": ((3, 7, 8, 1), ("gelu", "sigmoid", "tanh")),
    "piecewise": ((2, 16, 16, 1), ("relu", "elu", None)),
    "wide": ((2, 100, 128, 1), ("softplus", "tanh", None)),
    "one layer": ((4, 1), ("tanh",)),
    "linear": ((3, 4, 1), (None, None)),
    "many features": ((9, 10, 1), ("tanh", None)),
    "most features": ((8, 10, 1), ("sin", None)),
}
LEADS = (50,), (3, 4), (), (1,), (7,), (200,), (64,)


def stock(x, layers):
    for w, b, act in layers:
        x = F.linear(x, w, b)
        if act is not None:
            x = REGISTRY[act].value(x, REGISTRY[act].default)
    return x


def a_network(name, lead=(50,), bias=True, dtype=torch.double, seed=0):
    """x, layers, and all tensors of them."""
    random = torch.Generator().manual_seed(seed)
    tensor = lambda *shape: torch.randn(shape, generator=random, dtype=torch.double).to(dtype)
    sizes, acts = NETWORKS[name]
    x = tensor(*lead, sizes[0]).requires_grad_()
    layers = []
    for (k, n), act in zip(pairwise(sizes), acts, strict=True):
        layers.append(((tensor(n, k) / k**0.5).requires_grad_(), tensor(n).requires_grad_() if bias else None, act))
    return x, layers, [x, *(t for layer in layers for t in layer[:2] if t is not None)]


def gradient(y, x):
    return grad(y, x, torch.ones_like(y), create_graph=True, **ALL)[0]


def is_of_derivatives(y):
    return y.grad_fn.next_functions[0][0].name() == "ChainDerivativesBackward"


def of_many_orders(f, x, layers, on):
    """y, its gradient, its Laplacian and what else is made of the Hessian, third derivatives, and gradients of each."""
    y = f(x, layers)
    g = gradient(y, x)
    along = [gradient(g[..., i], x) for i in range(x.shape[-1])]
    laplacian = sum(h[..., i] for i, h in enumerate(along))
    third = gradient(laplacian.sin() + g.square().sum(-1), x)
    through_y = gradient(y.square() + y.sin(), x)
    twice = gradient(through_y.square().sum(-1), x)
    found = [y, g, *along, third, through_y, twice]
    for t in (y, g, along[-1], laplacian, third, through_y, twice):
        if t.requires_grad:
            found += grad(t.square().sum(), on, retain_graph=True, **ALL)
    if g.requires_grad:
        found += grad(g.square().sum() + y.square().sum() + laplacian.square().sum(), on, **ALL)
    return found
