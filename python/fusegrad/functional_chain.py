"""A chain of layers, as a user calls it: like all of functional.py."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from .activations import lookup
from .chained import run_layers, run_recomputed
from .functional import linear_act


def chain(
    x: Tensor,  # (..., k)
    layers: Iterable[tuple],  # (w (n, k), b (n) or None, act or None) or (w, b, act, param) of each
    *,
    recompute: bool = False,
) -> Tensor:  # (..., n)
    """Layers of which each is the input of the next: y = act_n(... act_1(x w_1^T + b_1) ... w_n^T + b_n).

    On a CPU, in plain eager mode, small networks run as one op: rows pass through all layers while they are in cache,
    and backward is one op too. What activations save is saved once. Where x needs a gradient of its own, that is so if
    y is (..., 1); its second and third derivatives in x are then one op as well. On a GPU, up to 8 layers of at most
    128 are one op, whatever needs a gradient. Else the layers run one by one, as `linear_act`.

    Args:
        x: input, (..., k), of any rank >= 1.
        layers: of each its weight (n, k), as in torch.nn.Linear, its bias (n) or None, the name of its activation, a
            key of `fusegrad.ACTIVATIONS`, or None for none, and, if need be, the activation's parameter.
        recompute: whether backward computes the layers again, so that x and the weights are all that is saved: by tiles
            of rows that stay in cache on a CPU, in plain eager mode and of layers of less than 513, else by
            torch.utils.checkpoint. Under torch.func, in forward mode and in exported programs it changes nothing.

    Returns:
        y, (..., n) of the last layer, in the dtype of x (under autocast: in the autocast dtype).

    Raises:
        TypeError: an argument is no tensor, the dtypes or devices are unsupported or differ, or a parameter no number.
        ValueError: the shapes do not fit, an activation is unknown, a parameter is not legal, there is no layer.

    Source: torch.nn.functional.linear and the activations in torch.nn.functional; passing tiles of rows through all
    layers is what Müller et al., "Real-time neural radiance caching" (doi:10.1145/3450626.3459812) do on GPUs.

    >>> import torch, fusegrad as fg
    >>> w1, w2 = torch.ones(4, 3), torch.ones(1, 4)
    >>> fg.chain(torch.ones(2, 3), [(w1, None, "relu"), (w2, None, None)])
    tensor([[12.],
            [12.]])
    """
    weights: list[Any] = []
    names, params = [], []
    for w, b, act, *given in layers:
        a = lookup("chain", "identity" if act is None else act)
        weights += w, b
        names.append(a.name)
        params.append(a.check("chain", given[0] if given else None))
    if not names:
        raise ValueError("chain: there is no layer; need one or more of (w, b, act)")

    def by_layers(x: Tensor, *weights: Any) -> Tensor:
        for w, b, name, param in zip(weights[::2], weights[1::2], names, params, strict=True):
            has_param = lookup("chain", name).param is not None
            x = linear_act(x, w, b, act=name, param=param if has_param else None)
        return x

    if recompute and isinstance(x, Tensor):
        return run_recomputed(x, weights, names, params, by_layers)
    y = run_layers(x, weights, names, params)
    return by_layers(x, *weights) if y is None else y
