"""`python -m fusegrad tune`: which algorithm of kernels/choice.py is the fastest for each product, on the GPU at hand.

linear_act is timed without and with its pre-activation saved, as inference and training have it, the two together: one
algorithm serves both. A chain is timed forward and backward. What fits in L2 stays there, as between the layers of a
network. The table has a row for each product, with stock's time over that of each algorithm for information. An
algorithm displaces DEFAULT only where it is faster by MARGIN.
"""

import argparse
import csv
import importlib.util
import itertools
import math
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fusegrad import backends
from fusegrad.activations import REGISTRY
from fusegrad.kernels import choice
from fusegrad.ops.chain_by_layers import plan

from .harness import Budget, Case, Result, Step, measure
from .machine import dtype_name, facts, sentence
from .providers import Cannot, normal

DEFAULT: choice.Algorithm = "cublas"
MARGIN = 0.03
ACT = "gelu_tanh"
OPS = ("linear_act", "mm_dact", "gated", "chain")
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# Each speaks for sizes up to choice.REACH times larger and smaller: these cover all between the least and the most.
M = (16, 64, 256, 1024, 4096, 16384, 65536)
K = N = (64, 256, 1024, 4096)
WIDTHS, LAYERS = (32, 64, 128), (2, 4, 8)  # of chains, in the place of K and N
SMOKE, SMOKE_CHAIN = ((16,), (32,), (16,)), ((16,), (32,), (2,))
SECONDS = 0.15  # for each product
ROUNDS = 20
FACTS = ("machine", "torch", "commit", "date")


def main(argv: list[str]) -> int:
    """Measure, write the table, and return the exit code: 1 if an algorithm was wrong or a product was not measured."""
    args = _parse(argv)
    console = Console(width=None if Console().is_terminal else 140, highlight=False)
    missing = _missing(args)
    if missing:
        console.print(f"tune: {missing}", soft_wrap=True)
        return 1
    from fusegrad.kernels import gemm  # loads Triton

    if backends.INTERPRETED:
        from fusegrad.kernels import interpreter

        interpreter.repair()
    path = args.out or _default_out(gemm.family(torch.device(args.device)), args.smoke)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as e:
        console.print(f"tune: can't write {path} ({e.strerror}); name another file with --out", soft_wrap=True)
        return 1
    console.print(sentence(facts(args.device)), soft_wrap=True)
    rows, failed = _measure(args, path, console)
    console.print(_table(rows))
    console.print(f"The fastest: {_counts(rows)}. Written to {path}", soft_wrap=True)
    console.print(*failed, sep="\n", style="bold red", markup=False, soft_wrap=True)
    return 1 if failed or not rows else 0


def fastest(results: list[Result]) -> choice.Algorithm:
    """The algorithm with the shortest time; DEFAULT if none is shorter by MARGIN."""
    ms = {r.provider: r.ms for r in results if not math.isnan(r.ms)}
    best: Any = min(ms, key=lambda algorithm: ms[algorithm])
    return best if DEFAULT not in ms or ms[DEFAULT] > (1 + MARGIN) * ms[best] else DEFAULT


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fusegrad tune", description="Measure which kernels are fastest on this GPU."
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the interpreter, for tests")
    parser.add_argument(
        "--smoke", action="store_true", help="one tiny product of each op and dtype, over in seconds: for CI"
    )
    parser.add_argument("--out", type=Path, help="the csv (default: the table that the kernels read)")
    return parser.parse_args(argv)


def _missing(args: argparse.Namespace) -> str:
    """What stands in the way, in a sentence; empty if nothing."""
    if importlib.util.find_spec("triton") is None:
        return "there is no triton: pip install triton"
    if args.device == "cuda" and not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device here"
    if args.device == "cpu" and not (backends.INTERPRETED and args.smoke):
        return "on a CPU the kernels run in Triton's interpreter: set FUSEGRAD_BACKEND=triton, and give --smoke"
    return ""


def _default_out(family: str, smoke: bool) -> Path:
    """Numbers of --smoke mean nothing and must not replace real ones."""
    folder = Path(tempfile.mkdtemp(prefix="fusegrad-smoke-")) if smoke else choice.TABLES
    return folder / f"{family}.csv"


def _measure(args: argparse.Namespace, path: Path, console: Console) -> tuple[list[list[Result]], list[str]]:
    """The results of each product, and what went wrong. The table grows with each: a run cut short leaves some."""
    sizes = SMOKE if args.smoke else (M, K, N)
    of_chains = SMOKE_CHAIN if args.smoke else (M, WIDTHS, LAYERS)
    products = [
        product for op in OPS for product in itertools.product((op,), DTYPES, *(of_chains if op == "chain" else sizes))
    ]
    measured: list[list[Result]] = []
    rows: list[dict[str, object]] = []
    failed: list[str] = []
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(products))
        tell = lambda what: progress.update(task, description=what)
        for op, dtype, m, k, n in products:
            name = f"{op} {m}×{k}, {n} layers" if op == "chain" else f"{op} {m}×{k}→{n}"
            case = Case(name, dtype, partial(_build, op, m, k, n, dtype, args.device))
            budget = Budget(2, 0.1, {}) if args.smoke else Budget(ROUNDS, SECONDS, {})
            try:
                results = measure(case, args.device, budget, tell, of=choice.ALGORITHMS)
            except Exception as e:  # too large for this GPU, say
                failed.append(f"{case.name}, {dtype_name(dtype)}: {type(e).__name__}: {e}")
            else:
                measured.append(results)
                rows.append(_row(results, op, dtype, (m, k, n), args.device))
                failed += [f"{r.case}, {r.dtype}: {r.cannot}" for r in results if "is wrong" in r.cannot]
                _write(path, rows)
            progress.advance(task)
    return measured, failed


