"""Exercises of the lab ch05_policy_gradient: score, reward-to-go, the loss, one-step advantages, the best baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

LOGITS = torch.tensor([[0.4, -1.0, 0.3], [1.2, 0.0, -0.7], [0.0, 0.5, 2.0], [-0.3, 0.8, 0.1]], dtype=torch.float64)
ACTIONS = torch.tensor([0, 2, 1, 1])
RETURNS = torch.tensor([3.0, -1.0, 2.0, 0.5], dtype=torch.float64)
VALUES = torch.tensor([1.0, 0.5, -0.5, 2.0], dtype=torch.float64)
REWARDS = torch.tensor([1.0, 0.0, -2.0, 3.0, 0.5], dtype=torch.float64)
STEP_VALUES = torch.tensor([2.0, 1.5, 0.5, 3.0, -1.0], dtype=torch.float64)
NEXT_VALUES = torch.tensor([1.5, 0.5, 4.0, 2.5, 0.75], dtype=torch.float64)
TERMINATED = torch.tensor([False, False, True, False, False])
TRUNCATED = torch.tensor([False, False, False, False, True])
BANDITS = (
    (torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)),
    (torch.tensor([0.7, 0.1, 0.15, 0.05], dtype=torch.float64), torch.tensor([2.0, -1.0, 0.5, 4.0]).double()),
)


# ---- solutions
def score(logits: Tensor, actions: Tensor) -> Tensor:
    """Row by row the unit vector of the action, minus the probabilities."""
    return torch.eye(logits.shape[-1], dtype=logits.dtype)[actions] - logits.softmax(-1)


def reward_to_go(rewards: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + gamma G_{t+1}, from the last step to the first."""
    returns, following = torch.empty_like(rewards), torch.zeros((), dtype=rewards.dtype)
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * following
        returns[t] = following
    return returns


def loss(logits: Tensor, actions: Tensor, returns: Tensor, values: Tensor) -> Tensor:
    """Minus advantage times log-probability of the action taken; the advantage is a constant."""
    logprobs = logits.log_softmax(-1)[torch.arange(len(actions)), actions]
    return -((returns - values).detach() * logprobs).mean()


def advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float
) -> Tensor:
    """The TD error: after a terminated step there is nothing, after a truncated one there is."""
    return rewards + gamma * next_values * (~terminated) - values


def best_baseline(probs: Tensor, rewards: Tensor) -> Tensor:
    """The mean of the rewards, each weighted by its score's squared norm."""
    norms = (torch.eye(len(probs), dtype=probs.dtype) - probs).square().sum(-1)
    return (probs * norms * rewards).sum() / (probs * norms).sum()


# ---- wrong answers
def score_of_probability(logits: Tensor, actions: Tensor) -> Tensor:
    return score(logits, actions) * logits.softmax(-1).gather(1, actions[:, None])


def score_flipped(logits: Tensor, actions: Tensor) -> Tensor:
    return -score(logits, actions)


def score_taken_only(logits: Tensor, actions: Tensor) -> Tensor:
    return torch.eye(logits.shape[-1], dtype=logits.dtype)[actions] * score(logits, actions)


def score_unit(logits: Tensor, actions: Tensor) -> Tensor:
    return torch.eye(logits.shape[-1], dtype=logits.dtype)[actions]


def past(rewards: Tensor, gamma: float) -> Tensor:
    return reward_to_go(rewards.flip(0), gamma).flip(0)


def whole(rewards: Tensor, gamma: float) -> Tensor:
    return reward_to_go(rewards, gamma)[0].expand_as(rewards)


def one_late(rewards: Tensor, gamma: float) -> Tensor:
    return reward_to_go(rewards, gamma) - rewards


def from_the_start(rewards: Tensor, gamma: float) -> Tensor:
    return reward_to_go(rewards, gamma) * gamma ** torch.arange(len(rewards), dtype=rewards.dtype)


