"""What `make gpu` runs: build, tests and benchmarks on the GPU of this machine, in under 9 minutes.

It uses the torch of the interpreter that runs it, offline, and installs nothing. The packages of the source tree are
laid out as an installation would lay them out, as links in build/gpu, and that folder goes first on PYTHONPATH: so
`fusegrad.kernels` and `fusegrad.benchmarks` are found by every process, also while `import fusegrad` runs.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINKS = ROOT / "build" / "gpu"
# subpackages that live outside python/fusegrad; pyproject.toml maps them for installations
SUBPACKAGES = ("kernels", "benchmarks")
TOTAL_SECONDS = 530
# what matters most comes first, in case the time runs out
BENCHMARKS = {"second_order": 70, "mlp_training": 90, "linear_act": 150, "call_overhead": 60}


def main(argv: list[str]) -> int:
    """Run all steps, print what became of each, and return the exit code."""
    parser = argparse.ArgumentParser(description="Build, test and benchmark fusegrad on the GPU of this machine.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny benchmarks, and tests are only collected")
    args = parser.parse_args(argv)
    missing = _missing(args.device)
    if missing:
        print(f"gpu: {missing}")
        return 1
    deadline = time.monotonic() + TOTAL_SECONDS
    _link()
    os.environ |= {"PYTHONPATH": str(LINKS), "FUSEGRAD_TEST_DEVICE": args.device, "PYTHONUNBUFFERED": "1"}
    python, smoke = sys.executable, ["--smoke"] if args.smoke else []
    steps = [_build(deadline)]
    _link()  # with the extension that was built
    collect = ["--collect-only"] if args.smoke else []
    steps.append(_run("tests", [python, "-m", "pytest", *_pytest_options(), *collect], 200, deadline))
    with tempfile.TemporaryDirectory() as out:
        for name, limit in BENCHMARKS.items():
            bench = [python, "-m", "fusegrad", "bench", name, "--device", args.device, "--out", out, *smoke]
            steps.append(_run(name, bench, limit, deadline))
        if not args.smoke:
            _keep(Path(out))
        print("\n" + "\n".join(f"{name:15}{seconds:5.0f} s  {said}" for name, said, seconds in steps))
        report = [python, "-m", "fusegrad.benchmarks.report", "--results", out]
        steps.append(_run("report", report, 30, deadline + 30))
    return 0 if all(said.startswith(("ok", "skipped")) for _, said, _ in steps) else 1


def _missing(device: str) -> str:
    """What this interpreter lacks, in a sentence; empty if nothing."""
    needed = [name for name in ("torch", "rich", "pytest") if importlib.util.find_spec(name) is None]
    if needed:
        return f"{sys.executable} has no {', '.join(needed)}."
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return f"torch {torch.__version__} of {sys.executable} sees no CUDA device; this needs an NVIDIA GPU."
    return ""


def _link() -> None:
    """Lay out the package as an installation would, as links."""
    package = LINKS / "fusegrad"
    shutil.rmtree(LINKS, ignore_errors=True)
    package.mkdir(parents=True)
    for entry in (ROOT / "python" / "fusegrad").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for name in SUBPACKAGES:
        (package / name).symlink_to(ROOT / name)


def _build(deadline: float) -> tuple[str, str, float]:
    """Compile the extension in place, if that can be done here; without it the reference serves the CPU."""
    for name in ("setuptools", "pybind11"):
        if importlib.util.find_spec(name) is None:
            return "build", f"skipped: no {name}", 0.0
    if not any(shutil.which(c) for c in (os.environ.get("CXX", "c++"), "c++", "g++", "clang++")):
        return "build", "skipped: no C++ compiler", 0.0
    return _run("build", [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], 120, deadline)


def _pytest_options() -> list[str]:
    """The project's own, less what needs a plugin that is not here."""
    if importlib.util.find_spec("xdist"):
        return ["-n", "4"]
    return ["-o", "addopts=-q --strict-markers --doctest-modules"]


def _run(name: str, command: list[str], limit: float, deadline: float) -> tuple[str, str, float]:
    """Run one step, at most as long as it may take; (name, what became of it, seconds)."""
    limit = min(limit, deadline - time.monotonic())
    if limit < 5:
        return name, "not run: no time left", 0.0
    print(f"\n=== {name}: {' '.join(command)}", flush=True)
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        code = process.wait(limit)
        said = "ok" if code == 0 else f"failed with exit code {code}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the workers it started
        process.wait()
        said = f"stopped after {limit:.0f} s"
    return name, said, time.monotonic() - start


def _keep(results: Path) -> None:
    """Copy csv and plots to $OUT, or to benchmarks/results."""
    out = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results")
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(results.iterdir()):
        shutil.copy(path, out)
    print(f"Results are in {out}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
