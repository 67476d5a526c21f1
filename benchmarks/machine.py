"""What a measurement was made on, and the most that could be reached there."""

import functools
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

import fusegrad
from fusegrad.backends import _C

PEAK_SECONDS = 0.02  # shorter probes vary by a third
SETTINGS = ("LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES", "MKL_", "OMP_", "KMP_", "GOMP_", "FUSEGRAD_")


def peak_gflops(dtype: torch.dtype, device: str) -> float:
    """The FMA peak of the threads in use, probed now; 0 where it is not known: on a GPU, without the extension."""
    if device != "cpu" or _C is None:
        return 0.0
    return _C.peak_gflops(dtype_name(dtype), torch.get_num_threads(), PEAK_SECONDS)


@functools.cache
def facts(device: str) -> dict[str, str]:
    """The machine, the versions, the commit and the date: what every row of a csv says."""
    if device == "cuda":
        machine, capability = torch.cuda.get_device_name(), "sm_{}{}".format(*torch.cuda.get_device_capability())
    else:
        machine = _cpu()
        capability = _C.capability() if _C is not None else torch.backends.cpu.get_cpu_capability().lower()
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


def dtype_name(dtype: torch.dtype) -> str:
    """torch.float32 -> float32."""
    return str(dtype).removeprefix("torch.")


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
