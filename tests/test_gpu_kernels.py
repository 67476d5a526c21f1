"""The GPU kernels, compiled for each architecture without one: none spills or asks for more shared memory than there
is, passes load 16 bytes at a time, and products of 16-bit numbers run on Hopper's matrix units.
"""

import itertools
import json
import multiprocessing
import os
import pkgutil
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from fusegrad import kernels
from fusegrad.activations import REGISTRY
from fusegrad.cli import ARCHS, main

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from fusegrad.kernels import act, act_streams, gemm, offline

# of a program, in KiB
SHARED_MEMORY = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64, "gfx950": 160}
KEYS = {"arch", "kernel", "function", "dtype", "config", "registers", "spill_bytes", "shared_memory", "wide_loads"}
KEYS |= {"gemm", "wgmma"}


def faults(row):
    if row["spill_bytes"] > 0:
        yield f"spills {row['spill_bytes']} bytes"
    if row["shared_memory"] > 1024 * SHARED_MEMORY[row["arch"]]:
        yield f"takes {row['shared_memory']} bytes of shared memory"
    if not row["wide_loads"]:
        yield "loads less than 16 bytes at a time"
    if row.get("wgmma") is False and row["gemm"] and row["dtype"] in ("bfloat16", "float16"):
        yield "multiplies without wgmma"


