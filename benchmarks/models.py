"""What does fuse do for real models? For each of the zoo: what fuses and why not, and what training and inference gain.

`python -m fusegrad bench models` measures, in some twenty minutes, all models whose library is here; or those that
`--only` names, whose rows then replace what the csv has of them. A model is timed once stock and fused agree with
float64 (harness.py). Stock is timed twice, as if it were two: what these differ by is noise. Rounds go on until it is
known on which side of WORST a ratio is. models_report.py makes the table.
"""

import csv
import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fusegrad as fg
from fusegrad import routing
from fusegrad.fusion.convert import is_linear
from fusegrad.fusion.watch import watch

from . import zoo
from .harness import Budget, Case, Step, measure, noise
from .machine import facts, peak_gflops

AGAIN = "stock again"
PROVIDERS = ("stock", "fusegrad", AGAIN)
SECONDS = 3.0  # of timing, for each model and for each of training and inference; more where the noise asks for it
ROUNDS = 1000
PROFILED = 3  # steps
WORST = 0.99  # no model is to be slower than this
# what computes linear layers, and the activations that fuse with them: operators of torch
PRODUCTS = frozenset({"aten::addmm", "aten::mm", "aten::linear"})
_NAMES = ("gelu", "silu", "tanh", "sigmoid", "softplus", "threshold", "elu", "hardtanh", "log_sigmoid")
ACTIVATIONS = frozenset(
    {"aten::relu", "aten::clamp_min", "aten::sin", "aten::cos"}
    | {f"aten::{name}{suffix}" for name in _NAMES for suffix in ("", "_backward")}
)


@dataclass(frozen=True)
class Row:
    """One model. Ratios are stock's time over fusegrad's; NaN where the model was not timed.

    noise: of a ratio, two standard errors. again: the ratio of stock's time to that of stock, timed as another one.
    """

    library: str
    version: str
    model: str
    linears: int
    followed: int  # of those, by an activation or a gate
    fused: int
    why: str  # what the others miss
    training_ms: float  # of stock
    training: float
    training_noise: float
    training_again: float
    inference_ms: float
    inference: float
    inference_noise: float
    inference_again: float
    products: float  # share of the linear layers' products in stock's training step
    activations: float  # share of the activations
    allowed: float  # the ratio if the products ran at the FMA peak, and the activations took no time
    failed: str = ""

    def ratios(self) -> tuple["Ratio", "Ratio"]:
        of = f"{self.library} {self.model}"
        return (
            Ratio(self.training, self.training_noise, self.training_again, self.training_ms, f"{of}, training"),
            Ratio(self.inference, self.inference_noise, self.inference_again, self.inference_ms, f"{of}, inference"),
        )


class Ratio(NamedTuple):
    """Stock's time over fusegrad's."""

    value: float
    noise: float
    again: float
    stock_ms: float
    of: str

    @property
    def is_lost(self) -> bool:
        """Whether fusegrad is slower than it may be, beyond the noise."""
        known = (noise for noise in (self.noise, abs(self.again - 1)) if not math.isnan(noise))
        return self.value + max(known, default=0.0) < WORST


NUMBERS = tuple(f.name for f in fields(Row) if f.type is float)
_NOT_TIMED: list[Any] = [math.nan] * len(NUMBERS)
COUNTS = tuple(f.name for f in fields(Row) if f.type is int)


Facts = dict[str, str]  # of the machine


def run(out: Path, smoke: bool, only: Sequence[str], tell: Callable[[str], None]) -> list[Row]:
    """Measure, and write models.csv after each model, so that a run cut short leaves what it had."""
    zoo.prepare()
    path = out / "models.csv"
    rows: dict[str, tuple[Row, Facts]] = {}
    if only and path.exists():
        rows = {f"{row.library} {row.model}": (row, known) for row, known in read(path)}
    measured = []
    for case in zoo.MODELS:
        if only and not any(part in str(case) for part in only):
            continue
        if importlib.util.find_spec(case.library) is None:
            tell(f"{case}: {case.library} is not installed")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries say of torch
            measured.append(_row(case, smoke, tell))
        rows[str(case)] = measured[-1], facts("cpu")
        order = [str(case) for case in zoo.MODELS]
        write(path, [rows[name] for name in order if name in rows])
    return measured


