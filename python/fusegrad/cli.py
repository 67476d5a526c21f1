"""python -m fusegrad: what runs where on this machine, a self-test, the benchmarks, the GPU kernels."""

import argparse
import importlib.util
import json
import os
import platform
import sys

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fusegrad

from . import backends, routing
from .activations import REGISTRY
from .check import check
from .ops import OPS
from .ops.operands import DTYPES

FEW = ("gelu", "relu", "silu", "tanh")  # whose kernels are listed if none is named, in some two minutes
ARCHS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fusegrad", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, devices, and which backend serves each op")
    checking = commands.add_parser("check", help="values and gradients of all ops on this machine against float64")
    checking.add_argument("--device", default=None, help="cpu, cuda, ...; all there are if left out")
    kernels = commands.add_parser("kernels", help="compile the GPU kernels, without a GPU, and list what they take")
    kernels.add_argument("--arch", choices=ARCHS, help="that of the GPU here, else sm_90, if left out")
    few = " ".join(FEW)
    kernels.add_argument(
        "--act", choices=(*REGISTRY, "all"), nargs="+", default=FEW, help=f"{few} if left out; all takes a while"
    )
    dtypes = [str(d).removeprefix("torch.") for d in DTYPES]
    kernels.add_argument("--dtype", choices=dtypes, nargs="+", default=dtypes, help="all if left out")
    kernels.add_argument("--json", action="store_true", help="print a list of objects")
    commands.add_parser("bench", help="the benchmarks against stock torch", add_help=False)
    commands.add_parser("tune", help="measure which kernels compute a layer fastest on this GPU", add_help=False)
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["bench"]:
        return _bench(argv[1:])
    if argv[:1] == ["tune"]:
        return _tune(argv[1:])
    args = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    return {"info": _info, "check": _check, "kernels": _kernels}[args.command](console, args)


def _bench(argv: list[str]) -> int:
    from fusegrad.benchmarks import main  # imported when used: it loads what only benchmarks need

    return main(argv)


def _tune(argv: list[str]) -> int:
    from fusegrad.benchmarks.tune import main

    return main(argv)


def _devices() -> list[str]:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return ["cpu"] + ([accelerator.type] if accelerator else [])


def _what_stock_runs() -> str:
    """What is left to stock torch, since it is as fast there, by the limits that hold on this processor."""
    if backends.node is None:
        return (
            f"stock torch runs what is small: tensors of up to {routing.SMALL_TENSOR:,} elements "
            f"({routing.SMALL_TENSOR_IN_TRAINING:,} where a gradient is needed), and, where a gradient is needed, "
            f"layers of up to {routing.SMALL_LAYER:,} multiplications (fewer with an activation after them: see "
            f"fusegrad.explain), or {routing.SMALL_GATED:,} in each of the two layers of a gated one."
        )
    named = lambda acts: ", ".join(sorted(a for a in acts - {"identity"} if not a.endswith("in_place")))
    return (
        "layers run as ops at every size. Stock torch runs activations that stand alone: in float32 and float64 "
        f"{named(routing.PIECEWISE)}, and up to {routing.SMALL_TENSOR_AS_FAST:,} elements "
        f"{named(routing.AS_FAST_IN_STOCK - routing.PIECEWISE)}; where a gradient is needed all of up to "
        f"{routing.SMALL_TENSOR:,} elements."
    )


def _info(console: Console, args: argparse.Namespace) -> int:
    from .benchmarks.machine import facts

    table = Table(box=None, show_header=False)
    extension = backends.extension
    for name, value in (
        ("fusegrad", fusegrad.__version__),
        ("torch", torch.__version__),
        ("python", platform.python_version()),
        ("cpu", f"{facts('cpu')['machine']}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"),
        ("cpu capability", extension.capability() if extension else "unknown (no C++ extension)"),
        ("C++ extension", f"built with {extension.compiler}" if extension else "not built"),
        ("nodes of autograd", "made in C++" if backends.node else "made in Python"),
        *((d, torch.cuda.get_device_name()) for d in _devices() if d == "cuda"),
    ):
        table.add_row(name, str(value))
    console.print(table, "\n")
    serves = Table("op", *_devices(), box=None, header_style="bold")
    for op in OPS:
        serves.add_row(op, *(backends.serving(op, device) for device in _devices()))
    console.print(serves)
    console.print(f"\nOn a CPU, outside of compilers and transforms, {_what_stock_runs()}", highlight=False)
    return 0


def _check(console: Console, args: argparse.Namespace) -> int:
    """A line an op: the error in each dtype, and stock torch's; exit status 1 if any is off."""
    dtypes = [str(d).removeprefix("torch.") for d in DTYPES]
    table = Table("device", "op", *(f"{d} (stock)" for d in dtypes), "", box=None, header_style="bold")
    rows = []
    for device in [args.device] if args.device else _devices():
        progress = track(check(device), f"checking {device}", console=Console(stderr=True), transient=True, total=None)
        rows += list(progress)
    for row in rows:
        errors = (f"{row.errors[d].ours:.1e} ({row.errors[d].stock:.1e})" for d in dtypes)
        table.add_row(row.device, row.op, *errors, "ok" if row.ok else "[bold red]WRONG[/]")
    console.print(table)
    wrong = sum(not row.ok for row in rows)
    console.print(f"{len(rows) - wrong} of {len(rows)} right: values, gradients and their gradients against float64")
    return 1 if wrong else 0


def _kernels(console: Console, args: argparse.Namespace) -> int:
    """A line for each kernel that is shipped, read from its machine code."""
    missing = "there is no Triton to compile the GPU kernels: pip install triton"
    if importlib.util.find_spec("triton") is not None:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        missing = "Triton's interpreter compiles nothing: unset FUSEGRAD_BACKEND and TRITON_INTERPRET" * interpreted
    if missing:
        print(f"fusegrad kernels: {missing}", file=sys.stderr)
        return 1
    from .kernels import gemm, offline  # imported when used: they import Triton

    arch = args.arch or (gemm.family(torch.device("cuda")) if torch.cuda.is_available() else "sm_90")
    acts = list(REGISTRY) if "all" in args.act else args.act
    todo = offline.tasks([arch], acts, [getattr(torch, dtype) for dtype in args.dtype])
    found = offline.resources(todo)
    progress = track(found, f"compiling for {arch}", len(todo), console=Console(stderr=True), transient=True)
    rows = sorted((row for rows in progress for row in rows), key=lambda row: [str(row[k]) for k in offline.SORTED_BY])
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    table = Table(*(key.replace("_", " ") for key in rows[0]), box=None, header_style="bold")
    say = {True: "yes", False: "no", None: ""}
    for row in rows:
        table.add_row(*(str(value if type(value) is int else say.get(value, value)) for value in row.values()))
    console.print(table)
    return 0
