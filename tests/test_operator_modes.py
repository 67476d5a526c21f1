"""The derivative operators under torch's transforms, compiler and autocast, in all dtypes; what they refuse."""

import warnings

import nested
import pytest
import torch
import torch.nn.functional as F
from operator_models import MODELS, Sine, model, network, points
from torch.autograd import forward_ad
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import fusegrad as fg

fused = pytest.mark.parametrize("fused", (False, True), ids=("stock", "fused"))


def loss(net, x):
    r = fg.laplacian(net, x)
    return (r.laplacian + r.value).square().mean() + r.jacobian.sin().sum()


# --- transforms -------------------------------------------------------------------------------------------------------


CANNOT = {"Normed", "Filled", "Doubled"}  # by vmap: of one point, writing, a branch that depends on numbers


@pytest.mark.parametrize("name", [n for n in MODELS if n not in CANNOT])
@fused
def test_vmap(name, fused):
    net, x = model(name, fused), points(4, 3)
    whole = fg.laplacian(net, x)
    for mine, true in zip(torch.func.vmap(lambda p: tuple(fg.laplacian(net, p)))(x), whole, strict=True):
        assert_close(mine, true)


@fused
def test_torch_func(fused):
    net, x = model("ModifiedMLP", fused), points(4, 3).requires_grad_()
    f = lambda x: fg.laplacian(net, x).laplacian
    v = points(8, 3)[4:]
    (g,) = torch.autograd.grad(f(x).sum(), x)
    assert_close(torch.func.grad(lambda x: f(x).sum())(x), g)
    true = torch.autograd.functional.jvp(f, x, v)[1]
    assert_close(torch.func.jvp(f, (x,), (v,))[1], true)
    per_point = torch.func.vmap(torch.func.jacrev(f))(x)
    assert_close(per_point.sum((0, 1)), g.sum(0))
    assert_close(torch.func.vmap(torch.func.jacfwd(f))(x), per_point)
    with forward_ad.dual_level():
        assert_close(forward_ad.unpack_dual(f(forward_ad.make_dual(x, v))).tangent, true)
    parameters = dict(net.named_parameters())
    call = lambda p: loss(lambda x: torch.func.functional_call(net, p, x), x)
    mine = torch.func.grad(call)(parameters)
    for name, true in zip(parameters, torch.autograd.grad(loss(net, x), [*parameters.values()]), strict=True):
        assert_close(mine[name], true)


def test_one_function_nested_under_torch_func():
    x = points(4, 3)
    f = lambda x: torch.special.i0e(x).sum(-1)
    r = fg.laplacian(f, x)
    assert_close(torch.func.vmap(lambda p: fg.laplacian(f, p).laplacian)(x), r.laplacian)


def energy_gradient(x):
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad((x.sin() * x.prod(-1, keepdim=True)).sum(), x, create_graph=True)[0]


def writes_to_views(x):
    y = x * 1
    y[:, 0].mul_(2)
    return y**2


@torch.jit.script
def scripted(x):
    return x.sin().sum(-1) * x[..., 0]


AS_A_WHOLE = {
    "Function": lambda net: lambda x: Sine.apply(net(x)),
    "autograd.grad": lambda net: energy_gradient,
    "torch.func": lambda net: lambda x: torch.func.vmap(torch.func.grad(lambda p: net(p).sum()))(x),
    "views": lambda net: lambda x: writes_to_views(net(x)),
    "out": lambda net: lambda x: torch.sin(x, out=None) * x,
    "scripted": lambda net: lambda x: scripted(net(x)),
    "checkpoint": lambda net: lambda x: checkpoint(net, x, use_reentrant=False),
}


@pytest.mark.parametrize("name", AS_A_WHOLE)
@pytest.mark.parametrize("gradients", (True, False), ids=("training", "no_grad"))
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_models_that_the_rules_cannot_follow(name, gradients):
    f, x = AS_A_WHOLE[name](model("tanh")), points(4, 3).requires_grad_()
    y, jacobian, hessian = nested.hessians(f, x)
    for _ in range(2):
        with torch.set_grad_enabled(gradients):
            r = fg.laplacian(f, x)
        assert r.laplacian.requires_grad is gradients
        assert_close(r.value, y)
        assert_close(r.jacobian, jacobian)
        assert_close(r.laplacian, hessian.diagonal(dim1=-2, dim2=-1).sum(-1))


