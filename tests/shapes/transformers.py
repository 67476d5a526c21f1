"""Feed-forward blocks of transformers, and of what stands beside them."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from . import MAKES_IT_ONE, D, shape

CUT = "cut in parts by {}: fused is act(a) * b or a * act(b), where `a, b = z.chunk(2, dim=-1)` comes before"


@shape(1)  # karpathy/nanoGPT
class feed_forward_in_statements(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.gelu, self.down = nn.Linear(D, 4 * D, bias=False), nn.GELU(), nn.Linear(4 * D, D)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        x = self.up(x)
        x = self.gelu(x)
        x = self.down(x)
        return self.drop(x)


UNREAD = "no method that was read calls it: functions that are kept as attributes are not read"


@shape(0, {"mlp.c_fc": UNREAD})  # karpathy/minGPT
class feed_forward_in_a_lambda(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = m = nn.ModuleDict({"c_fc": nn.Linear(D, D), "act": nn.GELU(), "c_proj": nn.Linear(D, D)})
        self.mlpf = lambda x: m.c_proj(m.act(m.c_fc(x)))

    def forward(self, x):
        return x + self.mlpf(x)


@shape(1)  # mlfoundations/open_clip
def named_sequential():
    return nn.Sequential(OrderedDict(c_fc=nn.Linear(D, D), gelu=nn.GELU(), c_proj=nn.Linear(D, D)))


@shape(1)  # lucidrains/vit-pytorch
def norm_first_sequential():
    layers = nn.LayerNorm(D), nn.Linear(D, 2 * D), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * D, D), nn.Dropout(0.1)
    return nn.Sequential(*layers)


def gelu_in_single(x):
    return F.gelu(x.float()).type_as(x)


class Fairseq(nn.Module):  # facebookresearch/fairseq
    def __init__(self, act):
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(D, D), nn.Linear(D, D), act

    def forward(self, x):
        r = x
        x = self.act(self.fc1(x))
        x = F.dropout(x, 0.1, self.training)
        x = self.fc2(x)
        return r + x


shape(1, name="activation by a name")(lambda: Fairseq(F.relu))
shape(
    0,
    {"fc1": f"read by act, which begins with no activation of fusegrad{MAKES_IT_ONE}"},
    name="activation in single precision",
)(lambda: Fairseq(gelu_in_single))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.w3 = (nn.Linear(D, D, bias=False) for _ in range(3))


@shape(2)  # meta-llama/llama, mistralai/mistral-inference, pytorch-labs/gpt-fast
class swiglu_in_one_line(Gated):
    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


@shape(2)  # Lightning-AI/litgpt
class swiglu_of_two_variables(Gated):
    def forward(self, x):
        x_fc_1 = self.w1(x)
        x_fc_2 = self.w3(x)
        x = F.silu(x_fc_1) * x_fc_2
        return self.w2(x)


@shape(2)  # google/gemma_pytorch
class geglu_in_five_statements(Gated):
    def forward(self, x):
        gate = self.w1(x)
        gate = F.gelu(gate, approximate="tanh")
        up = self.w3(x)
        fuse = gate * up
        outputs = self.w2(fuse)
        return outputs


@shape(6)  # mistralai/mistral-inference, its mixture of experts
class mixture_of_experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(D, 3, bias=False), nn.ModuleList(swiglu_in_one_line() for _ in range(3))

    def forward(self, x):
        weights, chosen = torch.topk(self.gate(x), 2)
        weights = F.softmax(weights, dim=1)
        results = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            row, nth = torch.where(chosen == i)
            results[row] += weights[row, nth, None] * expert(x[row])
        return results


class Geglu(nn.Module):
    def forward(self, x):
        x, gates = x.chunk(2, dim=-1)
        return x * F.gelu(gates)


@shape(1, compiled=True)  # lucidrains: PaLM, perceiver, DALL-E, ...
def sequential_with_a_gate():
    return nn.Sequential(nn.Linear(D, 4 * D), Geglu(), nn.Dropout(0.1), nn.Linear(2 * D, D))


class Swiglu(nn.Module):
    """Of any activation, the gate last."""

    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()

    def forward(self, x):
        x, gate = x.chunk(2, dim=-1)
        return self.act(gate) * x


def is_accelerator_available():
    return False


@shape(1)  # huggingface/diffusers
class geglu_of_a_method_and_after_a_branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(D, 2 * D)

    def gelu(self, gate):
        if gate.device.type == "mps" and unknown_here("<", "2.0.0"):  # noqa: F821
            return F.gelu(gate.to(dtype=torch.float32)).to(dtype=gate.dtype)
        return F.gelu(gate)

    def forward(self, x):
        x = self.proj(x)
        if is_accelerator_available():
            return torch.ops.accelerator.geglu(x)
        else:
            x, gate = x.chunk(2, dim=-1)
            return x * self.gelu(gate)


@shape(1)  # allenai/OLMo, kyegomez/zeta
class gate_that_is_the_activation(nn.Module):
    def __init__(self):
        super().__init__()
        self.ff_proj, self.act, self.ff_out = nn.Linear(D, 4 * D, bias=False), Swiglu(), nn.Linear(2 * D, D)

    def forward(self, x):
        og_x = x
        x = self.ff_proj(x)
        x = self.act(x)
        x = self.ff_out(x)
        return og_x + x


@shape(1)  # lucidrains/x-transformers
class gate_with_a_factor(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj, self.act, self.factor = nn.Linear(D, 2 * D), nn.SiLU(), nn.Parameter(torch.ones(D))

    def forward(self, x):
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * self.act(gate) * self.factor


@shape(1)
class gate_by_split(nn.Module):
    def __init__(self):
        super().__init__()
        self.size, self.act = D, nn.SiLU()
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(D, D)

    def forward(self, x):
        u, g = self.up(x).split([self.size, self.size], -1)
        h = u * self.act(g)
        return self.down(h)


def clamped_swiglu(x, alpha=1.702, limit=7.0):
    g, u = x[..., ::2], x[..., 1::2]
    g = g.clamp(min=None, max=limit)
    u = u.clamp(min=-limit, max=limit)
    return g * torch.sigmoid(alpha * g) * (u + 1)


@shape(
    0, {"up": f"read by clamped_swiglu, which begins with no activation of fusegrad{MAKES_IT_ONE}"}
)  # openai/gpt-oss
class interleaved_gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(D, D)

    def forward(self, x):
        t = self.up(x)
        t = clamped_swiglu(t)
        return self.down(t)


@shape(2)  # BlinkDL/RWKV-LM
class channel_mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.key, self.receptance, self.value = (nn.Linear(D, D, bias=False) for _ in range(3))
        self.keep_k, self.keep_r = nn.Parameter(torch.rand(D)), nn.Parameter(torch.rand(D))

    def forward(self, x):
        before = torch.roll(x, 1, 0)
        xk = x * self.keep_k + before * (1 - self.keep_k)
        xr = x * self.keep_r + before * (1 - self.keep_r)
        k = self.key(xk)
        k = torch.square(torch.relu(k))
        v = self.value(k)
        return torch.sigmoid(self.receptance(xr)) * v


@shape(0, {"in_proj": CUT.format("`in_proj(x).chunk`")})  # state-spaces/mamba
class gate_around_a_mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(D, 2 * D), nn.Linear(D, D)

    def forward(self, x):
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(torch.cumsum(x, 0))
        return self.out_proj(x * F.silu(z))


@shape(0, {"project": CUT.format("its .split")})  # lucidrains/PaLM-pytorch
class attention_and_feed_forward_in_one(nn.Module):
    def __init__(self):
        super().__init__()
        self.project, self.out, self.act = nn.Linear(D, 4 * D), nn.Linear(D, D), Geglu()

    def forward(self, x):
        q, k, ff = self.project(x).split((D, D, 2 * D), dim=-1)
        return self.out(self.act(ff)) + F.softmax(q @ k.t(), -1) @ x


@shape(2)  # facebookresearch/DiT
class adaptive_norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, D))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(D, 3 * D))
        self.fc1, self.act, self.fc2 = nn.Linear(D, D), nn.GELU(approximate="tanh"), nn.Linear(D, D)

    def forward(self, x, t):
        shift, scale, gate = self.modulation(self.embed(t)).chunk(3, dim=1)
        h = F.layer_norm(x, (D,)) * (1 + scale) + shift
        h = self.fc1(h)
        h = self.act(h)
        h = self.fc2(h)
        return x + gate * h
