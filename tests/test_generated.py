"""What is generated is what is committed, and an activation of a user's own is derived as those are."""

import ctypes
import math
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import grad

from fusegrad.activations import REGISTRY, generate
from fusegrad.activations import primitives as f
from fusegrad.activations.definitions import DEFINITIONS

from cases import CASES, DEFAULTS, DEVICE, on_cpu

ROOT = Path(__file__).parent.parent


@on_cpu
def test_files_are_those_that_are_generated():
    for program in ("ruff", "clang-format"):
        if not (Path(sys.executable).with_name(program).exists() or shutil.which(program)):
            pytest.skip(f"no {program}")
    stale = [str(path) for path, text in generate.files().items() if path.read_text() != text]
    assert not stale, f"run {generate.COMMAND}"


def test_all_that_is_defined_is_registered():
    """In its order; other tests add activations of their own."""
    assert [name for name in REGISTRY if name in DEFINITIONS] == list(DEFINITIONS)


@on_cpu
def test_import_needs_no_sympy():
    """Importing it takes longer than all else, torch apart."""
    code = "import torch, sys; had = 'sympy' in sys.modules; import fusegrad; assert had or 'sympy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_programs_on_tensors_are_the_generated_text(case):
    """What a user's own activation runs is what the text of the registry says."""
    text, run = REGISTRY[case.name], generate.torch_formulas(DEFINITIONS[case.name])
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float64, torch.bfloat16):
        z, g = (3 * torch.randn(2, 50, generator=generator, dtype=torch.float64)).to(DEVICE, dtype)
        s = z if text.saves_input else text.value(z, case.value)
        close = {} if dtype == torch.bfloat16 else {"rtol": 1e-12, "atol": 1e-13 * max(1, abs(case.value)) ** 3}
        for theirs, mine in (
            (text.value(z, case.value), run.value(z, case.value)),
            (text.first(g, s, case.value), run.first(g, s, case.value)),
            (text.second(s, case.value), run.second(s, case.value)),
            (text.third(s, case.value), run.third(s, case.value)),
        ):
            torch.testing.assert_close(mine, theirs, **close)


# of z and a = 0.3, by every primitive
OWN = {
    "erf": lambda z, a: f.erf(z) + 0 * a,
    "gelu by erf": lambda z, a: 0.5 * z * (1 + f.erf(z / math.sqrt(2))),
    "logarithms": lambda z, a: f.log(1 + z**2) + f.log1p(a * z**2),
    "roots": lambda z, a: f.sqrt(z * z + a) - (1 + z * z) ** 1.5,
    "pieces": lambda z, a: f.where((z > 0) & (z < 2), z**2, -a * z**3),
    "extrema": lambda z, a: f.maximum(z, a * z) + f.minimum(z, 0.5) ** 2 + f.clamp(2 * z, -1, 1) * f.sigmoid(z),
    "mish": lambda z, a: z * f.tanh(f.softplus(a * z)),
    "rational": lambda z, a: z * (27 + z * z) / (27 + 9 * z * z),
    "signs": lambda z, a: abs(z) ** 3 / (1 + abs(z)) + f.sign(z) * z,
    "exponentials": lambda z, a: f.expm1(a * z) * f.exp(-z * z),
    "nested": lambda z, a: f.sin(f.exp(f.cos(z))),
    "divided arguments": lambda z, a: a * f.tanh(z / a) + z * f.sigmoid(z / (1 + a)),
    "ratio of roots": lambda z, a: z / f.sqrt(1 + a * z * z),
    "log of sums": lambda z, a: f.log(f.exp(a * z) + f.exp(-z)),
}
OWN_Z = torch.linspace(-3, 3, 37, dtype=torch.float64) + 0.013
A = 0.3


def differentiated(fn):
    """fn and its derivatives at OWN_Z, by torch."""
    z = OWN_Z.clone().requires_grad_()
    found = [fn(z, A)]
    for _ in range(3):
        y = found[-1]
        found.append(grad(y.sum(), z, create_graph=True)[0] if y.requires_grad else torch.zeros_like(z))
    return [y.detach() for y in found]


