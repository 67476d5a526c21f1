"""Inputs of any size and layout: empty, odd, strided, transposed, expanded, offset; in every dtype."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.autograd import grad

import fusegrad as fg
from fusegrad import ops
from fusegrad.activations import REGISTRY

from cases import CASES, DEVICE, DTYPES, Case, examples

sizes = st.sampled_from((0, 1, 2, 3, 5, 8, 17))


@st.composite
def tensors(draw, shape, dtype):
    """A tensor of the shape, as a contiguous one, or a view of another with any strides."""
    seed = draw(st.integers(0, 2**16))
    g = torch.Generator().manual_seed(seed)
    fresh = lambda *s: torch.randn(s, generator=g, dtype=torch.float64).to(DEVICE, dtype)
    kind = draw(st.sampled_from(("contiguous", "transposed", "strided", "expanded", "offset")))
    if kind == "transposed":
        return fresh(*reversed(shape)).permute(*reversed(range(len(shape))))
    if kind == "strided":
        return fresh(*shape[:-1], 2 * shape[-1])[..., ::2]
    if kind == "expanded" and len(shape) > 1:
        return fresh(*shape[1:]).expand(shape)
    if kind == "offset":
        return fresh(*shape[:-1], shape[-1] + 3)[..., 3:]
    return fresh(*shape)


@st.composite
def layers(draw):
    dtype = draw(st.sampled_from(DTYPES))
    lead = draw(st.lists(sizes, max_size=3))
    k, n = draw(sizes), draw(sizes)
    x, w = draw(tensors((*lead, k), dtype)), draw(tensors((n, k), dtype))
    b = draw(st.none() | tensors((n,), dtype))
    return x, w, b, draw(st.sampled_from(CASES))


def error_within_twice(mine, stock, truth, dtype, slack=None, slope=1.0, terms=0.0):
    """|mine - truth| <= 2 |stock - truth| + eps, relative to the largest of truth, where stock does not overflow.

    A sum whose terms cancel is held to their size, `terms`: what is left of them depends on the order of the sum.
    """
    assert mine.shape == truth.shape and mine.dtype == dtype
    finite = stock.isfinite()
    mine, stock, truth = mine[finite], stock[finite], truth[finite]
    if truth.numel() == 0:
        return
    scale = max(1.0, truth.abs().max().item())
    if slack is None:
        slack = 1024 if dtype == torch.float64 else 16 if dtype == torch.float32 else 4  # of float64, the truth is one
    error = (mine.double() - truth).abs().max()
    assert error <= 2 * (stock.double() - truth).abs().max() + (slack * scale + terms) * torch.finfo(dtype).eps * slope


def sizes_of_terms(case, x, w, b):
    """The largest sums of |terms| of y, gx, gw and gb, for the gy of the test below."""
    x, w = x.double().reshape(-1, w.shape[1]) if w.shape[1] else x.double().new_zeros(0, 0), w.double()
    z = F.linear(x, w, None if b is None else b.double()).detach().requires_grad_()
    gz = grad(case.stock(z).sum(), z)[0].abs()  # |gy| <= 1
    sums = F.linear(x.abs(), w.abs()), gz @ w.abs(), gz.mT @ x.abs(), gz.sum(0)
    return [t.max().item() if t.numel() else 0.0 for t in sums]


@settings(max_examples=examples(300), deadline=None)
@given(layers())
def test_linear_act(layer):
    x, w, b, case = layer
    assume(case.value <= 10 or x.dtype.itemsize > 2)  # sin(30 z) of a z with 8 bits is noise, of stock's too
    given_ = [t for t in (x, w, b) if t is not None]

    def run(fn, convert):
        args = [convert(t).detach().requires_grad_() for t in given_]
        y = fn(*args)
        gy = torch.linspace(-1, 1, max(1, y.numel()), dtype=torch.float64)[: y.numel()].reshape(y.shape)
        return [y, *grad(y, args, gy.to(y.device, y.dtype))]

    mine = run(case.linear_act, lambda t: t)
    stock = run(case.stock_linear, lambda t: t)
    truth = run(case.stock_linear, lambda t: t.double())
    terms = sizes_of_terms(case, x, w, b)
    for m, s, t, size in zip(mine, stock, truth, terms[: len(mine)], strict=True):
        # torch takes softplus to be linear from e^-20 on, in float64 a visible step; ours is smooth there
        step = case.name == "softplus" and x.dtype == torch.float64
        slope = max(1.0, abs(case.value))
        error_within_twice(m, s, t.detach(), x.dtype, slack=1e8 if step else None, slope=slope, terms=size)


@settings(max_examples=examples(200), deadline=None)
@given(st.data(), st.sampled_from(CASES), st.sampled_from(DTYPES), st.sampled_from((0, 1, 2, 3, 4)))
def test_act(data, case, dtype, order):
    shape = tuple(data.draw(st.lists(sizes, min_size=1, max_size=3)))
    s, g = data.draw(tensors(shape, dtype)), data.draw(tensors(shape, dtype))
    s, g = (s.sigmoid(), None) if order == 0 else (s.sigmoid(), g)
    out = ops.act(s, g, case.name, case.value, order)
    truth = ops.act(s.double().contiguous(), None if g is None else g.double(), case.name, case.value, order)
    assert out.shape == s.shape and out.stride() == torch.empty_like(s).stride()
    scale = max(1.0, truth.abs().max().item()) if truth.numel() else 1.0
    # rounding omega s moves sin by omega^(order + 1) eps |s|, however it is computed
    tolerance = 4 * torch.finfo(dtype).eps * scale * max(1.0, abs(case.value)) ** (order + 1)
    truth = truth.to(dtype).double()  # which may overflow
    torch.testing.assert_close(out.double(), truth, rtol=0, atol=tolerance)


@settings(max_examples=examples(200), deadline=None)
@given(st.data(), st.sampled_from(CASES), st.sampled_from(DTYPES), st.sampled_from((1, 2)))
def test_act_backward(data, case, dtype, order):
    shape = tuple(data.draw(st.lists(sizes, min_size=1, max_size=3)))
    gy, s, g = (data.draw(tensors(shape, dtype)) for _ in range(3))
    needed = data.draw(st.tuples(*[st.booleans()] * 3))
    s = s.sigmoid()
    outputs = ops.act_backward(gy, s, g, case.name, case.value, order, *needed)
    d = lambda order: ops.act(s.double(), None, case.name, case.value, order)
    truths = gy.double() * g.double() * d(order + 1), gy.double() * d(order), g.double() * d(order)
    for out, truth, need in zip(outputs, truths, needed, strict=True):
        if not need:
            assert out.shape == (0,) and out.dtype == dtype
            continue
        assert out.shape == s.shape and out.stride() == torch.empty_like(s).stride() and out.dtype == dtype
        scale = max(1.0, truth.abs().max().item()) if truth.numel() else 1.0
        tolerance = 4 * torch.finfo(dtype).eps * scale * max(1.0, abs(case.value)) ** (order + 2)
        torch.testing.assert_close(out.double(), truth.to(dtype).double(), rtol=0, atol=tolerance)


@settings(max_examples=examples(100), deadline=None)
@given(st.data(), st.sampled_from(CASES), st.sampled_from(DTYPES), st.sampled_from((1, 2)), st.booleans())
def test_act_jvp(data, case, dtype, order, need_y):
    shape = tuple(data.draw(st.lists(sizes, min_size=1, max_size=3)))
    ts, tg, s, g = (data.draw(tensors(shape, dtype)) for _ in range(4))
    s = s.sigmoid()
    outputs = ops.act_jvp(ts, tg, s, g, case.name, case.value, order, need_y)
    d = lambda order: ops.act(s.double(), None, case.name, case.value, order)
    terms = ts.double() * g.double() * d(order + 1), tg.double() * d(order)
    for out, truth, need in zip(outputs, (sum(terms), g.double() * d(order)), (True, need_y), strict=True):
        if not need:
            assert out.shape == (0,) and out.dtype == dtype
            continue
        assert out.shape == s.shape and out.stride() == torch.empty_like(s).stride() and out.dtype == dtype
        scale = max(1.0, *(t.abs().max().item() for t in (truth, *terms))) if truth.numel() else 1.0
        tolerance = 4 * torch.finfo(dtype).eps * scale * max(1.0, abs(case.value)) ** (order + 2)
        torch.testing.assert_close(out.double(), truth.to(dtype).double(), rtol=0, atol=tolerance)


@settings(max_examples=examples(100), deadline=None)
@given(st.data(), st.booleans(), st.booleans(), st.sampled_from(DTYPES))
def test_mm(data, trans_a, trans_b, dtype):
    m, k, n = (data.draw(sizes) for _ in range(3))
    a = data.draw(tensors((k, m) if trans_a else (m, k), dtype))
    b = data.draw(tensors((n, k) if trans_b else (k, n), dtype))

    def run(fn, convert):
        args = [convert(t).detach().requires_grad_() for t in (a, b)]
        y = fn(*args)
        return [y, *grad(y.square().sum(), args)]

    ours = lambda a, b: fg.mm(a, b, trans_a=trans_a, trans_b=trans_b)
    stock = lambda a, b: torch.mm(a.mT if trans_a else a, b.mT if trans_b else b)
    triples = zip(run(ours, lambda t: t), run(stock, lambda t: t), run(stock, lambda t: t.double()), strict=True)
    for mine, theirs, truth in triples:
        error_within_twice(mine, theirs, truth.detach(), dtype)


@settings(max_examples=examples(50), deadline=None)
@given(st.data(), st.floats(-3, 3), st.sampled_from(DTYPES))
def test_mul_constant(data, c, dtype):
    x = data.draw(tensors(tuple(data.draw(st.lists(sizes, min_size=1, max_size=3))), dtype)).detach().requires_grad_()
    y = fg.mul_constant(x, c)
    torch.testing.assert_close(y, x * c)
    torch.testing.assert_close(grad(y.sum(), x)[0], torch.full_like(x, c))


@pytest.mark.parametrize("case", (Case("gelu"), Case("tanh")), ids=str)
def test_outputs_are_no_aliases(case):
    x = torch.randn(4, 3, device=DEVICE)
    w = torch.eye(3, device=DEVICE)
    for y in (fg.act(x, "identity"), fg.mul_constant(x, 1.0), fg.linear(x, w), case.linear_act(x, w)):
        assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_badly_scaled_inputs():
    """Cancellation and large sums: no worse than stock."""
    g = torch.Generator().manual_seed(0)
    for scale in (1e-20, 1e-3, 1e3, 1e15):
        x, w = (torch.randn(s, generator=g).to(DEVICE) * scale for s in ((64, 257), (33, 257)))
        truth = F.linear(x.double(), w.double())
        error_within_twice(fg.linear(x, w), F.linear(x, w), truth, torch.float32)


@pytest.mark.parametrize("order", (0, 1))
def test_layouts_of_act(order):
    """As torch's: rows of a wider tensor, short rows, channels last, dimensions of one element, other layouts of g."""
    wide = torch.randn(6, 5, 40, device=DEVICE)
    image = torch.randn(2, 7, 4, 3, device=DEVICE).to(memory_format=torch.channels_last)
    for s in (wide[..., :33], wide[..., :3], wide[:, 2], wide[:, :, 0], image, image[:, :, :1, :1], image[..., 1:]):
        for g in (
            torch.randn_like(s),
            torch.randn(s.mT.shape, device=DEVICE).mT,
            torch.ones((), device=DEVICE).expand_as(s),
        ):
            given = None if order == 0 else g
            y = ops.act(s, given, "square", 0.0, order)
            assert y.stride() == torch.empty_like(s).stride()
            assert torch.equal(y, s.square() if order == 0 else 2 * s * g)


def test_every_activation_is_drawn():
    assert {c.name for c in CASES} == set(REGISTRY)
