"""Plain networks, as libraries for training use them: policies, adapters, gradients of each sample."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fusegrad as fg

from .model import Model, Size, first

REAL = Size(512, 512)
SMALL = Size(32, 16)
SEQUENCES = Size(768, 2, 128)


class Mlp(nn.Module):
    """A classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, 10)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        x = self.act(self.fc2(x))
        return self.fc3(x)


def _mlp(size: Size) -> nn.Module:
    return Mlp(size.width)


def _samples(size: Size) -> list[Tensor]:
    return [torch.randn(size.batch, 64)]


# --- torch's own transformers, sequences first, as they are if nothing is asked for ----------------------------------


def _encoder(size: Size) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        size.width, size.width // 64 or 1, 4 * size.width, dropout=0.0, activation="gelu"
    )
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def _transformer(size: Size) -> nn.Module:
    return nn.Transformer(size.width, size.width // 64 or 1, 1, 1, 4 * size.width, dropout=0.0)


def _sequences(size: Size) -> list[Tensor]:
    return [torch.randn(size.length, size.batch, size.width)]


# --- opacus -------------------------------------------------------------------------------------------------------


def _opacus(mode: str) -> Callable[[nn.Module], nn.Module]:
    def wrap(model: nn.Module) -> nn.Module:
        from opacus import GradSampleModule
        from opacus.grad_sample.utils import wrap_model

        samplers = GradSampleModule.GRAD_SAMPLERS  # by exact class
        samplers[fg.Linear] = samplers[nn.Linear]
        return wrap_model(model, grad_sample_mode=mode)

    return wrap


def _per_sample(model: nn.Module) -> list[Tensor]:
    return [p.grad_sample for p in model.parameters()]  # type: ignore[attr-defined]  # which opacus sets


def _private(name: str, mode: str) -> Model:
    return Model(
        "opacus",
        name,
        _mlp,
        _samples,
        Size(256, 128),
        SMALL,
        followed=2,
        run=lambda model, x: model._module(x),
        trained=first,
        wrap=_opacus(mode),
        gradients=_per_sample,
        timed=mode != "functorch",
    )


# --- stable-baselines3 --------------------------------------------------------------------------------------------


def _policy(size: Size) -> nn.Module:
    from gymnasium.spaces import Box
    from stable_baselines3.common.policies import ActorCriticPolicy

    box = lambda n: Box(-1.0, 1.0, (n,))
    return ActorCriticPolicy(box(17), box(6), lambda _: 3e-4, net_arch=[size.width] * 2)


def _evaluate(model: Any, observations: Tensor, actions: Tensor) -> Tensor:
    """As its evaluate_actions, which takes observations in float32 only."""
    policy, value = model.mlp_extractor(observations)
    log_likelihood = model._get_action_dist_from_latent(policy).log_prob(actions)
    return torch.cat((model.value_net(value).flatten(), log_likelihood))


def _critic(size: Size) -> nn.Module:
    from gymnasium.spaces import Box
    from stable_baselines3.common.policies import ContinuousCritic
    from stable_baselines3.common.torch_layers import FlattenExtractor

    observations = Box(-1.0, 1.0, (17,))
    extractor = FlattenExtractor(observations)
    return ContinuousCritic(observations, Box(-1.0, 1.0, (6,)), [size.width] * 2, extractor, 17)


def _observations_and_actions(size: Size) -> list[Tensor]:
    return [torch.randn(size.batch, 17), torch.randn(size.batch, 6)]


# --- lightning, sentence-transformers, peft -----------------------------------------------------------------------


def _lightning(size: Size) -> nn.Module:
    from lightning import LightningModule

    class Classifier(LightningModule):
        """A model with its training step."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
            self.head = nn.Linear(width, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.net(x))

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return nn.functional.mse_loss(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Classifier(size.width)


def _dense(size: Size) -> nn.Module:
    from sentence_transformers.models import Dense

    return Dense(size.width, size.width, activation_function=nn.Tanh())


def _embed(model: nn.Module, x: Tensor) -> Tensor:
    return model({"sentence_embedding": x})["sentence_embedding"]


def _adapt(model: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, target_modules=["fc1", "fc2"], init_lora_weights=False)
    return get_peft_model(model, config)


MODELS = [
    Model("torch", "MLP, silu", _mlp, _samples, REAL, SMALL, followed=2),
    Model("torch", "TransformerEncoder, gelu", _encoder, _sequences, SEQUENCES, Size(32, 2, 8), followed=2),
    Model(
        "torch", "Transformer, relu", _transformer, lambda size: _sequences(size) * 2, SEQUENCES, Size(32, 2, 8),
        followed=2,
    ),
    _private("hooks", "hooks"),
    _private("functorch", "functorch"),
    _private("ExpandedWeights", "ew"),
    Model(
        "stable_baselines3", "ActorCriticPolicy", _policy, _observations_and_actions, Size(256, 256), SMALL,
        followed=4, run=_evaluate,
    ),
    Model(
        "stable_baselines3", "ContinuousCritic", _critic, _observations_and_actions, Size(256, 256), SMALL,
        followed=4,
    ),
    Model("lightning", "classifier, relu", _lightning, _samples, REAL, SMALL, followed=2),
    Model(
        "sentence_transformers", "Dense, tanh", _dense, lambda size: [torch.randn(size.batch, size.width)], REAL, SMALL,
        followed=1, run=_embed,
    ),
    Model("peft", "LoRA, then fuse", lambda size: _adapt(_mlp(size)), _samples, REAL, SMALL, followed=2),
    Model("peft", "fuse, then LoRA", _mlp, _samples, REAL, SMALL, followed=2, wrap=_adapt),
]  # fmt: skip
