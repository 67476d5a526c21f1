"""What is called with a layer's result is known when it is called: a local name, an argument, what a call gives."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from . import forward
from .one_class import Layers


def swish(x):
    return x * torch.sigmoid(x)


class Functions:
    tanh = staticmethod(torch.tanh)


BY_NAME = {"gelu": F.gelu, "swish": swish, "norm": functools.partial(F.layer_norm, normalized_shape=(8,))}
get = BY_NAME.get
written = functools.partial(forward, Layers, compiled=True)


@written(1)
def a_local_name(self, x):
    act = F.gelu
    return self.b(act(self.a(x)))


@written(2)
def a_local_name_in_statements(self, x):
    act = torch.tanh if self.flag else F.gelu
    x = self.a(x)
    x = act(x)
    x = self.b(x)
    if self.flag:
        x = self.drop(act(x))
    return x


@written(1)
def a_local_lambda(self, x):
    act = lambda z: z * torch.sigmoid(z)
    return self.b(act(self.a(x)))


@written(1)
def a_local_function(self, x):
    def act(z):
        return F.softplus(z) - 0.5

    return self.b(act(self.a(x)))


@written(1)
def a_local_partial(self, x):
    act = functools.partial(F.gelu, approximate="tanh")
    return self.b(act(self.a(x)))


@written(1)
def an_argument(self, x, *, act=torch.sigmoid):
    return self.b(act(self.a(x)))


@written(2)
def an_inner_call(self, x):
    return self.inner(self.inner(x, F.silu), F.elu)


Layers.inner = lambda self, x, act: act(self.c(x))


@written(1)
def an_item(self, x):
    return self.b(BY_NAME["swish"](self.a(x)))


@written(1)
def a_call(self, x):
    return self.b(get("gelu")(self.a(x)))


@written(1)
def by_getattr(self, x):
    return self.b(getattr(F, "gelu")(self.a(x)))  # noqa: B009


@written(1)
def of_a_class(self, x):
    return self.b(Functions.tanh(self.a(x)))


@written(1)
def a_module_made_there(self, x):
    return self.b(nn.ELU(0.5)(self.a(x)))


@written(1)
def with_a_constant(self, x):
    act = F.leaky_relu
    return self.b(act(self.a(x), 0.3))


@written(4)
def zipped_with_functions(self, x):
    for layer, act in zip(self.layers, [torch.tanh, F.gelu, swish, torch.sin], strict=True):
        x = act(layer(x))
    return x


@written(3)
def in_a_loop(self, x):
    act = torch.tanh
    for layer in self.layers[:-1]:
        x = act(layer(x))
    return self.layers[-1](x)


@written(1)
def of_a_scaled_layer(self, x):
    act = torch.sin
    return self.b(act(self.omega * self.a(x)))


@written(0, {"a": "read by act, decided when it is called"})
def no_activation(self, x):
    act = BY_NAME["norm"]
    return self.b(act(self.a(x)))


@written(0, {"a": "read by outputs.append"})
def a_list(self, x):
    outputs = []
    outputs.append(self.a(x))
    return outputs[0]


@written(0, {"a": "read by get('gelu')"})
def more_is_done_first(self, x):
    h = self.a(x)
    return self.b(get("gelu")(h))
