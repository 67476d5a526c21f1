"""fuse on small models of many public libraries: the numbers are stock's, and what follows a layer runs with it.

One line a model: how many calls of layers run fused, how many activations are still computed of a layer's result by
themselves, and how it is made. test_real_models.py holds fewer of them to more.
"""

import copy
import re
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fusegrad as fg
from fusegrad import routing
from fusegrad.benchmarks import zoo
from fusegrad.fusion.convert import is_linear
from fusegrad.fusion.watch import watch

from cases import on_cpu

pytestmark = [on_cpu, pytest.mark.filterwarnings("ignore")]  # what libraries say of torch, and of each other
IN_CI = ("transformers", "deepxde")
ERROR = 1e-9  # in float64, relative to the largest number


class Surveyed(NamedTuple):
    """A model, with what it is called with."""

    fused: int
    left: int  # activations by themselves, of a layer's result: `why` says why
    make: Callable[[], tuple[nn.Module, list, dict[str, Any]]]
    why: str = ""  # part of what explain tells of a layer that an activation follows


TABLE: dict[str, Surveyed] = {}


def ids(length: int = 9) -> Tensor:
    return torch.randint(3, 64, (2, length))


def pictures(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size)


# --- transformers -------------------------------------------------------------------------------------------------

WORDS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = WORDS | TOWER | {"max_position_embeddings": 64}
GROUPED = TEXT | {"num_key_value_heads": 2}
EMBEDDED = TEXT | {"embedding_size": 16}
GPT = WORDS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 48, "rotary_dim": 4}
OF_BOTH = {"layers": 1, "attention_heads": 4, "ffn_dim": 48}
BOTH = WORDS | {f"{side}_{k}": v for k, v in OF_BOTH.items() for side in ("encoder", "decoder")} | {"d_model": 32}
PICTURES = TOWER | {"image_size": 32, "patch_size": 8}
SOUND = TOWER | {
    "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "apply_spec_augment": False,
}  # fmt: skip


def of_words() -> dict[str, Any]:
    return {"input_ids": ids(), "use_cache": False}


def of_tokens() -> dict[str, Any]:
    return {"input_ids": ids()}


def of_two() -> dict[str, Any]:
    return {"input_ids": ids(), "decoder_input_ids": ids(), "use_cache": False}


def of_pictures() -> dict[str, Any]:
    return {"pixel_values": pictures()}


def transformers(name: str, fused: int, left: int, options: dict[str, Any], inputs: Callable, why: str = "") -> None:
    """`name` is that of a class; its config is named after what comes before Model or For."""

    def make():
        library = import_module("transformers")
        config = getattr(library, re.sub(r"(Model|For[A-Z]\w+)$", "Config", name))(**options)
        config._attn_implementation = "eager"
        for k, v in vars(config).items():  # dropout would draw other numbers
            if isinstance(v, float) and any(part in k for part in ("drop", "pdrop")):
                setattr(config, k, 0.0)
        return getattr(library, name)(config), [], inputs()

    TABLE[f"transformers {name}"] = Surveyed(fused, left, make, why)


