"""Derivatives of a Sequential that was found to be a chain before: what changed since is obeyed, and calls are one."""

import copy
import pickle
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import fusegrad as fg
from fusegrad import backends

pytestmark = pytest.mark.skipif(backends.node is None or not backends.CHAINS, reason="no C++ nodes")


@pytest.fixture
def at_once(monkeypatch):
    """Of each call that C++ was asked, whether it made the derivatives."""
    calls, run = [], backends.node.kept_streams
    note = lambda made: calls.append(made is not None)
    monkeypatch.setattr(backends.node, "kept_streams", lambda *args: note(made := run(*args)) or made)
    return calls


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 9), nn.Softplus(2.0), nn.Linear(9, 2))
    return fg.fuse(net.double())


def points(*lead):
    return torch.randn(*lead, 3, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def by_hand(model, x):
    """Value, first derivatives and Laplacian of each point, by torch.func of the model as it is now."""
    flat = x.reshape(-1, 3)
    first, second = (torch.func.vmap(f(model))(flat) for f in (torch.func.jacrev, torch.func.hessian))
    y = torch.stack([model(p) for p in flat])
    parts = y, first, second.diagonal(dim1=-2, dim2=-1).sum(-1)
    return tuple(t.reshape(*x.shape[:-1], *t.shape[1:]) for t in parts)


def check(model, x):
    for mine, truth in zip(fg.laplacian(model, x), by_hand(model, x), strict=True):
        assert_close(mine, truth)


@pytest.mark.parametrize("lead", ((), (7,), (2, 40), (1,)), ids=str)
def test_any_shape(at_once, lead):
    net, x = network(), points(*lead)
    for _ in range(3):
        check(net, x)
    assert at_once == [True] * 3


def test_of_given_directions_and_a_drift(at_once):
    net, x = network(), points(11).requires_grad_()
    draw = lambda *shape: torch.randn(*shape, dtype=torch.double, requires_grad=True)
    alike, own, drift, of_each = draw(3, 2), draw(11, 3, 4), draw(3), draw(11, 3)
    kinds = [{"directions": s, "drift": b} for s in (None, alike.detach(), alike, own) for b in (None, drift, of_each)]
    for options in kinds:
        given = [t for t in options.values() if t is not None and t.requires_grad]
        found = []
        for model in (net, lambda x: net(x)):
            r = fg.laplacian(model, x, **options)
            loss = (r.laplacian * r.value).sum() + r.jacobian.sin().sum()
            of = [x, *given, *net.parameters()]
            first = torch.autograd.grad(loss, of, create_graph=True)
            found.append((*r, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), of)))
        for mine, truth in zip(*found, strict=True):
            assert_close(mine, truth)
    assert at_once.count(False) == 2  # each asked twice: directions for all points that have gradients, without a drift
    assert at_once.count(True) == len(kinds) - 1
    r = fg.laplacian(net, x, samples=5)
    assert at_once[-1] and r.jacobian.shape == (11, 2, 5)


def _hook(net):
    net.register_forward_hook(lambda m, args, y: 2 * y)


def _hook_of_a_part(net):
    net[1].register_forward_hook(lambda m, args, y: 2 * y)


def _another_activation(net):
    net[1] = nn.Sigmoid()


def _another_layer(net):
    net[0] = nn.Linear(3, 16).double()


def _one_more(net):
    net.append(nn.Tanh())


def _one_less(net):
    del net[4]


def _another_slope(net):
    net[3].beta = 0.5


def _another_weight(net):
    net[0].weight = nn.Parameter(torch.randn(16, 3, dtype=torch.double))


def _no_bias(net):
    net[2].bias = None


def _a_forward_of_its_own(net):
    net.forward = lambda x: nn.Sequential.forward(net, 2 * x)


def _what_no_chain_has(net):
    net[1] = nn.LayerNorm(16).double()


CHANGES = [
    _hook, _hook_of_a_part, _another_activation, _another_layer, _one_more, _one_less, _another_slope, _another_weight,
    _no_bias, _a_forward_of_its_own, _what_no_chain_has, fg.unfuse, nn.Module.float,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__.strip("_"))
def test_what_changed(at_once, change):
    net, x = network(), points(10)
    check(net, x)
    assert at_once == [True]
    change(net)
    x = x.to(next(net.parameters()).dtype)
    for _ in range(2):
        check(net, x)


def test_a_hook_for_all_modules():
    net, x = network(), points(10)
    check(net, x)
    handle = register_module_forward_hook(lambda m, args, y: 2 * y if m is net[1] else None)
    try:
        check(net, x)
    finally:
        handle.remove()


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m))}


@pytest.mark.parametrize("of", COPIES)
def test_a_copy_has_its_own(of):
    net, x = network(), points(10)
    check(net, x)
    other = COPIES[of](net)
    other[1] = nn.Sigmoid()
    check(other, x)
    check(net, x)


@contextmanager
def _functions_of_others():
    class Twice(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            y = func(*args, **(kwargs or {}))
            return 2 * y if func is torch.nn.functional.linear else y

    with Twice():
        yield


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "a dispatch mode": lambda: FlopCounterMode(display=False),
    "functions of others": _functions_of_others,
    "hooks of saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode):
    """As a function that calls the network, which goes by rules."""
    net, x = network(), points(10)
    fg.laplacian(net, x)
    found = []
    for model in (net, lambda x: net(x)):
        with MODES[mode]():
            r = fg.laplacian(model, x)
        found.append([t.detach() for t in r])
        if r.laplacian.requires_grad:
            net.zero_grad()
            r.laplacian.square().sum().backward()
            found[-1] += [p.grad for p in net.parameters() if p.grad is not None]
    tolerance = {"rtol": 0.05, "atol": 0.05} if mode == "autocast" else {}
    for mine, truth in zip(*found, strict=True):
        assert_close(mine, truth, **tolerance)


def test_under_transforms():
    net, x = network(), points(4, 5)
    expected = fg.laplacian(net, x).laplacian
    assert_close(torch.func.vmap(lambda x: fg.laplacian(net, x).laplacian)(x), expected)
    _, along = torch.func.jvp(lambda x: fg.laplacian(net, x).laplacian, (x,), (torch.ones_like(x),))
    step = 1e-5
    assert_close(along, (fg.laplacian(net, x + step).laplacian - fg.laplacian(net, x - step).laplacian) / (2 * step))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        y = fg.laplacian(net, dual).laplacian
        assert_close(torch.autograd.forward_ad.unpack_dual(y).tangent, along)


def test_what_does_not_fit_is_refused():
    net = network()
    check(net, points(4))
    with pytest.raises(TypeError, match="need the same dtype"):
        fg.laplacian(net, points(4), directions=torch.eye(3))
    with pytest.raises((ValueError, RuntimeError)):
        fg.laplacian(net, points(4)[:, :2])
    assert fg.laplacian(net, points(0)).laplacian.shape == (0, 2)
