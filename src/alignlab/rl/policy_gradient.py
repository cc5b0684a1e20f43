"""Policy gradients: exact ones on a finite decision process, and actor-critic on environments, several seeds at once.

Knows policies over finitely many actions. REINFORCE is actor-critic whose rollout ends with the episode (see the lab).
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab.losses.policy import entropy_bonus, policy_gradient_loss, value_loss
from alignlab.rl.environments import Copies, discount, finite_actions, observation_size
from alignlab.rl.mdp import FiniteMDP, occupancy, q_from_v, values
from alignlab.rl.networks import Networks, clip_grad_norms
from alignlab.rl.returns import lambda_returns


def score(logits: Tensor, actions: Tensor) -> Tensor:
    """The gradient of log softmax(logits)[action] by the logits: the action's unit vector minus the probabilities.

    logits: (..., A). actions: (...) integers. Returns (..., A); each row sums to 0.
    """
    return torch.nn.functional.one_hot(actions, logits.shape[-1]).to(logits) - logits.softmax(-1)


def softmax_gradient(mdp: FiniteMDP, logits: Tensor) -> Tensor:
    """The exact gradient of J = E[V(s_0)] by a table of logits: the policy gradient theorem, Sutton et al. (1999).

    logits: (S, A). Returns (S, A), float64: d(s) pi(a|s) A(s, a), with d(s) = sum_t gamma^t P(s_t = s), which sums to
    1 / (1 - gamma) where no state is terminal.
    """
    policy = logits.detach().double().softmax(-1)
    v = values(mdp, policy)
    advantages = q_from_v(mdp, v) - v[:, None]
    return occupancy(mdp, policy)[:, None] * policy * advantages


@dataclass(frozen=True)
class Config:
    """Settings of `train`; the defaults solve CartPole-v1.

    environments: how many each seed acts in at once. steps: rewards seen before an update. lam: 1 sums all of them and
    bootstraps after the last, 0 bootstraps after each (`returns.lambda_returns`). value_weight, entropy_weight: of the
    two other terms of the loss. clip: the most that a gradient's norm may be, the actor's and the critic's, seed by
    seed. anneal: whether the learning rate falls linearly to 0 over the run.
    """

    environments: int = 8
    steps: int = 3
    gamma: float = 0.98
    lam: float = 0.95
    hidden: tuple[int, ...] = (64, 64)
    learning_rate: float = 5e-3
    value_weight: float = 0.5
    entropy_weight: float = 0.0
    clip: float = 0.5
    anneal: bool = True

    def __post_init__(self) -> None:
        discount(self.gamma)
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam is {self.lam}; it lies in [0, 1]")
        for name in ("environments", "steps", "learning_rate", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")


@dataclass
class ActorCritic:
    """Policies and critics of several seeds, and how they fared.

    policy: (seeds, n, observation) to logits (seeds, n, actions). critic: to values (seeds, n, 1).
    steps: environment steps that each seed had taken at each record; returns: at each record, each seed's mean return
    over its last 100 episodes, a list of lists (records, seeds). episodes: how many each seed has finished.
    """

    policy: Networks
    critic: Networks
    steps: list[int] = field(default_factory=list)
    returns: list[list[float]] = field(default_factory=list)
    episodes: list[int] = field(default_factory=list)

    def greedy(self, observations: Tensor) -> Tensor:
        """The likeliest action: observations (seeds, n, d) to actions (seeds, n)."""
        return self.policy(observations).argmax(-1)


def sample(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw from softmax(logits), (..., A) to (...): the largest of the logits, each with Gumbel noise on top."""
    return (logits + gumbel(logits.shape, generator)).argmax(-1)


