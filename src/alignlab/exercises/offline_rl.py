"""Exercises of the lab ch05_offline_rl: targets within the log, CQL's push, expectiles, weighted cloning, inflation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

REWARDS = torch.tensor([1.0, -0.5, 2.0, 0.0], dtype=torch.float64)
NEXT_Q = torch.tensor([[3.0, 9.0, 1.0], [4.0, -2.0, 7.0], [5.0, 6.0, 8.0], [-1.0, -3.0, 2.0]], dtype=torch.float64)
SEEN = torch.tensor([[True, False, True], [True, True, False], [True, True, True], [True, True, False]])
TERMINATED = torch.tensor([False, False, True, False])
"""Four transitions: reward, values of three actions at the next state, which of them the log holds there, the end."""

Q = torch.tensor([[1.0, 2.5, 0.0], [0.3, -0.7, 0.9]], dtype=torch.float64)
ACTIONS = torch.tensor([0, 2])
VALUES = torch.tensor([0.0, 1.0, 1.5, 4.0, 10.0], dtype=torch.float64)
BEHAVIOUR = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
ADVANTAGES = torch.tensor([-0.5, 0.4, 1.5], dtype=torch.float64)


# ---- solutions
def within_log(rewards: Tensor, next_q: Tensor, seen: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """r + gamma max over the actions that the log holds at s', and r alone where the episode terminated."""
    best = next_q.masked_fill(~seen, -torch.inf).amax(-1)
    return rewards + gamma * torch.where(terminated, 0.0, best)


def cql_push(q: Tensor, actions: Tensor, alpha: float) -> Tensor:
    """The gradient of alpha (log sum exp Q - Q of the log's action) with respect to q, (N, A)."""
    push = q.softmax(-1)
    push[torch.arange(len(q)), actions] -= 1.0
    return alpha * push


def expectile(values: Tensor, tau: float) -> float:
    """The m that minimizes sum |tau - 1(x < m)| (x - m)^2: a weighted mean, found by repeating it."""
    m = values.mean()
    for _ in range(200):
        weight = torch.where(values < m, 1 - tau, tau)
        m = (weight * values).sum() / weight.sum()
    return float(m)


def weighted_clone(behaviour: Tensor, advantages: Tensor, beta: float) -> Tensor:
    """The policy that weighted cloning converges to in one state: proportional to mu(a) exp(beta A(a)), (A,)."""
    policy = behaviour * (beta * advantages).exp()
    return policy / policy.sum()


def inflation(error: float, gamma: float) -> float:
    """By how much values end too high if each maximum is too high by `error`: x = gamma (x + error)."""
    return gamma * error / (1 - gamma)


