"""What fuse takes for a write in place, in the code that a forward reaches: it then leaves some activations alone."""

import types
from typing import Optional

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import fusegrad as fg


def doubles(x):
    return x * 2


def doubles_in_place(x):
    x.mul_(2)
    return x


class Base(nn.Module):
    """With methods that write in place, which a forward may reach or not."""

    def __init__(self):
        super().__init__()
        self.act, self.relu_ = nn.LeakyReLU(), nn.ReLU()
        self.calls, self.history, self.counts, self.states = 0, {}, {"calls": 0}, [torch.zeros(4)]
        self.register_buffer("mean", torch.zeros(4))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.zeros_(self.mean)

    def adds(self, x):
        x += 1
        return x

    @staticmethod
    def adds_statically(x):
        return x.add_(1)

    @torch.no_grad()
    def adds_decorated(self, x):
        return x.add_(1)

    @property
    def running(self):
        self.mean += 1
        return self.mean


HARMLESS, WRITES = [], []


def harmless(f):
    HARMLESS.append(f)
    return f


def writes(f):
    WRITES.append(f)
    return f


@harmless
def plain(self, x):
    return self.act(doubles(x))


@harmless
def counter(self, x):
    self.calls += 1
    self.counts["calls"] += 1
    return self.act(x)


@harmless
def history(self, x):
    self.history["x"] = self.history[self.calls] = x
    return self.act(x)


@harmless
def locals_that_are_no_tensors(self, x, **options):
    options["scale"], i, total, outputs = 2, 0, 0, {}
    while i < 3:
        outputs[i] = self.act(x)
        total += outputs[i]
        i += 1
    return total


@harmless
def a_dictionary_of_the_callers(self, batch):
    batch["y"] = self.act(batch["x"])
    return batch


@harmless
def no_values_written(self, x):
    return self.relu_(F.leaky_relu(x.requires_grad_(), inplace=False))


@harmless
def what_was_made_here(self, x):
    total, mask = x.new_zeros(4), x > 0
    total.scatter_add_(0, x.long(), self.act(x))
    total.view(-1)[0] += 1
    total = total.clamp(min=1)
    y = self.act(x) + 1
    y += total
    return y.mul_(mask.logical_not_()) + torch.zeros_like(x).add_(1)


@harmless
def a_list_as_is_said(self, x, sizes: list[int | None], counts: Optional[dict] = None):  # noqa: UP045
    sizes[self.calls] = counts[x] = 1
    return self.act(x)


@harmless
def handed_on(self, x, out=None):
    return torch.add(self.act(x), 1, out=out)


@harmless
def what_was_none(self, x):
    count = None
    if x.dim() > 1:
        count = x.new_zeros(len(x))
        count.add_(1)
        count = count.clamp_(min=1).view(-1, 1)
    return self.act(x) if count is None else self.act(x) / count


@harmless
def given_anew(self, x):
    y, z = self.act(x), self.act(x)
    for _ in range(2):
        y = y.clone()
        if self.calls:
            y[0] = 1
    z = torch.cat([z])
    z = z.view(-1)
    z += 1
    return y.sum() + z.sum()


@writes
def given_anew_in_a_branch(self, x):
    y = self.act(x)
    if self.calls:
        y = y.clone()
    return y.add_(1)


@writes
def given_anew_after_the_first_turn(self, x):
    y = self.act(x)
    for _ in range(2):
        y = self.act(y.add_(1))
    return y


@writes
def given_a_view_of_itself(self, x):
    y = self.act(x)
    y = y.view(-1)
    return y.add_(1)


@writes
def of_the_same_name(self, x):
    y = x.clone()
    return [y.add_(1) for y in [self.act(x)]], y


@writes
def given_anew_before_another(self, x):
    y = self.act(x).clone()
    z = self.act(y)
    y = z
    return y.add_(1)


