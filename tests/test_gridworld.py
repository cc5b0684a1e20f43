"""The gridworld: its moves by hand, its tables against its own steps, values printed in a textbook."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from alignlab.rl import mdp as dynamic
from alignlab.rl.gridworld import ACTIONS, MAPS, GridWorld

# Russell and Norvig, Artificial Intelligence: A Modern Approach: utilities of the 4x3 world (gamma 1, a step -0.04)
PRINTED = {
    (0, 0): 0.8516, (0, 1): 0.9078, (0, 2): 0.9578, (1, 0): 0.8016, (1, 2): 0.7003, (2, 0): 0.7453, (2, 1): 0.6953,
    (2, 2): 0.6514, (2, 3): 0.4279,
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_every_map_passes_gymnasiums_check(name: str) -> None:
    check_env(gym.make("alignlab/GridWorld-v0", map=name, render_mode="ansi").unwrapped)


def test_it_is_registered_with_a_clock() -> None:
    env = gym.make("alignlab/GridWorld-v0", map=["S.", "#."], slip=0.0)  # no goal: nothing ends but the clock
    env.reset(seed=0)
    steps, cut = 0, False
    while not cut:
        _, _, over, cut, _ = env.step(0)
        steps += 1
        assert not over
    assert steps == 500


def test_optimal_values_are_those_printed_in_the_textbook() -> None:
    grid = GridWorld("textbook", slip=0.2, step_reward=-0.04)
    values = dynamic.value_iteration(grid.mdp(1.0)).values
    for cell, printed in PRINTED.items():
        assert values[grid.number[cell]].item() == pytest.approx(printed, abs=6e-5)
    for slip, price in ((0.1, -0.04), (0.2, -0.05), (0.0, -0.04)):  # the test can fail
        other = dynamic.value_iteration(GridWorld("textbook", slip=slip, step_reward=price).mdp(1.0)).values
        assert any(abs(other[grid.number[cell]].item() - printed) > 1e-3 for cell, printed in PRINTED.items())


@pytest.mark.parametrize(("action", "leads"), [(0, (0, 1)), (1, (1, 2)), (2, (2, 1)), (3, (1, 0))])
def test_each_action_moves_as_it_is_called(action: int, leads: tuple[int, int]) -> None:
    grid = GridWorld(["...", ".S.", "..."], slip=0.0)
    grid.reset(seed=0)
    state, reward, over, cut, _ = grid.step(action)
    assert grid.cells[int(state)] == leads and reward == -0.04 and not over and not cut
    assert ACTIONS[action] == ("up", "right", "down", "left")[action]


def test_walls_and_edges_leave_you_where_you_are_and_cost_a_step() -> None:
    grid = GridWorld(["#S"], slip=0.0)
    for action in range(4):
        grid.reset(seed=0)
        assert grid.step(action)[:3] == (0, -0.04, False)


def test_goal_and_pit_end_the_episode_and_a_cliff_does_not() -> None:
    grid = GridWorld(["XSG", "CC."], slip=0.0, goal=5.0, pit=-7.0, cliff=-9.0)
    start = int(grid.start.argmax())
    for action, reward, over in ((1, 5.0, True), (3, -7.0, True), (2, -9.0, False)):
        grid.reset(seed=0)
        state, found, ended, _, _ = grid.step(action)
        assert (found, ended) == (reward, over)
        assert (int(state) == start) == (action == 2)


def test_a_move_slips_to_both_sides_alike_and_never_back() -> None:
    grid = GridWorld(["...", ".S.", "..."], slip=0.3)
    p = grid.mdp(0.9).transitions[grid.number[1, 1], 0]
    for cell, chance in {(0, 1): 0.7, (1, 0): 0.15, (1, 2): 0.15, (2, 1): 0.0, (1, 1): 0.0}.items():
        assert p[grid.number[cell]].item() == pytest.approx(chance)


@pytest.mark.parametrize("name", ["textbook", "cliff", "bridge"])
def test_steps_follow_the_tables(name: str) -> None:
    grid = GridWorld(name, slip=0.4)
    mdp = grid.mdp(0.9)
    outcomes = mdp.outcomes
    assert outcomes is not None
    counts = np.zeros(mdp.transitions.shape)
    rng = np.random.default_rng(0)
    grid.reset(seed=0)
    alive = np.flatnonzero(~grid.terminal)
    for _ in range(12_000):
        state, action = int(rng.choice(alive)), int(rng.integers(4))
        grid.state = state
        following, reward, over, _, _ = grid.step(action)
        counts[state, action, following] += 1
        assert mdp.transitions[state, action, int(following)] > 0
        assert over == bool(mdp.terminal[int(following)])
        paid = {r for d in range(4) for _, s2, r in grid.outcomes(state, d) if s2 == following}
        if len(paid) == 1:  # a cliff beside the start: its outcome is the mean of two rewards
            assert reward == pytest.approx(outcomes[state, action, int(following)].item())
    visits = counts.sum(-1)
    error = np.abs(counts / np.maximum(visits[..., None], 1) - mdp.transitions.numpy())[alive]
    assert error.max() < 4 * 0.5 / visits[alive].min() ** 0.5


def test_several_starts_are_drawn_alike_and_no_start_means_any_free_cell() -> None:
    assert GridWorld(["S.S", "..G"]).start.tolist() == [0.5, 0, 0.5, 0, 0, 0]
    assert GridWorld(["..", "GX"]).start.tolist() == [0.5, 0.5, 0, 0]
    grid = GridWorld(["S.S", "..G"])
    drawn = [int(grid.reset(seed=seed)[0]) for seed in range(200)]
    assert set(drawn) == {0, 2} and 60 < drawn.count(0) < 140


def test_the_same_seed_walks_the_same_way() -> None:
    paths = []
    for _ in range(2):
        grid = GridWorld("rooms", slip=0.5)
        paths.append([int(grid.reset(seed=5)[0])] + [int(grid.step(t % 4)[0]) for t in range(50)])
    assert paths[0] == paths[1]


def test_a_policy_earns_in_the_environment_what_its_tables_say() -> None:
    grid = GridWorld("textbook")
    mdp = grid.mdp(1.0)
    solution = dynamic.policy_iteration(mdp)
    grid.reset(seed=0)
    totals = []
    for _ in range(1500):
        state, total, over = grid.reset()[0], 0.0, False
        while not over:
            state, reward, over, _, _ = grid.step(int(solution.policy[int(state)].argmax()))
            total += reward
        totals.append(total)
    exact = (mdp.start @ solution.values).item()
    assert abs(np.mean(totals) - exact) < 4 * np.std(totals) / len(totals) ** 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"map": "nowhere"}, "no map 'nowhere'"),
        ({"map": ["S.", "G"]}, "equally long"),
        ({"map": []}, "equally long"),
        ({"map": ["SQ"]}, "the map holds Q"),
        ({"map": ["#G"]}, "no cell to start"),
        ({"slip": 1.2}, "slip is 1.2"),
        ({"step_reward": float("nan")}, "step_reward = nan"),
        ({"goal": float("inf")}, "goal = inf"),
    ],
)
def test_a_world_that_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GridWorld(**options)  # type: ignore[arg-type]


def test_an_action_that_there_is_not_is_refused() -> None:
    grid = GridWorld()
    grid.reset(seed=0)
    for action in (4, -1, 0.5):
        with pytest.raises(ValueError, match="must be 0 to 3"):
            grid.step(action)


def test_rendered_text_shows_the_agent() -> None:
    grid = GridWorld(["S.G"], slip=0.0, render_mode="ansi")
    grid.reset(seed=0)
    assert grid.render() == "@.G"
    grid.step(1)
    assert grid.render() == "S@G"
    assert GridWorld(["S.G"]).render() is None


def test_the_picture_shows_each_value_and_each_likely_action() -> None:
    grid = GridWorld("textbook")
    solution = dynamic.value_iteration(grid.mdp(1.0))
    picture = grid.svg(solution.values, solution.policy, "Values & arrows")
    root = ElementTree.fromstring(picture)
    assert root.attrib["aria-label"] == "Values & arrows" and root.attrib["role"] == "img"
    words = [element.text for element in root.iter() if element.tag == "text"]
    for cell, printed in PRINTED.items():
        assert f"{printed:.2f}" in words, cell
    assert "G +1" in words and "X -1" in words and "S" in words
    assert picture.count("<rect") == 12 and picture.count("<path") == 9
    assert grid.svg(policy=torch.full((11, 4), 0.25)).count("<path") == 36
    assert not re.search(r"#[0-9a-f]{6}(?![^(]*\))", picture)  # colours only as fallbacks of the page's own


# ---- wrong worlds

World = type[GridWorld]


def check_world(world: World) -> None:
    """Values of the textbook, moves by hand, tables equal to steps, and a cliff after which the episode goes on."""
    values = dynamic.value_iteration(world("textbook").mdp(1.0), sweeps=2_000).values
    grid = world("textbook")
    for cell, printed in PRINTED.items():
        assert values[grid.number[cell]].item() == pytest.approx(printed, abs=6e-5)
    plain = world(["...", ".S.", "..."], slip=0.0)
    for action, leads in enumerate(((0, 1), (1, 2), (2, 1), (1, 0))):
        plain.reset(seed=0)
        assert plain.cells[int(plain.step(action)[0])] == leads
    for name in ("bridge", "cliff"):
        grid = world(name, slip=0.0)
        mdp = grid.mdp(0.9)
        outcomes = mdp.outcomes
        assert outcomes is not None
        for state in np.flatnonzero(~grid.terminal):
            for action in range(4):
                grid.reset(seed=0)
                grid.state = int(state)
                following, reward, over, cut, _ = grid.step(action)
                assert mdp.transitions[state, action, int(following)] == 1 and not cut
                assert outcomes[state, action, int(following)].item() == reward
                assert over == (grid.map[grid.cells[int(following)][0]][grid.cells[int(following)][1]] in "GX")


def test_the_world_is_what_it_says() -> None:
    check_world(GridWorld)


class SlipsBack(GridWorld):
    def directions(self, action: int) -> list[tuple[float, int]]:
        return [(1 - self.slip, action), (self.slip, (action + 2) % 4)] if self.slip else [(1.0, action)]


class SlipsToEachSideInFull(GridWorld):
    def directions(self, action: int) -> list[tuple[float, int]]:
        sides = [(self.slip, (action + turn) % 4) for turn in (-1, 1)]
        return [pair for pair in [(1 - 2 * self.slip, action), *sides] if pair[0] > 0]


class RowsAndColumnsSwapped(GridWorld):
    def directions(self, action: int) -> list[tuple[float, int]]:
        return [(chance, (3, 2, 1, 0)[direction]) for chance, direction in super().directions(action)]


class GoalPaysTheStepToo(GridWorld):
    def outcomes(self, state: int, direction: int) -> list[tuple[float, int, float]]:
        found = super().outcomes(state, direction)
        return [(p, s, reward + self.step_reward * bool(self.terminal[s])) for p, s, reward in found]


class WallsAreFree(GridWorld):
    def outcomes(self, state: int, direction: int) -> list[tuple[float, int, float]]:
        return [(p, s, 0.0 if s == state else reward) for p, s, reward in super().outcomes(state, direction)]


class EndsAreBootstrapped(GridWorld):
    def mdp(self, gamma: float) -> dynamic.FiniteMDP:
        right = super().mdp(gamma)
        p, goal = right.transitions.clone(), torch.from_numpy(self.terminal)
        p[goal] = right.start  # the episode goes on from the start, as the next one does in a log
        return dynamic.FiniteMDP(p, right.rewards, gamma, right.start, torch.zeros_like(goal), right.outcomes)


class TablesForgetTheCliff(GridWorld):
    def mdp(self, gamma: float) -> dynamic.FiniteMDP:
        fall, self.cliff = self.cliff, self.step_reward
        tables = super().mdp(gamma)
        self.cliff = fall
        return tables


class CliffEndsTheEpisode(GridWorld):
    def step(self, action: object) -> tuple[np.int64, float, bool, bool, dict[str, object]]:
        state, reward, over, cut, info = super().step(action)
        return state, reward, over or reward == self.cliff, cut, info


class EndsAreCuts(GridWorld):
    def step(self, action: object) -> tuple[np.int64, float, bool, bool, dict[str, object]]:
        state, reward, over, _, info = super().step(action)
        return state, reward, False, over, info


@pytest.mark.parametrize("world", GridWorld.__subclasses__())
def test_a_wrong_world_is_rejected(world: World) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_world(world)
