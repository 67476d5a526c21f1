"""The C++ kernels: that they serve, on every instruction set, and agree with float64."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fusegrad as fg
from fusegrad import backends, ops, routing
from fusegrad.activations import REGISTRY
from fusegrad.ops import OPS

from cases import DEVICE, leaves
from processes import python

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.skipif(backends.extension is None, reason="no C++ extension"),
    pytest.mark.skipif(DEVICE != "cpu", reason="kernels of the CPU"),
]
SETS = backends.extension.instruction_sets() if backends.extension else []
THERE = [name for name, there in SETS if there]
LACKING = [name for name, there in SETS if not there]
WIDEST = backends.extension.capability() if backends.extension else "portable"
NARROWER = THERE[THERE.index(WIDEST) + 1 :] if backends.extension else []


def test_every_op_has_a_kernel():
    """Orders above the third have none on purpose."""
    assert {op for op in OPS if backends.serving(op) != "cpu"} == {"act_reference"}


def test_the_kernels_know_the_registry():
    assert backends.extension.activations() == {name: a.saves_input for name, a in REGISTRY.items()}


def test_the_names_of_the_instruction_sets():
    """Both C++ and Python have a list."""
    names = [name for name, _ in SETS]
    assert names == [name for name in backends.INSTRUCTION_SETS if name in names] and names[-1] == "portable"


TOLD = """
import os, torch
for value in {values}:
    os.environ["FUSEGRAD_CPU"] = value
    try:
        import fusegrad
    except ValueError as e:
        print(e)
