"""What a measurement was made on, and the most that could be reached there."""

import functools
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import torch

import fusegrad
from fusegrad.backends import extension

PEAK_SECONDS = 0.02  # shorter probes vary by a third
# of a GPU: a product whose sizes fill it, and a copy of many times its L2
PEAK_SIZE, COPIED_BYTES, PEAK_RUNS = 8192, 2**31, 10
SETTINGS = ("LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES", "MKL_", "OMP_", "KMP_", "GOMP_", "FUSEGRAD_")


def peak_gflops(dtype: torch.dtype, device: str) -> float:
    """The FMA peak of the threads in use, probed now, or of a large product on a GPU; 0 if nothing here probes it."""
    if device == "cuda":
        return _product_gflops(dtype, torch.backends.cuda.matmul.allow_tf32)
    if extension is None or dtype == torch.float16:
        return 0.0
    return extension.peak_gflops(dtype_name(dtype), torch.get_num_threads(), PEAK_SECONDS)


@functools.cache
def copy_gbs(device: str) -> float:
    """What a large copy on a GPU reads and writes, in GB/s; 0 on a CPU."""
    if device != "cuda":
        return 0.0
    size = min(COPIED_BYTES, torch.cuda.mem_get_info()[0] // 4)
    a = torch.rand(size // 4, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / min(cuda_seconds(lambda: b.copy_(a), 1) for _ in range(PEAK_RUNS)) / 1e9


@functools.cache
def _product_gflops(dtype: torch.dtype, tf32: bool) -> float:
    """Of random numbers: a GPU multiplies zeros faster."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device="cuda").to(dtype) for _ in range(2))
    return 2 * PEAK_SIZE**3 / min(cuda_seconds(lambda: a @ b, 1) for _ in range(PEAK_RUNS)) / 1e9


def cuda_seconds(run: Callable[[], object], repeat: int) -> float:
    """What one of a number of runs takes on a GPU, by the GPU's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()  # what others left in the queue is not ours
    start.record()
    for _ in range(repeat):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeat  # it is in ms


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Whether products of float32 on a GPU may be computed in tf32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@functools.cache
def facts(device: str) -> dict[str, str]:
    """The machine, the versions, the commit and the date: what every row of a csv says."""
    if device == "cuda":
        machine, capability = torch.cuda.get_device_name(), "sm_{}{}".format(*torch.cuda.get_device_capability())
    else:
        machine = _cpu()
        torchs = torch.backends.cpu.get_cpu_capability().lower()
        capability = torchs if extension is None else extension.capability()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "machine": machine,
        "capability": capability,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fusegrad": fusegrad.__version__,
        "settings": _settings(),
    }


def sentence(of: dict[str, str]) -> str:
    """The facts as a reader wants them, under a table or a plot."""
    commit = f", commit {of['commit']}" if of["commit"] else ""
    settings = f"; {of['settings']}" if of["settings"] else ""
    return (
        f"{of['machine']} ({of['capability']}, {of['threads']} threads), Python {of['python']}, torch {of['torch']}, "
        f"fusegrad {of['fusegrad']}{commit}, {of['date']}{settings}"
    )


def dtype_name(dtype: torch.dtype, tf32: bool = False) -> str:
    """torch.float32 -> float32, or tf32 where its products are."""
    return "tf32" if tf32 else str(dtype).removeprefix("torch.")


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the source tree, "-dirty" if it was changed since; empty if git does not track this file."""
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _settings() -> str:
    """The environment variables that change what stock torch does: its threads, its allocator, its BLAS."""
    return " ".join(f"{k}={os.environ[k]}" for k in sorted(os.environ) if k.startswith(SETTINGS))
