"""What a Sequential keeps of a chain that was found: nothing that a copy would have, nothing that has changed."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.func import functional_call

import fusegrad as fg
from fusegrad import backends, routing
from fusegrad.fusion import chains
from fusegrad.fusion.kept import KEPT

pytestmark = pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
close = torch.testing.assert_close
X = torch.linspace(-1, 1, 36, dtype=torch.double).reshape(12, 3)


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).double()


@pytest.fixture
def again(monkeypatch):
    """Whether each chain that was kept ran again."""
    ran, run = [], chains.kept_chain

    def kept_chain(x, found):
        y = run(x, found)
        ran.append(y is not None)
        return y

    monkeypatch.setattr(chains, "kept_chain", kept_chain)
    return ran


def called():
    m = fg.fuse(net())
    m(X)
    return m


def test_it_is_found_once(again, monkeypatch):
    m = fg.fuse(net())
    monkeypatch.setattr(chains, "chain_from", lambda *of, run=chains.chain_from: again.append("looked for") or run(*of))
    for _ in range(3):
        close(m(X), net()(X))
    assert again == ["looked for", True, True]


def test_it_is_not_looked_for_where_layers_are_best_one_by_one(again, monkeypatch):
    monkeypatch.setattr(routing, "CHAIN_WIDTH", 0)
    monkeypatch.setattr(routing, "CHAIN_LARGEST", 0)
    m = fg.fuse(net())
    m(X)
    monkeypatch.setattr(chains, "chain_from", lambda *of: pytest.fail("looked for"))
    close(m(X), net()(X))
    monkeypatch.setattr(routing, "CHAIN_WIDTH", 8)
    assert m(X).grad_fn.name() == "ChainBackward"


def test_it_may_stand_between_others(again):
    m = nn.Sequential(
        nn.Flatten(), *net(), nn.Softmax(-1), nn.Linear(2, 3).double(), nn.Tanh(), nn.Linear(3, 1).double()
    )
    ours = fg.fuse(copy.deepcopy(m))
    for _ in range(2):
        close(ours(X), m(X))
    assert again == [True, True]


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": lambda m: torch.load(_saved(m), weights_only=False),
}


def _saved(m):
    file = io.BytesIO()
    torch.save(m, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("how", COPIES)
def test_copies_have_none_of_it(how):
    m = called()
    assert KEPT in vars(m) and KEPT.encode() not in pickle.dumps(m) and b"Kept" not in pickle.dumps(m)
    twin = COPIES[how](m)
    theirs = nn.Sequential(*net(), nn.Tanh())
    twin.append(nn.Tanh())
    for copied in (twin, theirs):
        copied[0] = copy.deepcopy(copied[0])
        with torch.no_grad():
            copied[0].weight.mul_(2)
    for _ in range(2):
        close(twin(X), theirs(X))
        close(m(X), (theirs if how == "copy" else net())(X))


def test_unfuse_takes_it_away():
    assert vars(fg.unfuse(called())).keys() == vars(net()).keys()


CHANGES = {
    "another order": lambda m: m._modules.update({"2": m._modules.pop("2")}),
    "another dictionary": lambda m: setattr(m, "_modules", dict(reversed(m._modules.items()))),
    "one more": lambda m: m.append(nn.Softmax(-1)),
    "swapped": lambda m: m.__setitem__(2, nn.Linear(8, 8).double()),
    "half": lambda m: m.__delitem__(slice(2, None)),
    "float32": lambda m: m.float(),
    "parameters in another dictionary": lambda m: setattr(
        m[0], "_parameters", {k: nn.Parameter(p.detach() * 2) for k, p in m[0]._parameters.items()}
    ),
    "a bias of none": lambda m: setattr(m[2], "bias", None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_obeyed(change):
    theirs, ours = net(), called()
    results = []
    for m in (theirs, ours):
        torch.manual_seed(3)
        CHANGES[change](m)
        try:
            results.append(m(X.to(next(m.parameters()).dtype)))
        except (RuntimeError, ValueError):
            results.append(torch.zeros(()))
    close(*results)


def test_a_hook_of_all_modules_is_obeyed():
    ours, seen = called(), []
    with nn.modules.module.register_module_forward_hook(lambda m, args, y: seen.append(type(m).__name__)):
        ours(X)
    assert seen == ["Linear", "Tanh", "Linear", "Tanh", "Linear", "Sequential"]


def test_weights_of_a_call_are_not_kept():
    m = called()
    for _ in range(2):
        weights = {k: p.detach().clone().requires_grad_() for k, p in m.named_parameters()}
        close(functional_call(m, weights, X), net()(X))
    refs = [weakref.ref(w) for w in weights.values()]
    del weights
    gc.collect()
    assert not any(ref() is not None for ref in refs)


def test_a_model_is_freed():
    m = called()
    m.parent = [m]  # a cycle
    refs = [weakref.ref(m), weakref.ref(m[0].weight)]
    del m
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
