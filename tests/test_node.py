"""Nodes of autograd that C++ makes: all that a node has to stand, and the same numbers as those made in Python."""

import ctypes
import gc
import sys
import threading
import weakref

import pytest
import torch
from ops_with_nodes import OPS, chain
from torch.autograd import detect_anomaly, grad
from torch.autograd.forward_ad import dual_level
from torch.autograd.graph import saved_tensors_hooks

import fusegrad as fg
from fusegrad import backends, routing
from fusegrad.ops.op import RULES

from processes import python

pytestmark = pytest.mark.skipif(backends.node is None, reason="no C++ nodes")


@pytest.fixture(autouse=True)
def _no_chain_of_two(request, monkeypatch):
    if "[mlp" in request.node.name:  # else its layers are a chain
        monkeypatch.setattr(routing, "CHAIN_WIDTH", 0)
        monkeypatch.setattr(routing, "CHAIN_LARGEST", 0)


each_op = pytest.mark.parametrize("make", OPS.values(), ids=OPS)


def is_in_cpp(fn):
    return type(fn).__name__ == "CppFunction"


def in_python(monkeypatch, made):
    with monkeypatch.context() as m:
        m.setattr(backends, "node", None)
        y = made()
    assert not is_in_cpp(y.grad_fn)
    return y


@each_op
def test_it_is_as_the_one_in_python(make, monkeypatch):
    _, on, made = make()
    y = made()
    same = in_python(monkeypatch, made)
    assert is_in_cpp(y.grad_fn) and y.grad_fn.name() == same.grad_fn.name()
    gy = torch.randn_like(y)
    nodes = [[fn for fn, _ in fn.next_functions if fn is not None] for fn in (y.grad_fn, same.grad_fn)]
    assert nodes[0] == nodes[1] and len(nodes[0]) == len(on)
    for some in filter(None, (on, on[:1], on[1:], on[-1:], on[1:2])):
        a, b = (grad(t, some, gy, retain_graph=True) for t in (y, same))
        assert all(map(torch.equal, a, b))
    first, second = (grad(t, on, gy, create_graph=True) for t in (y, same))
    assert all(map(torch.equal, first, second))
    second_of = lambda found: grad(sum(g.square().sum() for g in found), on, materialize_grads=True, allow_unused=True)
    assert all(map(torch.equal, second_of(first), second_of(second)))


@each_op
def test_it_is_released_after_backward(make):
    _, on, made = make()
    y = made().sum()
    first = grad(y, on, retain_graph=True)
    assert all(map(torch.equal, first, grad(y, on)))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        grad(y, on)


@each_op
def test_what_it_saved_stays_as_it_was(make):
    _, on, made = make()
    for i in range(len(on) + 1):
        places = []
        with saved_tensors_hooks(lambda t, to=places: to.append(t.data_ptr()) or t, lambda t: t):
            made()
            saves_output = made().data_ptr() in places
        y = made()
        changed = (*on, y)[i]
        with torch.no_grad():
            changed.mul_(2)
        if saves_output if changed is y else changed.data_ptr() in places:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
        else:
            y.sum().backward()


@each_op
def test_hooks_see_what_is_saved(make, monkeypatch):
    seen = []

    def pack(t):
        seen[-1].append(t.detach().clone())
        return t.detach().clone(), t.requires_grad

    results = []
    for by_python in (False, True):
        torch.manual_seed(0)
        _, on, made = make()
        seen.append([])
        with saved_tensors_hooks(pack, lambda kept: kept[0]):
            y = in_python(monkeypatch, made) if by_python else made()
        results.append(grad(y.sum(), on))
    torch.testing.assert_close(*seen)
    torch.testing.assert_close(*results)


@each_op
def test_hooks_of_gradients(make):
    _, on, made = make()
    y, seen = made(), []
    y.register_hook(lambda g: seen.append("tensor") or 2 * g)
    y.grad_fn.register_prehook(lambda grads: seen.append("before") or tuple(g if g is None else 2 * g for g in grads))
    y.grad_fn.register_hook(lambda found, given: seen.append("after"))
    on[-1].register_post_accumulate_grad_hook(lambda t: seen.append("accumulated"))
    y.retain_grad()
    y.sum().backward()
    assert seen == ["tensor", "before", "after", "accumulated"]
    assert torch.equal(y.grad, torch.full_like(y, 2))
    torch.testing.assert_close([t.grad / 4 for t in on], list(grad(made().sum(), on)))


class Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, gy):
        return None


@each_op
def test_no_gradient_comes(make):
    _, on, made = make()
    assert grad(Nothing.apply(made()).sum(), on, allow_unused=True) == (None,) * len(on)


