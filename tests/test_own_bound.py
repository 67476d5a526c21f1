"""Derivatives of an activation of one's own beyond its bound."""

from test_own_kernels import run

from cases import on_cpu

pytestmark = on_cpu
BOUND = """
import torch, fusegrad as fg

define = lambda **bound: fg.activation("bell", lambda z: z**2 * fg.exp(-(z**2)), **bound)
define(bound=50.5)
for n in (1, 2**16):
    z = torch.tensor([-1e30, 1e30, 0.5]).repeat(n).requires_grad_()
    made = [fg.act(z, "bell")]
    for _ in range(3):
        made += torch.autograd.grad(made[-1].sum(), z, create_graph=True)
    for y in made:
        assert y[:2].eq(0).all() and y[2] != 0, y
define(bound=50.5)
try:
    define()
except ValueError:
    print("right")
"""


def test_derivatives_are_those_at_the_bound_beyond_it():
    assert run(BOUND)[0] == ["right"]
