"""What is kept of layers that were found: nothing that a copy would have, nothing that has changed."""

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


def called():
    m = fg.fuse(net())
    m(X)
    return m


def test_it_is_found_once(again, monkeypatch):
    m = fg.fuse(net())
    monkeypatch.setattr(chains, "chain_from", lambda *of, run=chains.chain_from: again.append("looked for") or run(*of))
    for _ in range(3):
        close(m(X), net()(X))
    assert again == ["looked for", True, True, True]


def test_it_is_not_looked_for_where_layers_are_best_one_by_one(again, monkeypatch):
    monkeypatch.setattr(routing, "CHAIN_WIDTH", 0)
    monkeypatch.setattr(routing, "CHAIN_LARGEST", 0)
    m = fg.fuse(net())
    m(X)
    monkeypatch.setattr(chains, "chain_from", lambda *of: pytest.fail("looked for"))
    close(m(X), net()(X))
    assert m(X).grad_fn.name() == "LinearBackward"
    monkeypatch.setattr(routing, "CHAIN_WIDTH", 8)
    assert m(X).grad_fn.name() == "ChainBackward"


def test_it_may_stand_between_others(again):
    m = nn.Sequential(
        nn.Flatten(), *net(), nn.Softmax(-1), nn.Linear(2, 3).double(), nn.Tanh(), nn.Linear(3, 1).double()
    )
    ours = fg.fuse(copy.deepcopy(m))
    for _ in range(2):
        close(ours(X), m(X))
    assert again == [True] * 4


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


# --- a layer and what is called after it


class Net(nn.Module):
    """An activation after a layer, and a gate."""

    def __init__(self):
        super().__init__()
        self.fc, self.act, self.gate, self.up = nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.tanh(self.act(self.fc(x)))
        return nn.functional.silu(self.gate(x)) * self.up(x)


def hand_written():
    torch.manual_seed(1)
    return Net().double()


@pytest.mark.parametrize("derived", (False, True), ids=("weights", "input"))
def test_calls_of_layers_are_found_once(by_cpp, derived):
    m, theirs, x = fg.fuse(hand_written()), hand_written(), X.clone().requires_grad_(derived)
    for _ in range(3):
        close(m(x), theirs(x))
    assert by_cpp == ["kept_layer", "kept_gated"] * 2
    for of in (m, theirs):
        of(x).sin().sum().backward()
    close([p.grad for p in m.parameters()], [p.grad for p in theirs.parameters()])


def test_one_layer_is_kept(again):
    theirs = nn.Sequential(nn.Linear(3, 8), nn.GELU()).double()
    m, x = fg.fuse(copy.deepcopy(theirs)), X.clone().requires_grad_()
    for few in (x, x[:2], x[0], x[None]):
        close(m(few), theirs(few))
        assert m(few).grad_fn.name() == "LinearActBackward"
    assert again == [True] * 8


def test_wide_layers_are_kept(again, monkeypatch):
    monkeypatch.setattr(routing, "CHAIN_LARGEST", 0)
    theirs = nn.Sequential(nn.Linear(3, 600), nn.Tanh(), nn.Linear(600, 2)).double()
    m = fg.fuse(copy.deepcopy(theirs))
    close(m(X), theirs(X))
    assert m(X).grad_fn.name() == "LinearBackward" and again == [True, True]


def hook(m):
    m.register_forward_hook(lambda m, args, y: 2 * y)


HAND_CHANGES = {
    "slope": lambda m: setattr(m.act, "negative_slope", 0.7),
    "hook of the layer": lambda m: hook(m.fc),
    "hook of the activation": lambda m: hook(m.act),
    "hook of the other layer": lambda m: hook(m.up),
    "another layer": lambda m: setattr(m, "fc", nn.Linear(3, 8).double()),
    "another activation": lambda m: setattr(m, "act", nn.ELU()),
    "other layers of a gate": lambda m: setattr(m, "up", nn.Linear(8, 4).double()),
    "forward": lambda m: setattr(m.fc, "forward", lambda x: 3 * nn.functional.linear(x, m.fc.weight)),
    "no bias": lambda m: setattr(m.up, "bias", None),
    "a parametrization": lambda m: nn.utils.parametrize.register_parametrization(m.gate, "weight", Doubled()),
    "parameters in another dictionary": lambda m: setattr(
        m.fc, "_parameters", {k: nn.Parameter(p.detach() * 2) for k, p in m.fc._parameters.items()}
    ),
    "float32": lambda m: m.float(),
}


class Doubled(nn.Module):
    def forward(self, w):
        return 2 * w


@pytest.mark.parametrize("change", HAND_CHANGES)
def test_changes_of_calls_are_obeyed(change):
    results = []
    for m in (hand_written(), fg.fuse(hand_written())):
        m(X)
        m(X)
        torch.manual_seed(3)
        HAND_CHANGES[change](m)
        results.append([m(X.to(next(m.parameters()).dtype)) for _ in range(2)])
    close(*results)


def test_a_function_of_torch_that_is_replaced(monkeypatch):
    m = fg.fuse(hand_written())
    m(X)
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "silu", torch.sin)
        close(m(X), hand_written()(X))
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "linear", lambda x, w, b: x @ w.T)
        close(m(X), hand_written()(X))


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_layers_have_none_of_it(how):
    m = fg.fuse(hand_written())
    m(X)
    assert KEPT in vars(m.fc) and KEPT in vars(m.gate)
    if how in ("deepcopy", "pickle"):  # of a layer alone
        assert b"Kept" not in pickle.dumps(m.fc) and KEPT.encode() not in pickle.dumps(m.fc)
        for layer in (m.fc, m.gate):
            twin = COPIES[how](layer)
            assert not vars(twin).get(KEPT)
    twin, theirs = COPIES[how](m), hand_written()
    for copied in (twin, theirs):
        copied.fc = copy.deepcopy(copied.fc)
        copied.gate = copy.deepcopy(copied.gate)
        with torch.no_grad():
            copied.fc.weight.mul_(2)
            copied.gate.weight.mul_(2)
    for _ in range(2):
        close(twin(X), theirs(X))
        close(m(X), (theirs if how == "copy" else hand_written())(X))


def test_unfuse_takes_it_from_layers():
    m = fg.fuse(hand_written())
    m(X)
    fg.unfuse(m)
    for layer in (m.fc, m.act, m.gate, m.up):
        assert KEPT not in vars(layer)


def test_what_changes_on_each_call_is_not_kept_for_ever():
    m = fg.fuse(hand_written())
    for k in range(100):
        m.act.negative_slope = 0.01 * k
        m(X)
    assert vars(m.fc)[KEPT].tries == 100
