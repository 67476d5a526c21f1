"""Nodes call their kernels with no dispatcher between: the same numbers as by the ops, which a profiler still sees."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.profiler import profile

import fusegrad as fg
from fusegrad import backends
from fusegrad.routing import at_all_sizes

from cases import on_cpu

pytestmark = [on_cpu, pytest.mark.skipif(backends.node is None, reason="no nodes in C++")]

INPUTS = {
    "rows": lambda: torch.randn(37, 5),
    "one row": lambda: torch.randn(5),
    "leading dimensions": lambda: torch.randn(3, 4, 5),
    "columns": lambda: torch.randn(5, 37).T,
    "every other row": lambda: torch.randn(74, 5)[::2],
    "expanded": lambda: torch.randn(5).expand(6, 5),
    "leading dimensions apart": lambda: torch.randn(3, 8, 5)[:, ::2],
    "empty": lambda: torch.randn(0, 5),
}
DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16


def network(act: type[nn.Module], layers: int) -> nn.Sequential:
    widths = (5, 64, 33, 2)[: layers + 1]
    parts: list[nn.Module] = []
    for k, n in pairwise(widths):
        parts += [nn.Linear(k, n, bias=len(parts) != 2), act()]
    return fg.fuse(nn.Sequential(*(parts if layers == 1 else parts[:-1])))


def results(model: nn.Module, x: torch.Tensor, of_sum: bool) -> list[torch.Tensor]:
    y = model(x)
    wanted = [t for t in (x, *model.parameters()) if t.requires_grad]
    gy = torch.ones_like(y) if of_sum else torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y)
    loss = y.sum() if of_sum else (y * gy).sum()  # of the first gy is one number, expanded
    return [y, *torch.autograd.grad(loss, wanted)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layers", (1, 3))
@pytest.mark.parametrize("act", (nn.Tanh, nn.SiLU, nn.ReLU))
@pytest.mark.parametrize("given", INPUTS)
def test_they_give_what_the_ops_give(given, act, layers, dtype):
    model = network(act, layers).to(dtype)
    for requires_grad in (False, True):
        x = INPUTS[given]().to(dtype).requires_grad_(requires_grad)
        for of_sum in (False, True):
            direct = results(model, x, of_sum)
            with profile() as seen:
                by_ops = results(model, x, of_sum)
            torch.testing.assert_close(direct, by_ops, rtol=0, atol=0)
            if x.numel() and not requires_grad:
                ops = {event.name for event in seen.events()}
                assert {"fusegrad::chain", "fusegrad::linear_act"} & ops, ops


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", ("gelu", "tanh", "relu", "exp"))
@pytest.mark.parametrize("given", INPUTS)
def test_activations_give_what_the_ops_give(given, act, dtype):
    """To the second order, and in the same layout."""

    def orders(x):
        y = fg.act(x, act)
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y).requires_grad_()
        (first,) = torch.autograd.grad(y, x, g, create_graph=True)
        second = torch.autograd.grad(first, (x, g), g.detach().cos(), allow_unused=True)  # no second of relu
        return [t for t in (y, first, *second) if t is not None]

    x = INPUTS[given]().to(dtype).requires_grad_()
    with at_all_sizes():
        direct = orders(x)
        with profile() as seen:
            by_ops = orders(x)
    assert "fusegrad::act" in {event.name for event in seen.events()}
    torch.testing.assert_close(direct, by_ops, rtol=0, atol=0)
    assert [t.stride() for t in direct] == [t.stride() for t in by_ops]


@pytest.mark.parametrize("act", (nn.Tanh, nn.SiLU))
def test_saved_tensors_that_hooks_move(act):
    """Where what comes back lies otherwise, or is of another dtype in between."""
    model, x = network(act, 3), torch.randn(37, 5)
    expected = results(model, x, False)
    for pack, unpack in (
        (lambda t: t.clone(), lambda t: t),
        (lambda t: t.double(), lambda t: t.float()),
        (lambda t: torch.stack([t, t], -1), lambda t: t[..., 1]),
    ):
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            y = model(x)
        gy = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
        found = torch.autograd.grad((y * gy).sum(), list(model.parameters()))
        torch.testing.assert_close([y, *found], expected, rtol=0, atol=0)


@pytest.mark.parametrize("act", (nn.Tanh, nn.SiLU))
@pytest.mark.parametrize("layers", (1, 3))
def test_saved_tensors_that_hooks_give_back_in_another_dtype_are_refused(act, layers):
    """Not read as if they were what they are not: what a chain's layers save is one row, what a layer's is like y."""
    model, x = network(act, layers), torch.randn(37, 5)
    results(model, x, False)
    dims = 2 if layers == 1 else 1
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.double() if t.dim() == dims else t):
        y = model(x)
    with pytest.raises((RuntimeError, ValueError, TypeError), match="dtype"):
        y.sum().backward()


def test_weights_of_any_strides():
    model, x = network(nn.Tanh, 3), torch.randn(37, 5)
    expected = results(model, x, False)
    for layer in model[0], model[2], model[4]:
        layer.weight.data = layer.weight.data.T.contiguous().T
        if layer.bias is not None:
            layer.bias.data = torch.stack([layer.bias.data, layer.bias.data], 1)[:, 1]
    for one, other in zip(results(model, x, False), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("m", "k", "n"), ((5, 3, 4), (33, 130, 70), (200, 1, 64), (200, 64, 1), (1, 7, 9)))
def test_the_gradient_of_a_weight_that_is_transposed_lies_as_the_weight(m, k, n, dtype):
    """As GPT-2 has them: torch would copy what lies otherwise."""
    x, w, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype), torch.randn(n, dtype=dtype)

    def gradient(call, *of):
        x, w, b = of
        w.requires_grad_()
        return torch.autograd.grad(call(x, w, b).sin().sum(), w)[0]

    layer = lambda x, w, b: (x @ w + b).tanh()
    mine = gradient(lambda x, w, b: fg.linear_act(x, w.t(), b, act="tanh"), x, w, b)
    true = gradient(layer, x.double(), w.detach().double(), b.double())
    error, of_stock = ((g.double() - true).abs().max() for g in (mine, gradient(layer, x, w, b)))
    assert mine.is_contiguous()
    roundings = 100 if dtype == torch.float64 else 4  # of which there is no truth
    assert error <= 2 * of_stock + roundings * torch.finfo(dtype).eps * true.abs().max()


def test_a_weight_without_numbers_is_refused():
    """As of a parameter whose storage was freed, to be gathered again later."""
    model, x = network(nn.Tanh, 3), torch.randn(37, 5)
    model(x)
    model[2].weight.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="layer 1 has no numbers in w or b"):
        model(x)


def test_another_build_of_the_kernels_is_not_called():
    with pytest.raises(ValueError, match="PyCapsule"):
        backends.node.set_kernels(None)


@pytest.mark.parametrize("act", (nn.Tanh, nn.SiLU))
def test_saved_tensors_that_hooks_lay_out_anew_where_x_is_differentiated(act):
    model, x = network(act, 3), torch.randn(37, 5, requires_grad=True)
    model[4] = nn.Linear(33, 1)
    fg.fuse(model)

    def penalty() -> tuple[torch.Tensor, ...]:
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (x, *model.parameters())[:-1])

    expected = penalty()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: torch.stack([t, t], -1), lambda t: t[..., 1]):
        torch.testing.assert_close(penalty(), expected)
