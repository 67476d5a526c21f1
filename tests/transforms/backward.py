"""Backward, in every shape and order, with autocast and data parallel."""

import torch
from torch import nn
from torch.autograd import functional, grad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from cases import DEVICE, leaves, plain
from transforms import Net, agree, close, same, transform, under_autocast


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
        y = h(x, 0.5 * w, b).sin().sum()  # at twice that the fifth order of exp is noise
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


@transform
def autocast(f, r):
    close(under_autocast(f), under_autocast(r), rtol=2e-2, atol=2e-2)


@transform
def data_parallel(f, r):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if DEVICE == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    x = plain()[0]
    stock, replicated, sharded = Net(r), Net(f), Net(f)
    stock(x).sum().backward()
    parallel = nn.parallel.DistributedDataParallel(replicated)
    parallel(x).sum().backward()
    close(replicated.weight.grad, stock.weight.grad)
    fully_shard(sharded, mesh=init_device_mesh(DEVICE, (1,)))
    sharded(x).sum().backward()
    close(sharded.weight.grad.full_tensor(), stock.weight.grad)
