"""The command line: which benchmarks, on what, how long, and where the results go."""

import argparse
import importlib
import random
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import record
from .harness import Budget, Result, measure
from .machine import facts, sentence
from .plot import plot, question
from .table import table, verdict

NAMES = ("linear_act", "gated", "mlp_training", "second_order", "call_overhead")
SWEEPS = (  # many cases: only when asked for
    *("gemm_peak", "grid", "small_networks", "per_sample", "rl_step", "laplacian", "laplacian_models"),
    *("laplacian_large", "directional", "keep_memory"),
)
AT_RANDOM = "grid"  # draws its cases
REAL = "models"  # real models of the libraries that are here: when asked for too
ROUNDS = 30
SECONDS = {"cpu": 1.0, "cuda": 0.5}
# Compiling runs a C++ compiler on a CPU; on a GPU max-autotune and QuACK try many kernels for each shape
COMPILE_SECONDS = {
    "cpu": {"compile": 40.0, "by hand, compiled": 60.0},
    "cuda": {"compile": 20.0, "max-autotune": 30.0, "quack": 20.0},
}
WIDTH = 180  # of a table that goes to a file


def main(argv: list[str]) -> int:
    """Run benchmarks and return the exit code."""
    args = _parse(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if args.device == "cuda" and not torch.cuda.is_available():
        console.print(f"bench: torch {torch.__version__} sees no CUDA device here; use --device cpu")
        return 1
    out = args.out or _default_out(args.smoke)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    console.print(sentence(facts(args.device)), highlight=False)
    failed: list[str] = []
    for name in args.names or NAMES:
        if name == REAL:
            failed += _real_models(args, out, console)
            continue
        results = _run(name, args, out, console, failed)
        said = getattr(importlib.import_module(f".{name}", __package__), "verdict", verdict)(results)
        console.print("", said, "", sep="\n", highlight=False)
    console.print(f"{time.perf_counter() - start:.0f} s in total. Results are in {out}", highlight=False)
    console.print(*failed, sep="\n", style="bold red", highlight=False, markup=False)
    return 1 if failed else 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fusegrad bench", description="Time fusegrad against stock torch and what else there is."
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"of {', '.join(NAMES)}, all if none is given; or {', '.join((*SWEEPS, REAL))}",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], help="the cases, or models, that have one of these in their name"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1000), help="of the grid (default: a new one)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, nothing compiled, over in seconds: for CI")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for csv and plots (default: benchmarks/results if there is one, else fusegrad-results; "
        "a temporary folder with --smoke)",
    )
    args = parser.parse_args(argv)
    known = (*NAMES, *SWEEPS, REAL)
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    return args


def _real_models(args: argparse.Namespace, out: Path, console: Console) -> list[str]:
    """Run the benchmark of real models, which has a table of its own; return what failed."""
    from . import models, models_report

    with console.status("models") as status:
        rows = models.run(out, args.smoke, args.only, status.update)
    if rows:
        console.print(*models.verdict(rows), models_report.markdown(out / "models.csv"), sep="\n", markup=False)
    return [f"models, {r.library} {r.model}: {r.failed}" for r in rows if r.failed]


def _default_out(smoke: bool) -> Path:
    if smoke:  # its numbers mean nothing and must not replace real ones
        return Path(tempfile.mkdtemp(prefix="fusegrad-smoke-"))
    committed = Path("benchmarks/results")
    return committed if committed.is_dir() else Path("fusegrad-results")


def _run(name: str, args: argparse.Namespace, out: Path, console: Console, failed: list[str]) -> list[Result]:
    """Run one benchmark. The csv grows with each case, so that a run cut short leaves what it had.

    A case that stock or fusegrad does not compute, or not right, goes to `failed`; the others are measured after it.
    """
    module = importlib.import_module(f".{name}", __package__)
    drawn: dict[str, int] = {}
    if name == AT_RANDOM:
        drawn["seed"] = args.seed
        console.print(f"{name} --seed {args.seed}", highlight=False)
    cases = module.cases(args.device, args.smoke, **drawn)
    cases = [case for case in cases if not args.only or any(part in case.name for part in args.only)]
    smoke = Budget(rounds=2, seconds=0.1, compile_seconds={})
    full = Budget(ROUNDS, SECONDS[args.device], dict(COMPILE_SECONDS[args.device]))
    budget = smoke if args.smoke else full
    budget.enough = getattr(module, "enough", budget.enough)
    budget.seconds = min(budget.seconds, getattr(module, "SECONDS", budget.seconds))
    if budget.compile_seconds:
        budget.compile_seconds |= getattr(module, "COMPILE_SECONDS", {})
    csv = out / f"{name}_{args.device}.csv"
    results: list[Result] = []
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=len(cases))
        for case in cases:
            tell = lambda what: progress.update(task, description=what)
            try:
                results += measure(case, args.device, budget, tell, getattr(module, "PROVIDERS", ()))
            except Exception as e:
                failed.append(f"{name}, {case.name}: {type(e).__name__}: {e}")
            record.write(csv, results, args.device)
            progress.advance(task)
    console.print(table(results, f"{name}: {question(name)}"))
    if not results:
        return results
    if plot(csv, question(name)) is None:
        console.print("No plot was made: matplotlib is missing (pip install matplotlib).")
    return results