def test_no_grad_in_a_model_makes_constants():
    def f(x):
        with torch.no_grad():
            c = x.sin()
        return c * x.square()

    x = points(4, 3).requires_grad_()
    _, _, hessian = nested.hessians(f, x)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            assert_close(fg.laplacian(f, x).laplacian, hessian.diagonal(dim1=-2, dim2=-1).sum(-1))


def test_hooks_run_and_what_they_return_counts():
    net, x = model("tanh"), points(4, 3)
    seen = []
    net[0].register_forward_hook(lambda m, args, y: seen.append(type(y)) or 2 * y)
    r = fg.laplacian(net, x)
    by_hand = lambda x: net[4](net[3](net[2](net[1](2 * F.linear(x, net[0].weight, net[0].bias)))))
    assert_close(r.laplacian, fg.laplacian(by_hand, x).laplacian)
    assert seen == [torch.Tensor]


# --- compiler ---------------------------------------------------------------------------------------------------------


# of the last two fuse leaves all as it is
@pytest.mark.parametrize("name, fused", (("tanh", False), ("tanh", True), ("MLP", False), ("Linear with act", False)))
def test_compile(name, fused):
    """Networks that are a chain, with no break in the graph."""
    net, x = model(name, fused), points(4, 3)
    compiled = torch.compile(lambda x: loss(net, x), fullgraph=True, backend="aot_eager")
    on = [*net.parameters()]
    assert_close(torch.autograd.grad(compiled(x), on), torch.autograd.grad(loss(net, x), on))


@pytest.mark.slow
def test_inductor():
    """Inductor compiles C++ of its own for half a minute; the graph it is given is that of the tests above."""
    net, x = model("silu"), points(4, 3)
    compiled = torch.compile(lambda x: loss(net, x), fullgraph=True)
    on = [*net.parameters()]
    assert_close(torch.autograd.grad(compiled(x), on), torch.autograd.grad(loss(net, x), on))


# by the rules, and as a whole; torch.compile goes no further than to where they begin
MORE = (pytest.param(name, marks=pytest.mark.slow) for name in ("Hard", "scripted"))


@pytest.mark.parametrize("name", ("ModifiedMLP", "Function", *MORE))
@pytest.mark.filterwarnings("ignore")
def test_other_models_break_the_graph(name):
    """They run in eager mode, and are right; a full graph is refused."""
    f, x = AS_A_WHOLE[name](model("tanh")) if name in AS_A_WHOLE else model(name), points(4, 3)
    compute = lambda x: loss(f, x.sin()) * 2
    assert_close(torch.compile(compute, backend="aot_eager")(x), compute(x))
    torch.compiler.reset()
    with pytest.raises(Exception, match=r"torch-function mode, which torch\.compile"):
        torch.compile(compute, backend="aot_eager", fullgraph=True)(x)


def test_a_compiled_model():
    net, x = model("tanh"), points(4, 3)
    assert_close(fg.laplacian(torch.compile(net, backend="aot_eager"), x).laplacian, fg.laplacian(net, x).laplacian)


# --- dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in MODELS if n != "Normed"])
@fused
def test_float32_is_as_exact_as_nested(name, fused):
    net, x = model(name), points(64, 3)
    truth = fg.laplacian(net, x)
    mine = fg.laplacian(model(name, fused, torch.float32), x.float())
    _, jacobian, hessian = nested.hessians(model(name, dtype=torch.float32), x.float().requires_grad_())
    for found, stock, true in (
        (mine.jacobian, jacobian, truth.jacobian),
        (mine.laplacian, hessian.diagonal(dim1=-2, dim2=-1).sum(-1), truth.laplacian),
    ):
        off, limit = ((t.double() - true).abs().max() for t in (found, stock))
        assert off <= 2 * limit + torch.finfo(torch.float32).eps * true.abs().max(), (off, limit)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@fused
def test_16_bits(dtype, fused):
    net, x = model("silu", fused, dtype), points(8, 3, dtype=dtype)
    r, true = fg.laplacian(net, x), fg.laplacian(model("silu"), points(8, 3))
    assert r.laplacian.dtype == dtype
    assert_close(r.laplacian.double(), true.laplacian, rtol=0.1, atol=0.1)


