"""What is kept of a layer and of what is called after it, in whatever way that is written: it is found once, and what
changes is obeyed.
"""

import copy
import gc
import pickle
import sys
import types
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fusegrad as fg
from fusegrad import backends, routing
from fusegrad.fusion import kept

pytestmark = pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
close = torch.testing.assert_close
X = torch.linspace(-1, 1, 36, dtype=torch.double).reshape(12, 3)


def hook(m):
    m.register_forward_hook(lambda m, args, y: 2 * y)


class Plain(nn.Module):
    """A library's own linear layer."""

    def __init__(self, k, n):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(n, k)), nn.Parameter(torch.randn(n))

    def forward(self, x):
        """x w^T + b."""
        return F.linear(x, self.weight, self.bias)


class Scaled(nn.Module):
    """An activation known by its formula."""

    def __init__(self):
        super().__init__()
        self.beta = 1.702

    def forward(self, z):
        return z * torch.sigmoid(self.beta * z)


SLOPE = 1.0


def by_its_formula(z):
    return z * torch.sigmoid(SLOPE * z)


class Ways(nn.Module):
    def __init__(self, layer=nn.Linear, act=None):
        super().__init__()
        self.fc, self.last, self.act = layer(3, 8), layer(8, 2), act or nn.LeakyReLU(0.2)
        self.omega, self.norm = 3.0, nn.Identity()
        self.double()


def in_statements(self, x):
    x = self.fc(x)
    if self.act is not None:
        x = self.act(x)
    return self.last(x)


def with_arguments(self, x):
    x = self.fc(x)
    x = F.leaky_relu(x, 0.3) if self.omega > 0 else F.leaky_relu(x, negative_slope=0.1)
    return self.last(x)


def as_a_method(self, x):
    return self.last(self.fc(x).sigmoid())


def scaled(self, x):
    x = self.fc(x)
    x = torch.sin(self.omega * x)
    return self.last(x)


def through_an_identity(self, x):
    x = self.fc(x)
    x = self.norm(x)
    x = self.act(x)
    return self.last(x)


WAYS = (in_statements, with_arguments, as_a_method, scaled, through_an_identity)
OF = {
    "torch's": {},
    "a library's layer": {"layer": Plain},
    "a formula": {"act": by_its_formula},
    "a formula of a module": {"act": Scaled},
}


def written(way, of):
    torch.manual_seed(1)
    given = {k: v() if v is Scaled else v for k, v in OF[of].items()}
    return type("Written", (Ways,), {"forward": way, "__module__": __name__})(**given)


@pytest.mark.parametrize("of", OF)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_calls_are_found_once_however_they_are_written(way, of, by_cpp):
    theirs, m = written(way, of), fg.fuse(written(way, of))
    for k in range(3):
        results = [[y := model(X), *torch.autograd.grad(y.sin().sum(), [*model.parameters()])] for model in (m, theirs)]
        close(*results)
        # the last layer is kept at once, but where it could have been an activation and is of another class
        alone = 0 if way in (in_statements, through_an_identity) and of == "a library's layer" else k + 1
        assert by_cpp == ["kept_layer"] * (k + alone)


def _linear(self, x):
    return 3 * F.linear(x, self.weight, self.bias)


def _set_act(m, act):
    m._modules.pop("act", None)
    m.act = act


class Slotted:
    """Has no attributes of its own, and no weak references."""

    __slots__ = ()

    def __call__(self, x):
        return x.square()


def _set_last(m, f):
    del m.last
    m.last = f


def _set_bias(layer):
    del layer.bias
    layer.register_buffer("bias", torch.ones(8).double())


def _other(x, w, b):
    return x @ w.T


OTHER_F = types.SimpleNamespace(linear=_other, leaky_relu=F.elu)
WAYS_CHANGES = {
    "omega": lambda m, patch: setattr(m, "omega", -0.5),
    "another act": lambda m, patch: _set_act(m, torch.sin),
    "no act": lambda m, patch: _set_act(m, None),
    "text": lambda m, patch: _set_act(m, "sigmoid"),
    "beta": lambda m, patch: setattr(m.act, "beta", 0.3),
    "beta of zero": lambda m, patch: setattr(m.act, "beta", 0),
    "a global": lambda m, patch: patch.setattr(sys.modules[__name__], "SLOPE", 0.3),
    "a function of torch": lambda m, patch: patch.setattr(torch, "sigmoid", torch.tanh),
    "a method of torch": lambda m, patch: patch.setattr(torch.Tensor, "sigmoid", torch.Tensor.tanh),
    "F": lambda m, patch: patch.setattr(sys.modules[__name__], "F", OTHER_F),
    "code": lambda m, patch: patch.setattr(by_its_formula, "__code__", (lambda z: z * z).__code__),
    "forward of a class": lambda m, patch: patch.setattr(Plain, "forward", _linear),
    "a weight of a class": lambda m, patch: patch.setattr(Plain, "bias", property(lambda self: None), raising=False),
    "forward of an act": lambda m, patch: patch.setattr(Scaled, "forward", lambda self, z: z.square()),
    "hook": lambda m, patch: hook(m.fc),
    "hook of the identity": lambda m, patch: hook(m.norm),
    "hook of the act": lambda m, patch: hook(m.act) if isinstance(m.act, nn.Module) else None,
    "another identity": lambda m, patch: setattr(m, "norm", nn.LayerNorm(8).double()),
    "frozen": lambda m, patch: m.requires_grad_(False),
    "float32": lambda m, patch: m.float(),
    "a buffer for a bias": lambda m, patch: _set_bias(m.fc),
    "a hook of the last": lambda m, patch: hook(m.last),
    "a pre-hook of the last": lambda m, patch: m.last.register_forward_pre_hook(lambda m, args: (args[0].neg(),)),
    "another last": lambda m, patch: setattr(m, "last", nn.Sequential(nn.Tanh(), m.last)),
    "a forward of the last": lambda m, patch: setattr(m.last, "forward", torch.tanh),
    "another weight of the last": lambda m, patch: setattr(m.last, "weight", nn.Parameter(torch.ones(2, 8).double())),
    "no bias of the last": lambda m, patch: setattr(m.last, "bias", None),
    "a function for the last": lambda m, patch: _set_last(m, torch.tanh),
    "an object for the last": lambda m, patch: _set_last(m, Slotted()),
}


