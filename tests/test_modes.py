"""Every mode that a program can be in, beside transforms/: value, gradient and gradient of gradient as with stock.

Also derivatives that are taken in part by torch.func and in part outside of it, in every nesting.
"""

import contextlib
import copy
import itertools
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
from fusegrad import routing
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


@pytest.mark.parametrize("device", ("xpu", "mps", "mtia"))
@pytest.mark.filterwarnings("ignore:User provided device_type")
def test_autocast_of_other_devices(device):
    """The dtypes are stock's, shown by fake tensors as there is no such device here."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    dtypes = {"tanh": torch.tanh, "softplus": F.softplus, "exp": torch.exp, "square": torch.square}
    with FakeTensorMode(), torch.autocast(device, torch.bfloat16):
        x, w = torch.empty(5, 3, device=device), torch.empty(4, 3, device=device)
        for name, stock in dtypes.items():
            expected = stock(F.linear(x, w)).dtype
            ours = fg.linear_act(x, w, act=name), fg.act(fg.linear(x, w), name)
            assert [y.dtype for y in ours] == [expected] * 2


def test_autocast_where_saved_tensor_hooks_are_forbidden():
    x, w, b = leaves(torch.float32)

    def run(layer):
        with torch.autograd.graph.disable_saved_tensors_hooks("not here"), torch.autocast(DEVICE, torch.bfloat16):
            y = layer(x, w, b)
        return y, grad(y.float().sum(), (x, w, b))

    close(run(LAYERS["linear_act silu"][0]), run(LAYERS["linear_act silu"][1]), rtol=2e-2, atol=2e-2)


# --- what gives torch's functions another meaning is obeyed, whatever the size ------------------------------------


@pytest.fixture(params=(-1, 2**30), ids=("by the ops", "small"))
def any_size(request, monkeypatch):
    for name in ("SMALL_LAYER", "SMALL_TENSOR", "SMALL_TENSOR_IN_TRAINING"):
        monkeypatch.setattr(routing, name, request.param)


class Tagged(torch.Tensor):
    """A tensor with a label that its functions pass on, as the tensors of many libraries have."""

    label = ""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        y = super().__torch_function__(func, types, args, kwargs)
        labels = [t.label for t in torch.utils._pytree.tree_leaves(args) if isinstance(t, Tagged) and t.label]
        if isinstance(y, Tagged) and labels:
            y.label = f"{func.__name__} of {labels[0]}"
        return y


def tagged(t):
    t = t.detach().as_subclass(Tagged)
    t.label = "x"
    return t.requires_grad_()


def models():
    """Each way of calling a layer and its activation: ours, and as it is written."""
    _, w, b = (t.detach() for t in leaves())
    stock = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 3)).to(DEVICE, torch.float64)
    fused = fg.fuse(copy.deepcopy(stock))
    return {
        "linear": (lambda x: fg.linear(x, w, b), lambda x: F.linear(x, w, b)),
        "linear_act": (lambda x: fg.linear_act(x, w, b, act="silu"), lambda x: F.silu(F.linear(x, w, b))),
        "mlp": (lambda x: fg.mlp(x, w, b, w.mT, act="silu"), lambda x: F.linear(F.silu(F.linear(x, w, b)), w.mT)),
        "act": (lambda x: fg.act(x, "silu"), F.silu),
        "mm": (lambda x: fg.mm(x, w, trans_b=True), lambda x: torch.mm(x, w.mT)),
        "mul_constant": (lambda x: fg.mul_constant(x, 2.0), lambda x: x * 2.0),
        "a fused model": (fused, stock),
        "an activation module": (fused[1], stock[1]),
    }


@pytest.mark.parametrize("name", models())
def test_a_tensor_subclass_is_obeyed(name, any_size):
    ours, stock = models()[name]
    y, expected = ours(tagged(leaves()[0])), stock(tagged(leaves()[0]))
    assert type(y) is Tagged and y.label == expected.label != ""
    close(y, expected)


@pytest.mark.parametrize("name", models())
def test_a_torch_function_mode_is_obeyed(name, any_size):
    class Doubles(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            y = func(*args, **(kwargs or {}))
            return y * 2 if func in (F.linear, F.silu, torch.mm, torch.Tensor.mul) else y

    ours, stock = models()[name]
    x = leaves()[0]
    with Doubles():
        close(ours(x), stock(x))


@pytest.mark.parametrize("function", ("linear", "silu"))
@pytest.mark.parametrize("name", ("a fused model", "an activation module"))
def test_a_replaced_function_is_obeyed(name, function, any_size, monkeypatch):
    ours, stock = models()[name]
    before = getattr(F, function)
    monkeypatch.setattr(F, function, lambda *args, **kwargs: before(*args, **kwargs) * 2)
    x = leaves()[0]
    close(ours(x), stock(x))
