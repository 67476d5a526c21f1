"""What `make gpu` runs: build, kernels, tests and benchmarks on the GPU of this machine, in under 9 minutes.

It uses the torch of the interpreter that runs it, offline, and installs nothing. The packages of the source tree are
laid out as an installation would lay them out, as links in build/gpu, and that folder goes first on PYTHONPATH: so
`fusegrad.kernels` and `fusegrad.benchmarks` are found by every process, also while `import fusegrad` runs. What the
steps print goes to build/gpu.log, of a step that fails its last lines to the terminal too; csv files and the log are
copied to $OUT, where that is set, after each step; `python -m fusegrad.benchmarks.report --plots` plots them.
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
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINKS, LOG = ROOT / "build" / "gpu", ROOT / "build" / "gpu.log"
TABLES = ROOT / "kernels" / "tables"
# subpackages that live outside python/fusegrad; pyproject.toml maps them for installations
SUBPACKAGES = ("kernels", "benchmarks")
TOTAL_SECONDS = 530
# seconds that each step may take, in their order: what matters most comes first, in case the time runs out. If some are
# named whose sum is less than the total, more in proportion.
LIMITS = {
    "build": 90,
    "kernels": 60,
    "memcheck": 60,
    "check": 60,
    "tests": 130,
    "tune": 300,
    "second_order": 45,
    "gated": 90,
    "mlp_training": 90,
    "small_networks": 90,
    "linear_act": 130,
    "call_overhead": 60,
}
UNASKED = [name for name in LIMITS if name != "tune"]  # which takes minutes, once for a GPU
TAIL = 25  # lines of a step that failed
WORKERS = 12  # at most: each takes some 0.5 GB of the GPU's memory for itself, and compiles on a core
INTERRUPT_SECONDS = 10  # for a step to say how far it came when its time is up
SANITIZER = ("compute-sanitizer", "--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", "9")


@dataclass(frozen=True)
class Step:
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    skipped: str = ""  # why


def main(argv: list[str]) -> int:
    """Run the steps, print what became of each, and return the exit code."""
    parser = argparse.ArgumentParser(description="Build, test and benchmark fusegrad on the GPU of this machine.")
    parser.add_argument(
        "steps", nargs="*", metavar="step", help=f"of {', '.join(LIMITS)}; all but tune if none is given"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, of the tests a file is collected, no build")
    args = parser.parse_args(argv)
    unknown = [name for name in args.steps if name not in LIMITS]
    if unknown:
        parser.error(f"unknown step {', '.join(unknown)}; there are {', '.join(LIMITS)}")
    missing = _missing(args.device)
    if missing:
        print(f"gpu: {missing}")
        return 1
    deadline = time.monotonic() + TOTAL_SECONDS
    LOG.parent.mkdir(exist_ok=True)
    LOG.unlink(missing_ok=True)
    _link()
    os.environ |= {"PYTHONPATH": str(LINKS), "PYTHONUNBUFFERED": "1"}
    chosen = [name for name in LIMITS if name in (args.steps or UNASKED)]
    stretch = max(1.0, TOTAL_SECONDS / sum(LIMITS[name] for name in chosen))
    done: list[tuple[str, str, float]] = []
    with tempfile.TemporaryDirectory() as results:
        steps = _steps(args.device, args.smoke, Path(results))
        for name in chosen:
            done.append(_run(name, steps[name], LIMITS[name] * stretch, deadline))
            _link()  # with what was built
            _keep(Path(results), args.smoke)
        if any(Path(results).glob(f"*_{args.device}.csv")):
            report = [sys.executable, "-m", "fusegrad.benchmarks.report", "--results", results]
            print("\n" + subprocess.run(report, cwd=ROOT, capture_output=True, text=True).stdout)
    print("\n".join(f"{name:14}{seconds:5.0f} s  {said}" for name, said, seconds in done))
    return 0 if all(said.startswith(("ok", "skipped")) for _, said, _ in done) else 1


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
    """Lay out the package as an installation would, as links; those that are there stay, as others may use them."""
    package = LINKS / "fusegrad"
    package.mkdir(parents=True, exist_ok=True)
    entries = {path.name: path for path in (ROOT / "python" / "fusegrad").iterdir() if path.name != "__pycache__"}
    entries |= {name: ROOT / name for name in SUBPACKAGES}
    for link in package.iterdir():
        if link.is_symlink() and link.readlink() != entries.get(link.name):
            link.unlink()
    for name, path in entries.items():
        if not (package / name).is_symlink():
            (package / name).symlink_to(path)


def _steps(device: str, smoke: bool, results: Path) -> dict[str, Step]:
    """Every step, in the order of LIMITS."""
    python, tiny = sys.executable, ["--smoke"] if smoke else []
    # on a CPU Triton's interpreter runs the kernels
    interpreted = {"FUSEGRAD_BACKEND": "triton"} if device == "cpu" else {}
    kernels = [python, "tests/each_kernel.py", device, *tiny]
    sanitizer = shutil.which(SANITIZER[0]) or shutil.which(SANITIZER[0], path="/usr/local/cuda/bin")
    missing = f"no {SANITIZER[0]}" if sanitizer is None else "no GPU" if device == "cpu" else ""
    checked = [sanitizer or "", *SANITIZER[1:], *kernels]
    tests = [python, "-m", "pytest", *_pytest_options(), *(["--collect-only", "tests/test_ops.py"] if smoke else [])]
    tune = [python, "-m", "fusegrad", "tune", "--device", device, *tiny]
    bench = [python, "-m", "fusegrad", "bench", "--device", device, "--out", str(results), *tiny]
    steps = {
        "build": _build(smoke),
        "kernels": Step(kernels, interpreted),
        # each tensor an allocation of its own, else what is written past its end is another tensor's
        "memcheck": Step(checked, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, missing),
        "check": Step([python, "-m", "fusegrad", "check", "--device", device]),
        "tests": Step(tests, {"FUSEGRAD_TEST_DEVICE": device}),
        "tune": Step(tune, interpreted),
    }
    return steps | {name: Step([*bench, name]) for name in LIMITS if name not in steps}


def _build(smoke: bool) -> Step:
    """Compile the extension in place, if that can be done here; without it the reference serves the CPU."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    missing = [name for name in ("setuptools", "pybind11") if importlib.util.find_spec(name) is None]
    if not any(shutil.which(c) for c in (os.environ.get("CXX", "c++"), "c++", "g++", "clang++")):
        missing.append("C++ compiler")
    return Step(command, skipped="--smoke" if smoke else f"no {', '.join(missing)}" if missing else "")


