"""The ops as torch sees them: opcheck, PyTorch's own samples for linear, modules, threads."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from fusegrad import backends, ops
from fusegrad.ops import OPS

from cases import DEVICE, Case, leaves


def samples():
    x, w, b = leaves(torch.float32)
    s = torch.rand(3, 4, device=DEVICE, requires_grad=True)
    yield "mul_constant", (x, 0.5)
    yield "mul_constant", (x.detach().mT, -2.0)
    for trans_a in (False, True):
        for trans_b in (False, True):
            yield "mm", (x.mT if trans_a else x, w if trans_b else w.mT, trans_a, trans_b)
    yield "linear", (x, w, b)
    yield "linear", (x.detach().reshape(5, 1, 3), w.detach(), None)
    yield "linear", (x[0], w, b)
    # one that saves its input, and one that saves its output, which is all that fakes and rules ask
    for case in (Case("silu"), Case("leaky_relu", 0.5)):
        for save in (False, True):
            yield "linear_act", (x, w, b, case.name, case.value, save)
        yield "linear_act", (x.detach(), w.detach(), None, case.name, case.value, False)
        yield "act", (s, None, case.name, case.value, 0)
        w2, b2 = torch.rand(2, 4, device=DEVICE), torch.rand(2, device=DEVICE)
        for save in (False, True):
            yield "mlp", (x, w, b, w2.requires_grad_(), b2.requires_grad_(), case.name, case.value, save)
        yield "mlp", (x.detach(), w.detach(), None, w2.detach(), b2.detach(), case.name, case.value, True)
        bilinear = x, w, torch.rand_like(w).requires_grad_(), b, torch.rand_like(b).requires_grad_()
        for save in (False, True):
            yield "gated", (*bilinear, case.name, case.value, save)
        yield "gated", (*(t.detach() for t in bilinear[:3]), None, None, case.name, case.value, True)
        gate, up = torch.rand(2, 5, 4, device=DEVICE)
        for needed in ((True,) * 5, (False, True, False, False, True)):
            args = torch.rand(5, 4, device=DEVICE).requires_grad_(), *bilinear[:3], gate, up
            yield "gated_backward", (*args, case.name, case.value, *needed)
    case = Case("swish", 0.5)  # the others do not ask even that
    yield "act", (s, torch.rand_like(s).requires_grad_(), case.name, case.value, 1)
    yield "act", (s.mT, torch.rand_like(s).mT, case.name, case.value, 2)
    yield "act", (s, None, case.name, case.value, 3)
    gy, saved = torch.rand(2, 5, 4, device=DEVICE)
    args = case.name, case.value, False, True, False
    yield "linear_act_backward", (gy.requires_grad_(), x, w, saved, case.name, case.value, True, True, True)
    yield (
        "linear_act_backward",
        (gy.detach(), x, w, saved.requires_grad_(), *args),
    )
    gy, saved, g = torch.rand(3, 3, 4, device=DEVICE)
    args = gy.requires_grad_(), saved.requires_grad_(), g.requires_grad_()
    for order in (1, 2):
        yield "act_vjp", (*args, case.name, case.value, order, True, True, True)
        transposed = (t.detach().mT for t in args)
        yield "act_vjp", (*transposed, case.name, case.value, order, True, False, False)
        for need_y in (False, True):
            ts = torch.rand(3, 4, device=DEVICE).requires_grad_(need_y)
            yield "act_jvp", (ts, *args, case.name, case.value, order, need_y)
    for need_sum in (False, True):
        yield "mm_dact", (gy, w, torch.rand(3, 3, device=DEVICE), case.name, case.value, need_sum)
    yield "act_reference", (s, torch.rand_like(s).requires_grad_(), case.name, case.value, 4)


SAMPLES = list(samples())


@pytest.mark.parametrize("i", range(len(SAMPLES)), ids=lambda i: f"{SAMPLES[i][0]}-{i}")
def test_opcheck(i):
    op, args = SAMPLES[i]
    # the rest is the same on every backend, and each launch takes long in the interpreter
    options = {"test_utils": ("test_schema", "test_faketensor")} if backends.INTERPRETED else {}
    torch.library.opcheck(OPS[op], args, **options)


@pytest.mark.parametrize("needed", ((True, True, True), (True, False, False), (False, True, True)), ids=str)
@pytest.mark.parametrize("act", ("silu", "identity"))
def test_the_fused_backward_is_differentiable_in_every_mode(act, needed):
    """The rules call it in plain eager mode only, but it stands on its own as every op does."""
    generator = torch.Generator().manual_seed(0)
    fresh = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE).requires_grad_()
    args = fresh(2, 2, 3), fresh(2, 2, 2), fresh(3, 2), fresh(2, 2, 3)
    op = OPS["linear_act_backward"]
    present = lambda grads: tuple(g for g, n in zip(grads, needed, strict=True) if n)
    fn = lambda gy, x, w, s: present(op(gy, x, w, s, act, 0.0, *needed))

    def composed(gy, x, w, s):
        gz = gy if act == "identity" else ops.act(s, gy, act, 0.0, 1)
        rows = gz.flatten(0, 1)
        return present((gz @ w, rows.mT @ x.flatten(0, 1), rows.sum(0)))

    in_every_mode(fn, composed, args, ((0, 0, None, 0), (0, None, None, 0), (None, 0, None, None)))


@pytest.mark.parametrize("need_sum", (False, True))
@pytest.mark.parametrize("act", ("silu", "identity"))
def test_the_product_that_makes_gz_is_differentiable_in_every_mode(act, need_sum):
    generator = torch.Generator().manual_seed(0)
    fresh = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE).requires_grad_()
    args = fresh(3, 2), fresh(2, 4), fresh(3, 4)
    fn = lambda a, b, s: OPS["mm_dact"](a, b, s, act, 0.0, need_sum)[: 1 + need_sum]

    def composed(a, b, s):
        gz = a @ b if act == "identity" else ops.act(s, a @ b, act, 0.0, 1)
        return (gz, gz.sum(0))[: 1 + need_sum]

    if act == "identity":  # s has no part in it
        args, fn_, composed_ = args[:2], fn, composed
        fn, composed = (lambda a, b, f=f: f(a, b, torch.ones(3, 4, device=DEVICE).to(a)) for f in (fn_, composed_))
    in_every_mode(fn, composed, args, ((0, 0, 0)[: len(args)], (0, None, None)[: len(args)]))


@pytest.mark.parametrize(
    "act, needed",
    (
        *((act, (True,) * 5) for act in ("tanh", "silu", "identity")),
        ("silu", (True, False, False, False, False)),
        ("silu", (False, True, False, False, True)),
        ("tanh", (False, False, True, True, False)),
    ),
    ids=str,
)
def test_the_backward_of_a_gated_layer_is_differentiable_in_every_mode(act, needed):
    generator = torch.Generator().manual_seed(0)
    fresh = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE).requires_grad_()
    args = fresh(2, 2, 3), fresh(2, 2, 2), fresh(3, 2), fresh(3, 2), fresh(2, 2, 3), fresh(2, 2, 3)
    present = lambda outputs: tuple(t for t, n in zip(outputs, needed, strict=True) if n)
    fn = lambda *args: present(OPS["gated_backward"](*args, act, 0.0, *needed))

    def composed(gy, x, w_gate, w_up, s, up):
        gz = gy * up if act == "identity" else ops.act(s, gy * up, act, 0.0, 1)
        gu = gy * (ops.act(s, None, act, 0.0, 0) if act == "silu" else s)
        rows = lambda t: t.flatten(0, 1)
        of_w = lambda g: rows(g).mT @ rows(x)
        return present((gz @ w_gate + gu @ w_up, of_w(gz), of_w(gu), rows(gz).sum(0), rows(gu).sum(0)))

    in_every_mode(fn, composed, args, ((0,) * 6, (0, None, None, None, 0, 0), (None, 1, 0, None, None, None)))


@pytest.mark.parametrize("order", (1, 2))
@pytest.mark.parametrize("needed", ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)), ids=str)
def test_the_backward_of_act_is_differentiable_in_every_mode(needed, order):
    act = "silu"  # the rules do not ask which, nor whether it saves its input
    generator = torch.Generator().manual_seed(0)
    args = tuple(torch.randn(2, 3, generator=generator, dtype=torch.float64).to(DEVICE) for _ in range(3))
    args = tuple(t.requires_grad_() for t in args)
    needed = tuple(map(bool, needed))
    present = lambda outputs: tuple(t for t, n in zip(outputs, needed, strict=True) if n)
    fn = lambda *args: present(OPS["act_vjp"](*args, act, 0.0, order, *needed))
    d = lambda s, order: ops.act(s, None, act, 0.0, order)
    composed = lambda gy, s, g: present((gy * g * d(s, order + 1), gy * d(s, order), g * d(s, order)))
    in_every_mode(fn, composed, args, ((0, 0, 0), (0, None, None), (None, 1, None), (1, None, 0)))
    agree = lambda compute: torch.testing.assert_close(compute(fn), compute(composed))
    twice = lambda fn: torch.func.hessian(lambda *args: sum(t.sin().sum() for t in fn(*args)), argnums=(0, 1, 2))
    agree(lambda fn: twice(fn)(*(t.detach() for t in args)))
    with torch.autocast(DEVICE, torch.bfloat16):
        agree(lambda fn: fn(*args))


@pytest.mark.parametrize("order", (1, 2))
@pytest.mark.parametrize("need_y", (False, True))
def test_the_jvp_of_act_is_differentiable_in_every_mode(need_y, order):
    act = "silu"  # as above
    generator = torch.Generator().manual_seed(0)
    args = tuple(torch.randn(2, 3, generator=generator, dtype=torch.float64).to(DEVICE) for _ in range(4))
    args = tuple(t.requires_grad_() for t in args)
    outputs = 1 + need_y
    fn = lambda *args: OPS["act_jvp"](*args, act, 0.0, order, need_y)[:outputs]
    d = lambda s, order: ops.act(s, None, act, 0.0, order)
    composed = lambda ts, tg, s, g: (ts * g * d(s, order + 1) + tg * d(s, order), g * d(s, order))[:outputs]
    in_every_mode(fn, composed, args, ((0, 0, 0, 0), (0, None, None, None), (None, 1, None, 0)))
    agree = lambda compute: torch.testing.assert_close(compute(fn), compute(composed))
    twice = lambda fn: torch.func.hessian(lambda *args: sum(t.sin().sum() for t in fn(*args)), argnums=(0, 1, 2, 3))
    agree(lambda fn: twice(fn)(*(t.detach() for t in args)))
    with torch.autocast(DEVICE, torch.bfloat16):
        agree(lambda fn: fn(*args))


def in_every_mode(fn, composed, args, batches):
    """A fused op against the ops that it does the work of."""
    torch.testing.assert_close(fn(*args), composed(*args))
    assert gradcheck(fn, args, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(fn, args, check_fwd_over_rev=True)
    for i, t in enumerate(args):  # one tangent alone: that of an output may be zero
        alone = lambda fn, i=i: lambda t: fn(*args[:i], t, *args[i + 1 :])
        jvps = (torch.func.jvp(alone(f), (t,), (torch.ones_like(t),)) for f in (fn, composed))
        torch.testing.assert_close(*jvps)
        with forward_ad.dual_level():
            outputs = alone(fn)(forward_ad.make_dual(t, torch.ones_like(t)))
            assert all(forward_ad.unpack_dual(out).tangent is not None for out in outputs)
    for dims in batches:
        batched = [a if d is None else torch.stack([a, a + 1], d) for a, d in zip(args, dims, strict=True)]
        torch.testing.assert_close(torch.vmap(fn, dims)(*batched), torch.vmap(composed, dims)(*batched))


def test_every_op_is_sampled():
    assert {op for op, _ in SAMPLES} == set(OPS)
