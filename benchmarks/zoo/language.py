"""Language models of transformers, and what is made of them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .model import Model, Size

WORDS = 512
REAL = Size(768, 2, 128)
SMALL = Size(64, 2, 8)


def _build(model: str, config: str, **options: Any) -> Callable[[Size], nn.Module]:
    """A model of two layers from a config without dropout; an option may be computed from the size."""

    def build(size: Size) -> nn.Module:
        import transformers

        given = {k: v(size) if callable(v) else v for k, v in options.items()}
        made = getattr(transformers, config)(**given)
        return getattr(transformers, model)(made)

    return build


TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _sizes(**more: Any) -> dict[str, Any]:
    """What most configs call their sizes."""
    return {
        "vocab_size": WORDS,
        "hidden_size": lambda size: size.width,
        "num_hidden_layers": 2,
        "num_attention_heads": lambda size: size.width // 32,
        "initializer_range": lambda size: 1 / math.sqrt(size.width),
        "max_position_embeddings": 256,
        **TOKENS,
    } | more


FLOAT32_ERROR = 1e-6  # of a norm that is computed in float32
_FOUR = {"intermediate_size": lambda size: 4 * size.width}
_GATED = {"intermediate_size": lambda size: 8 * size.width // 3, "num_key_value_heads": lambda size: size.width // 64}
_DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_SEQUENCE = {
    "vocab_size": WORDS,
    "d_model": lambda size: size.width,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": lambda size: size.width // 32,
    "decoder_attention_heads": lambda size: size.width // 32,
    "encoder_ffn_dim": lambda size: 4 * size.width,
    "decoder_ffn_dim": lambda size: 4 * size.width,
    "dropout": 0.0,
    "init_std": lambda size: 1 / math.sqrt(size.width),
    **TOKENS,
}


def words(size: Size) -> list[Tensor]:
    return [torch.randint(3, WORDS, (size.batch, size.length))]


def _words_twice(size: Size) -> list[Tensor]:
    return [*words(size), *words(size)]


def _sound(size: Size) -> list[Tensor]:
    return [torch.randn(size.batch, 80, 2 * size.length), *words(size)]


def _encode_and_decode(model: nn.Module, inputs: Tensor, ids: Tensor) -> Tensor:
    return model(inputs, decoder_input_ids=ids, use_cache=False).last_hidden_state


def _decode(model: nn.Module, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).last_hidden_state


def _t5(form: str) -> Callable[[Size], nn.Module]:
    return _build(
        "T5Model",
        "T5Config",
        vocab_size=WORDS,
        d_model=lambda size: size.width,
        d_kv=32,
        num_heads=lambda size: size.width // 32,
        d_ff=lambda size: 4 * size.width if form == "relu" else 8 * size.width // 3,
        num_layers=1,
        num_decoder_layers=1,
        dropout_rate=0.0,
        feed_forward_proj=form,
        tie_word_embeddings=True,
    )


def _transformers(name: str, build: Callable[[Size], nn.Module], followed: int, **more: Any) -> Model:
    given: dict[str, Any] = {"inputs": words, "real": REAL, "small": SMALL} | more
    return Model("transformers", name, build, followed=followed, **given)


def _gated(name: str, model: str, config: str, **options: Any) -> Model:
    build = _build(model, config, **_sizes(**_GATED, **options))
    return _transformers(name, build, followed=4, run=_decode, float64_error=FLOAT32_ERROR)


MODELS = [
    _transformers("BERT", _build("BertModel", "BertConfig", **_sizes(**_FOUR, **_DRY)), followed=3),
    _transformers("BERT, masked words", _build("BertForMaskedLM", "BertConfig", **_sizes(**_FOUR, **_DRY)), followed=3),
    _transformers(
        "RoBERTa, masked words", _build("RobertaForMaskedLM", "RobertaConfig", **_sizes(**_FOUR, **_DRY)), followed=3
    ),
    _gated("Llama", "LlamaModel", "LlamaConfig"),
    _gated("Mistral", "MistralModel", "MistralConfig"),
    _gated("Qwen2", "Qwen2Model", "Qwen2Config"),
    _gated("Gemma", "GemmaModel", "GemmaConfig", head_dim=32),
    _transformers(
        "Phi",
        _build("PhiModel", "PhiConfig", **_sizes(**_FOUR, resid_pdrop=0.0, embd_pdrop=0.0, attention_dropout=0.0)),
        followed=2,
        run=_decode,
    ),
    _transformers(
        "OPT",
        _build(
            "OPTModel",
            "OPTConfig",
            **_sizes(ffn_dim=lambda size: 4 * size.width, word_embed_proj_dim=lambda size: size.width, dropout=0.0),
        ),
        followed=2,
        run=_decode,
    ),
    _transformers(
        "GPT-2",
        _build(
            "GPT2Model",
            "GPT2Config",
            vocab_size=WORDS,
            **TOKENS,
            n_embd=lambda size: size.width,
            n_layer=2,
            n_head=lambda size: size.width // 32,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        ),
        followed=2,
        run=_decode,
        linears=("Conv1D",),
    ),
    _transformers(
        "BART",
        _build("BartModel", "BartConfig", **_SEQUENCE, max_position_embeddings=256),
        followed=2,
        inputs=_words_twice,
        run=_encode_and_decode,
    ),
    _transformers(
        "Whisper",
        _build(
            "WhisperModel",
            "WhisperConfig",
            **_SEQUENCE,
            decoder_start_token_id=1,
            max_source_positions=lambda size: size.length,
        ),
        followed=2,
        inputs=_sound,
        run=_encode_and_decode,
    ),
    _transformers(
        "T5", _t5("relu"), followed=2, inputs=_words_twice, run=_encode_and_decode, float64_error=FLOAT32_ERROR
    ),
    _transformers(
        "T5, gated",
        _t5("gated-gelu"),
        followed=4,
        inputs=_words_twice,
        run=_encode_and_decode,
        float64_error=FLOAT32_ERROR,
    ),
]
