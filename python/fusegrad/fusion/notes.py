"""Calls that were put off, as notes of what to call; and the gates that they make."""

from operator import matmul
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import functional_gated
from ..at_once import route_at_once
from ..internals.call import calls_torch, is_linear, linear_is_replaced
from ..internals.stock import torchs
from ..nn import fits
from ..routing import Route, route_of_layer
from . import recognise
from .recognise import Spec

RESHAPE = "view", "reshape"
_ADDMM, _MM = torchs(torch, "addmm"), torchs(torch, "mm")
_MATMULS = matmul, torchs(torch, "matmul"), _MM


class Product(NamedTuple):
    """z = x w^T + b, which an op takes."""

    x: Tensor
    w: Tensor
    b: Tensor | None
    route: Route  # as it is when the layer is noted, and when it is computed


class Later(NamedTuple):
    """A call that was not made yet: of f, or of the method of that name of the first argument."""

    f: Any
    args: tuple
    kwargs: dict[str, Any]
    layer: nn.Module | None = None  # the module that gave it
    product: Product | None = None  # of a layer: what it computes
    spec: Spec | None = None  # of an activation: which

    @property
    def device(self) -> torch.device:
        """That of the result, which a function may ask for before it computes anything."""
        if self.product is not None:
            return self.product.w.device
        return self._of.device

    @property
    def shape(self) -> torch.Size:
        """The same, of a layer, scaled and viewed or not: what may be asked for its shape."""
        if self.product is not None:
            return torch.Size((*self.product.x.shape[:-1], self.product.w.shape[0]))
        return self._like.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    @property
    def _of(self) -> "Later":
        return next(a for a in self.args if type(a) is Later)

    @property
    def _like(self) -> Tensor:
        """A tensor without numbers, of the shape of the result."""
        if self.product is not None:
            return torch.empty(self.shape, device="meta")
        args = [a._like if type(a) is Later else a.to("meta") if isinstance(a, Tensor) else a for a in self.args]
        return getattr(args[0], self.f)(*args[1:]) if isinstance(self.f, str) else self.f(*args)


def product_of_call(f: Any, args: tuple, kwargs: dict[str, Any]) -> Product | None:
    """The layer that a call of one of torch's functions is, if an op takes it."""
    x: Any
    w: Any
    if is_linear(f) and not linear_is_replaced() and 2 <= len(args) and len(args) + len(kwargs) <= 3:
        x, w, *rest = args
        b = rest[0] if rest else kwargs.get("bias")
    elif (f is _ADDMM or any(f is product for product in _MATMULS)) and not linear_is_replaced() and not kwargs:
        if len(args) != (3 if f is _ADDMM else 2):
            return None
        *bias, x, w = args
        b = bias[0] if bias else None
        if not (isinstance(x, Tensor) and isinstance(w, Tensor)) or w.dim() != 2 or calls_torch(x, w, b):
            return None
        if f is _ADDMM and not (isinstance(b, Tensor) and b.dim() == 1):
            return None
        if (f is _ADDMM or f is _MM) and x.dim() != 2:
            return None
        w = w.t()
    else:
        return None
    at_once = route_at_once(x, w, b)
    if at_once is not None:
        return Product(x, w, b, at_once)
    if calls_torch(x, w, b) or not fits(x, w, b):
        return None
    route: Route = route_of_layer(x, w, b)
    if route in ("stock", "written"):
        return None
    return Product(x, w, b, route)


def first(parts: Any) -> Any:
    a, _ = parts
    return a


def second(parts: Any) -> Any:
    _, b = parts
    return b


def gated(left: Any, right: Any) -> Any:
    """The product of a layer and the activation of another one as one op, or None."""
    for a, b in ((left, right), (right, left)):
        if type(a) is not Later or a.spec is None or isinstance(a.f, str):
            continue
        gate = a.args[0]
        if gate.f is first or gate.f is second:
            return _gated_halves(a.spec, gate, b)
        if type(b) is not Later or gate.product is None or b.product is None:
            continue
        g, u = gate.product, b.product
        if g.x is u.x and g.w.shape == u.w.shape and g.w.dtype == u.w.dtype:
            return functional_gated.gated(g.x, g.w, u.w, g.b, u.b, act=a.spec[0], param=a.spec[1])
    return None


def packed_glu(act: Any, product: Product, args: tuple, kwargs: dict[str, Any]) -> Any:
    """torch's GLU of a layer as one op, or None."""
    dim = recognise.of_glu(act, args, kwargs)
    if dim is None or dim not in (-1, product.x.dim() - 1) or product.w.shape[0] % 2:
        return None
    return functional_gated.gated_packed(*product[:3], act="sigmoid", packing="gate_last")


def _gated_halves(spec: Spec, gate: Later, up: Any) -> Any:
    """A gate of the two halves of one layer."""
    parts = gate.args[0]
    if type(up) is not Later or not (up.f is first or up.f is second) or up.f is gate.f or up.args[0] is not parts:
        return None
    z = parts.args[0]
    if z.product is None or not _halves(parts, z.product):
        return None
    packing = "gate_first" if gate.f is first else "gate_last"
    return functional_gated.gated_packed(*z.product[:3], act=spec[0], param=spec[1], packing=packing)


def _halves(parts: Later, product: Product) -> bool:
    """Whether what was noted cuts the result of a layer in two of one size, along its features."""
    name = parts.f if isinstance(parts.f, str) else parts.f.__name__
    given = dict(zip(("size", "dim"), parts.args[1:], strict=False))
    given |= {k if k == "dim" else "size": value for k, value in parts.kwargs.items()}
    n, odd = divmod(product.w.shape[0], 2)
    if odd or given.get("dim", 0) not in (-1, product.x.dim() - 1):
        return False
    size = given.get("size")
    if isinstance(size, (list, tuple)):
        return name == "split" and [*size] == [n, n]
    return type(size) is int and size == (n if name == "split" else 2)
