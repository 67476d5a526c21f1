"""Every transform of PyTorch gives what it gives for stock, through each way of computing a layer.

A test takes `f`, ours, and `r`, stock, both (x, w, b) -> y, and compares them. Where stock raises, ours must raise too.
"""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn
from torch._dynamo import compiled_autograd
from torch.autograd import functional, grad, gradcheck, gradgradcheck
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp, vmap
from torch.func import grad as func_grad
from torch.utils.checkpoint import checkpoint

import fusegrad as fg

from cases import DEFAULTS, DEVICE, Case, leaves, plain

close = torch.testing.assert_close
TRANSFORMS = {}
COMPILED = {}


def transform(test):
    (COMPILED if test.__name__.startswith(("compile", "export")) else TRANSFORMS)[test.__name__] = test
    return test


def same(f, r, transformed, args=None):
    args = plain() if args is None else args
    close(transformed(f)(*args), transformed(r)(*args))


def agree(f, r, compute):
    close(compute(f), compute(r))


def compiled(fn, **options):
    torch._dynamo.reset()
    return torch.compile(fn, fullgraph=True, **({"backend": "aot_eager"} | options))


def ones(*tensors):
    return tuple(torch.ones_like(t) for t in tensors)


def stack(t, n=2, dim=0):
    return torch.stack([t * (i + 1) * (-1) ** i for i in range(n)], dim)


# --- backward -----------------------------------------------------------------------------------------------------


@transform
def numerical_gradient(f, r):
    assert gradcheck(f, leaves(), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)


@transform
def numerical_second_gradient(f, r):
    assert gradgradcheck(f, leaves(), check_batched_grad=True)


@transform
def numerical_second_gradient_forward_over_reverse(f, r):
    assert gradgradcheck(f, leaves(), check_fwd_over_rev=True, check_rev_over_rev=False, check_undefined_grad=False)


@transform
def third_to_fifth_order(f, r):
    def nth(h, order):
        x, w, b = leaves()
        y = h(x, w, b).sin().sum()
        for _ in range(order - 1):
            (gx,) = grad(y, x, create_graph=True)
            y = gx.sin().sum()
        return grad(y, (w, b), allow_unused=True, materialize_grads=True)

    for order in (3, 4, 5):
        agree(f, r, lambda h: nth(h, order))


@transform
def mixed_partials(f, r):
    def compute(h):
        x, w, b = leaves()
        gx, gw = grad(h(x, w, b).square().sum(), (x, w), create_graph=True)
        return grad(gx.square().sum() + gw.sin().sum(), (x, w, b))

    agree(f, r, compute)


@transform
def any_subset_needs_a_gradient(f, r):
    def compute(h, need):
        args = [t.detach().requires_grad_(bool(need >> i & 1)) for i, t in enumerate(leaves())]
        on = [t for t in args if t.requires_grad]
        first = grad(h(*args).sin().sum(), on, create_graph=True)
        second = sum(g.square().sum() for g in first)
        return first, grad(second, on, allow_unused=True, materialize_grads=True)

    for need in range(1, 8):
        agree(f, r, lambda h: compute(h, need))


@transform
def backward_twice_through_one_graph(f, r):
    args = leaves()
    y = f(*args).sin().sum()
    close(grad(y, args, retain_graph=True), grad(y, args))


@transform
def batched_output_gradients(f, r):
    def compute(h):
        args = leaves()
        y = h(*args)
        gy = torch.linspace(-1, 1, 3 * y.numel(), dtype=y.dtype, device=y.device).reshape(3, *y.shape)
        return grad(y, args, gy, is_grads_batched=True)

    agree(f, r, compute)


@transform
def expanded_and_transposed_output_gradients(f, r):
    def compute(h):
        args = leaves()
        y = h(*args)
        expanded = torch.ones((), dtype=y.dtype, device=y.device).expand_as(y)
        transposed = torch.linspace(0, 1, y.numel(), dtype=y.dtype, device=y.device).reshape(y.mT.shape).mT
        return grad(y, args, expanded, retain_graph=True), grad(y, args, transposed)

    agree(f, r, compute)


