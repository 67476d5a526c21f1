"""How near to the FMA peak do the three products of a linear layer come?"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import fusegrad as fg

from .harness import Case, Step
from .providers import COMPILING, Cannot, normal

SECONDS = 1.0  # for each case
# (m, n, k) of y (m, n) = x (m, k) w^T: squares, wide, tall, deep, odd, few rows
SIZES = {
    "cpu": (
        *((s, s, s) for s in (256, 512, 1024, 1536)),
        *((512, 3072, 768), (512, 768, 3072), (2048, 768, 768), (4096, 256, 256)),
        *((512, 512, 4096), (1100, 1030, 2000), (333, 777, 555)),
        *((128, 1024, 1024), (32, 1024, 1024), (8, 3072, 768), (1, 1024, 1024)),
    ),
    "cuda": (
        *((s, s, s) for s in (1024, 2048, 4096, 8192)),
        *((8192, 4096, 1024), (8192, 1024, 4096), (16384, 1024, 1024)),
        *((1100, 1030, 2000), (64, 4096, 4096)),
    ),
}
DTYPES = {"cpu": (torch.float32, torch.float64), "cuda": (torch.bfloat16, torch.float32)}

Product = Callable[[Tensor, Tensor], Tensor]
# z = x w^T, gx = gz w, gw = gz^T x: of the two operands, by each provider
STOCK: dict[str, Product] = {"forward": F.linear, "gx": torch.mm, "gw": lambda gz, x: torch.mm(gz.mT, x)}
OURS: dict[str, Product] = {"forward": fg.linear, "gx": fg.mm, "gw": partial(fg.mm, trans_a=True)}


def cases(device: str, smoke: bool) -> list[Case]:
    """Each product of each size."""
    sizes = ((8, 24, 16),) if smoke else SIZES[device]
    return [
        Case(f"{product} {m}×{k}→{n}", dtype, partial(_build, product, m, n, k, dtype, device), COMPILING)
        for dtype in DTYPES[device]
        for m, n, k in sizes
        for product in STOCK
    ]


def _build(product: str, m: int, n: int, k: int, like: torch.dtype, device: str, provider: str, dtype: torch.dtype):
    fresh = partial(normal, like=like, dtype=dtype, device=device)
    x, w, gz = fresh(m, k, seed=0), fresh(n, k, seed=1), fresh(m, n, seed=2)
    a, b = {"forward": (x, w), "gx": (gz, w), "gw": (gz, x)}[product]
    f = (OURS if provider == "fusegrad" else STOCK)[product]
    if provider == "mkldnn":
        if product != "forward":
            raise Cannot("it has no such product")
        f = lambda x, w: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    return Step(lambda: (f(a, b),), (a, b))
