"""Every mode that a program can be in, beside transforms/: value, gradient and gradient of gradient as with stock.

Also derivatives that are taken in part by torch.func and in part outside of it, in every nesting.
"""

import contextlib
import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import functional, grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import fusegrad as fg
from fusegrad.ops import OPS

from cases import DEVICE, leaves

close = torch.testing.assert_close


LAYERS = {
    "linear": (fg.linear, F.linear),
    "linear_act tanh": (lambda *a: fg.linear_act(*a, act="tanh"), lambda *a: torch.tanh(F.linear(*a))),
    "linear_act silu": (lambda *a: fg.linear_act(*a, act="silu"), lambda *a: F.silu(F.linear(*a))),
    "act of mm": (
        lambda x, w, b: fg.act(fg.mm(x, w, trans_b=True), "gelu") + (0 if b is None else b),
        lambda x, w, b: F.gelu(x @ w.mT) + (0 if b is None else b),
    ),
    "mlp": (
        lambda x, w, b: fg.mlp(x, w, b, w.mT, act="silu"),
        lambda x, w, b: F.linear(F.silu(F.linear(x, w, b)), w.mT),
    ),
    "gated": (
        lambda x, w, b: fg.gated(x, w, w.sin(), b, act="silu"),
        lambda x, w, b: F.silu(F.linear(x, w, b)) * F.linear(x, w.sin()),
    ),
}
layers = pytest.mark.parametrize("layer", LAYERS)


# --- modes --------------------------------------------------------------------------------------------------------


def three_orders(h):
    """y, its gradients, and theirs."""
    args = leaves()
    y = h(*args)
    first = grad(y.sin().sum(), args, create_graph=True, allow_unused=True, materialize_grads=True)
    return y, first, grad(sum(g.square().sum() for g in first), args, allow_unused=True, materialize_grads=True)


