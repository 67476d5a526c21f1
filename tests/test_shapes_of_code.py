"""The shapes of code in which people write a layer and its activation: fused as listed, and all numbers are stock's."""

import copy

import pytest
import torch
from torch.autograd import grad

import fusegrad as fg

from models import snapshot
from shapes import (  # noqa: F401  (they fill it)
    SHAPES,
    callees,
    fields,
    one_class,
    others,
    physics,
    transformers,
    two_modules,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's old weight_norm
EVERY = pytest.mark.parametrize("name", SHAPES)
COMPILED = pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.compiled])


def value(model, arguments):
    return model(*(1 * x for x in arguments))  # as models may write to what they are given


def derivatives(model, arguments):
    """The value, the gradients, and those of a loss that is made of gradients."""
    for x in arguments:
        x.grad = None
    y = value(model, arguments)
    weights = torch.linspace(0.5, 2, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
    inner = grad((weights * y.square()).sum(), arguments, create_graph=True)
    (y.square().sum() + sum(g.square().sum() for g in inner)).backward()
    outer = [t.grad for t in (*arguments, *model.parameters())]
    return [y.detach(), *(g.detach() for g in inner), *outer]


@EVERY
def test_values_and_derivatives_are_stocks(name):
    shape = SHAPES[name]
    expected = derivatives(shape.model(), shape.arguments())
    got = derivatives(fg.fuse(shape.model()), shape.arguments())
    torch.testing.assert_close(got, expected, rtol=shape.error, atol=shape.error)


@EVERY
def test_what_runs_fused_is_what_explain_tells(name):
    shape = SHAPES[name]
    rows = fg.explain(fg.fuse(shape.model()), *(x.detach() for x in shape.arguments()))
    assert sum(row.ran.fused for row in rows) == shape.fused, rows
    for row in rows:
        assert row.fused_with or row.why
        if row.ran.fused or row.ran.alone:
            assert bool(row.fused_with) == (row.ran.fused > 0 or row.layer in shape.untaken), row
    whys = {row.layer: row.why for row in rows if not row.fused_with}
    for layer, why in shape.alone.items():
        assert whys[layer] == why


@EVERY
def test_unfuse_is_the_inverse(name):
    shape = SHAPES[name]
    model, arguments = shape.model(), shape.arguments()
    before = snapshot(model)
    assert snapshot(fg.fuse(model))[1:] == before[1:]
    assert snapshot(fg.unfuse(model)) == before
    torch.testing.assert_close(value(model, arguments), value(shape.model(), arguments), rtol=0, atol=0)


@EVERY
def test_copies_are_fused(name):
    """Where torch can copy the model: not one whose weights are computed."""
    shape = SHAPES[name]
    try:
        copy.deepcopy(shape.model())
    except Exception as e:
        pytest.skip(f"stock cannot: {e}")
    model, arguments = fg.fuse(shape.model()), shape.arguments()
    copied = copy.deepcopy(model)
    assert str(fg.explain(copied)) == str(fg.explain(model))
    torch.testing.assert_close(value(copied, arguments), value(model, arguments), rtol=0, atol=0)


@COMPILED
def test_compiled(name):
    """With as many graph breaks as stock."""
    shape = SHAPES[name]
    breaks, results = [], []
    for change in (lambda model: model, fg.fuse):
        model, arguments = change(shape.model()), shape.arguments()
        torch._dynamo.reset()
        breaks.append(torch._dynamo.explain(model)(*arguments).graph_break_count)
        torch._dynamo.reset()
        y = torch.compile(model, backend="aot_eager")(*arguments)
        results.append([y.detach(), *grad(y.square().sum(), [*arguments, *model.parameters()], allow_unused=True)])
    assert breaks[1] == breaks[0]
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