@writes
def view_of_a_result(self, x):
    y = self.act(x).view(-1)
    y += 1
    return y


@writes
def made_here_or_not(self, x):
    y = x + 1
    if self.calls:
        y = self.act(x)
    return y.add_(1)


@writes
def item_of_a_list_as_is_said(self, x, outputs: list[torch.Tensor]):
    outputs[0] += 1
    return self.act(x)


@writes
def operator(self, x):
    y = self.act(x)
    y += 1
    return y


@writes
def item(self, x):
    y = self.act(x)
    y[0] = 1
    return y


@writes
def item_of_a_list(self, x):
    self.states[0] += x
    return self.act(x)


@writes
def buffer(self, x):
    self.mean += x.mean()
    return self.act(x)


@writes
def method_of_a_tensor(self, x):
    return self.act(x).mul_(2)


@writes
def option(self, x):
    return F.relu(self.act(x), inplace=True)


@writes
def output(self, x):
    return torch.add(x, 1, out=self.act(x))


@writes
def function_of_the_file(self, x):
    return doubles_in_place(self.act(x))


@writes
def function_within(self, x):
    return (lambda y: y.add_(1))(self.act(x))


@writes
def own_method(self, x):
    return checkpoint(self.adds, self.act(x))


@writes
def static_method(self, x):
    return self.adds_statically(self.act(x))


@writes
def decorated_method(self, x):
    return self.adds_decorated(self.act(x))


@writes
def own_property(self, x):
    return self.act(x) + self.running


@writes
@torch.no_grad()
def decorated(self, x):
    return self.act(x).add_(1)


def harmless_function(self, x):
    return self.act(self.function(x))


def function_told_to_write(self, x):
    return self.act(self.function(x, inplace=True))


@pytest.mark.parametrize("forward", [*HARMLESS, *WRITES], ids=lambda f: f.__name__)
def test_a_leaky_relu_is_left_alone_where_its_output_may_be_written_to(forward):
    model = fg.fuse(type("Model", (Base,), {"forward": forward, "__module__": __name__})())
    assert isinstance(model.act, fg.Act) == (forward in HARMLESS)


@pytest.mark.parametrize("forward", (harmless_function, function_told_to_write), ids=lambda f: f.__name__)
def test_a_function_of_torch_that_a_module_holds(forward):
    class Holds(Base):
        """F.elu could write in place, and does not say so itself."""

        def __init__(self):
            super().__init__()
            self.function = F.elu

    model = fg.fuse(type("Model", (Holds,), {"forward": forward, "__module__": __name__})())
    assert isinstance(model.act, fg.Act) == (forward is harmless_function)


def test_a_method_that_another_module_calls():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = type("Inner", (Base,), {"forward": plain})()

        def forward(self, x):
            return self.inner.adds(self.inner(x))

    assert not isinstance(fg.fuse(Outer()).inner.act, fg.Act)


def test_a_model_without_a_forward_is_called_by_its_methods():
    assert not isinstance(fg.fuse(Base()).act, fg.Act)
    assert isinstance(fg.fuse(nn.Sequential(Base()))[0].act, fg.Act)


REASONS = {
    output: "`torch.add(x, 1, out=self.act(x))` of output",
    function_of_the_file: "`x.mul_` of doubles_in_place",
    own_property: "`self.mean` of Base.running",
    types.FunctionType(compile("lambda self, x: self.act(self.fc(x)).add_(1)", "", "eval").co_consts[0], globals()): (
        "the code of <lambda>"
    ),
}


@pytest.mark.parametrize("forward", REASONS, ids=lambda f: f.__name__)
def test_explain_tells_what_writes(forward):
    class Model(Base):
        def __init__(self):
            super().__init__()
            self.fc = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU())

    Model.forward = forward
    (row,) = fg.explain(fg.fuse(Model()))
    assert row.why.startswith(f"{REASONS[forward]} may write in place, and leaky_relu saves its output for backward")
