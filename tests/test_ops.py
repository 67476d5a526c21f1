"""The ops as torch sees them: opcheck, PyTorch's own samples for linear, modules, threads."""

import copy
import io
import itertools
import shutil
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck

import fusegrad as fg
from fusegrad import backends, ops
from fusegrad.ops import OPS

from cases import CASES, DEFAULTS, DEVICE, Case, leaves, plain


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
    for case in (Case("silu"), Case("leaky_relu", 0.5)):
        for save in (False, True):
            yield "linear_act", (x, w, b, case.name, case.value, save)
        yield "linear_act", (x.detach(), w.detach(), None, case.name, case.value, False)
        yield "act", (s, None, case.name, case.value, 0)
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
        w2, b2 = torch.rand(2, 4, device=DEVICE), torch.rand(2, device=DEVICE)
        for save in (False, True):
            yield "mlp", (x, w, b, w2.requires_grad_(), b2.requires_grad_(), case.name, case.value, save)
            yield "mm_dact", (gy, w, torch.rand(3, 3, device=DEVICE), case.name, case.value, save)
        yield "mlp", (x.detach(), w.detach(), None, w2.detach(), b2.detach(), case.name, case.value, True)
        yield "act_reference", (s, torch.rand_like(s).requires_grad_(), case.name, case.value, 4)


SAMPLES = list(samples())


@pytest.mark.parametrize("i", range(len(SAMPLES)), ids=lambda i: f"{SAMPLES[i][0]}-{i}")
def test_opcheck(i):
    op, args = SAMPLES[i]
    # the rest is the same on every backend, and each launch takes long in the interpreter
    options = {"test_utils": ("test_schema", "test_faketensor")} if backends.INTERPRETED else {}
    torch.library.opcheck(OPS[op], args, **options)


@pytest.mark.parametrize("needed", ((True, True, True), (True, False, False), (False, True, True)), ids=str)
@pytest.mark.parametrize("act", ("tanh", "silu", "identity"))
def test_the_fused_backward_is_differentiable_in_every_mode(act, needed):
    """The rules call it in plain eager mode only, but it stands on its own as every op does."""
    generator = torch.Generator().manual_seed(0)
    fresh = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE).requires_grad_()
    args = fresh(2, 3, 4), fresh(2, 3, 5), fresh(4, 5), fresh(2, 3, 4)
    op = OPS["linear_act_backward"]
    present = lambda grads: tuple(g for g, n in zip(grads, needed, strict=True) if n)
    fn = lambda gy, x, w, s: present(op(gy, x, w, s, act, 0.0, *needed))

    def composed(gy, x, w, s):
        gz = gy if act == "identity" else ops.act(s, gy, act, 0.0, 1)
        rows = gz.reshape(6, 4)
        return present((gz @ w, rows.mT @ x.reshape(6, 5), rows.sum(0)))

    in_every_mode(fn, composed, args, ((0, 0, None, 0), (0, None, None, 0), (None, 0, None, None)))


@pytest.mark.parametrize("need_sum", (False, True))
@pytest.mark.parametrize("act", ("tanh", "silu", "identity"))
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


@pytest.mark.parametrize("order", (1, 2))
@pytest.mark.parametrize("needed", list(itertools.product((False, True), repeat=3))[1:], ids=str)
@pytest.mark.parametrize("act", ("tanh", "silu"))
def test_the_backward_of_act_is_differentiable_in_every_mode(act, needed, order):
    generator = torch.Generator().manual_seed(0)
    args = tuple(torch.randn(2, 3, generator=generator, dtype=torch.float64).to(DEVICE) for _ in range(3))
    args = tuple(t.requires_grad_() for t in args)
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
@pytest.mark.parametrize("act", ("tanh", "silu"))
def test_the_jvp_of_act_is_differentiable_in_every_mode(act, need_y, order):
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


