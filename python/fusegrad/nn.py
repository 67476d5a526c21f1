"""Modules: they own parameters, and call the functions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.modules import module as torch_module

from . import functional
from .activations import REGISTRY, lookup
from .at_once import layer_at_once, parameters_at_once
from .internals.call import calls_torch, is_one_of_others, unseen
from .internals.module import is_hooked, stored
from .internals.stock import as_written, called_as_written, stands_for
from .ops.operands import DTYPES
from .routing import route_of_layer, stock_serves


def _is_device(act: object) -> bool:
    try:
        return act is not None and torch.device(act) is not None  # type: ignore[call-overload]  # any object may come
    except (RuntimeError, TypeError):
        return False


def check_act(module: str, act: str | None, param: float | None) -> None:
    """What a module is told of its activation."""
    try:
        lookup(module, "identity" if act is None else act).check(module, param)
    except (ValueError, TypeError):
        if isinstance(param, torch.dtype) or _is_device(act):  # where torch.nn.Linear has device and dtype
            raise TypeError(f"{module}: act={act!r}, param={param!r}; give device and dtype by name") from None
        raise


_IDENTITY = REGISTRY["identity"]
SMALL = "_fusegrad_small"  # set by fuse on what a compiler is to see as it is written, as its layers are small


class MisfitValue(ValueError, RuntimeError):
    """Raised where torch.nn.Linear raises RuntimeError, so that code which catches that goes on as it did."""


class MisfitType(TypeError, RuntimeError):
    """The same for a dtype or a device."""


class Linear(nn.Linear):
    """A linear layer with an activation: y = act(x w^T + b). A drop-in for torch.nn.Linear, with its state_dict.

    Args:
        in_features, out_features, bias, device, dtype: as torch.nn.Linear.
        act: name of the activation, a key of `fusegrad.ACTIVATIONS`, or None for none.
        param: its parameter where it has one (slope, alpha, beta, omega); None is torch's default.

    Shapes: x (..., in_features) -> y (..., out_features).

    Raises:
        ValueError: `act` is unknown or `param` is not legal; on call as `fusegrad.linear_act`.
        TypeError: `param` is no number, or a device or dtype stands in the place of `act` or `param`; on call as
            `fusegrad.linear_act`, but that without `act` what torch.nn.Linear takes is computed; an adapter of peft is
            put around a layer with an activation.

    >>> import torch, fusegrad as fg
    >>> layer = fg.Linear(3, 4, act="gelu_tanh")
    >>> layer(torch.randn(2, 3)).shape
    torch.Size([2, 4])
    """

    # On the class, so that a torch.nn.Linear can adopt it; by names that no user gives to a label of a layer.
    _fusegrad_act: str | None = None
    _fusegrad_param: float | None = None
    _fusegrad_small = False  # SMALL

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
        check_act("Linear", act, param)
        super().__init__(in_features, out_features, bias, device, dtype)
        self._fusegrad_act, self._fusegrad_param = act, param

    def forward(self, input: Tensor) -> Tensor:
        if self._fusegrad_small and is_compiling():
            return super().forward(input)
        if not as_written(Linear):
            y = super().forward(input)
            return y if self._fusegrad_act is None else functional.act(y, self._fusegrad_act, self._fusegrad_param)
        w, b = weight_and_bias(self)
        if self._fusegrad_act is not None:
            return functional.linear_act(input, w, b, act=self._fusegrad_act, param=self._fusegrad_param)
        return linear_alone(input, w, b)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        check_act("Linear", self._fusegrad_act, self._fusegrad_param)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        if self._fusegrad_act is not None:
            shown += f", act={self._fusegrad_act!r}"
        if self._fusegrad_param is not None:
            shown += f", param={self._fusegrad_param}"
        return shown


def _refuse_adapter(module: nn.Module, name: str, child: nn.Module | None) -> None:
    """An adapter (LoRA, say) adds to what its base layer gives, and merges into the weight: before the activation."""
    if name != "base_layer" or not isinstance(child, Linear) or child._fusegrad_act is None:
        return
    if any(cls.__module__.startswith("peft.") for cls in type(module).__mro__):
        raise TypeError(
            f"Linear: {type(module).__name__} of peft adds to the output of its layer, which here comes after "
            f"act={child._fusegrad_act!r}; need a Linear without act, and a fusegrad.Act after it"
        )


torch_module.register_module_module_registration_hook(_refuse_adapter)


def weight_and_bias(linear: nn.Linear) -> tuple[Any, Any]:
    """Each is read once, as in torch: a parametrization runs when it is read. It is a property of a derived class.

    Of a Linear they are looked up: torch finds a parameter after an error, which takes as long as all the rest of this.
    """
    read = parameters_at_once(linear) if type(linear) is Linear else None
    return (linear.weight, linear.bias) if read is None else read


stands_for(nn.Linear, (nn.Linear, "forward"))
stands_for(Linear, (Linear, "forward"), (nn.Linear, "forward"))


def linear(x: Any, w: Any, b: Any) -> Tensor:
    """What torch.nn.Linear computes: by `functional.linear`, or by torch what that does not take."""
    route = route_of_layer(x, w, b)
    return _with_misfits(x, w, b) if route == "op" else functional.by_route(route, x, w, b)


def linear_alone(x: Any, w: Any, b: Any) -> Tensor:
    """The same where no activation is to be fused with it."""
    if is_one_of_others(x, w):
        return F.linear(x, w, b)
    try:
        y = layer_at_once(x, w, b, _IDENTITY, 0.0)
    except RuntimeError:
        if fits(x, w, b):
            raise
        return _with_misfits(x, w, b)
    if y is not None:
        return y
    return stock_linear(x, w, b) if stock_serves(x, w, b, alone=True) else linear(x, w, b)


def stock_linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """The same by torch, but for the errors."""
    try:
        return F.linear(x, w, b)
    except RuntimeError:
        if fits(x, w, b):
            raise
        return _with_misfits(x, w, b)


def _with_misfits(x: Any, w: Any, b: Any) -> Tensor:
    try:
        return functional.linear(x, w, b)
    except (RuntimeError, TypeError, ValueError) as refused:
        if fits(x, w, b):
            raise  # not for what it was given
        try:
            return F.linear(x, w, b)
        except RuntimeError as error:
            if isinstance(refused, RuntimeError):
                raise
            raise (MisfitValue if isinstance(refused, ValueError) else MisfitType)(*refused.args) from error
        except Exception as error:
            raise refused from error


@unseen
def fits(x: Any, w: Any, b: Any) -> bool:
    """Whether the ops take these: torch takes integers, sparse tensors and more besides."""
    if not (isinstance(x, Tensor) and takes_input(x) and isinstance(w, Tensor) and takes_input(w)):
        return False
    if isinstance(w, nn.UninitializedParameter):  # which has no shape
        return False
    dtype, shape, device = w.dtype, w.shape, w.device
    same = x.dtype == dtype and (b is None or b.dtype == dtype)
    return (
        len(shape) == 2
        and x.shape[-1:] == shape[1:]
        and x.device == device
        and (b is None or (b.shape == shape[:1] and b.device == device and b.dtype in DTYPES))
        and (same or torch.is_autocast_enabled(device.type))
    )


def takes_input(input: Tensor) -> bool:
    return not input.is_nested and input.layout is torch.strided and input.dtype in DTYPES


def is_ours(m: Any) -> bool:
    """Whether this is a Linear of ours; torch's parametrizations derive a class from it."""
    return type(m) is Linear or (isinstance(m, Linear) and type(m).forward is Linear.forward)


