"""Modules: they own parameters, and call the functions."""

import torch
from torch import Tensor

from . import functional
from .activations import lookup


def _is_device(act: object) -> bool:
    try:
        return act is not None and torch.device(act) is not None  # type: ignore[call-overload]  # any object may come
    except (RuntimeError, TypeError):
        return False


class Linear(torch.nn.Linear):
    """A linear layer with an activation: y = act(x w^T + b). A drop-in for torch.nn.Linear, with its state_dict.

    Args:
        in_features, out_features, bias, device, dtype: as torch.nn.Linear.
        act: name of the activation, a key of `fusegrad.ACTIVATIONS`, or None for none.
        param: its parameter where it has one (slope, alpha, beta, omega); None is torch's default.

    Shapes: x (..., in_features) -> y (..., out_features).

    Raises:
        ValueError: `act` is unknown or `param` is not legal; on call as `fusegrad.linear_act`.
        TypeError: `param` is no number, or a device or dtype stands in the place of `act` or `param`.

    >>> import torch, fusegrad as fg
    >>> layer = fg.Linear(3, 4, act="gelu_tanh")
    >>> layer(torch.randn(2, 3)).shape
    torch.Size([2, 4])
    """

    # On the class, so that a torch.nn.Linear can adopt it; private, since users label their layers.
    _act: str | None = None
    _param: float | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        act: str | None = None,
        param: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        try:
            lookup("Linear", "identity" if act is None else act).check("Linear", param)
        except (ValueError, TypeError):
            if isinstance(param, torch.dtype) or _is_device(act):  # where torch.nn.Linear has device and dtype
                raise TypeError(f"Linear: act={act!r}, param={param!r}; give device and dtype by name") from None
            raise
        super().__init__(in_features, out_features, bias, device, dtype)
        self._act, self._param = act, param

    def forward(self, input: Tensor) -> Tensor:
        if self._act is not None:
            return functional.linear_act(input, self.weight, self.bias, act=self._act, param=self._param)
        try:
            return functional.linear(input, self.weight, self.bias)
        except (TypeError, ValueError):  # torch takes integers and complex numbers too, and has its own errors
            return super().forward(input)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        if self._act is not None:
            shown += f", act={self._act!r}"
        if self._param is not None:
            shown += f", param={self._param}"
        return shown


def takes(linear: object, input: object) -> bool:
    """Whether the ops take this input: torch takes integers, complex and sparse tensors too, and has its own errors."""
    return (
        isinstance(input, Tensor)
        and isinstance(linear, torch.nn.Linear)
        and takes_input(input)
        and linear.weight.layout is torch.strided
        and linear.weight.dtype in functional.DTYPES
        and input.shape[-1:] == linear.weight.shape[1:]
    )


def takes_input(input: Tensor) -> bool:
    return not input.is_nested and input.layout is torch.strided and input.dtype in functional.DTYPES


class Act(torch.nn.Module):
    """An activation as a module: y = name(z), elementwise. Arguments and errors as `fusegrad.act`.

    >>> import torch, fusegrad as fg
    >>> fg.Act("leaky_relu", param=0.5)(torch.tensor([-1.0, 1.0]))
    tensor([-0.5000,  1.0000])
    """

    def __init__(self, name: str, param: float | None = None) -> None:
        super().__init__()
        lookup("Act", name).check("Act", param)
        self._name, self._param = name, param

    def forward(self, input: Tensor) -> Tensor:
        return functional.act(input, self._name, self._param)

    def extra_repr(self) -> str:
        return repr(self._name) + ("" if self._param is None else f", param={self._param}")
