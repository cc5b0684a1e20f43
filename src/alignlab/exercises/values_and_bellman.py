"""Exercises of the lab ch05_values_and_bellman: returns, values of a policy, a sweep, greedy on V, advantages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

REWARDS = torch.tensor([-1.0, 0.0, 2.0, -0.5, 3.0], dtype=torch.float64)

# Four states, two actions; state 3 is terminal, and what the tables hold for it is nonsense that must not count.
TRANSITIONS = torch.tensor(
    [
        [[0.0, 0.8, 0.2, 0.0], [0.5, 0.0, 0.5, 0.0]],
        [[0.1, 0.0, 0.6, 0.3], [0.0, 0.3, 0.0, 0.7]],
        [[0.0, 0.9, 0.1, 0.0], [0.4, 0.0, 0.0, 0.6]],
        [[0.0, 0.5, 0.0, 0.5], [0.2, 0.0, 0.0, 0.8]],
    ],
    dtype=torch.float64,
)
GAINS = torch.tensor([[-1.0, 0.5], [0.0, 2.0], [1.0, -0.5], [4.0, 1.0]], dtype=torch.float64)
POLICY = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
TERMINAL = torch.tensor([False, False, False, True])
VALUES = torch.tensor([0.5, 3.0, 1.0, 2.0], dtype=torch.float64)
"""Values in the middle of an iteration; the terminal state's 2 is a trap."""

