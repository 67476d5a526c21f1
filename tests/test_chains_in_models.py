"""The layers of a Sequential as one op: in every mode, and what changes later is obeyed."""

import copy
import locale
import shutil
import subprocess
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo import compiled_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, functional, grad
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.func import functional_call, vmap
from torch.utils.checkpoint import checkpoint

import fusegrad as fg
from fusegrad import backends, routing
from fusegrad.benchmarks import small_networks
from fusegrad.fusion import chains

try:
    import numpy as np
except ImportError:
    np = None

pytestmark = [pytest.mark.skipif(not backends.CHAINS, reason="no extension"), pytest.mark.usefixtures("nodes")]
close = torch.testing.assert_close


def net(act=nn.Tanh):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 16), act(), nn.Linear(16, 8), act(), nn.Linear(8, 2)).double()


def pair(act=nn.Tanh):
    return net(act), fg.fuse(net(act)), torch.randn(12, 3, dtype=torch.double, requires_grad=True)


def compare(theirs, ours, x):
    results = []
    for m in (theirs, ours):
        y = m(x)
        to = [x, *(p for p in m.parameters() if p.requires_grad)]
        results.append([y, *grad(y.sin().sum(), to, allow_unused=True, materialize_grads=True)])
    close(*results)


def test_a_sequential_is_a_chain(ran):
    theirs, ours, x = pair()
    compare(theirs, ours, x)
    assert ran == [3]
    row = fg.explain(ours, x)
    assert [(r.ran.fused, r.ran.alone) for r in row] == [(1, 0), (1, 0), (0, 1)]


def test_an_input_that_is_differentiated_runs_layer_by_layer(ran, monkeypatch):
    monkeypatch.setattr(routing, "CHAIN_OF_DERIVED", False)
    theirs, ours, x = pair()
    compare(theirs, ours, x)
    assert ran == []
    close(ours(x.detach()), theirs(x.detach()))
    with torch.no_grad():
        close(ours(x), theirs(x))
    assert ran == [3, 3]


def negated(t):
    """A tensor whose numbers are to be negated, as torch notes of the imaginary part of a conjugate."""
    return torch.complex(t, t).conj().imag


def test_explain_counts_a_layer_that_comes_twice():
    layer = nn.Linear(8, 8)
    m = fg.fuse(nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), layer))
    assert [(row.ran.fused, row.ran.alone) for row in fg.explain(m, torch.randn(12, 8))] == [(2, 1)]


CHANGES = {
    "frozen": (lambda m: m[2].weight.requires_grad_(False), [3]),
    "hook on a layer": (lambda m: m[2].register_forward_hook(lambda mod, args, y: y * 2), []),
    "hook on an activation": (lambda m: m[3].register_forward_pre_hook(lambda mod, args: (args[0] * 2,)), [2]),
    "backward hook": (lambda m: m[4].register_full_backward_hook(lambda mod, gx, gy: (gx[0] * 2,)), [2]),
    "another activation": (lambda m: m.__setitem__(1, nn.SiLU()), [3]),
    "another layer": (lambda m: m.__setitem__(2, nn.Linear(16, 8, bias=False, dtype=torch.double)), []),
    "tied": (lambda m: setattr(m[2], "bias", m[4].bias) or m[4].register_parameter("bias", None), None),
    "no bias": (lambda m: m[2].register_parameter("bias", None), [3]),
    "another forward": (lambda m: setattr(m[3], "forward", lambda z: z.cos()), [2]),
    "forward of a layer": (lambda m: setattr(m[2], "forward", lambda z: z[..., :8].cos()), []),
    "one deleted": (lambda m: m.__delitem__(1), [3]),
    "weight normed": (lambda m: nn.utils.parametrizations.weight_norm(m[2]), []),
    "own weight": (lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach() * 2)), [3]),
    "weight in its own dictionary": (lambda m: object.__setattr__(m[2], "weight", m[2].weight.detach() * 2), []),
    "bias deleted": (lambda m: delattr(m[2], "bias") or setattr(m[2], "bias", None), []),
    "negated weight": (lambda m: setattr(m[2], "weight", nn.Parameter(negated(m[2].weight.detach()))), [3]),
    "negated bias": (lambda m: setattr(m[4], "bias", nn.Parameter(negated(m[4].bias.detach()))), [3]),
    "dropout": (lambda m: m.insert(2, nn.Dropout(0.0)), [2]),
}  # fmt: skip


