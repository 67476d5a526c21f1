import gc
import sys
from pathlib import Path

import pytest
import torch

from fusegrad import at_once, backends, routing
from fusegrad.fusion import chains, kept

SMALL = {name: getattr(routing, name) for name in routing.LIMITS}

LONG = ("test_in_the_interpreter", "test_kernels_under_sanitizers", "test_two_ranks", "test_narrower", "test_gpu_smoke")

sys.path.insert(0, str(Path(__file__).parent))

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # on a GPU machine, say: what draws its examples then fails, all else runs
    pass
else:
    patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # no test fails on a busy machine
    repeatable = {"derandomize": True, "database": None, **patient}
    settings.register_profile("repeatable", max_examples=60, **repeatable)
    settings.register_profile("few", max_examples=15, **repeatable)  # on one backend more
    settings.register_profile("fuzz", max_examples=500, print_blob=True, **patient)  # of `make fuzz`
    settings.load_profile("repeatable")


def pytest_collection_modifyitems(config, items):
    if not config.option.markexpr:
        items[:] = [item for item in items if not any(map(item.get_closest_marker, ("slow", "models")))]
    items.sort(key=lambda item: not item.name.startswith(LONG))  # half a minute each and more: none alone at the end


def pytest_collection_finish():
    """What is there stays: the collector, a tenth of the time else, has only to look at what the tests make."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_sessionfinish():
    gc.unfreeze()  # so that what looks for leaks at exit sees it go


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch):
    for name in SMALL:  # what the tests compute is small, and is to reach the ops
        monkeypatch.setattr(routing, name, -1)
    monkeypatch.setattr(routing, "CHAIN_OF_DERIVED", True)
    if "torch._dynamo" in sys.modules:  # which takes long to import
        torch.compiler.reset()  # else a test counts against the recompile limit of those before it
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one a worker


@pytest.fixture(params=["C++", "python"])
def nodes(request, monkeypatch):
    """Nodes of autograd made by C++, and by Python as with a torch that the extension was not built for."""
    if request.param == "python":
        monkeypatch.setattr(backends, "node", None)
    elif backends.node is None:
        pytest.skip("no C++ nodes")


@pytest.fixture
def again(monkeypatch):
    """Whether each chain that was kept ran again, or its layers one by one."""
    ran, run = [], chains.kept_chain

    def kept_chain(x, found):
        y = run(x, found)
        ran.append(isinstance(y, torch.Tensor))
        return y

    monkeypatch.setattr(chains, "kept_chain", kept_chain)
    return ran


@pytest.fixture
def by_cpp(monkeypatch):
    """What ran at once, by C++."""
    ran = []

    def seen(name, run):
        def call(*args):
            y = run(*args)
            ran.append(name if y is not None else None)
            return y

        monkeypatch.setattr(kept, name, call)

    seen("kept_layer", at_once.kept_layer)
    seen("kept_gated", at_once.kept_gated)
    return ran


@pytest.fixture
def ran(monkeypatch):
    """How many layers each chain that ran had."""
    counts = []
    run, run_again = chains.run_chain, chains.kept_chain

    def again(x, found):
        y = run_again(x, found)
        as_one = isinstance(y, torch.Tensor) and (y.grad_fn is None or y.grad_fn.name() == "ChainBackward")
        counts.extend([len(found.parameters)] if as_one and len(found.parameters) > 1 else [])
        return y

    monkeypatch.setattr(chains, "run_chain", lambda x, w, *of: counts.append(len(w) // 2) or run(x, w, *of))
    monkeypatch.setattr(chains, "kept_chain", again)
    return counts
