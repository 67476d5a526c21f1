"""fuse on models of public libraries: the numbers are stock's, all else stays, and the layers listed run fused."""

import copy
import io

import pytest
import torch

import fusegrad as fg
from fusegrad.benchmarks import zoo
from fusegrad.benchmarks.harness import OUR_ERROR, error

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
# how many layers run fused with the activation or the gate that follows; zoo's `followed` says how many could
FUSED = {
    "transformers BERT": 1,
    "transformers BERT, masked words": 0,
    "transformers RoBERTa, masked words": 0,
    "transformers Llama": 0,
    "transformers Mistral": 0,
    "transformers Qwen2": 0,
    "transformers Gemma": 0,
    "transformers Phi": 0,
    "transformers OPT": 0,
    "transformers GPT-2": 0,
    "transformers BART": 0,
    "transformers Whisper": 0,
    "transformers T5": 2,
    "transformers T5, gated": 0,
    "transformers ViT": 1,
    "transformers DINOv2, gated": 0,
    "transformers CLIP": 0,
    "timm ViT": 2,
    "timm MLP-Mixer": 4,
    "timm ConvNeXt": 0,
    "timm EVA-02": 0,
    "timm GluMlp": 0,
    "timm SwiGLU": 0,
    "timm GatedMlp": 1,
    "diffusers FeedForward, gelu": 0,
    "diffusers FeedForward, geglu": 0,
    "diffusers FeedForward, swiglu": 0,
    "deepxde FNN, tanh": 0,
    "deepxde FNN, swish": 0,
    "deepxde FNN, sin": 0,
    "deepxde FNN, L-LAAF tanh": 0,
    "deepxde PFNN, tanh": 0,
    "deepxde DeepONet, relu": 0,
    "pina FeedForward, tanh": 3,
    "pina FeedForward, tanh, labelled": 3,
    "pina FeedForward, AdaptiveTanh": 0,
    "pina FeedForward, AdaptiveSIREN": 0,
    "pina ResidualFeedForward": 5,
    "physicsnemo FullyConnected, silu": 0,
    "physicsnemo FullyConnected, adaptive tanh": 0,
    "physicsnemo FullyConnected, weight_norm": 0,
    "torch SDF, weight_norm": 0,
    "torch SDF, old weight_norm": 0,
    "torch SIREN": 0,
    "schnetpack SchNet, forces": 0,
    "schnetpack PaiNN, forces": 0,
    "torch_geometric SchNet, forces": 0,
    "e3nn FullyConnectedNet": 0,
    "torch MLP, silu": 2,
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
OPS = ("fusegrad::linear_act",)  # one call is one fused layer


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
    """The loss and the gradients of training, and the result of inference."""
    model, x = model_and_inputs(case, dtype, change)
    return zoo.training(case, model, x)(), zoo.inference(case, model, x)()


@pytest.mark.parametrize("case", MODELS, indirect=True)
def test_numbers_are_stocks(case):
    stock = lambda model: model
    truth = steps(case, torch.float64, stock)
    for mine, y64 in zip(steps(case, torch.float64, fg.fuse), truth, strict=True):
        assert error(mine, y64) <= case.float64_error
    single = steps(case, torch.float32, fg.fuse), steps(case, torch.float32, stock)
    for mine, y, y64 in zip(*single, truth, strict=True):
        assert len(mine) == len(y) and error(mine, y64) <= OUR_ERROR * error(y, y64) + torch.finfo(torch.float32).eps


@pytest.mark.parametrize("case", MODELS, indirect=True)
def test_as_many_layers_run_fused_as_are_listed(case):
    model, x = model_and_inputs(case, change=fg.fuse)
    run = zoo.inference(case, model, x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    ran = sum(e.count for e in profile.key_averages() if e.key in OPS)
    assert ran == FUSED[str(case)] <= case.followed


@pytest.mark.parametrize("case", MODELS, indirect=True)
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
@pytest.mark.parametrize("case", MODELS, indirect=True)
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


@pytest.mark.parametrize("case", MODELS, indirect=True)
def test_unfuse_is_the_inverse(case):
    model, _ = model_and_inputs(case)
    y = inferred(case, model)
    before = snapshot(model)
    snapshots = [snapshot(change(model)) for change in (fg.fuse, fg.unfuse)]
    assert snapshots[0][1:] == before[1:] and snapshots[1] == before
    torch.testing.assert_close(inferred(case, model), y, rtol=0, atol=0)


def test_every_model_is_listed():
    assert list(FUSED) == [str(case) for case in zoo.MODELS]
