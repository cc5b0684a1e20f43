"""Returns of sampled episodes: backwards, over n steps, weighted by lambda; and importance weights.

Knows rewards, values and where episodes end; nothing about environments. Tensors are (..., T), time last. An episode
that ended (`terminated`) has nothing after it. One that was cut off (`truncated`) has: its return goes on with the
value of the state where it was cut.
"""

from typing import Any

import torch
from torch import Tensor

from alignlab.rl.environments import discount


def discounted_returns(rewards: Tensor, gamma: float, last_value: Tensor | float = 0.0) -> Tensor:
    """G_t = r_t + gamma G_{t+1}, from the last step to the first, Sutton and Barto (2018), eq. 3.9, in one pass.

    rewards: (..., T). last_value: (...), what follows the last step: 0 where the episode terminated, V of the state it
    stopped in where it was cut off. Returns (..., T). ValueError for rewards that are not finite.
    """
    discount(gamma)
    _finite(rewards=rewards)
    following = torch.zeros_like(rewards[..., 0]) + last_value
    returns = torch.empty_like(rewards)
    for t in reversed(range(rewards.shape[-1])):
        following = rewards[..., t] + gamma * following
        returns[..., t] = following
    return returns


def n_step_returns(
    rewards: Tensor, next_values: Tensor, terminated: Tensor, gamma: float, n: int, truncated: Tensor | None = None
) -> Tensor:
    """r_t + gamma r_{t+1} + ... + gamma^(n-1) r_{t+n-1} + gamma^n V(s_{t+n}), Sutton and Barto (2018), eq. 7.1.

    rewards, next_values (V of the state that step t led to), terminated, truncated: (..., T). Where an episode or the
    row ends before n steps the sum stops there: with no value where it terminated, with next_values elsewhere.
    Returns (..., T).
    """
    if n < 1:
        raise ValueError(f"n is {n}; a return looks ahead by at least one step")
    lengths = rewards.shape[-1]
    discount(gamma)
    over, ends = _ends(rewards, next_values, terminated, truncated)
    targets = rewards + gamma * next_values.masked_fill(over, 0.0)  # n = 1
    one = targets
    for _ in range(min(n, lengths) - 1):  # G^(n)_t = r_t + gamma G^(n-1)_{t+1}
        shorter = torch.cat([targets[..., 1:], one[..., -1:]], -1)
        targets = torch.where(ends, one, rewards + gamma * shorter)
    return targets


def lambda_returns(
    rewards: Tensor, next_values: Tensor, terminated: Tensor, gamma: float, lam: float, truncated: Tensor | None = None
) -> Tensor:
    """G_t = r_t + gamma ((1 - lambda) V(s_{t+1}) + lambda G_{t+1}), Sutton and Barto (2018), eq. 12.18, backwards.

    Arguments as in `n_step_returns`. The mean of all n-step returns with weights (1 - lambda) lambda^(n-1); lam = 0 is
    TD(0)'s target, lam = 1 the Monte Carlo return. Minus V(s_t) it is the advantage estimate GAE. Returns (..., T).
    """
    discount(gamma)
    if not 0 <= lam <= 1:
        raise ValueError(f"lambda is {lam}; it lies in [0, 1]")
    over, ends = _ends(rewards, next_values, terminated, truncated)
    values = next_values.masked_fill(over, 0.0)
    returns = torch.empty_like(rewards)
    following = values[..., -1]
    for t in reversed(range(rewards.shape[-1])):
        ahead = torch.where(ends[..., t], values[..., t], (1 - lam) * values[..., t] + lam * following)
        following = rewards[..., t] + gamma * ahead
        returns[..., t] = following
    return returns


def importance_weights(target: Tensor, behaviour: Tensor, running: Tensor | None = None) -> Tensor:
    """prod_{k<=t} pi(a_k | s_k) / b(a_k | s_k), Sutton and Barto (2018), eq. 5.3, up to and with each step, (..., T).

    target, behaviour: (..., T), probabilities of the actions taken under the policy that is judged and under the one
    that acted. running: (..., T), false after an episode's end, where weights stay as they are.
    The last one weights the whole return. ValueError where the behaviour's probability is 0 for an action it took.
    """
    ratios = target / behaviour
    counts = torch.ones_like(ratios, dtype=torch.bool) if running is None else running.bool()
    if ((behaviour <= 0) & counts).any():
        raise ValueError("the behaviour policy gives an action it took the probability 0; it must cover the target's")
    return torch.where(counts, ratios, 1.0).cumprod(-1)


def _ends(rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where an episode terminated, and where it ended in whatever way (the row's last step included)."""
    for name, x in (("next_values", next_values), ("terminated", terminated), ("truncated", truncated)):
        if x is not None and x.shape != rewards.shape:
            raise ValueError(f"{name} are {tuple(x.shape)}, rewards {tuple(rewards.shape)}; they must be of one shape")
    _finite(rewards=rewards, next_values=next_values)
    over = terminated.bool()
    ends = over.clone() if truncated is None else over | truncated.bool()
    ends[..., -1] = True
    return over, ends


def _finite(**tensors: Any) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} hold a number that is not finite: {tensor[~tensor.isfinite()][0].item()}")
