"""The kernels compiled without a GPU, for any: what each takes of registers and memory, read from the machine code.

What is compiled is what the launchers launch: they are called here on tensors of the meta device, which have a shape
and no memory, and Triton binds and specialises their arguments as for a GPU, then compiles and stops. All of it runs
in processes of their own, in which no kernel can be launched any more.
"""

import functools
import itertools
import multiprocessing
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from fusegrad.activations import REGISTRY
from fusegrad.ops.chain_by_layers import Plan, plan

from . import (  # noqa: F401  (own adds the user's activations)
    act,
    act_streams,
    chain,
    gated,
    gemm,
    gemm_gated,
    own,
    passes,
)

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
GEMMS = ("linear_act", "mm_dact", "gated")
CHAINED = ("chain", "chain_backward")
SORTED_BY = ("kernel", "function", "dtype", "config")
M, K, N = 8192, 2048, 4096  # large, and multiples of 16
DIRECTIONS = 3
# of chains: a first layer, one between, and a last; as wide as there is a tile for, and odd
CHAINS = ((32,) * 4, (64,) * 4, (128,) * 4, (2, 20, 20, 1), (3, 100, 100, 1))


class Task(NamedTuple):
    """A launch to compile: the at-th of launches(act, dtype)."""

    arch: str
    act: str
    dtype: torch.dtype
    at: int


def launches(act_name: str, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """Every launch of a kernel that the launchers make for an activation, of tensors on the meta device."""
    empty = functools.partial(torch.empty, dtype=dtype, device="meta")
    saves = (False, True) if REGISTRY[act_name].saves_input else (False,)
    s = empty(M, N)
    for order in (0, 1, 2, 3):
        for g in (None, s) if order else (None,):
            yield functools.partial(act.act, s, g, act_name, 1.0, order)
    for order in (1, 2):
        for others in itertools.product((False, True), repeat=2):  # without gs the rules call act
            yield functools.partial(act.act_vjp, s, s, s, act_name, 1.0, order, True, *others)
        for need_y in (False, True):
            yield functools.partial(act.act_jvp, s, s, s, s, act_name, 1.0, order, need_y)
    t, l = empty(DIRECTIONS, M, N), empty(1, M, N)  # noqa: E741  # as in the formulas
    yield functools.partial(act_streams.act_streams, s, t, l, act_name, 1.0)
    yield functools.partial(act_streams.act_streams_backward, s, t, l, s, t, l, act_name, 1.0, 7)
    yield functools.partial(act.mul_constant, s, 1.0)
    yield functools.partial(passes.bias_act, s, empty(N), act_name, 1.0)
    for need_sum in (False, True):
        saved = None if act_name == "identity" else s
        yield functools.partial(passes.gz_and_sum, s, saved, act_name, 1.0, need_sum)
    for save in (False, True):
        yield functools.partial(gated.gate, s, s, act_name, 1.0, save)
    for sums in ((False, False), (True, True)):
        yield functools.partial(gated.gate_and_sums, s, s, s, act_name, 1.0, (True, True), sums)
    yield from chains(act_name, dtype)
    if dtype == torch.float64 or act_name == "identity":  # whose products are cuBLAS's
        return
    for tf32 in (False, True) if dtype == torch.float32 else (False,):
        x, w = empty(M, K), empty(N, K)
        for save in saves:
            yield functools.partial(_multiply, tf32, gemm.linear_act, x, w, empty(N), act_name, 1.0, save)
        for save in (False, True):
            biases = empty(N), empty(N)
            yield functools.partial(_multiply, tf32, gemm_gated.gated, x, w, w, *biases, act_name, 1.0, save)
        yield functools.partial(_multiply, tf32, gemm.mm_dact, x, empty(K, N), s, act_name, 1.0)


def chains(act_name: str, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """Of chains that are served."""
    empty = functools.partial(torch.empty, dtype=dtype, device="meta")
    for widths, tf32 in itertools.product(CHAINS, (False, True) if dtype == torch.float32 else (False,)):
        acts = (act_name,) * (len(widths) - 2) + ("identity",)
        of = plan(acts, (1.0,) * len(acts), (True,) * len(acts))
        x, gy = empty(M, widths[0]), empty(M, widths[-1])
        weights = [t for k, n in pairwise(widths) for t in (empty(n, k), empty(n))]
        yield functools.partial(_multiply, tf32, _chain, x, gy, weights, of)


def _chain(x: torch.Tensor, gy: torch.Tensor, weights: list[torch.Tensor], of: Plan) -> None:
    if chain.takes(x, [len(w) for w in weights[::2]], of.names):
        y, saved = chain.forward(x, weights, of, True)
        chain.backward(gy, x, weights, y, saved, of, (True,) * (1 + len(weights)))


def _multiply(tf32: bool, launch: Callable, *args) -> None:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    launch(*args)


def tasks(archs: Iterable[str], acts: Iterable[str], dtypes: Iterable[torch.dtype] = DTYPES) -> list[Task]:
    counted = [(a, d, sum(1 for _ in launches(a, d))) for a in acts for d in dtypes]
    return [Task(arch, a, d, i) for arch in archs for a, d, count in counted for i in range(count)]


def resources(todo: list[Task], workers: int | None = None) -> Iterator[list[dict[str, Any]]]:
    """What the kernels of each task take, as they are compiled; a kernel that several launch is in the first alone.

    Of each: arch, kernel, function (of the activation), dtype, config, registers (of a thread), spill_bytes (of a
    thread), shared_memory (bytes), wide_loads (by 16 bytes or TMA), gemm, and on sm_90 wgmma.
    """
    seen: set[str] = set()
    # spawned: a process that has run torch's threads may not be forked
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_compile, task) for task in todo]
        try:
            for done in as_completed(futures):
                compiled = {key: row for key, row in done.result().items() if key not in seen}
                seen |= compiled.keys()
                yield list(compiled.values())
        finally:
            for future in futures:
                future.cancel()


