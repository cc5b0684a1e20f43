"""Exercises of the lab ch05_mc_td: TD errors, lambda's weights, traces, batch answers, off-policy values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

REWARDS = torch.tensor([0.5, -1.0, 0.0, 2.0, 1.0], dtype=torch.float64)
VALUES = torch.tensor([0.3, 0.8, -0.4, 1.1, 0.6, 0.9], dtype=torch.float64)
"""Values of the six states that five steps pass; a careless table holds 0.9 for the last one."""

STATES = [1, 2, 1, 3, 2]
TABLE = torch.tensor([0.7, 0.1, -0.2, 0.4], dtype=torch.float64)
GAINS = torch.tensor([1.0, 0.0, 2.0, -1.0], dtype=torch.float64)
TARGET = torch.tensor([[0.9, 0.6, 0.8], [0.1, 0.6, 0.5], [0.9, 0.4, 0.8], [0.1, 0.4, 0.2]], dtype=torch.float64)
BEHAVIOUR = torch.tensor([[0.5, 0.5, 0.6], [0.5, 0.5, 0.4], [0.5, 0.5, 0.7], [0.5, 0.5, 0.3]], dtype=torch.float64)


# ---- solutions
def td_errors(rewards: Tensor, values: Tensor, terminated: bool, gamma: float) -> Tensor:
    """delta_t = r_t + gamma V(s_{t+1}) - V(s_t); nothing follows a terminal state."""
    following = values[1:].clone()
    if terminated:
        following[-1] = 0.0
    return rewards + gamma * following - values[:-1]


def lambda_weights(lam: float, T: int) -> Tensor:
    """(1 - lambda) lambda^(n-1) for n = 1 ... T - 1, and what is left, lambda^(T-1), for the whole return."""
    weights = torch.tensor([(1 - lam) * lam ** (n - 1) for n in range(1, T + 1)], dtype=torch.float64)
    weights[-1] = lam ** (T - 1)
    return weights


def td_lambda(
    values: Tensor, states: list[int], rewards: list[float], alpha: float, gamma: float, lam: float
) -> Tensor:
    """Every state moves by alpha delta times its trace; all traces fade by gamma lambda per step."""
    values, trace = values.clone(), torch.zeros_like(values)
    for t, reward in enumerate(rewards):
        following = values[states[t + 1]] if t + 1 < len(states) else 0.0
        delta = reward + gamma * following - values[states[t]]
        trace *= gamma * lam
        trace[states[t]] += 1
        values += alpha * delta * trace
    return values


def predict() -> list[float]:
    """Monte Carlo: the one return after A was 0. TD: A always leads to B, so it is worth what B is worth."""
    return [0.0, 0.75, 0.75, 0.75]


def off_policy_value(returns: Tensor, target_probs: Tensor, behaviour_probs: Tensor) -> Tensor:
    """sum of weight times return, over the sum of weights; a weight is the product of the ratios of all steps."""
    weights = (target_probs / behaviour_probs).prod(-1)
    return (weights * returns).sum() / weights.sum()


# ---- wrong answers
def end_bootstrapped(rewards: Tensor, values: Tensor, terminated: bool, gamma: float) -> Tensor:
    return td_errors(rewards, values, False, gamma)


def cut_taken_for_end(rewards: Tensor, values: Tensor, terminated: bool, gamma: float) -> Tensor:
    return td_errors(rewards, values, True, gamma)


def sign_flipped(rewards: Tensor, values: Tensor, terminated: bool, gamma: float) -> Tensor:
    return -td_errors(rewards, values, terminated, gamma)


def undiscounted(rewards: Tensor, values: Tensor, terminated: bool, gamma: float) -> Tensor:
    return td_errors(rewards, values, terminated, 1.0)


def reward_discounted(rewards: Tensor, values: Tensor, terminated: bool, gamma: float) -> Tensor:
    return td_errors(rewards, values, terminated, gamma) - (1 - gamma) * rewards


def only_targets(rewards: Tensor, values: Tensor, terminated: bool, gamma: float) -> Tensor:
    return td_errors(rewards, values, terminated, gamma) + values[:-1]


def tail_forgotten(lam: float, T: int) -> Tensor:
    return torch.tensor([(1 - lam) * lam ** (n - 1) for n in range(1, T + 1)], dtype=torch.float64)


def bare_powers(lam: float, T: int) -> Tensor:
    return torch.tensor([lam ** (n - 1) for n in range(1, T + 1)], dtype=torch.float64)


def shifted(lam: float, T: int) -> Tensor:
    weights = torch.tensor([(1 - lam) * lam**n for n in range(1, T + 1)], dtype=torch.float64)
    weights[-1] = lam**T
    return weights


def rescaled(lam: float, T: int) -> Tensor:
    weights = bare_powers(lam, T)
    return weights / weights.sum()


def turned_round(lam: float, T: int) -> Tensor:
    return lambda_weights(lam, T).flip(0)


def _td_lambda(
    values: Tensor, states: list[int], rewards: list[float], alpha: float, decay: float, gamma: float, kind: str = ""
) -> Tensor:
    values, trace = values.clone(), torch.zeros_like(values)
    for t, reward in enumerate(rewards):
        following = values[states[t + 1]] if t + 1 < len(states) else values[0] if kind == "end" else 0.0
        delta = reward + gamma * following - values[states[t]]
        trace *= decay
        trace[states[t]] = 1.0 if kind == "replace" else trace[states[t]] + 1
        values += alpha * delta * trace
    return values


def never_fading(
    values: Tensor, states: list[int], rewards: list[float], alpha: float, gamma: float, lam: float
) -> Tensor:
    return _td_lambda(values, states, rewards, alpha, 1.0, gamma)


def gamma_left_out(
    values: Tensor, states: list[int], rewards: list[float], alpha: float, gamma: float, lam: float
) -> Tensor:
    return _td_lambda(values, states, rewards, alpha, lam, gamma)


def lambda_left_out(
    values: Tensor, states: list[int], rewards: list[float], alpha: float, gamma: float, lam: float
) -> Tensor:
    return _td_lambda(values, states, rewards, alpha, gamma, gamma)


def no_traces(
    values: Tensor, states: list[int], rewards: list[float], alpha: float, gamma: float, lam: float
) -> Tensor:
    return _td_lambda(values, states, rewards, alpha, 0.0, gamma)


def replacing(
    values: Tensor, states: list[int], rewards: list[float], alpha: float, gamma: float, lam: float
) -> Tensor:
    return _td_lambda(values, states, rewards, alpha, gamma * lam, gamma, "replace")


def end_has_a_value(
    values: Tensor, states: list[int], rewards: list[float], alpha: float, gamma: float, lam: float
) -> Tensor:
    return _td_lambda(values, states, rewards, alpha, gamma * lam, gamma, "end")


def offline(values: Tensor, states: list[int], rewards: list[float], alpha: float, gamma: float, lam: float) -> Tensor:
    trace, added = torch.zeros_like(values), torch.zeros_like(values)
    for t, reward in enumerate(rewards):
        following = values[states[t + 1]] if t + 1 < len(states) else 0.0
        trace = gamma * lam * trace
        trace[states[t]] += 1
        added = added + alpha * (reward + gamma * following - values[states[t]]) * trace
    return values + added


def methods_swapped() -> list[float]:
    return [0.75, 0.75, 0.0, 0.75]


def both_monte_carlo() -> list[float]:
    return [0.0, 0.75, 0.0, 0.75]


def both_td() -> list[float]:
    return [0.75, 0.75, 0.75, 0.75]


def first_b_left_out() -> list[float]:
    return [0.0, 6 / 7, 6 / 7, 6 / 7]


def ordinary(returns: Tensor, target_probs: Tensor, behaviour_probs: Tensor) -> Tensor:
    return ((target_probs / behaviour_probs).prod(-1) * returns).mean()


def ratio_inverted(returns: Tensor, target_probs: Tensor, behaviour_probs: Tensor) -> Tensor:
    return off_policy_value(returns, behaviour_probs, target_probs)


def ratios_added(returns: Tensor, target_probs: Tensor, behaviour_probs: Tensor) -> Tensor:
    weights = (target_probs / behaviour_probs).sum(-1)
    return (weights * returns).sum() / weights.sum()


def first_step_only(returns: Tensor, target_probs: Tensor, behaviour_probs: Tensor) -> Tensor:
    return off_policy_value(returns, target_probs[:, :1], behaviour_probs[:, :1])


def not_weighed(returns: Tensor, target_probs: Tensor, behaviour_probs: Tensor) -> Tensor:
    return returns.mean()


# ---- graders
def _grade_td_errors(answer: Callable[..., Any]) -> None:
    for terminated, gamma in ((True, 0.9), (False, 0.8)):
        given = REWARDS, VALUES, terminated, gamma
        mistakes = {
            "You added the value of a terminal state: nothing follows it, so its value is 0.": (
                end_bootstrapped(*given)
            ),
            "You took every last step for an end; where the clock cut the episode, the future still has its value.": (
                cut_taken_for_end(*given)
            ),
            "The sign is flipped: the error is target minus estimate.": sign_flipped(*given),
            "Gamma is missing before the next value.": undiscounted(*given),
            "You discounted the reward too; gamma belongs to the next value alone.": reward_discounted(*given),
            "These are the targets; subtract V(s_t).": only_targets(*given),
        }
        same(
            answer(REWARDS.clone(), VALUES.clone(), terminated, gamma),
            td_errors(*given),
            "your error",
            mistakes=mistakes,
        )


def _grade_lambda_weights(answer: Callable[..., Any]) -> None:
    for lam, T in ((0.8, 5), (0.5, 3), (1.0, 4), (0.0, 4)):
        mistakes = {
            "The weights do not sum to one: what is left at the end of the episode, lambda^(T-1), goes to the whole "
            "return.": tail_forgotten(lam, T),
            "The factor 1 - lambda is missing.": bare_powers(lam, T),
            "The one-step return gets (1 - lambda), not (1 - lambda) lambda: the exponent is n - 1.": shifted(lam, T),
            "You divided by the sum; the last weight takes the rest instead.": rescaled(lam, T) if lam < 1 else None,
            "The order is turned round: short returns come first.": turned_round(lam, T),
        }
        mistakes = {words: value for words, value in mistakes.items() if value is not None}
        same(answer(lam, T), lambda_weights(lam, T), "your weight", mistakes=mistakes)


def _grade_td_lambda(answer: Callable[..., Any]) -> None:
    given = TABLE, STATES, REWARDS.tolist(), 0.2, 0.9, 0.7
    mistakes = {
        "Your traces never fade: multiply all of them by gamma lambda at every step.": never_fading(*given),
        "Traces fade by gamma times lambda; gamma is missing.": gamma_left_out(*given),
        "Traces fade by gamma times lambda; lambda is missing.": lambda_left_out(*given),
        "Only the current state moved: that is TD(0). Every state moves by its trace.": no_traces(*given),
        "You set the trace of a visited state to 1 (replacing); the accumulating one adds 1.": replacing(*given),
        "After the last step the episode has ended: its target is the reward alone.": end_has_a_value(*given),
        "Your values stood still (offline); online, each error uses the values of its moment.": offline(*given),
    }
    got = answer(TABLE.clone(), list(STATES), REWARDS.tolist(), 0.2, 0.9, 0.7)
    same(got, td_lambda(*given), "your value", mistakes=mistakes)


def _grade_predict(answer: Any) -> None:
    numbers = list(answer) if hasattr(answer, "__len__") else [answer]
    require(len(numbers) == 4, "return four numbers: V(A), V(B) by Monte Carlo, V(A), V(B) by batch TD")
    mistakes = {
        "The two methods are swapped.": methods_swapped(),
        "Both answers are Monte Carlo's. TD asks what A led to: always B, and what B is worth.": both_monte_carlo(),
        "Both answers are TD's. Monte Carlo only knows the one return that followed A.": both_td(),
        "B occurs eight times: in the first episode too, after A.": first_b_left_out(),
    }
    same(numbers, predict(), "your prediction", mistakes=mistakes)


def _grade_off_policy_value(answer: Callable[..., Any]) -> None:
    given = GAINS, TARGET, BEHAVIOUR
    mistakes = {
        "You divided by the number of episodes: that is ordinary importance sampling. Divide by the sum of weights.": (
            ordinary(*given)
        ),
        "The ratio is upside down: what the target policy does more often must count more.": ratio_inverted(*given),
        "The ratios of an episode multiply; you added them.": ratios_added(*given),
        "The weight is the product over all steps of the episode; you took the first step only.": first_step_only(
            *given
        ),
        "That is the mean return of the behaviour policy: no weights.": not_weighed(*given),
    }
    same(
        answer(GAINS.clone(), TARGET.clone(), BEHAVIOUR.clone()),
        off_policy_value(*given),
        "your value",
        mistakes=mistakes,
    )


EXERCISES = [
    Exercise(
        name="mc_td.td_errors",
        task="From rewards (T,), values (T + 1,) of the states passed, whether the episode terminated at its end, and "
        "gamma, return the TD errors (T,).",
        difficulty=1,
        minutes=5,
        grade=_grade_td_errors,
        solution=td_errors,
        wrong=[
            Wrong(end_bootstrapped, "value of a terminal state"),
            Wrong(cut_taken_for_end, "the clock cut the episode"),
            Wrong(sign_flipped, "target minus estimate"),
            Wrong(undiscounted, "missing before the next value"),
            Wrong(reward_discounted, "discounted the reward too"),
            Wrong(only_targets, "These are the targets"),
        ],
        hint="delta_t = r_t + gamma V(s_{t+1}) - V(s_t), with V = 0 after a terminal step.",
    ),
    Exercise(
        name="mc_td.lambda_weights",
        task="Return the weights (T,) that the lambda-return gives to returns of 1 ... T steps if T are left.",
        difficulty=1,
        minutes=6,
        grade=_grade_lambda_weights,
        solution=lambda_weights,
        wrong=[
            Wrong(tail_forgotten, "do not sum to one"),
            Wrong(bare_powers, "1 - lambda is missing"),
            Wrong(shifted, "the exponent is n - 1"),
            Wrong(rescaled, "divided by the sum"),
            Wrong(turned_round, "short returns come first"),
        ],
        hint="(1 - lambda) lambda^(n-1) while n < T; the sum of all weights is 1.",
    ),
    Exercise(
        name="mc_td.td_lambda",
        task="Return the values (S,) after one episode of online TD(lambda) with accumulating traces.",
        difficulty=2,
        minutes=10,
        grade=_grade_td_lambda,
        solution=td_lambda,
        wrong=[
            Wrong(never_fading, "never fade"),
            Wrong(gamma_left_out, "gamma is missing"),
            Wrong(lambda_left_out, "lambda is missing"),
            Wrong(no_traces, "that is TD(0)"),
            Wrong(replacing, "to 1 (replacing)"),
            Wrong(end_has_a_value, "reward alone"),
            Wrong(offline, "stood still"),
        ],
        hint="At each step: fade all traces, add 1 to the current state's, then move every value by alpha delta trace.",
    ),
    Exercise(
        name="mc_td.predict",
        task="From eight episodes of A and B, give V(A), V(B) by Monte Carlo and V(A), V(B) by batch TD(0).",
        difficulty=2,
        minutes=8,
        grade=_grade_predict,
        solution=predict,
        value=True,
        wrong=[
            Wrong(methods_swapped(), "methods are swapped"),
            Wrong(both_monte_carlo(), "TD asks what A led to"),
            Wrong(both_td(), "one return that followed A"),
            Wrong(first_b_left_out(), "occurs eight times"),
        ],
        hint="Draw the process that the data show: A always leads to B with reward 0, B out, with 1 in six of eight.",
    ),
    Exercise(
        name="mc_td.off_policy_value",
        task="From returns (N,) of the behaviour policy's episodes and both policies' probabilities of each action, "
        "(N, T), return the weighted importance-sampling estimate of the target policy's value.",
        difficulty=3,
        minutes=10,
        grade=_grade_off_policy_value,
        solution=off_policy_value,
        wrong=[
            Wrong(ordinary, "ordinary importance sampling"),
            Wrong(ratio_inverted, "upside down"),
            Wrong(ratios_added, "you added them"),
            Wrong(first_step_only, "first step only"),
            Wrong(not_weighed, "no weights"),
        ],
        hint="One weight per episode: the product of target / behaviour. Weigh returns, divide by the weights' sum.",
    ),
]