@pytest.mark.parametrize("after", (False, True), ids=("at once", "after a call"))
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_later_is_obeyed(change, after, ran):
    theirs, ours, x = pair()
    act, expected = CHANGES[change]
    if after:
        compare(theirs, ours, x)
        ran.clear()
    for m in (theirs, ours):
        torch.manual_seed(3)
        act(m)
    if change == "tied":
        pytest.raises((RuntimeError, ValueError), theirs, x)
        pytest.raises((RuntimeError, ValueError), ours, x)
        return
    compare(theirs, ours, x)
    assert ran == expected


def test_a_slope_that_changes(ran):
    theirs, ours, x = pair(lambda: nn.LeakyReLU(0.2))
    for slope in (0.2, 0.5, torch.tensor(0.3)):
        theirs[1].negative_slope = ours[1].negative_slope = slope
        compare(theirs, ours, x)
    assert ran[:2] == [3, 3]


def test_a_property_of_the_class_is_obeyed(monkeypatch):
    theirs, ours, x = pair()
    monkeypatch.setattr(nn.Linear, "weight", property(lambda m: m._parameters["weight"] * 2), raising=False)
    compare(theirs, ours, x)


@pytest.mark.skipif(np is None, reason="no numpy")
def test_numpys_numbers_as_slopes():
    for slope in (np.float64(0.2), np.float32(0.5), np.int64(2)):
        compare(*pair(lambda: nn.LeakyReLU(slope)))


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    """Where there is a German one, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("locales")
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")], check=True)
    return str(folder)


@pytest.mark.skipif(shutil.which("localedef") is None, reason="no localedef to make a locale with")
def test_a_locale_with_a_decimal_comma(locales, monkeypatch):
    monkeypatch.setenv("LOCPATH", locales)
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
        assert locale.localeconv()["decimal_point"] == ","
        compare(*pair(lambda: nn.LeakyReLU(0.25)))
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


def test_replaced_functions_are_obeyed(monkeypatch, ran):
    theirs, ours, x = pair()
    monkeypatch.setattr(F, "linear", lambda x, w, b=None: x @ w.mT)
    compare(theirs, ours, x)
    monkeypatch.undo()
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, z: z.sin())
    compare(theirs, ours, x)


def laplacian(m, x):
    (g,) = grad(m(x).sum(), x, create_graph=True)
    return sum(grad(g[:, i].sum(), x, create_graph=True)[0][:, i].square() for i in range(3))


def batched(m, x):
    return grad(m(x), x, torch.ones(2, 12, 2).double(), create_graph=True, is_grads_batched=True)[0]


def per_row(m, x):
    return vmap(lambda q: functional_call(m, dict(m.named_parameters()), q[None]))(x)


MODES = {
    "checkpoint": lambda m, x: checkpoint(m, x, use_reentrant=False),
    "older checkpoint": lambda m, x: checkpoint(m, x, use_reentrant=True),
    "saved tensors hooks": lambda m, x: _with(save_on_cpu(), lambda: m(x)),
    "anomalies": lambda m, x: _with(torch.autograd.detect_anomaly(), lambda: m(x)),
    "a Laplacian": laplacian,
    "hvp": lambda m, x: functional.hvp(lambda q: m(q).sin().sum(), x, torch.ones_like(x), create_graph=True)[1],
    "vectorised Hessian": lambda m, x: functional.hessian(lambda q: m(q).sin().sum(), x, True, vectorize=True),
    "batched gradients": batched,
    "vmap over rows": per_row,
}


def _with(context, call):
    with context:
        return call()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("mode", MODES)
def test_mode(mode):
    theirs, ours, x = pair(nn.SiLU)
    if mode == "older checkpoint":
        results = []
        for m in (theirs, ours):
            MODES[mode](m, x).sin().sum().backward()
            results.append([p.grad for p in m.parameters()])
        close(*results)
        return
    total = lambda m: MODES[mode](m, x).sin().sum()
    close(*(grad(total(m), [x, *m.parameters()], allow_unused=True) for m in (theirs, ours)))


def test_forward_mode_over_its_graph():
    """What was computed in plain eager mode is differentiated in forward mode, by tangents of gy."""
    theirs, ours, x = pair()
    tangents = []
    for m in (theirs, ours):
        y = m(x)
        with forward_ad.dual_level():
            gy = forward_ad.make_dual(torch.ones_like(y), torch.arange(24, dtype=torch.double).reshape(12, 2))
            tangents.append([forward_ad.unpack_dual(g).tangent for g in grad(y, [x, m[0].weight], gy)])
    close(*tangents)


def test_compiled_autograd_of_a_second_order():
    theirs, ours, x = pair()
    gradients = []
    in_compiled_autograd = compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager"))
    for m, mode in ((theirs, nullcontext()), (ours, in_compiled_autograd)):
        (g,) = grad(m(x).sin().sum(), x, create_graph=True)
        with mode:
            g.square().sum().backward()
        gradients.append([p.grad for p in m.parameters()])
    close(*gradients)


def test_fake_tensors_are_as_the_op_makes_them():
    for act in (nn.SiLU, nn.Tanh):  # with one after the last layer, too, whose input is saved or not
        _, ours, x = pair(act)
        last = fg.fuse(nn.Sequential(*ours, act()))
        for m in (ours, last):
            names, params = chains.chain_from([*m], 0)[1:3]
            args = x, [*m.parameters()], ",".join(map("{} {}".format, names, params))
            for save in (False, True):
                with torch.inference_mode():
                    made = torch.ops.fusegrad.chain(*args, save)
                with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
                    fake = torch.ops.fusegrad.chain(*args, save)
                assert [(t.shape, t.stride(), t.dtype) for t in made] == [(t.shape, t.stride(), t.dtype) for t in fake]


def test_backward_twice_gives_the_same_bits():
    _, ours, x = pair(nn.SiLU)
    y = ours(x).sin().sum()
    first = grad(y, [x, *ours.parameters()], retain_graph=True)
    assert all(map(torch.equal, first, grad(y, [x, *ours.parameters()])))


def test_it_keeps_no_more_bytes_than_stock():
    x = torch.randn(1001, 3, dtype=torch.double, requires_grad=True)
    for act in (nn.SiLU, nn.Tanh):
        kept = []
        for m in pair(act)[:2]:
            sizes = {}  # of what is no parameter

            def pack(t, sizes=sizes):
                if not isinstance(t, nn.Parameter):
                    sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
                return t

            with saved_tensors_hooks(pack, lambda t: t):
                m(x)
            kept.append(sum(sizes.values()))
        assert 0 < kept[1] <= kept[0]


def test_other_data_before_backward_raise():
    _, ours, x = pair()
    y = ours(x).sum()
    nn.utils.vector_to_parameters(torch.ones(sum(p.numel() for p in ours.parameters())).double(), ours.parameters())
    with pytest.raises(RuntimeError, match="was given other data between forward and backward"):
        y.backward()


def test_a_bias_of_another_size_before_backward_raises():
    _, ours, x = pair()
    y = ours(x).sum()
    ours[0].bias.data = torch.ones(len(ours[0].bias) + 1).double()
    with pytest.raises(RuntimeError, match=r"a bias, .*, was given other data between forward and backward"):
        y.backward()


def test_nan_and_infinity_stay_in_their_row():
    _, ours, _ = pair(nn.SiLU)
    x = torch.randn(20, 3, dtype=torch.double)
    x[3, 1], x[17, 0] = torch.nan, torch.inf
    close(ours(x), net(nn.SiLU)(x), equal_nan=True)


def test_explain_tells_up_to_how_many_rows_stock_serves(monkeypatch):
    monkeypatch.setattr(backends, "node", None)
    monkeypatch.setattr(routing, "SMALL_LAYER", 2**18)
    model = fg.fuse(nn.Sequential(*net(), nn.Dropout(), nn.Linear(2, 4)))
    assert [row.stock_rows for row in fg.explain(model)][:3] == [0] * 3
    monkeypatch.setattr(routing, "SMALL_TENSOR_IN_TRAINING", 2**16)
    assert [row.stock_rows for row in fg.explain(fg.MLP(3, 64, 4))] == [0] * 2


def test_the_mlp_is_a_chain_where_it_is_narrow():
    torch.manual_seed(0)
    ours = fg.MLP(3, 20, 2, act="silu", dtype=torch.double)
    theirs = nn.Sequential(nn.Linear(3, 20), nn.SiLU(), nn.Linear(20, 2)).double()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(30, 3, dtype=torch.double, requires_grad=True)
    compare(theirs, ours, x)
    assert ours(x).grad_fn.name() == "ChainBackward"


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_the_same_bits_each_time(threads):
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(7, 96), nn.SiLU(), nn.Linear(96, 80), nn.SiLU(), nn.Linear(80, 3)).double()
    ours, x = fg.fuse(copy.deepcopy(theirs)), torch.randn(1003, 7, dtype=torch.double, requires_grad=True)
    torch.set_num_threads(threads)  # one again in the next test
    compare(theirs, ours, x)
    first, again = (grad(ours(x).sin().sum(), [x, *ours.parameters()]) for _ in range(2))
    assert all(map(torch.equal, first, again))


def test_the_benchmark_of_small_networks_compares_the_same():
    for case in small_networks.cases("cpu", smoke=True):
        close(*(case.build(provider, case.dtype).run() for provider in ("stock", "fusegrad")))