# A world where the best cell is not where the best action leads: three states and an end, three actions.
LOOK_TRANSITIONS = torch.tensor(
    [
        [[0.0, 0.55, 0.0, 0.45], [0.0, 0.0, 1.0, 0.0], [0.9, 0.1, 0.0, 0.0]],
        [[1.0, 0.0, 0.0, 0.0], [0.0, 0.2, 0.8, 0.0], [0.0, 0.0, 0.0, 1.0]],
        [[0.0, 0.3, 0.4, 0.3], [0.3, 0.0, 0.7, 0.0], [0.0, 1.0, 0.0, 0.0]],
        [[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]],
    ],
    dtype=torch.float64,
)
LOOK_GAINS = torch.tensor([[0.5, 0.5, 0.0], [0.2, -3.0, 0.4], [3.0, 0.0, -6.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
LOOK_VALUES = torch.tensor([2.0, 8.0, 5.0, 0.0], dtype=torch.float64)

PROBS = torch.tensor([0.55, 0.3, 0.1, 0.05], dtype=torch.float64)
CHANCES = torch.tensor([0.2, 0.9, 0.0, 0.6], dtype=torch.float64)


# ---- solutions
def returns(rewards: Tensor, gamma: float, last_value: float) -> Tensor:
    """G_t = r_t + gamma G_{t+1}, from the last step to the first."""
    following, found = last_value, []
    for reward in reversed(rewards.tolist()):
        following = reward + gamma * following
        found.append(following)
    return torch.tensor(found[::-1], dtype=rewards.dtype)


def policy_values(transitions: Tensor, rewards: Tensor, policy: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    """Solve (I - gamma P) V = r over the states that are not terminal."""
    p = torch.einsum("sa,sat->st", policy, transitions)
    r = (policy * rewards).sum(-1)
    p[terminal], r[terminal] = 0.0, 0.0
    return torch.linalg.solve(torch.eye(len(r), dtype=r.dtype) - gamma * p, r)


def sweep(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    """max_a [r + gamma P V] with V of terminal states taken as 0; terminal states stay at 0."""
    known = values.masked_fill(terminal, 0.0)
    return (rewards + gamma * transitions @ known).max(-1).values.masked_fill(terminal, 0.0)


def greedy(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float) -> Tensor:
    """The action with the highest r + gamma P V."""
    return (rewards + gamma * transitions @ values).argmax(-1)


def advantages(probs: Tensor, q: Tensor) -> tuple[float, Tensor]:
    """V = sum pi Q, A = Q - V."""
    value = (probs * q).sum()
    return value.item(), q - value


# ---- wrong answers
def forwards(rewards: Tensor, gamma: float, last_value: float) -> Tensor:
    return returns(rewards.flip(0), gamma, last_value).flip(0)


def discount_early(rewards: Tensor, gamma: float, last_value: float) -> Tensor:
    return gamma * returns(rewards, gamma, last_value)


def no_discount(rewards: Tensor, gamma: float, last_value: float) -> Tensor:
    return returns(rewards, 1.0, last_value)


def cut_is_end(rewards: Tensor, gamma: float, last_value: float) -> Tensor:
    return returns(rewards, gamma, 0.0)


def last_undiscounted(rewards: Tensor, gamma: float, last_value: float) -> Tensor:
    return returns(rewards, gamma, last_value / gamma)


def not_turned_back(rewards: Tensor, gamma: float, last_value: float) -> Tensor:
    return returns(rewards, gamma, last_value).flip(0)


def terminal_goes_on(transitions: Tensor, rewards: Tensor, policy: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    return policy_values(transitions, rewards, policy, gamma, torch.zeros_like(terminal))


def transposed(transitions: Tensor, rewards: Tensor, policy: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    p = torch.einsum("sa,sat->st", policy, transitions)
    r = (policy * rewards).sum(-1)
    p[terminal], r[terminal] = 0.0, 0.0
    return torch.linalg.solve(torch.eye(len(r), dtype=r.dtype) - gamma * p.T, r)


def gamma_forgotten(transitions: Tensor, rewards: Tensor, policy: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    return policy_values(transitions, rewards, policy, 1.0, terminal)


def random_policy(transitions: Tensor, rewards: Tensor, policy: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    return policy_values(transitions, rewards, torch.full_like(policy, 1 / policy.shape[1]), gamma, terminal)


def one_step(transitions: Tensor, rewards: Tensor, policy: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    return (policy * rewards).sum(-1).masked_fill(terminal, 0.0)


def mean_for_max(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    known = values.masked_fill(terminal, 0.0)
    return (rewards + gamma * transitions @ known).mean(-1).masked_fill(terminal, 0.0)


def in_place(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    known = values.masked_fill(terminal, 0.0)
    for s in (~terminal).nonzero().flatten().tolist():
        known[s] = (rewards[s] + gamma * transitions[s] @ known).max()
    return known


def bootstrapped(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    return (rewards + gamma * transitions @ values).max(-1).values.masked_fill(terminal, 0.0)


def terminal_not_zero(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    return (rewards + gamma * transitions @ values.masked_fill(terminal, 0.0)).max(-1).values


def reward_discounted(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float, terminal: Tensor) -> Tensor:
    known = values.masked_fill(terminal, 0.0)
    return (gamma * (rewards + transitions @ known)).max(-1).values.masked_fill(terminal, 0.0)


def best_neighbour(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float) -> Tensor:
    likeliest = transitions.argmax(-1)
    return values[likeliest].argmax(-1)


def reward_forgotten(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float) -> Tensor:
    return (transitions @ values).argmax(-1)


def short_sighted(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float) -> Tensor:
    return rewards.argmax(-1)


def hopeful(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float) -> Tensor:
    reachable = torch.where(transitions > 0, values, -torch.inf)
    return (rewards + gamma * reachable.max(-1).values).argmax(-1)


def the_best_q(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float) -> Tensor:
    return (rewards + gamma * transitions @ values).max(-1).values


def best_token(probs: Tensor, q: Tensor) -> tuple[float, Tensor]:
    return q.max().item(), q - q.max()


def plain_mean(probs: Tensor, q: Tensor) -> tuple[float, Tensor]:
    return q.mean().item(), q - q.mean()


def sign_flipped(probs: Tensor, q: Tensor) -> tuple[float, Tensor]:
    value, found = advantages(probs, q)
    return value, -found


def weighted(probs: Tensor, q: Tensor) -> tuple[float, Tensor]:
    value, found = advantages(probs, q)
    return value, probs * found


def q_itself(probs: Tensor, q: Tensor) -> tuple[float, Tensor]:
    return advantages(probs, q)[0], q.clone()


# ---- graders
def _grade_returns(answer: Callable[..., Any]) -> None:
    for gamma, last_value in ((0.9, 2.0), (0.5, -3.0)):
        given = REWARDS, gamma, last_value
        mistakes = {
            "You went forwards: each number holds the rewards before it, but a return holds those to come.": forwards(
                *given
            ),
            "Every return is gamma times too small: the reward of step t itself is not discounted.": discount_early(
                *given
            ),
            "Gamma is missing: each step further away counts gamma times less.": no_discount(*given),
            "You dropped last_value: a cut episode goes on, and its future is worth that much.": cut_is_end(*given),
            "last_value stands one step after the last reward: discount it once more.": last_undiscounted(*given),
            "The order is reversed: you appended from the last step on; turn the list round.": not_turned_back(*given),
        }
        same(answer(REWARDS.clone(), gamma, last_value), returns(*given), "your return", mistakes=mistakes)


def _grade_policy_values(answer: Callable[..., Any]) -> None:
    for gamma in (0.9, 0.5):
        given = TRANSITIONS, GAINS, POLICY, gamma, TERMINAL
        mistakes = {
            "The terminal state goes on in your equations: set its row of P and its reward to 0.": terminal_goes_on(
                *given
            ),
            "P is transposed: V(s) asks where s leads, not where s is reached from.": transposed(*given),
            "Gamma is missing from I - gamma P.": gamma_forgotten(*given),
            "These are the values of the uniform policy; weigh actions by the policy you were given.": random_policy(
                *given
            ),
            "That is the expected reward of one step; the value goes on from there.": one_step(*given),
        }
        found = answer(*(part.clone() if isinstance(part, Tensor) else part for part in given))
        same(found, policy_values(*given), "your value", mistakes=mistakes)


def _grade_sweep(answer: Callable[..., Any]) -> None:
    for gamma in (0.9, 0.6):
        given = TRANSITIONS, GAINS, VALUES, gamma, TERMINAL
        mistakes = {
            "That is the mean over actions: it leads to the uniform policy's values. V* takes the maximum.": (
                mean_for_max(*given)
            ),
            "States read what this sweep has written (Gauss-Seidel): keep the old values until it is done.": in_place(
                *given
            ),
            "You bootstrapped from the terminal state: nothing follows it, so it counts 0, whatever V says.": (
                bootstrapped(*given)
            ),
            "The terminal state has got a value: it stays at 0.": terminal_not_zero(*given),
            "Gamma multiplies the reward too: the reward of this step is not discounted.": reward_discounted(*given),
        }
        found = answer(*(part.clone() if isinstance(part, Tensor) else part for part in given))
        same(found, sweep(*given), "your value", mistakes=mistakes)


def _grade_greedy(answer: Callable[..., Any]) -> None:
    given = LOOK_TRANSITIONS, LOOK_GAINS, LOOK_VALUES, 0.9
    mistakes = {
        "You went to the best neighbour: an action leads to several states; average V over them.": best_neighbour(
            *given
        ),
        "The reward is missing: an action is worth its reward plus gamma times what follows.": reward_forgotten(*given),
        "You looked at the reward alone: what follows counts too.": short_sighted(*given),
        "You took the best state that could follow; chance decides, so take the mean.": hopeful(*given),
        "These are the highest values; give the actions that reach them (argmax).": the_best_q(*given),
    }
    found = answer(LOOK_TRANSITIONS.clone(), LOOK_GAINS.clone(), LOOK_VALUES.clone(), 0.9)
    same(found, greedy(*given), "your action", mistakes=mistakes)


def _pair(answer: Callable[[Tensor, Tensor], Any]) -> Tensor:
    """Value and advantages in one row, (1 + A,)."""
    found = answer(PROBS.clone(), CHANCES.clone())
    require(isinstance(found, tuple | list) and len(found) == 2, "return two things: the value and the advantages")
    value, gains = (torch.as_tensor(part, dtype=torch.float64) for part in found)
    require(
        value.numel() == 1 and gains.shape == CHANCES.shape, "the value is one number, the advantages are one a token"
    )
    return torch.cat([value.reshape(1), gains])


def _grade_advantages(answer: Callable[..., Any]) -> None:
    mistakes = {
        "Your value is the best token's: that is V*. This policy's value weighs the tokens by probability.": best_token,
        "Your value is the plain mean; likely tokens count more.": plain_mean,
        "The sign is flipped: a good token has a positive advantage.": sign_flipped,
        "The advantages are multiplied by the probabilities: an advantage is Q - V, however rare the token.": weighted,
        "You returned Q itself: subtract V.": q_itself,
    }
    known = {message: _pair(wrong) for message, wrong in mistakes.items()}
    same(_pair(answer), _pair(advantages), "your row of value and advantages", mistakes=known)


EXERCISES = [
    Exercise(
        name="values_and_bellman.returns",
        task="From rewards (T,), gamma and last_value (what follows the last step) give all returns (T,), backwards.",
        difficulty=1,
        minutes=5,
        grade=_grade_returns,
        solution=returns,
        wrong=[
            Wrong(forwards, "went forwards"),
            Wrong(discount_early, "gamma times too small"),
            Wrong(no_discount, "Gamma is missing"),
            Wrong(cut_is_end, "dropped last_value"),
            Wrong(last_undiscounted, "discount it once more"),
            Wrong(not_turned_back, "order is reversed"),
        ],
        hint="Start with following = last_value; from the last reward on: following = reward + gamma * following.",
    ),
    Exercise(
        name="values_and_bellman.policy_values",
        task="From transitions (S, A, S), rewards (S, A), policy (S, A), gamma < 1 and terminal (S,) solve for V of "
        "the policy, (S,). Terminal states are worth 0.",
        difficulty=2,
        minutes=6,
        grade=_grade_policy_values,
        solution=policy_values,
        wrong=[
            Wrong(terminal_goes_on, "terminal state goes on"),
            Wrong(transposed, "P is transposed"),
            Wrong(gamma_forgotten, "missing from I - gamma P"),
            Wrong(random_policy, "uniform policy; weigh"),
            Wrong(one_step, "expected reward of one step"),
        ],
        hint="P = einsum('sa,sat->st'), r = (policy * rewards).sum(-1), terminal rows cleared; (I - gamma P) V = r.",
    ),
    Exercise(
        name="values_and_bellman.sweep",
        task="Give the values (S,) after one sweep of value iteration in which all states read the old values.",
        difficulty=2,
        minutes=5,
        grade=_grade_sweep,
        solution=sweep,
        wrong=[
            Wrong(mean_for_max, "mean over actions"),
            Wrong(in_place, "Gauss-Seidel"),
            Wrong(bootstrapped, "bootstrapped from the terminal"),
            Wrong(terminal_not_zero, "has got a value"),
            Wrong(reward_discounted, "multiplies the reward too"),
        ],
        hint="Mask V where terminal, form rewards + gamma * transitions @ V, take the maximum over actions.",
    ),
    Exercise(
        name="values_and_bellman.greedy",
        task="From transitions (S, A, S), rewards (S, A), V (S,) and gamma give the greedy action of each state, (S,).",
        difficulty=2,
        minutes=5,
        grade=_grade_greedy,
        solution=greedy,
        wrong=[
            Wrong(best_neighbour, "best neighbour"),
            Wrong(reward_forgotten, "reward is missing"),
            Wrong(short_sighted, "reward alone"),
            Wrong(hopeful, "chance decides"),
            Wrong(the_best_q, "highest values"),
        ],
        hint="First Q, by one step of looking ahead; then its argmax over actions.",
    ),
    Exercise(
        name="values_and_bellman.advantages",
        task="From the probabilities of the next tokens (A,) and each one's chance of a right answer (A,) give the "
        "prefix's value and the tokens' advantages (A,).",
        difficulty=1,
        minutes=5,
        grade=_grade_advantages,
        solution=advantages,
        wrong=[
            Wrong(best_token, "that is V*"),
            Wrong(plain_mean, "plain mean"),
            Wrong(sign_flipped, "sign is flipped"),
            Wrong(weighted, "multiplied by the probabilities"),
            Wrong(q_itself, "Q itself"),
        ],
        hint="V is the mean of Q under the policy; an advantage is what a token has above it.",
    ),
]
