"""Products of the sizes that are blocked, packed and shared by threads: exact sums, errors, and 2^31 elements.

What is small and of odd strides is in test_layouts.py.
"""

import os
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import fusegrad as fg
from fusegrad import ops

from cases import DEVICE, DTYPES
from drawn import examples

# around the tile, the block of rows, the chain and the block of k, of all instruction sets
sizes = st.sampled_from((1, 4, 9, 16, 31, 63, 100, 129, 145, 193, 257, 385, 520, 1025))


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def integers(generator, *shape):
    """Numbers whose products and sums are exact in every dtype that adds in float32."""
    return torch.randint(-2, 3, shape, generator=generator).double()


def laid_out(t, transposed, dtype):
    """The matrix in a dtype, its rows adjacent or its columns."""
    t = t.to(DEVICE, dtype)
    return t.mT.contiguous().mT if transposed else t.contiguous()


@examples(1.5)
@given(sizes, sizes, sizes, st.tuples(st.booleans(), st.booleans()), st.sampled_from(DTYPES), st.integers(1, 4))
def test_products_of_integers_are_exact(m, k, n, transposed, dtype, count):
    """Every element is summed once, and none twice: for any size, layout, dtype and number of threads."""
    g = torch.Generator().manual_seed(m * n + k)
    x, w, b = integers(g, m, k), integers(g, n, k), integers(g, n)
    args = laid_out(x, transposed[0], dtype), laid_out(w, transposed[1], dtype), b.to(DEVICE, dtype)
    with threads(count):
        y, saved = ops.linear_act(*args, "relu_squared", 0.0, True)
    z = F.linear(x, w, b)
    assert torch.equal(saved.cpu(), z.to(dtype))
    assert torch.equal(y.cpu(), z.relu().square().to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("m, k, n", ((1030, 20, 1056), (600, 1100, 2048), (1025, 200, 1025)))
def test_results_of_megabytes_are_exact(m, k, n, dtype):
    """Those of whole lines are written past the caches."""
    g = torch.Generator().manual_seed(m * n)
    x, w, b = integers(g, m, k), integers(g, n, k), integers(g, n)
    z, args = F.linear(x, w, b), [t.to(DEVICE, dtype) for t in (x, w, b)]
    for count in (1, 2):
        with threads(count):
            y, saved = ops.linear_act(*args, "relu_squared", 0.0, True)
            assert torch.equal(ops.linear(*args).cpu(), z.to(dtype))
        assert torch.equal(saved.cpu(), z.to(dtype))
        assert torch.equal(y.cpu(), z.relu().square().to(dtype))


@pytest.mark.parametrize("act", ("relu", "square"))  # which keep their output, and their input
@pytest.mark.parametrize("save", (False, True))
@pytest.mark.parametrize("rows", (9, 16, 31, 64, 128, 129))
def test_gates_of_integers_are_exact(rows, save, act):
    """Of rows that are turned, with w in place or copied, and of others."""
    for k, n in ((60, 70), (1024, 33), (1030, 18)):
        g = torch.Generator().manual_seed(rows)
        x, gate, up, b, b_up = (
            integers(g, rows, k),
            integers(g, n, k),
            integers(g, n, k),
            integers(g, n),
            integers(g, n),
        )
        z, factor = F.linear(x, gate, b), F.linear(x, up, b_up)
        h = z.relu() if act == "relu" else z.square()
        for dtype in (torch.float32, torch.float64):
            got = ops.gated(*(t.to(DEVICE, dtype) for t in (x, gate, up, b, b_up)), act, 0.0, save)
            truth = (h * factor, h if act == "relu" else z, factor) if save else (h * factor,)
            for mine, exact in zip(got, truth, strict=False):
                assert torch.equal(mine.cpu(), exact.to(dtype))


@examples(0.6)
@given(sizes, sizes, sizes, st.sampled_from(DTYPES), st.tuples(*[st.booleans()] * 3), st.integers(1, 4))
def test_gradients_of_integers_are_exact(m, k, n, dtype, needed, count):
    g = torch.Generator().manual_seed(m * n + k)
    gy, x, w, s = integers(g, m, n), integers(g, m, k), integers(g, n, k), integers(g, m, n)
    args = (t.to(DEVICE, dtype) for t in (gy, x, w, s))
    with threads(count):
        grads = ops.linear_act_backward(*args, "square", 0.0, *needed)
    gz = 2 * s * gy
    for got, truth, need in zip(grads, (gz @ w, gz.mT @ x, gz.sum(0)), needed, strict=True):
        if need:
            assert torch.equal(got.cpu(), truth.to(dtype))
        else:
            assert got.numel() == 0


@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("m, n", ((133, 1), (290, 5), (300, 20), (150, 50), (2, 300), (8, 2100), (700, 130)))
def test_few_columns_short_sums_and_few_rows_are_exact(m, n, dtype, transposed):
    """Each has an algorithm of its own: rows in the lanes, dots, row by row."""
    g = torch.Generator().manual_seed(m * n)
    for k in (1, 2, 7, 63, 65, 600):
        x, w, b = integers(g, m, k), integers(g, n, k), integers(g, n)
        args = x.to(DEVICE, dtype), laid_out(w, transposed, dtype)
        z, bias = F.linear(x, w, b), b.to(DEVICE, dtype)
        assert torch.equal(ops.linear(*args, bias).cpu(), z.to(dtype))
        y, saved = ops.linear_act(*args, bias, "relu_squared", 0.0, True)
        assert torch.equal(saved.cpu(), z.to(dtype)) and torch.equal(y.cpu(), z.relu().square().to(dtype))


# how the numbers of x and w are made hard to sum: factors along k
HARD = {
    "random": lambda k: torch.ones(k),
    "growing": lambda k: torch.logspace(-6, 6, k),
    "shrinking": lambda k: torch.logspace(6, -6, k),
    "alternating": lambda k: torch.tensor([1e6, 1e-6]).repeat(k)[:k],
    "one large": lambda k: torch.cat((torch.tensor([1e8]), torch.ones(k - 1))),
}


@pytest.mark.parametrize("rows", (1, 8, 60))
@pytest.mark.parametrize("k", (70, 1000, 20000))
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("how", [*HARD, "positive", "cancelling"])
def test_errors_of_hard_sums(how, dtype, k, rows):
    """In the mean at most twice those of stock, against sums of more precision: of x w^T, and of x times columns."""
    g = torch.Generator().manual_seed(k)
    x, w = (torch.randn(s, k, generator=g, dtype=torch.float64) for s in (rows, 50))
    if how == "positive":
        x, w = x.abs(), w.abs()
    elif how == "cancelling":  # each term is followed by nearly its negative
        x[:, 1::2] = -x[:, : k // 2 * 2 : 2] * (1 + 1e-4)
        w[:, 1::2] = w[:, : k // 2 * 2 : 2]
    else:
        x = x * HARD[how](k)
    x, w = (t.to(DEVICE, dtype) for t in (x, w))
    columns = w.mT.contiguous()
    more = np.longdouble if dtype == torch.float64 else np.float64  # the first takes long
    truth = x.cpu().numpy().astype(more) @ w.cpu().numpy().astype(more).T
    error = lambda y: np.abs(y.cpu().numpy().astype(more) - truth)
    # pairs of terms that cancel do so as the order of the sum brings them together, which is nobody's promise
    slack = torch.finfo(dtype).eps * F.linear(x.abs(), w.abs()).max().item() / 10 if how == "cancelling" else 0.0
    for mine, stock in ((fg.linear(x, w), F.linear(x, w)), (fg.mm(x, columns), x @ columns)):
        assert (error(mine) ** 2).mean() ** 0.5 <= 2 * (error(stock) ** 2).mean() ** 0.5 + slack
        assert error(mine).max() <= 3 * error(stock).max() + 3 * slack


def gibibytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


@pytest.mark.slow
@pytest.mark.skipif(gibibytes() < 20, reason="takes 18 GiB of memory")
def test_more_than_2_to_the_31_elements():
    """Indices and offsets have 64 bits: bfloat16, where that takes the least memory."""
    m, n, k = 2**16 + 3, 2**15 + 16, 2
    g = torch.Generator().manual_seed(0)
    x, w, b = (integers(g, *s).to(DEVICE, torch.bfloat16) for s in ((m, k), (n, k), (n,)))
    assert m * n > 2**31
    y, saved = ops.linear_act(x, w, b, "square", 0.0, True)
    picked = torch.cat((torch.arange(5), torch.randint(m, (200,), generator=g), torch.arange(m - 5, m)))
    z = F.linear(x[picked].double(), w.double(), b.double())
    assert torch.equal(saved[picked].double(), z) and torch.equal(y[picked].double(), z.square())
    assert y[-1, -1].double() == z[-1, -1].square()
    del y
    twice = fg.mul_constant(saved, 2.0)
    assert torch.equal(twice[picked].double(), 2 * z)
    del twice
    assert torch.equal(ops.act(saved, None, "square", 0.0, 0)[picked].double(), z.square())
    gx, _, gb = ops.linear_act_backward(saved, x, w, saved, "relu", 0.0, True, False, True)
    gz = saved[picked].double().relu()
    torch.testing.assert_close(gx[picked].double(), gz @ w.double(), rtol=2**-8, atol=0)
    columns = slice(n - 7, n)
    torch.testing.assert_close(gb[columns].double(), saved[:, columns].double().relu().sum(0), rtol=2**-8, atol=0)
