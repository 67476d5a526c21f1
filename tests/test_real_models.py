"""fuse on models of public libraries: the numbers are stock's, all else stays, and the layers listed run fused."""

import copy
import io

import pytest
import torch

import fusegrad as fg
from fusegrad.benchmarks import zoo
from fusegrad.benchmarks.harness import OUR_ERROR, error
from fusegrad.fusion import sums
from fusegrad.fusion.convert import is_linear
from fusegrad.fusion.watch import watch

from cases import on_cpu
from models import snapshot

pytestmark = [
    on_cpu,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"),
]
IN_CI = ("torch", "transformers", "deepxde")
MODELS = [
    pytest.param(case, id=str(case), marks=() if case.library in IN_CI else pytest.mark.models) for case in zoo.MODELS
]
# transformers' models are made for seconds each: in CI one of each way to write a layer is saved, copied and unfused
SHOWN = ("Llama", "OPT", "GPT-2")
SOME = [
    param
    if param.values[0].library != "transformers" or param.values[0].name in SHOWN
    else pytest.param(*param.values, id=param.id, marks=pytest.mark.models)
    for param in MODELS
]
# how many layers run fused with the activation or the gate that follows; zoo's `followed` says how many could
FUSED = {
    "transformers BERT": 3,
    "transformers BERT, masked words": 3,
    "transformers RoBERTa, masked words": 3,
    "transformers Llama": 4,
    "transformers Mistral": 4,
    "transformers Qwen2": 4,
    "transformers Gemma": 4,
    "transformers Phi": 2,
    "transformers OPT": 2,
    "transformers GPT-2": 2,
    "transformers BART": 2,
    "transformers Whisper": 2,
    "transformers T5": 2,
    "transformers T5, gated": 4,
    "transformers ViT": 3,
    "transformers DINOv2, gated": 4,
    "transformers CLIP": 4,
    "timm ViT": 2,
    "timm MLP-Mixer": 4,
    "timm ConvNeXt": 4,
    "timm EVA-02": 4,
    "timm GluMlp": 1,
    "timm SwiGLU": 2,
    "timm GatedMlp": 1,
    "diffusers FeedForward, gelu": 1,
    "diffusers FeedForward, geglu": 1,
    "diffusers FeedForward, swiglu": 1,
    "deepxde FNN, tanh": 3,
    "deepxde FNN, swish": 3,
    "deepxde FNN, sin": 3,
    "deepxde FNN, L-LAAF tanh": 3,
    "deepxde PFNN, tanh": 4,
    "deepxde DeepONet, relu": 4,
    "pina FeedForward, tanh": 3,
    "pina FeedForward, tanh, labelled": 3,
    "pina FeedForward, AdaptiveTanh": 3,
    "pina FeedForward, AdaptiveSIREN": 3,
    "pina ResidualFeedForward": 5,
    "physicsnemo FullyConnected, silu": 3,
    "physicsnemo FullyConnected, adaptive tanh": 3,
    "physicsnemo FullyConnected, weight_norm": 3,
    "torch SDF, weight_norm": 3,
    "torch SDF, old weight_norm": 3,
    "torch SIREN": 3,
    "schnetpack SchNet, forces": 5,
    "schnetpack PaiNN, forces": 5,
    "torch_geometric SchNet, forces": 5,
    "e3nn FullyConnectedNet": 2,
    "torch_geometric GIN": 3,
    "torch_geometric GIN, batch norm": 0,
    "torch_geometric EdgeCNN": 3,
    "torch MLP, silu": 2,
    "torch TransformerEncoder, gelu": 2,
    "torch Transformer, relu": 2,
    "opacus hooks": 0,
    "opacus functorch": 0,
    "opacus ExpandedWeights": 2,
    "stable_baselines3 ActorCriticPolicy": 4,
    "stable_baselines3 ContinuousCritic": 4,
    "lightning classifier, relu": 2,
    "sentence_transformers Dense, tanh": 1,
    "peft LoRA, then fuse": 0,
    "peft fuse, then LoRA": 0,
}


@pytest.fixture
def case(request):
    zoo.prepare()
    pytest.importorskip(request.param.library)
    return request.param