def test_opinfo_samples_of_linear():
    """What torch tests its own linear with."""
    pytest.importorskip("expecttest", reason="torch.testing._internal needs it")
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = (i for i in op_db if i.name == "nn.functional.linear")
    count = 0
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for sample in info.sample_inputs(DEVICE, dtype, requires_grad=True):
            args = [sample.input, *sample.args]
            if args[1].dim() != 2:  # F.linear also takes one weight vector; a layer has a matrix
                continue
            mine, stock = fg.linear(*args, **sample.kwargs), F.linear(*args, **sample.kwargs)
            torch.testing.assert_close(mine, stock)
            needs = [t for t in args if t is not None and t.requires_grad]
            torch.testing.assert_close(grad(mine.sum(), needs), grad(stock.sum(), needs))
            if dtype == torch.float64:
                fn = lambda *a: fg.linear_act(*a, act="silu")
                assert gradcheck(fn, args, check_forward_ad=True) and gradgradcheck(fn, args)
            count += 1
    assert count >= 20


def test_moduleinfo_samples_of_linear():
    pytest.importorskip("expecttest", reason="torch.testing._internal needs it")
    from torch.testing._internal.common_modules import module_db

    (info,) = (i for i in module_db if i.module_cls is nn.Linear)
    inputs = info.module_inputs_func(info, device=DEVICE, dtype=torch.float64, requires_grad=True, training=True)
    count = 0
    for m in inputs:
        torch.manual_seed(0)
        mine = fg.Linear(*m.constructor_input.args, **m.constructor_input.kwargs, device=DEVICE, dtype=torch.float64)
        args, kwargs = m.forward_input.args, m.forward_input.kwargs
        y = mine(*args, **kwargs)
        stock = nn.Linear(*m.constructor_input.args, **m.constructor_input.kwargs, device=DEVICE, dtype=torch.float64)
        stock.load_state_dict(mine.state_dict())
        torch.testing.assert_close(y, stock(*args, **kwargs))
        y.sum().backward()
        stock.zero_grad()
        stock(*args, **kwargs).sum().backward()
        torch.testing.assert_close([p.grad for p in mine.parameters()], [p.grad for p in stock.parameters()])
        count += 1
    assert count >= 2


@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_module_is_a_drop_in(case, bias):
    torch.manual_seed(0)
    stock = nn.Linear(6, 5, bias=bias, device=DEVICE, dtype=torch.float64)
    torch.manual_seed(0)
    mine = fg.Linear(6, 5, bias=bias, act=case.name, param=case.param, device=DEVICE, dtype=torch.float64)
    assert isinstance(mine, nn.Linear) and list(mine.state_dict()) == list(stock.state_dict())
    torch.testing.assert_close(mine.weight, stock.weight, rtol=0, atol=0)  # the same initialisation
    x = torch.randn(2, 3, 6, device=DEVICE, dtype=torch.float64)
    y = case.stock(stock(x))
    torch.testing.assert_close(mine(x), y)
    torch.testing.assert_close(fg.Act(case.name, case.param)(stock(x)), y)
    buffer = io.BytesIO()
    torch.save(mine, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(mine), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(again(x), y)


def test_training_takes_the_same_steps():
    """Ten steps of SGD, of ours and of stock."""
    x, t = (torch.randn(32, n, device=DEVICE, dtype=torch.float64) for n in (4, 1))
    losses = []
    for convert in (lambda m: m, fg.fuse):
        torch.manual_seed(0)
        model = convert(nn.Sequential(nn.Linear(4, 16), nn.Mish(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)))
        model.to(DEVICE, torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), t)
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("number", (np.float32(0.5), np.float64(0.5), np.int64(2), Fraction(1, 2)), ids=repr)
def test_numbers_of_other_types(number):
    x = plain()[0]
    torch.testing.assert_close(fg.mul_constant(x, number), x * float(number))
    torch.testing.assert_close(fg.act(x, "elu", number), F.elu(x, float(number)))
    torch.testing.assert_close(fg.Act("elu", number)(x), F.elu(x, float(number)))


