"""What hypothesis draws: sizes, tensors of any layout, activations with their parameters. Each prints as the code that
makes it again."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from cases import CASES, DEVICE, DTYPES, Case

PARAMETERS = {
    "leaky_relu": st.floats(0, 2, allow_subnormal=False),
    "leaky_relu_in_place": st.floats(0, 2, allow_subnormal=False),
    "elu": st.floats(0, 4, allow_subnormal=False),
    "celu": st.floats(0.25, 4),
    "softplus": st.floats(0.25, 100),
    "sin": st.floats(-30, 30, allow_subnormal=False),
    "swish": st.floats(-4, 4, allow_subnormal=False),
    "snake": st.floats(0.25, 10),
    "squareplus": st.floats(0.1, 10),
    "morlet": st.floats(-10, 10, allow_subnormal=False),
}


def examples(share: float = 1.0):
    """The settings of a test that draws this share of the examples of a test; on a GPU a part, as each activation,
    dtype and order is compiled first."""
    part = 1 if DEVICE == "cpu" else 1 / 4
    return settings(max_examples=math.ceil(settings().max_examples * share * part))


@dataclass(frozen=True)
class Drawn:
    """A tensor of normal numbers whose dimensions lie in memory in any order and at any distance."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    seed: int = 0
    order: tuple[int, ...] | None = None  # of the dimensions, from the outermost in memory to the innermost
    steps: tuple[int, ...] | None = None  # between neighbours, 0 where all are the same number
    offset: int = 0  # of the first element

    def make(self, fn: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor:
        """The tensor, its numbers put through fn in float64."""
        order = self.order or range(len(self.shape))
        steps = self.steps or (1,) * len(self.shape)
        sizes = [n * step if step else 1 for n, step in zip(self.shape, steps, strict=True)]
        count = math.prod(sizes)
        generator = torch.Generator().manual_seed(self.seed)
        numbers = fn(torch.randn(self.offset + count, generator=generator, dtype=torch.float64))
        t = numbers.to(DEVICE, self.dtype)[self.offset :].view([sizes[d] for d in order])
        t = t.permute(sorted(range(len(order)), key=lambda d: order[d]))
        return t[tuple(slice(None, None, step or 1) for step in steps)].expand(self.shape)


sizes = st.sampled_from((0, 1, 2, 3, 5, 8, 17)) | st.integers(0, 70)
shapes = st.lists(sizes, min_size=1, max_size=3).map(tuple).filter(lambda shape: math.prod(shape) <= 20000)
dtypes = st.sampled_from(DTYPES)
activations = st.sampled_from(CASES) | st.sampled_from(sorted(PARAMETERS)).flatmap(
    lambda name: st.builds(Case, st.just(name), PARAMETERS[name])
)


def tensors(shape: tuple[int, ...], dtype: torch.dtype):
    """Contiguous, or of any layout."""
    seeds, rank = st.integers(0, 2**16), len(shape)
    contiguous = st.builds(Drawn, st.just(shape), st.just(dtype), seeds)
    steps = st.tuples(*[st.sampled_from((1, 1, 2, 3, 0))] * rank)
    orders = st.permutations(range(rank)).map(tuple)
    return contiguous | st.builds(Drawn, st.just(shape), st.just(dtype), seeds, orders, steps, st.integers(0, 5))
