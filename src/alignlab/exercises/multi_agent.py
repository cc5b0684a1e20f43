"""Exercises of the lab on several agents: exploitability, fictitious play, QMIX's mixer, a target, MADDPG's actor."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

Critic = Callable[[Tensor], Tensor]

ROW = torch.tensor([[3.0, 0.0, 1.0], [1.0, 2.0, -1.0]], dtype=torch.float64)
COLUMN = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]], dtype=torch.float64)
X, Y = torch.tensor([0.25, 0.75], dtype=torch.float64), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


# ---- solutions
def exploitability(row: Tensor, column: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """What the row player gains by its best row against y, plus what the column player gains by its best column."""
    gain_of_rows = (row @ y).max() - x @ row @ y
    gain_of_columns = (x @ column).max() - x @ column @ y
    return gain_of_rows + gain_of_columns


def next_actions(row: Tensor, column: Tensor, row_counts: Tensor, column_counts: Tensor) -> tuple[int, int]:
    """Each answers the other's frequencies; counts do as well, since dividing by the step changes no argmax."""
    return int((row @ column_counts).argmax()), int((row_counts @ column).argmax())


def mix(q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Two layers with non-negative weights; the biases may have any sign."""
    hidden = F.elu(q @ w1.abs() + b1)
    return hidden @ w2.abs() + b2


def target(rewards: Tensor, next_utilities: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """r + gamma sum_i max_a Q_i(s', a), and r alone where nothing follows."""
    following = next_utilities.max(-1).values.sum(-1)
    return rewards + gamma * following * (~terminated)


def actor_loss(
    critic: Critic, observations: Sequence[Tensor], actions: Sequence[Tensor], policies: Sequence[Critic], agent: int
) -> Tensor:
    """-Q of the joint action in which only this agent's action is its policy's."""
    joint = [policies[i](o) if i == agent else actions[i] for i, o in enumerate(observations)]
    return -critic(torch.cat([*observations, *joint], -1)).mean()


# ---- wrong answers
def zero_sum_assumed(row: Tensor, column: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return exploitability(row, -row, x, y)


def not_subtracted(row: Tensor, column: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (row @ y).max() + (x @ column).max()


def best_cell(row: Tensor, column: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return row.max() - x @ row @ y + column.max() - x @ column @ y


def row_alone(row: Tensor, column: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (row @ y).max() - x @ row @ y


def answers_itself(row: Tensor, column: Tensor, row_counts: Tensor, column_counts: Tensor) -> tuple[int, int]:
    return int((row.T @ row_counts).argmax()), int((column @ column_counts).argmax())


def column_minimizes(row: Tensor, column: Tensor, row_counts: Tensor, column_counts: Tensor) -> tuple[int, int]:
    return int((row @ column_counts).argmax()), int((row_counts @ column).argmin())


def answers_the_last(row: Tensor, column: Tensor, row_counts: Tensor, column_counts: Tensor) -> tuple[int, int]:
    return int(row[:, column_counts.argmax()].argmax()), int(column[row_counts.argmax()].argmax())


def answers_rows_table(row: Tensor, column: Tensor, row_counts: Tensor, column_counts: Tensor) -> tuple[int, int]:
    return int((row @ column_counts).argmax()), int((row_counts @ row).argmax())


def signs_free(q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return F.elu(q @ w1 + b1) @ w2 + b2


def second_free(q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return F.elu(q @ w1.abs() + b1) @ w2 + b2


def biases_too(q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return F.elu(q @ w1.abs() + b1.abs()) @ w2.abs() + b2.abs()


def linear(q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return (q @ w1.abs() + b1) @ w2.abs() + b2


def utilities_clipped(q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return F.elu(q.abs() @ w1.abs() + b1) @ w2.abs() + b2


def end_bootstrapped(rewards: Tensor, next_utilities: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    return rewards + gamma * next_utilities.max(-1).values.sum(-1)


def summed_then_max(rewards: Tensor, next_utilities: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    return rewards + gamma * next_utilities.sum(1).max(-1).values * (~terminated)


def rewards_per_agent(rewards: Tensor, next_utilities: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    each = rewards[:, None] + gamma * next_utilities.max(-1).values * (~terminated)[:, None]
    return each.sum(-1)


def mean_of_agents(rewards: Tensor, next_utilities: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    return rewards + gamma * next_utilities.max(-1).values.mean(-1) * (~terminated)


def all_policies(
    critic: Critic, observations: Sequence[Tensor], actions: Sequence[Tensor], policies: Sequence[Critic], agent: int
) -> Tensor:
    joint = [policy(o) for policy, o in zip(policies, observations, strict=True)]
    return -critic(torch.cat([*observations, *joint], -1)).mean()


def only_memory(
    critic: Critic, observations: Sequence[Tensor], actions: Sequence[Tensor], policies: Sequence[Critic], agent: int
) -> Tensor:
    return -critic(torch.cat([*observations, *actions], -1)).mean()


def descends(
    critic: Critic, observations: Sequence[Tensor], actions: Sequence[Tensor], policies: Sequence[Critic], agent: int
) -> Tensor:
    return -actor_loss(critic, observations, actions, policies, agent)


def the_others(
    critic: Critic, observations: Sequence[Tensor], actions: Sequence[Tensor], policies: Sequence[Critic], agent: int
) -> Tensor:
    joint = [actions[i] if i == agent else policies[i](o) for i, o in enumerate(observations)]
    return -critic(torch.cat([*observations, *joint], -1)).mean()


def sees_all(
    critic: Critic, observations: Sequence[Tensor], actions: Sequence[Tensor], policies: Sequence[Critic], agent: int
) -> Tensor:
    joint = [policies[i](observations[0]) if i == agent else actions[i] for i in range(len(actions))]
    return -critic(torch.cat([*observations, *joint], -1)).mean()


# ---- graders
def _grade_exploitability(answer: Callable[..., Any]) -> None:
    given = ROW, COLUMN, X, Y
    mistakes = {
        "You used the row player's payoffs for both: the game need not be zero-sum, the second table says what the "
        "column player gets.": zero_sum_assumed(*given),
        "These are the payoffs of the best responses; subtract what each earns now.": not_subtracted(*given),
        "You took the best cell of the table. The other player does not change: take the best row against y.": (
            best_cell(*given)
        ),
        "The column player's gain is missing.": row_alone(*given),
    }
    same(answer(*(part.clone() for part in given)), exploitability(*given), "your exploitability", mistakes=mistakes)
    pennies = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    same(answer(pennies, -pennies, half, half), 0.0, "your exploitability at an equilibrium")


def _grade_next_actions(answer: Callable[..., Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    tables = [torch.randint(-5, 6, (2, 3, 3), generator=draw).double() for _ in range(8)]
    cases = [(*table, *torch.randint(0, 9, (2, 3), generator=draw).double()) for table in tables]

    def all_of(played: Callable[..., Any]) -> list[Any]:
        return [list(played(*(part.clone() for part in case))) for case in cases]

    wrong: dict[str, Callable[..., Any]] = {
        "Each answers its own frequencies: the best response is to what the *other* has played.": answers_itself,
        "The column player minimizes in yours. It maximizes its own table.": column_minimizes,
        "You answer the commonest action; answer the whole frequency.": answers_the_last,
        "Both of yours read the row player's table.": answers_rows_table,
    }
    answers = all_of(answer)
    require(all(len(pair) == 2 for pair in answers), "Return two numbers: the row player's action and the column's.")
    same(answers, all_of(next_actions), "your action", mistakes={said: all_of(other) for said, other in wrong.items()})


def _mixer_numbers() -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(3)
    w1, b1, w2 = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((3, 4), (4,), (4,)))
    return torch.tensor([0.5, -1.2, 0.8], dtype=torch.float64), w1, b1, w2, torch.tensor(-0.3, dtype=torch.float64)


def _grade_mix(answer: Callable[..., Any]) -> None:
    given = _mixer_numbers()
    mistakes = {
        "No weight is made non-negative: then a higher utility may lower the joint value.": signs_free(*given),
        "The second layer's weights may still be negative: both layers need it.": second_free(*given),
        "The biases are free: they shift the value and break nothing. Take absolute values of the weights alone.": (
            biases_too(*given)
        ),
        "The elu is missing: two linear layers are a weighted sum, hardly more than VDN.": linear(*given),
        "The utilities keep their signs; only weights are made non-negative.": utilities_clipped(*given),
    }
    same(answer(*(part.clone() for part in given)), mix(*given), "your joint value", mistakes=mistakes)


def _grade_target(answer: Callable[..., Any]) -> None:
    draw = torch.Generator().manual_seed(4)
    rewards = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    utilities = torch.randn(4, 2, 3, generator=draw, dtype=torch.float64)
    terminated = torch.tensor([False, True, False, False])
    given = rewards, utilities, terminated, 0.9
    mistakes = {
        "The second episode has ended: nothing follows it.": end_bootstrapped(*given),
        "You summed first and then took the maximum: that gives all agents the same action. Each takes its own.": (
            summed_then_max(*given)
        ),
        "You added the team's reward once for every agent; it is one reward.": rewards_per_agent(*given),
        "VDN's joint value is the sum over agents; yours is their mean.": mean_of_agents(*given),
    }
    same(answer(*given), target(*given), "your target", mistakes=mistakes)


def _grade_actor_loss(answer: Callable[..., Any]) -> None:
    draw = torch.Generator().manual_seed(5)
    observations = [torch.randn(6, 2, generator=draw, dtype=torch.float64) for _ in range(3)]
    actions = [torch.rand(6, 1, generator=draw, dtype=torch.float64) for _ in range(3)]
    weights = [torch.randn(2, 1, generator=draw, dtype=torch.float64) for _ in range(3)]
    layer = torch.randn(9, 5, generator=draw, dtype=torch.float64)
    out = torch.randn(5, 1, generator=draw, dtype=torch.float64)

    def critic(x: Tensor) -> Tensor:
        return (x @ layer).tanh() @ out

    policies = [lambda o, w=w: (o @ w).sigmoid() for w in weights]
    for agent in (1, 2):
        given = critic, observations, actions, policies, agent
        mistakes = {
            "All actions come from policies in yours: then agent's gradient depends on what the others would do now, "
            "not on what they did.": all_policies(*given),
            "No policy stands in your loss: it has no gradient for the actor.": only_memory(*given),
            "The sign is flipped: descending your loss makes the critic's value smaller.": descends(*given),
            "It is the wrong way round: this agent acts by its policy, the others by memory.": the_others(*given),
            "The policy must see its own agent's observation; yours sees the first agent's.": sees_all(*given),
        }
        got = answer(*given)
        require(getattr(got, "ndim", 0) == 0, "Return one number: the mean over the batch.")
        same(got, actor_loss(*given), "your loss", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="multi_agent.exploitability",
        task="From payoffs `row`, `column` (m, n) and strategies `x` (m,), `y` (n,): what both players together would "
        "gain if each alone changed to a best response.",
        difficulty=1,
        minutes=5,
        grade=_grade_exploitability,
        solution=exploitability,
        wrong=[
            Wrong(zero_sum_assumed, "need not be zero-sum"),
            Wrong(not_subtracted, "subtract what each earns now"),
            Wrong(best_cell, "best cell of the table"),
            Wrong(row_alone, "column player's gain is missing"),
        ],
        hint="row @ y holds the payoff of every row against y; x @ column that of every column against x.",
    ),
    Exercise(
        name="multi_agent.next_actions",
        task="One step of fictitious play: from payoffs (m, n) and counts of the actions so far, (m,) and (n,), the "
        "pair of actions played next.",
        difficulty=1,
        minutes=5,
        grade=_grade_next_actions,
        solution=next_actions,
        wrong=[
            Wrong(answers_itself, "what the *other* has played"),
            Wrong(column_minimizes, "maximizes its own table"),
            Wrong(answers_the_last, "answer the whole frequency"),
            Wrong(answers_rows_table, "read the row player's table"),
        ],
        hint="A best response is an argmax of expected payoffs against the other's frequencies.",
    ),
    Exercise(
        name="multi_agent.mix",
        task="QMIX's mixer for one state: from utilities `q` (agents,) and raw outputs of the hypernetworks, `w1` "
        "(agents, width), `b1` (width,), `w2` (width,), `b2`, the joint value.",
        difficulty=2,
        minutes=8,
        grade=_grade_mix,
        solution=mix,
        wrong=[
            Wrong(signs_free, "No weight is made non-negative"),
            Wrong(second_free, "both layers need it"),
            Wrong(biases_too, "The biases are free"),
            Wrong(linear, "The elu is missing"),
            Wrong(utilities_clipped, "utilities keep their signs"),
        ],
        hint="A sum and a product with non-negative weights, and a rising activation, keep the order.",
    ),
    Exercise(
        name="multi_agent.target",
        task="VDN's target: from the team's `rewards` (B,), `next_utilities` (B, agents, actions), `terminated` (B,) "
        "and `gamma`, the targets (B,).",
        difficulty=2,
        minutes=8,
        grade=_grade_target,
        solution=target,
        wrong=[
            Wrong(end_bootstrapped, "nothing follows it"),
            Wrong(summed_then_max, "Each takes its own"),
            Wrong(rewards_per_agent, "it is one reward"),
            Wrong(mean_of_agents, "yours is their mean"),
        ],
        hint="The maximum of a sum of separate terms is the sum of their maxima.",
    ),
    Exercise(
        name="multi_agent.actor_loss",
        task="MADDPG's actor loss of one agent: minus the critic's value of the joint action in which only this "
        "agent's action comes from its policy; the mean over the batch.",
        difficulty=2,
        minutes=8,
        grade=_grade_actor_loss,
        solution=actor_loss,
        wrong=[
            Wrong(all_policies, "All actions come from policies"),
            Wrong(only_memory, "No policy stands in your loss"),
            Wrong(descends, "The sign is flipped"),
            Wrong(the_others, "wrong way round"),
            Wrong(sees_all, "yours sees the first agent's"),
        ],
        hint="Build the list of actions with one of them replaced, then concatenate.",
    ),
]
