"""Real models of public libraries, from their configs with random weights: what tests and a benchmark of fuse run.

One entry a model, in the file of its kind. A library is imported when a model of it is built.
"""

from . import graphs, language, layers, particles, physics, vision
from .libraries import PACKAGES, prepare, version
from .model import Model, Size, inference, inputs_of, linears, make, training

MODELS: list[Model] = [
    *language.MODELS,
    *vision.MODELS,
    *physics.MODELS,
    *particles.MODELS,
    *graphs.MODELS,
    *layers.MODELS,
]

__all__ = [
    "MODELS",
    "PACKAGES",
    "Model",
    "Size",
    "inference",
    "inputs_of",
    "linears",
    "make",
    "prepare",
    "training",
    "version",
]
