"""What a user runs from the shell, and what is documented."""

import ast
import csv
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
from fusegrad.kernels import choice
from fusegrad.ops import OPS

from cases import DEVICE, on_cpu
from processes import python

ROOT = Path(__file__).parent.parent
TRITON = {"FUSEGRAD_BACKEND": "triton"}  # on CPU tensors, by its interpreter


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
def test_check_finds_a_wrong_gradient(monkeypatch):
    """An error of 1e-4 in one derivative turns its lines to WRONG: what is checked is not what stock computes."""
    for name, value in SMALL.items():
        monkeypatch.setattr(routing, name, value)
    monkeypatch.setattr(fg.check, "REGISTRY", {name: REGISTRY[name] for name in ("silu", "relu")})
    act = ops.act
    off = lambda s, g, name, param, order: act(s, g, name, param, order) * (1 + 1e-4 * (order == 1 and name == "silu"))
    for file in ("act", "linear", "mlp", "chain", "gated"):
        monkeypatch.setattr(importlib.import_module(f"fusegrad.ops.{file}"), "act", off)
    assert {row.op for row in check("cpu") if not row.ok} == {"act silu", "linear_act silu", "mlp silu", "gated silu"}


def test_runs_as_a_module_and_refuses_nonsense():
    assert from_the_start("-m", "fusegrad", "info").returncode == 0
    wrong = python("-m", "fusegrad", "inof")
    assert wrong.returncode == 2 and "invalid choice" in wrong.stderr


