"""Exercises of the lab ch05_q_learning_dqn: targets, double, n-step, importance weights, the price of a wrong flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

REWARDS = torch.tensor([1.0, -0.5, 2.0, 0.0])
NEXT_VALUES = torch.tensor([[0.5, 3.0, 1.0], [2.0, -1.0, 4.0], [5.0, 6.0, 0.0], [-1.0, -2.0, -3.0]])
ONLINE_NEXT = torch.tensor([[4.0, 1.0, 2.0], [0.0, 3.0, 1.0], [1.0, 0.5, 2.0], [0.0, 0.5, 1.0]])
TERMINATED = torch.tensor([False, True, False, False])
TRUNCATED = torch.tensor([False, False, True, False])
PRIORITIES = torch.tensor([0.5, 2.0, 1.0, 4.0, 0.25], dtype=torch.float64)
DRAWN = torch.tensor([3, 1, 1, 2])


# ---- solutions
def targets(rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float) -> Tensor:
    """DQN's targets: only termination ends the future."""
    return rewards + gamma * ~terminated * next_values.max(-1).values


def double(online_next: Tensor, target_next: Tensor) -> Tensor:
    """The network chooses the action, the target network says what it is worth."""
    best = online_next.argmax(-1, keepdim=True)
    return target_next.gather(-1, best).squeeze(-1)


def n_step(rewards: Tensor, terminated: Tensor, truncated: Tensor, v: Tensor, gamma: float) -> float:
    """Discounted rewards up to the end of the episode or of the window, and the value of what follows it."""
    total = 0.0
    for k in range(len(rewards)):
        total += gamma**k * rewards[k].item()
        if terminated[k]:
            return total
        if truncated[k]:
            break
    return total + gamma ** (k + 1) * v[k].item()


def weights(priorities: Tensor, drawn: Tensor, alpha: float, beta: float) -> Tensor:
    """(N P)^-beta over the batch's largest, with P in proportion to priority^alpha."""
    probability = priorities**alpha / (priorities**alpha).sum()
    weight = (len(priorities) * probability[drawn]) ** -beta
    return weight / weight.max()


def price(gamma: float, clock: int) -> tuple[float, float]:
    """V = 1 + gamma (1 - 1/T) V, and its share of 1 / (1 - gamma)."""
    seen = 1 / (1 - gamma * (1 - 1 / clock))
    return seen, seen * (1 - gamma)


# ---- wrong answers
def clock_ends(rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float) -> Tensor:
    return rewards + gamma * ~(terminated | truncated) * next_values.max(-1).values


def nothing_ends(rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float) -> Tensor:
    return rewards + gamma * next_values.max(-1).values


def max_over_batch(rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float) -> Tensor:
    return rewards + gamma * ~terminated * next_values.max()


def mean_for_max(rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float) -> Tensor:
    return rewards + gamma * ~terminated * next_values.mean(-1)


def reward_lost(rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float) -> Tensor:
    return ~terminated * (rewards + gamma * next_values.max(-1).values)


def target_alone(online_next: Tensor, target_next: Tensor) -> Tensor:
    return target_next.max(-1).values


def online_alone(online_next: Tensor, target_next: Tensor) -> Tensor:
    return online_next.max(-1).values


def roles_swapped(online_next: Tensor, target_next: Tensor) -> Tensor:
    return online_next.gather(-1, target_next.argmax(-1, keepdim=True)).squeeze(-1)


def smaller_of_two(online_next: Tensor, target_next: Tensor) -> Tensor:
    return torch.minimum(online_next, target_next).max(-1).values


def never_ends(rewards: Tensor, terminated: Tensor, truncated: Tensor, v: Tensor, gamma: float) -> float:
    no = torch.zeros_like(terminated)
    return n_step(rewards, no, no, v, gamma)


def bell_ends(rewards: Tensor, terminated: Tensor, truncated: Tensor, v: Tensor, gamma: float) -> float:
    return n_step(rewards, terminated | truncated, truncated, v, gamma)


def bootstraps_after_the_end(rewards: Tensor, terminated: Tensor, truncated: Tensor, v: Tensor, gamma: float) -> float:
    return n_step(rewards, torch.zeros_like(terminated), terminated | truncated, v, gamma)


def discount_off_by_one(rewards: Tensor, terminated: Tensor, truncated: Tensor, v: Tensor, gamma: float) -> float:
    return n_step(rewards, terminated, truncated, v / gamma, gamma)