transformers("FalconModel", 2, 0, TEXT | {"ffn_hidden_size": 48, "bias": True}, of_words)
transformers("BloomModel", 0, 0, WORDS | {"hidden_size": 32, "n_layer": 2, "n_head": 4}, of_words, "GeLUFunction")
transformers("GPTNeoXForCausalLM", 2, 0, TEXT, of_words)
transformers("GPTJModel", 2, 0, GPT, of_words)
transformers("CodeGenModel", 2, 0, GPT | {"n_ctx": 64}, of_words)
transformers("MptModel", 2, 0, WORDS | {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}, of_words)
transformers("ElectraForPreTraining", 3, 0, EMBEDDED, of_tokens)
transformers(
    "DistilBertForMaskedLM", 3, 0, WORDS | {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}, of_tokens
)
transformers("AlbertForMaskedLM", 3, 0, EMBEDDED, of_tokens)
transformers("DebertaV2ForMaskedLM", 3, 0, TEXT | {"relative_attention": True, "pos_att_type": ["p2c"]}, of_tokens)
transformers(
    "MobileBertModel", 5, 0, EMBEDDED | {"intra_bottleneck_size": 16, "num_feedforward_networks": 2}, of_tokens
)
transformers("RoFormerForMaskedLM", 3, 0, EMBEDDED | {"embedding_size": 32}, of_tokens)
transformers("RwkvModel", 6, 0, WORDS | {"hidden_size": 32, "num_hidden_layers": 2}, of_tokens)
transformers("Starcoder2Model", 2, 0, GROUPED, of_words)
transformers("Gemma2Model", 4, 0, GROUPED | {"head_dim": 8}, of_words)
transformers("Phi3Model", 2, 0, GROUPED, of_words)
transformers("CohereModel", 4, 0, GROUPED, of_words)
transformers("StableLmModel", 4, 0, GROUPED, of_words)
transformers("PersimmonModel", 2, 0, TEXT, of_words)
transformers("NemotronModel", 2, 0, GROUPED, of_words)
transformers("MBartModel", 2, 0, BOTH, of_two)
transformers("M2M100Model", 2, 0, BOTH, of_two)
transformers("UMT5Model", 4, 0, WORDS | {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}, of_two)
transformers("FNetModel", 3, 0, TEXT, of_tokens)
transformers("EsmModel", 3, 0, TEXT | {"mask_token_id": 3}, of_tokens)
transformers("SiglipVisionModel", 3, 0, PICTURES, of_pictures)
transformers("BeitModel", 2, 0, PICTURES, of_pictures)
transformers("ConvNextV2Model", 2, 0, {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, of_pictures)
transformers("Wav2Vec2Model", 2, 0, SOUND, lambda: {"input_values": torch.randn(1, 1200)})

# --- timm, diffusers ----------------------------------------------------------------------------------------------


def timm(name: str, fused: int, left: int, why: str = "", **options: Any) -> None:
    def make():
        return import_module("timm").create_model(name, num_classes=5, **options), [pictures()], {}

    TABLE[f"timm {name}"] = Surveyed(fused, left, make, why)


SMALL = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 8}
STAGES: dict[str, Any] = {"img_size": 32, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
timm("swin_tiny_patch4_window7_224", 2, 0, **STAGES)
timm("swinv2_tiny_window8_256", 4, 0, **STAGES)
timm("cait_xxs24_224", 4, 0, **SMALL)
timm("deit3_small_patch16_224", 2, 0, **SMALL)
timm("convit_tiny", 2, 0, **(SMALL | {"local_up_to_layer": 1}))
timm("vit_giant_patch14_dinov2", 2, 0, **SMALL)
timm("eva02_base_patch14_224", 4, 0, **(SMALL | {"embed_dim": 48}))
timm("davit_tiny", 8, 0, embed_dims=(16,) * 4, depths=(1,) * 4, num_heads=(2,) * 4)
timm("edgenext_xx_small", 4, 0, depths=(1,) * 4, dims=(16,) * 4)
timm("mambaout_femto", 1, 4, "torch.split", depths=(1,) * 4, dims=(16,) * 4)

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


def diffusers(name: str, fused: int, left: int, options: dict[str, Any], inputs: Callable[[], dict[str, Any]]) -> None:
    def make():
        return getattr(import_module("diffusers"), name)(**options), [], inputs()

    TABLE[f"diffusers {name}"] = Surveyed(fused, left, make)


def noised(size: int = 8, **more: Any) -> dict[str, Any]:
    return {"hidden_states": torch.randn(2, 4, size, size), "timestep": torch.tensor([1, 2])} | more


diffusers(
    "DiTTransformer2DModel", 5, 0, HEADS | {"in_channels": 4, "num_layers": 2, "sample_size": 8, "norm_num_groups": 4},
    lambda: noised(class_labels=torch.tensor([1, 2])),
)  # fmt: skip
diffusers(
    "SD3Transformer2DModel", 5, 0,
    HEADS | {"sample_size": 8, "in_channels": 4, "num_layers": 2, "out_channels": 4, "pos_embed_max_size": 16}
    | {"joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 16},
    lambda: noised(encoder_hidden_states=torch.randn(2, 5, 16), pooled_projections=torch.randn(2, 16)),
)  # fmt: skip
diffusers(
    "PriorTransformer", 2, 0, HEADS | {"num_layers": 1, "embedding_dim": 16, "num_embeddings": 7},
    lambda: {
        "hidden_states": torch.randn(2, 16), "timestep": torch.tensor([1, 2]), "proj_embedding": torch.randn(2, 16),
        "encoder_hidden_states": torch.randn(2, 7, 16),
    },
)  # fmt: skip

# --- graphs, atoms, fields ----------------------------------------------------------------------------------------


def graph() -> list[Tensor]:
    return [torch.randn(12, 8), torch.randint(0, 12, (2, 40))]


def edges() -> list[Tensor]:
    return [*graph(), torch.randn(40, 3)]


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers = [nn.Linear(*pair) for pair in pairwise(widths)]
    return nn.Sequential(*[m for layer in layers for m in (layer, act())][:-1])


def made(
    library: str, name: str, fused: int, left: int, make: Callable[[Any], nn.Module], inputs: Callable, why=""
) -> None:
    """A model that `make` makes of a module, by its full name, and what it is called with."""
    TABLE[f"{library.partition('.')[0]} {name}"] = Surveyed(
        fused, left, lambda: (make(import_module(library)), inputs(), {}), why
    )


PYG = "torch_geometric.nn"
made(PYG, "GIN", 2, 1, lambda g: g.GIN(8, 16, 2, out_channels=3), graph, "F.dropout")
for act in ("leaky_relu", "relu6", "hardtanh"):
    made(PYG, f"GIN, {act}", 2, 1, lambda g, act=act: g.GIN(8, 16, 2, act=act, out_channels=3), graph, "F.dropout")
made(PYG, "GIN, act first", 2, 1, lambda g: g.GIN(8, 16, 2, act="elu", act_first=True, norm="layer_norm"), graph)
made(PYG, "GIN, batch norm", 0, 0, lambda g: g.GIN(8, 16, 2, norm="batch_norm"), graph)
made(PYG, "EdgeCNN", 2, 0, lambda g: g.EdgeCNN(8, 16, 2), graph)
made(
    PYG,
    "MLP, tanh",
    3,
    0,
    lambda g: g.MLP([8, 16, 16, 3], act="tanh", norm=None, plain_last=False),
    lambda: graph()[:1],
)
made(PYG, "GPSConv", 2, 0, lambda g: g.GPSConv(8, g.GINConv(mlp(8, 8, 8)), heads=2), graph)
made(PYG, "NNConv", 1, 0, lambda g: g.NNConv(8, 4, mlp(3, 16, 32, act=nn.SiLU)), edges)
made(PYG, "CGConv", 2, 0, lambda g: g.CGConv(8, 3), edges)
made(PYG, "GINEConv", 1, 0, lambda g: g.GINEConv(mlp(8, 8, 8, act=nn.LeakyReLU), edge_dim=3), edges)
made(
    PYG, "AttentiveFP", 2, 4, lambda g: g.AttentiveFP(8, 8, 4, 3, 2, 2),
    lambda: [*edges(), torch.zeros(12, dtype=torch.long)],
)  # fmt: skip
made(PYG, "LINKX", 1, 0, lambda g: g.LINKX(12, 8, 16, 3, 2), graph)
made(
    PYG, "SetTransformerAggregation", 4, 0, lambda g: g.aggr.SetTransformerAggregation(8, heads=2, layer_norm=True),
    lambda: [graph()[0], torch.zeros(12, dtype=torch.long)],
)  # fmt: skip
made(
    "physicsnemo.models.fno", "FNO", 1, 0,
    lambda m: m.FNO(2, 2, decoder_layer_size=16, latent_channels=8, num_fno_layers=2, num_fno_modes=3, padding=2),
    lambda: [torch.randn(2, 2, 8, 8)],
)  # fmt: skip
made(
    "physicsnemo.models.transolver", "Transolver", 3, 0,
    lambda m: m.Transolver(
        functional_dim=2, embedding_dim=3, out_dim=1, n_layers=2, n_hidden=16, n_head=2, mlp_ratio=2, slice_num=4,
        use_te=False,
    ),
    lambda: [torch.randn(2, 10, 2), torch.randn(2, 10, 3)],
)  # fmt: skip
made(
    "physicsnemo.models.mlp", "FullyConnected, relu", 3, 0,
    lambda m: m.FullyConnected(3, 32, 2, num_layers=3, activation_fn="relu"), lambda: [torch.randn(7, 3)],
)  # fmt: skip
for act in ("silu", "elu", "selu", "sigmoid", "gelu"):
    made(
        "deepxde", f"FNN, {act}", 2, 0, lambda m, act=act: m.nn.FNN([2, 16, 16, 1], act, "Glorot uniform"),
        lambda: [torch.randn(5, 2)],
    )  # fmt: skip


# --- what they are held to ----------------------------------------------------------------------------------------


def tensors(result: Any) -> list[Tensor]:
    """All numbers among what a model returns."""
    if isinstance(result, Tensor):
        return [result] if result.is_floating_point() else []
    values = result.values() if isinstance(result, dict) else result if isinstance(result, (tuple, list)) else ()
    return [t for value in values for t in tensors(value)]


class Follows(TorchDispatchMode):
    """Counts the activations that are computed of what a layer gave."""

    LAYERS = ("addmm", "mm", "linear", "bmm", "baddbmm")
    ACTS = ("relu", "gelu", "silu", "tanh", "sigmoid", "softplus", "elu", "hardtanh", "leaky_relu", "mish", "act")

    def __init__(self) -> None:
        super().__init__()
        self.count, self.given = 0, {}  # by their memory, which they keep

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().partition("::")[2].partition(".")[0]
        if name.removesuffix("_") in self.ACTS:
            self.count += self.given.pop(args[0].untyped_storage().data_ptr(), None) is not None
        y = func(*args, **(kwargs or {}))
        if name in self.LAYERS:
            self.given[y.untyped_storage().data_ptr()] = y
        return y


def doubled(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def made_of(case: Surveyed) -> tuple[nn.Module, Callable[[nn.Module], list[Tensor]]]:
    """The model in float64, and what calls it."""
    torch.manual_seed(0)
    model, args, named = case.make()
    args, named = [*map(doubled, args)], {k: doubled(v) for k, v in named.items()}
    return model.double(), lambda m: tensors(m(*args, **named))


def numbers(model: nn.Module, run: Callable[[nn.Module], list[Tensor]]) -> list[Tensor]:
    """What a model gives in evaluation and in training, and its gradients."""
    values = run(model.eval())
    model.train().zero_grad()
    torch.manual_seed(1)
    trained = run(model)
    sum(t.square().mean() for t in trained if t.requires_grad).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [t.detach() for t in (*values, *trained)] + [torch.cat([g.flatten() for g in gradients])]


@pytest.mark.parametrize(
    "name", [n if n.startswith(IN_CI) else pytest.param(n, marks=pytest.mark.models) for n in TABLE]
)
def test_numbers_are_stocks_and_what_follows_a_layer_runs_with_it(name):
    zoo.prepare()
    pytest.importorskip(name.partition(" ")[0])
    case = TABLE[name]
    stock, run = made_of(case)
    fused = fg.fuse(copy.deepcopy(stock))
    expected = numbers(stock, run)
    with routing.at_all_sizes():
        for mine, theirs in zip(numbers(fused, run), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=ERROR * max(1.0, theirs.abs().max().item()))
        fused.eval()
        with torch.no_grad(), Follows() as follows:
            run(fused)
        with torch.no_grad():
            ran = watch([m for m in fused.modules() if is_linear(m)], lambda: run(fused))
    assert (sum(layer.fused for layer in ran.values()), follows.count) == (case.fused, case.left)
    rows = fg.explain(fused)
    assert all(row.fused_with or row.why for row in rows) and (case.why in str([row.why for row in rows]))
