"""What a user runs from the shell, and what is documented."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import SMALL

import fusegrad as fg
from fusegrad import backends, ops, routing
from fusegrad.activations import REGISTRY
from fusegrad.check import check
from fusegrad.cli import main
from fusegrad.ops import OPS

from cases import DEVICE, on_cpu
from processes import ROOT, TRITON, python


def code_blocks(document):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def from_the_start(*args, **env):
    """What a new process of Python gives; less is needed by what environment variables and files do not tell Python."""
    command = [sys.executable, *args]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert fg.__version__ in out and "cpu capability" in out
    for op in OPS:
        assert re.search(rf"^ *{op} +{backends.serving(op)}", out, re.MULTILINE)


@pytest.mark.parametrize(
    "node, says",
    ((object(), "ops at every size"), (None, "layers of up to")),
    ids=("c++", "py"),
)
def test_info_tells_what_stock_runs(node, says, capsys, monkeypatch):
    monkeypatch.setattr(backends, "node", node)
    assert main(["info"]) == 0
    assert says in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("acts", ("some", pytest.param("all", marks=pytest.mark.slow)))
def test_check(capsys, monkeypatch, acts):
    """Of all activations it takes long, and their numbers have tests of their own."""
    if acts == "some":
        some = {name: REGISTRY[name] for name in ("identity", "relu", "gelu_tanh", "softplus")}
        monkeypatch.setattr(fg.check, "REGISTRY", some)
    assert main(["check", "--device", DEVICE]) == 0
    out = capsys.readouterr().out
    assert "WRONG" not in out and "linear_act gelu_tanh" in out and "float16" in out


@on_cpu
@pytest.mark.parametrize("wrong", (1e-4, float("nan")), ids=str)
def test_check_finds_a_wrong_gradient(wrong, monkeypatch):
    """An error of 1e-4 in one derivative turns its lines to WRONG: what is checked is not what stock computes."""
    monkeypatch.setattr(fg.backends, "node", None)  # so that the rules are those in Python
    for name, value in SMALL.items():
        monkeypatch.setattr(routing, name, value)
    monkeypatch.setattr(fg.check, "REGISTRY", {name: REGISTRY[name] for name in ("silu", "relu")})
    act = ops.act
    factor = lambda name, order: 1 + wrong if order == 1 and name == "silu" else 1
    off = lambda s, g, name, param, order: act(s, g, name, param, order) * factor(name, order)
    for file in ("act", "linear", "mlp", "chain_by_layers", "gated"):
        monkeypatch.setattr(importlib.import_module(f"fusegrad.ops.{file}"), "act", off)
    assert {row.op for row in check("cpu") if not row.ok} == {"act silu", "linear_act silu", "mlp silu", "gated silu"}


def test_runs_as_a_module_and_refuses_nonsense():
    assert from_the_start("-m", "fusegrad", "info").returncode == 0
    wrong = python("-m", "fusegrad", "inof")
    assert wrong.returncode == 2 and "invalid choice" in wrong.stderr


# what is compiled is traced and differentiated, and the graph is run as it is
WITHOUT_INDUCTOR = "import functools, torch; torch.compile = functools.partial(torch.compile, backend='aot_eager')"


@on_cpu
@pytest.mark.parametrize("document", ("docs/lecture.md", "docs/derivatives.md", "README.md"))
def test_documented_code_runs(document, tmp_path):
    """All python blocks of a document, in order, in one process; those of the Chinese lecture are the same."""
    blocks = code_blocks(document)
    assert blocks
    run = python("-c", "\n".join([WITHOUT_INDUCTOR, *blocks]), XDG_CACHE_HOME=str(tmp_path))
    assert run.returncode == 0, run.stderr[-2000:]


IN_CI = ("transformers", "deepxde")
OF_LIBRARIES = dict(re.findall(r"^## (\S+)\n```python\n(.*?)^```", (ROOT / "docs/models.md").read_text(), re.M | re.S))


@on_cpu
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(code, id=name, marks=() if name.lower() in IN_CI else pytest.mark.models)
        for name, code in OF_LIBRARIES.items()
    ],
)
def test_documented_line_for_a_library_runs(block):
    """Where the library is here."""
    statements = [n for n in ast.parse(block).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = [n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in statements]
    for name in names:
        if importlib.util.find_spec(name.split(".")[0]) is None:
            pytest.skip(f"{name} is not installed")
    quietly = "import warnings\nwarnings.simplefilter('ignore')\nfrom fusegrad.benchmarks import zoo\nzoo.prepare()\n"
    run = python("-c", quietly + block)
    assert run.returncode == 0, run.stderr[-2000:]


@on_cpu
@pytest.mark.slow
@pytest.mark.parametrize("library", ("DeepXDE", pytest.param("PINA", marks=pytest.mark.models)))
def test_documented_change_of_a_program_keeps_its_losses(library, tmp_path):
    """Before the diff that is shown, and after."""
    pytest.importorskip(library.lower())
    section = (ROOT / "docs/pinn_libraries.md").read_text().split(f"## {library}\n")[1].split("\n## ")[0]
    (before,), (diff,) = (re.findall(rf"^```{kind}\n(.*?)^```", section, re.M | re.S) for kind in ("python", "diff"))
    (tmp_path / "program.py").write_text(before)
    subprocess.run(["git", "apply"], input=diff, text=True, cwd=tmp_path, check=True)
    value = {"DeepXDE": "state.loss_train[0]", "PINA": "trainer.callback_metrics['train_loss'].item()"}[library]
    losses = []
    for program in (before, (tmp_path / "program.py").read_text()):
        run = python("-c", f"{program}\nprint()\nprint({value})", DDE_BACKEND="pytorch")
        assert run.returncode == 0, run.stderr[-2000:]
        losses.append(float(run.stdout.split()[-1]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def follow(recipe, tree):
    """Do to a copy of the tree what a recipe shows: its files and its diffs."""
    text = (ROOT / recipe).read_text()
    skip = shutil.ignore_patterns("__pycache__", "kernels", "benchmarks")
    for folder in ("csrc", "kernels", "python", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=skip)
    for file in ("pyproject.toml", ".clang-format"):
        shutil.copy(ROOT / file, tree)
    for path, code in re.findall(r"^```py (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        (tree / path).write_text(code)
    diff = "".join(re.findall(r"^```diff\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    subprocess.run(["git", "apply"], input=diff, text=True, cwd=tree, check=True)
    (tree / "python/fusegrad/kernels").symlink_to(tree / "kernels")


IN_TREE = """
import runpy, sys
_, path, module, *sys.argv[1:] = sys.argv
sys.path.insert(0, path)
import fusegrad
assert fusegrad.__file__.startswith(path)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def in_tree(tree, module, *args, **env):
    """`python -m module`, where the package is that of a copy of the tree."""
    return python("-c", IN_TREE, str(tree / "python"), module, *args, **env)


