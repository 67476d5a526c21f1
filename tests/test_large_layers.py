"""Layers whose products MKL computes on Intel, and those beside them, against float64."""

import pytest
import torch
from torch import nn

import fusegrad as fg
from fusegrad import backends

from cases import DEVICE

pytestmark = [
    pytest.mark.skipif(backends.extension is None, reason="no C++ extension"),
    pytest.mark.skipif(DEVICE != "cpu", reason="kernels of the CPU"),
]


@pytest.mark.parametrize("act", ("identity", "tanh", "gelu"))
def test_large_layers(act):
    """Which on Intel MKL multiplies: bias and activation come after it, and what is saved is what backward needs."""
    x, w, b = (torch.randn(s, dtype=torch.float64, device=DEVICE) for s in ((300, 400), (513, 400), (1026,)))
    for bias in (b[::2], None):
        leaves = [t.float().requires_grad_() for t in (x, w, *(() if bias is None else (bias,)))]
        truths = [t.detach().double().requires_grad_() for t in leaves]
        with torch.no_grad():
            alone = fg.linear_act(*leaves, act=act)
        y = fg.linear_act(*leaves, act=act)
        truth = getattr(torch, act, getattr(nn.functional, act, lambda z: z))(nn.functional.linear(*truths))
        assert torch.equal(alone, y)
        for mine, true in zip(
            (y, *torch.autograd.grad(y.sin().sum(), leaves)),
            (truth, *torch.autograd.grad(truth.sin().sum(), truths)),
            strict=True,
        ):
            assert (mine.double() - true).norm() < 1e-5 * true.norm()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("act", ("identity", "softplus"))
def test_narrow_and_few(act, dtype):
    """Layers of few rows, few features and long or short sums, which on Intel MKL multiplies, and those beside them."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    for m, k, n in ((3, 1100, 999), (15, 700, 301), (16, 2049, 6), (67, 932, 8), (131, 257, 33), (900, 9, 300)):
        truths = [(draw(m, k) / k**0.5).requires_grad_(), draw(n, k).requires_grad_(), draw(n).requires_grad_()]
        leaves = [t.detach().to(DEVICE, dtype).requires_grad_() for t in truths]
        y = fg.linear_act(*leaves, act=act)
        truth = getattr(nn.functional, act, lambda z: z)(nn.functional.linear(*truths))
        gy = draw(m, n)
        for mine, true in zip(
            (y, *torch.autograd.grad(y, leaves, gy.to(DEVICE, dtype))),
            (truth, *torch.autograd.grad(truth, truths, gy)),
            strict=True,
        ):
            assert (mine.double().cpu() - true).norm() < 20 * torch.finfo(dtype).eps * true.norm()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_gradients_of_large_gates(dtype):
    """That of x is the sum of two products, which on Intel MKL adds up; weights may be any views."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    for m, k, n in ((5, 700, 401), (40, 96, 400), (300, 130, 129)):
        x, gate, up, gy = draw(m, k), draw(k, n).mT / k**0.5, draw(n, 2 * k)[:, ::2] / k**0.5, draw(m, n)
        for w_gate, w_up in ((gate, up), (up, gate), (gate.contiguous(), up.contiguous())):
            truths = [t.detach().requires_grad_() for t in (x, w_gate, w_up)]
            leaves = [t.detach().to(DEVICE, dtype).requires_grad_() for t in truths]
            found = torch.autograd.grad(fg.gated(*leaves, act="silu"), leaves, gy.to(DEVICE, dtype))
            y = nn.functional.silu(truths[0] @ truths[1].mT) * (truths[0] @ truths[2].mT)
            for mine, true in zip(found, torch.autograd.grad(y, truths, gy), strict=True):
                assert (mine.double().cpu() - true).norm() < 20 * torch.finfo(dtype).eps * true.norm()