@pytest.mark.parametrize("change", WAYS_CHANGES)
@pytest.mark.parametrize("of", OF)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_changes_are_obeyed_however_it_is_written(way, of, change):
    results = []
    for model in (written(way, of), fg.fuse(written(way, of))):
        values = []
        model(X), model(X)
        with pytest.MonkeyPatch.context() as patch:
            torch.manual_seed(3)
            WAYS_CHANGES[change](model, patch)
            for _ in range(2):
                try:
                    values.append(model(X.to(next(model.parameters()).dtype)))
                except (TypeError, AttributeError) as error:
                    values.append(type(error).__name__)
        results.append(values)
    for mine, stock in zip(*results, strict=True):
        assert mine == stock if isinstance(stock, str) else close(mine, stock) is None


def test_a_layer_of_another_class_is_freed_and_pickled_as_it_is():
    m = fg.fuse(written(in_statements, "a library's layer"))
    m(X), m(X)
    assert kept.of_other(m.fc) and b"fusegrad." not in pickle.dumps(m.fc)
    assert not kept.of_other(copy.deepcopy(m).fc)
    refs, count = [weakref.ref(m), weakref.ref(m.fc)], len(kept._OF_OTHERS)
    del m
    gc.collect()
    assert [ref() for ref in refs] == [None, None] and len(kept._OF_OTHERS) < count


@pytest.mark.parametrize("act", (torch.tanh, by_its_formula, nn.Tanh()), ids=("function", "formula", "module"))
def test_turns_of_a_loop_are_kept(act, again):
    def make():
        torch.manual_seed(1)
        m = Ways(act=act)
        m.layers = nn.ModuleList([m.fc, nn.Linear(8, 8).double(), m.last])
        m.__class__ = type("Over", (Ways,), {"forward": over_layers, "__module__": __name__})
        return m

    m, theirs = fg.fuse(make()), make()
    for _ in range(3):
        close(m(X), theirs(X))
    assert again == [True] * 3
    for of in (m, theirs):
        of.layers[1] = nn.Identity()
    close(m(X), theirs(X))
    for of in (m, theirs):
        of.layers[0].weight.data.mul_(2)
        of.layers[2].register_forward_hook(lambda m, args, y: 2 * y)
    close(m(X), theirs(X))


def over_layers(self, x):
    for layer in self.layers:
        x = self.act(layer(x))
    return x


def normed(self, x):
    x = self.fc(x)
    x = self.norm(x)
    return self.last(x)


@pytest.mark.parametrize("of", ("torch's", "a library's layer"))
def test_what_is_put_off_in_vain_is_called_where_it_stands(of):
    def make():
        m = written(normed, of)
        m.norm = nn.Tanh()
        m = fg.fuse(m)
        m.norm = nn.LayerNorm(8).double()
        return m

    m = make()
    for _ in range(20):
        y = m(X)
    close(y, fg.unfuse(make())(X))
    assert kept.is_vain(m.fc)
    m.norm = nn.Tanh()
    close(m(X), fg.unfuse(m)(X))
    fg.fuse(m)
    for _ in range(600):  # it is tried again, and kept
        m(X)
    assert kept.of(m.fc)


def per_sample(model):
    """The gradients of each row, by torch.func."""

    def loss(p, x):
        return torch.func.functional_call(model, p, (x,)).square().sum()

    return torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(model.named_parameters()), X)


def second(model):
    return torch.func.vmap(torch.func.hessian(lambda x: model(x).sum()))(X)


def forward_mode(model):
    return torch.func.jvp(model, (X,), (X.cos(),))


TORCHS = {
    "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "mish": nn.Mish,
    "gelu_tanh": lambda: nn.GELU("tanh"), "softplus": lambda: nn.Softplus(3.0), "elu": lambda: nn.ELU(0.7),
    "leaky_relu": lambda: nn.LeakyReLU(0.2), "hardswish": nn.Hardswish, "relu6": nn.ReLU6,
}  # fmt: skip


@pytest.mark.parametrize("call", (per_sample, second, forward_mode))
@pytest.mark.parametrize("act", TORCHS)
def test_small_layers_under_torch_func_are_one_call_of_torchs_functions(act, call, by_cpp, monkeypatch):
    monkeypatch.setattr(routing, "SMALL_IN_TRANSFORMS", 2**18)

    def make():
        torch.manual_seed(1)
        return type("Written", (Ways,), {"forward": in_statements, "__module__": __name__})(act=TORCHS[act]())

    m, theirs = fg.fuse(make()), make()
    for _ in range(2):
        close(call(m), call(theirs))
    assert by_cpp and set(by_cpp) == {"kept_layer"}
    for model in (m, theirs):
        hook(model.fc)
        model.last.bias = None
    close(call(m), call(theirs))
    by_cpp.clear()
    for model in (m, theirs):
        model.fc, model.act = nn.Linear(3, 8).double().requires_grad_(False), nn.Softsign()
        nn.init.ones_(model.fc.weight), nn.init.ones_(model.fc.bias)
    close(call(m), call(theirs))