@fused
def test_autocast(fused):
    net, x = model("tanh", fused, torch.float32), points(8, 3, dtype=torch.float32)
    with torch.autocast("cpu"):
        r = fg.laplacian(net, x)
    assert r.value.dtype == torch.bfloat16
    assert_close(r.laplacian.float(), fg.laplacian(net, x).laplacian, rtol=0.1, atol=0.1)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_errors():
    net, x = network(3, 4, 1).double(), points(4, 3)
    with pytest.raises(TypeError, match="callable"):
        fg.laplacian(3, x)
    with pytest.raises(TypeError, match="must be a tensor"):
        fg.laplacian(net, [1.0])
    with pytest.raises(TypeError, match="floating point"):
        fg.laplacian(net, torch.ones(4, 3, dtype=torch.long))
    with pytest.raises(TypeError, match="complex"):
        fg.laplacian(net, x * 1j)
    with pytest.raises(ValueError, match="complex"):
        fg.laplacian(lambda x: torch.fft.fft(x).abs(), x)
    with pytest.raises(ValueError, match="complex"):
        fg.laplacian(lambda x: (x * 1j).real, x)
    with pytest.raises(ValueError, match=r"shape \(\)"):
        fg.laplacian(net, torch.tensor(1.0))
    with pytest.raises(ValueError, match="leading sizes"):
        fg.laplacian(lambda x: net(x).sum(), x)
    with pytest.raises(TypeError, match="returned tuple"):
        fg.laplacian(lambda x: (x, x), x)
    with pytest.raises(ValueError, match="one of them"):
        fg.laplacian(net, x, directions=torch.eye(3).double(), samples=3)
    with pytest.raises(ValueError, match=r"\(d, r\)"):
        fg.laplacian(net, x, directions=torch.eye(4).double())
    with pytest.raises(TypeError, match="same dtype"):
        fg.laplacian(net, x, directions=torch.eye(3))
    with pytest.raises(TypeError, match="drift must be a tensor"):
        fg.laplacian(net, x, drift=1.0)
    with pytest.raises(TypeError, match=r"drift is of torch\.float32"):
        fg.laplacian(net, x, drift=torch.ones(3))
    for b in (torch.ones(4).double(), torch.ones(3, 4).double(), torch.tensor(1.0).double()):
        with pytest.raises(ValueError, match=r"drift has shape .*need \(d\), or the shape of x"):
            fg.laplacian(net, x, drift=b)
    with pytest.raises(ValueError, match="positive"):
        fg.laplacian(net, x, samples=0)
    with pytest.raises(ValueError, match="rademacher"):
        fg.laplacian(net, x, samples=2, distribution="uniform")
    with pytest.raises(ValueError, match="order"):
        fg.directional(net, x, x, order=5)
    with pytest.raises(ValueError, match="shape of x"):
        fg.directional(net, x, points(2))
    with pytest.raises(RuntimeError, match="shapes"):
        fg.laplacian(net, points(4, 5))


def test_nan_and_infinity_go_through():
    net, x = model("tanh"), points(4, 3)
    x[0, 0], x[1, 1] = torch.nan, torch.inf
    x.requires_grad_()
    y, jacobian, hessian = nested.hessians(net, x)
    r = fg.laplacian(net, x)
    assert_close(r.value, y, equal_nan=True)
    assert_close(r.jacobian, jacobian, equal_nan=True)
    assert_close(r.laplacian, hessian.diagonal(dim1=-2, dim2=-1).sum(-1), equal_nan=True)


def test_what_no_mode_sees_is_no_constant():
    """Tensor.as_subclass makes a tensor of the same memory past all modes; what torch calls constant stays so."""
    x = points(5, 2)
    hidden = lambda p: p.as_subclass(torch.Tensor).pow(3).sum(-1)
    with pytest.warns(UserWarning, match="as_subclass"):
        r = fg.laplacian(hidden, x)
    for found in (r, fg.laplacian(hidden, x)):
        assert_close((found.jacobian, found.laplacian), (3 * x.square(), 6 * x.sum(-1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for constant in (lambda p: p.detach(), lambda p: p.data[:, :1], lambda p: x[:, 1:]):
            f = lambda p, constant=constant: (p.square() * constant(p)).sum(-1)
            assert_close(fg.laplacian(f, x).laplacian, 2 * constant(x).expand(5, 2).sum(-1))
