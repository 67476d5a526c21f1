"""Is anything slower than with stock torch? Layers and networks at random, others each time.

What is drawn: a layer or a network after `fuse`, forward or with its gradients, sizes from 1 to 4096, an activation, a
dtype. `--seed 7` draws the same again. One core is asked alone: OMP_NUM_THREADS=1 taskset -c 0 python -m fusegrad bench
grid.
"""

import math
import random
import statistics
from itertools import pairwise

import torch

from fusegrad.activations import REGISTRY

from .harness import Case, Result
from .linear_act import case as layer
from .providers import RIVALS
from .small_networks import case as network

PROVIDERS = ("stock", "fusegrad")
SECONDS = 0.3  # for each case
CASES = 300
LARGEST = 4096  # of any size
# stock's slope of hardsigmoid is 1/6 of float32 in float64, which shows as an error of ours
ACTS = tuple(name for name, act in REGISTRY.items() if act.module is not None and name != "hardsigmoid")
DTYPES = {torch.float32: 5, torch.float64: 2, torch.bfloat16: 1, torch.float16: 1}  # how often, in parts
# FLOPs of the products of a forward pass, at most, by bytes of a number; in 16 bits stock takes up to 100 times as long
# on a processor without instructions for them
FLOPS = {8: 1e9, 4: 2e9, 2: 2e7}
NOT_SLOWER = 0.97  # of stock's speed; what is below is timed for longer


def cases(device: str, smoke: bool, seed: int) -> list[Case]:
    """Of each kind a quarter: a layer forward, and backward too, inference and training of a network."""
    draw = random.Random(seed)
    return [
        _case(draw, ("forward", "forward+backward", "infer", "train")[i % 4], device)
        for i in range(4 if smoke else CASES)
    ]


def enough(times: dict[str, list[float]]) -> bool:
    """Whether it is seen that fusegrad is not slower."""
    return statistics.median(times["stock"]) >= NOT_SLOWER * statistics.median(times["fusegrad"])


def verdict(results: list[Result]) -> str:
    """What is slower than stock beyond noise, the worst first, and geometric means."""
    ours = sorted((r for r in results if r.provider == "fusegrad"), key=lambda r: r.ratio)
    below = [f"  {r.ratio:.3f}  {r.case}, {r.dtype}" for r in ours if r.ratio < NOT_SLOWER]
    groups: dict[tuple[str, str], list[float]] = {}
    for r in ours:
        groups.setdefault((r.case.split()[0], r.dtype), []).append(r.ratio)
    said = f"fusegrad against stock: {len(below)} of {len(ours)} cases below {NOT_SLOWER}"
    means = [f"  {_mean(found):.2f}  {kind}, {dtype} ({len(found)})" for (kind, dtype), found in sorted(groups.items())]
    whole = f"geometric mean {_mean([r.ratio for r in ours]):.2f}, of each kind:"
    return "\n".join([said + (":" if below else "."), *below, whole, *means])


def _mean(ratios: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, ratios)))


def _case(draw: random.Random, kind: str, device: str) -> Case:
    act = draw.choice(ACTS)
    (dtype,) = draw.choices(list(DTYPES), list(DTYPES.values()))
    while True:
        rows, widths = _size(draw), [_size(draw), _size(draw)]
        if kind in ("infer", "train"):
            hidden = (
                [widths[-1]] * draw.randint(0, 4)
                if draw.random() < 0.5
                else [_size(draw) for _ in range(draw.randint(0, 2))]
            )
            widths += [*hidden, _size(draw)]
        if 2 * rows * sum(k * n for k, n in pairwise(widths)) <= FLOPS[dtype.itemsize]:
            break
    if kind in ("infer", "train"):
        return network(kind, rows, tuple(widths), act, dtype, device)
    k, n = widths
    return layer(kind != "forward", (rows, k, n), act, dtype, device, leave_out=RIVALS)


def _size(draw: random.Random) -> int:
    """From 1 to the largest; each doubling as likely as another."""
    return round(2 ** draw.uniform(0, math.log2(LARGEST)))
