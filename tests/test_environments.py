"""Environments stepped together: which rows are transitions, what ends, and what is refused before training."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from alignlab.rl.environments import Copies, discount, finite_actions, observation_size, play


class Counter(gym.Env):
    """Observes how many steps it took; ends at `ends`, is cut at `cut`, and may go wrong at `wrong`."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, ends: int = 3, cut: int = 100, wrong: int = -1, reward: float = 1.0) -> None:
        self.ends, self.cut, self.wrong, self.reward, self.at = ends, cut, wrong, reward, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.at += 1
        seen = np.nan if self.at == self.wrong else self.at
        return np.array([seen], dtype=np.float32), self.reward, self.at == self.ends, self.at == self.cut, {}


gym.register("alignlab-test/Counter-v0", entry_point=Counter)


def test_a_row_after_the_end_of_an_episode_is_a_reset_and_no_transition() -> None:
    copies = Copies("alignlab-test/Counter-v0", 2, ends=3)
    steps = [copies.step(torch.zeros(2, dtype=torch.long)) for _ in range(8)]
    assert [int(step.next_observation[0, 0]) for step in steps] == [1, 2, 3, 0, 1, 2, 3, 0]
    assert [bool(step.real[0]) for step in steps] == [True, True, True, False] * 2
    assert [bool(step.terminated[0]) for step in steps] == [False, False, True, False] * 2
    assert not any(step.truncated.any() for step in steps)
    assert copies.returns == [[3.0, 3.0]] * 2 and copies.lengths == [[3, 3]] * 2


def test_the_clock_truncates_and_the_task_terminates() -> None:
    copies = Copies("alignlab-test/Counter-v0", 1, ends=9, cut=2)
    first, second = (copies.step(torch.zeros(1, dtype=torch.long)) for _ in range(2))
    assert not first.truncated and second.truncated and not second.terminated


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1"])
def test_copies_follow_the_environment_stepped_by_hand(name: str) -> None:
    """From one state, with the same actions, the copies see what Gymnasium's own single environment sees."""
    alone, copies = gym.make(name).unwrapped, Copies(name, 1, seed=4)
    alone.reset(seed=4)
    if name == "CartPole-v1":
        alone.state = copies.observation[0].numpy().astype(np.float64)
    draws = torch.Generator().manual_seed(0)
    for _ in range(12):
        action = torch.randint(2, (1,), generator=draws)
        seen, reward, ended, *_ = alone.step(int(action))
        step = copies.step(action)
        assert step.next_observation[0].numpy() == pytest.approx(seen, abs=1e-5)
        assert step.reward[0] == reward and bool(step.terminated[0]) == ended
        if ended:
            break


def test_returns_are_those_of_whole_episodes() -> None:
    steady = play(lambda seen: (seen[:, 2] + 0.5 * seen[:, 3] > 0).long(), "CartPole-v1", 20, seed=1)
    pushed = play(lambda seen: torch.ones(len(seen), dtype=torch.long), "CartPole-v1", 20, seed=1)
    assert steady.shape == (20,) and steady.min() > 100 and steady.max() <= 500
    assert 7 < pushed.mean() < 12  # a pole pushed one way falls within 8 to 11 steps
    assert torch.equal(
        play(lambda seen: seen[:, 0].long() * 0, "alignlab-test/Counter-v0", 3, ends=4), torch.full((3,), 4.0)
    )


def test_what_cannot_be_learned_from_is_refused_in_words() -> None:
    copies = Copies("alignlab-test/Counter-v0", 1, wrong=2)
    copies.step(torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="not finite in copy 0 at step 2"):
        copies.step(torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="reward that is not finite"):
        Copies("alignlab-test/Counter-v0", 1, reward=float("inf")).step(torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="0 copies"):
        Copies("CartPole-v1", 0)
    with pytest.raises(TypeError, match="finitely many actions"):
        finite_actions(Copies("Pendulum-v1").action_space, "DQN")
    with pytest.raises(TypeError, match="one-hot"):
        observation_size(Copies("FrozenLake-v1").observation_space, "DQN")
    assert finite_actions(Copies("CartPole-v1").action_space) == 2
    assert observation_size(Copies("CartPole-v1").observation_space) == 4


def test_gamma_lies_between_0_and_1() -> None:
    assert discount(0.0) == 0 and discount(1.0) == 1 and discount(0.99, endless=True) == 0.99
    for gamma, endless in ((-0.1, False), (1.01, False), (1.0, True), (float("nan"), False)):
        with pytest.raises(ValueError, match="discount factor"):
            discount(gamma, endless)
