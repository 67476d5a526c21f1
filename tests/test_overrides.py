"""What others put in the place of torch's functions is obeyed: subclasses, modes, replaced functions, autocast."""

import copy

import nested
import pytest
import torch
import torch.nn.functional as F
from test_modes import LAYERS, close
from torch import nn
from torch.autograd import grad
from torch.overrides import TorchFunctionMode

import fusegrad as fg
from fusegrad import routing

from cases import DEVICE, leaves


@pytest.mark.parametrize("device", ("xpu", "mps", "mtia"))
@pytest.mark.filterwarnings("ignore:User provided device_type")
def test_autocast_of_other_devices(device):
    """The dtypes are stock's, shown by fake tensors as there is no such device here."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    dtypes = {"tanh": torch.tanh, "softplus": F.softplus, "exp": torch.exp, "square": torch.square}
    with FakeTensorMode(), torch.autocast(device, torch.bfloat16):
        x, w = torch.empty(5, 3, device=device), torch.empty(4, 3, device=device)
        for name, stock in dtypes.items():
            expected = stock(F.linear(x, w)).dtype
            ours = fg.linear_act(x, w, act=name), fg.act(fg.linear(x, w), name)
            assert [y.dtype for y in ours] == [expected] * 2


def test_autocast_where_saved_tensor_hooks_are_forbidden():
    x, w, b = leaves(torch.float32)

    def run(layer):
        with torch.autograd.graph.disable_saved_tensors_hooks("not here"), torch.autocast(DEVICE, torch.bfloat16):
            y = layer(x, w, b)
        return y, grad(y.float().sum(), (x, w, b))

    close(run(LAYERS["linear_act silu"][0]), run(LAYERS["linear_act silu"][1]), rtol=2e-2, atol=2e-2)


# --- what gives torch's functions another meaning is obeyed, whatever the size ------------------------------------


@pytest.fixture(params=(-1, 2**30), ids=("by the ops", "small"))
def any_size(request, monkeypatch):
    for name in routing.LIMITS:
        monkeypatch.setattr(routing, name, request.param)


class Tagged(torch.Tensor):
    """A tensor with a label that its functions pass on, as the tensors of many libraries have."""

    label = ""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        y = super().__torch_function__(func, types, args, kwargs)
        labels = [t.label for t in torch.utils._pytree.tree_leaves(args) if isinstance(t, Tagged) and t.label]
        if isinstance(y, Tagged) and labels:
            y.label = f"{func.__name__} of {labels[0]}"
        return y


def tagged(t):
    t = t.detach().as_subclass(Tagged)
    t.label = "x"
    return t.requires_grad_()


def models():
    """Each way of calling a layer and its activation: ours, and as it is written."""
    _, w, b = (t.detach() for t in leaves())
    stock = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 3)).to(DEVICE, torch.float64)
    fused = fg.fuse(copy.deepcopy(stock))
    return {
        "linear": (lambda x: fg.linear(x, w, b), lambda x: F.linear(x, w, b)),
        "linear_act": (lambda x: fg.linear_act(x, w, b, act="silu"), lambda x: F.silu(F.linear(x, w, b))),
        "mlp": (lambda x: fg.mlp(x, w, b, w.mT, act="silu"), lambda x: F.linear(F.silu(F.linear(x, w, b)), w.mT)),
        "gated": (
            lambda x: fg.gated(x, w, w, b, act="silu"),
            lambda x: F.silu(F.linear(x, w, b)) * F.linear(x, w),
        ),
        "act": (lambda x: fg.act(x, "silu"), F.silu),
        "mm": (lambda x: fg.mm(x, w, trans_b=True), lambda x: torch.mm(x, w.mT)),
        "mul_constant": (lambda x: fg.mul_constant(x, 2.0), lambda x: x * 2.0),
        "a fused model": (fused, stock),
        "an activation module": (fused[1], stock[1]),
    }


@pytest.mark.parametrize("name", models())
def test_a_tensor_subclass_is_obeyed(name, any_size):
    ours, stock = models()[name]
    y, expected = ours(tagged(leaves()[0])), stock(tagged(leaves()[0]))
    assert type(y) is Tagged and y.label == expected.label != ""
    close(y, expected)


CHANGES = {
    "a hook": lambda m, seen: m[0].register_forward_hook(lambda *_: seen.append("hook")),
    "a hook of an activation": lambda m, seen: m[1].register_forward_pre_hook(lambda *_: seen.append("hook")),
    "another layer": lambda m, seen: m.__setitem__(2, nn.Linear(4, 3, dtype=torch.float64).to(DEVICE)),
    "another weight": lambda m, seen: m[0].weight.data.fill_(0.1),
    "another parameter": lambda m, seen: setattr(m[2], "weight", nn.Parameter(m[2].weight.detach() * 2)),
    "another forward": lambda m, seen: setattr(m[1], "forward", torch.tanh),
    "one more": lambda m, seen: m.append(nn.Tanh()),
    "none": lambda m, seen: None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_in_a_model_is_obeyed_with_a_tensor_subclass(change):
    fused, stock = models()["a fused model"]
    x = tagged(leaves()[0])
    for _ in range(3):
        fused(x)
    seen: list[list] = [[], []]
    for m, saw in zip((fused, stock), seen, strict=True):
        torch.manual_seed(0)
        CHANGES[change](m, saw)
    for _ in range(3):
        y, expected = fused(x), stock(x)
        assert y.label == expected.label
        assert torch.equal(y.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", models())
def test_a_torch_function_mode_is_obeyed(name, any_size):
    class Doubles(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            y = func(*args, **(kwargs or {}))
            return y * 2 if func in (F.linear, F.silu, torch.mm, torch.Tensor.mul) else y

    ours, stock = models()[name]
    x = leaves()[0]
    with Doubles():
        close(ours(x), stock(x))


@pytest.mark.parametrize("function", ("linear", "silu"))
@pytest.mark.parametrize("name", ("a fused model", "an activation module"))
def test_a_replaced_function_is_obeyed(name, function, any_size, monkeypatch):
    ours, stock = models()[name]
    before = getattr(F, function)
    monkeypatch.setattr(F, function, lambda *args, **kwargs: before(*args, **kwargs) * 2)
    x = leaves()[0]
    close(ours(x), stock(x))


def test_a_replaced_glu_is_obeyed(monkeypatch):
    stock = nn.Sequential(nn.Linear(4, 8), nn.GLU()).to(DEVICE)
    ours, x = fg.fuse(copy.deepcopy(stock)), torch.randn(3, 4, device=DEVICE)
    before = F.glu
    monkeypatch.setattr(F, "glu", lambda *args: before(*args) * 2)
    close(ours(x), stock(x))


@pytest.mark.filterwarnings("ignore:laplacian")
@pytest.mark.parametrize("name", ("linear", "silu"))
def test_a_replaced_function_is_applied_once_by_derivative_operators(name, monkeypatch):
    """In a model that is run with streams: what the rules compute by name would be replaced too."""
    original = getattr(F, name)

    class Gates(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 8)

        def forward(self, x):
            h = F.silu(self.a(x)).clamp(-9, 9)
            return self.b(h) * h

    net, x = Gates().double(), torch.rand(5, 3, dtype=torch.double)
    before = fg.laplacian(net, x)
    monkeypatch.setattr(F, name, lambda *args, **kwargs: 2 * original(*args, **kwargs))
    y, jacobian, hessian = nested.hessians(net, x.requires_grad_())
    assert not torch.allclose(before.value, y)
    for mine, true in zip(fg.laplacian(net, x), (y, jacobian, hessian.diagonal(dim1=-2, dim2=-1).sum(-1)), strict=True):
        torch.testing.assert_close(mine, true)