@on_cpu
@pytest.mark.parametrize("name", OWN)
def test_derivatives_of_a_users_own(name):
    fn = OWN[name]
    own = generate.torch_formulas(generate.derive(name.replace(" ", "_"), fn, "a", A))
    ones = torch.ones_like(OWN_Z)
    found = own.value(OWN_Z, A), own.first(ones, OWN_Z, A), own.second(OWN_Z, A), own.third(OWN_Z, A)
    torch.testing.assert_close(list(found), differentiated(fn), rtol=1e-12, atol=1e-12)


PROGRAM = """
#define FUSEGRAD_ISA portable
#define FUSEGRAD_VECTOR_BYTES 16
#include "elementary.h"
namespace fusegrad {{ namespace FUSEGRAD_ISA {{
{structs}
template <class A, class V> void orders(const ScalarOf<V>* z, ScalarOf<V>* out, int n) {{
  for (int i = 0; i < n; i += kLanes<V>) {{
    const V v = load<V>(z + i);
    store<V>(out + i, A::value(v, P<V>({a})));
    store<V>(out + n + i, A::first(all<V>(1), v, P<V>({a})));
    store<V>(out + 2 * n + i, A::second(v, P<V>({a})));
    store<V>(out + 3 * n + i, A::third(v, P<V>({a})));
  }}
}}
}} }}
using namespace fusegrad::portable;
extern "C" {{
{calls}
}}
"""


