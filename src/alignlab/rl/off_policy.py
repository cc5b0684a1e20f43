"""What a policy is worth, from episodes of another: importance sampling, and how little of a sample it leaves.

Knows tables of two policies and episodes of one of them; nothing about learning.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from alignlab.rl.environments import discount
from alignlab.rl.mdp import Episodes, FiniteMDP, check_policy
from alignlab.rl.returns import discounted_returns, importance_weights


class Estimates(NamedTuple):
    """Four estimates of one number, the expected return of the target policy.

    naive: the mean return, of the behaviour policy in truth. ordinary: the mean of weight times return, unbiased.
    weighted: divided by the sum of the weights instead; biased, less and less as episodes grow in number, and never
    beyond the returns seen. per_decision: each reward weighted by the actions up to it; unbiased, less noisy.
    effective: the number of equally weighted episodes that would say as much, (sum w)^2 / sum w^2.
    """

    naive: Tensor
    ordinary: Tensor
    weighted: Tensor
    per_decision: Tensor
    effective: Tensor


def estimates(episodes: Episodes, target: Tensor, behaviour: Tensor, gamma: float) -> Estimates:
    """The target policy's expected return from the behaviour's episodes, Sutton and Barto (2018), sections 5.5 and 5.9.

    target, behaviour: (S, A). episodes: as `mdp.sample` gives them, (..., runs, T); estimates are (...).
    ValueError where the behaviour gives an action that it took the probability 0.
    """
    discount(gamma)
    s, a = episodes.states[..., :-1], episodes.actions
    weights = importance_weights(target.double()[s, a], behaviour.double()[s, a], episodes.running)  # (..., runs, T)
    rewards = episodes.rewards.double()
    returns = discounted_returns(rewards, gamma)[..., 0]
    powers = gamma ** torch.arange(rewards.shape[-1], dtype=torch.float64)
    whole = weights[..., -1]
    return Estimates(
        returns.mean(-1),
        (whole * returns).mean(-1),
        (whole * returns).sum(-1) / whole.sum(-1),
        (weights * powers * rewards).sum(-1).mean(-1),
        whole.sum(-1).square() / whole.square().sum(-1),
    )


def second_moments(mdp: FiniteMDP, target: Tensor, behaviour: Tensor, steps: int) -> Tensor:
    """E[w_t^2] of the weights after 1 ... `steps` steps under the behaviour policy, exactly: (steps,).

    E[w_t] is 1, so 1 / E[w_t^2] is the share of the episodes that is left in effect. Infinite where the behaviour never
    takes what the target may take.
    """
    check_policy(mdp, target)
    check_policy(mdp, behaviour)
    b, pi = behaviour.double(), target.double()
    factor = torch.where(pi > 0, pi.square() / b, 0.0)
    factor = torch.where(mdp.terminal[:, None], b, factor)
    kernel = torch.einsum("sa,sat->st", factor, mdp.transitions)
    mass, found = mdp.start.clone(), []
    for _ in range(steps):
        mass = mass @ kernel
        found.append(mass.sum())
    return torch.stack(found)
