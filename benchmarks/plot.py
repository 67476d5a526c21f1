"""The plot of a benchmark, made from its csv: stock's time over each provider's."""

import importlib
import math
import statistics
from pathlib import Path
from textwrap import shorten
from typing import Any

from .harness import Result
from .machine import sentence
from .record import read

COLOURS = {
    "compile": "tab:blue",
    "max-autotune": "tab:purple",
    "mkldnn": "tab:green",
    "quack": "tab:brown",
    "by hand, compiled": "tab:olive",
    "jax": "tab:red",
    "folx": "tab:pink",
    "stock, memory kept": "tab:gray",
    "fusegrad, memory kept": "tab:cyan",
    "fusegrad, compiled": "gold",
    "fusegrad": "tab:orange",
}
DTYPES = {"float32": "tab:orange", "float64": "tab:blue", "bfloat16": "tab:green", "float16": "tab:purple"}
MARKERS = "o^sDv"
BARS = 60  # more than these become points
LIMIT = 4.0  # what is larger is shown at the edge, by its number, so that the others can be told apart
TICKS = (0.25, 0.33, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 3, 4)
RATIO = "time of stock torch / time of the provider: above 1 is faster than stock"


def plot(csv: Path, title: str) -> Path | None:
    """Write the plot beside the csv; None where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read(csv)
    results = [r for r, _ in rows if r.provider in COLOURS]
    cases = list(dict.fromkeys((r.case, r.dtype) for r in results))
    height = 6.0 if len(results) > BARS else 1.5 + 0.16 * len(results) + 0.08 * len(cases)
    figure, axes = pyplot.subplots(figsize=(10, height), layout="constrained")
    if len(results) > BARS:
        _points(axes, results)
    else:
        _bars(axes, results, cases)
    figure.suptitle(title)
    figure.supxlabel(sentence(rows[0][1]), fontsize=7, color="gray")
    path = csv.with_suffix(".png")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


def _bars(axes: Any, results: list[Result], cases: list[tuple[str, str]]) -> None:
    """For each case a bar of each provider, from 1 to its ratio."""
    providers = [p for p in COLOURS if any(r.provider == p for r in results)]
    pitch = 0.86 / len(providers)  # where cases are 1 apart
    limit = _limit(results)
    for r in results:
        y = cases.index((r.case, r.dtype)) + (providers.index(r.provider) - (len(providers) - 1) / 2) * pitch
        if r.cannot:
            axes.text(1, y, shorten(f" {r.provider} cannot: {r.cannot}", 70), va="center", fontsize=7, color="gray")
            continue
        end = min(max(r.ratio, 1 / limit), limit)
        axes.barh(y, end - 1, 0.9 * pitch, left=1, color=COLOURS[r.provider], label=r.provider)
        said, side = f" {r.ratio:.2f}{' →' if r.ratio > limit else ''} ", "left"
        if r.ratio < 1:
            said, side = f" {'← ' if r.ratio < 1 / limit else ''}{r.ratio:.2f} ", "right"
        axes.text(end, y, said, va="center", ha=side, fontsize=8)
    axes.set_yticks(range(len(cases)), [", ".join(case) for case in cases], fontsize=8)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    _ratios(axes.xaxis, limit)
    axes.axvline(1, color="black", linewidth=1, label="stock")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), fontsize=8)
    axes.set_xlabel(RATIO)


def _points(axes: Any, results: list[Result]) -> None:
    """For each case a point of fusegrad, by the size of its products; those of others in gray."""
    kinds = list(dict.fromkeys(r.case.split()[0] for r in results))
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for r in results:
        if not r.cannot:
            groups.setdefault((r.provider, r.dtype, r.case.split()[0]), []).append(r)
    limit = _limit(results)
    for (provider, dtype, kind), found in sorted(groups.items(), key=lambda item: item[0][0] == "fusegrad"):
        ours = provider == "fusegrad"
        mean = math.exp(statistics.fmean(math.log(r.ratio) for r in found))
        sizes = [r.gflops * r.ms * 1e6 for r in found]
        axes.scatter(
            sizes,
            [min(max(r.ratio, 1 / limit), limit) for r in found],
            s=26 if ours else 12,
            marker=MARKERS[kinds.index(kind) % len(MARKERS)],
            color=DTYPES[dtype] if ours else "darkgray",
            alpha=0.75,
            linewidths=0,
            label=f"{kind}, {dtype}{'' if ours else f', {provider}'}: {mean:.2f}",
        )
        for x, r in zip(sizes, found, strict=True):
            if r.ratio > limit:
                axes.text(x, limit * 1.04, f"{r.ratio:.1f}", ha="center", va="bottom", rotation=90, fontsize=7)
    axes.set_xscale("log")
    _ratios(axes.yaxis, limit)
    axes.axhline(1, color="black", linewidth=1)
    axes.legend(title="geometric means", title_fontsize=8, fontsize=8, loc="lower right", ncols=2)
    axes.set_xlabel("floating-point operations of the matrix products")
    axes.set_ylabel(RATIO.replace(": ", ":\n"))


def _limit(results: list[Result]) -> float:
    return max(1.25, min(LIMIT, max((max(r.ratio, 1 / r.ratio) for r in results if not r.cannot), default=1)))


def _ratios(axis: Any, limit: float) -> None:
    """A logarithmic axis with 1 in the middle, and room for numbers at its ends."""
    if axis.axis_name == "x":
        axis.axes.set(xscale="log", xlim=(limit**-1.2, limit**1.2))
    else:
        axis.axes.set(yscale="log", ylim=(limit**-1.2, limit**1.2))
    ticks = [t for t in TICKS if 1 / limit <= t <= limit]
    axis.set_ticks(ticks, [f"{t:g}" for t in ticks])
    axis.set_ticks([], minor=True)
    axis.grid(color="gainsboro")
    axis.axes.set_axisbelow(True)


def question(name: str) -> str:
    """What a benchmark asks."""
    module = importlib.import_module(f".{name}", __package__)
    return (module.__doc__ or name).splitlines()[0]
