"""The results of a benchmark, for a terminal."""

import math

from rich.markup import escape
from rich.table import Table

from .harness import Result


def table(results: list[Result], title: str) -> Table:
    """One row per case and provider; a loss stands there as plainly as a win."""
    shown = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    shown.add_column("provider", no_wrap=True)
    shown.add_column("case", overflow="fold")
    for name in ("median", "quartiles", "ratio", "FLOP/s", "% peak", "B/s", "% copy", "error", "stock's", "kept"):
        shown.add_column(name, justify="right", no_wrap=True)
    case = ""
    for r in results:
        if r.case + r.dtype != case:
            shown.add_section()
        name = f"{r.case}, {r.dtype}" if r.case + r.dtype != case else ""
        case = r.case + r.dtype
        if r.cannot:
            shown.add_row(r.provider, f"[dim]cannot: {escape(r.cannot)}[/]")
            continue
        shown.add_row(
            r.provider,
            name,
            duration(r.ms),
            f"{duration(r.q1)} – {duration(r.q3)}",
            _ratio(r),
            rate(r.gflops),
            "" if math.isnan(r.peak_percent) else f"{r.peak_percent:.0f}",
            rate(r.gbs),
            "" if math.isnan(r.copy_percent) else f"{r.copy_percent:.0f}",
            f"{r.error:.1e}",
            f"{r.stock_error:.1e}",
            size(r.bytes_saved),
        )
    return shown


def verdict(results: list[Result]) -> str:
    """In how many cases fusegrad beats stock, and the names of those where it does not."""
    ours = [r for r in results if r.provider == "fusegrad"]
    lost = [f"  {r.ratio:.3f}  {r.case}, {r.dtype}" for r in ours if not r.ratio >= 1]
    said = f"fusegrad against stock: faster in {len(ours) - len(lost)} of {len(ours)} cases"
    return "\n".join([said + (", slower in:" if lost else "."), *lost])


def duration(ms: float) -> str:
    """In ms, in s from 1 s, in us below 0.1 ms."""
    if ms >= 1e3:
        return f"{ms / 1e3:.3g} s"
    return f"{ms:.3g} ms" if ms >= 0.1 else f"{ms * 1e3:.3g} us"


def rate(giga: float) -> str:
    """In G, from ten to the twelve in T."""
    return f"{giga / 1e3:.3g} T" if giga >= 1e3 else f"{giga:.3g} G" if giga >= 1 else f"{giga:.2f} G"


def size(count: float) -> str:
    """Bytes, in MB or kB of ten to the six or three; "" where that is not known."""
    if math.isnan(count):
        return ""
    for unit, of in (("MB", 1e6), ("kB", 1e3)):
        if count >= of:
            return f"{count / of:.3g} {unit}"
    return f"{count:.0f} B"


def _ratio(r: Result) -> str:
    if r.provider == "stock":
        return "1"
    colour = "green" if r.ratio >= 1 else "red"
    return f"[{colour}]{r.ratio:.2f}[/]"
