"""How a case is measured: each provider is held to float64, then all take turns until the time is up."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .machine import allow_tf32, copy_gbs, cuda_seconds, dtype_name, peak_gflops
from .memory import bytes_saved
from .providers import COMPILING, RIVALS, Cannot, providers

SAMPLE_SECONDS = 0.005  # a step shorter than this is repeated within a sample
MIN_ROUNDS = 3  # unless they take OVERTIME times what a case may take
OVERTIME = 4
# runs of a step before it counts: the first compiles, or compares; CUDA graphs are recorded in the second
WARM_UP = {"cpu": 1, "cuda": 3}
# fusegrad promises an error of at most twice stock's. A rival only has to compute the same function: oneDNN's sums
# over K are 3 times less exact than MKL's. In float64 the truth is stock's own result, no more exact than others.
STOCK_ERRORS = {"stock": 1} | dict.fromkeys(RIVALS, 10)  # of others, OUR_ERROR
OUR_ERROR = 2
FLOAT64_ERROR = 1e-12
FEW = 4  # units in which any of two results may be the better one
NEAR = 8  # runs of stock with its numbers moved by a rounding


@dataclass(frozen=True)
class Step:
    """One step of one provider, ready to run."""

    run: Callable[[], tuple[Tensor, ...]]  # returns outputs and gradients, to be held to float64
    owned: Sequence[Tensor]  # parameters and inputs: they live anyway, so they don't count as kept
    sample: Callable[[int], float] | None = None  # seconds of a run, of so many, where that is in another process


@dataclass(frozen=True)
class Case:
    """What all providers do in turn."""

    name: str
    dtype: torch.dtype
    build: Callable[[str, torch.dtype], Step]  # (provider, dtype to run in); raises Cannot
    leave_out: tuple[str, ...] = ()  # providers that are not asked
    tf32: bool = False  # whether products of float32 may be in tf32


@dataclass
class Budget:
    """How long to take."""

    rounds: int
    seconds: float  # of timing, for each case
    compile_seconds: dict[str, float]  # of each provider that compiles, for all cases; counted down
    # whether the times of each provider, a round after the other, are enough: asked when the time is up
    enough: Callable[[dict[str, list[float]]], bool] = lambda times: True


@dataclass(frozen=True)
class Result:
    """What one provider did in one case; `cannot` says why it did nothing."""

    case: str
    provider: str
    dtype: str
    ms: float = math.nan  # the median
    q1: float = math.nan
    q3: float = math.nan
    ratio: float = math.nan  # stock's median over this one
    noise: float = math.nan  # of the ratio: two standard errors
    gflops: float = math.nan  # of the matrix products that stock does
    peak_percent: float = math.nan  # those, of the FMA peak, or of a large product on a GPU
    gbs: float = math.nan  # as if inputs were read once and results written once, in GB/s
    copy_percent: float = math.nan  # that, of what a large copy moves; known on a GPU
    error: float = math.nan
    stock_error: float = math.nan
    bytes_saved: float = math.nan
    cannot: str = ""


class WrongResult(AssertionError):
    """A provider's result is too far from float64 to be worth timing."""


def measure(
    case: Case, device: str, budget: Budget, tell: Callable[[str], None], of: Sequence[str] = ()
) -> list[Result]:
    """The results of a case, one per provider, stock first; `tell` hears what is being done.

    The providers are those of the device, or `of`.
    """
    with allow_tf32(case.tf32):
        return _measure(case, device, budget, tell, of or providers(device))


def _measure(case: Case, device: str, budget: Budget, tell: Callable[[str], None], of: Sequence[str]) -> list[Result]:
    torch.compiler.reset()  # else a case counts against the recompile limit of the cases before it
    tell(f"{case.name}: float64")
    with _Flops() as flops:
        step = case.build("stock", torch.float64)
        truth = step.run()
    moved = sum(t.numel() for t in (*step.owned, *truth)) * case.dtype.itemsize
    del step
    results: dict[str, Result] = {}
    steps: dict[str, Step] = {}
    for provider in of:
        if provider in case.leave_out:
            continue
        tell(f"{case.name}: {provider}")
        result = Result(case.name, provider, dtype_name(case.dtype, case.tf32))
        try:
            step = _ready(case, provider, device, budget)
            result = _held_to(truth, step, case, result, results.get("stock", result).error)
            steps[provider] = step
        except Exception as e:  # one that is wrong is not worth timing, one that fails can't be; ours may do neither
            if provider in ("stock", "fusegrad"):
                raise
            result = replace(result, cannot=_first_sentence(e))
        results[provider] = result
    tell(f"{case.name}: timing")
    times, peak = _times(steps, case.dtype, device, budget)
    copied = copy_gbs(device)
    stock = statistics.median(times["stock"])
    for provider, seconds in times.items():
        median = statistics.median(seconds)
        q1, _, q3 = statistics.quantiles(seconds * 2 if len(seconds) == 1 else seconds, n=4, method="inclusive")
        gflops, gbs = flops.total / median / 1e9, moved / median / 1e9
        results[provider] = replace(
            results[provider],
            ms=median * 1e3,
            q1=q1 * 1e3,
            q3=q3 * 1e3,
            ratio=stock / median,
            noise=noise(times["stock"], seconds),
            gflops=gflops,
            peak_percent=100 * gflops / peak if peak else math.nan,
            gbs=gbs,
            copy_percent=100 * gbs / copied if copied else math.nan,
        )
    return list(results.values())