class _Driver:
    """Of a GPU that is not there: enough for Triton to compile for it."""

    def __init__(self, arch: str):
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self.arch]

    def get_current_device(self) -> str:
        return self.arch  # by which Triton saves what it compiled

    def get_current_stream(self, device: str) -> int:
        return 0


def _compile(task: Task) -> dict[str, dict[str, Any]]:
    """What each kernel of a launch takes, by a key that tells kernels apart."""
    compiled: dict[str, dict[str, Any]] = {}

    def compile_only(kernel: JITFunction, grid: tuple[int, ...]) -> Callable:
        def warmup(*args, **options):
            made = kernel.warmup(*args, grid=grid, **options)
            compiled[f"{task.arch} {made.hash}"] = {"arch": task.arch, **_describe(kernel, made, task)}

        return warmup

    JITFunction.__getitem__ = compile_only
    gemm.family = functools.cache(lambda device: task.arch)
    driver.set_active(_Driver(task.arch))
    next(call for i, call in enumerate(launches(task.act, task.dtype)) if i == task.at)()
    return compiled


def _describe(kernel: JITFunction, made: Any, task: Task) -> dict[str, Any]:
    name = kernel.__name__.removesuffix("_kernel")
    constants = {kernel.arg_names[path[0]]: value for path, value in made.src.constants.items() if len(path) == 1}
    function = constants.pop("D", None) or constants.pop("FIRSTS", None)
    function = function[0] if isinstance(function, tuple) else function  # of a chain, those of its first layer
    others = "FIRST SECOND THIRD NEXT VALUE VALUES SOURCES PADDED STARTS KEEPS WIDEST LOWEST"
    for other in others.split():
        constants.pop(other, None)
    # rows of some chains are no multiple of 16 bytes
    odd = any(n % 8 for n in constants.get("WIDTHS", ())) or constants.get("SIZE", 0) % 8 > 0
    used = _nvidia(made) if "cubin" in made.asm else _amd(made)
    widths = used.pop("loads")
    row = {
        "kernel": name,
        "function": function and function.__name__,
        "dtype": str(task.dtype).removeprefix("torch."),
        "config": _config(constants, made.metadata),
        **used,
        "shared_memory": made.metadata.shared,
        # a bias is a row that the rows of a tile share, too short for 16 bytes a thread; matrices are not
        "wide_loads": odd or (any if name in (*GEMMS, "bias_act", *CHAINED) else all)(width >= 16 for width in widths),
        "gemm": name in GEMMS,
    }
    if task.arch == "sm_90":
        row["wgmma"] = "wgmma.mma_async" in made.asm["ptx"]
    return row


def _config(constants: dict[str, Any], options: Any) -> str:
    """The tile, the warps and the other constants of a kernel."""
    named = {key: value for key, value in constants.items() if key.isupper()}  # others are sizes and strides of 1
    words = ["x".join(str(value) for key, value in named.items() if key.startswith("BLOCK_"))]
    words += [f"{options.num_warps} warps", f"{options.num_stages} stages"]
    for key, value in named.items():
        if not key.startswith("BLOCK_") and value is not False:
            words.append(key.lower() if value is True else f"{key.lower()} {value}")
    return ", ".join(words)


def _nvidia(made: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}
    ptx = made.asm["ptx"]
    loads = re.findall(r"\bld\.global[\w.:]*?(?:\.v(\d))?\.[bfsu](\d+)", ptx)
    copies = [int(size, 16) for size in re.findall(r"cp\.async\.c[ag]\.shared\.global .*\], (\w+)", ptx)]
    tiles = [128 for _ in re.findall(r"cp\.async\.bulk\.tensor", ptx)]
    return {
        "registers": usage["REG"],
        "spill_bytes": usage["STACK"] + usage["LOCAL"],
        "loads": [*(int(n or 1) * int(bits) // 8 for n, bits in loads), *copies, *tiles],
    }


def _amd(made: Any) -> dict[str, Any]:
    text = made.asm["amdgcn"]
    counts = {key: int(value) for key, value in re.findall(r"\.(\w+):\s*(\d+)\s*$", text, re.MULTILINE)}
    widths = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "ushort": 2, "short_d16": 2, "short_d16_hi": 2}
    loads = re.findall(r"\b(?:global|buffer)_load_(\w+)", text)
    return {
        "registers": counts["vgpr_count"],
        # scratch memory; what is spilled of scalar registers goes to vector registers first
        "spill_bytes": max(counts["private_segment_fixed_size"], 4 * counts["vgpr_spill_count"]),
        "loads": [widths.get(load, 1) for load in loads],
    }