# ---- wrong answers
def over_all(rewards: Tensor, next_q: Tensor, seen: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    return within_log(rewards, next_q, torch.ones_like(seen), terminated, gamma)


def zero_for_unseen(rewards: Tensor, next_q: Tensor, seen: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    return rewards + gamma * torch.where(terminated, 0.0, (next_q * seen).amax(-1))


def past_the_end(rewards: Tensor, next_q: Tensor, seen: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    return within_log(rewards, next_q, seen, torch.zeros_like(terminated), gamma)


def mean_of_seen(rewards: Tensor, next_q: Tensor, seen: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    mean = (next_q * seen).sum(-1) / seen.sum(-1)
    return rewards + gamma * torch.where(terminated, 0.0, mean)


def not_discounted(rewards: Tensor, next_q: Tensor, seen: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    return within_log(rewards, next_q, seen, terminated, 1.0)


def pushed_wrong_way(q: Tensor, actions: Tensor, alpha: float) -> Tensor:
    return -cql_push(q, actions, alpha)


def down_alone(q: Tensor, actions: Tensor, alpha: float) -> Tensor:
    return alpha * q.softmax(-1)


def evenly(q: Tensor, actions: Tensor, alpha: float) -> Tensor:
    return cql_push(torch.zeros_like(q), actions, alpha)


def without_alpha(q: Tensor, actions: Tensor, alpha: float) -> Tensor:
    return cql_push(q, actions, 1.0)


def tau_flipped(values: Tensor, tau: float) -> float:
    return expectile(values, 1 - tau)


def plain_mean(values: Tensor, tau: float) -> float:
    return float(values.mean())


def quantile(values: Tensor, tau: float) -> float:
    return float(values.quantile(tau))


def one_pass(values: Tensor, tau: float) -> float:
    weight = torch.where(values < values.mean(), 1 - tau, tau)
    return float((weight * values).sum() / weight.sum())


def forgets_behaviour(behaviour: Tensor, advantages: Tensor, beta: float) -> Tensor:
    return (beta * advantages).softmax(-1)


def beta_divides(behaviour: Tensor, advantages: Tensor, beta: float) -> Tensor:
    return weighted_clone(behaviour, advantages, 1 / beta)


def no_normalizer(behaviour: Tensor, advantages: Tensor, beta: float) -> Tensor:
    return behaviour * (beta * advantages).exp()


def greedy(behaviour: Tensor, advantages: Tensor, beta: float) -> Tensor:
    return torch.nn.functional.one_hot(advantages.argmax(), len(advantages)).double()


def once(error: float, gamma: float) -> float:
    return gamma * error


def undiscounted_first(error: float, gamma: float) -> float:
    return error / (1 - gamma)


def horizon_forgotten(error: float, gamma: float) -> float:
    return error


# ---- graders
def _grade_within_log(answer: Callable[..., Any]) -> None:
    for gamma in (0.9, 0.5):
        given = REWARDS, NEXT_Q, SEEN, TERMINATED, gamma
        mistakes = {
            "You took the maximum over all actions: nobody ever tried the second one at the first row's next state.": (
                over_all(*given)
            ),
            "An action that is not in the log got the value 0; where the others are negative, 0 wins. Leave it out.": (
                zero_for_unseen(*given)
            ),
            "The third episode terminated, and you still add a value after its end.": past_the_end(*given),
            "That is the mean over the log's actions: the value of the behaviour, not the best of what was done.": (
                mean_of_seen(*given)
            ),
            "gamma is missing.": not_discounted(*given),
        }
        copies = [part.clone() for part in given[:4]]
        same(answer(*copies, gamma), within_log(*given), "your target", mistakes=mistakes)


def _grade_cql_push(answer: Callable[..., Any]) -> None:
    for alpha in (0.5, 2.0):
        mistakes = {
            "The sign is flipped: descending your gradient would raise what looks best.": pushed_wrong_way(
                Q, ACTIONS, alpha
            ),
            "You only push down. The log's own action is pushed up by one.": down_alone(Q, ACTIONS, alpha),
            "You push all actions down alike; the push is in proportion to softmax(Q).": evenly(Q, ACTIONS, alpha),
            "alpha is missing.": without_alpha(Q, ACTIONS, alpha),
        }
        same(answer(Q.clone(), ACTIONS.clone(), alpha), cql_push(Q, ACTIONS, alpha), "your gradient", mistakes=mistakes)


def _grade_expectile(answer: Callable[..., Any]) -> None:
    for tau in (0.8, 0.95, 0.3):
        got = answer(VALUES.clone(), tau)
        require(isinstance(got, (int, float, Tensor)), "return one number")
        mistakes = {
            "tau is flipped: values above m get the weight tau, values below 1 - tau.": tau_flipped(VALUES, tau),
            "That is the mean, the expectile at tau = 0.5.": plain_mean(VALUES, tau),
            "That is a quantile: it weighs signs. An expectile weighs distances, so the far value pulls more.": (
                quantile(VALUES, tau)
            ),
            "One pass is not enough: the weights depend on m, so repeat until it stands still.": one_pass(VALUES, tau),
        }
        same(float(got), expectile(VALUES, tau), "your expectile", tolerance=1e-3, mistakes=mistakes)


def _grade_weighted_clone(answer: Callable[..., Any]) -> None:
    for beta in (3.0, 0.5):
        given = BEHAVIOUR, ADVANTAGES, beta
        mistakes = {
            "The behaviour is missing: a weight multiplies what is in the log, so its frequency stays.": (
                forgets_behaviour(*given)
            ),
            "beta multiplies the advantage; you divided by it.": beta_divides(*given),
            "Your numbers do not sum to one.": no_normalizer(*given),
            "That is the greedy policy, the limit of a beta without end.": greedy(*given),
        }
        same(
            answer(BEHAVIOUR.clone(), ADVANTAGES.clone(), beta),
            weighted_clone(*given),
            "your policy",
            mistakes=mistakes,
        )


def _grade_inflation(answer: Callable[..., Any]) -> None:
    for given in ((0.5, 0.9), (0.2, 0.99)):
        mistakes = {
            "That is the error of a single step: the target that learned it passes it on to the next.": once(*given),
            "Your first error is not discounted: the maximum stands at s', so gamma comes before it.": (
                undiscounted_first(*given)
            ),
            "That is the error itself; through the targets it adds up.": horizon_forgotten(*given),
        }
        same(float(answer(*given)), inflation(*given), "your inflation", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="offline_rl.within_log",
        task="From rewards (N,), values of all actions at the next states (N, A), which of them the log holds there "
        "(N, A) bool, terminated (N,) and gamma, return Q-learning targets (N,) that ask about no other action.",
        difficulty=2,
        minutes=6,
        grade=_grade_within_log,
        solution=within_log,
        wrong=[
            Wrong(over_all, "nobody ever tried"),
            Wrong(zero_for_unseen, "0 wins"),
            Wrong(past_the_end, "after its end"),
            Wrong(mean_of_seen, "value of the behaviour"),
            Wrong(not_discounted, "gamma is missing"),
        ],
        hint="Set the values of unseen actions to minus infinity before the maximum.",
    ),
    Exercise(
        name="offline_rl.cql_push",
        task="Return the gradient of alpha (log sum exp Q - Q[action]) with respect to q (N, A), without autograd.",
        difficulty=1,
        minutes=5,
        grade=_grade_cql_push,
        solution=cql_push,
        wrong=[
            Wrong(pushed_wrong_way, "sign is flipped"),
            Wrong(down_alone, "only push down"),
            Wrong(evenly, "all actions down alike"),
            Wrong(without_alpha, "alpha is missing"),
        ],
        hint="The derivative of log sum exp is softmax.",
    ),
    Exercise(
        name="offline_rl.expectile",
        task="Return the tau-expectile of values (N,) as a number, to three decimals.",
        difficulty=2,
        minutes=8,
        grade=_grade_expectile,
        solution=expectile,
        wrong=[
            Wrong(tau_flipped, "tau is flipped"),
            Wrong(plain_mean, "That is the mean"),
            Wrong(quantile, "That is a quantile"),
            Wrong(one_pass, "One pass is not enough"),
        ],
        hint="Set the derivative to zero: m is a mean with weights tau above m and 1 - tau below. Repeat.",
    ),
    Exercise(
        name="offline_rl.weighted_clone",
        task="In one state the log's behaviour is mu (A,) and the advantages are known (A,). Return the policy (A,) to "
        "which cloning with weights exp(beta A) converges.",
        difficulty=2,
        minutes=6,
        grade=_grade_weighted_clone,
        solution=weighted_clone,
        wrong=[
            Wrong(forgets_behaviour, "behaviour is missing"),
            Wrong(beta_divides, "you divided by it"),
            Wrong(no_normalizer, "do not sum to one"),
            Wrong(greedy, "greedy policy"),
        ],
        hint="Cross-entropy with weights is minimized by the weighted frequencies.",
    ),
    Exercise(
        name="offline_rl.inflation",
        task="Every maximum at a next state is too high by `error`. Return by how much the values end too high, for a "
        "task that never ends, as a function of error and gamma.",
        difficulty=2,
        minutes=6,
        grade=_grade_inflation,
        solution=inflation,
        wrong=[
            Wrong(once, "single step"),
            Wrong(undiscounted_first, "not discounted"),
            Wrong(horizon_forgotten, "adds up"),
        ],
        hint="Call the excess x. The target is too high by gamma (x + error), and in the end it equals x.",
    ),
]
