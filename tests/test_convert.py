"""fuse keeps what a model is and computes; unfuse is its exact inverse; what is not proved safe is left alone."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import fusegrad as fg
from fusegrad.activations import REGISTRY

from cases import DEFAULTS, DEVICE, Case
from models import MODELS, Mlp, count_fused, fused_with, inputs, make, nested, snapshot


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_fuse_computes_the_same_and_unfuse_restores(name, dtype):
    model, x = make(name, dtype), inputs(dtype)
    before, keys, parameters = snapshot(model)
    y, truth = model(x), copy.deepcopy(model).double()(x.double())
    error = lambda y: (y.double() - truth).abs().max()
    allowed = 2 * error(y) + 8 * torch.finfo(dtype).eps
    assert fg.fuse(model) is model
    _, fused_keys, fused_parameters = snapshot(model)
    assert (fused_keys, fused_parameters) == (keys, parameters)
    assert all(isinstance(m, before[n][1]) for n, m in model.named_modules())
    assert error(model(x)) <= allowed
    fg.fuse(model)  # twice is once
    assert error(model(x)) <= allowed
    assert fg.unfuse(model) is model
    after, keys_after, parameters_after = snapshot(model)
    assert after == before and (keys_after, parameters_after) == (keys, parameters)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_same(name):
    x = inputs(torch.float64)
    grads = []
    for change in (lambda m: m, fg.fuse):
        model = change(make(name, torch.float64))
        leaf = x.clone().requires_grad_()
        model(leaf).square().sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters()} | {"x": leaf.grad})
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", MODELS)
def test_copies_pickles_and_compiles(name):
    model, x = make(name), inputs()
    y = model(x)
    fg.fuse(model)
    if name != "parametrized":  # torch refuses to pickle these
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        for again in (torch.load(buffer, weights_only=False), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(again(x), y)
            assert str(fg.explain(again)) == str(fg.explain(model))
            torch.testing.assert_close(fg.unfuse(again)(x), y)
    clone = copy.deepcopy(model)
    assert str(fg.explain(clone)) == str(fg.explain(model))
    with torch.no_grad():
        for p in clone.parameters():
            p.zero_()
    torch.testing.assert_close(model(x), y)  # the clone owns its own
    if name != "an activation":
        assert not torch.equal(clone(x), y)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=name != "hooked")
    torch.testing.assert_close(compiled(x), y)


def test_subclasses_and_foreign_weights_are_left_alone():
    class Mine(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.Sequential(Mine(4, 4), nn.ReLU(), nn.Linear(4, 4).to(torch.float8_e4m3fn), nn.ReLU())
    fg.fuse(model)
    rows = fg.explain(model)
    assert [row.why for row in rows] == ["a subclass, Mine", "its weight is torch.float8_e4m3fn"]
    assert type(model[0]) is Mine and type(model[2]) is nn.Linear


def test_inner_layers_called_directly_are_unchanged():
    """A fused neighbour does not change what the Linear alone computes."""
    model, x = make("nested"), inputs()
    z = model[0][0](x)
    fg.fuse(model)
    torch.testing.assert_close(model[0][0](x), z)


def test_filter():
    model = fg.fuse(make("nested"), filter_fn=lambda m, path: not path.startswith("0.2"))
    assert type(model[2]) is fg.Linear and type(model[0][2][0]) is nn.Linear
    assert fused_with(model) == {"0.0": "silu (0.1)", "0.2.0": "", "2": "tanh (3)"}


class Shifted(nn.Module):
    def forward(self, x):
        return F.softplus(x) - 0.5


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


@pytest.mark.parametrize("act", (Shifted, QuickGelu))
def test_filter_is_asked_about_activations_of_ones_own(act):
    model = nn.Sequential(nn.Linear(4, 4), act()).to(DEVICE)
    fg.fuse(model, filter_fn=lambda m, path: not isinstance(m, act))
    assert fg.explain(model)[0].why == f"filter_fn left {act.__name__} after it alone"
    assert count_fused(model, inputs()) == 0 and count_fused(fg.fuse(model), inputs()) == 1


def test_filter_is_asked_about_linears_and_activations_and_obeyed():
    asked = []
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 4), nn.SiLU()).to(DEVICE)
    fg.fuse(model, filter_fn=lambda m, path: asked.append(path) or not isinstance(m, nn.Tanh))
    assert asked == ["0", "1", "3", "4"]
    assert [row.why for row in fg.explain(copy.deepcopy(model))] == ["filter_fn left Tanh after it alone", ""]
    assert count_fused(model, inputs()) == 1


def test_meta_device():
    with torch.device("meta"):
        model = nested()
    fg.fuse(model)
    assert model(torch.empty(3, 4, device="meta")).shape == (3, 2)
    fg.unfuse(model)
    assert all(p.is_meta for p in model.parameters())


def test_user_built_layers_survive_unfuse():
    model = nn.Sequential(fg.Linear(4, 4, act="relu"), fg.Act("tanh"), nn.Linear(4, 4))
    fg.unfuse(fg.fuse(model))
    assert [type(m) for m in model] == [fg.Linear, fg.Act, nn.Linear]
    assert fused_with(model)["0"] == "relu (its own)"


STOCK_MODULES = [c for c in DEFAULTS if REGISTRY[c.name].module is not None]


@pytest.mark.parametrize("case", STOCK_MODULES, ids=str)
def test_every_stock_activation_module_is_recognised(case):
    a = REGISTRY[case.name]
    module = a.module(**{k: v for k, v in a.options.items() if k == "approximate"})
    model = nn.Sequential(nn.Linear(4, 4), module).to(DEVICE)
    y = model(inputs())
    assert fused_with(fg.fuse(model)) == {"0": f"{case.name} (1)"}
    torch.testing.assert_close(model(inputs()), y)


@pytest.mark.parametrize("module", (nn.LeakyReLU(0.3), nn.ELU(0.5), nn.CELU(2.0), nn.Softplus(100.0)), ids=str)
def test_parameters_are_taken_over(module):
    model = nn.Sequential(nn.Linear(4, 4), module).to(DEVICE)
    y = model(inputs())
    fg.fuse(model)
    assert count_fused(model, inputs()) == 1
    torch.testing.assert_close(model(inputs()), y)


@pytest.mark.parametrize(
    "module", (nn.Softplus(threshold=5), nn.Hardtanh(-2, 2), nn.LeakyReLU(-0.5), nn.PReLU(), nn.RReLU()), ids=str
)
def test_other_activations_are_left_alone(module):
    model = nn.Sequential(nn.Linear(4, 4), module).to(DEVICE).eval()
    y = model(inputs())
    fg.fuse(model)
    assert count_fused(model, inputs()) == 0 and type(model[1]) is type(module)
    torch.testing.assert_close(model(inputs()), y)


def test_equal_layers_share_compiled_code():
    model = fg.fuse(nn.Sequential(Mlp(), Mlp(), Mlp()))
    assert type(model[0]) is type(model[1]) is type(model[2])
    assert issubclass(type(model[0]), Mlp) and type(model[0]).__name__ == "Mlp"


def test_functional_call_and_state_dict():
    model, x = fg.fuse(make("blocks")), inputs()
    stock = make("blocks")
    stock.load_state_dict(model.state_dict())
    torch.testing.assert_close(stock(x), model(x))
    new = {k: v * 0.5 for k, v in model.state_dict().items()}
    torch.testing.assert_close(functional_call(model, new, (x,)), functional_call(stock, new, (x,)))


def test_module_repr():
    assert repr(fg.Linear(2, 3, act="elu", param=0.5)).endswith("bias=True, act='elu', param=0.5)")
    assert repr(Case("elu", 0.5)) and repr(fg.Act("elu", 0.5)) == "Act('elu', param=0.5)"


@pytest.mark.parametrize("later", (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm))
def test_unfuse_a_layer_that_was_parametrized_since(later):
    model, x = fg.fuse(make("functional")), inputs()
    later(model.a)
    y = model.eval()(x)
    fg.unfuse(model)
    torch.testing.assert_close(model(x), y)
    nn.utils.parametrize.remove_parametrizations(model.a, "weight")
    assert type(model.a) is nn.Linear


def test_labels_on_modules_are_the_users():
    model, x = make("nested"), inputs()
    for name, m in model.named_modules():
        m.name, m.act, m.param = name, "softmax", -1.0
        m._act, m._param = "softmax", -1.0
    y = model(x)
    fg.fuse(model)
    torch.testing.assert_close(model(x), y)
    assert [(m.name, m.act, m.param) for m in model] == [(str(i), "softmax", -1.0) for i in range(4)]


@pytest.mark.parametrize("layout", ("complex64", "to_sparse_csr", "to_mkldnn"))
def test_what_no_op_takes_runs_as_in_torch(layout):
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), torch.randn(3, 4)
    if layout == "complex64":
        model, x = model.to(torch.complex64), x.to(torch.complex64)
        with torch.no_grad():
            y = model(x)
        fg.fuse(model)
    else:
        x = getattr(x, layout)()
        y = model[0](x)
        fg.fuse(model)
        model = model[0]
    torch.testing.assert_close(model(x).to_dense(), y.to_dense())


def test_a_model_that_changes_its_dtype_after_fuse():
    model, x = fg.fuse(nn.Sequential(nn.Linear(4, 4), nn.Tanh())).to(DEVICE, torch.complex64), inputs(torch.complex64)
    torch.testing.assert_close(model(x), fg.unfuse(model)(x))
