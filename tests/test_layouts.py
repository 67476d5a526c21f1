"""Inputs of any size and layout: empty, odd, strided, transposed, expanded, offset; in every dtype."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad

import fusegrad as fg
from fusegrad import ops
from fusegrad.activations import REGISTRY
from fusegrad.ops import OPS

from cases import CASES, DEVICE, Case
from drawn import activations, dtypes, examples, shapes, sizes, tensors
from rounding import Near, assert_near

flags = st.tuples(*[st.booleans()] * 3)

# How far torch's float64 is from the truth: its softplus is linear from where e^-20 is left, while ours has smooth
# derivatives; the derivative of its celu has 1 / alpha as a float32, and that of its gelu_tanh 1 - tanh^2.
STEPS = {"softplus": math.exp(-20), "celu": 2**-24, "gelu_tanh": 2**-47}


@st.composite
def layers(draw, count, dtypes=dtypes):
    """x, and w and b of each of the layers that follow one another; a b may be None."""
    dtype, k = draw(dtypes), draw(sizes)
    drawn = [draw(tensors((*draw(shapes | st.just(())), k), dtype))]
    for _ in range(count):
        n = draw(sizes)
        drawn += [draw(tensors((n, k), dtype)), draw(st.none() | tensors((n,), dtype))]
        k = n
    return drawn


def scale(case: Case, order: int, dtype: torch.dtype) -> float:
    """The size of the terms that D_order is made of, at numbers of size 1."""
    v = abs(case.value)
    powers = {"sin": order, "morlet": order, "celu": 1 - order, "squareplus": 1 - order}
    powers |= dict.fromkeys(("softplus", "swish", "snake"), order - 1)
    return max(1.0, v ** (powers.get(case.name, 1) if v else 0), STEPS.get(case.name, 0.0) / torch.finfo(dtype).eps)


def value(z: Near, case: Case, dtype: torch.dtype) -> Near:
    return z.through(case.stock, scale(case, 0, dtype))


def slope(z: Near, case: Case, dtype: torch.dtype) -> Near:
    """act'(z), as stock's float64 has it."""

    def first(z: Tensor) -> Tensor:
        z = z.clone().requires_grad_()
        return grad(case.stock(z).sum(), z)[0]

    return z.through(first, scale(case, 1, dtype))


def derivative(s: Tensor, case: Case, order: int) -> Near:
    """D_order(s), as the reference's float64 has it."""
    fn = lambda s: ops.act.reference(s, None, case.name, case.value, order)
    return elements(s).through(fn, scale(case, order, s.dtype))


def elements(t: Tensor) -> Near:
    return Near(t, t.dtype)


def linear(x: Near, w: Near, b: Near | None) -> Near:
    return x @ w.mT if b is None else x @ w.mT + b


def assert_right(fn, stock, drawn, bounds):
    """Values and gradients of fn against stock's, and `bounds` of gy and the tensors, gy and the first as matrices."""

    def run(fn):
        args = [t if t is None else t.make().requires_grad_() for t in drawn]
        y = fn(*args)
        gy = torch.linspace(-1, 1, max(1, y.numel()), dtype=y.dtype, device=y.device)[: y.numel()].reshape(y.shape)
        found = iter(grad(y, [t for t in args if t is not None], gy))
        return args, gy, [y.detach(), *(t if t is None else next(found) for t in args)]

    args, gy, mine = run(fn)
    _, _, theirs = run(stock)
    x, *rest = (None if t is None else elements(t) for t in args)
    for got, other, bound in zip(mine, theirs, bounds(elements(gy).rows(), x.rows(), *rest), strict=True):
        if got is not None:
            assert got.shape == other.shape and got.dtype == other.dtype
            assert_near(got.reshape(bound.value.shape), bound, other.reshape(bound.value.shape))


@examples(1.5)
@given(layers(1), activations)
def test_linear_act(drawn, case):
    dtype = drawn[0].dtype

    def bounds(gy, x, w, b):
        z = linear(x, w, b)
        gz = gy * slope(z, case, dtype)
        return value(z, case, dtype), gz @ w, gz.mT @ x, gz.sum_rows()

    assert_right(case.linear_act, case.stock_linear, drawn, bounds)


