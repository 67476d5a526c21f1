"""Streams by nested derivatives: of a function that has no rule, and of a model that the rules cannot follow."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import grad
from torch.overrides import handle_torch_function

from ..internals.call import grad_mode, in_torch_func, is_ops_mode_on
from ..ops.terms import total
from .streams import Rules, Streams, whole

Function = Callable[..., tuple[Tensor, ...]]

PARTS: set[str] = set()  # names of functions that are made here, of which nobody has to be told


def part_of_a_run(f: Function) -> Function:
    PARTS.add(f.__name__)
    return f


State = tuple[Tensor, Tensor | None]


def random_state(like: Tensor) -> State:
    """Of the generators that a function of such tensors may use."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(like.device) if like.is_cuda else None


def set_random_state(state: State) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def derivatives(
    f: Function,
    values: Sequence[Tensor],
    streams: Sequence[Streams],
    rules: Rules,
    state: State,
) -> list[Streams]:
    """The streams of what f makes of tensors with streams. f is run for each direction, from this random state.

    For direction v the arguments are curves z(s) = z + Σ_k s^k z_k / k!, and the k-th derivatives of f(z(s)) at s = 0
    are taken one after another. A stream that is a sum over the directions goes along with the first of them: the
    result is linear in it.

    Where another run is on outside, it takes all of this as one function that has no rule.
    """
    orders = range(1, rules.order + 1)

    @part_of_a_run
    def all_derivatives(*given: Tensor) -> tuple[Tensor, ...]:
        parts = iter(given[len(values) :])
        z = [(v, tuple(None if p is None else next(parts) for p in s)) for v, s in zip(given, streams, strict=False)]
        found = []
        for i in range(rules.count):
            set_random_state(state)
            curves = [_curve(v, s, i) for v, s in z]
            found.append(_along(lambda s, curves=curves: f(*(c(s) for c in curves)), given[0], rules.order))
        results = []
        for k in orders:
            for of_each in zip(*(one[k] for one in found), strict=True):
                t = torch.stack(of_each)
                results.append(t.sum(0, keepdim=True) if rules.directions(k) < rules.count else t)
        return tuple(results)

    given = [*values, *(p for s in streams for p in s if p is not None)]
    if is_ops_mode_on():
        made = handle_torch_function(all_derivatives, given, *given)
    else:
        made = all_derivatives(*given)
    n = len(made) // rules.order
    return [made[j::n] for j in range(n)]


def _curve(value: Tensor, streams: Streams, i: int) -> Callable[[Tensor], Tensor]:
    """Of the i-th direction, by Horner's rule: powers of s have no derivatives at 0 that torch gets right."""
    parts = [None if p is None or i >= p.shape[0] else whole(p, value.shape)[i] for p in streams]

    def at(s: Tensor) -> Tensor:
        s, z = s.to(value.dtype), None
        for k in range(len(parts), 0, -1):
            p = parts[k - 1]
            z = total(None if z is None else s * z / (k + 1), p)
        return value if z is None else value + s * z

    return at


def _along(g: Function, like: Tensor, order: int) -> list[tuple[Tensor, ...]]:
    """The results of g at 0, and their derivatives up to `order`.

    With a factor u for each result, D_0 = Σ <u, g(s)> and D_k = dD_{k-1}/ds, of which the gradient in u is the k-th
    derivative: torch differentiates in s as often as in nested autograd, and no formula once more than that. (In
    forward mode, and where each order is differentiated by itself, torch 2.13 gives wrong second derivatives of what
    saves results that it takes for constants: det, the norm of an instance.)
    """
    s = torch.zeros((), dtype=like.dtype, device=like.device)
    if in_torch_func():
        return _along_in_torch_func(g, s, order)
    records = torch.is_grad_enabled()
    with grad_mode(True):
        s = s.requires_grad_()
        results = g(s)
        factors = [torch.ones_like(y).requires_grad_() for y in results]
        along: Tensor = sum((u * y).sum() for u, y in zip(factors, results, strict=True)) + torch.zeros_like(s)
        found = [results]
        for _ in range(order):
            along = _gradients(along, [s])[0]
            found.append(_gradients(along, factors))
    return found if records else [tuple(y.detach() for y in of) for of in found]


def _gradients(y: Tensor, of: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Zeros where y does not depend on one."""
    if not y.requires_grad:
        return tuple(map(torch.zeros_like, of))
    return grad(y, of, create_graph=True, allow_unused=True, materialize_grads=True)


def _along_in_torch_func(g: Function, s: Tensor, order: int) -> list[tuple[Tensor, ...]]:
    results = g(s)
    factors = tuple(map(torch.ones_like, results))
    along = lambda s, *u: sum((a * y.to(s.dtype)).sum() for a, y in zip(u, g(s), strict=True))
    found = [results]
    for _ in range(order):
        along = torch.func.grad(along)
        found.append(torch.func.grad(along, tuple(range(1, len(factors) + 1)))(s, *factors))
    return found