def undiscounted(rewards: Tensor, gamma: float) -> Tensor:
    return reward_to_go(rewards, 1.0)


def loss_flipped(logits: Tensor, actions: Tensor, returns: Tensor, values: Tensor) -> Tensor:
    return -loss(logits, actions, returns, values)


def loss_attached(logits: Tensor, actions: Tensor, returns: Tensor, values: Tensor) -> Tensor:
    logprobs = logits.log_softmax(-1)[torch.arange(len(actions)), actions]
    return -((returns - values) * logprobs).mean()


def loss_without_baseline(logits: Tensor, actions: Tensor, returns: Tensor, values: Tensor) -> Tensor:
    return loss(logits, actions, returns, torch.zeros_like(values))


def loss_of_probabilities(logits: Tensor, actions: Tensor, returns: Tensor, values: Tensor) -> Tensor:
    probs = logits.softmax(-1)[torch.arange(len(actions)), actions]
    return -((returns - values).detach() * probs).mean()


def loss_over_all_actions(logits: Tensor, actions: Tensor, returns: Tensor, values: Tensor) -> Tensor:
    return -((returns - values).detach()[:, None] * logits.log_softmax(-1)).sum(-1).mean()


def loss_summed(logits: Tensor, actions: Tensor, returns: Tensor, values: Tensor) -> Tensor:
    return loss(logits, actions, returns, values) * len(actions)


def end_bootstrapped(r: Tensor, v: Tensor, nv: Tensor, over: Tensor, cut: Tensor, gamma: float) -> Tensor:
    return r + gamma * nv - v


def clock_is_an_end(r: Tensor, v: Tensor, nv: Tensor, over: Tensor, cut: Tensor, gamma: float) -> Tensor:
    return r + gamma * nv * ~(over | cut) - v


def ends_swapped(r: Tensor, v: Tensor, nv: Tensor, over: Tensor, cut: Tensor, gamma: float) -> Tensor:
    return r + gamma * nv * ~cut - v


def not_discounted(r: Tensor, v: Tensor, nv: Tensor, over: Tensor, cut: Tensor, gamma: float) -> Tensor:
    return r + nv * ~over - v


def values_forgotten(r: Tensor, v: Tensor, nv: Tensor, over: Tensor, cut: Tensor, gamma: float) -> Tensor:
    return r + gamma * nv * ~over


def mean_reward(probs: Tensor, rewards: Tensor) -> Tensor:
    return (probs * rewards).sum()


def plain_mean(probs: Tensor, rewards: Tensor) -> Tensor:
    return rewards.mean()


def unweighted(probs: Tensor, rewards: Tensor) -> Tensor:
    norms = (torch.eye(len(probs), dtype=probs.dtype) - probs).square().sum(-1)
    return (norms * rewards).sum() / norms.sum()


def by_length(probs: Tensor, rewards: Tensor) -> Tensor:
    norms = (torch.eye(len(probs), dtype=probs.dtype) - probs).norm(dim=-1)
    return (probs * norms * rewards).sum() / (probs * norms).sum()


def taken_logit_only(probs: Tensor, rewards: Tensor) -> Tensor:
    norms = (1 - probs).square()
    return (probs * norms * rewards).sum() / (probs * norms).sum()


# ---- graders
def _grade_score(answer: Callable[..., Any]) -> None:
    mistakes = {
        "This is the gradient of the probability; the score is that of its logarithm: divide by pi(a).": (
            score_of_probability(LOGITS, ACTIONS)
        ),
        "The sign is flipped: the action's own logit must rise, so its entry is 1 - pi(a) > 0.": score_flipped(
            LOGITS, ACTIONS
        ),
        "Only the taken action's entry is there. The others fall, each by its probability.": score_taken_only(
            LOGITS, ACTIONS
        ),
        "You left out the normalizer: log softmax is z_a minus logsumexp(z), whose gradient is pi.": score_unit(
            LOGITS, ACTIONS
        ),
    }
    same(answer(LOGITS.clone(), ACTIONS.clone()), score(LOGITS, ACTIONS), "your score", mistakes=mistakes)


