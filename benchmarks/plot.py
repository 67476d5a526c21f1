"""The plot of a benchmark, made from its csv: stock's time over each provider's, case by case."""

import importlib
from pathlib import Path
from textwrap import shorten

from .machine import sentence
from .record import read

COLOURS = {
    "compile": "tab:blue",
    "max-autotune": "tab:purple",
    "mkldnn": "tab:green",
    "quack": "tab:brown",
    "fusegrad": "tab:orange",
}
BAR = 0.26  # height of a bar, where cases are 1 apart


def plot(csv: Path, title: str) -> Path | None:
    """Write the plot beside the csv; None where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read(csv)
    cases = list(dict.fromkeys((r.case, r.dtype) for r, _ in rows))
    present = {r.provider for r, _ in rows}
    providers = [p for p in COLOURS if p in present]
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.3 * len(providers) * len(cases)), layout="constrained")
    for i, provider in enumerate(providers):
        offset = (i - (len(providers) - 1) / 2) * BAR
        of = {(r.case, r.dtype): r for r, _ in rows if r.provider == provider}
        for y, case in enumerate(cases):
            r = of.get(case)  # which may have been left out of a case
            if r is None:
                continue
            if r.cannot:
                axes.text(
                    0.01,
                    y + offset,
                    shorten(f"{provider} cannot: {r.cannot}", 60),
                    va="center",
                    fontsize=7,
                    color="gray",
                )
                continue
            axes.barh(y + offset, r.ratio, BAR, color=COLOURS[provider], label=provider)
            axes.text(r.ratio, y + offset, f" {r.ratio:.2f}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1, label="stock")
    axes.set_yticks(range(len(cases)), [f"{case}\n{dtype}" for case, dtype in cases])
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.02)
    axes.set_xlabel("time of stock torch / time of the provider: above 1 is faster than stock")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), fontsize=8)
    figure.suptitle(title)
    figure.text(0.5, -0.01, sentence(rows[0][1]), ha="center", va="top", fontsize=7)
    path = csv.with_suffix(".png")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return path


def question(name: str) -> str:
    """What a benchmark asks."""
    module = importlib.import_module(f".{name}", __package__)
    return (module.__doc__ or name).splitlines()[0]
