"""keep_memory: freed pages come back without the kernel, or are given back to it; and where it does nothing."""

import pytest

import fusegrad as fg
from fusegrad import memory

from processes import python

on_glibc = pytest.mark.skipif(bool(memory.obstacle()), reason=memory.obstacle())

# Pages that steps take from the system, each with a tensor of 64 MiB: more than glibc keeps by itself.
FAULTS = """
import resource, torch, fusegrad as fg
def faults():
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""


@on_glibc
def test_pages_are_kept():
    code = FAULTS + "print(faults(), fg.keep_memory(), faults())"
    before, kept, during = python("-c", code).stdout.split()
    assert kept == "True" and int(before) > 20 and int(during) < 10  # pages of 4 kB, or of 2 MB: 16384, or 32


@on_glibc
def test_the_environment_says_so_too():
    assert int(python("-c", FAULTS + "print(faults())", FUSEGRAD_KEEP_MEMORY="1").stdout) < 10
    said = python("-c", "import fusegrad", FUSEGRAD_KEEP_MEMORY="yes").stderr
    assert "FUSEGRAD_KEEP_MEMORY is 'yes'; it can be '0', '1', or not set" in said


@on_glibc
def test_what_is_kept_is_given_back():
    code = "import torch, fusegrad as fg\nfg.keep_memory()\ntorch.ones(2**26)\n"
    code += "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
    code += "before = resident(); fg.keep_memory(False); print(before - resident())"
    assert int(python("-c", code).stdout) > 2**27


def test_where_it_does_nothing_it_says_so(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    with pytest.warns(UserWarning, match="keep_memory does nothing here: it tells glibc, and this is darwin"):
        assert fg.keep_memory() is False


@on_glibc
def test_another_malloc_is_seen(monkeypatch):
    monkeypatch.setattr(memory, "_library_of", lambda function: "libjemalloc.so.2")
    with pytest.warns(UserWarning, match=r"malloc is that of libjemalloc.so.2, not glibc's"):
        assert fg.keep_memory() is False
