"""The module of a whole network of linear layers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from . import functional
from .functional_chain import chain
from .nn import Linear, check_act, fits, weight_and_bias, why_alone


class MLP(nn.Module):
    """Linear layers with an activation between them: y = act(x w1^T + b1) w2^T + b2, or more of them.

    The layers are `fc1`, `fc2`, ..., each a `fusegrad.Linear`: of two the state_dict is that of the MLP of a vision
    transformer in timm. They run as one op, `fusegrad.mlp` or `fusegrad.chain`, which saves each hidden layer once for
    backward. A layer that is hooked, parametrized or replaced is called by itself.

    Args:
        in_features: size of x; or the sizes of x, of each hidden layer and of y, and no other size.
        hidden_features: size of the hidden layer; None is in_features.
        out_features: size of y; None is in_features.
        act: name of the activation, a key of `fusegrad.ACTIVATIONS`, or None for none.
        param: its parameter where it has one (slope, alpha, beta, omega); None is torch's default.
        bias: whether the layers have a bias.
        device, dtype: as torch.nn.Linear.
        recompute: whether backward computes the hidden layers again, so that x is all that is saved (see
            `fusegrad.chain`); layers that are called by themselves save what they save.

    Shapes: x (..., in_features) -> y (..., out_features).

    Raises:
        ValueError: `act` is unknown or `param` is not legal, or the sizes are less than two, or given twice; on call as
            `fusegrad.mlp`.
        TypeError: `param` is no number, or a device or dtype stands in the place of `act` or `param`.

    >>> import torch, fusegrad as fg
    >>> mlp = fg.MLP(3, 8, act="silu")
    >>> mlp(torch.randn(2, 3)).shape
    torch.Size([2, 3])
    >>> fg.MLP([2, 64, 64, 1], act="tanh")(torch.randn(5, 2)).shape
    torch.Size([5, 1])
    """

    recompute = False  # of those that were pickled without
    layer_names: tuple[str, ...] = "fc1", "fc2"

    def __init__(
        self,
        in_features: int | Sequence[int],
        hidden_features: int | None = None,
        out_features: int | None = None,
        act: str | None = "gelu",
        param: float | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        check_act("MLP", act, param)
        self._act, self._param, self.recompute = act, param, recompute
        sizes = _sizes_of_mlp(in_features, hidden_features, out_features)
        self.layer_names = tuple([f"fc{i}" for i in range(1, len(sizes))])
        for name, (k, n) in zip(self.layer_names, pairwise(sizes), strict=True):
            setattr(self, name, Linear(k, n, bias, device=device, dtype=dtype))

    def layers(self) -> list[Any]:
        """fc1, fc2, ..., as they are now."""
        return [getattr(self, name) for name in self.layer_names]

    def forward(self, input: Tensor) -> Tensor:
        layers = self.layers()
        if all(why_alone(layer) is None for layer in layers):
            weights = [weight_and_bias(layer) for layer in layers]
            if fits(input, *weights[0]):
                return self._as_one(input, weights)
        act = self._act or "identity"
        for layer in layers[:-1]:
            input = functional.act(layer(input), act, self._param)
        return layers[-1](input)

    def _as_one(self, x: Tensor, weights: list[tuple]) -> Tensor:
        if len(weights) == 2:
            (w1, b1), (w2, b2) = weights
            return functional.mlp(x, w1, b1, w2, b2, act=self._act, param=self._param, recompute=self.recompute)
        hidden = [(w, b, self._act, self._param) for w, b in weights[:-1]]
        return chain(x, [*hidden, (*weights[-1], None)], recompute=self.recompute)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        check_act("MLP", self._act, self._param)

    def extra_repr(self) -> str:
        param = "" if self._param is None else f", param={self._param}"
        return f"act={self._act!r}{param}" + (", recompute=True" if self.recompute else "")


def _sizes_of_mlp(k: int | Sequence[int], hidden: int | None, out: int | None) -> list[int]:
    if not isinstance(k, Sequence):
        return [k, k if hidden is None else hidden, k if out is None else out]
    if len(k) < 2 or not (hidden is None and out is None):
        raise ValueError(f"MLP: sizes {list(k)}, {hidden=}, {out=}; need two sizes or more, of x to y, and no other")
    return list(k)
