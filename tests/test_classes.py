"""Which classes fuse derives from, and which it leaves alone; all or nothing, whatever is raised."""

import copy
import cProfile
import io
import pickle
import pstats
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import pytest
import torch
from test_convert import snapshot
from torch import nn
from torch.serialization import safe_globals

import fusegrad as fg
from fusegrad.activations import REGISTRY
from fusegrad.fusion import convert

from cases import DEVICE
from models import Mlp, count_fused, inputs, make


class Registered(nn.Module):
    """A base class that keeps its subclasses, each under a key that it must give."""

    known: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, key, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.known[key] = cls


class Plugin(Registered, key="plugin"):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.fc(x))


def test_a_base_class_does_not_hear_of_ours():
    model = fg.fuse(Plugin().to(DEVICE))
    assert count_fused(copy.deepcopy(model), inputs()) == 1
    assert Registered.known == {"plugin": Plugin, "heard": Heard}


T = TypeVar("T")


def one_layer(self, note=None):
    nn.Module.__init__(self)
    self.fc, self.note = nn.Linear(4, 4), note


class Abstract(ABC, nn.Module):
    __init__ = one_layer

    @abstractmethod
    def encode(self, x): ...

    def forward(self, x):
        return torch.tanh(self.fc(x)) + self.encode(x)


class Concrete(Abstract):
    def encode(self, x):
        return torch.relu(self.fc(x))


class Typed(Generic[T], nn.Module):
    __init__ = one_layer

    def forward(self, x):
        return torch.tanh(self.fc(x))


class OfIntegers(Typed[int]):
    pass


class Slotted(Concrete):
    __slots__ = ("note",)


@pytest.mark.parametrize("cls, fused", ((Concrete, 2), (Typed, 1), (OfIntegers, 1), (Slotted, 2)))
def test_every_layout_of_a_class_is_fused(cls, fused):
    """An instance adopts a class only if Python lays both out alike, which the first base decides."""
    model, x = cls().to(DEVICE), inputs()
    y = model(x)
    fg.fuse(model)
    assert count_fused(model, x) == fused
    torch.testing.assert_close(copy.deepcopy(model)(x), y)
    assert type(fg.unfuse(model)) is cls


class Heard(ABC, Registered, key="heard"):
    __init__ = one_layer

    def forward(self, x):
        return torch.tanh(self.fc(x))


class Counts(nn.Module):
    """Its class keeps count of the calls of all its modules."""

    calls, __init__ = 0, one_layer

    def forward(self, x):
        return torch.tanh(self.fc(x))


class CountsByType(Counts):
    def forward(self, x):
        type(self).calls += 1
        return torch.tanh(self.fc(x))


class CountsByClassMethod(Counts):
    @classmethod
    def count(cls):
        cls.calls += 1

    def forward(self, x):
        self.count()
        return torch.tanh(self.fc(x))


class Exact(Counts):
    def forward(self, x):
        return torch.tanh(self.fc(x)) if self.__class__ is Exact else x


class Named(Counts):
    def forward(self, x):
        cls = type(self)
        shown = f"{self.__class__}" == f"{Named}" and getattr(cls, "calls", None) == 0
        return torch.tanh(self.fc(x)) * len(cls.__name__) * shown + isinstance(type(self)(self.note), Named)


class Kept(Counts):
    def forward(self, x):
        cls = type(self)
        return torch.tanh(self.fc(x)) if cls is Kept else x


LEFT = {
    CountsByType: "CountsByType.forward depends on its exact class",
    CountsByClassMethod: "",
    Exact: "Exact.forward depends on its exact class",
    Kept: "Kept.forward depends on its exact class",
    Heard: "Heard wants to hear of its subclasses",
    Named: "",
}


@pytest.mark.parametrize("cls", LEFT)
def test_a_class_that_must_be_itself_stays(cls):
    model, x = cls().to(DEVICE), inputs()
    y = model(x)
    row = fg.explain(fg.fuse(model))[0]
    assert row.why == LEFT[cls] and (type(model) is cls) == bool(row.why)
    torch.testing.assert_close(model(x), y)
    assert getattr(cls, "calls", 0) == (2 if cls in (CountsByType, CountsByClassMethod) else 0)


class Sealed(Counts):
    def __setattr__(self, name, value):
        if name == "__class__":
            raise AttributeError("sealed")
        super().__setattr__(name, value)


def test_an_authors_setattr_is_not_run():
    assert isinstance(fg.fuse(Sealed()), convert.Fused)


