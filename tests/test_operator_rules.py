"""Each rule of the derivative operators, to the fourth order, against nested autograd of the same function."""

import math
import warnings

import nested
import pytest
import torch
import torch.nn.functional as F
from operator_functions import BY_NESTED, EACH, TWICE
from operator_models import points
from torch.testing import assert_close

import fusegrad as fg
from fusegrad import ops
from fusegrad.activations import REGISTRY
from fusegrad.operators import run

from cases import CASES, STOCK


@pytest.mark.parametrize("name", EACH)
def test_function(name, recwarn):
    f, order = EACH[name], 2 if name in TWICE else 4
    x, v = points(5, 3).requires_grad_(), points(10, 3)[5:]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        run._TOLD.clear()
        found = fg.directional(f, x, v, order=order)
        lap = fg.laplacian(f, x)
        told = [str(w.message) for w in recwarn if "nested derivatives" in str(w.message)]
        truth = nested.along(f, x, v, order)
        _, jacobian, hessian = nested.hessians(f, x)
    assert bool(told) is (name in BY_NESTED), told
    for mine, true in zip(found, truth, strict=True):
        assert_close(mine, true, rtol=1e-9, atol=1e-9 * (1 + true.abs().max().item()))
    assert_close(lap.jacobian, jacobian, rtol=1e-9, atol=1e-9)
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    assert_close(lap.laplacian, diagonal.sum(-1), rtol=1e-9, atol=1e-9)
    assert_close(fg.hessian_diagonal(f, x), diagonal, rtol=1e-9, atol=1e-9)
    mine, true = (nested.grad(t.sin().sum(), x) for t in (found[2], truth[2]))
    assert_close(mine, true, rtol=1e-8, atol=1e-8 * (1 + true.abs().max().item()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_activation(case):
    """As the registry has them, to the fourth order; torch's own where it can differentiate so often."""
    x, v = points(5, 3).requires_grad_(), points(10, 3)[5:]
    for f in (lambda x: fg.act(2 * x, case.name, case.param), lambda x: case.stock(2 * x)):
        found = fg.directional(f, x, v, order=4)
        a = REGISTRY[case.name]
        s = 2 * x if a.saves_input else a.value(2 * x, case.value)
        D = lambda k: ops.act(s.detach(), None, case.name, case.value, k)
        assert_close(found[1], D(1) * 2 * v, rtol=1e-9, atol=1e-9)
        first = D(2) if a.saves_input else D(1) * D(2)
        assert_close(found[2], first * 4 * v * v, rtol=1e-9, atol=1e-9)
        try:
            truth = nested.along(lambda x: STOCK[case.name](2 * x, case.value), x, v, 4)
        except RuntimeError:
            continue
        for mine, true in zip(found, truth, strict=True):
            assert_close(mine, true, rtol=1e-7, atol=1e-7 * (1 + true.abs().max().item()))


def test_functions_without_a_rule_are_named_once():
    x = points(4, 3)
    f = lambda x: torch.special.i0e(x) * 2
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            fg.laplacian(f, x)
    assert len(told) == 1 and "i0e" in str(told[0].message)


def test_explain_names_what_had_no_rule():
    class Bessel(torch.nn.Module):
        def forward(self, x):
            return torch.special.i1e(x)

    net = Bessel()
    assert str(fg.explain(net)).find("nested") < 0
    fg.laplacian(net, points(4, 3))
    assert "i1e" in str(fg.explain(net)).splitlines()[-1]
    assert fg.explain(net).by_nested == ("special_i1e",)


def test_random_numbers_are_the_same_in_value_and_derivatives():
    x = points(200, 3).requires_grad_()
    r = fg.laplacian(lambda x: F.dropout(x.square(), 0.5, training=True).sum(-1), x)
    kept = r.jacobian != 0
    assert 0.3 < kept.double().mean() < 0.7
    assert_close(r.laplacian, 4.0 * kept.sum(-1).double())
    assert_close(r.value, (2 * x.square() * kept).sum(-1))


def test_a_norm_at_zero():
    """The first derivatives are torch's, zero; there are no second ones."""
    x = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    for f in (lambda x: x.norm(dim=-1), lambda x: torch.linalg.vector_norm(x, dim=-1), lambda x: x.std(-1)):
        _, jacobian, _ = nested.hessians(f, x)
        r = fg.laplacian(f, x)
        assert_close(r.jacobian, jacobian)
        assert not r.laplacian.isfinite()


def test_distances():
    """Torch has no second derivative of cdist."""
    x, w = points(5, 3).requires_grad_(), points(4, 3)
    mine, true = fg.laplacian(lambda x: torch.cdist(x, w), x), fg.laplacian(lambda x: (x[:, None] - w).norm(dim=-1), x)
    assert_close(tuple(mine), tuple(true))


def test_laplacian_of_fundamental_solution():
    x = points(5, 3)
    assert_close(fg.laplacian(lambda x: 1 / x.norm(dim=-1), x).laplacian, torch.zeros(5).double(), rtol=0, atol=1e-9)
    wave = fg.laplacian(lambda x: torch.sin(math.pi * x).prod(-1), x)
    assert_close(wave.laplacian, -3 * math.pi**2 * wave.value)
