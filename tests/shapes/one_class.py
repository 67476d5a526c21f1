"""One class, and the many ways to write its forward."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from . import D, forward


class Layers(nn.Module):
    """Layers and activations of all kinds."""

    flag, norm = True, None

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(D, D) for _ in range(3))
        self.packed = nn.Linear(D, 2 * D)
        self.layers = nn.ModuleList(nn.Linear(D, D) for _ in range(4))
        self.weight, self.bias = nn.Parameter(torch.randn(D, D) / 3), nn.Parameter(torch.randn(D))
        self.act, self.drop, self.same = nn.SiLU(), nn.Dropout(0.0), nn.Identity()
        self.omega, self.slope, self.slopes = 3.0, nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.rand(D))
        self.of_lambda = lambda x: torch.tanh(x)
        self.of_partial = functools.partial(F.gelu, approximate="tanh")
        self.of_closure = lambda x: torch.sin(self.omega * self.slope * x)

    def shifted(self, x):
        return F.softplus(x) - math.log(2.0)


written = functools.partial(forward, Layers)


# --- a scale before the activation


@written(1)
def siren(self, x):
    return torch.sin(self.omega * self.a(x))


@written(1)
def trained_slope(self, x):
    return torch.tanh(self.slope * self.a(x))


@written(1)
def trained_slopes(self, x):
    return torch.tanh(self.a(x) * self.slopes)


# --- a branch between


@written(1)
def branch_on_norm(self, x):
    x = self.a(x)
    if self.norm is not None:
        x = self.norm(x)
    if self.act is not None:
        x = self.act(x)
    return x


@written(1, compiled=True)
def branch_on_the_slope(self, x):
    x = self.a(x)
    if self.norm is None:
        x = self.act(x)
    else:
        x = self.act(self.slope * x)
    return x


@written(1)
def norm_before_or_after(self, x):
    x = self.a(x)
    if self.act is not None and self.flag:
        x = self.act(x)
    if self.norm is not None:
        x = self.norm(x, 3)
    else:
        x = self.same(x)
    if self.act is not None and not self.flag:
        x = self.act(x)
    return x


@written(1, compiled=True)  # torch_geometric's MLP, without a norm
def identity_between(self, x):
    x = self.a(x)
    if self.act is not None and not self.flag:
        x = self.act(x)
    if self.norm is not None:
        x = self.norm(x, 3)
    else:
        x = self.same(x)
    if self.act is not None and self.flag:
        x = self.act(x)
    return self.same(x)


@written(1)
def two_identities(self, x):
    x = self.a(x)
    x = self.same(x)
    x = self.same(x)
    x = self.act(x)
    return x + x.mean()


@written(0, {"a": "followed by Identity, which is no activation of fusegrad"})
def identity_before_a_residual(self, x):
    x = self.a(x)
    x = self.same(x)
    x = self.act(x) + x
    return x


@written(1)
def first_of_a_tuple(self, x):
    h = self.a(x)
    y, r = self.act(h), x
    return y + r


# --- gates


@written(2, compiled=True)
def gate_and_up(self, x):
    return self.c(self.act(self.a(x)) * self.b(x))


@written(2)
def gate_in_four_statements(self, x):
    g = self.act(self.a(x))
    u = self.b(x)
    h = g * u
    return self.c(h)


@written(2)
def gate_before_its_activation(self, x):
    x_gate = self.a(x)
    x = self.b(x)
    x = self.act(x_gate) * x
    x = self.drop(x)
    return self.c(x)


@written(1, compiled=True)
def packed_up_first(self, x):
    u = self.packed(x)
    g, u = u.chunk(2, dim=-1)
    u = u * self.act(g)
    return self.c(u)


@written(1)
def packed_gate_first(self, x):
    x12 = self.packed(x)
    x1, x2 = x12.chunk(2, dim=-1)
    hidden = F.silu(x1) * x2
    return self.c(hidden)


@written(1)
def packed_in_either_order(self, x):
    x = self.packed(x)
    x1, x2 = x.chunk(2, dim=-1)
    x = x1 * self.act(x2) if self.flag else self.act(x1) * x2
    return self.c(x)


@written(1)
def packed_in_one_line(self, x):
    i, g = self.packed(x).chunk(2, dim=-1)
    return self.c(self.drop(self.act(i) * g))


@written(1)
def packed_after_another_use_of_the_name(self, x):
    r = x
    x = self.packed(x)
    a, b = x.chunk(2, dim=-1)
    h = F.silu(a) * b
    return self.c(h) + r


@written(1, compiled=True)
def packed_by_a_size(self, x):
    z = self.packed(x)
    assert z.shape[-1] % 2 == 0 and z.dim() == 2, "cannot be halved"
    a, b = torch.split(z, z.shape[-1] // 2, dim=-1)
    return self.c(a * F.silu(b))


@written(1)
def packed_by_keywords(self, x):
    a, b = self.packed(x).chunk(chunks=2, dim=-1)
    return self.c(F.silu(a) * b)


@written(1)
def packed_by_tensor_split(self, x):
    z = self.packed(x)
    a, b = z.tensor_split(2, dim=z.ndim - 1)
    return self.c(F.silu(a) * b)


@written(1)
def asserted_before_its_activation(self, x):
    x = self.a(x)
    assert x.ndim >= 2
    x = F.silu(x)
    return self.c(x)


@written(0, untaken=("packed",))
def packed_in_parts_of_another_size(self, x):
    a, b = self.packed(x).split([1, 15], dim=-1)
    return F.silu(a) * b


@written(0)
def packed_and_read_again(self, x):
    x12 = self.packed(x)
    a, b = x12.chunk(2, dim=-1)
    return F.silu(a) * b + x12.sum()


@written(0)
def gate_read_again(self, x):
    g = self.a(x)
    h = F.silu(g)
    u = self.b(x)
    y = h * u
    return y + g


@written(0)
def packed_and_read_after_the_loop(self, x):
    for _ in range(2):
        x12 = self.packed(x)
        a, b = x12.chunk(2, dim=-1)
        x = F.silu(a) * b
    return x + x12.sum()


@written(0)
def gate_read_again_in_a_loop(self, x):
    for _ in range(2):
        x = self.a(x)
        u = self.b(x)
        y = F.silu(x) * u
    return y


@written(1)
def torchs_glu(self, x):
    return F.glu(self.packed(x))


# --- weights of the module's own


@written(1)
def functional_linear(self, x):
    y = F.linear(x, self.weight, self.bias)
    y = self.act(y)
    return y


@written(1)
def matrix_product(self, x):
    x = x @ self.weight
    x = self.act(x)
    return x


# --- loops


@written(3, compiled=True)
def loop_with_a_function(self, x):
    for layer in self.layers[:-1]:
        x = self.of_lambda(layer(x))
    return self.layers[-1](x)


@written(3)
def loop_with_one_or_many_activations(self, x):
    for j, linear in enumerate(self.layers[:-1]):
        x = self.act[j](linear(x)) if isinstance(self.act, list) else self.act(linear(x))
    return x


# --- activations that are functions


@written(1)
def a_lambda(self, x):
    return self.of_lambda(self.a(x))


@written(1)
def a_partial(self, x):
    return self.of_partial(self.a(x))


@written(1)
def a_closure_with_a_trained_slope(self, x):
    return self.of_closure(self.a(x))


@written(1)
def a_method(self, x):
    return self.shifted(self.a(x))


# --- not fused


@written(0, {"a": "not only an activation reads y: `return y + self.act(y)`"})
def residual(self, x):
    y = self.a(x)
    return y + self.act(y)


@written(0, {"a": "not only an activation reads y: `u = y.shape`"})
def asks_for_its_shape(self, x):
    y = self.a(x)
    u = y.shape
    y = self.act(y)
    return y.reshape(u)


@written(0, {"a": "`u = x.sum()` comes between it and what reads y: an activation is fused if it comes first"})
def computes_between(self, x):
    y = self.a(x)
    u = x.sum()
    return self.act(y) + u