@transform
def leading_dimensions(f, r):
    def compute(h, lead):
        _, w, b = leaves()
        x = torch.randn(*lead, 3, dtype=w.dtype, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
        y = h(x, w, b)
        return y, grad(y.sin().sum(), (x, w, b))

    for lead in ((), (2,), (2, 5), (0,), (2, 0, 3)):
        agree(f, r, lambda h: compute(h, lead))


@transform
def checkpoint_twice_differentiated(f, r):
    def compute(h):
        args = leaves()
        first = grad(h(*args).sin().sum(), args, create_graph=True)
        return first, grad(first[0].square().sum(), args)

    close(compute(lambda *a: checkpoint(f, *a, use_reentrant=False)), compute(r))


@transform
def saved_tensors_offloaded(f, r):
    args = leaves()
    with torch.autograd.graph.save_on_cpu():
        y = f(*args)
    close(grad(y.sum(), args), grad(r(*args).sum(), args))


@transform
def functional_hessian_vectorized(f, r):
    def transformed(h):
        return lambda x, w, b: functional.hessian(lambda v: h(x, v, b).sin().sum(), w, vectorize=True)

    same(f, r, transformed)


# --- forward mode -------------------------------------------------------------------------------------------------


def dual_tangent(h):
    args = plain()
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(h(forward_ad.make_dual(args[0], torch.ones_like(args[0])), *args[1:])).tangent


@transform
def dual_level(f, r):
    agree(f, r, dual_tangent)


@transform
def dual_level_through_two_gradients(f, r):
    def compute(h):
        x, w, b = leaves()
        with forward_ad.dual_level():
            x = forward_ad.make_dual(x, torch.ones_like(x))
            (gx,) = grad(h(x, w, b).square().sum(), x, create_graph=True)
            return grad(forward_ad.unpack_dual(gx).tangent.square().sum(), w)

    def by_func(w):
        x, _, b = plain()
        tangent = jvp(func_grad(lambda x: r(x, w, b).square().sum()), (x,), ones(x))[1]
        return tangent.square().sum()

    w = leaves()[1]
    close(compute(f), grad(by_func(w), w))  # not compute(r): stock's silu_backward knows no forward mode


@transform
def inference_mode(f, r):
    with torch.inference_mode():
        close(f(*plain()), r(*plain()))


# --- torch.func ---------------------------------------------------------------------------------------------------


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


@transform
def func_gradient_of_laplacian(f, r):
    def transformed(h):
        def loss(x, w, b):
            second = vmap(hessian(lambda p: h(p, w, b).tanh().sum()))(x)
            return second.diagonal(dim1=-2, dim2=-1).sum().square()

        return func_grad(loss, argnums=(1, 2))

    same(f, r, transformed)


class Net(nn.Module):
    """A layer computed by h from registered parameters."""

    def __init__(self, h):
        super().__init__()
        _, w, b = plain()
        self.weight, self.bias, self.h = nn.Parameter(w), nn.Parameter(b), h

    def forward(self, x):
        return self.h(x, self.weight, self.bias)


@transform
def func_functional_call(f, r):
    x = plain()[0]

    def compute(h):
        net = Net(h)
        parameters = {k: v.detach() for k, v in net.named_parameters()}
        return func_grad(lambda p: functional_call(net, p, (x,)).sin().sum())(parameters)

    agree(f, r, compute)


# --- autocast and data parallel -----------------------------------------------------------------------------------


def under_autocast(h):
    args = leaves(torch.float32)
    with torch.autocast(DEVICE, torch.bfloat16):
        y = h(*args)
    return y, grad(y.float().sum(), args)


@transform
def autocast(f, r):
    close(under_autocast(f), under_autocast(r), rtol=2e-2, atol=2e-2)


@transform
def data_parallel(f, r):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    x = plain()[0]
    stock, replicated, sharded = Net(r), Net(f), Net(f)
    stock(x).sum().backward()
    parallel = nn.parallel.DistributedDataParallel(replicated)
    parallel(x).sum().backward()
    close(replicated.weight.grad, stock.weight.grad)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    sharded(x).sum().backward()
    close(sharded.weight.grad.full_tensor(), stock.weight.grad)


# --- torch.compile and torch.export -------------------------------------------------------------------------------


@transform
def compile_forward(f, r):
    close(compiled(lambda *a: f(*a) * 2)(*plain()), r(*plain()) * 2)


@transform
def compile_inductor(f, r):
    args = leaves()
    close(grad(compiled(f, backend="inductor")(*args).sin().sum(), args), grad(r(*args).sin().sum(), args))


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
    """Compiled autograd, which traces the backward rules themselves."""

    def compute(h):
        torch._dynamo.reset()
        args = leaves()
        with compiled_autograd._enable(lambda graph: torch.compile(graph, backend="aot_eager", fullgraph=True)):
            h(*args).sin().sum().backward()
        return [t.grad for t in args]

    agree(f, r, compute)


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


# --- what they run over -------------------------------------------------------------------------------------------


def through_module(case: Case):
    layer = fg.Linear(3, 4, act=case.name, param=case.param, device="meta")
    return lambda x, w, b: functional_call(layer, {"weight": w, "bias": b}, (x,))


ROUTES = {
    "linear_act": lambda case: case.linear_act,
    "act_of_linear": lambda case: lambda x, w, b: fg.act(fg.linear(x, w, b), case.name, case.param),
    "module": through_module,
}
SAMPLE = ("silu", "tanh", "softplus", "relu")


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
@pytest.mark.parametrize("route", ROUTES)
def test_transform(route, case, name):
    TRANSFORMS[name](ROUTES[route](case), case.stock_linear)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("act", SAMPLE)
@pytest.mark.parametrize("route", ROUTES)
def test_compiled_transform(route, act, name):
    COMPILED[name](ROUTES[route](Case(act)), Case(act).stock_linear)


@pytest.mark.parametrize("name", TRANSFORMS | COMPILED)
def test_linear(name):
    (TRANSFORMS | COMPILED)[name](fg.linear, torch.nn.functional.linear)


def test_the_grid_is_whole():
    assert len(TRANSFORMS) + len(COMPILED) >= 48