class SeesOps(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class SeesFunctions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


keep = lambda t: t
CONTEXTS = {
    "dispatch mode": SeesOps,
    "torch-function mode": SeesFunctions,
    "default device": lambda: torch.device(DEVICE),
    "profiler": lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
    "anomaly": torch.autograd.detect_anomaly,
    "deterministic": deterministic,
    "saved-tensor hooks": lambda: torch.autograd.graph.saved_tensors_hooks(keep, keep),
    "no saved-tensor hooks": lambda: torch.autograd.graph.disable_saved_tensors_hooks("not here"),
    "saved tensors on the CPU": torch.autograd.graph.save_on_cpu,
    "mutation of saved tensors": torch.autograd.graph.allow_mutation_on_saved_tensors,
    "one thread": lambda: torch.autograd.set_multithreading_enabled(False),
}


@layers
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_in_a_context(context, layer):
    results = []
    for h in LAYERS[layer]:
        with CONTEXTS[context]():
            results.append(three_orders(h))
    close(*results)


@layers
def test_in_another_thread(layer):
    """Forward there and backward here, and the other way around."""
    ours, stock = LAYERS[layer]

    def elsewhere(fn):
        made = []
        thread = threading.Thread(target=lambda: made.append(fn()))
        thread.start(), thread.join()
        return made[0]

    close(elsewhere(lambda: three_orders(ours)), three_orders(stock))
    args = leaves()
    y = elsewhere(lambda: ours(*args).sin().sum())
    close(elsewhere(lambda: grad(y, args[:2])), grad(stock(*args).sin().sum(), args[:2]))


def saves_products(context, op, *args, **kwargs):
    products = torch.ops.aten.mm.default, torch.ops.aten.addmm.default
    return CheckpointPolicy.MUST_SAVE if op in products else CheckpointPolicy.PREFER_RECOMPUTE


CHECKPOINTS = {
    "reentrant": {"use_reentrant": True},
    "not reentrant": {"use_reentrant": False},
    "selective": {
        "use_reentrant": False,
        "context_fn": lambda: create_selective_checkpoint_contexts(saves_products),
    },
}


@layers
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_in_a_checkpoint(kind, layer):
    def run(h):
        args = leaves()
        y = checkpoint(h, *args, **CHECKPOINTS[kind])
        if kind == "reentrant":  # which torch.autograd.grad refuses
            y.sin().sum().backward()
            return [y, [t.grad if t.grad is not None else torch.zeros_like(t) for t in args]]
        first = grad(y.sin().sum(), args, create_graph=kind != "selective", allow_unused=True, materialize_grads=True)
        if kind == "selective":  # which has no second derivative
            return [y, first]
        return [y, first, grad(first[0].square().sum(), args[:2])]

    close(*map(run, LAYERS[layer]))


def batched_gradients(h, second):
    """A batch of gradients by torch's older vmap, and what flows back through it."""
    x, w, b = leaves()
    y = h(x, w, b).sin()
    v = torch.linspace(-1, 1, 3 * y.numel(), dtype=y.dtype, device=y.device).reshape(3, *y.shape)
    if not second:
        g = grad(y, x, v, is_grads_batched=True, create_graph=True)[0]
    else:
        (gx,) = grad(y.sum(), x, create_graph=True)
        v = torch.linspace(-1, 1, 3 * x.numel(), dtype=y.dtype, device=y.device).reshape(3, *x.shape)
        g = grad(gx, x, v, is_grads_batched=True, create_graph=True)[0]
    return g, grad(g.square().sum(), (x, w), create_graph=True)


def vectorized(differentiate, create_graph=True):
    def run(h):
        x, w, b = leaves()
        result = differentiate(lambda x: h(x, w, b).sin().sum(), x, vectorize=True, create_graph=create_graph)
        return result, grad(result.square().sum(), (x, w))

    return run


OLDER_VMAP = {
    "a batch of gradients": lambda h: batched_gradients(h, second=False),
    "a batch of second gradients": lambda h: batched_gradients(h, second=True),
    "functional.jacobian": vectorized(functional.jacobian),
    "functional.hessian": vectorized(functional.hessian),
}


@pytest.mark.parametrize("kind", OLDER_VMAP)
@layers
def test_in_the_older_vmap(layer, kind):
    close(*map(OLDER_VMAP[kind], LAYERS[layer]))


@layers
def test_functionalized(layer):
    def run(h):
        first = torch.func.grad(lambda *a: h(*a).sin().sum(), (0, 1, 2))
        second = torch.func.grad(lambda *a: sum(g.square().sum() for g in first(*a)), (0, 1, 2))
        args = [t.detach() for t in leaves()]
        return [torch.func.functionalize(f)(*args) for f in (h, first, second)]

    close(*map(run, LAYERS[layer]))


@layers
def test_fake_tensors(layer):
    from torch._subclasses.fake_tensor import FakeTensorMode

    ours, stock = (three_orders_of_fakes(h, FakeTensorMode()) for h in LAYERS[layer])
    assert ours == stock


def three_orders_of_fakes(h, mode):
    with mode:
        y, first, second = three_orders(h)
        return [(tuple(t.shape), t.stride(), t.dtype, t.requires_grad) for t in (y, *first, *second)]


@layers
def test_traced_by_make_fx(layer):
    from torch.fx.experimental.proxy_tensor import make_fx

    def step(h):
        def run(x, w, b):
            x, w, b = (t.detach().requires_grad_() for t in (x, w, b))
            first = grad(h(x, w, b).sin().sum(), (x, w), create_graph=True)
            return first[0], grad(first[0].square().sum(), w)[0]

        return run

    ours, stock = LAYERS[layer]
    args = [t.detach() for t in leaves()]
    close(make_fx(step(ours))(*args)(*args), step(stock)(*args))


@layers
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traced_by_torchscript(layer):
    ours, stock = LAYERS[layer]
    args = leaves()
    traced = torch.jit.trace(ours, [t.detach() for t in args])
    assert "fusegrad::" not in str(traced.graph)
    close(three_orders(traced), three_orders(stock))


class Laplacian(nn.Module):
    """By jvp of jvp, which torch can export and trace."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        def second(v):
            first = lambda p: torch.func.jvp(self.model, (p,), (v,))[1]
            return torch.func.jvp(first, (x,), (v,))[1]

        return sum(second(e.expand_as(x)) for e in torch.eye(3, dtype=x.dtype, device=x.device))


@pytest.mark.parametrize("how", ("export", "trace"))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_programs_with_a_laplacian(how):
    stock = (
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 1)).double().to(DEVICE)
    )
    fused = fg.fuse(copy.deepcopy(stock))
    x = leaves()[0].detach()
    if how == "trace":
        program = torch.jit.trace(Laplacian(fused), (x,))
    else:
        program = torch.export.export(Laplacian(fused), (x,), strict=False).module()
    close(program(x * 2), Laplacian(stock)(x * 2))


@layers
def test_exported_programs_can_do_without_fusegrad(layer):
    """As ONNX's exporter has it, which decomposes what it does not know."""

    class Program(nn.Module):
        def forward(self, *args):
            return LAYERS[layer][0](*args)

    args = tuple(t.detach() for t in leaves())
    decompositions = torch._decomp.get_decompositions(OPS.values())
    program = torch.export.export(Program(), args).run_decompositions(decompositions)
    assert "fusegrad" not in program.graph_module.code
    close(program.module()(*args), LAYERS[layer][1](*args))


# --- torch.func inside, torch.autograd outside --------------------------------------------------------------------
