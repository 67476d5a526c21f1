"""torch.compile, compiled autograd and torch.export."""

import os
from unittest.mock import patch
from uuid import uuid4

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.autograd import grad
from torch.func import grad as func_grad
from torch.func import jvp, vmap
from torch.utils.checkpoint import checkpoint

from cases import DEVICE, leaves, plain
from transforms import (
    Net,
    agree_in_compiled_autograd,
    close,
    compiled,
    dual_tangent,
    ones,
    transform,
    under_autocast,
)


@transform
def compile_forward(f, r):
    close(compiled(lambda *a: f(*a) * 2)(*plain()), r(*plain()) * 2)


@transform
def compile_inductor(f, r):
    args = leaves()
    step = compiled(f, backend="inductor")
    anew, strict = torch.compiler.config.patch(cache_key_tag=str(uuid4())), patch.dict(os.environ, CI="true")
    with anew, strict:  # no graph of an earlier run; and as on GitHub's runners, where Inductor raises more
        close(grad(step(*args).sin().sum(), args), grad(r(*args).sin().sum(), args))


@transform
def compile_training(f, r):
    args = leaves()
    close(grad(compiled(lambda *a: f(*a).sin() * 2)(*args).sum(), args), grad((r(*args).sin() * 2).sum(), args))


@transform
def compile_dynamic_shapes(f, r):
    step = compiled(lambda *a: f(*a) * 2, dynamic=True)
    for rows in (5, 7, 9):
        args = leaves()
        args[0] = torch.linspace(-1, 1, rows * 3, dtype=torch.double).reshape(rows, 3).to(DEVICE).requires_grad_()
        close(grad(step(*args).sum(), args), grad((r(*args) * 2).sum(), args))


@transform
def compile_func_second_gradient(f, r):
    def transformed(h):
        first = lambda x, w, b: func_grad(lambda q: h(q, w, b).sum())(x)
        return lambda x, w, b: func_grad(lambda p: first(p, w, b).square().sum())(x)

    close(compiled(transformed(f))(*plain()), transformed(r)(*plain()))


@transform
def compile_per_sample_gradient(f, r):
    def transformed(h):
        one = lambda w, b, x: h(x[None], w, b).sin().sum()
        return lambda x, w, b: vmap(func_grad(one, argnums=(0, 1)), (None, None, 0))(w, b, x)

    close(compiled(transformed(f))(*plain()), transformed(r)(*plain()))


@transform
def compile_jvp(f, r):
    transformed = lambda h: lambda *a: jvp(h, a, tuple(torch.ones_like(t) for t in a))
    close(compiled(transformed(f))(*plain()), transformed(r)(*plain()))


@transform
def compile_jvp_of_jvp(f, r):
    args = plain()

    def transformed(h):
        first = lambda *a: jvp(lambda *b: h(*b).sin().sum(), a, tangents)[1]
        return lambda *a: jvp(first, a, tangents)[1]

    tangents = ones(*args)
    close(compiled(transformed(f))(*args), transformed(r)(*args))


@transform
def compile_jvp_of_gradient(f, r):
    def transformed(h):
        return lambda x, w, b: jvp(func_grad(lambda q: h(q, w, b).sin().sum()), (x,), (torch.ones_like(x),))[1]

    close(compiled(transformed(f))(*plain()), transformed(r)(*plain()))


@transform
def compile_checkpoint(f, r):
    args = leaves()
    step = compiled(lambda *a: checkpoint(f, *a, use_reentrant=False))
    close(grad(step(*args).sum(), args), grad(r(*args).sum(), args))


@transform
def compile_autocast(f, r):
    close(under_autocast(compiled(f)), under_autocast(r), rtol=2e-2, atol=2e-2)


@transform
def compile_region_under_dual_level(f, r):
    torch._dynamo.reset()
    step = torch.compile(f, backend="aot_eager")
    step(*plain())
    close(dual_tangent(step), dual_tangent(r))


@transform
def compile_dual_level(f, r):
    x, w, b = plain()

    def tangent(x):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)), w, b)).tangent

    for backend in ("eager", "aot_eager"):
        close(compiled(tangent, backend=backend)(x), dual_tangent(r))


def second_gradient(h):
    args = leaves()
    first = grad(h(*args).square().sum(), args, create_graph=True)
    return grad(sum(t.square().sum() for t in first), args)


@transform
def compile_second_gradient_eager_backend(f, r):
    close(second_gradient(compiled(f, backend="eager")), second_gradient(r))


@transform
def compile_backward(f, r):
    agree_in_compiled_autograd(f, r, leaves())


@transform
def compile_region_double_backward(f, r):  # no compiler of torch's can do this: it has to say so
    with pytest.raises(RuntimeError, match="double backward"):
        second_gradient(compiled(r))
    with pytest.raises(RuntimeError, match="double backward"):
        second_gradient(compiled(f))


@transform
def export_with_dynamic_shapes(f, r):
    x = plain()[0]
    exported = torch.export.export(Net(f), (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    x = torch.linspace(-1, 1, 21, dtype=torch.double, device=DEVICE).reshape(7, 3)
    close(exported.module()(x), Net(r)(x))
