"""An activation of one's own: right in every order and mode, computed by kernels of its own, known by its name."""

import copy
import dataclasses
import functools
import math
import pickle
import shutil

import pytest
import test_transforms  # noqa: F401  (fills them)
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import grad

import fusegrad as fg
from fusegrad import backends, own
from fusegrad.activations import REGISTRY
from fusegrad.ops import OPS

from cases import leaves, on_cpu, plain
from transforms import COMPILED, TRANSFORMS

pytestmark = [
    on_cpu,
    pytest.mark.skipif(backends.extension is None, reason="no C++ extension"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
]

FORMULA = "lambda z, a: z + fg.sin(a * z) / a"
define = lambda name="ripple", **options: fg.activation(name, eval(FORMULA), param="a", default=1.0, **options)


def ripple(z, a=1.0):
    return z + torch.sin(a * z) / a


class Ripple(nn.Module):
    def __init__(self, a=1.0):
        super().__init__()
        self.a = a

    def forward(self, z):
        return ripple(z, self.a)


@pytest.fixture(scope="module", autouse=True)
def defined(tmp_path_factory):
    """Ripple, in an empty cache; what this file defines is unknown again after it."""
    before = dict(REGISTRY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        assert define(stands_for=(Ripple, ripple)) == "ripple"
        yield
    for name in REGISTRY.keys() - before.keys():
        del REGISTRY[name], own._DEFINED[name]


@pytest.fixture
def no_reference(monkeypatch):
    """Whoever asks for the formulas in torch fails."""

    def fail(*args):
        raise AssertionError("the reference serves")

    formulas = dict.fromkeys(("value", "first", "second", "third"), fail)
    monkeypatch.setitem(REGISTRY, "ripple", dataclasses.replace(REGISTRY["ripple"], **formulas))


LINEAR_ACT = lambda x, w, b, a: fg.linear_act(x, w, b, act="ripple", param=a)
WAYS = {
    "act": (lambda x, w, b, a: fg.act(x, "ripple", a), lambda x, w, b, a: ripple(x, a)),
    "linear_act": (LINEAR_ACT, lambda x, w, b, a: ripple(F.linear(x, w, b), a)),
    "mlp": (
        lambda x, w, b, a: fg.mlp(x, w, b, w.mT, act="ripple", param=a),
        lambda x, w, b, a: F.linear(ripple(F.linear(x, w, b), a), w.mT),
    ),
    "gated": (
        lambda x, w, b, a: fg.gated(x, w, w.sin(), b, act="ripple", param=a),
        lambda x, w, b, a: ripple(F.linear(x, w, b), a) * F.linear(x, w.sin()),
    ),
}


@pytest.mark.parametrize("a", (1.0, 0.3, 20.0))
@pytest.mark.parametrize("way", WAYS)
def test_every_order(way, a):
    """Values and derivatives of order 1 to 5, as autograd has those of the formula in float64."""

    def derivatives(fn):
        args = leaves()
        made = [fn(*args, a)]
        for order in range(5):
            wanted = args if order < 2 else args[:1]
            weighed = torch.linspace(0.5, 1, made[-1].numel(), dtype=torch.float64) @ made[-1].flatten()
            gradients = grad(weighed, wanted, create_graph=True, materialize_grads=True)
            made.append(torch.cat([g.flatten() for g in gradients]))
        return made

    ours, theirs = WAYS[way]
    for mine, right in zip(derivatives(ours), derivatives(theirs), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12 * right.abs().max().item())


OTHERS = {
    "bell": lambda z: fg.exp(-z * z / 2),
    "rooted": lambda z, a: (z + fg.sqrt(z * z + a)) / 2,
    "serf": lambda z: z * fg.erf(fg.softplus(z)),
    "bent": lambda z, a: fg.where(z > 0, fg.maximum(z, 2 * z - 1), a * fg.tanh(z)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formulas(name):
    formula = OTHERS[name]
    a = (0.7,) if formula.__code__.co_argcount == 2 else ()
    fg.activation(name, formula, **({"param": "a", "default": 2.0} if a else {}))
    assert backends.extension.has_activation(name)

    def derivatives(fn):
        made = [z := torch.linspace(-5, 5, 91, dtype=torch.float64, requires_grad=True)]
        for order in range(4):
            made.append(grad(made[-1].sum(), z, create_graph=True)[0] if order else fn(z))
        return made

    torch.testing.assert_close(derivatives(lambda z: fg.act(z, name, *a)), derivatives(lambda z: formula(z, *a)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(name):
    TRANSFORMS[name](functools.partial(LINEAR_ACT, a=0.7), lambda x, w, b: ripple(F.linear(x, w, b), 0.7))


@pytest.mark.parametrize("name", [name for name in COMPILED if "training" in name or "second" in name][:2])
def test_compiled(name):
    COMPILED[name](functools.partial(LINEAR_ACT, a=0.7), lambda x, w, b: ripple(F.linear(x, w, b), 0.7))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_dtypes(dtype):
    """At most twice as far from float64 as the formula in torch is, and some roundings."""
    generator = torch.Generator().manual_seed(0)
    z = (4 * torch.randn(37, 133, generator=generator, dtype=torch.float64)).to(dtype)

    def derivatives(fn, z):
        z = z.clone().requires_grad_()
        y = fn(z)
        (g,) = grad(y.sum(), z, create_graph=True)
        return [t.detach().double() for t in (y, g, *grad(g.sum(), z))]

    truth, stock = derivatives(ripple, z.double()), derivatives(ripple, z)
    for mine, theirs, right in zip(derivatives(lambda z: fg.act(z, "ripple"), z), stock, truth, strict=True):
        error, of_stock = (mine - right).abs().max(), (theirs - right).abs().max()
        assert error <= 2 * of_stock + torch.finfo(dtype).eps * right.abs().max()


def test_its_kernels_compute_it(no_reference):
    assert backends.extension.has_activation("ripple")
    x, w, b = leaves()
    first = grad(fg.linear_act(x, w, b, act="ripple").sin().sum(), (x, w, b), create_graph=True)
    second = grad(first[0].sin().sum(), x, create_graph=True)
    grad(second[0].sum(), w)
    fg.mlp(x, w, b, w.mT, act="ripple").sum().backward()


def test_kernels_of_another_instruction_set_are_left_alone():
    x, w, b = plain()
    chosen = backends.extension.capability()
    other = next(name for name, there in reversed(backends.extension.instruction_sets()) if there and name != chosen)
    backends.extension.use_instruction_set(other)
    try:
        assert not backends.extension.has_activation("ripple")
        torch.testing.assert_close(fg.linear_act(x, w, b, act="ripple"), ripple(F.linear(x, w, b)))
    finally:
        backends.extension.use_instruction_set(chosen)
    assert backends.extension.has_activation("ripple")


@pytest.mark.parametrize("saves", ("input", "output"))
def test_without_kernels_an_activation_keeps_what_it_says(saves, monkeypatch):
    """The kernel of linear_act and its fake one agree, also of what only the reference computes."""
    name = f"only_the_reference_has_it_{saves}"
    entry = REGISTRY["tanh" if saves == "output" else "silu"]
    monkeypatch.setitem(REGISTRY, name, dataclasses.replace(entry, name=name))
    backends.extension.know_activation(name, saves == "input")
    assert not backends.extension.has_activation(name)
    for save in (False, True):
        torch.library.opcheck(OPS["linear_act"], (*leaves(), name, 0.0, save))
    x, w, b = leaves()
    made = fg.linear_act(x, w, b, act=name), fg.linear_act(x, w, b, act=entry.name)
    torch.testing.assert_close(*(grad(y.sin().sum(), (x, w, b)) for y in made))


@pytest.mark.parametrize("save", (False, True))
def test_opcheck(save):
    torch.library.opcheck(OPS["linear_act"], (*leaves(), "ripple", 0.7, save))


# --- its name -------------------------------------------------------------------------------------------------------


def test_the_name_is_known():
    assert "ripple" in fg.ACTIVATIONS and fg.ACTIVATIONS == tuple(REGISTRY)
    x = torch.randn(2, 3)
    layer = fg.Linear(3, 4, act="ripple", param=2)
    torch.testing.assert_close(layer(x), ripple(F.linear(x, layer.weight, layer.bias), 2.0))
    mlp = fg.MLP(3, 4, act="ripple")
    torch.testing.assert_close(mlp(x), mlp.fc2(ripple(mlp.fc1(x))))
    torch.testing.assert_close(fg.Act("ripple", 0.5)(x), ripple(x, 0.5))
    with pytest.raises(ValueError, match="a of 'ripple'"):
        fg.act(x, "ripple", float("inf"))
    with pytest.raises(TypeError, match="a of 'ripple'"):
        fg.act(x, "ripple", "2")


def test_a_definition_may_be_repeated():
    entry, tag = REGISTRY["ripple"], torch.compiler.config.cache_key_tag
    assert define() == "ripple"
    assert REGISTRY["ripple"] is entry and torch.compiler.config.cache_key_tag == tag


def test_a_name_is_not_given_twice():
    with pytest.raises(ValueError, match="'ripple' is another activation already"):
        fg.activation("ripple", lambda z, a: z + fg.sin(a * z), param="a", default=1.0)
    with pytest.raises(ValueError, match="'ripple' is another activation already"):
        fg.activation("ripple", eval(FORMULA), param="a", default=2.0)
    with pytest.raises(ValueError, match="'gelu' is another activation already"):
        define("gelu")


def test_a_name_of_ours_may_be_given_to_the_same_formula():
    snake = lambda z, a: z + fg.sin(a * z) ** 2 / a
    before = dict(REGISTRY)
    assert fg.activation("snake", snake, param="a", default=1.0) == "snake"
    assert before == REGISTRY
    with pytest.raises(ValueError, match="'snake' is another activation already"):
        fg.activation("snake", snake, param="a", default=2.0)


@pytest.mark.parametrize(
    "formula, options, error, says",
    (
        (lambda z: torch.sin(z), {}, TypeError, r"use fusegrad\.sin for torch\.sin"),
        (lambda: 1, {}, TypeError, r"must take \(z\)"),
        (lambda z: z, {"param": "a", "default": 1.0}, TypeError, r"must take \(z, a\)"),
        (lambda z, a: a * z, {}, TypeError, r"must take \(z\)"),
        (lambda z, a: a * z, {"param": "a"}, TypeError, "param 'a' needs a default"),
        (lambda z, a: a * z, {"param": "a", "default": "1"}, TypeError, "must be a number, got '1'"),
        (lambda z, a: a * z, {"param": "a", "default": math.nan}, ValueError, "must be finite, got nan"),
        (lambda z, a: a * z, {"param": "a b", "default": 1.0}, ValueError, "param must be an identifier"),
        (lambda z: z, {"default": 1.0}, ValueError, "has no param to which default=1.0 belongs"),
        (lambda z: z, {"bound": 0.0}, ValueError, "bound must be above 0 and at most 3.40282e"),
        (lambda z: z, {"bound": math.inf}, ValueError, "bound must be above 0 .* got inf"),
        (lambda z: z, {"name": "a name"}, ValueError, "name must be an identifier"),
        (lambda z: z, {"name": 3}, ValueError, "name must be an identifier"),
        (3, {}, TypeError, "must take"),
    ),
)
def test_a_bad_definition_says_what_is_wrong(formula, options, error, says):
    before = dict(REGISTRY)
    with pytest.raises(error, match=says):
        fg.activation(**{"name": "bad", "formula": formula, **options})
    assert before == REGISTRY


@pytest.mark.parametrize("module", (fg.Linear(3, 4, act="tanh"), fg.MLP(3, 4, act="tanh"), fg.Act("tanh")), ids=repr)
def test_a_pickle_has_the_name(module, monkeypatch):
    module = copy.deepcopy(module)
    for key, value in vars(module).items():
        if value == "tanh":
            setattr(module, key, "ripple")
    stored = pickle.dumps(module)
    x = torch.randn(2, 3)
    torch.testing.assert_close(pickle.loads(stored)(x), module(x))
    monkeypatch.delitem(REGISTRY, "ripple")
    with pytest.raises(ValueError, match=r"unknown act 'ripple'.*fusegrad\.activation"):
        pickle.loads(stored)


# --- fuse -----------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.act = Ripple(2.0)

    def forward(self, x):
        x = self.act(self.fc1(x))
        x = ripple(self.fc2(x), 0.5)
        return ripple(self.fc3(x))


def fused_with(model):
    return [row.fused_with for row in fg.explain(fg.fuse(model))]


def test_fuse():
    model, x = Net(), torch.randn(5, 3)
    stock = model(x)
    assert [row.partition(" (")[0] for row in fused_with(model)] == ["ripple, 2", "ripple, 0.5", "ripple"]
    torch.testing.assert_close(model(x), stock)
    model.act.a = 3.0
    torch.testing.assert_close(model(x), fg.unfuse(copy.deepcopy(model))(x))


Layer = type("Layer", (nn.Linear,), {})


def test_fuse_knows_a_class_derived_from_it_by_its_formula():
    assert fused_with(nn.Sequential(nn.Linear(3, 4), type("Wide", (Ripple,), {})())) == ["ripple (1)"]


@pytest.mark.parametrize("act", (Ripple(nn.Parameter(torch.ones(4))), Ripple(torch.ones(()))), ids=repr)
def test_fuse_leaves_what_has_no_number(act):
    model, x = nn.Sequential(nn.Linear(3, 4), act), torch.randn(5, 3)
    stock = model(x)
    assert fused_with(model) == [""]
    torch.testing.assert_close(model(x), stock)


def test_fuse_obeys_hooks_and_another_forward(monkeypatch):
    model, x = nn.Sequential(nn.Linear(3, 4), Ripple()), torch.randn(5, 3)
    z = model[0](x)
    assert fused_with(model) == ["ripple (1)"]
    hook = model[1].register_forward_hook(lambda m, args, y: 2 * y)
    torch.testing.assert_close(model(x), 2 * ripple(z))
    hook.remove()
    monkeypatch.setattr(Ripple, "forward", lambda self, z: z.exp())
    torch.testing.assert_close(model(x), z.exp())


@pytest.mark.parametrize(
    "target, error, says",
    (
        (nn.Tanh, ValueError, "taken for 'tanh'"),
        (torch.sin, ValueError, "taken for 'sin'"),
        (torch.sinh, ValueError, "does not say what it takes as a"),
        *((layer, ValueError, "is no activation") for layer in (nn.Linear, nn.Dropout, nn.PReLU, fg.Linear, Layer)),
        (int, ValueError, "no class of modules"),
        (3, TypeError, "neither a class nor a function"),
        (lambda z: z, ValueError, r"takes \(z\); need \(z, a\)"),
        (lambda z, a=2.0: z, ValueError, "takes a=2.0 where none is given; need 1.0"),
    ),
)
def test_what_it_can_not_stand_for(target, error, says):
    with pytest.raises(error, match=says):
        define(stands_for=target)