def why_alone(linear: Any) -> str | None:
    """Why a Linear cannot be part of any fused call, whatever its weight is, or None. Reads no weight."""
    if type(linear) is not Linear and not is_ours(linear):
        return f"its class is {type(linear).__name__}"
    if linear._fusegrad_act is not None:
        return "it has an activation of its own"
    return why_called(linear)


def why_unfit(linear: nn.Module) -> str | None:
    """Why no op takes the weight and bias that a Linear has now, or None."""
    weight = stored(linear, "weight")
    if not isinstance(weight, Tensor):
        return "it has no weight"
    if isinstance(weight, nn.UninitializedParameter):
        return "its weight is not initialized"
    if calls_torch(weight):
        return f"its weight is a {type(weight).__name__}"
    if weight.dtype not in DTYPES:
        return f"its weight is {weight.dtype}"
    bias = stored(linear, "bias")
    if isinstance(bias, Tensor) and bias.shape != weight.shape[:1]:
        return f"its bias has shape {tuple(bias.shape)}"
    return None


def why_called(m: nn.Module) -> str | None:
    """Why a module of ours or of torch's has to be called, and not only what its forward says computed; or None."""
    if is_hooked(m):
        return "has hooks"
    cls = type(m)
    if "forward" in m.__dict__ or not as_written(cls):
        return "has another forward"
    return None if called_as_written(cls) else "has another __call__"


class Act(nn.Module):
    """An activation as a module: y = act(z), elementwise. Arguments and errors as `fusegrad.act`.

    >>> import torch, fusegrad as fg
    >>> fg.Act("leaky_relu", param=0.5)(torch.tensor([-1.0, 1.0]))
    tensor([-0.5000,  1.0000])
    """

    def __init__(self, act: str, param: float | None = None) -> None:
        super().__init__()
        lookup("Act", act).check("Act", param)
        self._act, self._param = act, param

    def forward(self, input: Tensor) -> Tensor:
        return functional.act(input, self._act, self._param)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        check_act("Act", vars(self).get("_act"), vars(self).get("_param"))  # which what fuse made lacks

    def extra_repr(self) -> str:
        return repr(self._act) + ("" if self._param is None else f", param={self._param}")


stands_for(Act, (Act, "forward"))