def model_and_inputs(case, dtype=torch.float32, change=lambda model: model):
    return zoo.make(case, case.small, dtype, change), zoo.inputs_of(case, case.small, dtype)


def inferred(case, model):
    return zoo.inference(case, model, zoo.inputs_of(case, case.small, torch.float32))()


def steps(case, dtype, change):
    """The loss and the gradients of training, and the result of inference; the model, and what infers once more."""
    model, x = model_and_inputs(case, dtype, change)
    infer = zoo.inference(case, model, x)
    return (zoo.training(case, model, x)(), infer()), model, infer


@pytest.mark.parametrize("case", MODELS, indirect=True)
def test_numbers_are_stocks_and_as_many_layers_run_fused_as_are_listed(case):
    stock = lambda model: model
    truth, *_ = steps(case, torch.float64, stock)
    for mine, y64 in zip(steps(case, torch.float64, fg.fuse)[0], truth, strict=True):
        assert error(mine, y64) <= case.float64_error
    single, *_ = steps(case, torch.float32, stock)
    fast, model, infer = steps(case, torch.float32, fg.fuse)
    ran = watch([m for m in model.modules() if is_linear(m)], infer)
    assert sum(r.fused for r in ran.values()) == FUSED[str(case)] <= case.followed
    for mine, y, y64 in zip(fast, single, truth, strict=True):
        assert len(mine) == len(y) and error(mine, y64) <= OUR_ERROR * error(y, y64) + torch.finfo(torch.float32).eps


@pytest.mark.models
def test_messages_between_atoms_are_one_op(monkeypatch):
    zoo.prepare()
    pytest.importorskip("schnetpack")
    case = next(case for case in zoo.MODELS if str(case) == "schnetpack PaiNN, forces")
    monkeypatch.setattr(sums, "LEAST", 0)
    monkeypatch.setattr(sums, "SHORTEST", 0)
    count, sum_of_products = [], sums.sum_of_products
    monkeypatch.setattr(sums, "sum_of_products", lambda *f: count.append(f) or sum_of_products(*f))
    truth, *_ = steps(case, torch.float64, lambda model: model)
    assert not count
    for mine, y64 in zip(steps(case, torch.float64, fg.fuse)[0], truth, strict=True):
        assert error(mine, y64) <= case.float64_error
    assert count


@pytest.mark.parametrize("case", SOME, indirect=True)
def test_state_goes_both_ways(case):
    stock, fused = (model_and_inputs(case, change=change)[0] for change in (lambda model: model, fg.fuse))
    assert list(stock.state_dict()) == list(fused.state_dict())
    with torch.no_grad():
        for p in fused.parameters():
            p.mul_(0.5)
    stock.load_state_dict(fused.state_dict())
    torch.testing.assert_close(inferred(case, fused), inferred(case, stock))


def pickled(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", (copy.deepcopy, pickled), ids=("deepcopy", "pickle"))
@pytest.mark.parametrize("case", SOME, indirect=True)
def test_copies(case, copied):
    """Where torch can copy the model: not one whose weights are computed, say."""
    stock, _ = model_and_inputs(case)
    try:
        copied(stock)
    except Exception as e:
        pytest.skip(f"stock cannot: {e}")
    fused, _ = model_and_inputs(case, change=fg.fuse)
    again = copied(fused)
    torch.testing.assert_close(inferred(case, again), inferred(case, fused), rtol=0, atol=0)
    assert str(fg.explain(again)) == str(fg.explain(fused))
    torch.testing.assert_close(inferred(case, fg.unfuse(again)), inferred(case, stock))


@pytest.mark.parametrize("case", SOME, indirect=True)
def test_unfuse_is_the_inverse(case):
    model, _ = model_and_inputs(case)
    y = inferred(case, model)
    before = snapshot(model)
    snapshots = [snapshot(change(model)) for change in (fg.fuse, fg.unfuse)]
    assert snapshots[0][1:] == before[1:] and snapshots[1] == before
    torch.testing.assert_close(inferred(case, model), y, rtol=0, atol=0)


def test_every_model_is_listed():
    assert list(FUSED) == [str(case) for case in zoo.MODELS]
