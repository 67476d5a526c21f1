"""What each kind of model gains: the first table of README.md, which report.py makes from the csv files."""

from pathlib import Path
from typing import NamedTuple

from . import models, record
from .harness import Result
from .markdown import NONE, row

HEAD = ("your model", "you write", "training", "inference", "best rival in training")
FUSE, LAPLACIAN, DIRECTIONAL = "`fg.fuse(model)`", "`fg.laplacian(model, x)`", "`fg.directional(model, x, v, 4)`"
NAMES = {
    "compile": "`torch.compile`",
    "max-autotune": "`torch.compile`, max-autotune",
    "jax": "JAX",
    "folx": "JAX with folx",
}
SDF = "eikonal SDF 3→512→512→512→512→512→512→512→512→1 softplus 100, batch 1024"
CRITIC = "WGAN-GP critic 784→256→256→1 leaky_relu 0.2, batch 256"


class Gain(NamedTuple):
    """One line: the case of a training step, and that of an inference, in the csv of a benchmark; or a real model."""

    model: str
    call: str
    benchmark: str
    training: str  # of a real model: its library
    inference: str = ""  # of a real model: its name


GAINS = (
    Gain("PINN, Laplacian in its loss, 3 × 32 wide", LAPLACIAN, "laplacian", "1000: 2-32-32-32-1 tanh"),
    Gain("PINN, Laplacian in its loss, 3 × 256 wide", LAPLACIAN, "laplacian", "1024: 3-256-256-256-1 silu"),
    Gain("gated PINN, 64 wide", LAPLACIAN, "laplacian_models", "1000: gated, 3 layers of tanh, 64 wide"),
    Gain("beam, fourth derivative, 64 wide", DIRECTIONAL, "directional", "1000: 2-64-64-64-1 tanh, order 4"),
    Gain("PINN of DeepXDE, with its own derivatives", FUSE, "models", "deepxde", "FNN, tanh"),
    Gain("MLP trained on forces, 256 wide", FUSE, "second_order", "force training 96→256→256→256→1 silu, batch 4096"),
    Gain("SchNet of SchNetPack, trained on forces", FUSE, "models", "schnetpack", "SchNet, forces"),
    Gain("PaiNN of SchNetPack, trained on forces", FUSE, "models", "schnetpack", "PaiNN, forces"),
    Gain("SDF with weight_norm, eikonal loss, 4 layers", FUSE, "models", "torch", "SDF, weight_norm"),
    Gain("SDF, eikonal loss, 8 × 512 wide", FUSE, "second_order", SDF),
    Gain("critic of WGAN-GP, 256 wide", FUSE, "second_order", CRITIC),
    Gain(
        "policy, 64 wide: update of PPO; next action",
        FUSE,
        "rl_step",
        "PPO 64-64 tanh, 64 rows, 17 observations, 6 actions",
        "action 64-64 tanh, 1 row, 17 observations, 6 actions",
    ),
    Gain(
        "small MLP, 64 rows, 64 wide",
        FUSE,
        "small_networks",
        "train 8→64→64→4 tanh, 64 rows",
        "infer 8→64→64→4 tanh, 64 rows",
    ),
    Gain("BERT of transformers", FUSE, "models", "transformers", "BERT"),
    Gain("Llama of transformers", FUSE, "models", "transformers", "Llama"),
)


def markdown(folder: Path) -> str:
    """One line for each of GAINS that was measured. Ratios are stock's time over the other's, in float32."""
    head = [row(HEAD), row(["---", "---", "---:", "---:", "---"])]
    return "\n".join([*head, *filter(None, (_line(gain, folder) for gain in GAINS))])


def _line(gain: Gain, folder: Path) -> str:
    csv = folder / ("models.csv" if gain.benchmark == "models" else f"{gain.benchmark}_cpu.csv")
    if not csv.exists():
        return ""
    if gain.benchmark == "models":
        of = [r for r, _ in models.read(csv) if (r.library, r.model) == gain[3:]]
        training, inference, best = [r.training for r in of], [r.inference for r in of], NONE
    else:
        results = [r for r, _ in record.read(csv) if r.dtype == "float32"]
        training, inference = _ours(results, gain.training), _ours(results, gain.inference)
        best = _best_rival(results, gain.training)
    return row((gain.model, gain.call, _ratio(training), _ratio(inference), best)) if training else ""


def _ours(results: list[Result], case: str) -> list[float]:
    return [r.ratio for r in results if (r.case, r.provider) == (case, "fusegrad")]


def _ratio(of: list[float]) -> str:
    return f"**{of[0]:.2f}**" if of else NONE


def _best_rival(results: list[Result], case: str) -> str:
    """The fastest of what else was tried, with its ratio."""
    others = ("stock", "stock, memory kept", "fusegrad")
    rivals = [r for r in results if r.case == case and r.provider not in others and not r.cannot]
    best = max(rivals, key=lambda r: r.ratio, default=None)
    return NONE if best is None else f"{NAMES.get(best.provider, best.provider)} {best.ratio:.2f}"