def _build(
    op: str, m: int, k: int, n: int, like: torch.dtype, device: str, algorithm: choice.Algorithm, dtype: torch.dtype
) -> Step:
    from fusegrad.kernels import gated, linear_act, mm_dact

    if algorithm == "triton" and dtype == torch.float64:
        raise Cannot("it has no float64")
    fresh = partial(normal, like=like, dtype=dtype, device=device)
    if op == "chain":
        return _build_chain(fresh, m, k, n, algorithm)
    x, w, b = fresh(m, k, seed=0), fresh(n, k, seed=1) / math.sqrt(k), fresh(n, seed=2)

    s, w_kn, param = fresh(m, n, seed=3), w.mT.contiguous(), REGISTRY[ACT].default

    def layer() -> tuple[torch.Tensor, ...]:
        (y, _), (again, z) = (linear_act.compute(algorithm, x, w, b, ACT, param, save) for save in (False, True))
        return y, again, z

    def gate() -> tuple[torch.Tensor, ...]:
        layers = x, w, w_up, b, b_up
        (y, *_), (again, s, up) = (gated.compute(algorithm, *layers, ACT, param, save) for save in (False, True))
        return y, again, s, up

    if op == "gated":
        w_up, b_up = fresh(n, k, seed=4) / math.sqrt(k), fresh(n, seed=5)
        return Step(gate, (x, w, b, w_up, b_up))
    if op == "mm_dact":
        return Step(lambda: mm_dact.compute(algorithm, x, w_kn, s, ACT, param, True), (x, w_kn, s))
    return Step(layer, (x, w, b))


def _build_chain(fresh: partial, rows: int, width: int, layers: int, algorithm: choice.Algorithm) -> Step:
    """Forward and backward."""
    from fusegrad.kernels import chain

    of = plan((ACT,) * layers, (REGISTRY[ACT].default,) * layers, (True,) * layers)
    x, gy = fresh(rows, width, seed=0), fresh(rows, width, seed=1)
    weights: list[torch.Tensor] = []
    for i in range(layers):
        weights += fresh(width, width, seed=2 + 2 * i) / math.sqrt(width), fresh(width, seed=3 + 2 * i)
    if algorithm == "triton" and not chain.takes(x, [width] * layers, of.names):
        raise Cannot("one kernel can't take it")
    return Step(lambda: chain.compute(algorithm, gy, x, weights, of), (gy, x, *weights))


def _row(
    results: list[Result], op: str, dtype: torch.dtype, sizes: tuple[int, int, int], device: str
) -> dict[str, object]:
    ratios = {r.provider: "" if math.isnan(r.ratio) else f"{r.ratio:.3f}" for r in results}
    stock = {"stock_ms": f"{results[0].ms:.5g}"}
    product = dict(zip(("op", "dtype", "m", "k", "n"), (op, dtype_name(dtype), *sizes), strict=True))
    machine = {k: v for k, v in facts(device).items() if k in FACTS}
    others = {a: ratios[a] for a in choice.ALGORITHMS if a != "stock"}
    return product | {"algorithm": fastest(results)} | stock | others | machine


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _table(measured: list[list[Result]]) -> Table:
    """A row a product: the time of each algorithm, stock's over it, and what is taken."""
    shown = Table("product", "dtype", box=None, header_style="bold", title="Stock's time over that of each algorithm")
    for name in ("stock ms", *(w for w in choice.ALGORITHMS if w != "stock"), "% peak"):
        shown.add_column(name, justify="right")
    shown.add_column("algorithm")
    for results in measured:
        ratios = ("–" if r.cannot else f"{r.ratio:.2f}" for r in results if r.provider != "stock")
        best = max((r.peak_percent for r in results if not math.isnan(r.peak_percent)), default=math.nan)
        percent = "–" if math.isnan(best) else f"{best:.0f}"
        shown.add_row(results[0].case, results[0].dtype, f"{results[0].ms:.3g}", *ratios, percent, fastest(results))
    return shown


def _counts(measured: list[list[Result]]) -> str:
    """How often each algorithm is taken."""
    counts = Counter(fastest(results) for results in measured)
    return ", ".join(f"{algorithm} {counts[algorithm]} times" for algorithm in choice.ALGORITHMS)
