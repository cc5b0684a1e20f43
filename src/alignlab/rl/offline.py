"""Learning from transitions that somebody else collected, and can collect no more of: the data, and three losses.

Knows tables of transitions and values of actions; nothing about networks or trainers.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab.rl.environments import Copies


class Transitions(NamedTuple):
    """N transitions for each of several copies, in the order in which they happened.

    observation, next_observation: (copies, N, d) float32. action: (copies, N) int64. reward: (copies, N) float32.
    terminated: (copies, N) bool, the task ended there. ended: (copies, N) bool, the episode did, by itself or by clock.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    ended: Tensor

    def draw(self, size: int, generator: torch.Generator | None = None) -> "Transitions":
        """`size` transitions of each copy, drawn with replacement, (copies, size) each."""
        copies, total = self.action.shape
        rows = torch.randint(total, (copies, size), generator=generator)
        own = torch.arange(copies)[:, None]
        return Transitions(*(part[own, rows] for part in self))


def collect(
    behaviour: Callable[[Tensor], Tensor], name: str, transitions: int, copies: int = 1, seed: int = 0
) -> Transitions:
    """Let a behaviour policy act until every copy has `transitions` of them.

    behaviour: from observations (copies, d) to actions (copies,). The rows in which a copy only began anew are no
    transitions and are left out.
    """
    world = Copies(name, copies, seed)
    kept: list[Transitions] = []
    real: list[Tensor] = []
    counts = torch.zeros(copies, dtype=torch.long)
    while int(counts.min()) < transitions:
        seen = world.observation
        action = behaviour(seen)
        step = world.step(action)
        over = step.terminated | step.truncated
        kept.append(Transitions(seen, action, step.reward, step.next_observation, step.terminated, over))
        real.append(step.real)
        counts += step.real
    where = torch.stack(real, 1)
    rows = torch.stack([row.nonzero()[:transitions, 0] for row in where])
    own = torch.arange(copies)[:, None]
    return Transitions(*(torch.stack(part, 1)[own, rows] for part in zip(*kept, strict=True)))


def cql_penalty(q: Tensor, action: Tensor) -> Tensor:
    r"""Conservative Q-learning's regularizer, Kumar et al. (2020), eq. 4: $\log\sum_a e^{Q(s,a)}-Q(s,a_\mathcal D)$.

    q: (..., A), the values of all actions. action: (...), the one in the data. Returns (...), never negative. Its
    gradient is softmax(q) minus the data's action: what looks best is pushed down, what was done is pushed up.
    """
    return q.logsumexp(-1) - q.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def expectile_loss(difference: Tensor, tau: float) -> Tensor:
    r"""Asymmetric squared error, Kostrikov et al. (2021), eq. 5: $|\tau-\mathbb 1(u<0)|\,u^2$.

    difference: u, targets minus estimates, (...). tau: in (0, 1). At 0.5 the minimizer is the mean (the loss is half
    the square), towards 1 it nears the largest
    target. ValueError for a tau outside.
    """
    if not 0 < tau < 1:
        raise ValueError(f"tau is {tau}; an expectile lies strictly between 0 and 1")
    return torch.where(difference < 0, 1 - tau, tau) * difference.square()


def advantage_weights(advantage: Tensor, beta: float, most: float = 100.0) -> Tensor:
    r"""Weights of advantage-weighted regression, $\min(e^{\beta A}, \text{most})$; Kostrikov et al. (2021), eq. 7.

    advantage: (...), Q(s, a) - V(s) of the data's actions. beta: inverse temperature, >= 0; 0 is behaviour cloning.
    """
    return (beta * advantage).exp().clamp_max(most)