def _pytest_options() -> list[str]:
    """The project's own, but for what needs a plugin that is not here; one file that fails to load stops no other."""
    options = ["-o", "addopts=-q --strict-markers --doctest-modules", "-rfE", "--tb=short"]
    if importlib.util.find_spec("xdist"):
        options += ["-n", str(min(os.cpu_count() or 1, WORKERS))]
    return [*options, "--continue-on-collection-errors"]


def _run(name: str, step: Step, limit: float, deadline: float) -> tuple[str, str, float]:
    """Run one step, at most as long as it may take; (name, what became of it, seconds)."""
    if step.skipped:
        return name, f"skipped: {step.skipped}", 0.0
    limit = min(limit, deadline - time.monotonic())
    if limit < 5:
        return name, "not run: no time left", 0.0
    print(f"=== {name}: {' '.join(step.command)}", flush=True)
    start = time.monotonic()
    with LOG.open("a+b") as log:
        log.write(f"\n=== {name}: {' '.join(step.command)}\n".encode())
        log.flush()
        begin = log.tell()
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=os.environ | step.env,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        )
        try:
            code = process.wait(limit)
            said = "ok" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            _stop(process)
            said = f"stopped after {limit:.0f} s"
        log.seek(begin)
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    if said != "ok":
        print(*lines[-TAIL:], sep="\n", flush=True)
    return name, f"{said}: {lines[-1].strip()[:90]}" if lines else said, time.monotonic() - start


def _heed_interrupts() -> None:
    """A shell lets what it runs in the background ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _stop(process: subprocess.Popen) -> None:
    """Interrupt a step, so that it says how far it came; then end it with all that it started."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(INTERRUPT_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _keep(results: Path, smoke: bool) -> None:
    """Copy what there is: csv files and plots to benchmarks/results; csv files, tables and the log to $OUT, if set."""
    if smoke:  # its numbers mean nothing
        return
    out = os.environ.get("OUT")
    to = Path(out) if out else ROOT / "benchmarks" / "results"
    to.mkdir(parents=True, exist_ok=True)
    for path in [*results.glob("*.csv"), *([LOG, *TABLES.glob("*.csv")] if out else results.glob("*.png"))]:
        shutil.copy(path, to)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
