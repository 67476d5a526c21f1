"""Functions of points (5, 3) that the derivative operators have rules for, some of each kind."""

import torch
import torch.nn.functional as F
from operator_models import points
from torch import Tensor, nn

import fusegrad as fg
from fusegrad import ops
from fusegrad.operators.functions import DERIVATIVES

W, B, V, Q = points(4, 3), points(5, 1), points(3), points(3, 3)
AT = torch.tensor([0, 1, 2, 1, 0])
FIVE = torch.arange(5)

positive = lambda x: F.softplus(x) + 0.1
INTO = {  # where a function is defined
    **dict.fromkeys(("asin", "acos", "atanh"), lambda x: 0.9 * torch.tanh(x)),
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "log1p"), positive),
    "acosh": lambda x: positive(x) + 1,
}


def in_place(x: Tensor) -> Tensor:
    y = x * 1
    y.add_(x.sin()).mul_(3).sub_(1).div_(2)
    torch.neg_(y)
    return F.elu(y.clamp_(-0.5), inplace=True)


def in_place_by_operators(x: Tensor) -> Tensor:
    y = x.sin()
    y += x
    y *= 2
    y -= 1
    y /= 3
    y **= 2
    return y


def written_to(x: Tensor) -> Tensor:
    y = torch.zeros(5, 4, dtype=x.dtype)
    y[:, 0] = x[:, 0].sin()
    y[:, 1:3] = x[:, 1:] ** 2
    y[FIVE, 3] = x.prod(-1)
    z = x * 2
    z[..., 0] = 1.0
    z[x > 1] = 0.5
    return torch.cat([y, z], -1)


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


def multi_head(x: Tensor) -> Tensor:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, batch_first=True).double()
    h = x[..., None].sin() * W[:, 0]
    return layer(h, h.cos(), h)[0].sum(1)