def rewards_undiscounted(rewards: Tensor, terminated: Tensor, truncated: Tensor, v: Tensor, gamma: float) -> float:
    steps = torch.arange(len(rewards))
    return n_step(rewards / gamma**steps, terminated, truncated, v, gamma)


def inverted(priorities: Tensor, drawn: Tensor, alpha: float, beta: float) -> Tensor:
    probability = priorities**alpha / (priorities**alpha).sum()
    weight = (len(priorities) * probability[drawn]) ** beta
    return weight / weight.max()


def not_scaled(priorities: Tensor, drawn: Tensor, alpha: float, beta: float) -> Tensor:
    probability = priorities**alpha / (priorities**alpha).sum()
    return (len(priorities) * probability[drawn]) ** -beta


def alpha_forgotten(priorities: Tensor, drawn: Tensor, alpha: float, beta: float) -> Tensor:
    return weights(priorities, drawn, 1.0, beta)


def largest_of_all(priorities: Tensor, drawn: Tensor, alpha: float, beta: float) -> Tensor:
    probability = priorities**alpha / (priorities**alpha).sum()
    weight = (len(priorities) * probability) ** -beta
    return weight[drawn] / weight.max()


def true_value(gamma: float, clock: int) -> tuple[float, float]:
    return 1 / (1 - gamma), 1.0


def one_episode(gamma: float, clock: int) -> tuple[float, float]:
    value = (1 - gamma**clock) / (1 - gamma)
    return value, value * (1 - gamma)


def chance_of_end_as_discount(gamma: float, clock: int) -> tuple[float, float]:
    seen = 1 / (1 - (gamma - 1 / clock))
    return seen, seen * (1 - gamma)


def share_lost(gamma: float, clock: int) -> tuple[float, float]:
    seen, share = price(gamma, clock)
    return seen, 1 - share


# ---- graders
def _grade_targets(answer: Callable[..., Any]) -> None:
    given = REWARDS, NEXT_VALUES, TERMINATED, TRUNCATED
    mistakes = {
        "You took the clock for an end: after truncation the value of the next state still counts.": clock_ends,
        "You bootstrapped a terminal state: nothing follows it.": nothing_ends,
        "The max must run over each state's own actions, not over the batch.": max_over_batch,
        "That is the mean over actions; Q-learning takes the best.": mean_for_max,
        "The reward of the last step is lost: only what follows it is cut off.": reward_lost,
    }
    for gamma in (0.9, 0.5):
        same(
            answer(*(x.clone() for x in given), gamma),
            targets(*given, gamma),
            "your targets",
            mistakes={message: wrong(*given, gamma) for message, wrong in mistakes.items()},
        )


def _grade_double(answer: Callable[..., Any]) -> None:
    given = ONLINE_NEXT, NEXT_VALUES
    mistakes = {
        "That is plain DQN: the target network chooses and judges.": target_alone(*given),
        "The network chooses and judges: then its errors pick themselves.": online_alone(*given),
        "The roles are swapped: the network chooses, the target network judges.": roles_swapped(*given),
        "The smaller of two critics is TD3's remedy, not this one.": smaller_of_two(*given),
    }
    same(answer(*(x.clone() for x in given)), double(*given), "your values", mistakes=mistakes)


def _grade_n_step(answer: Callable[..., Any]) -> None:
    rewards, v = torch.tensor([1.0, 2.0, -1.0, 3.0]), torch.tensor([5.0, 4.0, 7.0, 2.0])
    never = torch.zeros(4, dtype=torch.bool)
    second = torch.tensor([False, True, False, False])
    for terminated, truncated in ((never, never), (second, never), (never, second)):
        mistakes = {
            "The window runs over the end of the episode; what follows belongs to another.": never_ends,
            "Truncation ends the sum, but not the future: add the value of the state where the clock rang.": bell_ends,
            "You added a value after a terminal state: nothing follows it.": bootstraps_after_the_end,
            "The discount of the value is off by one: after k rewards it is gamma^k.": discount_off_by_one,
            "The rewards are not discounted.": rewards_undiscounted,
        }
        given = rewards, terminated, truncated, v, 0.9
        wanted = n_step(*given)
        values = {message: wrong(*given) for message, wrong in mistakes.items()}
        got = answer(*(x.clone() for x in given[:-1]), 0.9)
        same(got, wanted, "your target", mistakes=values)


