"""Two processes: tensor parallel layers, sharded parameters, and every placement that a sharding rule allows."""

import copy
import itertools

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import fusegrad as fg
from fusegrad import ops
from fusegrad.fusion.classes import Fused

from cases import on_cpu
from processes import python

pytestmark = on_cpu
RANKS = 2
close = torch.testing.assert_close


def _rank(rank, checks, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, RANKS), rank=rank, world_size=RANKS)
    try:
        for check in checks:
            torch.manual_seed(0)
            check(init_device_mesh("cpu", (RANKS,)))
    finally:
        dist.destroy_process_group()


def tensor_parallel(mesh):
    """Columns, then rows, as in a transformer's MLP; first and second gradients."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    for act in ("silu", "tanh"):
        model = nn.Sequential(fg.Linear(8, 16, act=act), fg.Linear(16, 8)).double()
        whole, x = copy.deepcopy(model), torch.randn(6, 8, dtype=torch.float64)
        parallelize_module(model, mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})
        close(model(x), whole(x))
        model(x).square().sum().backward()
        whole(x).square().sum().backward()
        for mine, theirs in zip(model.parameters(), whole.parameters(), strict=True):
            grad = mine.grad.full_tensor() if hasattr(mine.grad, "full_tensor") else mine.grad
            close(grad, theirs.grad)


def fused_after_parallelize(mesh):
    """A fused model that is parallelized later computes the same: the hooks of the plan are obeyed."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8))
    whole, x = copy.deepcopy(model), torch.randn(6, 8)
    parallelize_module(fg.fuse(model), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    close(model(x), whole(x))


def fully_sharded(mesh):
    from torch.distributed.fsdp import fully_shard

    model = fg.fuse(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)))
    whole, x = copy.deepcopy(model), torch.randn(6, 8)
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    model(x).sum().backward()
    whole(x).sum().backward()
    for mine, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        close(mine.grad.full_tensor(), theirs.grad)
    fg.unfuse(model)  # the classes that sharding made stay, on top of torch's
    assert not any(isinstance(m, (fg.Linear, Fused)) for m in model.modules())
    assert [type(m).__name__ for m in model.modules()] == ["FSDPSequential", "FSDPLinear", "GELU", "FSDPLinear"]
    close(model(x), whole(x))


def every_placement(mesh):
    """All ways of placing the arguments of all ops, and the gradients, against one process."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    def works(fn, *placed):
        try:
            torch.autograd.grad(fn(*placed).full_tensor().sum(), placed)
        except RuntimeError:
            return False
        return True

    def same(ours, stock, *args):
        tried = 0
        options = [[Replicate(), *(Shard(d) for d in range(t.dim()))] for t in args]
        for placements in itertools.product(*options):
            whole = [t.clone().requires_grad_() for t in args]
            placed = [distribute_tensor(t, mesh, [p]).requires_grad_() for t, p in zip(args, placements, strict=True)]
            expected = stock(*whole)
            try:
                y = ours(*placed).full_tensor()
                grads = torch.autograd.grad(y.sin().sum(), placed)
            except RuntimeError:  # torch 2.11 cannot flatten a dimension that is sharded
                assert not works(stock, *placed)
                continue
            tried += 1
            close(y, expected)
            close([g.full_tensor() for g in grads], list(torch.autograd.grad(expected.sin().sum(), whole)))
        assert tried >= 3

    x, w, b = (torch.randn(s, dtype=torch.float64) for s in ((4, 6), (8, 6), (8,)))
    same(fg.linear, F.linear, x, w, b)
    same(fg.linear, F.linear, x, w)
    same(fg.linear, F.linear, x.reshape(2, 2, 6), w)
    for act, stock in (("silu", F.silu), ("tanh", torch.tanh)):
        same(lambda *a: fg.linear_act(*a, act=act), lambda *a: stock(F.linear(*a)), x, w, b)
        same(lambda z: fg.act(z, act), stock, x)
        same(
            lambda x, w1, b1, w2: fg.mlp(x, w1, b1, w2, b1[:6], act=act),
            lambda x, w1, b1, w2: F.linear(stock(F.linear(x, w1, b1)), w2, b1[:6]),
            *(x, w, b, torch.randn(6, 8, dtype=torch.float64)),
        )
        same(
            lambda x, w, u, b: fg.gated(x, w, u, b, b.sin(), act=act),
            lambda x, w, u, b: stock(F.linear(x, w, b)) * F.linear(x, u, b.sin()),
            *(x, w, torch.randn(8, 6, dtype=torch.float64), b),
        )
    same(lambda s, g: ops.act(s, g, "tanh", 0.0, 1), lambda s, g: g * (1 - s * s), x, x + 1)
    same(lambda a, b: fg.mm(a, b, trans_b=True), lambda a, b: a @ b.mT, x, w)
    same(lambda a, b: fg.mm(a, b, trans_a=True), lambda a, b: a.mT @ b, x, torch.randn(4, 8, dtype=torch.float64))
    same(lambda x: fg.mul_constant(x, 0.5), lambda x: x * 0.5, x)


def main(store):
    """All at once, as the processes take longer to start than to compute; one that fails is in the traceback."""
    import torch.distributed.fsdp
    import torch.distributed.tensor.parallel  # for both of them: seconds

    checks = tensor_parallel, fused_after_parallelize, fully_sharded, every_placement
    torch.multiprocessing.start_processes(_rank, (checks, store), RANKS, start_method="fork")


def test_two_ranks(tmp_path):
    code = "import sys; sys.path.insert(0, 'tests'); import test_distributed; test_distributed.main(sys.argv[1])"
    done = python("-c", code, str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr[-3000:]
