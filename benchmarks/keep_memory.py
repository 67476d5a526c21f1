"""How long does a training step take where freed memory stays with the process (fusegrad.keep_memory)?

All providers have a process of their own, which takes its turn on the same cores:
OMP_NUM_THREADS=1 taskset -c 0 python -m fusegrad bench keep_memory.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from . import laplacian, mlp_training, second_order, small_networks
from .elsewhere import KEPT, elsewhere, with_memory_kept
from .harness import Case, Result, Step

PROVIDERS = ("stock", "fusegrad", *KEPT)
SECONDS = 4.0
SMALL = [(2048, (3, 64, 64, 64, 64, 1), "silu"), (1024, (20, 256, 256, 256, 1), "silu")]


def cases(device: str, smoke: bool) -> list[Case]:
    """Steps whose tensors are large enough to go back to the system: wide layers, and derivatives of the input."""
    networks = small_networks.SMOKE if smoke else SMALL
    small = [small_networks.case("train", *network, torch.float32, device) for network in networks]
    points = laplacian.SMOKE[0] if smoke else laplacian.NETWORKS[1]
    others = [*second_order.cases(device, smoke), laplacian.of_network(*points, device)]
    cases = [*mlp_training.cases(device, smoke)[:1], *small, *others]
    return [replace(case, build=partial(_build, case)) for case in cases]


def _build(case: Case, provider: str, dtype: torch.dtype) -> Step:
    if dtype != case.dtype:
        return case.build(provider, dtype)  # the truth
    return with_memory_kept(case.build, provider, dtype) if provider in KEPT else elsewhere(case.build, provider, dtype)


def verdict(results: Sequence[Result]) -> str:
    """What keeping memory gains, of each."""
    lines = ["The speed with memory kept over that without:"]
    for case in dict.fromkeys(r.case for r in results):
        of = {r.provider: r.ms for r in results if r.case == case and not r.cannot}
        gains = (f"{KEPT[kept]} {of[KEPT[kept]] / of[kept]:.2f}" for kept in KEPT if kept in of)
        lines.append(f"  {', '.join(gains)}  {case}")
    return "\n".join(lines)
