"""Networks that solve differential equations, fields of distances and images: trained on their own derivatives."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad

from .model import Model, Size

REAL = Size(256, 2000)
SMALL = Size(32, 48)


def points(size: Size) -> list[Tensor]:
    """Points of the unit square."""
    return [torch.rand(size.batch, 2)]


def residual(model: nn.Module, x: Tensor) -> Tensor:
    """u and its Laplacian, by nested autograd."""
    x = x.detach().requires_grad_()
    u = model(x)[:, :1]
    (du,) = grad(u.sum(), x, create_graph=True)
    second = [grad(du[:, i].sum(), x, create_graph=True)[0][:, i : i + 1] for i in range(x.shape[1])]
    return torch.cat((u, *second), 1)


def _model(library: str, name: str, build: Callable[[Size], nn.Module], followed: int, **more: Any) -> Model:
    """A network of the unit square; unless told otherwise its loss has a Laplacian."""
    given: dict[str, Any] = {"inputs": points, "real": REAL, "small": SMALL, "trained": residual, "twice": True} | more
    return Model(library, name, build, followed=followed, **given)


# --- DeepXDE ------------------------------------------------------------------------------------------------------


def _fnn(activation: str) -> Callable[[Size], nn.Module]:
    def build(size: Size) -> nn.Module:
        from deepxde.nn import FNN

        return FNN([2, *[size.width] * 3, 1], activation, "Glorot uniform")

    return build


def _pfnn(size: Size) -> nn.Module:
    from deepxde.nn import PFNN

    return PFNN([2, [size.width] * 2, [size.width] * 2, 2], "tanh", "Glorot uniform")


def _deeponet(size: Size) -> nn.Module:
    from deepxde.nn import DeepONetCartesianProd

    w = size.width
    return DeepONetCartesianProd([50, w, w, w], [2, w, w, w], "relu", "Glorot normal")


def _functions_and_points(size: Size) -> list[Tensor]:
    return [torch.randn(size.batch // 10, 50), *points(size)]


def _operator(model: nn.Module, functions: Tensor, x: Tensor) -> Tensor:
    return model((functions, x))


def _hessian(model: nn.Module, x: Tensor) -> Tensor:
    """u and its Laplacian, as DeepXDE computes them."""
    import deepxde

    x = x.detach().requires_grad_()
    u = model(x)
    second = [deepxde.grad.hessian(u, x, i=i, j=i) for i in range(2)]
    deepxde.grad.clear()
    return torch.cat((u, *second), 1)


# --- PINA ---------------------------------------------------------------------------------------------------------


def _pina(activation: str | None) -> Callable[[Size], nn.Module]:
    """A feed-forward network; the activation is one of its adaptive functions, or torch's tanh."""

    def build(size: Size) -> nn.Module:
        from pina.model import FeedForward

        func = getattr(import_module("pina.adaptive_function"), activation) if activation else nn.Tanh
        return FeedForward(2, 1, inner_size=size.width, n_layers=3, func=func)

    return build


def _pina_residual(size: Size) -> nn.Module:
    from pina.model import ResidualFeedForward

    return ResidualFeedForward(2, 1, inner_size=size.width, n_layers=3)


def _labelled(model: nn.Module, x: Tensor) -> Tensor:
    """u and its Laplacian, as PINA computes them, of its own class of tensors."""
    from pina import LabelTensor
    from pina.operator import laplacian

    points = LabelTensor(x, ["x", "y"]).requires_grad_()
    u = LabelTensor(model(points).as_subclass(Tensor), ["u"])
    return torch.cat((u.as_subclass(Tensor), laplacian(u, points).as_subclass(Tensor)), 1)


# --- PhysicsNeMo --------------------------------------------------------------------------------------------------


def _fully_connected(**options: Any) -> Callable[[Size], nn.Module]:
    def build(size: Size) -> nn.Module:
        from physicsnemo.models.mlp import FullyConnected

        return FullyConnected(2, size.width, 1, num_layers=3, **options)

    return build


# --- torch: what papers publish -----------------------------------------------------------------------------------


