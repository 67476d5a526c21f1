"""The transforms of PyTorch that test_transforms.py runs, and what they share.

A transform takes `f`, ours, and `r`, stock, both (x, w, b) -> y, and compares them. Where stock raises, ours must too.
"""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn
from torch._dynamo import compiled_autograd
from torch.autograd import grad

from cases import DEVICE, leaves, plain

close = torch.testing.assert_close
TRANSFORMS = {}
COMPILED = {}


def transform(test):
    (COMPILED if test.__name__.startswith(("compile", "export")) else TRANSFORMS)[test.__name__] = test
    return test


# each way to trace a rule, and export; what Inductor makes of an op does not depend on which it is
EACH_KIND = "compile_training", "compile_jvp_of_gradient", "compile_backward", "export_with_dynamic_shapes"


def compilers(*values, all_names):
    """Parameters for each name in COMPILED, those not in EACH_KIND for `make test-slow` unless all_names."""
    now = lambda name: all_names or name in EACH_KIND
    return [pytest.param(*values, name, marks=() if now(name) else pytest.mark.slow) for name in COMPILED]


def same(f, r, transformed, args=None):
    args = plain() if args is None else args
    close(transformed(f)(*args), transformed(r)(*args))


def agree(f, r, compute):
    close(compute(f), compute(r))


def compiled(fn, **options):
    torch._dynamo.reset()
    return torch.compile(fn, fullgraph=True, **({"backend": "aot_eager"} | options))


def agree_in_compiled_autograd(f, r, args):
    """It traces the backward rules themselves. Some args may be None."""
    torch._dynamo.reset()
    there = [t for t in args if t is not None]
    with compiled_autograd._enable(lambda graph: torch.compile(graph, backend="aot_eager", fullgraph=True)):
        f(*args).sin().sum().backward()
    close([t.grad for t in there], list(grad(r(*args).sin().sum(), there)))


def ones(*tensors):
    return tuple(torch.ones_like(t) for t in tensors)


def stack(t, n=2, dim=0):
    return torch.stack([t * (i + 1) * (-1) ** i for i in range(n)], dim)


class Net(nn.Module):
    """A layer computed by h from registered parameters."""

    def __init__(self, h):
        super().__init__()
        _, w, b = plain()
        self.weight, self.bias, self.h = nn.Parameter(w), nn.Parameter(b), h

    def forward(self, x):
        return self.h(x, self.weight, self.bias)


def dual_tangent(h):
    args = plain()
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(h(forward_ad.make_dual(args[0], torch.ones_like(args[0])), *args[1:])).tangent


def under_autocast(h):
    args = leaves(torch.float32)
    with torch.autocast(DEVICE, torch.bfloat16):
        y = h(*args)
    return y, grad(y.float().sum(), args)
