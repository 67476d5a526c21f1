"""Programs of layers, activations and functions of each element, of a tensor with streams, as one op on the CPU.

Register 0 is x, step i makes register i + 1, the last is the result. What a model's source says is read as such a
program by reading.py; csrc/cpu/program.h runs it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import backends
from ..ops import chain_streams  # noqa: F401  # which defines the op
from ..ops.op import RULES
from ..routing import streams_are_a_chain
from .kinds import ALONG, LAPLACIAN, Kind, from_ops, kind_of, pays, to_ops
from .layers import act_streams, product
from .streamed import Layer, again
from .streams import Rules, Streams, each, whole

MOST_STEPS, MOST_LAYERS = 250, 30  # kMostSteps and kMostLayers of csrc/cpu/kernels.h
CURVED = "act", "mul"
WEIGHTED = "layer", "scale", "shift"


class Step(NamedTuple):
    kind: str
    a: int
    b: int  # the other register; as a where there is one
    more: tuple[Any, ...] = ()  # a layer; name and parameter of an activation; alpha and beta; places of features

    @property
    def text(self) -> str:
        read = (self.a,) if self.a == self.b and self.kind not in ("add", "sub", "mul", "cat") else (self.a, self.b)
        return " ".join(map(str, (self.kind, *read, *self.more)))


class Program:
    def __init__(self, width: int) -> None:
        self.steps: list[Step] = []
        self.widths = [width]  # of the registers
        self.is_squeezed = False  # whether the model returns its one feature without a dimension
        self.read: list[Any] = []  # code and classes whose source says so
        self.weights: list[Tensor | None] = []  # w and b of each layer; of a number no w, and itself

    def add(self, kind: str, a: int, b: int, *more: Any, width: int | None = None) -> int:
        self.steps.append(Step(kind, a, b, more))
        self.widths.append(self.widths[a] if width is None else width)
        return len(self.steps)

    def layer(self, a: int, w: Tensor, b: Tensor | None) -> int:
        self.weights += w, b
        return self.add("layer", a, a, len(self.weights) // 2 - 1, width=w.shape[0])

    def of_features(self, kind: str, a: int, numbers: Tensor) -> int:
        """A scale or a shift, by a number or one for each feature."""
        self.weights += None, numbers.reshape(-1)
        return self.add(kind, a, a, len(self.weights) // 2 - 1)

    def up_to(self, last: int) -> "Program":
        """The program whose result is this register, of the steps that it depends on."""
        needed = {last}
        for i in range(last, 0, -1):
            if i in needed:
                needed |= {self.steps[i - 1].a, self.steps[i - 1].b}
        needed -= {0}
        if len(needed) == len(self.steps):
            return self
        found, now = Program(self.widths[0]), {0: 0}
        found.read = self.read
        for i in sorted(needed):
            kind, a, b, more = self.steps[i - 1]
            if kind in WEIGHTED:
                at = 2 * more[0]
                more = (len(found.weights) // 2,)
                found.weights += self.weights[at : at + 2]
            now[i] = found.add(kind, now[a], now[b], *more, width=self.widths[i])
        return found

    def chain(self) -> list[Layer] | None:
        """The layers, if that is all, and each is the input of the next."""
        found: list[Layer] = []
        for i, s in enumerate(self.steps):
            if s.a != i:
                return None
            if s.kind == "layer":
                w = self.weights[2 * s.more[0]]
                assert w is not None
                found.append(Layer(w, self.weights[2 * s.more[0] + 1]))
            elif s.kind == "act" and found and found[-1].act == "identity":
                found[-1] = Layer(found[-1].w, found[-1].b, *s.more)
            else:
                return None
        return found

    def of_value_alone(self) -> int:
        """A bit for each of x, t, l, w_1, b_1, ... of which no derivative of the result depends."""
        curved = [False] * len(self.widths)  # whether a register goes through what is no linear map
        bits = 0
        for i, s in reversed([*enumerate(self.steps)]):
            here = curved[i + 1] or s.kind in CURVED
            if s.kind in ("layer", "shift") and not curved[i + 1]:
                bits |= 1 << (4 + 2 * s.more[0])
            curved[s.a] |= here
            curved[s.b] |= here
        return bits | (not curved[0])


def serves(rules: Rules, x: Tensor, streams: Streams) -> bool:
    """Whether programs of such an x are served, whatever they are."""
    if backends.node is None or is_compiling() or kind_of(rules, streams) is None:
        return False
    return streams_are_a_chain(x, streams, (), ())


def run(rules: Rules, x: Tensor, streams: Streams, of: Program) -> tuple[Tensor, Streams] | None:
    """What a program makes of x (..., k) and its streams; None where that is left."""
    acts = tuple(s.more[0] for s in of.steps if s.kind == "act")
    if not backends.KNOWN.issuperset(acts) or not 0 < len(of.weights) <= 2 * MOST_LAYERS or len(of.steps) > MOST_STEPS:
        return None
    kind = kind_of(rules, streams)
    if kind is None or not pays(rules, of.weights) or x.numel() == 0:
        return None
    if not streams_are_a_chain(x, streams, of.weights, ()):
        return None
    if (given := to_ops(rules, x, streams)) is None:
        return None
    text = ",".join(s.text for s in of.steps)
    made = getattr(backends.node, kind.program)(*given, tuple(of.weights), text, of.of_value_alone())
    return None if made is None else from_ops(rules, made[0], kind.streams(*made[1:]))


def _step_by_step(
    kind: Kind,
    text: str,
    x: Tensor,
    t: Tensor,
    l: Tensor | None,  # noqa: E741
    *weights: Any,
) -> tuple[Tensor, ...]:
    """The same by functions that have derivatives themselves."""
    registers: list[tuple[Tensor, Streams]] = [(x, kind.given(x, t, l))]
    for step in text.split(","):
        name, *read = step.split(" ")
        registers.append(_one(kind.rules(t), name, read, registers, weights))
    return kind.made(*registers[-1])


def _one(
    rules: Rules, kind: str, read: Sequence[str], registers: list[tuple[Tensor, Streams]], weights: Sequence[Any]
) -> tuple[Tensor, Streams]:
    a, of_a = registers[int(read[0])]
    if kind == "layer":
        at = 2 * int(read[1])
        return product(rules, a, of_a, weights[at], weights[at + 1])
    if kind == "act":
        return act_streams(rules, a, of_a, read[1], float(read[2]))
    if kind == "affine":
        alpha, beta = map(float, read[1:])
        return alpha * a + beta, each(of_a, lambda s: alpha * s)
    if kind == "scale":
        number = weights[2 * int(read[1]) + 1]
        return number * a, each(of_a, lambda s: number * s)
    if kind == "shift":
        return a + weights[2 * int(read[1]) + 1], of_a
    if kind == "take":
        start, by, n = map(int, read[1:])
        places = [start + i * by for i in range(n)]
        return a[..., places], each(of_a, lambda s: whole(s, (*s.shape[1:-1], a.shape[-1]))[..., places])
    b, of_b = registers[int(read[1])]
    if kind == "mul":
        return a * b, rules.product(torch.mul, a, of_a, b, of_b)
    join: Any = {"add": torch.add, "sub": torch.sub, "cat": lambda p, q: torch.cat([p, q], -1)}[kind]
    of_all = lambda k, s, y: y.new_zeros(rules.directions(k), *y.shape) if s is None else whole(s, y.shape)
    both = enumerate(zip(of_a, of_b, strict=True), 1)
    return join(a, b), tuple(join(of_all(k, p, a), of_all(k, q, b)) for k, (p, q) in both)


def _rule(kind: Kind, ctx: Any, *grads: Tensor | None) -> Sequence[Tensor | None]:
    """The rule of the node that C++ made (csrc/autograd/streams.h), in all modes but plain eager mode."""
    _, t, l, x, *weights = ctx.saved_tensors  # noqa: E741
    return again(lambda *given: _step_by_step(kind, ctx.acts, *given), (x, t, l, *weights), grads, ctx.wanted)


RULES["program_streams"], RULES["program_taylor"] = partial(_rule, LAPLACIAN), partial(_rule, ALONG)