@on_cpu
def test_bench_smoke(tmp_path):
    """Every benchmark validates its results and writes what it says."""
    run = python("-m", "fusegrad", "bench", "--smoke", "--out", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    for name in ("linear_act", "gated", "mlp_training", "second_order", "call_overhead"):
        assert (tmp_path / f"{name}_cpu.png").stat().st_size > 10_000
        rows = list(csv.DictReader((tmp_path / f"{name}_cpu.csv").open()))
        assert {"stock", "fusegrad"} <= {row["provider"] for row in rows}
        assert all(row["machine"] and row["torch"] for row in rows)


@on_cpu
@pytest.mark.parametrize("name", ("laplacian", "laplacian_large"))
def test_bench_of_laplacians_smoke(tmp_path, name):
    """Against the best rival, losses first."""
    run = python("-m", "fusegrad", "bench", name, "--smoke", "--out", str(tmp_path))
    assert run.returncode == 0 and "best rival stock" in run.stdout, run.stdout + run.stderr
    rows = {row["provider"]: row for row in csv.DictReader((tmp_path / f"{name}_cpu.csv").open())}
    assert float(rows["fusegrad"]["error"]) <= 2 * float(rows["stock"]["error"]) + 1e-6


@on_cpu
def test_bench_of_models_smoke(tmp_path):
    """The csv has a row a model, of which the command makes the table; a library that is missing is passed by."""
    only = ("torch MLP", "torch SIREN", "deepxde PFNN")
    run = python("-m", "fusegrad", "bench", "models", "--smoke", "--only", *only, "--out", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    rows = list(csv.DictReader((tmp_path / "models.csv").open()))
    assert {"MLP, silu", "SIREN"} <= {row["model"] for row in rows}
    assert all(float(row["training"]) > 0 and float(row["inference"]) > 0 and row["torch"] for row in rows)
    report = python("-m", "fusegrad.benchmarks.models_report", "--results", str(tmp_path / "models.csv"))
    assert report.returncode == 0 and "| torch | MLP, silu | 3 | 2 | **2** |" in report.stdout, report.stderr


@on_cpu
def test_tune_smoke(tmp_path):
    """By the interpreter, which is a machine like another: the table that it writes is the one that the layers read."""
    pytest.importorskip("triton")
    run = python("-m", "fusegrad", "tune", "--device", "cpu", "--smoke", "--out", str(tmp_path / "sm_90.csv"), **TRITON)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = choice.read(tmp_path / "sm_90.csv")
    assert [(row.op, row.dtype, row.m, row.k, row.n) for row in rows] == [
        (op, dtype, 16, 32, 16)
        for op in ("linear_act", "mm_dact", "gated")
        for dtype in ("bfloat16", "float16", "float32", "float64")
    ]
    code = (
        "import sys, torch, pathlib; from fusegrad.kernels import choice; choice.TABLES = pathlib.Path(sys.argv[1])\n"
    )
    code += "way = lambda op, dtype: choice.algorithm_for(op, 'sm_90', getattr(torch, dtype), 20, 20, 20)\n"
    code += "print(*(way(*what.split('/')) for what in sys.argv[2:]))"
    read = python("-c", code, str(tmp_path), *(f"{row.op}/{row.dtype}" for row in rows))
    assert read.stdout.split() == [row.algorithm for row in rows], read.stderr


@on_cpu
def test_tune_says_what_is_missing(tmp_path):
    pytest.importorskip("triton")
    assert "FUSEGRAD_BACKEND=triton" in python("-m", "fusegrad", "tune", "--device", "cpu", "--smoke").stdout
    (tmp_path / "file").touch()
    where = str(tmp_path / "file" / "sm_90.csv")
    run = python("-m", "fusegrad", "tune", "--device", "cpu", "--smoke", "--out", where, **TRITON)
    assert run.returncode == 1 and "can't write" in run.stdout and "--out" in run.stdout


def test_each_provider_has_a_time_however_busy_the_machine_is():
    from fusegrad.benchmarks.harness import Budget, Case, Step, measure

    ones = lambda dtype: (torch.ones(2, 2, dtype=dtype),)
    case = Case("ones", torch.float32, lambda provider, dtype: Step(lambda: ones(dtype), ()))
    budget = Budget(rounds=3, seconds=1e-9, compile_seconds={})
    assert all(result.ms > 0 for result in measure(case, "cpu", budget, lambda what: None, of=("stock", "fusegrad")))


def test_a_way_is_taken_where_it_wins_by_a_margin():
    from fusegrad.benchmarks.harness import Result
    from fusegrad.benchmarks.tune import fastest

    results = lambda **ms: [Result("", way, "", ms=t) for way, t in ms.items()]
    nan = float("nan")
    assert fastest(results(stock=1.0, cublas=1.02, triton=1.5)) == "cublas"
    assert fastest(results(stock=1.0, cublas=1.04, triton=1.5)) == "stock"
    assert fastest(results(stock=1.0, cublas=0.9, triton=0.5)) == "triton"
    assert fastest(results(stock=1.0, cublas=nan, triton=nan)) == "stock"


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


def passed(tree, files, select):
    """How many of the selected tests pass in a copy of the tree, where the reference serves what is new in C++."""
    files = (str(tree / "tests" / f"test_{name}.py") for name in files)
    run = from_the_start("-m", "pytest", "-n0", *files, "-k", select, PYTHONPATH=str(tree / "python"))
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
    run = from_the_start("-m", "fusegrad.activations.generate", PYTHONPATH=str(tmp_path / "python"), PATH=path)
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
def test_example_reaches_the_accuracy_of_stock():
    pytest.importorskip("sklearn")
    run = from_the_start("examples/digits.py")
    assert run.returncode == 0, run.stderr
    accuracies = [float(a) for a in re.findall(r"accuracy ([\d.]+) %", run.stdout)]
    assert len(accuracies) == 2 and accuracies[0] == accuracies[1] > 95


def test_readme_table_is_that_of_the_csv(tmp_path):
    from fusegrad.benchmarks.report import markdown

    text = (ROOT / "README.md").read_text()
    shown = text.split("<!-- benchmark table: begin -->")[1].split("<!-- benchmark table: end -->")[0]
    assert shown.strip() == markdown(ROOT / "benchmarks" / "results").strip()


def test_plots_are_those_of_benchmarks(tmp_path):
    """Beside their csv; that of real models has no plot."""
    pytest.importorskip("matplotlib")
    for name in ("call_overhead_cpu.csv", "models.csv"):
        shutil.copy(ROOT / "benchmarks" / "results" / name, tmp_path)
    run = python("-m", "fusegrad.benchmarks.report", "--results", str(tmp_path), "--plots")
    assert run.returncode == 0 and run.stdout.startswith("| case |"), run.stderr
    assert [path.name for path in tmp_path.glob("*.png")] == ["call_overhead_cpu.png"]


def test_table_of_models_is_that_of_the_csv():
    from fusegrad.benchmarks.models_report import markdown

    text = (ROOT / "docs" / "models.md").read_text()
    shown = text.split("<!-- benchmark table: begin -->")[1].split("<!-- benchmark table: end -->")[0]
    assert shown.strip() == markdown(ROOT / "benchmarks" / "results" / "models.csv").strip()


@on_cpu
def test_gpu_smoke():
    """What `make gpu` does, on the CPU: some kernels by the interpreter, and a few of the other steps."""
    pytest.importorskip("triton")
    steps = ("kernels", "memcheck", "tests", "call_overhead")
    run = from_the_start("benchmarks/gpu.py", "--device", "cpu", "--smoke", *steps, PYTHONPATH="python", OUT="")
    assert run.returncode == 0, run.stdout + run.stderr
    said = re.findall(r"^(\w+) +\d+ s  (.*)$", run.stdout, re.MULTILINE)
    assert [name for name, _ in said] == list(steps)
    expected = (r"ok: \d+ of \d+ right", "skipped: no ", r"ok: \d+ tests collected", r"ok: \d+ s in total")
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
