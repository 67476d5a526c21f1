"""Benchmarks and tables made of them: their commands run, small, and say what is true."""

import csv
import shutil

import pytest
import torch

from fusegrad import memory
from fusegrad.kernels import choice

from cases import on_cpu
from processes import ROOT, TRITON, python


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
@pytest.mark.parametrize(
    "name",
    (
        "laplacian",
        "directional",
        *(pytest.param(f"laplacian_{of}", marks=pytest.mark.slow) for of in ("large", "models")),
    ),
)
def test_bench_of_laplacians_smoke(tmp_path, name):
    """Against the best rival, losses first."""
    run = python("-m", "fusegrad", "bench", name, "--smoke", "--out", str(tmp_path))
    assert run.returncode == 0 and "best rival stock" in run.stdout, run.stdout + run.stderr
    rows = [*csv.DictReader((tmp_path / f"{name}_cpu.csv").open())]
    for case in {row["case"] for row in rows}:
        of = {row["provider"]: row for row in rows if row["case"] == case}
        assert float(of["fusegrad"]["error"]) <= 2 * float(of["stock"]["error"]) + 2e-6


@on_cpu
@pytest.mark.parametrize(
    "name, only",
    [
        pytest.param("rl_step", "DQN", marks=pytest.mark.slow),
        pytest.param("keep_memory", "8→16→8", marks=pytest.mark.slow),
        pytest.param("per_sample", "3→8→1", marks=pytest.mark.slow),
    ],
)
def test_bench_of_providers_in_processes_of_their_own_smoke(tmp_path, name, only):
    """Their times are measured there, and their results held to float64 here."""
    run = python("-m", "fusegrad", "bench", name, "--smoke", "--only", only, "--out", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    assert name != "keep_memory" or "The speed with memory kept" in run.stdout
    rows = list(csv.DictReader((tmp_path / f"{name}_cpu.csv").open()))
    kept = [row for row in rows if row["provider"].endswith(", memory kept") and not row["cannot"]]
    assert all(0 < float(row["ms"]) < 1000 and float(row["error"]) < 1e-5 and not row["bytes_saved"] for row in kept)
    assert kept or memory.obstacle()


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
        (op, dtype, 16, 32, 2 if op == "chain" else 16)  # layers
        for op in ("linear_act", "mm_dact", "gated", "chain")
        for dtype in ("bfloat16", "float16", "float32", "float64")
    ]
    code = (
        "import sys, torch, pathlib; from fusegrad.kernels import choice; choice.TABLES = pathlib.Path(sys.argv[1])\n"
    )
    code += "n = lambda op: 2 if op == 'chain' else 20\n"
    code += "way = lambda op, dtype: choice.algorithm_for(op, 'sm_90', getattr(torch, dtype), 20, 20, n(op))\n"
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


@pytest.mark.parametrize("wrong", (0.0, 3.0))
def test_a_number_on_the_other_side_of_a_kink_is_no_error(wrong):
    """As stock's is where its numbers are moved by a rounding; what no such run gives is one."""
    from fusegrad.benchmarks.harness import Budget, Case, Step, WrongResult, measure

    def build(provider, dtype):
        x, w = torch.ones(4096, dtype=dtype), torch.full((4096,), 2.0**-24 - 1, dtype=dtype)
        if provider == "fusegrad":
            w[0] = -1

        def run():
            z = w + x
            slope = (z > 0).to(dtype)
            return z.relu(), slope + (wrong if provider == "fusegrad" else 0)

        return Step(run, (x, w))

    case, budget = Case("kink", torch.float32, build), Budget(rounds=1, seconds=1e-9, compile_seconds={})
    time_it = lambda: measure(case, "cpu", budget, lambda what: None, of=("stock", "fusegrad"))
    if wrong:
        with pytest.raises(WrongResult):
            time_it()
    else:
        assert all(result.ms > 0 for result in time_it())


def test_the_grid_draws_the_same_by_a_seed_and_says_the_worst_first():
    from fusegrad.benchmarks import grid
    from fusegrad.benchmarks.harness import Budget, Result, measure

    names = lambda seed: [(case.name, case.dtype) for case in grid.cases("cpu", False, seed)]
    assert names(3) == names(3) != names(4) and len(names(3)) == 300
    assert {name.split()[0] for name, _ in names(3)} == {"forward", "forward+backward", "infer", "train"}
    budget = Budget(rounds=1, seconds=1e-9, compile_seconds={}, enough=grid.enough)
    results = [r for case in grid.cases("cpu", True, 3) for r in measure(case, "cpu", budget, print, grid.PROVIDERS)]
    assert all(r.ms > 0 for r in results) and len(results) == 8
    ours = [
        Result(f"{kind} 1×1→1 relu", "fusegrad", "float32", ratio=ratio)
        for kind, ratio in (("train", 0.9), ("infer", 0.4))
    ]
    said = grid.verdict([*ours, Result("forward 1×1→1 relu", "fusegrad", "float64", ratio=1.5)])
    assert said.index("infer 1×1→1") < said.index("train 1×1→1") and "2 of 3 cases" in said


def test_a_way_is_taken_where_it_wins_by_a_margin():
    from fusegrad.benchmarks.harness import Result
    from fusegrad.benchmarks.tune import fastest

    results = lambda **ms: [Result("", way, "", ms=t) for way, t in ms.items()]
    nan = float("nan")
    assert fastest(results(stock=1.0, cublas=1.02, triton=1.5)) == "cublas"
    assert fastest(results(stock=1.0, cublas=1.04, triton=1.5)) == "stock"
    assert fastest(results(stock=1.0, cublas=0.9, triton=0.5)) == "triton"
    assert fastest(results(stock=1.0, cublas=nan, triton=nan)) == "stock"


def test_tables_in_documents_are_those_of_the_csv():
    from fusegrad.benchmarks import gains, models_report, report
    from fusegrad.benchmarks.markdown import between

    results, readme = ROOT / "benchmarks" / "results", (ROOT / "README.md").read_text()
    assert between(readme, "gains")[1] == gains.markdown(results)
    assert between(readme, "benchmark")[1] == report.markdown(results)
    intel = (ROOT / "docs" / "intel.md").read_text()
    assert between(intel, "gains")[1] == gains.markdown(results / "intel")
    assert between(intel, "benchmark")[1] == report.markdown(results / "intel")
    models = (ROOT / "docs" / "models.md").read_text()
    assert between(models, "benchmark")[1] == models_report.markdown(results / "models.csv")


def test_a_table_has_its_place(tmp_path):
    """A document without the marks stays as it is, and the reason is said."""
    (tmp_path / "a.md").write_text("<!-- gains table: begin -->\n")
    run = python(
        "-m", "fusegrad.benchmarks.report", str(tmp_path / "a.md"), "--results", str(ROOT / "benchmarks/results")
    )
    assert run.returncode == 1 and "the line <!-- gains table: end -->" in run.stderr
    assert (tmp_path / "a.md").read_text() == "<!-- gains table: begin -->\n"


def test_plots_are_those_of_benchmarks(tmp_path):
    """Beside their csv; that of real models has no plot."""
    pytest.importorskip("matplotlib")
    for name in ("call_overhead_cpu.csv", "models.csv"):
        shutil.copy(ROOT / "benchmarks" / "results" / name, tmp_path)
    run = python("-m", "fusegrad.benchmarks.report", "--results", str(tmp_path), "--plots")
    assert run.returncode == 0 and "\n| case |" in run.stdout, run.stderr
    assert [path.name for path in tmp_path.glob("*.png")] == ["call_overhead_cpu.png"]
