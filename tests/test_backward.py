"""What backward computes and saves: only the gradients that are used, and no more bytes than stock."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import fusegrad as fg
from fusegrad.benchmarks.memory import bytes_saved

from cases import CASES, DEFAULTS, DEVICE, Case, leaves

GEMMS = {"mm", "addmm", "bmm", "baddbmm", "linear", "linear_act"}


class Count(TorchDispatchMode):
    """Counts matrix products, and remembers the names of all ops."""

    def __init__(self):
        super().__init__()
        self.names, self.gemms = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.names.append(name)
        self.gemms += sum(args[6:8]) if name == "linear_act_backward" else name in GEMMS  # need_x and need_w
        return func(*args, **(kwargs or {}))


def mlp(layer):
    """u = layer(layer(layer(x))), with its leaves."""
    g = torch.Generator().manual_seed(0)
    make = lambda *s: torch.randn(s, generator=g).to(DEVICE).requires_grad_()
    x, weights, biases = make(5, 4), [make(4, 4) for _ in range(3)], [make(4) for _ in range(3)]
    return x, weights, biases


def run(layer, use, frozen=None):
    """The matrix products of a use of a three-layer network, one of whose weights may be frozen."""
    x, weights, biases = mlp(layer)
    if frozen is not None:
        weights[frozen].requires_grad_(False)
    with Count() as count:
        h = x
        for w, b in zip(weights, biases, strict=True):
            h = layer(h, w, b)
        use(h.sum(), x, [w for w in weights if w.requires_grad], biases)
    return count.gemms


def penalty(u, x, weights, biases):
    (gx,) = grad(u, x, create_graph=True)
    gx.square().sum().backward()


def laplacian(u, x, weights, biases):
    (gx,) = grad(u, x, create_graph=True)
    total = sum(grad(gx[:, i].sum(), x, create_graph=True)[0][:, i].sum() for i in range(2))
    total.backward()


USES = {
    "grad(u, x)": lambda u, x, weights, biases: grad(u, x),
    "grad(u, w)": lambda u, x, weights, biases: grad(u, weights),
    "grad(u, one w)": lambda u, x, weights, biases: grad(u, weights[-1]),
    "grad(u, b)": lambda u, x, weights, biases: grad(u, biases),
    "backward()": lambda u, x, weights, biases: u.backward(),
    "gradient penalty": penalty,
    "laplacian": laplacian,
}


@pytest.mark.parametrize("frozen", (None, 0, 1, 2))
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("act", ("tanh", "silu"))
def test_no_more_matrix_products_than_stock(act, use, frozen):
    case = Case(act)
    split = lambda x, w, b: fg.act(fg.linear(x, w, b), act)
    stock = run(case.stock_linear, USES[use], frozen)
    assert stock > 0
    assert run(case.linear_act, USES[use], frozen) <= stock
    assert run(split, USES[use], frozen) <= stock


@pytest.mark.parametrize("act", ("tanh", "silu"))
def test_a_second_backward_multiplies_nothing_on_its_own(act):
    """What is elementwise in it is one op: of a layer, and of its two halves."""
    for layer in (Case(act).linear_act, lambda x, w, b: fg.act(fg.linear(x, w, b), act)):
        args = leaves()
        gy = torch.randn(5, 4, dtype=torch.float64, device=DEVICE)
        (gx,) = grad(layer(*args), args[0], gy.requires_grad_(), create_graph=True)
        with Count() as count:
            grad(gx, (*args, gy), torch.ones_like(gx))
        assert count.names.count("act_vjp") == 1 and "mul" not in count.names


@pytest.mark.parametrize("act", ("tanh", "silu"))
def test_the_tangent_of_a_gradient_multiplies_nothing_on_its_own(act):
    """Forward over reverse: what is elementwise in the tangent of gx is one op."""
    args = (*(t.detach() for t in leaves()), torch.randn(5, 4, dtype=torch.float64, device=DEVICE))
    for layer in (Case(act).linear_act, lambda x, w, b: fg.act(fg.linear(x, w, b), act)):
        gx = lambda x, w, b, gy, layer=layer: torch.func.vjp(lambda x: layer(x, w, b), x)[1](gy)[0]
        with Count() as count:
            torch.func.jvp(gx, args, tuple(torch.ones_like(t) for t in args))
        assert count.names.count("act_jvp") == 1 and "mul" not in count.names


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("act", ("tanh", "silu"))
def test_the_flop_counter_counts_no_more_than_for_stock(act, use):
    case = Case(act)
    split = lambda x, w, b: fg.act(fg.linear(x, w, b), act)
    by_mm = lambda x, w, b: case.stock(fg.mm(x, w, trans_b=True) + b)

    def flops(layer):
        with FlopCounterMode(display=False) as counter:
            run(layer, USES[use])
        return counter.get_total_flops()

    assert flops(case.linear_act) == flops(split) == flops(by_mm) == flops(case.stock_linear) > 0


def test_a_gradient_that_depends_on_nothing_requires_none():
    """That of the last bias of a network, say."""
    x, w, b = leaves()
    y = fg.linear(x.detach(), w, b)
    gw, gb = grad(y.sum(), (w, b), create_graph=True)
    assert not gw.requires_grad and not gb.requires_grad
    gx, gw, gb = grad(fg.linear(x, w, b).sum(), (x, w, b), create_graph=True)
    assert gx.requires_grad and gw.requires_grad and not gb.requires_grad
    torch.testing.assert_close(grad(gx.square().sum() + gw.sum(), w)[0], 2 * 5 * w.sum(0).expand(4, 3))


def test_without_gradients_only_the_output_is_made():
    x, w, b = (t.detach() for t in leaves(torch.float32))
    for call in (lambda: fg.linear_act(x, w, b, act="gelu"), lambda: fg.linear_act(*leaves(), act="gelu").detach()):
        call()
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func.overloadpacket.__name__ == "linear_act":
                made.append(out)
            return out

    with Watch():
        fg.linear_act(x, w, b, act="gelu")
        with torch.no_grad():
            fg.linear_act(*leaves(), act="gelu")
        fg.linear_act(*leaves(), act="gelu")
    assert [saved.numel() for _, saved in made] == [0, 0, 20]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_recomputing_what_was_not_kept_gives_the_same(case):
    """The op with save=False computes z again in backward."""
    results = []
    for save in (False, True):
        args = leaves()
        y, _ = torch.ops.fusegrad.linear_act(*args, case.name, case.value, save)
        first = grad(y.sin().sum(), args, create_graph=True)
        second = grad(sum(g.square().sum() for g in first), args)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(args[0].detach(), torch.ones_like(args[0]))
            y, _ = torch.ops.fusegrad.linear_act(dual, *args[1:], case.name, case.value, save)
            tangent = torch.autograd.forward_ad.unpack_dual(y).tangent
        results.append((first, second, tangent))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_keeps_no_more_bytes_than_stock(case):
    """Through a layer and the one after it, which saves its input anyway."""
    x, w, b = leaves(torch.float32)
    v = torch.randn(2, 4, device=DEVICE, requires_grad=True)
    stock = bytes_saved(lambda: F.linear(case.stock_linear(x, w, b), v), x, w, b, v)
    ours = bytes_saved(lambda: fg.linear(case.linear_act(x, w, b), v), x, w, b, v)
    assert ours <= stock
    if not fg.activations.REGISTRY[case.name].saves_input:
        assert ours == 5 * 4 * 4  # y alone


def test_an_activation_alone_keeps_no_more_bytes_than_stock():
    z = torch.randn(64, device=DEVICE, requires_grad=True)
    for case in DEFAULTS:
        stock, ours = bytes_saved(lambda: case.stock(z)), bytes_saved(lambda: fg.act(z, case.name))
        assert ours <= max(stock, 256), case  # stock saves nothing for the identity, which here costs a copy


def under_autocast(layer, times):
    """The bytes saved by a weight used `times` in an autocast region, and its gradient."""
    generator = torch.Generator().manual_seed(0)
    w = (torch.randn(64, 64, generator=generator) / 8).to(DEVICE).requires_grad_()
    h = torch.randn(2, 64, generator=generator).to(DEVICE)
    result = []

    def forward():
        with torch.autocast(DEVICE, torch.bfloat16):
            y = h
            for _ in range(times):
                y = layer(y, w)
        result.append(y)
        return y

    return bytes_saved(forward), grad(result[0].float().sum(), w)[0]


@pytest.mark.parametrize("act", ("tanh", "silu"))
def test_autocast_casts_a_shared_weight_once(act):
    stock, expected = under_autocast(Case(act).stock_linear, 10)
    for layer in (Case(act).linear_act, lambda x, w: fg.act(fg.linear(x, w), act)):
        ours, gradient = under_autocast(layer, 10)
        assert ours <= stock
        torch.testing.assert_close(gradient, expected, rtol=3e-2, atol=3e-2)


def test_autocast_sees_a_weight_that_changed():
    """Torch's casts live as long as the region, and so must ours, though an output of the last one is still there."""
    x, w = torch.ones(2, 3, device=DEVICE), torch.ones(4, 3, device=DEVICE, requires_grad=True)
    outputs = []
    for _ in range(2):
        with torch.autocast(DEVICE, torch.bfloat16):
            outputs.append(fg.linear_act(x, w, act="gelu"))
        w.data.mul_(2)
    torch.testing.assert_close(outputs[1], torch.full_like(outputs[1], 6.0))


