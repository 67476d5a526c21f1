"""The functions that a user calls. Arguments are checked here, once, and then the op is called.

All are differentiable as often as you like, in backward and forward mode, under torch.func, torch.compile,
torch.export, autocast, and with distributed tensors. Nested and sparse tensors take stock torch's path, with its
derivatives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backends, ops
from .activations import Activation, as_float, lookup
from .at_once import act_at_once, layer_at_once, layer_in_one_call, linear_by_torch, mlp_at_once
from .chained import run_layers, run_recomputed
from .internals.call import calls_torch, saves_for_backward
from .ops.arguments import check_alike, check_linear, check_second, check_tensor, is_nested, is_strided, sizes
from .routing import Route, is_stocks, route_of_layer, route_of_mlp, route_of_tensor, route_with, runs_as_written

_IDENTITY = lookup("linear", "identity")


def linear_act(
    x: Tensor,  # (..., k)
    w: Tensor,  # (n, k)
    b: Tensor | None = None,  # (n)
    *,
    act: str,
    param: float | None = None,
) -> Tensor:  # (..., n)
    """A linear layer and its activation: y = act(x w^T + b).

    Args:
        x: input, (..., k), of any rank >= 1.
        w: weight, (n, k), as in torch.nn.Linear.
        b: bias, (n), or None.
        act: name of the activation, a key of `fusegrad.ACTIVATIONS`.
        param: its parameter where it has one (slope, alpha, beta, omega); None is torch's default.

    Returns:
        y, (..., n), in the dtype of x (under autocast: in the autocast dtype).

    Raises:
        TypeError: an argument is no tensor, the dtypes or devices are unsupported or differ, or `param` is no number.
        ValueError: the shapes do not fit, `act` is unknown, `param` is not legal.

    Source: torch.nn.functional.linear and the activation of the same name in torch.nn.functional.

    >>> import torch, fusegrad as fg
    >>> x, w, b = torch.ones(2, 3), torch.ones(4, 3), torch.zeros(4)
    >>> fg.linear_act(x, w, b, act="relu_squared")
    tensor([[9., 9., 9., 9.],
            [9., 9., 9., 9.]])
    """
    if act is None or act == "identity":
        lookup("linear_act", "identity").check("linear_act", param)
        return linear(x, w, b)
    a = lookup("linear_act", act)
    value = a.default if param is None else a.check("linear_act", param)
    try:
        if backends.node is None and a.stock_derives_twice and is_stocks(x, w, b):
            return a.value(F.linear(x, w, b), value)
        y = layer_at_once(x, w, b, a, value)
        return activated(route_of_layer(x, w, b), x, w, b, a, value) if y is None else y
    except RuntimeError:
        if not is_nested(x):
            check_linear("linear_act", x, w, b)  # says what does not fit
        raise


def activated(route: Route, x: Tensor, w: Tensor, b: Tensor | None, a: Activation, param: float) -> Tensor:
    """What `linear_act` computes, by the route of the layer, with a parameter that is legal."""
    if route not in ("stock", "written") and (y := layer_at_once(x, w, b, a, param)) is not None:
        return y
    if route == "function":
        route = route_with(a.name, route, x, w)
    if route == "kernel":
        return ops.linear_act.kernel(x, w, b, a.name, param, False)[0]
    if route == "function":
        y = layer_in_one_call(x, w, b, a.name, param, a.saves_input)
        return ops.linear_act.apply(x, w, b, a.name, param, True)[0] if y is None else y
    if route == "written":
        return a.value(F.linear(x, w, b), param)
    if route == "stock" and a.stock_derives_twice:
        return a.value(linear_by_torch(x, w, b), param)
    if not is_nested(x):
        check_linear("linear_act", x, w, b)
    if not is_strided(x, w):
        return a.value(F.linear(x, w, b), param)
    return ops.linear_act(x, w, b, a.name, param, saves_for_backward(x, w, b))[0]


def linear(
    x: Tensor,  # (..., k)
    w: Tensor,  # (n, k)
    b: Tensor | None = None,  # (n)
) -> Tensor:  # (..., n)
    """A linear layer: y = x w^T + b.

    Args:
        x: input, (..., k), of any rank >= 1.
        w: weight, (n, k), as in torch.nn.Linear.
        b: bias, (n), or None.

    Returns:
        y, (..., n), in the dtype of x (under autocast: in the autocast dtype).

    Raises:
        TypeError: an argument is no tensor, or the dtypes or devices are unsupported or differ.
        ValueError: the shapes do not fit.

    Source: torch.nn.functional.linear.

    >>> import torch, fusegrad as fg
    >>> fg.linear(torch.ones(3), torch.ones(2, 3), torch.ones(2))
    tensor([4., 4.])
    """
    try:
        return by_route(route_of_layer(x, w, b), x, w, b)
    except RuntimeError:
        if not is_nested(x):
            check_linear("linear", x, w, b)
        raise


def by_route(route: Route, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """What `linear` computes, by its route."""
    if route not in ("stock", "written") and (y := layer_at_once(x, w, b, _IDENTITY, 0.0)) is not None:
        return y
    if route == "function":
        route = route_with("identity", route, x, w)
    if route == "kernel":
        return ops.linear.kernel(x, w, b)
    if route == "function":
        y = layer_in_one_call(x, w, b, "identity", 0.0, False)
        return ops.linear.apply(x, w, b) if y is None else y
    if route == "stock":
        return linear_by_torch(x, w, b)
    if route == "written":
        return F.linear(x, w, b)
    if not is_nested(x):
        check_linear("linear", x, w, b)
    if not is_strided(x, w):
        return F.linear(x, w, b)
    return ops.linear(x, w, b)


def mlp(
    x: Tensor,  # (..., k)
    w1: Tensor,  # (h, k)
    b1: Tensor | None,  # (h)
    w2: Tensor,  # (n, h)
    b2: Tensor | None = None,  # (n)
    *,
    act: str | None,
    param: float | None = None,
    recompute: bool = False,
) -> Tensor:  # (..., n)
    """Two linear layers with an activation between them: y = act(x w1^T + b1) w2^T + b2.

    Of the hidden layer only what the activation saves is saved for backward, (..., h) once: its output, or its input z,
    from which backward computes act(z) again. Two layers of their own save both where the activation saves z. More
    layers are `fusegrad.chain`.

    Args:
        x: input, (..., k), of any rank >= 1.
        w1: weight of the first layer, (h, k), as in torch.nn.Linear.
        b1: its bias, (h), or None.
        w2: weight of the second layer, (n, h).
        b2: its bias, (n), or None.
        act: name of the activation, a key of `fusegrad.ACTIVATIONS`, or None for none.
        param: its parameter where it has one (slope, alpha, beta, omega); None is torch's default.
        recompute: whether backward computes the hidden layer again, so that nothing of it is saved (see
            `fusegrad.chain`).

    Returns:
        y, (..., n), in the dtype of x (under autocast: in the autocast dtype).

    Raises:
        TypeError: an argument is no tensor, the dtypes or devices are unsupported or differ, or `param` is no number.
        ValueError: the shapes do not fit, `act` is unknown, `param` is not legal.

    Source: torch.nn.functional.linear and the activation of the same name in torch.nn.functional; making act(z) again
    is the checkpointing of Chen et al., arXiv:1604.06174, of one elementwise pass.

    >>> import torch, fusegrad as fg
    >>> x, w1, w2 = torch.ones(2, 3), torch.ones(4, 3), torch.ones(1, 4)
    >>> fg.mlp(x, w1, None, w2, act="relu_squared")
    tensor([[36.],
            [36.]])
    """
    a = lookup("mlp", "identity" if act is None else act)
    value = a.default if param is None else a.check("mlp", param)
    y = None if recompute else mlp_at_once(x, w1, b1, w2, b2, a, value)
    if y is not None:
        return y
    written = runs_as_written(x, w1, b1, w2, b2)
    if not written and not is_nested(x):
        check_linear("mlp", x, w1, b1, ("x", "w1", "b1"))
        check_second("mlp", w1, w2, b2)
    if written or not is_strided(x, w1, w2):
        return F.linear(a.value(F.linear(x, w1, b1), value), w2, b2)
    layers = (w1, b1, w2, b2), (a.name, "identity"), (value, 0.0)
    if recompute:
        by_layers = lambda x, w1, b1, w2, b2: linear(linear_act(x, w1, b1, act=a.name, param=param), w2, b2)
        return run_recomputed(x, *layers, by_layers)
    y = run_layers(x, *layers)
    if y is not None:
        return y
    route = route_of_mlp(x, w1, b1, w2, b2)
    if route == "function":
        return ops.mlp.apply(x, w1, b1, w2, b2, a.name, value, True)[0]
    if route == "op":
        return ops.mlp(x, w1, b1, w2, b2, a.name, value, saves_for_backward(x, w1, b1, w2, b2))[0]
    return linear(linear_act(x, w1, b1, act=a.name, param=param), w2, b2)


def act(
    z: Tensor,  # any shape
    act: str,
    param: float | None = None,
) -> Tensor:  # shape of z
    """An activation, elementwise: y = act(z).

    Args:
        z: input of any shape, floating point.
        act: name of the activation, a key of `fusegrad.ACTIVATIONS`.
        param: its parameter where it has one; None is torch's default.

    Returns:
        y, in the shape and dtype of z (under autocast: in float32 where torch computes the activation in it).

    Raises:
        TypeError: z is no floating-point tensor, or `param` is no number.
        ValueError: `act` is unknown, or `param` is not legal.

    Source: the activation of the same name in torch.nn.functional; `fusegrad.activations` has the formulas.

    >>> import torch, fusegrad as fg
    >>> fg.act(torch.tensor([-1.0, 2.0]), "leaky_relu", 0.5)
    tensor([-0.5000,  2.0000])
    """
    if param is None and (y := act_at_once(z, act, None)) is not None:
        return y
    a = lookup("act", act)
    value = a.default if param is None else a.check("act", param)
    y = None if param is None else act_at_once(z, act, value)
    return act_by_route(route_of_tensor(z), z, a, value) if y is None else y


def act_by_route(route: Route, z: Tensor, a: Activation, param: float) -> Tensor:
    """What `act` computes, by its route, with a parameter that is legal."""
    if route == "kernel":
        return ops.act.kernel(z, None, a.name, param, 0)
    if route == "written":
        return a.value(z, param)
    check_tensor("act", "z", z)
    if z.is_nested or (route == "stock" and a.stock_derives_twice):
        return a.value(z, param)
    return ops.act(z, None, a.name, param, 0)


def mm(
    a: Tensor,  # (m, k), or (k, m) if trans_a
    b: Tensor,  # (k, n), or (n, k) if trans_b
    *,
    trans_a: bool = False,
    trans_b: bool = False,
) -> Tensor:  # (m, n)
    """A matrix product, y = a b, each factor transposed first where asked.

    Args:
        a: (m, k), or (k, m) if trans_a.
        b: (k, n), or (n, k) if trans_b.
        trans_a: whether to transpose a.
        trans_b: whether to transpose b.

    Returns:
        y, (m, n), in the dtype of a (under autocast: in the autocast dtype).

    Raises:
        TypeError: an argument is no tensor, or the dtypes or devices are unsupported or differ.
        ValueError: an argument is no matrix, or the inner sizes differ.

    Source: torch.mm.

    >>> import torch, fusegrad as fg
    >>> fg.mm(torch.ones(2, 3), torch.ones(4, 3), trans_b=True).shape
    torch.Size([2, 4])
    """
    if calls_torch(a, b):
        return torch.mm(a.mT if trans_a else a, b.mT if trans_b else b)
    check_tensor("mm", "a", a)
    check_tensor("mm", "b", b)
    check_alike("mm", ("a", a), ("b", b))
    if a.dim() != 2 or b.dim() != 2 or a.shape[0 if trans_a else 1] != b.shape[1 if trans_b else 0]:
        raise ValueError(
            f"mm: a has shape {sizes(a)}, b has shape {sizes(b)}, trans_a={trans_a}, trans_b={trans_b}; "
            "need two matrices that agree in the inner size"
        )
    return ops.mm(a, b, trans_a, trans_b)


def mul_constant(
    x: Tensor,  # any shape
    c: float,
) -> Tensor:  # shape of x
    """A tensor times a number: y = c x. The number is a constant: it has no gradient.

    Args:
        x: input of any shape, floating point.
        c: a real number; under torch.export it may be made of sizes.

    Returns:
        y, in the shape and dtype of x.

    Raises:
        TypeError: x is no floating-point tensor, or c is no real number.

    Source: torch.mul.

    >>> import torch, fusegrad as fg
    >>> fg.mul_constant(torch.tensor([2.0, 4.0]), 0.5)
    tensor([1., 2.])
    """
    check_tensor("mul_constant", "x", x)
    if isinstance(c, (torch.SymInt, torch.SymFloat)) or (
        torch.compiler.is_dynamo_compiling() and type(c) in (int, float)
    ):
        return x * c  # the op would fix a symbolic number, a size say, to the value at hand
    number = as_float(c)
    if number is None:
        raise TypeError(f"mul_constant: c must be a real number, got {type(c).__name__}")
    if route_of_tensor(x) in ("stock", "written"):
        return x * number
    return ops.mul_constant(x, number)
