"""Derivatives are right to the last digits wherever they are normal numbers, against mpmath; 16-bit ones as stock's."""

import math
from collections.abc import Callable
from functools import cache

import mpmath
import pytest
import sympy
import torch
from torch.autograd import grad

import fusegrad as fg
from fusegrad import backends, ops
from fusegrad.activations import REGISTRY

from cases import CASES, DEVICE, Case

# act(z) with parameter p, made of what loses nothing where it is small; what is below 0 and above, where that differs
FORMULAS = {
    "relu_squared": ("0", "z**2"),
    "elu": ("p*(exp(z) - 1)", "z"),
    "selu": ("S*A*(exp(z) - 1)", "S*z"),
    "celu": ("p*(exp(z/p) - 1)", "z"),
    "gelu": ("z*erfc(-z/sqrt(2))/2",),
    "gelu_tanh": ("z/(1 + exp(-2*sqrt(2/pi)*(z + 44715*z**3/1000000)))",),
    "quick_gelu": ("z/(1 + exp(-K*z))",),
    "silu": ("z/(1 + exp(-z))",),
    "mish": ("z*(exp(2*z) + 2*exp(z))/(exp(2*z) + 2*exp(z) + 2)",),
    "swish": ("z/(1 + exp(-p*z))",),
    "softplus": ("log(1 + exp(p*z))/p",),
    "shifted_softplus": ("log((1 + exp(z))/2)",),
    "squareplus": ("(z + sqrt(z**2 + p))/2",),
    "softsign": ("z/(1 - z)", "z/(1 + z)"),
    "logsigmoid": ("-log(1 + exp(-z))",),
    "tanhshrink": ("z - sinh(z)/cosh(z)",),
    "sin": ("sin(p*z)",),
    "snake": ("z + sin(p*z)**2/p",),
    "morlet": ("cos(p*z)*exp(-z**2/2)",),
    "gaussian": ("exp(-z**2)",),
    "square": ("z**2",),
}
# act'(z) as a function of the output z that these save
FIRST = {"sigmoid": "z*(1 - z)", "tanh": "1 - z**2", "exp": "z"}
# made of polynomials, with kinks between them
PIECES = {"identity", "relu", "relu6", "leaky_relu", "leaky_relu_in_place", "hardswish", "hardsigmoid", "hardtanh"}
# Klambauer et al., arXiv:1706.02515; Hendrycks & Gimpel, arXiv:1606.08415
DIGITS = {"A": "1.6732632423543772848170429916717", "S": "1.0507009873554804934193349852946", "K": "1.702"}
CONSTANTS = {name: sympy.Float(digits, 40) for name, digits in DIGITS.items()}
ORDERS = 5 if DEVICE == "cpu" and backends.KNOWN else 3  # that have kernels, or formulas
TORCHS = "gelu", "gelu_tanh", "silu", "mish", "tanh"  # first derivatives by torch's own kernel in the reference


def formulas(name: str) -> list[Callable]:
    """Of each side of 0, (z, p) -> D_1 to D_6."""
    z, p = sympy.symbols("z p")
    sides = [sympy.sympify(text, CONSTANTS | {"z": z, "p": p}) for text in FORMULAS.get(name, (FIRST.get(name),))]
    firsts = [side if name in FIRST else sympy.diff(side, z) for side in sides]
    return [
        sympy.lambdify((z, p), [sympy.diff(f, z, k) for k in range(ORDERS + 1)], "mpmath", cse=True) for f in firsts
    ]


