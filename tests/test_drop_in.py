"""The functions and modules do what torch's do, in all that one may do with these."""

import copy
import io
import shutil
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck

import fusegrad as fg

from cases import CASES, DEFAULTS, DEVICE, Case, leaves, plain
from processes import python


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
    code = f"import sys, torch; sys.path[0] = {str(copy / 'internals')!r}\n"
    code += "import cache_key; print(torch.compiler.config.cache_key_tag)"
    tag = lambda: python("-c", code).stdout
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