def _grade_reward_to_go(answer: Callable[..., Any]) -> None:
    for gamma in (0.9, 0.5):
        mistakes = {
            "You summed the past: the action at t cannot change rewards before t. Run from the end.": past(
                REWARDS, gamma
            ),
            "Each step got the whole return of the episode: right on average, but with the noise of the past.": whole(
                REWARDS, gamma
            ),
            "Your sum begins one step late: the reward r_t follows the action a_t and belongs to it.": one_late(
                REWARDS, gamma
            ),
            "You discounted from the episode's start: G_t counts from t, so r_t has the factor 1.": from_the_start(
                REWARDS, gamma
            ),
            "gamma is missing.": undiscounted(REWARDS, gamma),
        }
        same(answer(REWARDS.clone(), gamma), reward_to_go(REWARDS, gamma), "your return", mistakes=mistakes)


def _gradients(answer: Callable[..., Any]) -> Tensor:
    """The loss's gradients by logits and values, in one vector."""
    logits, values = LOGITS.clone().requires_grad_(), VALUES.clone().requires_grad_()
    value = answer(logits, ACTIONS.clone(), RETURNS.clone(), values)
    require(isinstance(value, Tensor) and value.dim() == 0, "return one number, a tensor without axes: the loss")
    require(value.requires_grad, "Your loss has no gradient: the advantage is a constant, the log-probability is not.")
    found = torch.autograd.grad(value, (logits, values), allow_unused=True)
    require(found[0] is not None, "Your loss does not depend on the logits.")
    parts = [torch.zeros_like(x) if g is None else g for g, x in zip(found, (logits, values), strict=True)]
    return torch.cat([part.flatten() for part in parts])


def _grade_loss(answer: Callable[..., Any]) -> None:
    mistakes = {
        "The sign is flipped: an optimizer descends, so minimizing yours makes good actions rarer.": _gradients(
            loss_flipped
        ),
        "A gradient reaches the values through your advantage: it is a constant of this loss, so detach it.": (
            _gradients(loss_attached)
        ),
        "The baseline is missing: the advantage is the return minus the value.": _gradients(loss_without_baseline),
        "You weighed the probability; REINFORCE weighs the log-probability.": _gradients(loss_of_probabilities),
        "You summed over all actions; only the one that was taken has this return.": _gradients(loss_over_all_actions),
        "You summed over the steps; take the mean.": _gradients(loss_summed),
    }
    same(_gradients(answer), _gradients(loss), "the gradient of your loss", mistakes=mistakes)


def _grade_advantages(answer: Callable[..., Any]) -> None:
    for gamma in (0.9, 0.99):
        given = REWARDS, STEP_VALUES, NEXT_VALUES, TERMINATED, TRUNCATED, gamma
        mistakes = {
            "You bootstrapped the terminal state: nothing follows it, whatever the critic says.": end_bootstrapped(
                *given
            ),
            "You treated the truncated step as an end: the clock ran out, the state still has a value.": (
                clock_is_an_end(*given)
            ),
            "The two kinds of ends are swapped.": ends_swapped(*given),
            "The next value is not discounted.": not_discounted(*given),
            "That is the target; the advantage is the target minus V(s).": values_forgotten(*given),
        }
        got = answer(*(x.clone() if isinstance(x, Tensor) else x for x in given))
        same(got, advantages(*given), "your advantage", mistakes=mistakes)