def _grade_weights(answer: Callable[..., Any]) -> None:
    for alpha, beta in ((0.6, 0.4), (0.7, 1.0)):
        given = PRIORITIES, DRAWN, alpha, beta
        mistakes = {
            "The weights are inverted: what is drawn often must count less.": inverted(*given),
            "Divide by the largest weight of the batch, so that weights only shrink a step.": not_scaled(*given),
            "The probability is in proportion to priority^alpha, not to the priority.": alpha_forgotten(*given),
            "Divide by the largest weight among the drawn, not among all.": largest_of_all(*given),
        }
        got = answer(PRIORITIES.clone(), DRAWN.clone(), alpha, beta)
        same(got, weights(*given), "your weights", mistakes=mistakes)


def _grade_price(answer: Callable[..., Any]) -> None:
    for gamma, clock in ((0.99, 50), (0.95, 20)):
        got = answer(gamma, clock)
        require(isinstance(got, tuple | list) and len(got) == 2, "Return two numbers: the value, and its share.")
        mistakes = {
            "That is the true value; the agent never sees a world without the cut.": true_value(gamma, clock),
            "That is the return of one episode from its start; states at all times look alike, and the cut may be "
            "near or far.": one_episode(gamma, clock),
            "Survival multiplies: the next value counts gamma (1 - 1/T), not gamma - 1/T.": (
                chance_of_end_as_discount(gamma, clock)
            ),
            "The second number is the share that is left, not the one that is lost.": share_lost(gamma, clock),
        }
        same(got, price(gamma, clock), "your pair", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="q_learning_dqn.targets",
        task="Give DQN's targets (B,) from rewards, the next states' values (B, A), terminated, truncated and gamma.",
        difficulty=1,
        minutes=5,
        grade=_grade_targets,
        solution=targets,
        wrong=[
            Wrong(clock_ends, "clock for an end"),
            Wrong(nothing_ends, "bootstrapped a terminal state"),
            Wrong(max_over_batch, "each state's own actions"),
            Wrong(mean_for_max, "mean over actions"),
            Wrong(reward_lost, "reward of the last step is lost"),
        ],
        hint="r + gamma (1 - terminated) max_a Q(s', a). One of the arguments is there to tempt you.",
    ),
    Exercise(
        name="q_learning_dqn.double",
        task="Give the next states' values (B,) in double DQN from the network's and the target network's (B, A).",
        difficulty=2,
        minutes=5,
        grade=_grade_double,
        solution=double,
        wrong=[
            Wrong(target_alone, "plain DQN"),
            Wrong(online_alone, "errors pick themselves"),
            Wrong(roles_swapped, "roles are swapped"),
            Wrong(smaller_of_two, "TD3's remedy"),
        ],
        hint="argmax of the one, gather from the other.",
    ),
    Exercise(
        name="q_learning_dqn.n_step",
        task="Give the first step's n-step target from rewards, terminated, truncated and the value after each step.",
        difficulty=2,
        minutes=10,
        grade=_grade_n_step,
        solution=n_step,
        wrong=[
            Wrong(never_ends, "runs over the end"),
            Wrong(bell_ends, "not the future"),
            Wrong(bootstraps_after_the_end, "after a terminal state"),
            Wrong(discount_off_by_one, "off by one"),
            Wrong(rewards_undiscounted, "rewards are not discounted"),
        ],
        hint="Add gamma^k r_k until an end. Terminated: stop. Truncated, or no steps left: add gamma^(k+1) v_k.",
    ),
    Exercise(
        name="q_learning_dqn.weights",
        task="Give the importance weights (B,) of drawn transitions from priorities (N,), the indices, alpha and beta.",
        difficulty=2,
        minutes=8,
        grade=_grade_weights,
        solution=weights,
        wrong=[
            Wrong(inverted, "weights are inverted"),
            Wrong(not_scaled, "only shrink a step"),
            Wrong(alpha_forgotten, "priority^alpha"),
            Wrong(largest_of_all, "among the drawn"),
        ],
        hint="P = p^alpha / sum p^alpha; w = (N P)^-beta; divide by the largest drawn.",
    ),
    Exercise(
        name="q_learning_dqn.price",
        task="Give the value that an endless task with reward 1 seems to have when the clock T is taken for an end, "
        "and its share of the true value.",
        difficulty=3,
        minutes=10,
        grade=_grade_price,
        solution=price,
        wrong=[
            Wrong(true_value, "world without the cut"),
            Wrong(one_episode, "return of one episode"),
            Wrong(chance_of_end_as_discount, "Survival multiplies"),
            Wrong(share_lost, "the one that is lost"),
        ],
        hint="One transition in T is followed by nothing: V = 1 + gamma (1 - 1/T) V.",
    ),
]