@pytest.fixture(scope="module")
def compiled():
    """Compiles tasks without a fault, in a process that serves all tests here, as it takes seconds to start."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:

        def compile_all(tasks):
            rows = {}
            for future in [process.submit(offline._compile, task) for task in tasks]:
                rows |= future.result()
            assert not [(list(faults(row)), row) for row in rows.values() if list(faults(row))]
            return list(rows.values())

        yield compile_all


@pytest.mark.parametrize("arch", ("sm_80", "sm_90", "sm_100", "gfx942"))
def test_resources(compiled, arch):
    """Of activations that cost much: the product of gelu in 16 bits that takes most registers; and of each maker's
    compiler the other products, and some of all passes."""
    tasks = offline.tasks([arch], ["gelu"], [torch.bfloat16])[-1:]
    tasks += [of_streams(arch, "mish", torch.bfloat16)]
    if arch in ("sm_90", "gfx942"):
        tasks += offline.tasks([arch], ["gelu"], [torch.bfloat16])[-2::-2]
        tasks += offline.tasks([arch], ["tanh", "sin"], [torch.float32])[::8]
        tasks += offline.tasks([arch], ["mish", "gelu_tanh"], [torch.float64])[::6]
    rows = compiled(tasks)
    assert len({tuple(row[key] for key in offline.SORTED_BY) for row in rows}) == len(rows)


def of_streams(arch, name, dtype):
    """The backward pass of an activation with its streams."""
    backward = act_streams.act_streams_backward
    return offline.Task(arch, name, dtype, [launch.func for launch in offline.launches(name, dtype)].index(backward))


@pytest.mark.parametrize("arch", (pytest.param("sm_80", marks=pytest.mark.slow), "sm_90"))
def test_resources_of_chains(compiled, arch):
    """The widest in 16 bits, odd ones in float32, with tf32 and without, and float64, of activations that take most."""
    tasks = offline.tasks([arch], ["gelu"], [torch.bfloat16, torch.float32, torch.float64])
    of_chains = [task for task in tasks if is_chain(task)]
    assert len(of_chains) == 4 * len(offline.CHAINS)
    kernels = {row["kernel"] for row in compiled(of_chains[2::4])}
    assert kernels == {*offline.CHAINED, "chain_sums"}


def is_chain(task):
    launch = next(itertools.islice(offline.launches(task.act, task.dtype), task.at, None))
    return launch.args[1:2] == (offline._chain,)


def launched():
    """The kernels in kernels/, as their names tell."""
    modules = [import_module(f"{kernels.__name__}.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)]
    return {name.removesuffix("_kernel") for m in modules for name in vars(m) if name.endswith("_kernel")}


def takes_most(launch, dtype):
    """Whether a launch takes more registers than the others: a product that saves, or a pass with all its results."""
    if launch.func is offline._multiply:
        _, product, *args = launch.args
        saves_y = product is gemm.linear_act and not REGISTRY[args[3]].saves_input  # which it writes anyway
        return product is gemm.mm_dact or saves_y or args[-1]
    passes = {act.act_vjp: (True, True, True), act.act_jvp: (True,), act_streams.act_streams_backward: (7,)}
    needed = passes.get(launch.func)
    return dtype.itemsize > 2 and needed is not None and launch.args[-len(needed) :] == needed


@pytest.mark.slow
@pytest.mark.parametrize("arch", offline.TARGETS)
@pytest.mark.parametrize("name", REGISTRY)
def test_resources_of_every_activation(compiled, name, arch):
    """Of the launches that take most; `python -m fusegrad kernels --act all` compiles all, for hours."""
    rows = compiled(
        [
            offline.Task(arch, name, dtype, i)
            for dtype in offline.DTYPES
            for i, launch in enumerate(offline.launches(name, dtype))
            if takes_most(launch, dtype)
        ]
    )
    assert len(rows) >= 8


def test_command_prints_json(compiled, capsys, monkeypatch):
    monkeypatch.setattr(offline, "resources", lambda todo: [compiled(todo)])  # by processes: in test_own_kernels.py
    assert main(["kernels", "--arch", "sm_90", "--act", "tanh", "--dtype", "bfloat16", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["kernel"] for row in rows} == launched() and all(row.keys() == KEYS for row in rows)
    assert all(row["registers"] > 0 for row in rows)
    assert all(row["wgmma"] == row["gemm"] for row in rows if row["kernel"] not in offline.CHAINED)


def test_command_knows_the_architectures():
    assert ARCHS == tuple(offline.TARGETS)


def test_command_prints_a_table(compiled, capsys, monkeypatch):
    few = [task for task in offline.tasks(["gfx942"], ["identity"], [torch.float64]) if not is_chain(task)][-2:]
    monkeypatch.setattr(offline, "resources", lambda todo: [compiled(few)])
    assert main(["kernels", "--arch", "gfx942", "--act", "identity", "--dtype", "float64"]) == 0
    out = capsys.readouterr().out
    assert "spill bytes" in out and "identity_first" in out and "wgmma" not in out


def test_command_says_that_triton_is_missing(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["kernels"]) == 1
    assert "pip install triton" in capsys.readouterr().err


def test_grids_fit_any_number_of_rows(monkeypatch):
    """CUDA has 2^31 programs along the first axis, and 2^16 along the others."""
    from triton.runtime import JITFunction

    from fusegrad.kernels import act, act_streams, chain, launch, passes
    from fusegrad.ops.chain_by_layers import plan

    monkeypatch.setattr(launch, "driver", SimpleNamespace(active=offline._Driver("sm_90")))
    grids = []
    monkeypatch.setattr(JITFunction, "__getitem__", lambda kernel, grid: lambda *args, **options: grids.append(grid))
    for m, n in ((2**34, 1), (2**30, 16), (1, 2**31 - 1), (3, 2**33)):
        gy = torch.empty(m, n, device="meta")
        passes.gz_and_sum(gy, gy, "tanh", 0.0, True)
        act.act(gy, None, "tanh", 0.0, 0)
        y, ty, _ = act_streams.act_streams(gy, gy[None], None, "tanh", 0.0)
        act_streams.act_streams_backward(y, ty, None, gy, gy[None], None, "tanh", 0.0, 3)
        if n < 2**30:  # in registers there are at most so many columns
            of = plan(("tanh",), (1.0,), (False,))
            x, w = torch.empty(m, min(n, 128), device="meta"), torch.empty(16, min(n, 128), device="meta")
            y, saved = chain.forward(x, [w, None], of, True)
            chain.backward(y, x, [w, None], y, saved, of, (True, True, False))
    assert len(grids) == 4 * 5 + 2 * 3
    assert all(grid[0] < 2**31 and len(grid) == 1 for grid in grids)
