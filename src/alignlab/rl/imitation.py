"""Imitation: cloning, DAgger, maximum-entropy inverse reinforcement learning, the adversarial game of GAIL and AIRL.

Knows finite decision processes, small networks and an expert that can be asked; nothing about where the expert is from.
Tables may have leading dimensions (...), one entry per seed.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.rl.mdp import FiniteMDP
from alignlab.rl.networks import Networks

Policy = TypeVar("Policy")
Reward = Literal["gail", "log D", "airl"]


# -- exact distributions ------------------------------------------------------------------------------------------


def state_distributions(mdp: FiniteMDP, policy: Tensor, steps: int) -> Tensor:
    """P(s_t = s) at t = 0 ... steps - 1, with no discount: (..., S, A) to (..., steps, S)."""
    moves = torch.einsum("...sa,sat->...st", policy.double(), mdp.transitions)
    now = mdp.start.expand(*policy.shape[:-2], -1)
    rows = []
    for _ in range(steps):
        rows.append(now)
        now = (now[..., None, :] @ moves)[..., 0, :]
    return torch.stack(rows, -2)


def state_action_occupancy(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    """The occupancy measure sum_t gamma^t P(s_t = s, a_t = a), Ho and Ermon (2016), section 2: (..., S, A) to the same.

    Terminal states have 0; times r and summed it is the expected return. A policy that never ends needs gamma below 1.
    """
    moves = torch.einsum("...sa,sat->...st", policy.double(), mdp.transitions) * ~mdp.terminal[:, None]
    system = torch.eye(mdp.states, dtype=torch.float64) - mdp.gamma * moves.mT
    start = (mdp.start * ~mdp.terminal).expand(*policy.shape[:-2], -1)
    visits = torch.linalg.solve(system, start[..., None])[..., 0] * ~mdp.terminal
    return visits[..., None] * policy.double()


# -- behaviour cloning --------------------------------------------------------------------------------------------


def clone_table(states: Tensor, actions: Tensor, shape: tuple[int, int], unseen: Tensor | None = None) -> Tensor:
    """Behaviour cloning in a table: each state's actions as often as the expert took them, the maximum of likelihood.

    states, actions: (..., N) indices. shape: (S, A). unseen: what is done where there is no demonstration, (..., A);
    default: each of the A actions equally often. Returns the policy, (..., S, A).
    """
    if states.shape != actions.shape:
        raise ValueError(
            f"states are {tuple(states.shape)} and actions {tuple(actions.shape)}; give one action a state"
        )
    size, width = shape
    for name, index, most in (("states", states, size), ("actions", actions, width)):
        if index.numel() and not 0 <= index.min() <= index.max() < most:
            raise ValueError(f"{name} go from {index.min()} to {index.max()}; there are {most}, numbered from 0")
    counts = torch.zeros(*states.shape[:-1], size * width, dtype=torch.float64)
    counts.scatter_add_(-1, states * width + actions, torch.ones_like(states, dtype=torch.float64))
    counts = counts.unflatten(-1, shape)
    guess = torch.full((width,), 1 / width, dtype=torch.float64) if unseen is None else unseen.double()
    seen = counts.sum(-1, keepdim=True)
    return torch.where(seen > 0, counts / seen.clamp_min(1), guess[..., None, :])


def clone(
    policy: Networks,
    observations: Tensor,
    actions: Tensor,
    steps: int,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Behaviour cloning of copies side by side: Adam on the cross-entropy of the expert's actions, Pomerleau (1988).

    observations: (copies, N, d). actions: (copies, N) integers. Each step draws `batch` rows for each copy, with
    replacement. watch: sees (step, losses (copies,)). Returns the losses of all steps, (steps, copies), in nats.
    """
    copies, rows = actions.shape
    if observations.shape[:2] != actions.shape or copies != policy.copies:
        raise ValueError(
            f"observations are {tuple(observations.shape)}, actions {tuple(actions.shape)}, networks {policy.copies}; "
            "give (copies, N, d) and (copies, N)"
        )
    if not observations.isfinite().all():
        raise ValueError("the demonstrations hold an observation that is not finite")
    if actions.min() < 0 or actions.max() >= policy.sizes[-1]:
        raise ValueError(
            f"actions go from {actions.min()} to {actions.max()}; the policy has {policy.sizes[-1]}, numbered from 0"
        )
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
    each = torch.arange(copies)[:, None]
    losses = []
    for step in range(steps):
        chosen = torch.randint(rows, (copies, min(batch, rows)), generator=generator)
        logits = policy(observations[each, chosen])
        loss = F.cross_entropy(logits.transpose(1, 2), actions[each, chosen], reduction="none").mean(-1)  # (copies,)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
        if watch is not None:
            watch(step, losses[-1])
    return torch.stack(losses)


