"""Exercises of the lab ch05_imitation: cloning's cost, DAgger's data, soft values, an invisible reward, GAIL's loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

COUNTS = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
"""How often the expert was seen to take each of three actions in each of four states."""

VISITED = torch.tensor([0, 3, 3, 1, 3])
EXPERT = torch.tensor([0, 1, 1, 2])
Q = torch.tensor([[1.0, 0.5, -2.0], [0.2, 0.2, 0.2], [-3.0, 4.0, 1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([-1.0, -1.0, 10.0, -1.0, -10.0], dtype=torch.float64)
TERMINAL = torch.tensor([False, False, True, False, True])
REAL = torch.tensor([1.5, -0.2, 0.7], dtype=torch.float64)
FAKE = torch.tensor([0.3, -2.0], dtype=torch.float64)


# ---- solutions
def cost(epsilon: float, horizon: int) -> float:
    """Expected steps in the ditch out of `horizon`: on the road at step t with probability (1 - epsilon)^t."""
    return sum(1 - (1 - epsilon) ** t for t in range(horizon))


def aggregate(counts: Tensor, visited: Tensor, expert: Tensor) -> Tensor:
    """The counts (S, A) after a round of DAgger: each visited state once more, with the expert's action."""
    grown = counts.clone()
    for state in visited.tolist():
        grown[state, expert[state]] += 1
    return grown


