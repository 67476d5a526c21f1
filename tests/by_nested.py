"""The results of a derivative operator by torch.autograd, and how two of them are compared."""

import torch
from torch.testing import assert_close

from fusegrad import backends
from fusegrad.operators import trust


def counted_programs(monkeypatch):
    """A list that grows by one with each model that runs as a program, from its first call on."""
    monkeypatch.setattr(trust, "is_trusted", lambda *args: True)
    found, run = [], backends.node.program
    monkeypatch.setattr(backends.node, "program", lambda *args: found.append(1) or run(*args))
    return found


def nested(model, x, directions=None, drift=None):
    """Values, first derivatives and the operator, by torch.autograd."""
    x = x if x.requires_grad else x.clone().requires_grad_()
    y = model(x)
    flat = y.reshape(*x.shape[:-1], -1)
    s = torch.eye(x.shape[-1], dtype=x.dtype) if directions is None else directions
    first, second = [], []
    for k in range(flat.shape[-1]):
        (g,) = torch.autograd.grad(flat[..., k].sum(), x, create_graph=True)
        along = [(g * s[..., i]).sum(-1) for i in range(s.shape[-1])]
        again = [
            (torch.autograd.grad(a.sum(), x, create_graph=True)[0] * s[..., i]).sum(-1) for i, a in enumerate(along)
        ]
        first.append(torch.stack(along, -1))
        second.append(sum(again) + (0 if drift is None else (g * drift).sum(-1)))
    r = s.shape[-1]
    return y, torch.stack(first, -2).reshape(*y.shape, r), torch.stack(second, -1).reshape(y.shape)


def loss_of(y, first, second):
    return (second.sin() * (1 + y)).sum() + first.square().sum() + y.exp().sum()


def gradients(found, model, *more):
    return torch.autograd.grad(loss_of(*found), [*model.parameters(), *more], allow_unused=True)


def same(a, b, **tolerance):
    for p, q in zip(a, b, strict=True):
        p, q = (torch.zeros(()) if t is None else t for t in (p, q))
        assert_close(p if p.dim() else p.expand_as(q), q if q.dim() else q.expand_as(p), check_dtype=False, **tolerance)
