"""How a layer is computed on a GPU: by a table for each family of GPUs, made by `python -m fusegrad tune`.

A table, tables/<family>.csv, has a row for each measured product: op, dtype, m, k, n and the fastest algorithm. A
product that is not there takes that of the nearest that is, if no size of it is more than twice or less than half; else
it takes cuBLAS and a pass. A chain is a row too, of m rows, k wide at most, of n layers: "triton" is the whole in one
kernel, all else its layers one by one. Where none is near it is one kernel, as it makes a launch of two for each layer,
and reads and writes what is between them once less. The algorithms make the same numbers up to rounding:

    stock     torch's own kernels, one for each step
    cublas    the product by cuBLAS, and one pass for what follows
    triton    one kernel, of gemm.py
"""

import csv
import math
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

import torch

Algorithm = Literal["stock", "cublas", "triton"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
TABLES = Path(__file__).parent / "tables"
UNMEASURED: dict[str, Algorithm] = {"chain": "triton"}  # of other ops, cublas
REACH = 2.0  # how far a measurement speaks for other sizes: this factor in each


class Row(NamedTuple):
    op: str  # linear_act, mm_dact, gated, of which n is that of each layer, or chain
    dtype: str
    m: int
    k: int
    n: int
    algorithm: Algorithm


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        return [
            Row(r["op"], r["dtype"], int(r["m"]), int(r["k"]), int(r["n"]), cast(Algorithm, r["algorithm"]))
            for r in rows
        ]


@cache
def table(family: str) -> list[Row]:
    return read(TABLES / f"{family}.csv")


@lru_cache(4096)
def algorithm_for(op: str, family: str, dtype: torch.dtype, m: int, k: int, n: int) -> Algorithm:
    """The algorithm of an op whose product is that of an (m, k) and a (k, n), or of a chain of such sizes."""
    name = str(dtype).removeprefix("torch.")
    far = lambda row: max(abs(math.log(a / b)) for a, b in zip((m, k, n), (row.m, row.k, row.n), strict=True))
    near = min((row for row in table(family) if (row.op, row.dtype) == (op, name)), key=far, default=None)
    return near.algorithm if near and far(near) <= math.log(REACH) else UNMEASURED.get(op, "cublas")