def passed(tree, files, select):
    """How many of the selected tests pass in a copy of the tree, where the reference serves what is new in C++."""
    files = (str(tree / "tests" / f"test_{name}.py") for name in files)
    run = in_tree(tree, "pytest", "-n0", *files, "-k", select)
    assert run.returncode == 0, run.stdout[-3000:]
    return int(re.search(r"^(\d+) passed", run.stdout, re.MULTILINE)[1])


@on_cpu
def test_the_recipe_of_an_op_works(tmp_path):
    follow("docs/add_an_op.md", tmp_path)
    assert passed(tmp_path, ("ops", "errors"), "bilinear_gate or the_gate or sampled") == 7


@on_cpu
def test_the_recipe_of_an_activation_works(tmp_path):
    follow("docs/add_an_activation.md", tmp_path)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # of the formatters
    run = in_tree(tmp_path, "fusegrad.activations.generate", PATH=path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert passed(tmp_path, ("precision", "activations"), "lisht or complete") >= 13


def test_both_lectures_have_the_same_code():
    """Up to comments; and tell of every op."""
    english, chinese = (
        [ast.dump(ast.parse(block)) for block in code_blocks(f"docs/lecture{suffix}.md")] for suffix in ("", ".zh")
    )
    assert english == chinese
    for suffix in ("", ".zh"):
        table = re.findall(r"^\| `(\w+)\(", (ROOT / f"docs/lecture{suffix}.md").read_text(), re.MULTILINE)
        assert set(table) == set(OPS)


@on_cpu
@pytest.mark.slow
def test_example_reaches_the_accuracy_of_stock():
    pytest.importorskip("sklearn")
    run = from_the_start("examples/digits.py")
    assert run.returncode == 0, run.stderr
    accuracies = [float(a) for a in re.findall(r"accuracy ([\d.]+) %", run.stdout)]
    assert len(accuracies) == 2 and accuracies[0] == accuracies[1] > 95


@on_cpu
def test_gpu_smoke():
    """What `make gpu` does, on the CPU: some kernels by the interpreter, and a few of the other steps."""
    pytest.importorskip("triton")
    steps = ("kernels", "memcheck", "call_overhead")
    run = from_the_start("benchmarks/gpu.py", "--device", "cpu", "--smoke", *steps, PYTHONPATH="python", OUT="")
    assert run.returncode == 0, run.stdout + run.stderr
    said = re.findall(r"^(\w+) +\d+ s  (.*)$", run.stdout, re.MULTILINE)
    assert [name for name, _ in said] == list(steps)
    expected = (r"ok: \d+ of \d+ right", "skipped: no ", r"ok: \d+ s in total")
    for (_, got), pattern in zip(said, expected, strict=True):
        assert re.match(pattern, got), run.stdout
    assert "| no grad 4×4 tanh, module, float32 |" in run.stdout


@on_cpu
@pytest.mark.slow
def test_every_kernel_that_gpu_runs():
    pytest.importorskip("triton")
    run = from_the_start("tests/each_kernel.py", "cpu", **TRITON)
    assert run.returncode == 0, run.stdout + run.stderr


def test_gpu_stops_and_tells_a_step(capfd, tmp_path, monkeypatch):
    from fusegrad.benchmarks import gpu

    monkeypatch.setattr(gpu, "LOG", tmp_path / "log")
    slow = "import time\nprint('half', flush=True)\ntry: time.sleep(60)\nfinally: print('interrupted', flush=True)"
    in_a_minute = time.monotonic() + 60
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    ran = {}
    for name, code, limit, to_end in (
        ("good", "print('fine')", 30, 30),
        ("bad", "print('oh'); raise SystemExit(3)", 30, 30),
        ("slow", slow, 5, 30),
        ("deaf", deaf, 5, 1),
    ):
        monkeypatch.setattr(gpu, "INTERRUPT_SECONDS", to_end)
        ran[name] = gpu._run(name, gpu.Step([sys.executable, "-c", code]), limit, in_a_minute)[1]
    assert ran["good"] == "ok: fine" and ran["bad"] == "failed with exit code 3: oh"
    assert ran["slow"].startswith("stopped after 5 s: ") and ran["deaf"] == "stopped after 5 s"
    assert gpu._run("late", gpu.Step(["true"]), 30, time.monotonic())[1] == "not run: no time left"
    assert gpu._run("not", gpu.Step([], skipped="no GPU"), 30, in_a_minute)[1] == "skipped: no GPU"
    shown, log = capfd.readouterr().out, (tmp_path / "log").read_text()
    assert "\ninterrupted\n" in shown and "\noh\n" in shown and "\nfine\n" not in shown
    assert "\nfine\n" in log


def test_gpu_says_what_is_missing():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run = from_the_start("benchmarks/gpu.py", PYTHONPATH="python")
    assert run.returncode == 1 and "sees no CUDA device" in run.stdout