def gumbel(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Noise -log(-log u), u uniform: added to logits, it makes the largest a draw from their softmax."""
    return torch.rand(tuple(shape), generator=generator).clamp_min_(1e-20).log_().neg_().log_().neg_()


def train(
    name: str,
    copies: int = 1,
    seed: int = 0,
    steps: int = 100_000,
    config: Config | None = None,
    watch: Callable[[ActorCritic], bool | None] | None = None,
    loss_of: Callable[[ActorCritic, "Rollout", Config], Tensor] | None = None,
) -> ActorCritic:
    """Advantage actor-critic, synchronous (A2C, after Mnih et al. 2016), on an environment with finitely many actions.

    copies: seeds trained side by side, each with networks and environments of its own. steps: environment steps of each
    seed. watch: called after each record (10 updates); what it returns ends the training if it is true.
    loss_of: another loss than `losses`, for experiments.
    TypeError before any training where the environment's actions or observations are not what this agent handles.
    """
    config = config or Config()
    environments = Copies(name, copies * config.environments, seed)
    actions_there_are = finite_actions(environments.action_space, "actor-critic")
    width = observation_size(environments.observation_space, "actor-critic")
    agent = ActorCritic(
        Networks((width, *config.hidden, actions_there_are), copies, seed, torch.tanh),
        Networks((width, *config.hidden, 1), copies, seed + 1000, torch.tanh),
    )
    actor, critic = list(agent.policy.parameters()), list(agent.critic.parameters())
    # No momentum: it would add gradients of policies that are no more.
    optimizer = torch.optim.Adam([*actor, *critic], config.learning_rate, betas=(0.0, 0.999), eps=1e-5, fused=True)
    generator = torch.Generator().manual_seed(seed)
    shape = (copies, config.environments)
    recent: list[deque[float]] = [deque(maxlen=100) for _ in range(copies)]
    updates = max(1, steps // (config.steps * config.environments))

    for update in range(updates):
        rollout = collect(agent.policy, environments, config.steps, shape, generator, recent)
        loss = (loss_of or losses)(agent, rollout, config)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - update / updates if config.anneal else 1.0)
        optimizer.zero_grad()
        loss.sum().backward()
        clip_grad_norms(actor, config.clip)  # each alone: where the critic errs much, the actor would stand still
        clip_grad_norms(critic, config.clip)
        optimizer.step()
        if update % 10 == 9 or update == updates - 1:
            agent.steps.append((update + 1) * config.steps * config.environments)
            agent.episodes = [
                sum(len(returns) for returns in environments.returns[i * shape[1] : (i + 1) * shape[1]])
                for i in range(copies)
            ]
            agent.returns.append([sum(last) / max(len(last), 1) for last in recent])
            if watch is not None and watch(agent):
                break
    return agent


class Rollout(NamedTuple):
    """T steps in n environments of each of C seeds. observations: (C, n, T + 1, d); the others (C, n, T).

    The observation after an episode's last step is its true last one, so the value of what step t led to is always the
    value of row t + 1. real is false where a row only begins a new episode.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    real: Tensor


@torch.no_grad()
def collect(
    policy: Networks,
    environments: Copies,
    steps: int,
    shape: tuple[int, int],
    generator: torch.Generator,
    recent: Sequence[deque[float]],
) -> Rollout:
    """Act for `steps` steps in `shape` = (seeds, n) environments; returns of episodes go to their seed's `recent`."""
    observations, rows = [environments.observation], []
    noise = gumbel((steps, *shape, policy.sizes[-1]), generator)  # for all steps at once
    for t in range(steps):
        actions = (policy(observations[-1].view(*shape, -1)) + noise[t]).argmax(-1).flatten()
        step = environments.step(actions)
        rows.append((actions, step.reward, step.terminated, step.truncated, step.real))
        observations.append(environments.observation)
        ended = step.terminated | step.truncated
        if ended.any():
            for place in ended.nonzero().flatten().tolist():
                recent[place // shape[1]].append(environments.returns[place][-1])
    columns = (torch.stack(column, -1).view(*shape, steps) for column in zip(*rows, strict=True))
    return Rollout(torch.stack(observations, 1).view(*shape, steps + 1, -1), *columns)


def losses(agent: ActorCritic, rollout: Rollout, config: Config) -> Tensor:
    """Each seed's loss, (C,): the actor's, plus value_weight times the critic's, minus entropy_weight times entropy.

    Each is a mean over the rollout's real transitions.
    """
    seeds, n, steps = rollout.rewards.shape
    observations = rollout.observations.flatten(1, 2)  # (C, n (T + 1), d)
    values = agent.critic(observations).view(seeds, n, steps + 1)
    logits = agent.policy(observations).view(seeds, n, steps + 1, -1)[:, :, :-1]
    returns = lambda_returns(
        rollout.rewards, values[..., 1:].detach(), rollout.terminated, config.gamma, config.lam, rollout.truncated
    )
    logprobs = logits.log_softmax(-1).gather(-1, rollout.actions[..., None])[..., 0]
    loss = policy_gradient_loss(logprobs, returns - values[..., :-1])
    loss = loss + config.value_weight * value_loss(values[..., :-1], returns)
    if config.entropy_weight:
        loss = loss + config.entropy_weight * entropy_bonus(logits)
    real = rollout.real.to(loss)
    return (loss * real).sum((1, 2)) / real.sum((1, 2)).clamp_min(1.0)
