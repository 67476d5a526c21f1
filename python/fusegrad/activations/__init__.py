"""The registry of activations: the one list that everything else reads.

An activation is written once, in definitions.py, as an expression (primitives.py). generate.py derives the rest and
writes it in C++, in Triton and in torch. Derivatives are functions of what the activation saves for backward, `s`: its
input z, or its output y where that is enough (the next layer saves y anyway, so then z is never stored). With
D_0 = act and D_1 = act'(z) in terms of s,

    D_{k+1} = d D_k / d s      for k >= 1,

so one rule serves both kinds (ops/act.py). Above order 3, which training on a Laplacian needs, torch differentiates
`third` (ops/act.py).

`value` and `first` of the registry are torch's own kernels where torch has one: they define what "as stock" means.
`second` and `third` are right to the last digits wherever they are normal numbers, in both tails
(tests/test_precision.py), and so is `first` in the kernels. They stay finite for arguments of any size: where a product
of zero and infinity could arise the argument is clamped to a range outside which the result has already rounded to its
limit in float64.
"""

from . import elementary
from .definition import Activation, as_float
from .definitions import DEFINITIONS
from .formulas import FORMULAS

__all__ = ["REGISTRY", "Activation", "as_float", "lookup"]

# what is defined but not generated yet is not there, so that generate.py can be run
REGISTRY: dict[str, Activation] = {
    name: d.entry(FORMULAS[name], elementary.zero) for name, d in DEFINITIONS.items() if name in FORMULAS
}


def lookup(op: str, act: str) -> Activation:
    """The entry of a name, or a ValueError that lists the names."""
    try:
        return REGISTRY[act]
    except (KeyError, TypeError):
        raise ValueError(
            f"{op}: unknown act {act!r}; known: {', '.join(REGISTRY)}; one of your own has to be "
            "defined first, by fusegrad.activation"
        ) from None