@examples()
@given(layers(2), activations)
def test_mlp(drawn, case):
    dtype = drawn[0].dtype

    def bounds(gy, x, w1, b1, w2, b2):
        z = linear(x, w1, b1)
        h = value(z, case, dtype)
        gz = (gy @ w2) * slope(z, case, dtype)
        return linear(h, w2, b2), gz @ w1, gz.mT @ x, gz.sum_rows(), gy.mT @ h, gy.sum_rows()

    ours = lambda x, w1, b1, w2, b2: fg.mlp(x, w1, b1, w2, b2, act=case.name, param=case.param)
    stock = lambda x, w1, b1, w2, b2: F.linear(case.stock_linear(x, w1, b1), w2, b2)
    assert_right(ours, stock, drawn, bounds)


@st.composite
def gates(draw):
    """x, w_gate, w_up, b_gate, b_up; each b may be None."""
    x, w_gate, b_gate = draw(layers(1))
    w_up, b_up = (draw(tensors(t, x.dtype)) for t in (w_gate.shape, w_gate.shape[:1]))
    return [x, w_gate, w_up, b_gate, draw(st.sampled_from((None, b_up)))]


@examples()
@given(gates(), activations)
def test_gated(drawn, case):
    dtype = drawn[0].dtype

    def bounds(gy, x, w_gate, w_up, b_gate, b_up):
        z, up = linear(x, w_gate, b_gate), linear(x, w_up, b_up)
        h = value(z, case, dtype)
        gz, gu = gy * up * slope(z, case, dtype), gy * h
        return h * up, gz @ w_gate + gu @ w_up, gz.mT @ x, gu.mT @ x, gz.sum_rows(), gu.sum_rows()

    ours = lambda *args: fg.gated(*args, act=case.name, param=case.param)
    stock = lambda x, w_gate, w_up, b_gate, b_up: case.stock_linear(x, w_gate, b_gate) * F.linear(x, w_up, b_up)
    assert_right(ours, stock, drawn, bounds)


@examples()
@given(st.booleans(), st.booleans(), dtypes, st.data())
def test_mm(trans_a, trans_b, dtype, data):
    m, k, n = (data.draw(sizes) for _ in range(3))
    drawn = [data.draw(tensors(s, dtype)) for s in ((k, m) if trans_a else (m, k), (n, k) if trans_b else (k, n))]

    def bounds(gy, a, b):
        a, b = a.mT if trans_a else a, b.mT if trans_b else b
        ga, gb = gy @ b.mT, a.mT @ gy
        return a @ b, ga.mT if trans_a else ga, gb.mT if trans_b else gb

    ours = lambda a, b: fg.mm(a, b, trans_a=trans_a, trans_b=trans_b)
    stock = lambda a, b: torch.mm(a.mT if trans_a else a, b.mT if trans_b else b)
    assert_right(ours, stock, drawn, bounds)


def saved(drawn, case: Case, order: int) -> Tensor:
    """s of D_order: z, or y where the activation saves that."""
    return drawn.make(lambda z: z if order == 0 or REGISTRY[case.name].saves_input else case.stock(z))


def assert_elementwise(outputs, needed, bounds, s):
    """Each output as near as its bound, and laid out as torch lays out what is made of s; those not needed empty."""
    for out, need, bound in zip(outputs, needed, bounds, strict=True):
        assert out.dtype == s.dtype
        if not need:
            assert out.shape == (0,)
            continue
        assert out.stride() == torch.empty_like(s).stride() or s.numel() == 0
        assert_near(out, bound)


@examples()
@given(st.data(), activations, dtypes, st.sampled_from((0, 1, 2, 3, 4)))
def test_act(data, case, dtype, order):
    shape = data.draw(shapes)
    s, g = saved(data.draw(tensors(shape, dtype)), case, order), data.draw(tensors(shape, dtype)).make()
    y = ops.act(s, g if order else None, case.name, case.value, order)
    d = derivative(s, case, order)
    assert_elementwise([y], [True], [elements(g) * d if order else d], s)