class Sdf(nn.Module):
    """A field of signed distances: weights with a norm of their own, a sharp softplus, and a skip connection."""

    def __init__(self, width: int, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        sizes = [(3, width), (width, width - 3), (width, width), (width, 1)]
        for k, (m, n) in enumerate(sizes):
            setattr(self, f"lin{k}", norm(nn.Linear(m, n)))
        self.activation = nn.Softplus(beta=100)

    def forward(self, points: Tensor) -> Tensor:
        x = points
        for k in range(4):
            if k == 2:
                x = torch.cat((x, points), -1)
            x = getattr(self, f"lin{k}")(x)
            if k < 3:
                x = self.activation(x)
        return x


def _old_norm(layer: nn.Module) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


# torch's softplus is the identity from 20 on: e^-20 off in its derivative, and in its own value a hundredth of that
SOFTPLUS_ERROR = 1e-8


def _distances(model: nn.Module, x: Tensor) -> Tensor:
    """The distance, and the length of its gradient, which is to be 1."""
    x = x.detach().requires_grad_()
    d = model(x)
    (dx,) = grad(d.sum(), x, create_graph=True)
    return torch.cat((d, dx.norm(dim=1, keepdim=True)), 1)


def _space(size: Size) -> list[Tensor]:
    return [torch.randn(size.batch, 3)]


class Sine(nn.Module):
    """A layer of SIREN."""

    def __init__(self, m: int, n: int, omega: float) -> None:
        super().__init__()
        self.omega_0, self.linear = omega, nn.Linear(m, n)
        with torch.no_grad():
            self.linear.weight.uniform_(-1 / m, 1 / m) if m == 2 else self.linear.weight.mul_(6**0.5 / omega)

    def forward(self, input: Tensor) -> Tensor:
        return torch.sin(self.omega_0 * self.linear(input))


def _siren(size: Size) -> nn.Module:
    w = size.width
    return nn.Sequential(Sine(2, w, 30.0), Sine(w, w, 30.0), Sine(w, w, 30.0), nn.Linear(w, 1))


MODELS = [
    _model("deepxde", "FNN, tanh", _fnn("tanh"), 3, trained=_hessian),
    _model("deepxde", "FNN, swish", _fnn("swish"), 3, trained=_hessian),
    _model("deepxde", "FNN, sin", _fnn("sin"), 3, trained=_hessian),
    _model("deepxde", "FNN, L-LAAF tanh", _fnn("LAAF-10 tanh"), 3, trained=_hessian),
    _model("deepxde", "PFNN, tanh", _pfnn, 4),
    _model(
        "deepxde",
        "DeepONet, relu",
        _deeponet,
        5,
        inputs=_functions_and_points,
        run=_operator,
        trained=None,
        twice=False,
    ),
    _model("pina", "FeedForward, tanh", _pina(None), 3),
    _model("pina", "FeedForward, tanh, labelled", _pina(None), 3, trained=_labelled, timed=False),
    _model("pina", "FeedForward, AdaptiveTanh", _pina("AdaptiveTanh"), 3),
    _model("pina", "FeedForward, AdaptiveSIREN", _pina("AdaptiveSIREN"), 3),
    _model("pina", "ResidualFeedForward", _pina_residual, 5),
    _model("physicsnemo", "FullyConnected, silu", _fully_connected(activation_fn="silu"), 3),
    _model(
        "physicsnemo",
        "FullyConnected, adaptive tanh",
        _fully_connected(activation_fn="tanh", adaptive_activations=True),
        3,
    ),
    _model(
        "physicsnemo",
        "FullyConnected, weight_norm",
        _fully_connected(weight_norm=True),
        3,
        linears=("WeightNormLinear",),
    ),
    _model(
        "torch",
        "SDF, weight_norm",
        lambda size: Sdf(size.width, nn.utils.parametrizations.weight_norm),
        3,
        inputs=_space,
        trained=_distances,
        float64_error=SOFTPLUS_ERROR,
    ),
    _model(
        "torch",
        "SDF, old weight_norm",
        lambda size: Sdf(size.width, _old_norm),
        3,
        inputs=_space,
        trained=_distances,
        float64_error=SOFTPLUS_ERROR,
    ),
    _model("torch", "SIREN", _siren, 3),
]