def test_backward_leaves_its_inputs_alone():
    """Twice through one graph, with an output gradient that backward must not write to."""
    for case in CASES:
        args = leaves()
        y = case.linear_act(*args)
        gy = torch.randn_like(y)
        before = gy.clone()
        saved = [t.detach().clone() for t in args]
        first = grad(y, args, gy, retain_graph=True)
        second = grad(y, args, gy)
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        torch.testing.assert_close(gy, before, rtol=0, atol=0)
        torch.testing.assert_close([t.detach() for t in args], saved, rtol=0, atol=0)


def test_the_same_bits_on_every_run():
    for case in CASES:
        runs = []
        for _ in range(2):
            args = leaves(torch.float32)
            y = case.linear_act(*args)
            runs.append((y, *grad(y.sum(), args)))
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("act", ("silu", "tanh"))
@pytest.mark.parametrize("inside", list(itertools.product((False, True), repeat=3)), ids=str)
def test_autocast_around_any_part_of_a_second_derivative(act, inside):
    """The forward, the gradient and the gradient of that, each inside or outside."""
    autocast = lambda on: torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=on)

    def second(layer):
        x, w, b = leaves(torch.float32)
        with autocast(inside[0]):
            y = layer(x, w, b)
        with autocast(inside[1]):
            (gx,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
        with autocast(inside[2]):
            loss = gx.square().sum()
            loss.backward()
        return x.grad, w.grad, b.grad

    case = Case(act)
    for ours, stock in zip(second(case.linear_act), second(case.stock_linear), strict=True):
        off = (ours - stock).norm() / stock.norm()
        assert off <= (0.02 if any(inside) else 1e-5), off
