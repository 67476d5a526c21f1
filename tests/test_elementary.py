"""The elementary functions of the C++ kernels, at the numbers and sizes where they could be wrong."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fusegrad import backends, ops

from cases import CASES, DEVICE

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.skipif(backends.extension is None, reason="no C++ extension"),
    pytest.mark.skipif(DEVICE != "cpu", reason="kernels of the CPU"),
]


@pytest.mark.parametrize("language, file", [("cpp", "csrc/coefficients.h"), ("triton", "kernels/coefficients.py")])
def test_coefficients_are_those_of_the_fits(language, file):
    """They are what csrc/coefficients.py makes, up to formatting."""
    pytest.importorskip("mpmath")
    made = subprocess.run([sys.executable, ROOT / "csrc" / "coefficients.py", language], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    squeeze = lambda text: "".join(text.split()).replace(",}", "}").replace(",)", ")")
    assert squeeze(made.stdout) == squeeze((ROOT / file).read_text())


# --- elementary functions, in units in the last place ---------------------------------------------------------------

# by the activations that are made of nothing else
FUNCTIONS = {"exp": torch.exp, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "sin": torch.sin}
AT_MOST = {"exp": 1.1, "tanh": 2, "sigmoid": 2.5, "sin": 2}  # stock's sigmoid is off by 2.48


def ulps(y, truth):
    """|y - truth| in units in the last place of truth, both finite or equal."""
    finite = truth.isfinite()
    assert torch.equal(y[~finite].nan_to_num(), truth[~finite].to(y.dtype).nan_to_num())
    y, truth = y[finite].double(), truth[finite].double()
    if y.numel() == 0:
        return 0.0
    size = truth.abs().clamp_min(torch.finfo(torch.float32).tiny)
    power_of_two = (size.view(torch.int64) & -(2**52)).view(torch.float64)  # without the bits of the mantissa
    return ((y - truth).abs() / power_of_two).max().item() * 2**23


def float32_patterns(step):
    return torch.arange(-(2**31), 2**31, step, dtype=torch.int64).to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_functions_over_the_whole_range(name):
    """Every 4099th number: all exponents and signs, subnormals, infinities, NaN."""
    z = float32_patterns(4099)
    torch.testing.assert_close(ops.act(z, None, name, 1.0, 0).isnan(), FUNCTIONS[name](z).isnan())
    z = z[~z.isnan() & ~(z.isinf() if name == "sin" else z.isnan())]
    truth = FUNCTIONS[name](z.double()).to(torch.float32)
    exact = FUNCTIONS[name](z.double())
    overflow = truth.isinf()
    y = ops.act(z, None, name, 1.0, 0)
    assert y[overflow].isinf().all()
    assert ulps(y[~overflow], exact[~overflow]) <= AT_MOST[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_functions_at_every_number(name):
    for start in range(-(2**31), 2**31, 2**20):  # so few at a time that memory is used again
        z = torch.arange(start, start + 2**20, dtype=torch.int64).to(torch.int32).view(torch.float32)
        z = z[z.isfinite()]
        exact = FUNCTIONS[name](z.double())
        y = ops.act(z, None, name, 1.0, 0)
        fits = exact.abs() <= torch.finfo(torch.float32).max
        assert ulps(y[fits], exact[fits]) <= AT_MOST[name]


def test_float64_functions():
    """At random against mpmath, to 50 digits."""
    mpmath = pytest.importorskip("mpmath")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(400, generator=generator, dtype=torch.float64) * torch.tensor([1e-3, 0.3, 3.0, 20.0]).repeat(100)
    exact = {
        "exp": mpmath.exp,
        "tanh": mpmath.tanh,
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "sin": mpmath.sin,
        "gelu": lambda x: x * mpmath.ncdf(x),
        "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    }
    with mpmath.workdps(50):
        for name, fn in exact.items():
            args = z[z.abs() < 6] if name == "gelu" else z[z < 20]
            y = ops.act(args, None, name, 1.0, 0)
            for got, x in zip(y.tolist(), args.tolist(), strict=True):
                want = fn(mpmath.mpf(x))
                # torch's formula of gelu and softplus loses what is small beside 1 there
                scale = abs(want) if name not in ("gelu", "softplus") else max(abs(want), abs(x), 1)
                assert abs(got - want) <= 4 * math.ulp(float(scale)), (name, x, got)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
def test_gelu_in_its_tail(dtype):
    """Down to the smallest normal numbers, to what rounding its argument's square makes of it; and its limits."""
    mpmath = pytest.importorskip("mpmath")
    last = -37.6 if dtype == torch.float64 else -13.0
    z = torch.cat([torch.linspace(last, -0.01, 400), torch.linspace(0, 9, 50)]).to(dtype)
    y = ops.act(z, None, "gelu", 0.0, 0)
    with mpmath.workdps(50):
        exact = [x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2 for x in map(mpmath.mpf, z.tolist())]
        wrong = [abs(mpmath.mpf(got) - want) for got, want in zip(y.tolist(), exact, strict=True)]
    eps = torch.finfo(dtype).eps
    for x, error, want in zip(z.tolist(), wrong, exact, strict=True):
        assert error <= eps * (6 + x * x) * abs(want), (x, float(error / want))
    ends = torch.tensor([math.inf, -1e30, -500.0, -0.0, math.nan], dtype=dtype)
    expected = torch.tensor([math.inf, 0, 0, 0, math.nan], dtype=dtype)
    torch.testing.assert_close(ops.act(ends, None, "gelu", 0.0, 0), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_gelu_of_all_16_bit_numbers(dtype):
    """Rounded to the nearest, but for a few that lie almost between two, to 2^-5 of their distance."""
    z = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    z = z[z.isfinite()]
    exact = z.double() * torch.special.erfc(z.double() * -math.sqrt(0.5)) / 2
    y, limits = ops.act(z, None, "gelu", 0.0, 0).double(), torch.finfo(dtype)
    place = limits.eps * torch.exp2(torch.floor(torch.log2(exact.abs().clamp_min(limits.tiny))))
    assert ((y - exact).abs() <= (0.5 + 2**-5) * place).all()
    assert (y != exact.to(dtype).double()).sum() <= 0.01 * z.numel()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_and_tails_of_act(case):
    """Sizes around the vector and the block, in float64 and through float32."""
    for n in (1, 7, 1023, 1025, 40000):
        s = torch.linspace(-2, 2, n, dtype=torch.float64) / max(1.0, case.value / 3)
        for order in (0, 1, 2, 3):
            y = ops.act(s, None, case.name, case.value, order)
            single = ops.act(s[:: max(1, n // 50)].contiguous(), None, case.name, case.value, order)
            torch.testing.assert_close(y[:: max(1, n // 50)], single, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_and_tails_of_the_derivatives_of_act(case, dtype):
    """Sizes around the vector and what a thread takes, with NaN and infinity in all places, against act."""
    generator = torch.Generator().manual_seed(0)
    for n in (1, 7, 1023, 1025, 40000):
        gy, s, g, tg = (torch.randn(n, generator=generator, dtype=dtype) for _ in range(4))
        s = s / max(1.0, case.value / 3)
        for i, special in enumerate((math.nan, math.inf)):
            for k, t in enumerate((gy, s, g, tg)):
                t[4 * i + k :: 61] = special
        d = lambda g, order: ops.act(s, g, case.name, case.value, order)
        for order in (1, 2):
            expected = d(gy * g, order + 1), d(gy, order), d(g, order)
            for needed in ((True, True, True), (True, False, False), (False, True, True)):
                outputs = ops.act_vjp(gy, s, g, case.name, case.value, order, *needed)
                for out, want, need in zip(outputs, expected, needed, strict=True):
                    torch.testing.assert_close(out, want if need else out.new_empty(0), equal_nan=True)
            terms = d(gy * g, order + 1), d(tg, order)
            ty, y = ops.act_jvp(gy, tg, s, g, case.name, case.value, order, True)
            torch.testing.assert_close(y, d(g, order), equal_nan=True)
            largest = max(t.nan_to_num(0, 0, 0).abs().max().item() for t in terms)
            close = {"rtol": 2e-6, "atol": 8 * torch.finfo(dtype).eps * largest}  # the terms may cancel
            torch.testing.assert_close(ty, sum(terms), equal_nan=True, **close)