def _row(case: zoo.Model, smoke: bool, tell: Callable[[str], None]) -> Row:
    size = case.small if smoke else case.real
    fused = zoo.make(case, case.small, torch.float32, fg.fuse)
    whys = dict.fromkeys(row.why for row in fg.explain(fused) if not row.fused_with)
    with_ = _fused(case, fused)
    names = case.library, zoo.version(case.library), case.name, zoo.linears(case, fused), case.followed, with_
    row = Row(*names, "; ".join(whys), *_NOT_TIMED)
    budget = Budget(2, 0.1, {}) if smoke else Budget(ROUNDS, SECONDS, {}, _is_decided)
    if not case.timed:
        return row
    timed: list[float] = []
    try:
        for name, step in (("training", zoo.training), ("inference", zoo.inference)):
            results = measure(_timed(case, size, name, step), "cpu", budget, tell, PROVIDERS)
            of = {r.provider: r for r in results}
            timed += of["stock"].ms, of["fusegrad"].ratio, of["fusegrad"].noise, of[AGAIN].ratio
        shares = _shares(case, size)
    except Exception as e:  # one that fails or is wrong is told; the others are measured after it
        return replace(row, failed=f"{type(e).__name__}: {e}")
    return replace(row, **dict(zip(NUMBERS, (*timed, *shares), strict=True)))  # type: ignore[arg-type]  # all are float


def _fused(case: zoo.Model, model: nn.Module) -> int:
    """How many calls of layers run with what follows. What explain lists may be in a branch that is not taken."""
    run = zoo.inference(case, model, zoo.inputs_of(case, case.small, torch.float32))
    with routing.at_all_sizes():
        ran = watch([m for m in model.modules() if is_linear(m)], run)
    return sum(layer.fused for layer in ran.values())


def _timed(case: zoo.Model, size: zoo.Size, name: str, make_step: Callable) -> Case:
    def build(provider: str, dtype: torch.dtype) -> Step:
        model = zoo.make(case, size, dtype, fg.fuse if provider == "fusegrad" else _as_it_is)
        inputs = zoo.inputs_of(case, size, dtype)
        return Step(make_step(case, model, inputs), (*inputs, *model.parameters()))

    return Case(f"{case}, {name}", torch.float32, build)


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


def _is_decided(times: dict[str, list[float]]) -> bool:
    """Whether a ratio is on one side of WORST, by more than its noise, and more than stock differs from itself."""
    stock, ours, again = (times[provider] for provider in PROVIDERS)
    known = max(noise(stock, ours), abs(median(stock) / median(again) - 1))
    return abs(median(stock) / median(ours) - WORST) > known


def _shares(case: zoo.Model, size: zoo.Size) -> tuple[float, float, float]:
    """Of stock's training step: the shares of products and activations, and the ratio that the FMA peak allows."""
    model = zoo.make(case, size, torch.float32)
    step: Callable[[], tuple[Tensor, ...]] = zoo.training(case, model, zoo.inputs_of(case, size, torch.float32))
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as profile:
        for _ in range(PROFILED):
            step()
    events = profile.key_averages()
    total = sum(e.self_cpu_time_total for e in events)
    products = sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS)
    activations = sum(e.self_cpu_time_total for e in events if e.key in ACTIVATIONS)
    flops = sum(e.flops for e in events if e.key in PRODUCTS)
    peak = peak_gflops(torch.float32, "cpu")
    at_peak = flops / peak / 1e3 if peak else math.nan  # the profiler counts microseconds
    allowed = total / (total - products - activations + min(at_peak, products))
    return products / total, activations / total, allowed


# --- the csv ------------------------------------------------------------------------------------------------------


def write(path: Path, rows: Sequence[tuple[Row, Facts]]) -> None:
    """Write the rows, each with the facts of the machine that it was measured on."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0][1], *(f.name for f in fields(Row))])
        writer.writeheader()
        for row, known in rows:
            numbers = {k: "" if math.isnan(v) else f"{v:.6g}" for k, v in asdict(row).items() if k in NUMBERS}
            writer.writerow(known | asdict(row) | numbers)


def read(path: Path) -> list[tuple[Row, Facts]]:
    """The rows of a csv, each with the facts of the machine that it was measured on."""
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    names = {f.name for f in fields(Row)}
    rows = []
    for text in found:
        numbers = {k: float(text[k]) if text.get(k) else math.nan for k in NUMBERS}
        counts = {k: int(text[k]) for k in COUNTS}
        rest = {k: v for k, v in text.items() if k in names and k not in NUMBERS and k not in COUNTS}
        rows.append((Row(**rest, **numbers, **counts), {k: v for k, v in text.items() if k not in names}))  # type: ignore[arg-type]  # each group has its type
    return rows


def verdict(rows: Sequence[Row]) -> list[str]:
    """What lost, what failed, and how many layers fused."""
    said = [f"fused: {sum(r.fused for r in rows)} of {sum(r.followed for r in rows)} layers that an activation follows"]
    ratios = [ratio for r in rows for ratio in r.ratios() if not math.isnan(ratio.value)]
    lost = sorted(ratio for ratio in ratios if ratio.value < WORST)
    said.append(f"slower than {WORST}: {len(lost)} of {len(ratios)}, {sum(r.is_lost for r in lost)} beyond the noise")
    said += [f"  {ratio.value:.3f} ± {ratio.noise:.3f}  {ratio.of}" for ratio in lost]
    return said + [f"FAILED {r.library} {r.model}: {r.failed}" for r in rows if r.failed]
