"""The layers of a chain, one by one: in any mode, and differentiable as often as one likes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..activations import REGISTRY
from .act import act, act_gradients
from .linear import gradients, linear, linear_act, linear_jvp, mm
from .terms import product, rows, total


class Plan:
    """What is known of a chain but its tensors: the activation of each layer, its parameter, and which have a bias."""

    def __init__(self, names: Sequence[str], params: Sequence[float], has_bias: Sequence[bool]) -> None:
        self.names, self.params = names, tuple(map(float, params))  # numpy's too
        self.acts = ",".join(f"{name} {param!r}" for name, param in zip(names, self.params, strict=True))
        self.absent = tuple(2 * i + 1 for i, there in enumerate(has_bias) if not there)  # among the weights
        # a bit for each layer whose activation saves its input
        self.saves_input = sum(1 << i for i, name in enumerate(names) if REGISTRY[name].saves_input)
        # whether what the last layer saves is the output
        self.saves_output = names[-1] != "identity" and not REGISTRY[names[-1]].saves_input

    def shifted(self, by: int, *more: int) -> tuple[int, ...]:
        """What is absent where the weights are the arguments from `by` on, and `more` before them."""
        return *more, *(i + by for i in self.absent)


plan = lru_cache(maxsize=1000)(Plan)  # of tuples


class Layer(NamedTuple):
    w: Tensor
    b: Tensor | None
    name: str
    param: float

    @property
    def saves_input(self) -> bool:
        return REGISTRY[self.name].saves_input

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """y, and what the activation saves."""
        if self.name == "identity":
            return linear(x, self.w, self.b), None
        y, saved = linear_act(x, self.w, self.b, self.name, self.param, True)
        return y, saved if self.saves_input else y

    def first(self, s: Tensor | None, g: Tensor) -> Tensor:
        """g D_1(s)."""
        return g if s is None else act(s, g, self.name, self.param, 1)

    def second(self, s: Tensor, g: Tensor) -> Tensor:
        """g act''(z), where D_2 is dD_1/ds: of a layer with an activation."""
        u = act(s, g, self.name, self.param, 2)
        return u if self.saves_input else self.first(s, u)

    def third(self, s: Tensor, g: Tensor) -> Tensor:
        """g act'''(z): where the activation saves y, g D_1 (D_2^2 + D_1 D_3)."""
        u = act(s, g, self.name, self.param, 3)
        if self.saves_input:
            return u
        return self.first(s, self.first(s, u) + act(s, act(s, g, self.name, self.param, 2), self.name, self.param, 2))


def layers_of(weights: Sequence[Any], of: Plan) -> list[Layer]:
    return list(map(Layer, weights[::2], weights[1::2], of.names, of.params))


def forward_by_layers(
    x: Tensor, weights: Sequence[Tensor | None], of: Plan, save: bool
) -> tuple[Tensor, Tensor]:  # y; what is saved, in one piece, or empty
    """y, and of each layer what its activation saves, or y where it has none; of the last only z, if it saves that."""
    y, kept = x, []
    for layer in layers_of(weights, of):
        y, s = layer.forward(y)
        kept.append(y if s is None else s)
    if of.names[-1] == "identity" or of.saves_output:
        kept.pop()
    return y, torch.cat([s.reshape(-1) for s in kept]) if save and kept else x.new_empty(0)


def _of_first_needed(needed: Sequence[bool]) -> int:
    """The first layer whose own gradients are needed, or that of x."""
    return 0 if needed[0] else (needed.index(True) - 1) // 2 if any(needed) else len(needed)


def backward_by_layers(
    gy: Tensor,
    x: Tensor,
    weights: Sequence[Tensor | None],
    of: Plan,
    needed: Sequence[bool],  # of x, w_1, b_1, ...
) -> list[Tensor | None]:
    """gx, gw_1, gb_1, ..., each if needed: of layers that are computed again."""
    layers = layers_of(weights, of)
    inputs, kept = [x], []
    for layer in layers:
        y, s = layer.forward(inputs[-1])
        inputs.append(y)
        kept.append(s)
    found: list[Tensor | None] = [None] * len(needed)
    first = _of_first_needed(needed)
    for i in range(len(layers) - 1, first - 1, -1):
        layer = layers[i]
        gz = layer.first(kept[i], gy)
        further = i > first or needed[0]
        gx, *found[1 + 2 * i : 3 + 2 * i] = gradients(gz, inputs[i], layer.w, (further, *needed[1 + 2 * i : 3 + 2 * i]))
        if further and gx is not None:
            gy = gx
    found[0] = gy if needed[0] else None
    return found


def second_by_layers(
    gy: Tensor,
    x: Tensor,
    weights: Sequence[Tensor | None],
    of: Plan,
    along: Sequence[Tensor | None],  # of gx, gw_1, gb_1, ...
    needed: Sequence[bool],  # of gy, x, w_1, b_1, ...
) -> list[Tensor | None]:
    """The gradients of <gy, ty> with respect to gy, x, w_1, b_1, ..., each if needed; ty is the tangent of y.

    Forward, for each layer, with t of its input and of w and b from `along`:

        z = x w^T + b,  tz = t w^T + x t_w^T + t_b,  y = act(z),  ty = D_1 tz

    and back, with c and c_t the cotangents of y and ty, from 0 and gy:

        c_tz = D_1 c_t,  c_z = D_1 c + D_2 tz c_t  (where the activation saves y: D_1 (c + D_2 tz c_t))
        gw = c_z^T x + c_tz^T t,  gb = the sum of c_z,  c = c_z w + c_tz t_w,  c_t = c_tz w
    """
    layers = layers_of(weights, of)
    t: Tensor | None = along[0]
    h, passed = x, []
    for i, layer in enumerate(layers):
        y, s = layer.forward(h)
        tz = linear_jvp(h, layer.w, t, along[1 + 2 * i], along[2 + 2 * i])
        passed.append((h, t, s, tz))
        h, t = y, None if tz is None else layer.first(s, tz)
    found: list[Tensor | None] = [None] * len(needed)
    found[0] = t if needed[0] else None
    of_inputs = needed[1:]
    c: Tensor | None = None
    c_t: Tensor = gy
    first = _of_first_needed(of_inputs)
    for i in range(len(layers) - 1, first - 1, -1):
        layer, (h, t, s, tz) = layers[i], passed[i]
        along_s = None
        if s is None or tz is None:
            c_tz = layer.first(s, c_t)
        else:
            along_s, c_tz, _ = act_gradients(c_t, s, tz, layer.name, layer.param, 1, (True, True, False))
        if s is not None and not layer.saves_input:
            c, along_s = total(c, along_s), None
        c_z = total(None if c is None else layer.first(s, c), along_s)
        need_w, need_b = of_inputs[1 + 2 * i : 3 + 2 * i]
        if need_w:
            found[2 + 2 * i] = total(
                None if c_z is None else mm(rows(c_z), rows(h), True, False),
                None if t is None else mm(rows(c_tz), rows(t), True, False),
            )
        if need_b and c_z is not None:
            found[3 + 2 * i] = rows(c_z).sum(0)
        if i == first and not needed[1]:
            break
        t_w = along[1 + 2 * i]
        c = total(
            None if c_z is None else mm(rows(c_z), layer.w, False, False).reshape(h.shape),
            None if t_w is None else mm(rows(c_tz), t_w, False, False).reshape(h.shape),
        )
        c_t = mm(rows(c_tz), layer.w, False, False).reshape(h.shape)
    found[1] = c if needed[1] else None
    return found


def third_by_layers(
    gl: Tensor,
    x: Tensor,
    weights: Sequence[Tensor | None],
    of: Plan,
    t: Tensor,
    p: Tensor,
    needed: Sequence[bool],  # of gl, x, w_1, b_1, ...
) -> list[Tensor | None]:
    """The gradients of <gl, q> with respect to gl, x, w_1, b_1, ..., each if needed; q is D^2 y[t, p].

    Forward, for each layer, with t, p and q of its input, which of x is 0:

        z = x w^T + b,  tz = t w^T,  pz = p w^T,  qz = q w^T
        y = act(z),  ty = act' tz,  py = act' pz,  qy = act' qz + act'' tz pz

    and back, with c, c_t, c_p and c_q their cotangents, from 0, 0, 0 and gl:

        c_qz = act' c_q,  c_tz = act' c_t + act'' pz c_q,  c_pz = act' c_p + act'' tz c_q
        c_z = act' c + act'' (tz c_t + pz c_p + qz c_q) + act''' tz pz c_q
        gw = c_z^T x + c_tz^T t + c_pz^T p + c_qz^T q,  gb = the sum of c_z,  and each of them times w
    """
    layers = layers_of(weights, of)
    q: Tensor | None = None
    h, passed = x, []
    for layer in layers:
        y, s = layer.forward(h)
        tz, pz = linear(t, layer.w, None), linear(p, layer.w, None)
        qz = None if q is None else linear(q, layer.w, None)
        passed.append(((h, t, p, q), s, tz, pz, qz))
        h, t, p, q = y, layer.first(s, tz), layer.first(s, pz), None if qz is None else layer.first(s, qz)
        if s is not None:
            q = total(q, layer.second(s, tz * pz))
    found: list[Tensor | None] = [None] * len(needed)
    found[0] = q if needed[0] else None
    of_inputs = needed[1:]
    c: list[Tensor | None] = [None, None, None, gl]  # of y, ty, py, qy
    first = _of_first_needed(of_inputs)
    for i in range(len(layers) - 1, first - 1, -1):
        layer, (inputs, s, tz, pz, qz) = layers[i], passed[i]
        if s is not None:
            _, c_t, c_p, c_q = c
            assert c_q is not None
            along = total(product(tz, c_t), product(pz, c_p), product(qz, c_q))
            c = [None if g is None else layer.first(s, g) for g in c]
            c[0] = total(c[0], None if along is None else layer.second(s, along), layer.third(s, tz * pz * c_q))
            c[1], c[2] = total(c[1], layer.second(s, pz * c_q)), total(c[2], layer.second(s, tz * c_q))
        need_w, need_b = of_inputs[1 + 2 * i : 3 + 2 * i]
        if need_w:
            pairs = zip(c, inputs, strict=True)
            terms = (mm(rows(g), rows(a), True, False) for g, a in pairs if g is not None and a is not None)
            found[2 + 2 * i] = total(*terms)
        if need_b and c[0] is not None:
            found[3 + 2 * i] = rows(c[0]).sum(0)
        c = [None if g is None else mm(rows(g), layer.w, False, False).reshape(inputs[0].shape) for g in c]
    found[1] = c[0] if needed[1] else None
    return found