@on_cpu
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_cpp_of_a_users_own(tmp_path):
    """Against float64, to a few units of float32 and of float64."""
    names = [name.replace(" ", "_") for name in OWN]
    definitions = [generate.derive(name, fn, "a", A) for name, fn in zip(names, OWN.values(), strict=True)]
    call = "void {n}_{t}(const {t}* z, {t}* out, int n) {{ orders<{c}, {v}>(z, out, n); }}"  #
    calls = [
        call.format(n=n, c=generate.camel(n), t=t, v=v) for n in names for t, v in (("float", "F32"), ("double", "F64"))
    ]
    structs = "\n".join(map(generate.cpp, definitions))
    source, library = tmp_path / "own.cpp", tmp_path / "own.so"
    source.write_text(PROGRAM.format(structs=structs, a=A, calls="\n".join(calls)))
    options = ["-std=c++20", "-O1", "-ffp-contract=fast", "-Wno-psabi", "-fPIC", "-shared", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["g++", *options, str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    for name, fn in zip(names, OWN.values(), strict=True):
        expected = torch.stack(differentiated(fn))[:, :36].numpy()
        for kind, dtype in (("float", np.float32), ("double", np.float64)):
            z, out = OWN_Z[:36].numpy().astype(dtype), np.empty((4, 36), dtype)
            getattr(loaded, f"{name}_{kind}")(
                z.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), 36
            )
            scale = np.maximum(1, np.abs(expected).max(1, keepdims=True))
            assert (np.abs(out - expected) <= 40 * np.finfo(dtype).eps * scale).all(), (name, kind)


@on_cpu
def test_triton_of_a_users_own():
    """The text compiles; tests of the registry run the same."""
    for name, fn in OWN.items():
        text = generate.triton(generate.derive(name.replace(" ", "_"), fn, "a", A))
        compile(text, name, "exec")
        assert f'ACTIVATIONS["{name.replace(" ", "_")}"] = Kernels(' in text


WRONG = {
    "math": (lambda z: math.sin(z), TypeError, "use fusegrad.sin for math.sin"),
    "torch": (lambda z: torch.sin(z), TypeError, "use fusegrad.sin for torch.sin"),
    "numpy": (lambda z: np.sin(z), TypeError, "use fusegrad.sin for numpy.sin"),
    "method": (lambda z: z.sigmoid(), TypeError, "an expression has no method 'sigmoid'"),
    "if": (lambda z: z if z > 0 else 0 * z, TypeError, "use fusegrad.where"),
    "nothing": (lambda z: None, TypeError, "must return an expression of real numbers, got None"),
    "condition": (lambda z: z > 0, TypeError, "must return an expression"),
    "tensor": (lambda z: torch.ones(3), TypeError, "must return an expression"),
    "constant": (lambda z: 3.0, ValueError, "does not depend on z"),
    "power": (lambda z: z**z, ValueError, "only whole and half powers"),
    "third root": (lambda z: z ** (1 / 3), ValueError, "only whole and half powers"),
    "division by 0": (lambda z: z / 0, TypeError, "of real numbers"),
    "arguments": (lambda z, a: z, TypeError, r"must take \(z\), as param is None"),
    "bounds": (lambda z: f.clamp(z, -1, z**2), ValueError, "bounds of clamp must be numbers"),
    "string": (lambda z: f.sin("z"), TypeError, "need a tensor or the expression of an activation, got str"),
    "equality": (lambda z: z if z == 1 else 2 * z, TypeError, "==, != or `in` .* use fusegrad.where"),
    "inequality": (lambda z: z if z + 1 != 1 else 2 * z, TypeError, "==, != or `in` .* use fusegrad.where"),
    "membership": (lambda z: z if z in (0, 1) else 2 * z, TypeError, "==, != or `in` .* use fusegrad.where"),
    "lookup": (lambda z: {0: z}.get(z, 2 * z), TypeError, "==, != or `in` .* use fusegrad.where"),
    "truth": (lambda z: z if z else 2 * z, TypeError, "use fusegrad.where"),
    "not": (lambda z: z * (not f.sin(z)), TypeError, "use fusegrad.where"),
    "of conditions": (lambda z: z if (z > 0) == (z < 1) else 2 * z, TypeError, "use fusegrad.where"),
    "where equal": (lambda z: f.where(z == 0, z, 1 / z), TypeError, r"such as fusegrad.where\(abs\(z\) < 1e-6"),
    "comparison as a number": (lambda z: z * (z > 0), TypeError, "a comparison is no number; use fusegrad.where"),
    "number as a comparison": (lambda z: f.where(z, z, 0), TypeError, "need a comparison"),
    "parameter": (lambda z: z * torch.nn.Parameter(torch.ones(())), TypeError, "closes over a tensor.* give numbers"),
    "tensor first": (lambda z: torch.ones(()) - z, TypeError, "closes over a tensor.* give numbers"),
    "tensor called": (lambda z: z * f.exp(torch.ones(())), TypeError, "closes over a tensor.* give numbers"),
    "tensor beside": (lambda z: f.maximum(z, torch.ones(())), TypeError, "closes over a tensor.* give numbers"),
    "array": (lambda z: z * np.ones(2), TypeError, "need a real number where there is array"),
    "array first": (lambda z: np.ones(2) * z, TypeError, "need a real number where there is array"),
    "one bound": (lambda z: f.clamp(z, 0, None), TypeError, "bounds of clamp must be numbers; use fusegrad.maximum"),
    "infinite bound": (
        lambda z: f.clamp(z, 0, math.inf),
        TypeError,
        "bounds of clamp must be numbers; use fusegrad.max",
    ),
}


@on_cpu
@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_are_told(mistake):
    fn, error, says = WRONG[mistake]
    with pytest.raises(error, match=says):
        generate.derive("mine", fn)


OF_THE_PARAMETER = {
    "equality": (lambda z, a: f.tanh(z) if a == 0 else f.sin(a * z) / a, TypeError, "use fusegrad.where"),
    "truth": (lambda z, a: z if a else 2 * z, TypeError, "use fusegrad.where"),
    "membership": (lambda z, a: z if a in (0, 1) else a * z, TypeError, "use fusegrad.where"),
    "exp": (lambda z, a: f.exp(a) * f.tanh(z), ValueError, "a function of the parameter or of numbers alone"),
    "exp within": (lambda z, a: f.tanh(z * f.exp(-a)), ValueError, "a function of the parameter .* give its value"),
    "sqrt": (lambda z, a: f.sqrt(a) * z, ValueError, "a function of the parameter or of numbers alone"),
    "half power": (lambda z, a: z / a**0.5, ValueError, "a function of the parameter or of numbers alone"),
    "abs": (lambda z, a: z + abs(a), ValueError, "a function of the parameter or of numbers alone"),
    "clamp": (lambda z, a: z * f.clamp(a, 0, 1), ValueError, "a function of the parameter or of numbers alone"),
    "where": (lambda z, a: f.where(a > 0, z, 2 * z), ValueError, "a comparison of the parameter or of numbers alone"),
    "maximum": (lambda z, a: f.maximum(a, 1) * z, ValueError, "a comparison of the parameter or of numbers alone"),
    "number": (lambda z, a: z + f.exp(0 * z), ValueError, "a function of the parameter or of numbers alone"),
    "plain number": (lambda z, a: z * f.exp(1.0), TypeError, "got float"),
}


@on_cpu
@pytest.mark.parametrize("mistake", OF_THE_PARAMETER)
def test_mistakes_with_a_parameter_are_told(mistake):
    fn, error, says = OF_THE_PARAMETER[mistake]
    with pytest.raises(error, match=says):
        generate.derive("mine", fn, "a", 1.0)


@on_cpu
def test_a_parameter_of_0_divides_as_in_a_kernel():
    fn = lambda z, a: (1 - z**2 / a**2) * f.exp(-(z**2) / (2 * a**2)) + f.where(z > 1, 1 / a, z / a)
    own = generate.torch_formulas(generate.derive("mine", fn, "a", 1.0))
    z = torch.tensor([1.0, 2.0])
    for a in (0.0, -0.0):
        for made in (own.value(z, a), own.first(z, z, a), own.second(z, a), own.third(z, a)):
            assert not made.isfinite().any()
    inverse = generate.torch_formulas(generate.derive("mine", lambda z, a: f.where(z > 1, 1 / a, z), "a", 1.0))
    assert [inverse.value(z, a)[1].item() for a in (0.0, -0.0)] == [math.inf, -math.inf]


@on_cpu
@pytest.mark.parametrize(
    "fn", (lambda z: f.clamp(z, -1, 2), lambda z: f.clamp(z - 1, -2, 1), lambda z: f.clamp(-z, -2, 1))
)
def test_clamp_at_its_bounds_has_torchs_derivative(fn):
    z = torch.tensor([-1.5, -1.0, 0.0, 2.0, 2.5], requires_grad=True)
    own = generate.torch_formulas(generate.derive("mine", fn))
    assert own.first(torch.ones_like(z), z, 0.0).equal(grad(fn(z).sum(), z)[0])


@on_cpu
def test_numbers_of_all_kinds():
    fn = lambda z: np.float64(0.5) * z + np.int64(2) / (3 + z * z) + z * Fraction(1, 4) - np.float32(0.5)
    own = generate.torch_formulas(generate.derive("mine", fn))
    torch.testing.assert_close(own.value(OWN_Z, 0.0), 0.75 * OWN_Z + 2 / (3 + OWN_Z**2) - 0.5)


@on_cpu
def test_what_saves_its_output_states_its_first():
    with pytest.raises(ValueError, match="`first` must be stated"):
        generate.derive("mine", lambda z: f.tanh(z), saves="output")
    own = generate.torch_formulas(
        generate.derive("mine", lambda z: f.tanh(z), saves="output", first=lambda y: (1 - y) * (1 + y))
    )
    assert own.second(torch.tensor([0.25]), 0.0).item() == -0.5 and not own.saves_input


@pytest.mark.parametrize("case", DEFAULTS[:1], ids=str)
def test_primitives_are_torchs_on_tensors(case):
    z = OWN_Z.to(DEVICE)
    for name in ("exp", "log1p", "expm1", "tanh", "sigmoid", "erf", "sin", "cos", "abs", "sign"):
        x = z.abs() if name == "log1p" else z
        torch.testing.assert_close(getattr(f, name)(x), getattr(torch, name)(x))
    torch.testing.assert_close(f.softplus(z), torch.nn.functional.softplus(z, threshold=50))
    torch.testing.assert_close(f.where(z > 0, z, 0.0), z.relu())
    torch.testing.assert_close(f.maximum(z, 0), z.relu())
    torch.testing.assert_close(f.minimum(1, z), z.clamp(max=1))
    torch.testing.assert_close(f.clamp(z, -1, 2), z.clamp(-1, 2))
