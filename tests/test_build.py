"""Installation: with a compiler, without one, from a wheel; and what importing costs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fusegrad import backends

from cases import on_cpu
from processes import python

pytestmark = on_cpu
ROOT = Path(__file__).parent.parent
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "csrc", "kernels", "python", "benchmarks")


def run(*command, **kwargs):
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def wheel(tmp_path, **env):
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:
        ignore = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info", "results")
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(
            ROOT / name, source / name, **({"ignore": ignore} if (ROOT / name).is_dir() else {})
        )
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    done = run(*pip, "-w", str(tmp_path), str(source), env=os.environ | env)
    (path,) = tmp_path.glob("*.whl")
    return path, done.stdout + done.stderr


def use(path, tmp_path, code):
    """Run code against the unpacked wheel, nothing else of ours on the path."""
    site = tmp_path / "site"
    zipfile.ZipFile(path).extractall(site)
    env = {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run(sys.executable, "-c", code, cwd=tmp_path, env=os.environ | env)
    return done.stdout, done.stderr


CODE = """
import sys, warnings
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f)]  # of the tree under test
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fusegrad as fg
    import fusegrad.kernels, fusegrad.benchmarks.memory
import torch
x = torch.ones(2, 3, requires_grad=True)
fg.linear_act(x, torch.ones(4, 3), act="gelu").sum().backward()
assert x.grad.shape == (2, 3)
built = (part is not None for part in (fg.backends.extension, fg.backends.node))
print(fg.__file__, *built, len([w for w in caught if "fusegrad" in str(w.message)]))
"""

# as far as the wheel can tell: kernels serve any torch, nodes in C++ the one that they were built for
ANOTHER_TORCH = """
import torch
torch.__version__ = "2.99.0"
"""

# with the headers of the wheel
OWN = """
from fusegrad.activations.compile import csrc
fg.activation("own", lambda z: z * fg.tanh(z))
print(csrc(), fg.backends.extension.has_activation("own"))
"""


# A compiler that makes empty objects, and links them to the extensions that were built from these sources before.
AS_BEFORE = """#!/bin/sh
for argument; do
  case $before in -o) to=$argument ;; esac
  before=$argument
done
case $to in *.so) cp "$BUILT_BEFORE/${to##*/}" "$to" ;; *) : >"$to" ;; esac
"""


@pytest.mark.parametrize("compiled", ("before", pytest.param("anew", marks=pytest.mark.slow)))
@pytest.mark.skipif(backends.extension is None, reason="no C++ extension")
def test_wheel(tmp_path, compiled):
    """The sources and setup.py make a package that is whole; what compiles in it compiled when this was installed."""
    env = {}
    if compiled == "before":
        compiler = tmp_path / "c++"
        compiler.write_text(AS_BEFORE)
        compiler.chmod(0o755)
        env = {"CC": str(compiler), "CXX": str(compiler), "BUILT_BEFORE": str(Path(backends.extension.__file__).parent)}
    path, _ = wheel(tmp_path, **env)
    out, _ = use(path, tmp_path, CODE + OWN)
    where, built, nodes, warned, headers, compiled = out.split()
    assert where.startswith(str(tmp_path)) and (built, nodes, warned) == ("True", "True", "0")
    assert headers.startswith(str(tmp_path)) and compiled == "True"
    out, _ = use(path, tmp_path, ANOTHER_TORCH + CODE)
    assert out.split()[1:] == ["True", "False", "0"]


def test_wheel_without_a_compiler(tmp_path):
    path, _ = wheel(tmp_path, CC="/nonexistent/cc", CXX="/nonexistent/c++")
    out, _ = use(path, tmp_path, CODE)
    where, built, nodes, warned = out.split()
    assert where.startswith(str(tmp_path)) and (built, nodes, warned) == ("False", "False", "1")


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_the_extension_was_built():
    assert backends.extension is not None and backends.node is not None
    assert backends.extension.capability() in ("amx", "avx512_bf16", "avx512", "avx2", "portable")
    assert backends.extension.peak_gflops("float32", 1, 0.02) > 1
    assert backends.extension.peak_gflops("float64", 1, 0.02) > 0.5
    with pytest.raises(ValueError, match="dtype must be"):
        backends.extension.peak_gflops("int8", 1)
    with pytest.raises(ValueError, match="threads"):
        backends.extension.peak_gflops("float32", 0)


def test_import_leaves_heavy_modules_alone():
    """rich, matplotlib and DTensor (1.4 s) are imported when they are used, and Triton only by torch's flop counter."""
    code = "import torch, sys; before = set(sys.modules); import fusegrad; print(*(set(sys.modules) - before))"
    new = set(python("-c", code).stdout.split())
    assert "fusegrad" in new
    assert not [m for m in new if m.split(".")[0] in ("rich", "matplotlib", "numpy")]
    assert "torch.distributed.tensor" not in new
    assert not [m for m in new if m.startswith("fusegrad.kernels.")]
