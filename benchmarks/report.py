"""The tables of README.md, of what a user gains and of all results: `python -m fusegrad.benchmarks.report [README.md]`.

With a file, each replaces what stands there between its two marks; without, they are printed.
"""

import argparse
import math
import sys
from pathlib import Path

from . import gains
from .harness import Result
from .machine import sentence
from .markdown import NONE, put, row
from .plot import plot, question
from .record import read
from .run import NAMES
from .table import duration

HEAD = ("case", "stock", "fusegrad", "ratio", "best rival", "error", "bytes kept")


def markdown(folder: Path | str) -> str:
    """The table of all csv files in a folder, and a line for each machine that they were measured on.

    Ratios are stock's time over the other's: above 1 is faster than stock. Error and bytes kept for backward are
    fusegrad's over stock's: below 1 is better.
    """
    lines, measured = [], []
    for path in _results(Path(folder)):
        rows = read(path)
        cases: dict[tuple[str, str], dict[str, Result]] = {}
        for result, _ in rows:
            cases.setdefault((result.case, result.dtype), {})[result.provider] = result
        lines += [_line(of) for of in cases.values() if "fusegrad" in of]
        measured += [f"{path.stem.rpartition('_')[2]}: {sentence(facts)}" for _, facts in rows]
    if not lines:
        raise ValueError(f"report: {folder} has none of {', '.join(NAMES)} as a csv")
    head = [row(HEAD), row(["---", *["---:"] * 3, "---", "---:", "---:"])]
    legend = (
        "ratio: stock's time over fusegrad's; best rival: the fastest of what else was tried, with its own ratio to "
        "stock; error (against float64) and bytes kept for backward: fusegrad's over stock's."
    )
    return "\n".join([*head, *lines, "", legend, "", *(f"Measured on {of}." for of in dict.fromkeys(measured))])


def _results(folder: Path) -> list[Path]:
    """The csv files of benchmarks in a folder; that of real models has a table of its own."""
    paths = (folder / f"{name}_{device}.csv" for device in ("cpu", "cuda") for name in NAMES)
    return [path for path in paths if path.exists()]


def _line(of: dict[str, Result]) -> str:
    stock, ours = of["stock"], of["fusegrad"]
    rivals = [r for name, r in of.items() if name not in ("stock", "fusegrad") and not r.cannot]
    best = max(rivals, key=lambda r: r.ratio, default=None)
    return row(
        (
            f"{ours.case}, {ours.dtype}",
            duration(stock.ms),
            duration(ours.ms),
            f"**{ours.ratio:.2f}**",
            NONE if best is None else f"{best.provider} {best.ratio:.2f}",
            _over(ours.error, stock.error),
            _over(ours.bytes_saved, stock.bytes_saved),
        )
    )


def _over(ours: float, stock: float) -> str:
    return f"{ours / stock:.2f}" if stock > 0 and not math.isnan(ours) else NONE


def main(argv: list[str]) -> int:
    """Print the tables, or put them into a file, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fusegrad.benchmarks.report", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="where to put the tables, between their marks")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder with the csv files")
    parser.add_argument("--plots", action="store_true", help="make the plot of each csv too")
    args = parser.parse_args(argv)

    def table() -> str:
        if args.plots:
            for path in _results(args.results):
                plot(path, question(path.stem.rpartition("_")[0]))
        return markdown(args.results)

    return put(args.file, gains=lambda: gains.markdown(args.results), benchmark=table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
