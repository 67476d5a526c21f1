"""Rules of products of matrices and vectors: bilinear, so by Leibniz."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .calls import rule
from .rules_elementwise import composition
from .rules_shape import argument
from .run import Run
from .streams import each, lifted, whole


@rule("matmul", "__matmul__", "mm", "bmm", "mv", "dot", "vdot", "inner", "__rmatmul__")
def matmul(run: Run, func, args, kwargs):
    a, b = args[0], args[1] if len(args) > 1 else next(iter(kwargs.values()))
    if func is Tensor.__rmatmul__:
        a, b = b, a
    y = func(*args, **kwargs)
    if func in (torch.inner, Tensor.inner) and b.dim() > 1 and a.dim() > 0:
        return run.without_rule(func, args, kwargs)
    return run.keep(y, run.rules.product(lambda p, q: _matmul(p, q, a, b), a, run.streams(a), b, run.streams(b)))


def _matmul(p: Tensor, q: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """What matmul makes of a and b, of each direction."""
    p, q = whole(p, a.shape), whole(q, b.shape)
    p, q = p.unsqueeze(1) if a.dim() == 1 else p, q.unsqueeze(-1) if b.dim() == 1 else q
    rank = max(p.dim(), q.dim()) - 1
    y = torch.matmul(lifted(p, rank), lifted(q, rank))
    y = y.squeeze(-1) if b.dim() == 1 else y
    return y.squeeze(-1 if b.dim() == 1 else -2) if a.dim() == 1 else y


@rule("outer", "ger")
def outer(run: Run, func, args, kwargs):
    a, b = args
    f = lambda p, q: p.unsqueeze(-1) * q.unsqueeze(-2)
    return run.keep(func(a, b), run.rules.product(f, a, run.streams(a), b, run.streams(b)))


@rule("einsum")
def einsum(run: Run, func, args, kwargs):
    """With one more letter for the directions. Operands beyond two are multiplied from left to right."""
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    if not isinstance(equation, str):
        return run.without_rule(func, args, kwargs)
    given = [i for i, t in enumerate(operands) if run.has(t)]
    letter = next((c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in equation), None)
    inputs, _, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if letter is None or (len(given) > 2 and "." in equation):
        return run.without_rule(func, args, kwargs)
    if "->" not in equation:
        letters = inputs.replace(",", "").replace(".", "")
        output = ("..." if "." in inputs else "") + "".join(c for c in sorted(set(letters)) if letters.count(c) == 1)
    if len(given) > 2:
        rest = ",".join(terms[2:])
        first = "".join(sorted(set(terms[0] + terms[1]) & set(rest + output)))
        two = run.composed(torch.einsum, f"{terms[0]},{terms[1]}->{first}", *operands[:2])
        return run.composed(torch.einsum, f"{first},{rest}->{output}", two, *operands[2:])
    y = func(equation, *operands)

    def product(*of: Tensor) -> Tensor:
        put = dict(zip(given, of, strict=True))
        many = [i for i in given if put[i].shape[0] != 1 or len(given) == 1]
        named = [letter + t if i in many else t for i, t in enumerate(terms)]
        parts = [operands[i] if i not in put else put[i] if i in many else put[i][0] for i in range(len(operands))]
        made = torch.einsum(f"{','.join(named)}->{letter if many else ''}{output}", *parts)
        return made if many else made.unsqueeze(0)

    full = lambda i: tuple(None if s is None else whole(s, operands[i].shape) for s in run.streams(operands[i]))
    if len(given) == 1:
        (i,) = given
        return run.keep(y, tuple(None if s is None else product(s) for s in full(i)))
    i, j = given
    return run.keep(y, run.rules.product(product, operands[i], full(i), operands[j], full(j)))


@rule("cross", torch.linalg.cross)
def cross(run: Run, func, args, kwargs):
    a, b = args[:2]
    dim = argument(2, "dim", args, kwargs, -1)
    y = func(*args, **kwargs)
    if dim is None or a.dim() != b.dim() or (dim >= 0 and "dim" not in kwargs and len(args) < 3):
        return run.without_rule(func, args, kwargs)
    dim = dim if dim < 0 else dim - y.dim()
    f = lambda p, q: torch.linalg.cross(whole(p, a.shape), whole(q, b.shape), dim=dim)
    return run.keep(y, run.rules.product(f, a, run.streams(a), b, run.streams(b)))


@composition("addmm", "addmv", "addbmm_")
def _addmm(input, a, b, *, beta=1, alpha=1):
    return beta * input + alpha * torch.matmul(a, b)


@composition("baddbmm")
def _baddbmm(input, a, b, *, beta=1, alpha=1):
    return beta * input + alpha * torch.matmul(a, b)


@composition("addr")
def _addr(input, a, b, *, beta=1, alpha=1):
    return beta * input + alpha * torch.outer(a, b)


@composition("bilinear")
def _bilinear(a, b, weight, bias=None):
    y = torch.einsum("...i,oij,...j->...o", a, weight, b)
    return y if bias is None else y + bias


@composition(torch.linalg.vecdot)
def _vecdot(a, b, *, dim=-1):
    return (a * b).sum(dim)


@composition("scaled_dot_product_attention")
def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // k.shape[-3], -3) for t in (k, v))
    scores = torch.matmul(q, k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    mask: Any = attn_mask
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
    weights = torch.softmax(scores, -1)
    return torch.matmul(F.dropout(weights, dropout_p) if dropout_p else weights, v)


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolved(run: Run, func, args, kwargs):
    """Linear in the input: the directions are part of the batch."""
    x, *rest = args
    weight = rest[0] if rest else kwargs["weight"]
    if run.has(weight) or any(run.has(t) for t in (*rest, *kwargs.values())) or x.dim() != weight.dim():
        return run.without_rule(func, args, kwargs)
    y = func(*args, **kwargs)
    rest[1:2] = [None] * len(rest[1:2])  # the bias
    kwargs = {name: value for name, value in kwargs.items() if name != "bias"}

    def apply(p: Tensor) -> Tensor:
        p = whole(p, x.shape)
        return func(p.reshape(-1, *x.shape[1:]), *rest, **kwargs).reshape(p.shape[0], *y.shape)

    return run.keep(y, each(run.streams(x), apply))
