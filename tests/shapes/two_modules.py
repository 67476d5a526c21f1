"""A layer and an activation that are modules, each of every kind that libraries define."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from . import D, shape


class Conv1D(nn.Module):
    """GPT-2's: weights (in, out)."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias, self.nf = nn.Parameter(torch.randn(D, D) / 3), nn.Parameter(torch.randn(D)), D

    def forward(self, x):
        size_out = (*x.size()[:-1], self.nf)
        x = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        x = x.view(size_out)
        return x


class Biased(nn.Linear):
    """Falcon's: a product, and a bias that is added to it, if there is one."""

    def forward(self, input):
        hidden_states = input @ self.weight.T
        if self.bias is None:
            return hidden_states
        return hidden_states + self.bias


class Falcon(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.up, self.act, self.down = Biased(D, 2 * D, bias=bias), nn.GELU(), Biased(2 * D, D, bias=bias)

    def forward(self, x):
        x = self.act(self.up(x))
        x = self.down(x)
        return x


shape(1, name="product and bias")(lambda: Falcon(True))  # huggingface/transformers, Falcon
shape(1, name="product without a bias")(lambda: Falcon(False))


class GeLUFunction(torch.autograd.Function):
    """BLOOM's: its backward is written by hand."""

    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        return input * torch.sigmoid(input)

    @staticmethod
    def backward(ctx, grad_output):
        (input,) = ctx.saved_tensors
        s = torch.sigmoid(input)
        return grad_output * (s + input * s * (1 - s))


class BloomGelu(nn.Module):
    def forward(self, x):
        return GeLUFunction.apply(x)


@shape(0, {"0": "followed by BloomGelu, whose GeLUFunction has a backward of its own"})
def backward_by_hand():
    return nn.Sequential(nn.Linear(D, D), BloomGelu(), nn.Linear(D, D))


class WeightNorm(nn.Module):
    """PhysicsNeMo's: the weight is computed on each call."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(D, D)), nn.Parameter(torch.randn(D))
        self.weight_g = nn.Parameter(torch.rand(D, 1))

    def forward(self, input):
        norm = self.weight.norm(dim=1, p=2, keepdim=True)
        weight = self.weight_g * self.weight / norm
        return F.linear(input, weight, self.bias)


class Subclass(nn.Linear):
    """timm's: torch.jit.script takes the other branch."""

    def forward(self, input):
        if torch.jit.is_scripting():
            bias = self.bias.to(dtype=input.dtype) if self.bias is not None else None
            return F.linear(input, self.weight.to(dtype=input.dtype), bias=bias)
        else:
            return F.linear(input, self.weight, self.bias)


class ShiftedSoftplus(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = torch.log(torch.tensor(2.0)).item()

    def forward(self, x):
        return F.softplus(x) - self.shift


class QuickGELU(nn.Module):
    def forward(self, input):
        return input * torch.sigmoid(1.702 * input)


class NewGELU(nn.Module):
    def forward(self, input):
        cubed = input + 0.044715 * torch.pow(input, 3.0)
        return 0.5 * input * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * cubed))


class GELUActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.functional.gelu

    def forward(self, input):
        return self.act(input)


class ReLUSquared(nn.Module):
    def forward(self, input):
        relu_applied = nn.functional.relu(input)
        squared = torch.square(relu_applied)
        return squared


def quick_gelu(x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


class QuickGELUOfAFunction(nn.Module):
    def forward(self, input):
        return quick_gelu(input)


def swish(x, inplace: bool = False):
    return x.mul_(x.sigmoid()) if inplace else x.mul(x.sigmoid())


class Swish(nn.Module):
    def __init__(self):
        super().__init__()
        self.inplace = False

    def forward(self, x):
        return swish(x, self.inplace)


class LocallyAdaptive(nn.Module):
    """DeepXDE's L-LAAF: a trained slope."""

    def __init__(self):
        super().__init__()
        self.n, self.a, self.activation = 2.0, nn.Parameter(torch.tensor(0.5)), torch.tanh

    def forward(self, x):
        return self.activation(self.n * self.a * x)


class Adaptive(nn.Module):
    """PINA's: a trained slope, shift and factor."""

    def __init__(self):
        super().__init__()
        self._alpha, self._beta, self._gamma = (nn.Parameter(torch.tensor(v)) for v in (0.5, 0.7, 0.1))
        self._func = torch.tanh

    @property
    def alpha(self):
        return self._alpha

    @property
    def beta(self):
        return self._beta

    @property
    def gamma(self):
        return self._gamma

    def forward(self, x):
        if self._func is None:
            raise RuntimeError("without a function")
        if not callable(self._func):
            raise RuntimeError("what it holds is no function")
        return self.alpha * (self._func(self.beta * x + self.gamma))


class Pair(nn.Module):
    def __init__(self, layer, act):
        super().__init__()
        self.layer, self.act = layer, act

    def forward(self, x):
        x = self.layer(x)
        x = self.act(x)
        return x


ACTIVATIONS = {
    "shifted softplus": ShiftedSoftplus,
    "quick gelu": QuickGELU,
    "new gelu": NewGELU,
    "gelu held as a function": GELUActivation,
    "relu squared": ReLUSquared,
    "quick gelu by a function": QuickGELUOfAFunction,
    "swish that may be in place": Swish,
    "locally adaptive": LocallyAdaptive,
    "adaptive": Adaptive,
}
LAYERS = {
    "conv1d": Conv1D,
    "computed weight": WeightNorm,
    "subclass of linear": lambda: Subclass(D, D),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(D, D)),
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(D, D)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(D, D)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(D, D)),
}
for name, act in ACTIVATIONS.items():
    shape(1, name=name)(lambda act=act: Pair(nn.Linear(D, D), act()))
    shape(1, name=f"{name}, in a sequential")(lambda act=act: nn.Sequential(nn.Linear(D, D), act()))
for name, layer in LAYERS.items():
    shape(1, name=name)(lambda layer=layer: Pair(layer(), nn.SiLU()))
