"""The table of real models, from models.csv: `python -m fusegrad.benchmarks.models_report [docs/models.md]`."""

import argparse
import math
import sys
from pathlib import Path

from .machine import sentence
from .models import WORST, Row, read
from .report import put, row
from .table import duration

HEAD = ("library", "model", "Linears", "followed", "fused", "why not", "training", "inference", "products", "allowed")
WHY = 90  # letters of "why not"


def markdown(path: Path) -> str:
    """One row a model, those that lose first. The legend stands below, with the machine."""
    rows = sorted(read(path), key=lambda entry: min(WORST, entry[0].training, entry[0].inference))
    head = [row(HEAD), row(["---", "---", *["---:"] * 3, "---", *["---:"] * 4])]
    legend = (
        f"What is below {WORST} of stock comes first. Linears: layers of the model, of two blocks or so; followed: "
        "those whose result an activation or a gate reads; fused: with it. training, inference: stock's time over "
        "fusegrad's, and stock's time, in float32. products: the share of the Linears' products in stock's training "
        "step; allowed: the ratio if those ran at the FMA peak of the core, and the activations took no time."
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
            _ratio(r.training, r.training_ms),
            _ratio(r.inference, r.inference_ms),
            "–" if math.isnan(r.products) else f"{100 * r.products:.0f} %",
            "–" if math.isnan(r.allowed) else f"{r.allowed:.2f}",
        )
    )


def _ratio(ratio: float, stock_ms: float) -> str:
    return "–" if math.isnan(ratio) else f"**{ratio:.2f}** ({duration(stock_ms)})"


def main(argv: list[str]) -> int:
    """Print the table, or put it into a file, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fusegrad.benchmarks.models_report", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="where to put the table, between its marks")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/models.csv"), help="the csv")
    args = parser.parse_args(argv)
    return put(lambda: markdown(args.results), args.file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
