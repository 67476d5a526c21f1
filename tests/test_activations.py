"""The registry: values, derivatives of every order, limits, and what each activation saves."""

import math

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

import fusegrad as fg
from fusegrad import backends, ops
from fusegrad.activations import REGISTRY

from cases import CASES, DEFAULTS, DEVICE, STOCK, Case


def derivatives(fn, z, count):
    """fn and its first `count` derivatives at z, elementwise."""
    z = z.clone().requires_grad_()
    found = [fn(z)]
    for _ in range(count):
        y = found[-1]
        if not y.requires_grad:
            found.append(torch.zeros_like(z))
            continue
        (d,) = grad(y.sum(), z, create_graph=True, allow_unused=True, materialize_grads=True)
        found.append(d)
    return [d.detach() for d in found]


def test_stock_counterparts_are_complete():
    assert set(STOCK) == set(REGISTRY) == set(fg.ACTIVATIONS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_to_third_order_numerically(case):
    z = torch.randn(7, dtype=torch.float64, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(2))
    if case.value > 10:
        z = z / case.value
    z.requires_grad_()
    fn = lambda z: fg.act(z, case.name, case.param)
    tolerances = {"atol": 1e-5, "rtol": 1e-4} if case.value > 10 else {}
    eps = 1e-6 / max(1, case.value)
    assert gradcheck(fn, z, eps=eps, check_forward_ad=True, check_batched_grad=True, **tolerances)
    assert gradgradcheck(fn, z, eps=eps, check_fwd_over_rev=True, **tolerances)
    first = lambda z: grad(fn(z).sin().sum(), z, create_graph=True)[0]
    second = lambda z: grad(first(z).sum(), z, create_graph=True)[0]
    assert gradcheck(second, z, eps=eps, **({"atol": 1e-3, "rtol": 1e-3} if case.value > 10 else {}))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_to_fourth_order_match_stock(case):
    z = torch.linspace(-4.1, 4.1, 41, dtype=torch.float64, device=DEVICE) / max(1.0, case.value / 10)
    ours = derivatives(lambda z: fg.act(z, case.name, case.param), z, 4)
    stock = derivatives(case.stock, z, 4)
    for order, (mine, theirs) in enumerate(zip(ours, stock, strict=True)):
        # torch's softplus is linear where beta z > 20: e^-20 of the scale of each derivative
        slack = 1e-8 * case.value**order if case.name == "softplus" else 1e-10 * max(1, abs(case.value)) ** order
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=slack, msg=lambda m: f"order {order}: {m}")


# Where torch is finite we must be, and equal; where it is not, we may know the limit.
EXTREMES = [0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 88.8, -88.8, 750.0, -750.0, 1e4, -1e4, math.inf, -math.inf]


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_extreme_arguments(case, dtype):
    z = torch.tensor(EXTREMES, dtype=dtype, device=DEVICE)
    ours = derivatives(lambda z: fg.act(z, case.name, case.param), z, 4)
    stock = derivatives(case.stock, z, 4)
    for order, (mine, theirs) in enumerate(zip(ours, stock, strict=True)):
        fine = theirs.isfinite() if order else ~theirs.isnan()
        smooth = z.abs() > 1e-20 if order > 1 else torch.ones_like(fine)  # not at a kink's own place
        scale = max(1.0, abs(case.value)) ** order
        where = fine & smooth
        tolerance = 1e-6 if dtype == torch.float32 else 1e-8
        torch.testing.assert_close(
            mine[where], theirs[where], rtol=1e-5, atol=tolerance * scale, msg=lambda m: f"order {order}: {m}"
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nan_in_nan_out(case):
    z = torch.tensor([math.nan, 1.0], device=DEVICE).repeat_interleave(32)  # torch's loop over the last few loses some
    ours = derivatives(lambda z: fg.act(z, case.name, case.param), z, 1)
    stock = derivatives(case.stock, z, 1)
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine.isnan().tolist() == theirs.isnan().tolist()
    assert ours[0].isnan().tolist() == [True] * 32 + [False] * 32


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_is_at_most_twice_that_of_stock(case, dtype):
    z = (3 * torch.randn(512 if backends.INTERPRETED else 4096, device=DEVICE)).to(dtype)
    if case.name in ("exp", "square", "relu_squared"):
        z = z.clamp(-9, 9)
    truths = derivatives(case.stock, z.double(), 3)
    ours = derivatives(lambda z: fg.act(z, case.name, case.param), z, 3)
    stock = derivatives(case.stock, z, 3)
    for order, (truth, mine, theirs) in enumerate(zip(truths, ours, stock, strict=True)):
        eps = torch.finfo(dtype).eps * max(1.0, truth.abs().max().item())
        error = lambda y: (y.double() - truth).abs().nan_to_num(math.inf).max()  # torch's mish has NaN in float16
        assert error(mine) <= 2 * error(theirs) + eps, order


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_derivative_is_that_of_the_one_below(case):
    """D_{k+1} = dD_k/ds in what is saved, by forward mode on the reference, to order 5."""
    z = torch.linspace(-3.1, 3.1, 21, dtype=torch.float64, device=DEVICE) / max(1.0, case.value / 3)
    a = REGISTRY[case.name]
    s = z if a.saves_input else case.stock(z)
    high = lambda s, order: ops.act(s, None, a.name, case.value, order)
    for order in (1, 2, 3, 4):
        _, numeric = torch.func.jvp(lambda s: high(s, order), (s,), (torch.ones_like(s),))
        torch.testing.assert_close(high(s, order + 1), numeric)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_the_factor_g_multiplies(case):
    s, g = torch.rand(2, 9, dtype=torch.float64, device=DEVICE) + 0.1
    op = ops.act
    for order in (1, 2, 3, 4):
        d = op(s, None, case.name, case.value, order)
        torch.testing.assert_close(op(s, g, case.name, case.value, order), g * d)


def test_params_are_used():
    z = torch.tensor([-2.0, 0.5, 3.0], device=DEVICE)
    for name in ("leaky_relu", "elu", "celu", "softplus", "sin"):
        case = Case(name, 0.7)
        torch.testing.assert_close(fg.act(z, name, 0.7), case.stock(z))
        assert not torch.equal(fg.act(z, name, 0.7), fg.act(z, name))


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_derivatives_at_kinks(case):
    """The first two, where branches of the definitions meet."""
    orders = []
    for f in (lambda z: fg.act(z, case.name), case.stock):
        z = torch.tensor([0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0], dtype=torch.float64, device=DEVICE, requires_grad=True)
        (first,) = grad(f(z).sum(), z, create_graph=True)
        orders.append((first, grad(first.sum() + 0 * z.sum(), z)[0]))
    torch.testing.assert_close(*orders)