@pytest.mark.parametrize("constant", (lambda x: 1 / x.shape[0], lambda x: x.shape[0]), ids=("float", "int"))
def test_symbolic_constant(constant):
    """A number made of a size: one graph for all sizes."""

    class Net(nn.Module):
        def forward(self, x):
            return fg.mul_constant(x, constant(x))

    dims = ({0: torch.export.Dim("n")},)
    exported = [torch.export.export(Net(), (torch.ones(4, 3),), dynamic_shapes=dims, strict=s) for s in (False, True)]
    torch._dynamo.reset()
    compiled = torch.compile(Net(), backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.compiler.set_stance("default"):
        for n in (2, 3, 5):
            x = torch.arange(3.0 * n).reshape(n, 3)
            for call in (compiled, *(e.module() for e in exported)):
                torch.testing.assert_close(call(x), x * constant(x))
            torch.compiler.set_stance("fail_on_recompile")


def test_many_threads_at_once():
    expected = {c: run_case(c) for c in DEFAULTS}
    wrong = []

    def work():
        for case in DEFAULTS:
            if not torch.equal(run_case(case), expected[case]):
                wrong.append(case)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def run_case(case: Case):
    args = leaves(torch.float32)
    first = grad(case.linear_act(*args).sin().sum(), args, create_graph=True)
    return grad(sum(g.square().sum() for g in first), args)[1]


def test_a_graph_compiled_with_other_rules_is_compiled_again(tmp_path):
    """Torch saves compiled graphs on disk; a release whose rules differ must not be given those of another."""
    copy = tmp_path / "copy"
    shutil.copytree(Path(fg.__file__).parent, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    code = "import cache_key, torch; print(torch.compiler.config.cache_key_tag)"
    tag = lambda: subprocess.check_output([sys.executable, "-c", code], cwd=copy / "internals", text=True)
    before = tag()
    assert before == tag() and "fusegrad" in before
    (copy / "ops" / "act.py").write_text("# other rules")
    assert tag() != before


def test_hooks_see_gradients():
    x, w, b = leaves()
    seen = []
    z = fg.linear(x, w, b)
    z.register_hook(lambda g: seen.append(g.clone()))
    fg.act(z, "silu").sum().backward()
    stock = z.detach().requires_grad_()
    torch.testing.assert_close(seen, list(grad(F.silu(stock).sum(), stock)))


def test_anomaly_mode():
    x, w, b = leaves()
    with torch.autograd.detect_anomaly(check_nan=True):
        fg.linear_act(x, w, b, act="gelu").sum().backward()
    torch.testing.assert_close(x.grad, grad(F.gelu(F.linear(x, w, b)).sum(), x)[0])


def test_strict_forward_mode_without_tangent():
    """A dual input whose tangent does not reach the output."""
    x, w, b = (t.detach() for t in leaves())
    with torch.autograd.forward_ad.dual_level():
        y = fg.linear_act(x, w, b, act="silu")
        assert torch.autograd.forward_ad.unpack_dual(y).tangent is None


def test_nested_tensors_take_the_stock_path():
    layer = nn.Linear(3, 4, device=DEVICE)
    parts = [torch.randn(n, 3, device=DEVICE) for n in (2, 5)]
    x = torch.nested.nested_tensor(parts, layout=torch.jagged)
    calls = {
        "linear": (lambda: fg.linear(x, layer.weight, layer.bias), layer),
        "linear_act": (lambda: fg.linear_act(x, layer.weight, layer.bias, act="silu"), lambda p: F.silu(layer(p))),
        "act": (lambda: fg.act(x, "tanh"), torch.tanh),
    }
    for ours, stock in calls.values():
        expected = torch.cat([stock(p) for p in parts])
        y = ours().values()
        torch.testing.assert_close(y, expected)
        if expected.requires_grad:
            torch.testing.assert_close(grad(y.sum(), layer.weight), grad(expected.sum(), layer.weight))