def dagger(
    roll: Callable[[Policy | None, int], Tensor],
    expert: Callable[[Tensor], Tensor],
    fit: Callable[[Tensor, Tensor], Policy],
    rounds: int,
    dimension: int = 0,
) -> tuple[list[Policy], Tensor, Tensor]:
    """Dataset aggregation, Ross et al. (2011), algorithm 3.1, with beta = 1 in the first round and 0 after.

    roll: the states visited under a policy in round i; None stands for the expert, who drives in round 0 alone.
    expert: the expert's action in each of them. fit: a policy from all states and actions so far. dimension: along
    which rounds are joined (1 where rows are (copies, N)). Returns the policies, one a round, and all the data.
    """
    states, actions = [], []
    policies: list[Policy] = []
    for i in range(rounds):
        states.append(roll(policies[-1] if policies else None, i))
        actions.append(expert(states[-1]))
        policies.append(fit(torch.cat(states, dimension), torch.cat(actions, dimension)))
    return policies, torch.cat(states, dimension), torch.cat(actions, dimension)


# -- maximum-entropy inverse reinforcement learning ---------------------------------------------------------------


class Soft(NamedTuple):
    """Soft values V (..., S), Q (..., S, A) and the policy exp((Q - V) / temperature), (..., S, A)."""

    values: Tensor
    q: Tensor
    policy: Tensor


