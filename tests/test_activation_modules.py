"""Every stock activation module becomes an Act of its name and does what it did; or stays, where that could not be."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.autograd import grad
from torch.masked import masked_tensor

import fusegrad as fg
from fusegrad import backends, routing
from fusegrad.activations import REGISTRY

from cases import DEFAULTS, DEVICE, DTYPES, STOCK, on_cpu
from models import inputs

NAMES = [c.name for c in DEFAULTS if REGISTRY[c.name].module is not None]
every = pytest.mark.parametrize("name", NAMES)


def make(name):
    """The stock module: by its defaults, but for the approximation of GELU."""
    return REGISTRY[name].module(**{k: v for k, v in REGISTRY[name].options.items() if k == "approximate"})


def derivatives(f, x):
    """The value, the gradient and what a loss on the gradient gives."""
    x = x.clone().requires_grad_()
    y = f(x)
    (first,) = grad(y.sin().sum(), x, create_graph=True)
    return y, first, grad(first.square().sum(), x)[0]


@every
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients_are_stocks(name, dtype):
    module, x = make(name), inputs(dtype)
    fused = fg.fuse(copy.deepcopy(module))
    assert isinstance(fused, fg.Act) and isinstance(fused, type(module))
    assert vars(fused).keys() == vars(module).keys() and repr(fused) == repr(module)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(fused(input=x), module(x), rtol=2 * eps, atol=eps)
    expected = derivatives(lambda z: STOCK[name](z, REGISTRY[name].default), x.double())
    low = dtype in (torch.bfloat16, torch.float16)
    for got, true in zip(derivatives(fused, x), expected, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), true, rtol=0.1 if low else 1e-5, atol=0.1 if low else 1e-5)


@every
def test_copies_pickles_and_unfuse(name):
    stock, x = nn.Sequential(nn.LayerNorm(4), make(name)).to(DEVICE), inputs()
    fused, y, attributes = fg.fuse(copy.deepcopy(stock)), stock(x), dict(vars(stock[1]))
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for again in (fused, loaded, pickle.loads(pickle.dumps(fused)), copy.deepcopy(fused), fg.fuse(fused)):
        assert type(again[1]) is type(fused[1]) and isinstance(again[1], fg.Act)
        torch.testing.assert_close(again(x), y)
        torch.testing.assert_close(type(again[1])()(x), type(stock[1])()(x))
    fg.unfuse(fused)
    assert type(fused[1]) is type(stock[1]) and vars(fused[1]) == attributes


@every
def test_compiles_once_and_exports(name):
    module, x = make(name), inputs()
    y, calls = module(x), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(fg.fuse(module), fullgraph=True, backend=calls)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), y)
    assert calls.frame_count == 1
    exported = torch.export.export(module, (x,)).graph_module.code
    torchs = {"relu": "aten.relu", "tanhshrink": "aten.tanh"}  # which is as good, or saves less
    assert torchs.get(name, "fusegrad.act") in exported


CHANGES = {
    "slope": (nn.LeakyReLU(), {"negative_slope": 0.9}),
    "slope that no op takes": (nn.LeakyReLU(), {"negative_slope": -0.5}),
    "slope as a tensor": (nn.LeakyReLU(), {"negative_slope": torch.tensor(0.5)}),
    "alpha": (nn.ELU(), {"alpha": 0.5}),
    "alpha of celu": (nn.CELU(0.5), {"alpha": 2.0}),
    "beta": (nn.Softplus(), {"beta": 30.0}),
    "threshold": (nn.Softplus(), {"threshold": 0.1}),
    "approximation": (nn.GELU(), {"approximate": "tanh"}),
    "bounds": (nn.Hardtanh(), {"min_val": -0.2, "max_val": 0.1}),
    "relu6 in place": (nn.ReLU6(), {"inplace": True}),
    "in place": (nn.SiLU(), {"inplace": True}),
    "forward": (nn.SiLU(), {"forward": torch.cos}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("compiled", (False, True), ids=("eager", "compiled"))
def test_live_attributes_are_obeyed(change, compiled):
    module, attributes = CHANGES[change]
    stock, fused = copy.deepcopy(module), fg.fuse(copy.deepcopy(module))
    assert isinstance(fused, fg.Act)
    torch._dynamo.reset()
    run = torch.compile(fused, backend="aot_eager") if compiled else fused
    torch.testing.assert_close(run(inputs()), stock(inputs()))
    for k, v in attributes.items():
        setattr(stock, k, v)
        setattr(fused, k, v)
    x, expected = inputs(), inputs()
    torch.testing.assert_close((run(x), x), (stock(expected), expected))


def test_a_slope_that_becomes_a_parameter():
    module, x = fg.fuse(nn.LeakyReLU()), inputs()
    module.negative_slope = nn.Parameter(torch.tensor(0.5), requires_grad=False)
    torch.testing.assert_close(module(x), nn.LeakyReLU(0.5)(x))


def test_what_is_left_alone():
    class Mine(nn.GELU):
        pass

    hooked, replaced = nn.GELU(), nn.GELU()
    hooked.register_forward_hook(lambda m, args, y: y * 2)
    replaced.forward = torch.cos
    kept = [Mine(), hooked, replaced, nn.Softplus(threshold=5), nn.LeakyReLU(-0.5), nn.PReLU(), nn.Identity()]
    model = nn.ModuleList([*kept, nn.GELU(), fg.Act("tanh")])
    fg.fuse(model)
    assert not any(isinstance(m, fg.Act) for m in kept) and isinstance(model[-2], fg.Act) and type(model[-1]) is fg.Act


def test_filter_is_obeyed_also_the_second_time():
    model = nn.Sequential(nn.LayerNorm(4), nn.GELU(), nn.Tanh())
    fg.fuse(fg.fuse(model), lambda m, path: not isinstance(m, nn.GELU))
    assert type(model[1]) is nn.GELU and isinstance(model[2], fg.Act)


def test_an_activation_that_several_share():
    act = nn.GELU()
    model, x = nn.Sequential(nn.Linear(4, 4), act, nn.LayerNorm(4), act).to(DEVICE), inputs()
    y = model(x)
    fg.fuse(model)
    assert model[1] is model[3] and isinstance(act, fg.Act)
    torch.testing.assert_close(model(x), y)


@pytest.mark.parametrize("kind", ("complex", "sparse", "nested", "masked", "integer", "mkldnn"))
def test_what_no_op_takes_runs_as_in_torch(kind):
    x = torch.randn(3, 4)
    x = {
        "complex": lambda: x.cfloat(),
        "sparse": lambda: x.to_sparse(),
        "nested": lambda: torch.nested.nested_tensor([x, x[:2]]),
        "masked": lambda: masked_tensor(x, x > 0),
        "integer": lambda: x.long(),
        "mkldnn": lambda: x.to_mkldnn(),
    }[kind]()
    stock, y = nn.Tanh()(x), fg.fuse(nn.Tanh())(x)
    assert type(y) is type(stock) and y.dtype == stock.dtype and y.layout == stock.layout
    if kind == "masked":
        y, stock = y.to_tensor(0), stock.to_tensor(0)
    elif kind == "nested":
        y, stock = y.to_padded_tensor(0), stock.to_padded_tensor(0)
    torch.testing.assert_close(y.to_dense(), stock.to_dense())


class Writes(nn.Module):
    """Writes in place to what an activation returns, or to what it was given."""

    def __init__(self, act, target):
        super().__init__()
        self.norm, self.act, self.target = nn.LayerNorm(4), act, target

    def forward(self, x):
        z = self.norm(x)
        y = self.act(z)
        if self.target == "input":
            z += 1
        else:
            y += 1
        return y


@every
@pytest.mark.parametrize("target", ("input", "output"))
def test_writing_in_place_works_as_in_torch(name, target):
    def gradient(fuse):
        x = inputs().requires_grad_()
        try:
            return grad(fuse(Writes(make(name), target).to(DEVICE))(x).square().sum(), x)[0]
        except RuntimeError:
            return None

    stock, fused = gradient(lambda m: m), gradient(fg.fuse)
    assert type(fg.fuse(Writes(make(name), target)).act) is not type(make(name))
    if stock is not None:
        torch.testing.assert_close(fused, stock)


def test_explain_is_about_linear_layers():
    assert list(fg.explain(fg.fuse(nn.Sequential(nn.LayerNorm(4), nn.Tanh())))) == []


@on_cpu
@pytest.mark.skipif(backends.node is None, reason="no C++ nodes")
@pytest.mark.parametrize("module, limit, most", ((nn.Tanh, "TINY_TENSOR", 8), (nn.SiLU, "SMALL_TENSOR_AS_FAST", 4)))
def test_what_torch_computes_as_fast_is_torchs_call(module, limit, most, monkeypatch):
    monkeypatch.setattr(routing, limit, most)
    m = fg.fuse(nn.Sequential(nn.Identity(), module()))[1]
    for count, node in ((most, f"{module.__name__.capitalize()}Backward0"), (most + 1, "CppFunction")):
        x = torch.linspace(-2, 2, count, requires_grad=True)
        torch.testing.assert_close(m(x), module()(x))
        assert type(m(x).grad_fn).__name__ == node