@each_op
def test_threads_share_it(make):
    _, on, made = make()
    y = made()
    expected, found = grad(y.sum(), on, retain_graph=True), []
    of_thread = lambda: found.append([grad(y.sum(), on, retain_graph=True) for _ in range(50)])
    threads = [threading.Thread(target=of_thread) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 4
    assert all(all(map(torch.equal, expected, again)) for of_one in found for again in of_one)


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected")
@each_op
def test_anomalies_are_told(make):
    x, _, made = make()
    with detect_anomaly():
        y = made()
        assert "made()" in "".join(y.grad_fn.metadata["traceback_"])
        x.register_hook(lambda g: g)
        with pytest.raises(RuntimeError, match=rf"Function '{y.grad_fn.name()}' returned nan values"):
            y.backward(torch.full_like(y, torch.nan))


@each_op
def test_third_derivatives(make, monkeypatch):
    _, on, made = make()
    found = []
    for y in (made(), in_python(monkeypatch, made)):
        for _ in range(3):
            grads = grad(y.sin().sum(), on, create_graph=True, allow_unused=True)
            y = sum((g.square().sum() for g in grads if g is not None), torch.zeros((), dtype=y.dtype))
        found.append([y.detach(), *grads])
    torch.testing.assert_close(*found)


@each_op
def test_backward_in_other_modes(make):
    """By the rules in Python: what is no plain eager mode, though forward was."""
    _, on, made = make()
    y = made()
    gys = torch.randn(3, *y.shape, dtype=y.dtype)
    one_by_one = [grad(y, on, gy, retain_graph=True) for gy in gys]
    batched = grad(y, on, gys, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(batched, tuple(map(torch.stack, zip(*one_by_one, strict=True))))
    with torch.autocast("cpu"):
        torch.testing.assert_close(grad(y, on, gys[0], retain_graph=True), one_by_one[0])
    first = grad(y, on, gys[0], create_graph=True)[0].sin().sum()
    second = grad(first, on, allow_unused=True, retain_graph=True)
    with torch.autocast("cpu"):
        torch.testing.assert_close(grad(first, on, allow_unused=True), second)


@each_op
def test_what_fails_in_python_is_raised(make, monkeypatch):
    _, on, made = make()
    y = made()
    for name in RULES:
        monkeypatch.setitem(RULES, name, None)
    with dual_level(), pytest.raises(TypeError, match="not callable"):
        grad(y.sum(), on, create_graph=True)


@each_op
def test_nothing_stays_behind(make):
    gc.collect()
    gc.disable()  # reference counts alone are to free it
    try:
        x, on, made = make()
        y = made()
        left = [weakref.ref(t) for t in (y, *on)]
        del x, on, made, y
        assert [ref() for ref in left] == [None] * len(left)
        x, on, made = make()
        found = grad(made().sum(), on, create_graph=True)
        left = [weakref.ref(t) for t in (*found, *on)]
        del x, on, made, found
        assert [ref() for ref in left] == [None] * len(left)
    finally:
        gc.enable()


class Mallinfo(ctypes.Structure):
    """Of glibc: what malloc has given out is uordblks, and hblkhd of the largest."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    )


C = ctypes.CDLL(None)


@pytest.mark.skipif(not hasattr(C, "mallinfo2"), reason="glibc tells how much memory is in use")
@pytest.mark.parametrize("make", (OPS["chain"], OPS["layer, input saved"]), ids=("chain", "layer"))
def test_calls_leave_no_memory_behind(make, nodes):
    """torch's conversion to std::string leaks 48 bytes a call: these are 1000 of two ops, 96 KB."""
    C.mallinfo2.restype = Mallinfo
    _, on, made = make()

    def after(steps):
        """What is in use: bytes from malloc, and Python's small objects, without those that it keeps for reuse."""
        for _ in range(steps):
            grad(made().sum(), on)
        gc.collect()
        now = C.mallinfo2()
        return now.uordblks + now.hblkhd, sys.getallocatedblocks()

    before = after(200)
    more_bytes, more_objects = (b - a for a, b in zip(before, after(1000), strict=True))
    assert more_bytes < 10_000 and more_objects < 800


def test_no_node_without_need():
    _, _, made = chain()
    with torch.no_grad():
        assert made().grad_fn is None
    with torch.inference_mode():
        assert made().is_inference()
    x, of = torch.randn(12, 3), [(torch.randn(4, 3), None, "tanh")]
    assert fg.chain(x, of).grad_fn is None


CODE = """
import torch
{before}
import fusegrad as fg
w = torch.randn(4, 3, requires_grad=True)
y = fg.chain(torch.randn(12, 3), [(w, None, "tanh"), (torch.randn(2, 4), None, None)])
y.sum().backward()
print(fg.backends.node is not None, type(y.grad_fn).__name__, w.grad.shape == w.shape)
"""
ELSEWHERE = {
    "as it is": ("", {}, "True CppFunction True"),
    "another torch": ("torch.__version__ = '2.99.0'", {}, "False ChainBackward True"),
    "asked for": ("", {"FUSEGRAD_NODE": "python"}, "False ChainBackward True"),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_python_serves_elsewhere(where):
    before, env, expected = ELSEWHERE[where]
    code = CODE.format(before=before)
    done = python("-c", code, **env)
    assert done.stdout.strip() == expected, done.stdout + done.stderr
