"""The table of real models, from models.csv: `python -m fusegrad.benchmarks.models_report [docs/models.md]`."""

import argparse
import math
import sys
from pathlib import Path

from .machine import sentence
from .markdown import put, row
from .models import WORST, Ratio, Row, read
from .table import duration

COUNTS, TIMES, SHARES = ("Linears", "followed", "fused"), ("training", "inference", "A/A"), ("products", "allowed")
HEAD = ("library", "model", *COUNTS, "why not", *TIMES, *SHARES)
WHY = 90  # letters of "why not"


def markdown(path: Path) -> str:
    """One row a model, those that lose first. The legend stands below, with the machine."""
    rows = sorted(read(path), key=lambda entry: min(WORST, *(ratio.value for ratio in entry[0].ratios())))
    head = [row(HEAD), row(["---", "---", *["---:"] * 3, "---", *["---:"] * 5])]
    legend = (
        f"What is below {WORST} of stock comes first. Linears: layers of the model, of two blocks or so; followed: "
        "those whose result an activation or a gate reads; fused: with it. training, inference: stock's time over "
        "fusegrad's, with two standard errors, and stock's time, in float32. A/A: stock's time over stock's, timed as "
        "if it were another provider, in training and inference: what is noise. products: the share of the Linears' "
        "products in stock's training step; allowed: the ratio if those ran at the FMA peak of the core, and the "
        "activations took no time."
    )
    versions = dict.fromkeys(f"{r.library} {r.version}" for r, _ in rows)
    machines = dict.fromkeys(f"Measured on {sentence(facts)}." for _, facts in rows)
    return "\n".join([*head, *(_line(r) for r, _ in rows), "", legend, "", f"{', '.join(versions)}.", *machines])


def _line(r: Row) -> str:
    why = "" if r.fused >= r.followed else r.why
    why = why if len(why) <= WHY else f"{why[: WHY - 1]}…"
    return row(
        (
            r.library,
            r.model,
            str(r.linears),
            str(r.followed),
            f"**{r.fused}**",
            (r.failed or why).replace("|", "\\|"),
            *map(_ratio, r.ratios()),
            "–" if math.isnan(r.training_again) else f"{r.training_again:.2f}, {r.inference_again:.2f}",
            "–" if math.isnan(r.products) else f"{100 * r.products:.0f} %",
            "–" if math.isnan(r.allowed) else f"{r.allowed:.2f}",
        )
    )


def _ratio(r: Ratio) -> str:
    if math.isnan(r.value):
        return "–"
    noise = "" if math.isnan(r.noise) else f" ± {r.noise:.2f}"
    return f"**{r.value:.2f}**{noise} ({duration(r.stock_ms)})"


def main(argv: list[str]) -> int:
    """Print the table, or put it into a file, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fusegrad.benchmarks.models_report", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="where to put the table, between its marks")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/models.csv"), help="the csv")
    args = parser.parse_args(argv)
    return put(args.file, benchmark=lambda: markdown(args.results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