def _grade_best_baseline(answer: Callable[..., Any]) -> None:
    for probs, rewards in BANDITS:
        mistakes = {
            "That is the mean reward J. It would be the best one if all scores were equally long; weigh by their "
            "squared norms.": mean_reward(probs, rewards),
            "That is the plain mean over actions: the policy does not take them equally often.": plain_mean(
                probs, rewards
            ),
            "You weighed by the scores' norms alone; the expectation also weighs by pi(a).": unweighted(probs, rewards),
            "You weighed by the norms; the variance holds their squares.": by_length(probs, rewards),
            "You took the entry of the chosen logit alone; the score has an entry for every logit.": taken_logit_only(
                probs, rewards
            ),
        }
        same(answer(probs.clone(), rewards.clone()), best_baseline(probs, rewards), "your baseline", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="policy_gradient.score",
        task="Give the gradient of log softmax(logits)[action] by the logits, row by row: (N, A), (N,) -> (N, A).",
        difficulty=1,
        minutes=4,
        grade=_grade_score,
        solution=score,
        wrong=[
            Wrong(score_of_probability, "gradient of the probability"),
            Wrong(score_flipped, "own logit must rise"),
            Wrong(score_taken_only, "Only the taken action's entry"),
            Wrong(score_unit, "left out the normalizer"),
        ],
        hint="log softmax(z)[a] = z_a - logsumexp(z). The gradient of logsumexp is softmax.",
    ),
    Exercise(
        name="policy_gradient.reward_to_go",
        task="Give each step's discounted sum of the rewards from there on: (T,) -> (T,).",
        difficulty=1,
        minutes=5,
        grade=_grade_reward_to_go,
        solution=reward_to_go,
        wrong=[
            Wrong(past, "You summed the past"),
            Wrong(whole, "whole return of the episode"),
            Wrong(one_late, "begins one step late"),
            Wrong(from_the_start, "from the episode's start"),
            Wrong(undiscounted, "gamma is missing"),
        ],
        hint="G_t = r_t + gamma G_{t+1}, with G_T = 0: run backwards.",
    ),
    Exercise(
        name="policy_gradient.loss",
        task="Return a scalar whose gradient by the logits is minus the policy gradient, averaged over N steps, with "
        "the values as baseline.",
        difficulty=2,
        minutes=8,
        grade=_grade_loss,
        solution=loss,
        wrong=[
            Wrong(loss_flipped, "good actions rarer"),
            Wrong(loss_attached, "reaches the values"),
            Wrong(loss_without_baseline, "The baseline is missing"),
            Wrong(loss_of_probabilities, "You weighed the probability"),
            Wrong(loss_over_all_actions, "only the one that was taken"),
            Wrong(loss_summed, "You summed over the steps"),
        ],
        hint="-(returns - values).detach() times the log-probability of the action taken, then the mean.",
    ),
    Exercise(
        name="policy_gradient.advantages",
        task="Give the one-step advantages of T steps, some of which ended an episode: terminated or truncated.",
        difficulty=2,
        minutes=6,
        grade=_grade_advantages,
        solution=advantages,
        wrong=[
            Wrong(end_bootstrapped, "bootstrapped the terminal state"),
            Wrong(clock_is_an_end, "treated the truncated step"),
            Wrong(ends_swapped, "ends are swapped"),
            Wrong(not_discounted, "next value is not discounted"),
            Wrong(values_forgotten, "That is the target"),
        ],
        hint="r + gamma V(s') - V(s); drop the middle term where the task itself ended, and nowhere else.",
    ),
    Exercise(
        name="policy_gradient.best_baseline",
        task="Give the constant b that makes the total variance of (r - b) times the score smallest, from the "
        "probabilities (A,) and rewards (A,) of one decision.",
        difficulty=3,
        minutes=10,
        grade=_grade_best_baseline,
        solution=best_baseline,
        wrong=[
            Wrong(mean_reward, "That is the mean reward J"),
            Wrong(plain_mean, "plain mean over actions"),
            Wrong(unweighted, "scores' norms alone"),
            Wrong(by_length, "variance holds their squares"),
            Wrong(taken_logit_only, "chosen logit alone"),
        ],
        hint="The mean does not depend on b, so minimize the second moment, E[|score|^2 (r - b)^2]: a parabola in b.",
    ),
]