def noise(stock: Sequence[float], other: Sequence[float]) -> float:
    """Two standard errors of the ratio of the medians, by the quartiles of the ratios of rounds; NaN of one round."""
    ratios = [s / o for s, o in zip(reversed(stock), reversed(other), strict=False)]
    if len(ratios) < 2:
        return math.nan
    q1, _, q3 = statistics.quantiles(ratios, n=4, method="inclusive")
    normal = statistics.NormalDist()
    sigma = (q3 - q1) / (normal.inv_cdf(3 / 4) - normal.inv_cdf(1 / 4))
    return 2 * math.sqrt(math.pi / 2) * sigma / math.sqrt(len(ratios))  # of a median, sqrt(pi/2) that of a mean


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients that a backward pass has left."""
    return [p.grad for p in parameters if p.grad is not None]


def error(result: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """max |y - y64| / max |y64|, the worst over the tensors; NaN where a result is NaN."""
    if [y.shape for y in result] != [y64.shape for y64 in truth]:
        return math.inf
    worst = 0.0
    for y, y64 in zip(result, truth, strict=True):
        if y.numel() == 0:
            continue
        off = ((y.double() - y64).abs().max() / y64.abs().max().clamp_min(torch.finfo(torch.float64).tiny)).item()
        if math.isnan(off):
            return off
        worst = max(worst, off)
    return worst


def _ready(case: Case, provider: str, device: str, budget: Budget) -> Step:
    compiles = provider in COMPILING
    if compiles and budget.compile_seconds.get(provider, 0) <= 0:
        raise Cannot("no time left to compile")
    start = time.perf_counter()
    try:
        step = case.build(provider, case.dtype)
        for _ in range(WARM_UP[device]):
            step.run()
        return step
    finally:
        if compiles:
            budget.compile_seconds[provider] -= time.perf_counter() - start


def _held_to(truth: Sequence[Tensor], step: Step, case: Case, result: Result, stock_error: float) -> Result:
    """The result with its error and the bytes it keeps, or WrongResult."""
    out: list[Tensor] = []
    kept = float(bytes_saved(lambda: out.extend(step.run()), *step.owned))
    if step.sample:
        kept = math.nan  # in another process
    off = error(out, truth)
    if result.provider == "stock":
        stock_error = off
    limit = _limit(case, result.provider, stock_error)
    if off > limit and result.provider != "stock" and case.dtype != torch.float64:
        limit = _limit(case, result.provider, max(stock_error, _error_nearby(case, truth)))
    if not off <= limit:
        raise WrongResult(
            f"{result.provider} is wrong in {case.name!r}, {result.dtype}: its error against float64 is {off:.2g}, "
            f"stock's is {stock_error:.2g}; at most {limit:.2g} is allowed"
        )
    return replace(result, error=off, stock_error=stock_error, bytes_saved=kept)


def _limit(case: Case, provider: str, stock_error: float) -> float:
    if case.dtype == torch.float64:
        return FLOAT64_ERROR
    return STOCK_ERRORS.get(provider, OUR_ERROR) * stock_error + FEW * torch.finfo(case.dtype).eps


def _error_nearby(case: Case, truth: Sequence[Tensor]) -> float:
    """Stock's largest error where its parameters and inputs are other numbers, by at most a rounding each.

    Before a ReLU some number of millions is so close to 0 that a rounding takes it to the other side, and a gradient
    jumps. Which number that is, and in whose run, is chance: stock's error in one run is no measure of it.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(NEAR):
        step = case.build("stock", case.dtype)
        with torch.no_grad():
            for t in step.owned:
                if t.is_floating_point():
                    moved = torch.rand(t.shape, generator=generator).to(t).sub_(0.5)
                    t.mul_(1 + torch.finfo(case.dtype).eps * moved)
        worst = max(worst, error(step.run(), truth))
    return worst


def _times(
    steps: dict[str, Step], dtype: torch.dtype, device: str, budget: Budget
) -> tuple[dict[str, list[float]], float]:
    """Seconds per step, a list per provider, and the FMA peak. They take turns; each round another one goes first."""
    here = {"cpu": sample_cpu, "cuda": cuda_seconds}[device]
    samples = {provider: step.sample or partial(here, step.run) for provider, step in steps.items()}
    # Not between the rounds: the probe's threads and those that wait for torch's next step are more than there are
    # cores, and a machine that is shared takes the time back from the steps that follow.
    before = peak_gflops(dtype, device)
    start = time.perf_counter()
    times: dict[str, list[float]] = {}
    repeats: dict[str, int] = {}
    for provider, sample in samples.items():
        once = sample(1)
        repeats[provider] = math.ceil(SAMPLE_SECONDS / once)
        times[provider] = [once] if once > SAMPLE_SECONDS else []
    order = list(steps)
    for i in range(budget.rounds):
        used = (time.perf_counter() - start) / budget.seconds
        if i and (used > OVERTIME or (used > 1 and i >= MIN_ROUNDS and budget.enough(times))):
            break  # not before the first, however busy the machine is: each provider has a time
        for provider in order:
            times[provider].append(samples[provider](repeats[provider]))
        order.append(order.pop(0))
    return times, max(before, peak_gflops(dtype, device))


def sample_cpu(run: Callable[[], object], repeat: int) -> float:
    """Seconds of a run, of so many after another."""
    if repeat > 1:  # else that is most of the sample
        run()  # code and data that the providers before it have driven out of the caches
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - start) / repeat


def _first_sentence(e: Exception) -> str:
    said = str(e).strip().splitlines() or [type(e).__name__]
    return said[0].split(". ")[0]


class _Flops(TorchDispatchMode):
    """Counts the FLOPs of matrix products, in whatever order of derivative they are.

    torch's FlopCounterMode would do, but it refuses to run autograd.grad on a leaf.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out
