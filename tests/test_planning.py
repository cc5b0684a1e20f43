"""Dyna-Q against exact hitting times and optimal values; plans against exhaustive search."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from alignlab.rl import planning
from alignlab.rl.gridworld import GridWorld
from alignlab.rl.mdp import FiniteMDP, q_from_v, value_iteration, values
from alignlab.rl.planning import Predict

D = torch.float64
LINE = ("S...G",)


def corridor(gamma: float = 0.9) -> FiniteMDP:
    return GridWorld(LINE, slip=0.0, step_reward=0.0).mdp(gamma)


# ---- Dyna-Q


def test_the_first_episode_of_dyna_q_is_the_random_walk() -> None:
    mdp = corridor()
    counting = FiniteMDP(mdp.transitions, -torch.ones_like(mdp.rewards), 1.0, mdp.start, mdp.terminal)
    exact = -values(counting, mdp.uniform())[0].item()
    for n in (0, 10):
        first = planning.dyna_q(mdp, n, runs=600, episodes=1, seed=n).steps[:, 0]
        assert abs(first.mean() - exact) < 4 * first.std() / 600**0.5


def test_with_enough_planning_dyna_q_has_the_optimal_values() -> None:
    mdp = corridor()
    q = value_iteration(mdp).q.numpy()
    done = planning.dyna_q(mdp, 30, runs=3, episodes=60, alpha=0.5, epsilon=0.5)
    open_ = ~mdp.terminal.numpy()
    assert np.abs(done.q[:, open_] - q[open_]).max() < 1e-3
    assert (done.q[:, ~open_] == 0).all()


def test_planning_shortens_the_second_episode() -> None:
    mdp = GridWorld("maze", slip=0.0, step_reward=0.0).mdp(0.95)
    second = [planning.dyna_q(mdp, n, runs=20, episodes=2, seed=1).steps[:, 1].mean() for n in (0, 5, 50)]
    assert second[2] < second[1] < second[0]


def test_after_a_change_only_dyna_q_plus_tries_what_it_has_not_tried_for_long() -> None:
    """A short way opens after 400 steps. Dyna-Q's model does not know, and never looks."""
    size, width = 15, 5

    def world(lines: tuple[str, ...]) -> FiniteMDP:
        p, kinds = torch.zeros(size, 4, size), "".join(lines)
        for s in range(size):
            for a, (i, j) in enumerate(((-1, 0), (0, 1), (1, 0), (0, -1))):
                x, y = s // width + i, s % width + j
                t = x * width + y if 0 <= x < 3 and 0 <= y < width and lines[x][y] != "#" else s
                p[s, a, t] = 1.0
        goal = torch.tensor([kind == "G" for kind in kinds])
        start = torch.tensor([kind == "S" for kind in kinds]).double()
        return FiniteMDP(p, p[:, :, goal].sum(-1), 0.95, start, goal)

    closed, opened = world((".....", ".###.", "S#..G")), world((".....", ".###.", "S...G"))
    late = {}
    for kappa in (0.0, 3e-3):
        done = planning.dyna_q([(0, closed), (400, opened)], 10, runs=10, steps=2000, alpha=1.0, kappa=kappa, seed=2)
        late[kappa] = done.reward[:, 1400:].mean()
    assert late[3e-3] > 1.2 * late[0.0]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: planning.dyna_q(GridWorld("textbook").mdp(0.9), 5, episodes=2), "deterministic"),
        (lambda: planning.dyna_q(corridor(), 5), "give episodes or steps"),
        (lambda: planning.dyna_q(corridor(), -1, episodes=2), "planning -1"),
        (
            lambda: planning.dyna_q([(0, corridor()), (5, GridWorld(["S..G"], slip=0).mdp(0.9))], 1, steps=9),
            "same",
        ),
        (
            lambda: planning.random_shooting(branching, torch.zeros(1, 1), 2, 0, 5),
            "horizon 0",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


# ---- plans


def branching(s: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A counter that adds 1 or doubles-and-subtracts; its reward is its sine; it ends beyond 5."""
    following = torch.where(a[..., None] == 0, s + 1, 2 * s - 1)
    value = following[..., 0]
    return following, value.sin(), value > 5


def by_recursion(s: float, actions: tuple[int, ...], gamma: float) -> float:
    if not actions:
        return 0.0
    following = s + 1 if actions[0] == 0 else 2 * s - 1
    reward = float(np.sin(following))
    return reward + (0.0 if following > 5 else gamma * by_recursion(following, actions[1:], gamma))


Imagine = Callable[[Predict, Tensor, Tensor, float], Tensor]


def check_imagine(imagine: Imagine) -> None:
    plans = torch.tensor(list(itertools.product((0, 1), repeat=5)))
    starts = torch.tensor([[1.3], [2.4]])
    got = imagine(branching, starts, plans.expand(2, -1, -1), 0.9)
    want = [[by_recursion(s, tuple(plan.tolist()), 0.9) for plan in plans] for s in (1.3, 2.4)]
    assert torch.allclose(got, torch.tensor(want), atol=1e-4)


def test_the_return_of_a_plan_equals_recursion_for_all_plans() -> None:
    check_imagine(planning.imagine)


def _ends_ignored(predict: Predict, s: Tensor, plans: Tensor, gamma: float) -> Tensor:
    return planning.imagine(lambda x, a: (*predict(x, a)[:2], torch.zeros(a.shape, dtype=torch.bool)), s, plans, gamma)


def _last_reward_lost(predict: Predict, s: Tensor, plans: Tensor, gamma: float) -> Tensor:
    def late(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, reward, over = predict(x, a)
        return following, reward * ~over, over

    return planning.imagine(late, s, plans, gamma)


def _not_discounted(predict: Predict, s: Tensor, plans: Tensor, gamma: float) -> Tensor:
    return planning.imagine(predict, s, plans, 1.0)


def _first_action_repeated(predict: Predict, s: Tensor, plans: Tensor, gamma: float) -> Tensor:
    return planning.imagine(predict, s, plans[..., :1].expand_as(plans), gamma)


@pytest.mark.parametrize("wrong", [_ends_ignored, _last_reward_lost, _not_discounted, _first_action_repeated])
def test_a_wrong_return_of_a_plan_is_rejected(wrong: Imagine) -> None:
    with pytest.raises(AssertionError):
        check_imagine(wrong)


def test_random_shooting_with_many_plans_is_exhaustive_search() -> None:
    starts = torch.tensor([[1.3], [2.4], [-0.7]])
    plans = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    best = planning.imagine(branching, starts, plans.expand(3, -1, -1)).argmax(-1)
    action = planning.random_shooting(branching, starts, 2, 4, 600, generator=torch.Generator().manual_seed(0))
    assert action.tolist() == plans[best, 0].tolist()


def test_the_value_after_the_horizon_counts_only_where_the_plan_still_runs() -> None:
    def value(s: Tensor) -> Tensor:
        return torch.full(s.shape[:2], 10.0)

    plans = torch.tensor([[[0, 0], [1, 1]]])
    got = planning.imagine(branching, torch.tensor([[3.0]]), plans, 0.5, value)
    ends = float(np.sin(4) + 0.5 * np.sin(5) + 0.25 * 10), float(np.sin(5) + 0.5 * np.sin(9))
    assert got[0].tolist() == pytest.approx(ends, abs=1e-5)


def test_planning_updates_are_the_bellman_optimality_update() -> None:
    mdp = corridor()
    done = planning.dyna_q(mdp, 200, runs=1, episodes=8, alpha=1.0, epsilon=0.3)
    v = torch.from_numpy(done.q[0]).max(-1).values
    known = torch.from_numpy(done.q[0]) > 0
    assert torch.allclose(torch.from_numpy(done.q[0])[known], q_from_v(mdp, v)[known], atol=1e-6)
