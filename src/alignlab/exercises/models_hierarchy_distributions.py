"""Exercises of the lab ch05_models_hierarchy_distributions: planning, plans, options, projection, quantiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

Q = torch.tensor([[0.2, 0.5, 0.1, 0.0], [0.4, 0.3, 0.9, 0.2], [0.7, 0.6, 0.0, 0.3]], dtype=torch.float64)
"""Action values of three states, (3, 4)."""

REWARDS = torch.tensor([[1.0, 0.5, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 3.0, -1.0, 2.0]], dtype=torch.float64)
TERMINATED = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)
"""Predictions for three plans of four steps; what a model says after the end means nothing."""

ATOMS = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)
PROBS = torch.tensor([0.02, 0.08, 0.1, 0.2, 0.15, 0.05, 0.1, 0.2, 0.1], dtype=torch.float64)
CASES = [(0.1, 0.9), (0.25, 1.0), (0.6, 0.9), (-0.7, 0.9), (1.0, 0.0), (0.3, 0.0)]
"""Reward and discount: between atoms, exactly on them, over the upper edge, over the lower, and after the end."""

QUANTILES = torch.tensor([-1.0, 0.2, 0.5, 1.4], dtype=torch.float64)
SAMPLES = torch.tensor([-1.5, -0.2, 0.3, 0.4, 0.9, 2.0], dtype=torch.float64)


# ---- solutions
def planned_value(
    q: Tensor, s: int, a: int, reward: float, following: int, terminal: bool, alpha: float, gamma: float
) -> float:
    """The Q-learning update, from a remembered transition in place of a real one."""
    onward = 0.0 if terminal else q[following].max().item()
    return q[s, a].item() + alpha * (reward + gamma * onward - q[s, a].item())


def plan_returns(rewards: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """sum_h gamma^h r_h up to and with the first step that terminates."""
    total, running = torch.zeros_like(rewards[:, 0]), torch.ones_like(rewards[:, 0])
    for h in range(rewards.shape[1]):
        total = total + gamma**h * running * rewards[:, h]
        running = running * ~terminated[:, h]
    return total


def option_target(rewards: Tensor, best_next: float, gamma: float) -> float:
    """r_1 + gamma r_2 + ... + gamma^(k-1) r_k + gamma^k max_o Q(s', o)."""
    k = len(rewards)
    return sum(gamma**i * rewards[i].item() for i in range(k)) + gamma**k * best_next


def projection(probs: Tensor, reward: float, discount: float, atoms: Tensor) -> Tensor:
    """Cut to the range, then divide between the two neighbours."""
    gap = atoms[1] - atoms[0]
    place = ((reward + discount * atoms).clamp(atoms[0], atoms[-1]) - atoms[0]) / gap
    left = place.floor().clamp(max=len(atoms) - 2)
    out = torch.zeros_like(probs)
    out.index_add_(0, left.long(), probs * (1 - (place - left)))
    out.index_add_(0, left.long() + 1, probs * (place - left))
    return out


def quantile_loss(quantiles: Tensor, samples: Tensor) -> Tensor:
    """An error upwards weighs tau, one downwards 1 - tau."""
    n = len(quantiles)
    tau = (torch.arange(n).to(quantiles) + 0.5) / n
    u = samples[None, :] - quantiles[:, None]
    return torch.where(u > 0, tau[:, None] * u, (tau[:, None] - 1) * u).mean(1).sum()


# ---- wrong answers
def bootstraps_the_end(
    q: Tensor, s: int, a: int, reward: float, following: int, terminal: bool, alpha: float, gamma: float
) -> float:
    return planned_value(q, s, a, reward, following, False, alpha, gamma)


def the_same_action(
    q: Tensor, s: int, a: int, reward: float, following: int, terminal: bool, alpha: float, gamma: float
) -> float:
    onward = 0.0 if terminal else q[following, a].item()
    return q[s, a].item() + alpha * (reward + gamma * onward - q[s, a].item())


def target_alone(
    q: Tensor, s: int, a: int, reward: float, following: int, terminal: bool, alpha: float, gamma: float
) -> float:
    return planned_value(q, s, a, reward, following, terminal, 1.0, gamma)


def ignores_the_end(rewards: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    return plan_returns(rewards, torch.zeros_like(terminated), gamma)


def last_reward_lost(rewards: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    running = (~terminated).cumprod(1).to(rewards)
    return (rewards * running * gamma ** torch.arange(rewards.shape[1])).sum(1)


def revived(rewards: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    ended_before = torch.cat([torch.zeros_like(terminated[:, :1]), terminated[:, :-1]], 1)
    return (rewards * ~ended_before * gamma ** torch.arange(rewards.shape[1])).sum(1)


def not_discounted(rewards: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    return plan_returns(rewards, terminated, 1.0)


def gamma_once(rewards: Tensor, best_next: float, gamma: float) -> float:
    return option_target(rewards, 0.0, gamma) + gamma * best_next


def rewards_not_discounted(rewards: Tensor, best_next: float, gamma: float) -> float:
    return rewards.sum().item() + gamma ** len(rewards) * best_next


def one_too_many(rewards: Tensor, best_next: float, gamma: float) -> float:
    return option_target(rewards, 0.0, gamma) + gamma ** (len(rewards) + 1) * best_next


def both_ends_whole(probs: Tensor, reward: float, discount: float, atoms: Tensor) -> Tensor:
    place = ((reward + discount * atoms).clamp(atoms[0], atoms[-1]) - atoms[0]) / (atoms[1] - atoms[0])
    lower, upper = place.floor(), place.ceil()
    out = torch.zeros_like(probs)
    out.index_add_(0, lower.long(), probs * (upper - place))  # both weights are 0 where place is whole
    out.index_add_(0, upper.long(), probs * (place - lower))
    return out


def falls_off(probs: Tensor, reward: float, discount: float, atoms: Tensor) -> Tensor:
    moved = reward + discount * atoms
    inside = (moved >= atoms[0] - 1e-12) & (moved <= atoms[-1] + 1e-12)
    return projection(probs * inside, reward, discount, atoms)


def nearest(probs: Tensor, reward: float, discount: float, atoms: Tensor) -> Tensor:
    place = ((reward + discount * atoms).clamp(atoms[0], atoms[-1]) - atoms[0]) / (atoms[1] - atoms[0])
    return torch.zeros_like(probs).index_add_(0, (place + 1e-9).round().long(), probs)


def swapped(probs: Tensor, reward: float, discount: float, atoms: Tensor) -> Tensor:
    place = ((reward + discount * atoms).clamp(atoms[0], atoms[-1]) - atoms[0]) / (atoms[1] - atoms[0])
    left = place.floor().clamp(max=len(atoms) - 2)
    out = torch.zeros_like(probs)
    out.index_add_(0, left.long(), probs * (place - left))
    return out.index_add_(0, left.long() + 1, probs * (1 - (place - left)))


def tau_flipped(quantiles: Tensor, samples: Tensor) -> Tensor:
    n = len(quantiles)
    tau = 1 - (torch.arange(n).to(quantiles) + 0.5) / n
    u = samples[None, :] - quantiles[:, None]
    return torch.where(u > 0, tau[:, None] * u, (tau[:, None] - 1) * u).mean(1).sum()


def not_midpoints(quantiles: Tensor, samples: Tensor) -> Tensor:
    n = len(quantiles)
    tau = (torch.arange(n).to(quantiles) + 1) / n
    u = samples[None, :] - quantiles[:, None]
    return torch.where(u > 0, tau[:, None] * u, (tau[:, None] - 1) * u).mean(1).sum()


def absolute(quantiles: Tensor, samples: Tensor) -> Tensor:
    return 0.5 * (samples[None, :] - quantiles[:, None]).abs().mean(1).sum()


def averaged(quantiles: Tensor, samples: Tensor) -> Tensor:
    return quantile_loss(quantiles, samples) / len(quantiles)


# ---- graders
def _grade_planned_value(answer: Callable[..., Any]) -> None:
    for s, a, reward, following, terminal in ((0, 1, 0.3, 1, False), (2, 3, 1.0, 1, True), (1, 0, 0.0, 0, False)):
        args = (Q.clone(), s, a, reward, following, terminal, 0.25, 0.9)
        same(
            answer(*args),
            planned_value(*args),
            "the new value of q[s, a]",
            mistakes={
                "You count a value after the end: where `terminal` is true, nothing follows and the target is the "
                "reward alone.": bootstraps_the_end(*args),
                "You look at the same action in the next state; Q-learning takes the best there.": the_same_action(
                    *args
                ),
                "This is the target itself; move the old value towards it by a share of alpha.": target_alone(*args),
            },
        )


def _grade_plan_returns(answer: Callable[[Tensor, Tensor, float], Any]) -> None:
    args = (REWARDS, TERMINATED, 0.9)
    same(
        answer(REWARDS.clone(), TERMINATED.clone(), 0.9),
        plan_returns(*args),
        "the returns of the plans",
        mistakes={
            "You count rewards after the end: `terminated` is ignored, and plans that fall look as good as others.": (
                ignores_the_end(*args)
            ),
            "The reward of the step that terminates is lost; it is paid, only later ones are not.": last_reward_lost(
                *args
            ),
            "A plan comes back to life: once terminated, every later step counts nothing, not just the next.": revived(
                *args
            ),
            "The rewards are not discounted: the one at step h counts gamma^h.": not_discounted(*args),
        },
    )


def _grade_option_target(answer: Callable[[Tensor, float, float], Any]) -> None:
    for rewards in ([0.0, 0.0, 1.0, 0.5], [-0.1, -0.1, -0.1], [2.0]):
        r = torch.tensor(rewards, dtype=torch.float64)
        same(
            answer(r.clone(), 0.8, 0.9),
            option_target(r, 0.8, 0.9),
            f"the target after {len(rewards)} steps",
            mistakes={
                "You discount the next value once, by gamma; the option ran k steps, so it is gamma^k.": gamma_once(
                    r, 0.8, 0.9
                ),
                "The rewards inside the option are not discounted; the i-th of them counts gamma^(i-1).": (
                    rewards_not_discounted(r, 0.8, 0.9)
                ),
                "The next value is discounted by gamma^(k+1): one factor too many.": one_too_many(r, 0.8, 0.9),
            },
        )


def _grade_projection(answer: Callable[[Tensor, float, float, Tensor], Any]) -> None:
    for reward, discount in CASES:
        got = torch.as_tensor(answer(PROBS.clone(), reward, discount, ATOMS.clone()), dtype=torch.float64)
        require(got.shape == PROBS.shape, f"Your answer has the shape {tuple(got.shape)}; it must be (9,).")
        where = f"for reward {reward} and discount {discount}"
        mistakes = {
            f"Probability is lost {where}: a value that falls exactly on an atom has floor = ceil, and both of your "
            "weights are 0.": both_ends_whole(PROBS, reward, discount, ATOMS),
            f"Probability fell off the edge {where}: cut the values to the range of the atoms first.": falls_off(
                PROBS, reward, discount, ATOMS
            ),
            f"You give all to the nearest atom {where}; divide between neighbours, or the mean changes.": nearest(
                PROBS, reward, discount, ATOMS
            ),
            f"The two shares are swapped {where}: the nearer atom gets more.": swapped(PROBS, reward, discount, ATOMS),
        }
        same(got, projection(PROBS, reward, discount, ATOMS), f"the projection {where}", mistakes=mistakes)


def _grade_quantile_loss(answer: Callable[[Tensor, Tensor], Any]) -> None:
    same(
        answer(QUANTILES.clone(), SAMPLES.clone()),
        quantile_loss(QUANTILES, SAMPLES),
        "the loss",
        mistakes={
            "tau is flipped: a sample above the estimate weighs tau, so high quantiles are pulled up.": tau_flipped(
                QUANTILES, SAMPLES
            ),
            "The levels are i / N; take the midpoints (2 i - 1) / 2 N.": not_midpoints(QUANTILES, SAMPLES),
            "All errors weigh one half: this finds the median N times.": absolute(QUANTILES, SAMPLES),
            "You take the mean over quantiles; the loss is their sum.": averaged(QUANTILES, SAMPLES),
        },
    )


EXERCISES = [
    Exercise(
        name="models_hierarchy_distributions.planned_value",
        task="The value of q[s, a] after one planning update of Dyna-Q from a remembered transition.",
        difficulty=1,
        minutes=5,
        grade=_grade_planned_value,
        solution=planned_value,
        wrong=[
            Wrong(bootstraps_the_end, "count a value after the end"),
            Wrong(the_same_action, "the same action in the next state"),
            Wrong(target_alone, "the target itself"),
        ],
        hint="It is the Q-learning update: old + alpha (reward + gamma max - old), with no max after the end.",
    ),
    Exercise(
        name="models_hierarchy_distributions.plan_returns",
        task="The discounted return of each plan, (plans,), from predicted rewards and ends (plans, horizon).",
        difficulty=2,
        minutes=8,
        grade=_grade_plan_returns,
        solution=plan_returns,
        wrong=[
            Wrong(ignores_the_end, "`terminated` is ignored"),
            Wrong(last_reward_lost, "step that terminates is lost"),
            Wrong(revived, "comes back to life"),
            Wrong(not_discounted, "not discounted"),
        ],
        hint="Keep a factor per plan that is 1 while it runs and becomes 0 after the step that terminates.",
    ),
    Exercise(
        name="models_hierarchy_distributions.option_target",
        task="The target of SMDP Q-learning for an option that ran k steps with the given rewards (k,).",
        difficulty=2,
        minutes=6,
        grade=_grade_option_target,
        solution=option_target,
        wrong=[
            Wrong(gamma_once, "discount the next value once"),
            Wrong(rewards_not_discounted, "inside the option are not discounted"),
            Wrong(one_too_many, "one factor too many"),
        ],
        hint="k rewards, the first undiscounted, then gamma^k times the best value where it ended.",
    ),
    Exercise(
        name="models_hierarchy_distributions.projection",
        task="The categorical projection of reward + discount Z on evenly spaced atoms, (N,) to (N,).",
        difficulty=3,
        minutes=12,
        grade=_grade_projection,
        solution=projection,
        wrong=[
            Wrong(both_ends_whole, "exactly on an atom"),
            Wrong(falls_off, "fell off the edge"),
            Wrong(nearest, "all to the nearest atom"),
            Wrong(swapped, "shares are swapped"),
        ],
        hint="Cut to the range, find the place on the scale 0 ... N - 1, give 1 - fraction to the left neighbour.",
    ),
    Exercise(
        name="models_hierarchy_distributions.quantile_loss",
        task="The quantile regression loss of quantiles (N,) for samples (M,): mean over samples, sum over quantiles.",
        difficulty=2,
        minutes=6,
        grade=_grade_quantile_loss,
        solution=quantile_loss,
        wrong=[
            Wrong(tau_flipped, "tau is flipped"),
            Wrong(not_midpoints, "The levels are i / N"),
            Wrong(absolute, "the median N times"),
            Wrong(averaged, "mean over quantiles"),
        ],
        hint="u = sample - quantile; u tau where u > 0, u (tau - 1) where u < 0; tau_i = (2 i - 1) / 2 N.",
    ),
]
