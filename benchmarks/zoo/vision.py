"""Vision models, of transformers and timm; the feed-forward block of diffusers."""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from .language import TOKENS, WORDS, words
from .model import Model, Size

PATCH = 16
REAL = Size(768, 1, 224)
SMALL = Size(64, 2, 32)


def _images(size: Size) -> list[Tensor]:
    return [torch.randn(size.batch, 3, size.length, size.length)]


def _tower(size: Size, **more: Any) -> dict[str, Any]:
    """What transformers calls the sizes of a tower of two layers."""
    return {
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_hidden_layers": 2,
        "num_attention_heads": size.width // 32,
        "initializer_range": 1 / math.sqrt(size.width),
    } | more


def _pictures(size: Size) -> dict[str, Any]:
    return _tower(size, image_size=size.length, patch_size=PATCH)


def _vit(size: Size) -> nn.Module:
    import transformers

    dry = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.ViTModel(transformers.ViTConfig(**_pictures(size), **dry))


def _dinov2(size: Size) -> nn.Module:
    """As the giant: with gated feed-forward layers."""
    import transformers

    config = transformers.Dinov2Config(**_pictures(size), use_swiglu_ffn=True, mlp_ratio=4)
    return transformers.Dinov2Model(config)


def _clip(size: Size) -> nn.Module:
    import transformers

    text = _tower(size, vocab_size=WORDS, max_position_embeddings=77, **TOKENS)
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=_pictures(size), projection_dim=size.width)
    )


def _text_and_images(size: Size) -> list[Tensor]:
    return [*words(Size(size.width, size.batch, 32)), *_images(size)]


def _embeddings(model: nn.Module, ids: Tensor, images: Tensor) -> Tensor:
    out = model(input_ids=ids, pixel_values=images)
    return torch.cat((out.text_embeds, out.image_embeds))


def _timm(name: str, cls: str, options: Callable[[Size], dict[str, Any]], followed: int, real: Size = REAL) -> Model:
    """A model of timm; `cls` is file.Class in timm.models."""

    def build(size: Size) -> nn.Module:
        file, made = cls.split(".")
        return getattr(import_module(f"timm.models.{file}"), made)(**{"num_classes": 16} | options(size))

    return Model("timm", name, build, _images, real, SMALL, followed)


def _images_of(size: Size, **more: Any) -> dict[str, Any]:
    return {"img_size": size.length, "patch_size": PATCH, "embed_dim": size.width} | more


def _eva02(size: Size) -> dict[str, Any]:
    return _images_of(
        size,
        depth=2,
        num_heads=size.width // 32,
        mlp_ratio=8 / 3,
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(size.length // PATCH,) * 2,
    )


def _block(library: str, name: str, build: Callable[[Size], nn.Module], followed: int, length: int = 256) -> Model:
    """A module that is part of larger models."""
    rows = lambda size: [torch.randn(size.batch, size.length, size.width)]
    return Model(library, name, build, rows, Size(768, 2, length), Size(64, 2, 8), followed)


def _mlp(cls: str, **options: Any) -> Callable[[Size], nn.Module]:
    def build(size: Size) -> nn.Module:
        from timm.layers import mlp

        options_ = {"hidden_features": 4 * size.width} | options
        return getattr(mlp, cls)(size.width, **options_)

    return build


def _feed_forward(form: str) -> Callable[[Size], nn.Module]:
    def build(size: Size) -> nn.Module:
        from diffusers.models.attention import FeedForward

        return FeedForward(size.width, activation_fn=form)

    return build


MODELS = [
    Model("transformers", "ViT", _vit, _images, REAL, SMALL, followed=3),
    Model("transformers", "DINOv2, gated", _dinov2, _images, REAL, SMALL, followed=4),
    Model("transformers", "CLIP", _clip, _text_and_images, Size(512, 2, 224), SMALL, followed=4, run=_embeddings),
    _timm("ViT", "vision_transformer.VisionTransformer", lambda s: _images_of(s, depth=2, num_heads=s.width // 32), 2),
    _timm("MLP-Mixer", "mlp_mixer.MlpMixer", lambda s: _images_of(s, num_blocks=2, num_classes=0), 4),
    _timm(
        "ConvNeXt",
        "convnext.ConvNeXt",
        lambda s: {"depths": (1, 1, 1, 1), "dims": [s.width // 8 * k for k in (1, 2, 4, 8)], "ls_init_value": 0.1},
        4,
    ),
    _timm("EVA-02", "eva.Eva", _eva02, 4),
    _block("timm", "GluMlp", _mlp("GluMlp"), 1),
    _block("timm", "SwiGLU", _mlp("SwiGLU"), 2),
    _block("timm", "GatedMlp", _mlp("GatedMlp"), 1),
    _block("diffusers", "FeedForward, gelu", _feed_forward("gelu"), 1),
    _block("diffusers", "FeedForward, geglu", _feed_forward("geglu"), 1),
    _block("diffusers", "FeedForward, swiglu", _feed_forward("swiglu"), 1),
]
