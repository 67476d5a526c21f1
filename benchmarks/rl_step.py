"""How long does an update of reinforcement learning take: networks, loss, backward, clipping and the optimiser?

Steps as in Stable-Baselines3, with its default networks, on one core, as two threads measure each other there:
OMP_NUM_THREADS=1 taskset -c 0 python -m fusegrad bench rl_step.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fusegrad as fg

from .elsewhere import KEPT, with_memory_kept
from .harness import Case, Step, gradients
from .providers import COMPILE_MODES, compiled, normal

PROVIDERS = ("stock", *COMPILE_MODES, "stock, memory kept", "fusegrad")
COMPILE_SECONDS = {"max-autotune": 60.0}
# observations, actions: of a cart-pole, a lander, a cheetah, a humanoid
PPO, DQN, SAC = [(4, 2), (17, 6), (376, 17)], [(4, 2), (8, 4)], [(17, 6), (376, 17)]
CLIP, NORM, DISCOUNT = 0.2, 0.5, 0.99

Loss = Callable[[], Tensor]


def cases(device: str, smoke: bool) -> list[Case]:
    """Updates by a minibatch, and a policy asked for the action of one observation; ours after fuse."""
    kinds = {
        "PPO 64-64 tanh, 64 rows": (ppo, PPO, 64),
        "DQN 64-64 relu, 32 rows": (dqn, DQN, 32),
        "SAC critics 256-256 relu, 256 rows": (sac, SAC, 256),
        "action 64-64 tanh, 1 row": (action, PPO, 1),
    }
    found = []
    for name, (kind, sizes, rows) in kinds.items():
        for observed, acts in sizes[:1] if smoke else sizes:
            build = partial(_build, kind, rows, observed, acts, device)
            found.append(Case(f"{name}, {observed} observations, {acts} actions", torch.float32, build))
    return found


def _build(kind, rows: int, observed: int, acts: int, device: str, provider: str, dtype: torch.dtype) -> Step:
    if provider in KEPT:
        return with_memory_kept(partial(_build, kind, rows, observed, acts, device), provider, dtype)
    torch.manual_seed(0)
    draw = lambda *shape, seed: normal(*shape, seed=seed, like=torch.float32, dtype=dtype, device=device)
    networks, loss = kind(draw, rows, observed, acts)
    for net in networks:
        net.to(device, dtype)
        if provider == "fusegrad":
            fg.fuse(net)
        elif provider in COMPILE_MODES:
            net.forward = compiled(net.forward, provider)
    parameters = [p for net in networks for p in net.parameters() if p.requires_grad]
    if kind is action:
        return Step(lambda: (loss(),), parameters)
    # of no rate: all the work of a step, and the same numbers in the next
    optimiser = torch.optim.Adam(parameters, lr=0.0)

    def step() -> tuple[Tensor, ...]:
        value = loss()
        optimiser.zero_grad()
        value.backward()
        found = gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, NORM)
        optimiser.step()
        return value.detach(), *found

    return Step(step, parameters)


def mlp(inputs: int, hidden: Sequence[int], outputs: int, act: type[nn.Module]) -> nn.Sequential:
    """Layers with an activation after each but the last."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), act()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def ppo(draw, rows: int, observed: int, acts: int) -> tuple[list[nn.Module], Loss]:
    """The clipped surrogate, with a value network of its own and an entropy bonus (arXiv:1707.06347)."""
    policy, value = mlp(observed, (64, 64), acts, nn.Tanh), mlp(observed, (64, 64), 1, nn.Tanh)
    x, taken, before = draw(rows, observed, seed=1), draw(rows, acts, seed=2), draw(rows, seed=3) - acts
    advantage, returns = draw(rows, seed=4), draw(rows, seed=5)
    scale = torch.ones(acts, dtype=x.dtype, device=x.device)

    def loss() -> Tensor:
        chosen = torch.distributions.Normal(policy(x), scale, validate_args=False)
        ratio = (chosen.log_prob(taken).sum(1) - before).exp()
        surrogate = torch.min(advantage * ratio, advantage * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
        return 0.5 * F.mse_loss(value(x).flatten(), returns) - surrogate - 0.01 * chosen.entropy().sum(1).mean()

    return [policy, value], loss


def dqn(draw, rows: int, observed: int, acts: int) -> tuple[list[nn.Module], Loss]:
    """Q-learning towards a network that stands still (doi:10.1038/nature14236)."""
    q = mlp(observed, (64, 64), acts, nn.ReLU)
    still = deepcopy(q).requires_grad_(False)
    x, following, reward = draw(rows, observed, seed=1), draw(rows, observed, seed=2), draw(rows, seed=3)
    taken = torch.arange(rows, device=x.device).remainder(acts).unsqueeze(1)

    def loss() -> Tensor:
        with torch.no_grad():
            target = reward + DISCOUNT * still(following).max(1).values
        return F.smooth_l1_loss(q(x).gather(1, taken).squeeze(1), target)

    return [q, still], loss


def sac(draw, rows: int, observed: int, acts: int) -> tuple[list[nn.Module], Loss]:
    """Two critics towards the same target (arXiv:1801.01290)."""
    critics = [mlp(observed + acts, (256, 256), 1, nn.ReLU) for _ in range(2)]
    x, taken, target = draw(rows, observed, seed=1), draw(rows, acts, seed=2), draw(rows, 1, seed=3)

    def loss() -> Tensor:
        pairs = torch.cat([x, taken], dim=1)
        return 0.5 * sum((F.mse_loss(q(pairs), target) for q in critics), torch.zeros_like(target[0, 0]))

    return list(critics), loss


def action(draw, rows: int, observed: int, acts: int) -> tuple[list[nn.Module], Loss]:
    """What a policy does next."""
    policy, x = mlp(observed, (64, 64), acts, nn.Tanh), draw(rows, observed, seed=1)

    def act() -> Tensor:
        with torch.no_grad():
            return policy(x)

    return [policy], act
