"""torch.func."""

import itertools

import torch
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp, vmap
from torch.func import grad as func_grad

from cases import plain
from transforms import Net, agree, ones, same, stack, transform


@transform
def func_gradient(f, r):
    same(f, r, lambda h: func_grad(lambda *a: h(*a).sin().sum(), argnums=(0, 1, 2)))


@transform
def func_second_gradient(f, r):
    def transformed(h):
        inner = func_grad(lambda *a: h(*a).square().sum())
        return func_grad(lambda *a: inner(*a).square().sum(), argnums=1)

    same(f, r, transformed)


@transform
def func_third_gradient(f, r):
    def transformed(h):
        first = func_grad(lambda x, w, b: h(x, w, b).square().sum())
        second = func_grad(lambda x, w, b: first(x, w, b).square().sum())
        return func_grad(lambda x, w, b: second(x, w, b).square().sum(), argnums=1)

    same(f, r, transformed)


@transform
def func_vmap(f, r):
    x, w, b = plain()
    for dims, args in (
        ((0, None, None), (stack(x, 3), w, b)),
        ((None, 0, None), (x, stack(w, 3), b)),
        ((None, None, 1), (x, w, stack(b, 3, 1))),
        ((1, 2, 0), (stack(x, 3, 1), stack(w, 3, 2), stack(b, 3))),
    ):
        same(f, r, lambda h: vmap(h, dims), args)


@transform
def func_vmap_of_vmap(f, r):
    x, w, b = plain()
    same(f, r, lambda h: vmap(vmap(h, (0, None, None)), (None, 0, None)), (x.unsqueeze(1), stack(w), b))


@transform
def func_per_sample_gradient(f, r):
    def transformed(h):
        return vmap(func_grad(lambda x, w, b: h(x[None], w, b).sin().sum(), argnums=(1, 2)), (0, None, None))

    same(f, r, transformed)


@transform
def func_ensemble_gradient(f, r):
    x, w, b = plain()
    gradient = lambda h: func_grad(lambda x, w, b: h(x, w, b).sin().sum(), argnums=(0, 1, 2))
    same(f, r, lambda h: vmap(gradient(h), (None, 0, 0)), (x, stack(w), stack(b)))


@transform
def func_jvp(f, r):
    same(f, r, lambda h: lambda *a: jvp(h, a, ones(*a)))


@transform
def func_jvp_of_jvp(f, r):
    def transformed(h):
        return lambda x, w, b: jvp(lambda p: jvp(lambda q: h(q, w, b), (p,), ones(p))[1], (x,), (x,))

    same(f, r, transformed)


@transform
def func_jvp_of_gradient(f, r):
    def transformed(h):
        return lambda x, w, b: jvp(func_grad(lambda q: h(q, w, b).sin().sum()), (x,), ones(x))

    same(f, r, transformed)


@transform
def func_gradient_of_jvp(f, r):
    def transformed(h):
        return func_grad(lambda x, w, b: jvp(lambda q: h(q, w, b), (x,), (x,))[1].square().sum(), argnums=1)

    same(f, r, transformed)


@transform
def func_jacrev(f, r):
    same(f, r, lambda h: jacrev(h, argnums=(0, 1)))


@transform
def func_jacfwd(f, r):
    same(f, r, lambda h: jacfwd(h, argnums=(0, 1)))


@transform
def func_hessian(f, r):
    same(f, r, lambda h: hessian(lambda *a: h(*a).sin().sum(), argnums=(0, 1)))


@transform
def func_jacrev_of_jacrev(f, r):
    same(f, r, lambda h: jacrev(jacrev(lambda *a: h(*a).sin().sum(), argnums=1), argnums=1))


@transform
def func_jacfwd_of_jacfwd(f, r):
    same(f, r, lambda h: jacfwd(jacfwd(lambda *a: h(*a).sin().sum(), argnums=1), argnums=1))


@transform
def func_jacrev_of_jacfwd(f, r):
    same(f, r, lambda h: jacrev(jacfwd(lambda *a: h(*a).sin().sum(), argnums=0), argnums=1))


def along(h, mode, tangents):
    """The derivative of a number h(*args) along tangents of all arguments, by forward or reverse mode."""
    if mode == "forward":
        return lambda *args: jvp(h, args, tangents)[1]
    first = func_grad(h, argnums=tuple(range(len(tangents))))
    return lambda *args: sum((g * t).sum() for g, t in zip(first(*args), tangents, strict=True))


@transform
def func_third_derivatives_of_every_nesting(f, r):
    generator = torch.Generator().manual_seed(1)
    draw = lambda: tuple(torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in plain())
    directions = [draw() for _ in range(3)]
    for modes in itertools.product(("forward", "reverse"), repeat=3):

        def transformed(h, modes=modes):
            derivative = lambda *args: h(*args).sin().sum()
            for mode, tangents in zip(modes, directions, strict=True):
                derivative = along(derivative, mode, tangents)
            return derivative

        same(f, r, transformed)


@transform
def func_no_grad_inside(f, r):
    """What is computed there is a constant, at all levels."""

    def transformed(h, differentiate):
        def partly(x, w, b):
            with torch.no_grad():
                constant = h(x, w, b)
            return (h(x, w, b) * constant).sum()

        second = lambda *a: differentiate(partly, *a).square().sum()
        return func_grad(second, argnums=(0, 1, 2))

    of_gradient = lambda g, x, w, b: func_grad(g)(x, w, b)
    of_tangent = lambda g, x, w, b: jvp(lambda x: g(x, w, b), (x,), (x,))[1]
    for differentiate in (of_gradient, of_tangent):
        same(f, r, lambda h, d=differentiate: transformed(h, d))


@transform
def func_under_no_grad(f, r):
    def compute(h):
        args = [t.requires_grad_() for t in plain()]
        with torch.no_grad():
            outputs = jvp(h, tuple(args), ones(*args))
        assert not any(t.requires_grad for t in outputs)
        return outputs

    agree(f, r, compute)


@transform
def func_gradient_of_laplacian(f, r):
    def transformed(h):
        def loss(x, w, b):
            second = vmap(hessian(lambda p: h(p, w, b).tanh().sum()))(x)
            return second.diagonal(dim1=-2, dim2=-1).sum().square()

        return func_grad(loss, argnums=(1, 2))

    same(f, r, transformed)


@transform
def func_functional_call(f, r):
    x = plain()[0]

    def compute(h):
        net = Net(h)
        parameters = {k: v.detach() for k, v in net.named_parameters()}
        return func_grad(lambda p: functional_call(net, p, (x,)).sin().sum())(parameters)

    agree(f, r, compute)