def soft(q: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Soft values (S,) and the soft policy (S, A)."""
    return temperature * (q / temperature).logsumexp(-1), (q / temperature).softmax(-1)


def invisible(weights: Tensor, terminal: Tensor, gamma: float, c: float) -> Tensor:
    """Another reward for the cells that are entered, under which nobody behaves otherwise."""
    return weights + torch.where(terminal, c / (1 - gamma), c)


def judge_loss(expert: Tensor, learner: Tensor) -> Tensor:
    """-log D on the expert's rows and -log(1 - D) on the learner's, a mean of each, summed; from logits."""
    return F.softplus(-expert).mean() + F.softplus(learner).mean()


# ---- wrong answers
def linear_cost(epsilon: float, horizon: int) -> float:
    return epsilon * horizon


def bound(epsilon: float, horizon: int) -> float:
    return epsilon * horizon**2


def cost_at_once(epsilon: float, horizon: int) -> float:
    return sum(1 - (1 - epsilon) ** (t + 1) for t in range(horizon))


def approximate_cost(epsilon: float, horizon: int) -> float:
    return epsilon * horizon * (horizon - 1) / 2


def learner_labels(counts: Tensor, visited: Tensor, expert: Tensor) -> Tensor:
    return aggregate(counts, visited, counts.argmax(-1))


def new_round_alone(counts: Tensor, visited: Tensor, expert: Tensor) -> Tensor:
    return aggregate(torch.zeros_like(counts), visited, expert)


def each_state_once(counts: Tensor, visited: Tensor, expert: Tensor) -> Tensor:
    return aggregate(counts, visited.unique(), expert)


def every_state(counts: Tensor, visited: Tensor, expert: Tensor) -> Tensor:
    return aggregate(counts, torch.arange(len(counts)), expert)


def hard(q: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return q.max(-1).values, (q / temperature).softmax(-1)


def mean_of_exponentials(q: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return temperature * (q / temperature).exp().mean(-1).log(), (q / temperature).softmax(-1)


def without_entropy(q: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    policy = (q / temperature).softmax(-1)
    return (policy * q).sum(-1), policy


def not_scaled_back(q: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return (q / temperature).logsumexp(-1), (q / temperature).softmax(-1)


def multiplied(q: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return (q * temperature).logsumexp(-1) / temperature, (q * temperature).softmax(-1)


def constant_everywhere(weights: Tensor, terminal: Tensor, gamma: float, c: float) -> Tensor:
    return weights + c


def steps_alone(weights: Tensor, terminal: Tensor, gamma: float, c: float) -> Tensor:
    return weights + torch.where(terminal, 0.0, c)


def ends_by_gamma(weights: Tensor, terminal: Tensor, gamma: float, c: float) -> Tensor:
    return weights + torch.where(terminal, gamma * c / (1 - gamma), c)


def scaled(weights: Tensor, terminal: Tensor, gamma: float, c: float) -> Tensor:
    return weights * (1 + c)


def flipped(expert: Tensor, learner: Tensor) -> Tensor:
    return judge_loss(-expert, -learner)


def one_side(expert: Tensor, learner: Tensor) -> Tensor:
    return F.softplus(-expert).mean()


def pooled(expert: Tensor, learner: Tensor) -> Tensor:
    return torch.cat([F.softplus(-expert), F.softplus(learner)]).mean()


def on_logits(expert: Tensor, learner: Tensor) -> Tensor:
    return learner.mean() - expert.mean()


# ---- graders
def _grade_cost(answer: Callable[..., Any]) -> None:
    for given in ((0.1, 5), (0.01, 300)):
        mistakes = {
            "An error costs more than one step: who left the road pays for all the steps that follow.": linear_cost(
                *given
            ),
            "That is the bound, epsilon T squared; the exact cost is less than half of it.": bound(*given),
            "The first step is on the road: an error at step t costs from step t + 1 on.": cost_at_once(*given),
            "That holds while epsilon T is small; the learner cannot be in the ditch more than all the time.": (
                approximate_cost(*given)
            ),
        }
        same(answer(*given), cost(*given), "your cost", mistakes=mistakes)


def _grade_aggregate(answer: Callable[..., Any]) -> None:
    given = COUNTS.clone(), VISITED.clone(), EXPERT.clone()
    mistakes = {
        "These are the learner's own actions. The expert labels, whoever drove.": learner_labels(*given),
        "The earlier rounds are gone: DAgger aggregates.": new_round_alone(*given),
        "A state that was visited three times counts three times: that is the learner's distribution.": each_state_once(
            *given
        ),
        "The expert was asked about every state; ask about those that were visited.": every_state(*given),
    }
    same(answer(*given), aggregate(*given), "your count", mistakes=mistakes)


def _grade_soft(answer: Callable[..., Any]) -> None:
    for temperature in (1.0, 0.5):
        got = answer(Q.clone(), temperature)
        require(isinstance(got, tuple) and len(got) == 2, "return two things: the values (S,) and the policy (S, A)")
        mistakes = {
            "That is the hard maximum: the limit of temperature 0.": hard(Q, temperature)[0],
            "You took the mean of the exponentials; it is their sum (the difference is temperature times log A).": (
                mean_of_exponentials(Q, temperature)[0]
            ),
            "The entropy is missing: V is the policy's mean Q plus temperature times its entropy.": without_entropy(
                Q, temperature
            )[0],
            "The log-sum-exp must be multiplied by the temperature again, to be in units of reward.": not_scaled_back(
                Q, temperature
            )[0],
            "You multiplied by the temperature where you must divide: a low one is nearer to the maximum.": (
                multiplied(Q, temperature)[0]
            ),
        }
        want = soft(Q, temperature)
        same(got[0], want[0], "your value", mistakes=mistakes)
        same(got[1], want[1], "your policy")


def _grade_invisible(answer: Callable[..., Any]) -> None:
    for gamma, c in ((0.9, 0.5), (0.5, -2.0)):
        given = WEIGHTS.clone(), TERMINAL.clone(), gamma, c
        mistakes = {
            "The same for every cell: now a long walk collects more than a short one. What does an end have to make up "
            "for?": constant_everywhere(*given),
            "The ends get nothing, so with a positive c it pays to walk for ever.": steps_alone(*given),
            "Nearly. Entering an end is a step too: add up c + gamma c + ..., from the first.": ends_by_gamma(*given),
            "A scaled reward is a colder or hotter expert: soft behaviour changes.": scaled(*given),
        }
        same(answer(*given), invisible(*given), "your reward", mistakes=mistakes)


def _grade_judge(answer: Callable[..., Any]) -> None:
    mistakes = {
        "The labels are flipped: this judge calls the learner's rows the expert's.": flipped(REAL, FAKE),
        "Half of the loss is missing: the judge must also say no to the learner.": one_side(REAL, FAKE),
        "You pooled the rows. Take each side's mean and add them, so that the sides weigh alike.": pooled(REAL, FAKE),
        "These are bare logits; D is their sigmoid, and the loss its negative logarithm.": on_logits(REAL, FAKE),
    }
    same(answer(REAL.clone(), FAKE.clone()), judge_loss(REAL, FAKE), "your loss", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="imitation.cost",
        task="A clone errs with probability epsilon at each step on the road and never comes back. Return its expected "
        "number of steps in the ditch out of T. It starts on the road.",
        difficulty=1,
        minutes=6,
        grade=_grade_cost,
        solution=cost,
        wrong=[
            Wrong(linear_cost, "pays for all the steps that follow"),
            Wrong(bound, "That is the bound"),
            Wrong(cost_at_once, "costs from step t + 1 on"),
            Wrong(approximate_cost, "while epsilon T is small"),
        ],
        hint="The chance to be in the ditch at step t = 0, 1, ... is 1 - (1 - epsilon)^t. Add it up.",
    ),
    Exercise(
        name="imitation.aggregate",
        task="One round of DAgger in a table: from counts (S, A), the states the learner visited (N,) and the "
        "expert's action in each state (S,), return the new counts.",
        difficulty=1,
        minutes=5,
        grade=_grade_aggregate,
        solution=aggregate,
        wrong=[
            Wrong(learner_labels, "learner's own actions"),
            Wrong(new_round_alone, "DAgger aggregates"),
            Wrong(each_state_once, "counts three times"),
            Wrong(every_state, "asked about every state"),
        ],
        hint="For each visited state add 1 where the expert's action stands. Do not change the counts that came in.",
    ),
    Exercise(
        name="imitation.soft",
        task="From Q (S, A) and a temperature, return the soft values (S,) and the soft policy (S, A).",
        difficulty=2,
        minutes=6,
        grade=_grade_soft,
        solution=soft,
        wrong=[
            Wrong(hard, "hard maximum"),
            Wrong(mean_of_exponentials, "mean of the exponentials"),
            Wrong(without_entropy, "entropy is missing"),
            Wrong(not_scaled_back, "multiplied by the temperature again"),
            Wrong(multiplied, "where you must divide"),
        ],
        hint="V = temperature * log sum_a exp(Q / temperature); the policy is the softmax of the same thing.",
    ),
    Exercise(
        name="imitation.invisible",
        task="The reward depends on the cell that is entered: weights (S,), of which some are terminal (S,). Return "
        "another reward, with c more for every other cell, under which no expert behaves otherwise.",
        difficulty=3,
        minutes=8,
        grade=_grade_invisible,
        solution=invisible,
        wrong=[
            Wrong(constant_everywhere, "long walk collects more"),
            Wrong(steps_alone, "walk for ever"),
            Wrong(ends_by_gamma, "Entering an end is a step too"),
            Wrong(scaled, "colder or hotter"),
        ],
        hint="An episode that never ended would collect c + gamma c + ... Pay who ends as much as is still to come.",
    ),
    Exercise(
        name="imitation.judge_loss",
        task="From the logits of D on the expert's rows (N,) and on the learner's (M,), return the judge's loss, one "
        "number. D is the probability that a row is the expert's.",
        difficulty=2,
        minutes=5,
        grade=_grade_judge,
        solution=judge_loss,
        wrong=[
            Wrong(flipped, "labels are flipped"),
            Wrong(one_side, "Half of the loss"),
            Wrong(pooled, "pooled the rows"),
            Wrong(on_logits, "bare logits"),
        ],
        hint="-log sigmoid(x) is softplus(-x), and -log(1 - sigmoid(x)) is softplus(x).",
    ),
]
