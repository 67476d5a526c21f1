"""GatedLinear and GatedMLP: as they are written in Llama, Phi-3, diffusers, GPT-OSS; with all that one may do to a
module."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import fusegrad as fg

from cases import DEVICE

close = torch.testing.assert_close


def fresh(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(3, 5, bias=False), nn.Linear(3, 5, bias=False)
        self.down_proj = nn.Linear(5, 3, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(3, 5), nn.Linear(3, 5)

    def forward(self, x):
        return F.silu(self.gate(x)) * self.up(x)


class Packed(nn.Linear):
    """One weight, whose rows are the gate's and the other layer's in some order."""

    def __init__(self, packing):
        super().__init__(3, 10)
        self.packing = packing

    def forward(self, x):
        both = super().forward(x)
        if self.packing == "interleaved":
            gate, up = both[..., ::2], both[..., 1::2]
        else:
            gate, up = both.chunk(2, -1) if self.packing == "gate_first" else reversed(both.chunk(2, -1))
        return F.silu(gate) * up


PAIRS = {
    "mlp": (lambda: fg.GatedMLP(3, 5), Llama),
    "two layers": (lambda: fg.GatedLinear(3, 5), Pair),
    **{
        packing: (lambda p=packing: fg.GatedLinear(3, 5, packing=p), lambda p=packing: Packed(p))
        for packing in ("gate_first", "gate_last", "interleaved")
    },
}


def pair(name):
    """A module, and the stock one whose state it has."""
    torch.manual_seed(0)
    mine, theirs = (make().to(DEVICE) for make in PAIRS[name])
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def same_gradients(mine, theirs):
    for (name, p), (other, q) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        close(p.grad, q.grad)


@pytest.mark.parametrize("name", PAIRS)
def test_values_gradients_and_copies(name):
    mine, theirs = pair(name)
    x = fresh(7, 3)
    close(mine(x), theirs(x))
    for m in (mine, theirs):
        m(x).square().sum().backward()
    same_gradients(mine, theirs)
    assert [*mine.state_dict()] == [*theirs.state_dict()]
    for other in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        close(other(x), theirs(x))
    close(torch.compile(mine, backend="aot_eager", fullgraph=True)(x), theirs(x))
    close(torch.export.export(mine, (x,)).module()(x), theirs(x))
    assert "act='silu'" in repr(mine)


@pytest.mark.parametrize("name", PAIRS)
def test_numbers_are_drawn_as_by_torch(name):
    torch.manual_seed(1)
    mine = PAIRS[name][0]()
    torch.manual_seed(1)
    theirs = PAIRS[name][1]()
    close(list(mine.parameters()), list(theirs.parameters()), rtol=1e-6, atol=0)


CHANGES = {
    "a hook": lambda m, name: getattr(m, name).register_forward_hook(lambda m, args, y: 2 * y),
    "a hook before": lambda m, name: getattr(m, name).register_forward_pre_hook(lambda m, args: (args[0] + 1,)),
    "a parametrization": lambda m, name: parametrizations.weight_norm(getattr(m, name)),
    "another layer": lambda m, name: setattr(m, name, nn.Sequential(getattr(m, name), nn.Tanh())),
    "no bias": lambda m, name: setattr(getattr(m, name), "bias", None),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layer", ("gate_proj", "up_proj", "down_proj"))
def test_what_is_done_to_a_layer_is_obeyed(change, layer):
    mine, theirs = pair("mlp")
    for m in (mine, theirs):
        CHANGES[change](m, layer)
    x = fresh(7, 3)
    close(mine(x), theirs(x))
    for m in (mine, theirs):
        m(x).square().sum().backward()
    same_gradients(mine, theirs)


def test_another_forward_of_a_layer_is_obeyed():
    mine, theirs = pair("two layers")
    for m in (mine, theirs):
        m.gate.forward = lambda x: torch.sin(x).sum(-1, keepdim=True)
    close(mine(fresh(7, 3)), theirs(fresh(7, 3)))


def test_layers_that_do_not_fit_fail_as_stock():
    mine, theirs = pair("two layers")
    for m in (mine, theirs):
        m.up.double()
        with pytest.raises(RuntimeError):
            m(fresh(7, 3))


@pytest.mark.parametrize("act", ("gelu", "relu", "sigmoid", None))
def test_activations(act):
    stock = {"gelu": F.gelu, "relu": F.relu, "sigmoid": torch.sigmoid, None: lambda z: z}[act]
    layer, x = fg.GatedLinear(3, 5, act=act).to(DEVICE), fresh(7, 3)
    close(layer(x), stock(layer.gate(x)) * layer.up(x))
    layer = fg.GatedLinear(3, 5, act="leaky_relu", param=0.3).to(DEVICE)
    close(layer(x), F.leaky_relu(layer.gate(x), 0.3) * layer.up(x))


@pytest.mark.parametrize("name", PAIRS)
def test_a_pickle_says_which_activation_it_lacks(name):
    mine = pair(name)[0]
    mine._act = "unheard_of"
    with pytest.raises(ValueError, match=f"{type(mine).__name__}: unknown act 'unheard_of'"):
        pickle.loads(pickle.dumps(mine))


def test_fuse_and_explain():
    model = nn.Sequential(fg.GatedMLP(3, 5, act="leaky_relu", param=0.3), fg.GatedLinear(3, 4), nn.Linear(4, 2))
    x = fresh(7, 3).cpu()
    expected = model(x)
    for _ in range(2):
        rows = fg.explain(model)
        assert [r.fused_with for r in rows] == ["leaky_relu, 0.3 (its GatedMLP)"] * 2 + [""] + [
            "silu (its GatedLinear)"
        ] * 2 + [""]
        assert rows[2].why == "the last of its GatedMLP"
        close(fg.fuse(model)(x), expected)
    assert type(fg.unfuse(model)[0]) is fg.GatedMLP
    model[0].up_proj.register_forward_hook(lambda *args: None)
    assert [r.why for r in fg.explain(model)[:2]] == ["has hooks", "has hooks"]


@pytest.mark.parametrize(
    "make, error, says",
    (
        (lambda: fg.GatedMLP(3, 5, act="siluu"), ValueError, "GatedMLP: unknown act 'siluu'"),
        (lambda: fg.GatedLinear(3, 5, act="tanh", param=1.0), ValueError, "'tanh' takes no param"),
        (lambda: fg.GatedLinear(3, 5, packing="first"), ValueError, "GatedLinear: packing must be one of"),
        (lambda: fg.GatedMLP(3, 5)(torch.ones(2, 4)), ValueError, r"has shape \(5, 3\), x has shape \(2, 4\)"),
        (
            lambda: fg.GatedLinear(3, 5, packing="gate_first")(torch.ones(2, 4)),
            ValueError,
            r"gated_packed: w has shape \(10, 3\), x has shape \(2, 4\)",
        ),
        (lambda: fg.GatedMLP(3, 5, 4, "cpu"), TypeError, "GatedMLP: act='cpu'.*give device and dtype by name"),
    ),
)
def test_refuses(make, error, says):
    with pytest.raises(error, match=says):
        make()
