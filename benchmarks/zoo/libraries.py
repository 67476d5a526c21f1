"""What it takes to import a library: which are here, in which version."""

import importlib.metadata
import importlib.util
import os

import torch
import torch.utils.data.dataloader

PACKAGES = {  # by the name to import: the name to install
    "torch": "torch",
    "transformers": "transformers",
    "timm": "timm",
    "deepxde": "deepxde",
    "pina": "pina-mathlab",
    "schnetpack": "schnetpack",
    "torch_geometric": "torch_geometric",
    "physicsnemo": "nvidia-physicsnemo",
    "opacus": "opacus",
    "stable_baselines3": "stable-baselines3",
    "lightning": "lightning",
    "sentence_transformers": "sentence-transformers",
    "diffusers": "diffusers",
    "peft": "peft",
    "e3nn": "e3nn",
}
_LIBRARIES: list[torch.library.Library] = []  # which go when nobody holds them


def version(library: str) -> str:
    """The version that is installed, or ""."""
    try:
        return importlib.metadata.version(PACKAGES[library])
    except importlib.metadata.PackageNotFoundError:
        return ""


def prepare() -> None:
    """Let the libraries that are here be imported with this torch."""
    os.environ.setdefault("DDE_BACKEND", "pytorch")  # else DeepXDE asks, or writes a file to the home folder
    loader = torch.utils.data.dataloader
    if not hasattr(loader, "T_co") and hasattr(loader, "_T_co"):
        setattr(loader, "T_co", loader._T_co)  # noqa: B010  # SchNetPack takes it by its name before torch 2.13
    if importlib.util.find_spec("torchvision") and not _torchvision_loads():
        # a wheel for CUDA beside a torch for the CPU: the models of timm use its Python only
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


def _torchvision_loads() -> bool:
    try:
        import torchvision
    except RuntimeError:
        return False
    return torchvision is not None
