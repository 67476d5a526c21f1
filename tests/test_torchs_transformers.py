"""Torch's own transformer layers: the method with the Linears is fused, what chooses the fast path is torch's."""

import copy

import pytest
import torch
from torch import nn

import fusegrad as fg
from fusegrad.fusion.convert import is_linear
from fusegrad.fusion.watch import watch

from cases import on_cpu

pytestmark = [on_cpu, pytest.mark.filterwarnings("ignore::UserWarning")]
WIDTH, HEADS = 16, 2


def encoder(**options):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, **{"batch_first": True, "activation": "gelu"} | options)
    return nn.TransformerEncoder(layer, 2)


def decoder(**options):
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, HEADS, 24, batch_first=True, **options), 2)


MODELS = {
    "encoder": encoder,
    "encoder, a module": lambda: encoder(activation=nn.SiLU(), norm_first=True),
    "encoder, no bias": lambda: encoder(bias=False),
    "decoder": decoder,
    "decoder, gelu": lambda: decoder(activation="gelu"),
}


def pair(name):
    torch.manual_seed(0)
    stock = MODELS[name]().double()
    x = torch.randn(3, 5, WIDTH, dtype=torch.double)
    return stock, fg.fuse(copy.deepcopy(stock)), [x] * (2 if "decoder" in name else 1)


def gradients(model, inputs):
    model.zero_grad()
    torch.manual_seed(1)  # of dropout
    y = model(*inputs)
    y.square().mean().backward()
    return [y, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("name", MODELS)
def test_training_is_as_in_stock_and_fused(name):
    stock, ours, inputs = pair(name)
    ran = watch([m for m in ours.modules() if is_linear(m)], lambda: ours(*inputs))
    assert sum(r.fused for r in ran.values()) == 2
    for mine, theirs in zip(gradients(ours, inputs), gradients(stock, inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_inference_is_as_in_stock(name):
    stock, ours, inputs = pair(name)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(*inputs), stock.eval()(*inputs))


def test_inference_takes_torchs_fast_path():
    _, ours, inputs = pair("encoder")
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        ours.eval()(*inputs)
    assert "aten::_transformer_encoder_layer_fwd" in {event.key for event in seen.key_averages()}


def test_a_method_of_ones_own_is_read():
    class Gated(nn.TransformerEncoderLayer):
        def _ff_block(self, x):
            return self.linear2(torch.tanh(self.linear1(x)))

    layer = fg.fuse(Gated(WIDTH, HEADS, 24, batch_first=True))
    assert {row.layer: row.fused_with for row in fg.explain(layer)}["linear1"].startswith("tanh")


@pytest.mark.parametrize("name", MODELS)
def test_unfuse_is_the_inverse(name):
    stock, ours, inputs = pair(name)
    assert isinstance(ours.layers[0], type(stock.layers[0]))
    fg.unfuse(ours)
    assert [type(m) for m in ours.modules()] == [type(m) for m in stock.modules()]
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(*inputs), stock.eval()(*inputs), rtol=0, atol=0)


def test_compiles_in_one_graph():
    stock, ours, inputs = pair("encoder")
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled.eval()(*inputs), stock.eval()(*inputs))
