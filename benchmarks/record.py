"""The csv of a benchmark: one row per case and provider, each with machine, versions and commit."""

import csv
import math
from dataclasses import asdict, fields
from pathlib import Path

from .harness import Result
from .machine import facts

NUMBERS = tuple(f.name for f in fields(Result) if f.type is float)


def write(path: Path, results: list[Result], device: str) -> None:
    """Write the results, with the facts of this machine."""
    rows = [facts(device) | {k: _text(v) for k, v in asdict(r).items()} for r in results]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*facts(device), *(f.name for f in fields(Result))])
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[tuple[Result, dict[str, str]]]:
    """The results of a csv, each with the facts of the machine that it was measured on."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {f.name for f in fields(Result)}
    return [(_result(row), {k: v for k, v in row.items() if k not in names}) for row in rows]


def _result(row: dict[str, str]) -> Result:
    numbers = {k: float(row[k]) if row.get(k) else math.nan for k in NUMBERS}
    return Result(row["case"], row["provider"], row["dtype"], **numbers, cannot=row["cannot"])


def _text(value: str | float) -> str:
    """Six digits; nothing where there is no number."""
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.10g}" if float(value).is_integer() else f"{value:.6g}"
