"""Gated layers as modules."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from . import functional
from .activations import lookup
from .at_once import gated_at_once
from .functional_gated import gated, gated_packed
from .nn import Linear, check_act, fits, weight_and_bias, why_alone
from .ops.arguments import check_packing


def _by_layers(x: Tensor, gate: Any, up: Any, act: str | None, param: float | None) -> Tensor:
    """act(gate(x)) up(x): as one op, or each layer by itself where one is hooked, parametrized or replaced."""
    if why_alone(gate) is None and why_alone(up) is None:
        (w_gate, b_gate), (w_up, b_up) = weight_and_bias(gate), weight_and_bias(up)
        if param is None and (y := _at_once(x, w_gate, w_up, b_gate, b_up, act)) is not None:
            return y
        if fits(x, w_gate, b_gate) and fits(x, w_up, b_up):
            return gated(x, w_gate, w_up, b_gate, b_up, act=act, param=param)
    return functional.act(gate(x), act or "identity", param) * up(x)


def _at_once(x: Any, w_gate: Any, w_up: Any, b_gate: Any, b_up: Any, act: str | None) -> Tensor | None:
    a = lookup("gated", act or "identity")
    try:
        return gated_at_once(x, w_gate, w_up, b_gate, b_up, a, a.default)
    except RuntimeError:  # of what does not fit, which is told by layers
        return None


class _Gated(nn.Module):
    """What the modules have in common: an activation."""

    def __init__(self, act: str | None, param: float | None) -> None:
        super().__init__()
        check_act(type(self).__name__, act, param)
        self._act, self._param = act, param

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        check_act(type(self).__name__, self._act, self._param)

    def extra_repr(self) -> str:
        return f"act={self._act!r}" + ("" if self._param is None else f", param={self._param}")


class GatedLinear(_Gated):
    """A linear layer times the activation of another one: y = act(x w_gate^T + b_gate) (x w_up^T + b_up).

    With act="silu" it is SwiGLU, with "gelu" GeGLU, with "relu" ReGLU, with "sigmoid" GLU, with None bilinear. The two
    layers are `gate` and `up`, each a `fusegrad.Linear`; with a packing there is one `weight`, (2 out_features,
    in_features), and one `bias`, as a torch.nn.Linear of 2 out_features has them. They run as one op, `fusegrad.gated`.
    A layer that is hooked, parametrized or replaced is called by itself.

    Args:
        in_features: size of x.
        out_features: size of y.
        bias: whether the layers have a bias.
        act: name of the activation, a key of `fusegrad.ACTIVATIONS`, or None for none.
        param: its parameter where it has one (slope, alpha, beta, omega); None is torch's default.
        packing: None for two layers; else which rows of one weight are the gate's, as in `fusegrad.gated_packed`:
            "gate_first", "gate_last" or "interleaved".
        device, dtype: as torch.nn.Linear.

    Shapes: x (..., in_features) -> y (..., out_features).

    Raises:
        ValueError: `act` or `packing` is unknown or `param` is not legal; on call as `fusegrad.gated`.
        TypeError: `param` is no number, or a device or dtype stands in the place of `act` or `param`; on call as
            `fusegrad.gated`.

    Source: Dauphin et al., arXiv:1612.08083, and Shazeer, arXiv:2002.05202.

    >>> import torch, fusegrad as fg
    >>> layer = fg.GatedLinear(3, 8, act="gelu", packing="gate_last")
    >>> layer(torch.randn(2, 3)).shape, layer.weight.shape
    (torch.Size([2, 8]), torch.Size([16, 3]))
    """

    bias: Tensor | None  # with a packing

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        act: str | None = "silu",
        param: float | None = None,
        packing: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(act, param)
        self.in_features, self.out_features, self._packing = in_features, out_features, packing
        if packing is None:
            self.gate = Linear(in_features, out_features, bias, device=device, dtype=dtype)
            self.up = Linear(in_features, out_features, bias, device=device, dtype=dtype)
            return
        check_packing("GatedLinear", packing)
        empty = lambda *shape: nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.weight = empty(2 * out_features, in_features)
        self.register_parameter("bias", empty(2 * out_features) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Numbers as torch.nn.Linear draws them."""
        if self._packing is None:
            self.gate.reset_parameters()
            self.up.reset_parameters()
            return
        bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0.0
        for p in (self.weight, self.bias):
            if p is not None:
                nn.init.uniform_(p, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        if self._packing is None:
            return _by_layers(input, self.gate, self.up, self._act, self._param)
        w, b = self.weight, self.bias  # once each, as in torch: a parametrization runs when it is read
        return gated_packed(input, w, b, act=self._act, param=self._param, packing=self._packing)

    def extra_repr(self) -> str:
        packed = "" if self._packing is None else f", packing={self._packing!r}"
        return f"{self.in_features}, {self.out_features}, {super().extra_repr()}{packed}"


class GatedMLP(_Gated):
    """A gated layer, and a linear layer after it: y = (act(x w_gate^T + b_gate) (x w_up^T + b_up)) w_down^T + b_down.

    The layers are `gate_proj`, `up_proj` and `down_proj`, each a `fusegrad.Linear`, as in Llama, Mistral, Qwen and
    Gemma, whose state_dict it takes. The first two run as one op, `fusegrad.gated`. A layer that is hooked,
    parametrized or replaced is called by itself.

    Args:
        in_features: size of x.
        hidden_features: size of the gated layer.
        out_features: size of y; None is in_features.
        act: name of the activation, a key of `fusegrad.ACTIVATIONS`, or None for none.
        param: its parameter where it has one (slope, alpha, beta, omega); None is torch's default.
        bias: whether the layers have a bias.
        device, dtype: as torch.nn.Linear.

    Shapes: x (..., in_features) -> y (..., out_features).

    Raises:
        ValueError: `act` is unknown or `param` is not legal; on call as `fusegrad.gated`.
        TypeError: `param` is no number, or a device or dtype stands in the place of `act` or `param`.

    Source: Shazeer, arXiv:2002.05202.

    >>> import torch, fusegrad as fg
    >>> mlp = fg.GatedMLP(3, 8)
    >>> mlp(torch.randn(2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        act: str | None = "silu",
        param: float | None = None,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(act, param)
        out = in_features if out_features is None else out_features
        self.gate_proj = Linear(in_features, hidden_features, bias, device=device, dtype=dtype)
        self.up_proj = Linear(in_features, hidden_features, bias, device=device, dtype=dtype)
        self.down_proj = Linear(hidden_features, out, bias, device=device, dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        return self.down_proj(_by_layers(input, self.gate_proj, self.up_proj, self._act, self._param))