def soft_solve(
    mdp: FiniteMDP,
    rewards: Tensor | None = None,
    temperature: float = 1.0,
    tolerance: float = 1e-10,
    rounds: int = 200,
) -> Soft:
    """The policy of highest return plus entropy, Ziebart (2010): V = temperature * log sum_a exp(Q / temperature).

    rewards: (..., S, A), default the process's own. temperature: what a nat of entropy is worth, > 0; near 0 this is
    value iteration. An end is worth 0 and has no entropy. Solved by rounds of exact evaluation and improvement, until
    no value breaks the equation by more than `tolerance`, relative to the largest value where that is above 1.
    ValueError where there is no solution: with gamma = 1, a walk that never ends may gather entropy without bound.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0 (for 0 use value_iteration)")
    r = mdp.rewards if rewards is None else torch.as_tensor(rewards, dtype=torch.float64)
    if r.shape[-2:] != (mdp.states, mdp.actions):
        raise ValueError(f"rewards are {tuple(r.shape)}; they must end in {(mdp.states, mdp.actions)}")
    if not r.isfinite().all():
        raise ValueError("rewards hold a number that is not finite")
    going = (~mdp.terminal).double()
    eye, inner = torch.eye(mdp.states, dtype=torch.float64), mdp.transitions * going  # an end has the value 0
    r = r * going[:, None]
    v = torch.zeros(r.shape[:-1], dtype=torch.float64)
    broken = torch.tensor(torch.inf)
    for _ in range(rounds):
        q = r + mdp.gamma * torch.einsum("sat,...t->...sa", inner, v)
        logps = (q / temperature).log_softmax(-1)
        broken = ((temperature * (q / temperature).logsumexp(-1) - v) * going).abs().max()
        if broken <= tolerance * max(1.0, v.abs().max().item()):
            return Soft(v, q, logps.exp())
        gain = (logps.exp() * (r - temperature * logps)).sum(-1) * going  # reward plus entropy of a step
        moves = torch.einsum("...sa,sat->...st", logps.exp(), inner) * going[:, None]
        v = torch.linalg.solve_ex(eye - mdp.gamma * moves, gain)[0]
        if not v.abs().max() < 1e12:  # growing without bound
            break
    raise ValueError(f"no soft values: the equation is off by {broken:g} after {rounds} rounds; gamma is {mdp.gamma}")


def feature_expectations(mdp: FiniteMDP, policy: Tensor, features: Tensor) -> Tensor:
    """Discounted sum of features that a policy meets, Abbeel and Ng (2004): E sum_t gamma^t f(s_t, a_t).

    policy: (..., S, A). features: (S, A, K). Returns (..., K).
    """
    return torch.einsum("...sa,sak->...k", state_action_occupancy(mdp, policy), features.double())


def demonstrated_features(mdp: FiniteMDP, states: Tensor, actions: Tensor, features: Tensor) -> Tensor:
    """The same, averaged over demonstrations: states, actions (..., episodes, steps) to (..., K).

    What stands after an end (a terminal state and whatever action) counts nothing.
    """
    weights = mdp.gamma ** torch.arange(states.shape[-1], dtype=torch.float64) * ~mdp.terminal[states]
    return (weights[..., None] * features.double()[states, actions]).sum(-2).mean(-2)


def irl_objective(mdp: FiniteMDP, weights: Tensor, features: Tensor, expert: Tensor) -> Tensor:
    """weights . expert - E[V(s_0)], V soft: concave; with exact expectations the discounted log-likelihood.

    weights, expert: (..., K). features: (S, A, K). Returns (...), nats. Ziebart et al. (2008); with causal
    entropy, Ziebart (2010), it holds where transitions are random too.
    """
    soft = soft_solve(mdp, torch.einsum("...k,sak->...sa", weights.double(), features.double()))
    return (weights * expert).sum(-1) - soft.values @ mdp.start


def irl_gradient(mdp: FiniteMDP, weights: Tensor, features: Tensor, expert: Tensor) -> Tensor:
    """Its gradient, Ziebart et al. (2008): the expert's feature expectations minus the learner's, (..., K)."""
    soft = soft_solve(mdp, torch.einsum("...k,sak->...sa", weights.double(), features.double()))
    return expert - feature_expectations(mdp, soft.policy, features)


class Recovered(NamedTuple):
    """weights (..., K), the soft policy for them (..., S, A), and the largest unmatched feature, (...)."""

    weights: Tensor
    policy: Tensor
    gap: Tensor


def maximum_entropy_irl(
    mdp: FiniteMDP, features: Tensor, expert: Tensor, penalty: float = 0.0, steps: int = 200
) -> Recovered:
    """The maximum of `irl_objective`, from 0: a reward, linear in features, whose soft optimum is the expert.

    features: (S, A, K). expert: its feature expectations, (..., K). penalty: on half the squared weights (an expert who
    never errs has no finite maximum without it). steps: of L-BFGS, at most.
    """
    expert = expert.double()
    weights = torch.zeros_like(expert, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=steps,
        history_size=30,
        tolerance_grad=1e-10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        with torch.no_grad():
            soft = soft_solve(mdp, torch.einsum("...k,sak->...sa", weights, features.double()))
            weights.grad = feature_expectations(mdp, soft.policy, features) - expert + penalty * weights
            objective = (weights * expert).sum(-1) - soft.values @ mdp.start
            return (penalty / 2 * weights.square().sum(-1) - objective).sum()

    optimizer.step(loss)
    found = weights.detach()
    policy = soft_solve(mdp, torch.einsum("...k,sak->...sa", found, features.double())).policy
    gap = (expert - feature_expectations(mdp, policy, features) - penalty * found).abs().amax(-1)
    return Recovered(found, policy, gap)


def shaped(mdp: FiniteMDP, rewards: Tensor, potential: Tensor) -> Tensor:
    """Potential-based shaping, Ng et al. (1999): r(s, a) + gamma E[potential(s')] - potential(s), ends having 0.

    rewards: (S, A). potential: (S,). No policy's rank changes: to (S, A).
    """
    potential = potential.double().masked_fill(mdp.terminal, 0.0)
    return (rewards + mdp.gamma * mdp.transitions @ potential - potential[:, None]).masked_fill(
        mdp.terminal[:, None], 0.0
    )


# -- the adversarial game -----------------------------------------------------------------------------------------


def discriminator_loss(
    expert: Tensor,
    learner: Tensor,
    expert_weights: Tensor | None = None,
    learner_weights: Tensor | None = None,
) -> Tensor:
    """Mean of -log D over the expert's rows plus mean of -log(1 - D) over the learner's, Ho and Ermon (2016).

    expert: (..., N) and learner: (..., M), logits of D, the probability that a row is the expert's (the paper calls D
    what is here 1 - D). weights: what each row counts, as gamma^t; default equally. Returns (...), nats; log 4 where D
    knows nothing.
    """

    def mean(losses: Tensor, weights: Tensor | None) -> Tensor:
        return losses.mean(-1) if weights is None else (losses * weights).sum(-1) / weights.sum(-1)

    return mean(F.softplus(-expert), expert_weights) + mean(F.softplus(learner), learner_weights)


def imitation_reward(logits: Tensor, kind: Reward = "airl") -> Tensor:
    """The learner's reward from the logits of D, in nats, same shape.

    "gail": -log(1 - D), always positive. "log D": always negative. "airl": log D - log(1 - D), the logit itself, of
    either sign, Fu et al. (2018). All three rise with D; where episodes may end, their signs matter.
    """
    if kind == "gail":
        return F.softplus(logits)
    if kind == "log D":
        return F.logsigmoid(logits)
    if kind == "airl":
        return logits
    raise ValueError(f"kind is {kind!r}; it must be 'gail', 'log D' or 'airl'")


def best_logits(expert: Tensor, learner: Tensor) -> Tensor:
    """Logits of the best discriminator, D = expert / (expert + learner), Goodfellow et al. (2014), proposition 1.

    expert, learner: two measures of one shape, both summing to 1.
    """
    return expert.clamp_min(1e-300).log() - learner.clamp_min(1e-300).log()


def airl_logits(f: Tensor, logps: Tensor) -> Tensor:
    """Logits of AIRL's discriminator D = exp(f) / (exp(f) + pi(a | s)), Fu et al. (2018). f, logps: one shape."""
    return f - logps


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the sum of absolute differences of two measures (..., S, A), each scaled to sum to 1: (...), 0 to 1."""
    p, q = (measure / measure.sum((-1, -2), keepdim=True) for measure in (p, q))
    return (p - q).abs().sum((-1, -2)) / 2


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two measures (..., S, A), each scaled to sum to 1: (...), 0 to log 2 nats."""
    p, q = (measure / measure.sum((-1, -2), keepdim=True) for measure in (p, q))
    middle = (p + q) / 2
    return ((torch.xlogy(p, p) + torch.xlogy(q, q)) / 2 - torch.xlogy(middle, middle)).sum((-1, -2))