def arguments(case: Case) -> torch.Tensor:
    """Numbers of both signs and of all sizes, exact in float32; more where derivatives leave float32 or float64."""
    noise = 1 + 0.2 * torch.rand(66, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if case.name in FIRST:
        near_1 = 1 - 2.0 ** -torch.arange(1.0, 25, dtype=torch.float64)
        y = torch.cat([near_1, 2.0 ** -torch.arange(2.0, 100, 7, dtype=torch.float64), noise - 0.9])
        return torch.cat([y, -y] if case.name == "tanh" else [y]).float()
    sizes = 2.0 ** (torch.arange(66) / 3 - 12) * noise
    ends = torch.tensor([1e-36, 1e-12, 2e-8, 9.3, 13.2, 20.9, 37.8, 40.41, 89.5, 104, 711, 714, 1e9, 1e30])
    z = torch.cat([sizes, ends]) / (case.value if case.name in ("softplus", "sin", "snake") else 1)
    smooth = [] if len(FORMULAS[case.name]) == 2 else [torch.zeros(1)]  # at 0 too
    return torch.cat([z, -z, *smooth]).float()


def truth(case: Case, points: list[float]) -> torch.Tensor:
    """D_1 to D_6 at each, as two float64: the nearest, and what it leaves out, (points, 6, 2)."""
    sides = formulas(case.name)
    found = []
    for x in points:
        digits = 100 + min(700, int(2 * abs(x) * max(1, case.value)))  # e^{-2z} is found beside 1
        with mpmath.workdps(digits):
            side = sides[x > 0 and len(sides) == 2]
            orders = side(mpmath.mpf(x), mpmath.mpf(case.value))
            found.append([(float(d), float(d - float(d))) for d in orders])
    return torch.tensor(found, dtype=torch.float64, device=DEVICE)


def test_formulas_are_complete():
    assert FORMULAS.keys() | FIRST.keys() | PIECES == set(REGISTRY)


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in PIECES], ids=str)
def test_derivatives(case):
    """To 32 units in the last place, and what 8 units of the argument change: near a zero of the derivative, and of
    e^{-z^2 / 2}, no more can be had. To 32 units alone of what saves its output, whose formulas are short. Of the
    fourth and fifth these are units of the derivatives beside them too: that is how large their terms are.
    """
    s = arguments(case)
    exact = truth(case, s.tolist())
    for dtype in (torch.float64, torch.float32):
        limits = torch.finfo(dtype)
        z = s.to(DEVICE, dtype)
        for order in range(1, ORDERS + 1):
            ways = {"served": ops.act(z, None, case.name, case.value, order)}
            if 1 < order <= 3 or (order == 1 and case.name not in TORCHS):
                ways["reference"] = ops.act.reference(z, None, case.name, case.value, order)
            want, rest = exact[:, order - 1].unbind(-1)
            slope = 0 if case.name in FIRST else exact[:, order, 0]
            allowed = limits.eps * (32 * want.abs() + 8 * (z.double() * slope).abs())
            if order > 3 and case.name not in FIRST:
                allowed += 32 * limits.eps * exact[:, order - 2 : order + 1, 0].abs().sum(-1)
            normal = (limits.tiny <= want.abs()) & (want.abs() <= limits.max)
            for way, found in ways.items():
                wrong = normal & ~((found.double() - want - rest).abs() <= allowed)
                assert not wrong.any(), (way, dtype, order, s[wrong.cpu()], found[wrong], want[wrong])


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_squareplus_at_infinity(dtype):
    """All derivatives are the limits: nothing overflows on the way."""
    z = torch.tensor([math.inf, -math.inf, 1e38, -1e38], dtype=dtype, device=DEVICE)
    for order in range(1, ORDERS + 1):
        limit = (z > 0).to(dtype) if order == 1 else torch.zeros_like(z)
        torch.testing.assert_close(ops.act(z, None, "squareplus", 4.0, order), limit, rtol=0, atol=1e-30)


@cache
def every(dtype: torch.dtype) -> torch.Tensor:
    """Every finite 16-bit number."""
    z = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    return z[z.isfinite()].to(DEVICE)


def first_and_second(fn: Callable, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    z = z.clone().requires_grad_()
    (first,) = grad(fn(z).sum(), z, create_graph=True)
    if not first.requires_grad:
        return first, torch.zeros_like(first)
    return first.detach(), grad(first.sum(), z, materialize_grads=True)[0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_16_bit_derivatives_at_every_number(case):
    """The error of the first and second is at most twice that of stock, and a unit in the last place."""
    ours = lambda z: fg.act(z, case.name, case.param)
    for dtype in (torch.bfloat16, torch.float16):
        z, limits = every(dtype), torch.finfo(dtype)
        ways = first_and_second(ours, z.double()), first_and_second(ours, z), first_and_second(case.stock, z)
        for order, (exact, mine, theirs) in enumerate(zip(*ways, strict=True), 1):
            error, of_stock = ((y.double() - exact).abs().nan_to_num(math.inf) for y in (mine, theirs))
            wrong = error > 2 * of_stock + limits.eps * (exact.abs() + limits.tiny)
            wrong &= exact.abs() <= limits.max
            assert not wrong.any(), (dtype, order, z[wrong][:9].tolist(), mine[wrong][:9].tolist())