os.environ["FUSEGRAD_CPU"] = ""
import fusegrad as fg
x = torch.ones(300, 300)
torch.testing.assert_close(fg.linear(x, x), x @ x)
"""


def test_an_instruction_set_that_is_not_there_is_told():
    """On import, by an error; it leaves nothing behind that the next import would trip over."""
    done = python("-c", TOLD.format(values=["vax", *LACKING]))
    assert done.returncode == 0, done.stderr[-1000:]
    first, *others = done.stdout.splitlines()
    assert re.fullmatch(r"FUSEGRAD_CPU is 'vax'; it can be 'amx', .*'portable', or not set", first)
    says = f"but {', '.join(THERE)}"
    assert others == [f"FUSEGRAD_CPU is {name!r}; this processor has no {name}, {says}" for name in LACKING]


# avx512 is avx512_bf16 without the instructions for bfloat16; portable is what avx2 is, in vectors half as wide
NUMBERS_OF = [pytest.param(isa, marks=[] if isa == "avx2" else [pytest.mark.slow]) for isa in NARROWER]


@pytest.mark.parametrize("isa", NUMBERS_OF)
def test_narrower_instruction_sets(isa):
    """The numbers of the kernels, as here, forced to another instruction set."""
    names = ("elementary", "layouts", "activations", "precision")
    tests = [str(ROOT / "tests" / f"test_{name}.py") for name in names]
    chosen = "test_layouts or precision or (activations and (error or extreme or nan)) or functions or blocks"
    code = (
        "import fusegrad, pytest, sys\n"
        f"assert fusegrad.backends.extension.capability() == {isa!r}\n"
        f"sys.exit(pytest.main(['-q', '-n0', '--hypothesis-profile=few', '-k', {chosen!r}, *{tests!r}]))"
    )
    done = python("-c", code, FUSEGRAD_CPU=isa)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.slow
@pytest.mark.parametrize("isa", THERE)
def test_kernels_under_sanitizers(isa, tmp_path):
    """The kernels as a plain program, under AddressSanitizer and UndefinedBehaviorSanitizer."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no compiler")
    program = tmp_path / "kernels"
    units, only = [isa], f"{isa}::kKernels"
    if isa == "avx512_bf16":  # it has what is of bfloat16 alone
        units, only = [isa, "avx512"], "with_bf16()"
    if isa == "amx":  # and this its products
        units, only = [isa, "avx512_bf16", "avx512"], "with_amx()"
    sources = [ROOT / "tests" / "kernels.cpp", *(ROOT / "csrc" / "cpu" / f"isa_{unit}.cpp" for unit in units)]
    sanitize = "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    # without optimisation, and the attribute flatten, kernels compile in a third of the time; most of what runs is not
    # the kernels but what they are compared with, which takes less than half of the time when it is optimised. What is
    # undefined ends the program by an illegal instruction, which compiles in less time than words; kernels.cpp tells
    # how to have those.
    options = [*sanitize, "-fsanitize-undefined-trap-on-error", f"-DONLY={only}"]
    options += "-std=c++17 -ffp-contract=fast -Wno-psabi -Dflatten=".split()
    options.append(f"-I{ROOT / 'csrc'}")
    objects = [tmp_path / f"{source.stem}.o" for source in sources]
    compiling = [
        subprocess.Popen([compiler, *options, level, "-c", source, "-o", to], stderr=subprocess.PIPE, text=True)
        for level, source, to in zip(("-O1", "-O0", "-O0", "-O0"), sources, objects, strict=False)
    ]
    for process in compiling:
        said = process.communicate()[1]
        assert process.returncode == 0, said[-3000:]
    if shutil.which("nm"):
        for path in objects[1:]:
            assert_code_stays_within(path, path.stem.removeprefix("isa_"))
    built = subprocess.run([compiler, *sanitize, *objects, "-lpthread", "-o", program], capture_output=True, text=True)
    if "cannot find -lasan" in built.stderr:
        pytest.skip("no sanitizers")
    assert built.returncode == 0, built.stderr[-3000:]
    draws = 60 if isa == WIDEST else 150  # of sizes for each kernel
    done = subprocess.run([str(program), str(draws)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def assert_code_stays_within(path, isa):
    """No code of an instruction set runs before main, and none has a name that the linker could take for another's."""
    listed = subprocess.run(["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True)
    symbols = [line.split(" ", 2)[1:] for line in listed.stdout.splitlines()]
    assert not [name for _, name in symbols if "_GLOBAL__sub_I" in name or "static_initialization" in name]
    assert not [name for kind, name in symbols if kind == "W" and f"fusegrad::{isa}::" not in name]


class Names(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().split("::")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", REGISTRY)
def test_small_layers_go_to_stock(name, monkeypatch):
    """Below the sizes of backends.py no op of ours is called, above none but ours; derivatives of any order agree."""
    x, w, b = leaves()
    calls = {
        "layer": lambda: fg.linear_act(x, w, b, act=name),
        "linear": lambda: fg.linear(x, w, b),
        "tensor": lambda: fg.act(x, name),
        "constant": lambda: fg.mul_constant(x, 2.0),
    }

    def third(call):
        y = call()
        for _ in range(3):
            if y.requires_grad:
                (y,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True, materialize_grads=True)
        return y.detach()

    ours = {key: (call().detach(), third(call)) for key, call in calls.items()}
    for size in ("SMALL_LAYER", "SMALL_TENSOR_IN_TRAINING"):
        monkeypatch.setattr(routing, size, 10**6)
    for key, call in calls.items():
        stock = REGISTRY[name].stock_derives_twice or key in ("linear", "constant")
        torch.testing.assert_close((call().detach(), third(call)), ours[key], rtol=1e-7, atol=1e-7)
        with Names() as seen:
            call()
        assert ("fusegrad" in seen.names) != stock


def copies(call):
    with torch.autograd.profiler.profile() as seen:
        call()
    return sum(event.count for event in seen.key_averages() if event.key == "aten::copy_")


@pytest.mark.parametrize("act", ("identity", "tanh"))
def test_backward_copies_no_rows(act):
    """gy and s as slices of wider tensors, as cat and split leave them; s not at all where it is not needed."""
    wide, x, w = (torch.randn(shape, dtype=torch.float64) for shape in ((60, 100), (60, 70), (50, 70)))
    gy, s = wide[:, :50], wide[:, 50:] if act != "identity" else wide[:, ::2]
    calls = {
        OPS["linear_act_backward"]: (gy, x, w, s, act, 0.0, True, True, True),
        OPS["mm_dact"]: (x, w.mT, s, act, 0.0, True),
    }
    for op, args in calls.items():
        assert copies(lambda op=op, args=args: op(*args)) == 0
        dense = (a.contiguous() if isinstance(a, torch.Tensor) else a for a in args)
        torch.testing.assert_close(op(*args), op(*dense), rtol=1e-13, atol=1e-13)


def test_scratch_memory_is_given_back():
    """No more is kept than a bound, and nothing after empty_cache: here of one thread."""
    fg.empty_cache()
    before = backends.extension.scratch_bytes()
    held = lambda: backends.extension.scratch_bytes() - before
    x, w = torch.randn(2500, 300), torch.randn(4000, 300)
    small = torch.randn(100, 4000)
    ops.linear_act_backward(small, x[:100], w, small, "tanh", 0.0, True, True, True)
    assert 0 < held() < 4 * small.nbytes + 2**22
    large = torch.randn(2500, 4000)
    ops.linear_act_backward(large, x, w, large, "tanh", 0.0, True, False, False)
    ops.linear(torch.ones(4096, 1100, dtype=torch.bfloat16), torch.ones(2100, 1100, dtype=torch.bfloat16), None)
    assert held() <= 2**25
    fg.empty_cache()
    assert held() == 0


THREADS = """
import resource
from fusegrad import backends
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, -1))  # too little for the stacks of so many
try:
    backends.extension.peak_gflops("float32", 10_000, 0.01)
except RuntimeError as e:
    print("told", e)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc")
def test_threads_that_cannot_be_had_are_told():
    """By an error, which ends those that wait for them too."""
    done = python("-c", THREADS)
    assert done.stdout.startswith("told") and done.returncode == 0, done.stderr[-1000:]


FORK = """
import os, signal, threading, torch, fusegrad as fg
torch.set_num_threads(2)
x, w, b = torch.randn(600, 300), torch.randn(500, 300), torch.randn(500)
y = fg.linear_act(x, w, b, act="gelu")
def same(a, b):
    return torch.equal(a, b) if not MKL else torch.allclose(a, b, rtol=1e-4, atol=1e-4)
if os.fork() == 0:
    signal.alarm(60)  # ends a child that hangs
    again = fg.linear_act(x, w, b, act="gelu")
    torch.set_num_threads(1)  # torch's own ops would hang
    os._exit(0 if same(again, y) else 1)
assert os.wait()[1] == 0, "after fork"
wrong = []
def rows(start):
    for n in (100, 37, 600, 1, 256):
        if not same(fg.linear_act(x[start : start + n], w, b, act="gelu"), y[start : start + n]):
            wrong.append((start, n))
threads = [threading.Thread(target=rows, args=(i,)) for i in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
assert not wrong or all(n == 1 for _, n in wrong), wrong  # a single row is summed in another order
for count in (1, 2, 3):
    torch.set_num_threads(count)
    now, again = (fg.linear_act(x, w, b, act="gelu") for _ in range(2))
    assert same(now, y) and torch.equal(now, again), count
"""
CPUINFO = Path("/proc/cpuinfo")
INTEL = CPUINFO.exists() and "GenuineIntel" in CPUINFO.read_text()
# which multiplies large layers on Intel, but not in a forked process, with the same bits for the same number of threads
# alone; sums of 300 numbers, up to 80, differ by 5e-5 between it and our kernels
MKL = INTEL and WIDEST.startswith(("amx", "avx512"))


def test_forks_and_threads():
    """Right after a fork and from many threads at once; the same bits for any number of threads, but MKL's."""
    done = python("-c", FORK.replace("MKL", str(MKL)))
    assert done.returncode == 0, done.stderr[-1000:]


def test_small_numbers_elsewhere_stay_as_they_are():
    """Within a layer what is below the normal numbers becomes zero; after it, on any thread, and in products, not."""
    net = fg.fuse(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
    net(torch.randn(40, 4)).sum().backward()
    x = torch.randn(2000, 8, requires_grad=True)
    fg.linear_act(x, torch.randn(200, 8), act="tanh").sum().backward()
    fg.act(x, "tanh").sum().backward()
    tiny = torch.full((1000, 1000), 1e-40)
    assert torch.equal(tiny * 1.0, tiny) and tiny[0, 0] > 0
    torch.testing.assert_close(fg.act(tiny, "tanh"), tiny, rtol=0, atol=1e-44)
    tiny = tiny[:40, :40].contiguous()
    torch.testing.assert_close(torch.ops.fusegrad.mm(tiny, torch.eye(40), False, False), tiny, rtol=0, atol=0)


@pytest.mark.parametrize("act", ("softplus", "silu", "sigmoid"))
def test_small_results_of_a_layer(act):
    """They are right but for what is below the normal numbers on the way, times numbers of up to 120."""
    x = torch.linspace(-1.2, -0.8, 999).mul(100)[:, None].requires_grad_()
    y = fg.linear_act(x, torch.ones(3, 1), act=act)
    (gx,) = torch.autograd.grad(y.sum(), x)
    truth = x.detach().double().requires_grad_()
    true = getattr(nn.functional, act)(truth * torch.ones(3, dtype=torch.float64))
    (true_gx,) = torch.autograd.grad(true.sum(), truth)
    for mine, right in ((y, true), (gx, true_gx)):
        torch.testing.assert_close(mine.double(), right, rtol=2e-6, atol=120 * torch.finfo(torch.float32).tiny)
        if INTEL:
            assert not ((mine != 0) & (mine.abs() < torch.finfo(torch.float32).tiny)).any()