@examples()
@given(st.data(), activations, dtypes, st.sampled_from((1, 2)), flags)
def test_act_backward(data, case, dtype, order, needed):
    shape = data.draw(shapes)
    s = saved(data.draw(tensors(shape, dtype)), case, order)
    gy, g = (data.draw(tensors(shape, dtype)).make() for _ in range(2))
    outputs = ops.act_vjp(gy, s, g, case.name, case.value, order, *needed)
    d, above = (derivative(s, case, k) for k in (order, order + 1))
    gy, g = elements(gy), elements(g)
    assert_elementwise(outputs, needed, (gy * g * above, gy * d, g * d), s)


@examples()
@given(st.data(), activations, dtypes, st.sampled_from((1, 2)), st.booleans())
def test_act_jvp(data, case, dtype, order, need_y):
    shape = data.draw(shapes)
    s = saved(data.draw(tensors(shape, dtype)), case, order)
    ts, tg, g = (data.draw(tensors(shape, dtype)).make() for _ in range(3))
    outputs = ops.act_jvp(ts, tg, s, g, case.name, case.value, order, need_y)
    d, above = (derivative(s, case, k) for k in (order, order + 1))
    ts, tg, g = elements(ts), elements(tg), elements(g)
    assert_elementwise(outputs, (True, need_y), (ts * g * above + tg * d, g * d), s)


@examples()
@given(st.data(), layers(1), activations, flags)
def test_linear_act_backward(data, drawn, case, needed):
    x, w = (t.make() for t in drawn[:2])
    shape = (*x.shape[:-1], len(w))
    s, gy = saved(data.draw(tensors(shape, x.dtype)), case, 1), data.draw(tensors(shape, x.dtype)).make()
    outputs = OPS["linear_act_backward"](gy, x, w, s, case.name, case.value, *needed)
    gz = (elements(gy) * derivative(s, case, 1)).rows()
    bounds = gz @ elements(w), gz.mT @ elements(x).rows(), gz.sum_rows()
    for out, need, bound, of in zip(outputs, needed, bounds, (x.shape, w.shape, w.shape[:1]), strict=True):
        assert out.dtype == x.dtype and out.shape == (of if need else (0,))
        if need:
            assert_near(out.reshape(bound.value.shape), bound)


@examples()
@given(st.data(), activations, dtypes, st.booleans())
def test_mm_dact(data, case, dtype, need_sum):
    m, k, n = (data.draw(sizes) for _ in range(3))
    a, b = (data.draw(tensors(shape, dtype)).make() for shape in ((m, k), (k, n)))
    s = saved(data.draw(tensors((m, n), dtype)), case, 1)
    made, sums = OPS["mm_dact"](a, b, s, case.name, case.value, need_sum)
    gz = (elements(a) @ elements(b)) * derivative(s, case, 1)
    assert_near(made, gz)
    if need_sum:
        assert_near(sums, gz.sum_rows())


@examples()
@given(layers(1, st.just(torch.float64)), activations)
def test_second_gradients(drawn, case):
    """Against stock's, within roundings of the largest number of all."""
    assume(drawn[0].shape[-1] > 0)  # else z is where activations have their kinks

    def run(layer):
        args = [t.make().requires_grad_() for t in drawn if t is not None]
        first = grad(layer(*args).square().sum(), args, create_graph=True)
        second = grad(sum(t.square().sum() for t in first), args, materialize_grads=True)
        return [t.detach() for t in (*first, *second)]

    ours, stock = run(case.linear_act), run(case.stock_linear)
    terms = scale(case, 3, torch.float16)
    largest = max([terms, *(t.abs().max().item() for t in stock if t.numel())])
    tolerance = largest * (1e-11 + 100 * terms * STEPS.get(case.name, 0.0))
    for mine, theirs in zip(ours, stock, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


@examples(0.5)
@given(st.data(), st.floats(-3, 3), dtypes)
def test_mul_constant(data, c, dtype):
    x = data.draw(tensors(data.draw(shapes), dtype)).make().requires_grad_()
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
        assert_near(fg.linear(x, w), elements(x) @ elements(w).mT, F.linear(x, w), times=0.1)


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