FUNCTIONS = {
    **{n: (lambda x, n=n: getattr(torch, n)(INTO.get(n, lambda x: x)(x)),) for n in DERIVATIVES},
    "methods": (
        lambda x: x.cos() * x.abs() - x.atan().neg(),
        lambda x: x.exp().sqrt().reciprocal() + abs(x),
    ),
    "add": (
        lambda x: 1 + x + x.sin() - (2 - x.cos()),
        lambda x: torch.add(x, x.exp(), alpha=3) + torch.sub(x, x.sin(), alpha=2),
        lambda x: x[..., :1] * x + x.mean(-1, keepdim=True) / (2 + x.cos()) - B + W[0],
    ),
    "multiply": (
        lambda x: 2 * x / 3 + 1 / (2 + x.sin()) - 5 / (x.square() + 1),
        lambda x: x.sin() / positive(x) / (1 + x * x),
        lambda x: V * x.sin() * x.unsqueeze(1).squeeze(1),
    ),
    "in place": (
        in_place,
        in_place_by_operators,
        written_to,
        lambda x: torch.empty_like(x).copy_(x.sin()) + torch.ones_like(x).fill_(3) * x + (x * 2).zero_(),
    ),
    "powers": (
        lambda x: x**3 + x**2.0 + x**1 + x**0 + positive(x) ** 1.5 + positive(x) ** -2,
        lambda x: 2**x + torch.pow(3, x) + 0.5**x,
        lambda x: positive(x) ** x.sin() + positive(x) ** V,
    ),
    "pieces": (
        lambda x: torch.where(x > 0, x**3, x.sin()) + torch.where(x > 0, 1.0, x * x),
        lambda x: x.exp().where(x < 0, x) + x.exp().masked_fill(x > 0, 2.0) + x.sin() * (x > 0),
        lambda x: x.square().clamp(0.1, 1) + x.clamp(min=0) ** 2 + x.clip(max=0.3) ** 3,
        lambda x: torch.clamp_max(x, 1) ** 2 + torch.clamp_min(x, -1) ** 2,
        lambda x: torch.maximum(x**2, x.sin()) + torch.minimum(x**3, V) + torch.max(x, x**2),
        lambda x: F.relu(x) ** 3 + F.leaky_relu(x, 0.2) ** 2 + F.elu(x, 1.5) + F.prelu(x, V[:1]),
    ),
    "compositions": (
        lambda x: torch.addcmul(x, x.sin(), x, value=2) + torch.addcdiv(x, x, positive(x)),
        lambda x: x.lerp(x**2, x.cos()) + torch.hypot(x, 1 + x * x) + torch.sinc(x),
        lambda x: F.glu(torch.cat([x, x.sin()], -1)) + torch.atan2(x, 1 + x * x),
    ),
    "shapes": (
        lambda x: x.exp().unsqueeze(1).expand(5, 2, 3).reshape(5, 6).view(5, 3, 2).flatten(1),
        lambda x: x.unflatten(1, (3, 1)).squeeze().view_as(x) * x.unsqueeze(-1).squeeze(-1).sin(),
        lambda x: x.sin().reshape(5, 3, 1).permute(0, 2, 1).transpose(-1, 1).movedim(1, 2).squeeze(2),
        lambda x: x.exp()[..., None].swapaxes(1, 2).mT.squeeze(2).t().T * x.broadcast_to(5, 3),
        lambda x: x.exp().repeat(1, 2) * x.tile(2) + x.sin().repeat_interleave(2, 1),
        lambda x: x.sin().to(torch.float64).double().type(torch.float64).contiguous().clone(),
    ),
    "indices": (
        lambda x: x.exp()[:, 0] * x[..., 1] + x[:, [2, 0]].sum(-1),
        lambda x: x[:, None, 1:, None].prod(2).squeeze() + x[..., -1].sin(),
        lambda x: x.sin()[FIVE, AT] + x.cos()[:, torch.tensor([True, False, True])].sum(-1),
        lambda x: x.reshape(5, 1, 3, 1).square()[FIVE, :, AT].flatten(),
        lambda x: x.select(-1, 1).exp() * x.narrow(1, 0, 2).sum(-1),
        lambda x: x.index_select(1, AT) * x.gather(1, torch.ones(5, 1, dtype=torch.long)),
        lambda x: torch.take_along_dim(x.sin(), AT[:, None], 1),
    ),
    "parts": (
        lambda x: torch.cat([p**2 for p in x.split([1, 2], -1)] + [*x.sin().chunk(3, 1)], -1),
        lambda x: sum(p.sin() * (i + 1) for i, p in enumerate(x.unbind(-1))) * sum(p**2 for p in x.T),
        lambda x: torch.cat([x, B, x.exp(), W.new_ones(5, 2)], 1).sin() + torch.hstack([x, x, x]),
        lambda x: torch.stack([x, x.sin(), torch.ones_like(x)], 1) ** 2,
        lambda x: torch.stack([x[:, 0], B[:, 0], x[:, 2].exp()], -1) * x,
        lambda x: x.exp().roll(1, -1) * x.flip(-1) + x.sin().cumsum(-1),
        lambda x: torch.diag_embed(x).diagonal(dim1=-2, dim2=-1) + (x[..., None] * x[:, None]).tril().triu(-1).sum(-1),
    ),
    "products": (
        lambda x: x.exp() @ W.T + torch.matmul(x.sin(), W.T),
        lambda x: F.linear(x, W, W[:, 0]) + F.linear(x.cos(), W) + (W @ x.sin().T).T,
        lambda x: torch.stack([p @ p.sin() + torch.dot(p, p) + W[0] @ p + (W @ p).sum() for p in x]),
        lambda x: x @ V + x.mv(V.sin()) + x.sin().inner(V),
        lambda x: (x.exp()[:, :, None] @ x.sin()[:, None, :]).bmm(x[:, :, None]).squeeze(-1),
        lambda x: (Q @ x[:, :, None]).squeeze(-1) + (x[:, None] @ Q).squeeze(1),
        lambda x: torch.stack([torch.outer(p.sin(), p) for p in x]),
        lambda x: torch.einsum("bi,oi->bo", x.sin(), W) + torch.einsum("...i,...i", x, x.exp())[:, None],
        lambda x: torch.einsum("bi,bj,bk->bi", x, x.sin(), x.cos()),
        lambda x: torch.linalg.cross(x.sin(), x**2) + torch.cross(x, V.expand_as(x), dim=1),
        lambda x: torch.addmm(x[:, :1], x.sin(), W.T, beta=2, alpha=3) + torch.linalg.vecdot(x, x.exp())[:, None],
        lambda x: F.bilinear(x, x.sin(), torch.stack([Q, Q.T, Q + 1, Q.cos()])),
    ),
    "reductions": (
        lambda x: x.exp().sum(-1, keepdim=True) * x.mean(1, True) + x.sin().sum(dim=(1,), keepdim=True),
        lambda x: torch.stack([p.square().sum() + p.sin().mean() for p in x]),
        lambda x: x.sin().amax(-1) + x.exp().max(-1).values + torch.max(x**2, 1)[0] + x.min(-1).values ** 2,
        lambda x: x.sin().sort(-1)[0][:, 1] + x.exp().topk(2, -1).values.sum(-1) + x.square().median(-1)[0],
        lambda x: x.sin().prod(-1) + x.prod(-1, keepdim=True).squeeze(-1),
        lambda x: x.sin().var(-1) + x.std(-1, unbiased=False) + x.exp().std(1),
    ),
    "norms": (
        lambda x: x.norm(dim=-1) + torch.linalg.norm(x.sin(), dim=-1),
        lambda x: torch.linalg.vector_norm(x.exp(), dim=1, keepdim=True) * F.normalize(x, dim=-1),
        lambda x: F.cosine_similarity(x, V.expand_as(x), -1) + F.pairwise_distance(x, W[1]),
        lambda x: torch.stack([p.norm() + p.sin().norm(2) for p in x]),
        lambda x: x.norm(p=3, dim=-1) + x.abs().norm(1, -1),
    ),
    "softmax": (
        lambda x: torch.softmax(x.sin(), -1) + F.log_softmax(x * x, dim=-1) + F.softmin(x, -1),
        lambda x: torch.logsumexp(x, -1, keepdim=True) + torch.logaddexp(x, x.sin()),
        multi_head,
    ),
    "images": (
        lambda x: F.conv1d(x.sin()[:, None], W[:2, None], V[:2], padding=1).flatten(1),
        lambda x: F.avg_pool1d(F.pad(x.sin()[:, None], (1, 2), value=3.0), 2).flatten(1),
        lambda x: F.pad(x.sin()[:, None], (1, 1), mode="reflect").flatten(1),
        lambda x: F.interpolate(x.sin()[:, None], scale_factor=2, mode="linear").flatten(1),
        lambda x: F.mse_loss(x.sin(), x.exp(), reduction="none"),
    ),
    "constants": (
        lambda x: x.detach() * x + torch.sign(x) * x.square() + x.floor() * x.sin() + x.data * x,
        lambda x: without_gradients(x.sin()) * x.square() + torch.zeros_like(x) + (x > 0) * x,
    ),
    "matrices": (
        lambda x: torch.linalg.det(torch.diag_embed(x.exp()) + x[:, :, None] * x[:, None, :]),
        lambda x: torch.linalg.solve(torch.diag_embed(x.exp() + 2) + Q / 9, x.sin()),
    ),
    "fusegrad": (
        lambda x: fg.mul_constant(x.sin(), 0.5) + fg.mm(x.sin(), W, trans_b=True)[:, :3] + fg.act(x, "mish"),
        lambda x: fg.linear_act(x.sin(), W, V[0] * W[:, 0], act="gelu") + fg.gated(x, W, W.cos(), act="silu"),
        lambda x: fg.mlp(x, W, None, W.T, act="tanh"),
        lambda x: fg.chain(x, [(W, None, "silu"), (W.T, None, None), (W, W[:, 1], "sin")]),
        lambda x: ops.act(x, None, "silu", 0.0, 1) * ops.act(x.sin(), x, "gelu", 0.0, 2),
        lambda x: ops.act(x.tanh(), x, "tanh", 0.0, 1) * ops.act(x.tanh(), None, "tanh", 0.0, 2),
        lambda x: torch.cat([fg.linear_act(p[None], p.outer(p).sin(), p, act="tanh") for p in x]),
        lambda x: torch.cat([F.linear(p[None], W * p, W[:, 0] * p[0]) for p in x]),
    ),
}  # fmt: skip
BY_NESTED = {  # have no rule of their own
    "powers 2", "compositions 2", "indices 6", "norms 4", "matrices 0", "matrices 1",
}  # fmt: skip
TWICE = {"softmax 2", "images 3"}  # no more often can torch differentiate them
EACH = {f"{name} {i}": f for name, several in FUNCTIONS.items() for i, f in enumerate(several)}