@pytest.mark.parametrize("error", (KeyError, KeyboardInterrupt))
@pytest.mark.parametrize("where", ("filter", "class", "unfuse"))
def test_fuse_does_all_or_nothing(monkeypatch, where, error):
    def fails(*args):
        calls.append(args)
        if len(calls) > 1:
            raise error
        return real(*args)

    model, calls, real = nn.Sequential(make("functional"), make("blocks"), make("nested")), [], lambda *args: True
    if where == "class":
        real = convert.fused_class
        monkeypatch.setattr(convert, "fused_class", fails)
    elif where == "unfuse":
        fg.fuse(model, lambda m, path: path != "0.a")
        real = convert.original_class
        monkeypatch.setattr(convert, "original_class", fails)
    before = snapshot(model)
    with pytest.raises(error):
        fg.unfuse(model) if where == "unfuse" else fg.fuse(model, fails if where == "filter" else None)
    assert len(calls) == 2 and snapshot(model) == before


def test_what_may_be_loaded_before_fuse_may_be_loaded_after():
    """torch.load(weights_only=True) asks for the user's classes, and for none of ours."""
    model, x = fg.fuse(Mlp().to(DEVICE)), inputs()
    classes = [Mlp, nn.Linear, nn.GELU, nn.LayerNorm, nn.Dropout]
    file = io.BytesIO()
    torch.save(model, file)
    for missing in (*classes, None):
        file.seek(0)
        with safe_globals([cls for cls in classes if cls is not missing]):
            if missing is None:
                again = torch.load(file, weights_only=True)
                torch.testing.assert_close(again(x), model(x))
                assert type(again) is type(model) and count_fused(again, x) == 1
            else:
                with pytest.raises(pickle.UnpicklingError, match=rf"GLOBAL [\w.]+\.{missing.__name__} was not"):
                    torch.load(file, weights_only=True)


class Strict(type):
    """A metaclass that allows no subclass."""

    def __new__(cls, name, bases, members):
        if len(bases) > 1:
            raise TypeError("one base only")
        return super().__new__(cls, name, bases, members)


def test_a_class_with_a_metaclass_is_left_alone():
    model = Strict("Net", (Mlp,), {})()
    fg.fuse(model)
    assert fg.explain(model)[0].why == "Net has a metaclass, Strict"


def test_torchs_tools_read_a_fused_model():
    model, x = fg.fuse(make("functional")), inputs()
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))
    profile = cProfile.Profile()
    profile.runcall(lambda: (fg.fuse(make("pinn")), inputs()))
    assert any(name == "inputs" for _, _, name in pstats.Stats(profile).stats)


@pytest.mark.parametrize("act", [a.name for a in REGISTRY.values() if a.module is not None])
@pytest.mark.parametrize("after", ("module", "operator"))
def test_writing_to_the_output_works_as_in_torch(act, after):
    """Where torch saves the input of an activation for backward, its output may be written to."""

    class Adds(nn.Sequential):
        def forward(self, x):
            y = self[0](x)
            y += 1
            return y

    def gradient(fuse):
        torch.manual_seed(0)
        block = nn.Sequential(nn.Linear(4, 4), REGISTRY[act].module(**REGISTRY[act].options))
        model = Adds(block) if after == "operator" else nn.Sequential(block, nn.Dropout(0.5, inplace=True))
        x = inputs().requires_grad_()
        try:
            return torch.autograd.grad(fuse(model.to(DEVICE))(x).sum(), x)[0]
        except RuntimeError:
            return None

    stock, fused = gradient(lambda m: m), gradient(fg.fuse)
    torch.testing.assert_close(stock, fused) if stock is not None else None


class Built(Counts):
    """Its class method makes one of it, and another one is replaced later."""

    @classmethod
    def make(cls):
        return cls.named(), cls is Built

    @classmethod
    def named(cls):
        return cls()


def test_class_methods_are_given_the_class_before_fuse(monkeypatch):
    model = fg.fuse(Built())
    made, is_it = type(model).make()
    assert type(made) is Built and is_it and model.make()[1]
    monkeypatch.setattr(Built, "named", classmethod(lambda cls: cls.__name__))
    assert model.make() == type(model).make() == ("Built", True)


def test_what_makes_a_module_sees_its_class():
    class Stores(nn.Module):
        """Its class keeps count of its modules."""

        made = 0

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self._count()

        def __setstate__(self, state):
            self._count()
            super().__setstate__(state)

        def _count(self):
            type(self).made += 1

        def forward(self, x):
            return torch.tanh(self.fc(x))

    model = fg.fuse(Stores().to(DEVICE))
    assert fg.explain(model)[0].fused_with
    others = type(model)(), copy.deepcopy(model)
    assert Stores.made == 3 and "made" not in vars(type(model))
    assert all(type(other) is type(model) for other in others)
