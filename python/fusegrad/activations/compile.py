"""Compiles what was generated for an activation of a user's, once, into a cache of his own on disk.

The cache is `fusegrad` in XDG_CACHE_HOME, or in ~/.cache; it is loaded as code, so only its owner may write there. In
it an activation has a folder, named by a hash of all that it is made from. A library comes into being by a rename, so
whoever finds one finds it whole; a lock, which the kernel of the system takes back from whoever dies, lets one process
build while the others wait.
"""

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

# what setup.py compiles the kernels with
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=fast", "-Wno-psabi")
_TO_LIBRARY = ("-fPIC", "-shared", "-fvisibility=hidden")


# Of the activations that a user defined, by name: what kernels/activations.py takes their kernels from, when it is
# imported, as it imports Triton.
TRITON: dict[str, str] = {}


class Unavailable(Exception):
    """Why there is no library, in words that can be shown to a user."""


def library(name: str, struct: str, isa: str, version: str) -> Path:
    """The shared object with the kernels of an activation for an instruction set: found, or compiled now.

    Args:
        name: of the activation, good for a file.
        struct: the activation in C++, as those of csrc/activations.h, of the name Own.
        isa: the instruction set, as fusegrad._C.capability() names it.
        version: of fusegrad.

    Raises:
        Unavailable: there is no compiler, it fails, or the cache can not be used.
    """
    with _what_the_system_refuses():
        return _library(name, struct, isa, version)


def module(name: str, source: str) -> ModuleType:
    """The Python module of this source, imported from a file, from which Triton reads it; Unavailable as above."""
    digest = _digest(source)
    unique = f"fusegrad_own_{name}_{digest}"
    if unique in sys.modules:
        return sys.modules[unique]
    with _what_the_system_refuses():
        path = _private(cache_folder() / f"{name}-{digest}") / f"{name}.py"
        if not path.exists():
            with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
                file.write(source)
            os.replace(file.name, path)
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None and spec.loader is not None, "a file that ends in .py has a loader"
    made = importlib.util.module_from_spec(spec)
    sys.modules[unique] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[unique]
        raise
    return made


@contextmanager
def _what_the_system_refuses() -> Iterator[None]:
    """To write to a disk, to say whose home this is, to run what CXX says."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as e:
        raise Unavailable(f"{e}; the cache is in XDG_CACHE_HOME, or else in ~/.cache") from None


def cache_folder() -> Path:
    """The cache, made if it is not there; Unavailable if others could have written to it."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"  # as its specification says
    base.mkdir(parents=True, exist_ok=True)
    return _private(base / "fusegrad")


def _private(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Unavailable(f"{folder} is not a folder that this user owns and no other may write to")
    return folder


def _library(name: str, struct: str, isa: str, version: str) -> Path:
    compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    sources = csrc()
    texts = [path.read_text("utf-8") for path in sorted((*sources.rglob("*.h"), *sources.rglob("isa_*.cpp")))]
    flags = (*FLAGS, *_TO_LIBRARY)
    made_from = struct, *texts, *flags, *compiler, _version_of(*compiler), torch.__version__, version, isa
    folder = _private(cache_folder() / f"{name}-{_digest(*made_from, platform.machine())}")
    made = folder / f"{name}.so"
    if not made.exists():
        with _locked(folder / "lock"):
            if not made.exists():
                _build(name, [*compiler, *flags, f"-I{sources}", str(sources / "cpu" / f"isa_{isa}.cpp")], struct, made)
    return made


def _build(name: str, command: list[str], struct: str, made: Path) -> None:
    for left in made.parent.glob("building-*"):  # by a process that was killed, as whoever lives has the lock
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=made.parent, prefix="building-", ignore_cleanup_errors=True) as building:
        header, built = Path(building, f"{name}.h"), Path(building, made.name)
        header.write_text(struct, "utf-8")
        print(f"fusegrad: compiling the activation {name!r}, once ...", end="", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            done = subprocess.run(
                [*command, f'-DFUSEGRAD_OWN="{header}"', "-o", str(built)],
                capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            print(f" {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        if done.returncode or not built.exists():
            says = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
            raise Unavailable(f"{command[0]} can not compile the activation {name!r}: {says[-1000:]}")
        with open(built, "rb+") as file:
            os.fsync(file.fileno())  # a machine that loses power does not keep the name without what is in it
        os.replace(built, made)
        os.replace(header, made.with_suffix(".h"))  # to read


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # which is where the kernels are

    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where a fork has the file too


@cache
def _version_of(*compiler: str) -> str:
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as e:
        raise Unavailable(f"there is no C++ compiler here ({e})") from None
    if done.returncode:
        raise Unavailable(f"there is no C++ compiler here ({shlex.join(compiler)} fails: {done.stderr.strip()[-300:]})")
    return done.stdout


def csrc() -> Path:
    """The C++ sources: in the package, or, where that was installed as editable, in the repository."""
    package = Path(__file__).parents[1]
    return found if (found := package / "csrc").is_dir() else package.parents[1] / "csrc"


def _digest(*texts: str) -> str:
    whole = hashlib.sha256()
    for text in texts:
        whole.update(hashlib.sha256(text.encode()).digest())
    return whole.hexdigest()[:16]
