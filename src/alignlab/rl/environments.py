"""Environments as the agents of this book meet them: many copies stepped together, checked before training begins.

Knows Gymnasium's interface; nothing about agents.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor


class Step(NamedTuple):
    """What one action did in each of n copies.

    next_observation: (n, d) float32, where the action led; at the end of an episode its true last observation.
    reward: (n,) float32. terminated: (n,) bool, the task itself ended, nothing follows. truncated: (n,) bool, the
    clock ran out, the future still has a value. real: (n,) bool, false where the copy only began a new episode: that
    row is no transition, its action was not taken, and it must not be learned from.
    """

    next_observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    real: Tensor


class Copies:
    """n copies of one environment, stepped together; one whose episode ended begins anew at its next step.

    name: as registered with Gymnasium. Its own vectorized form is used where it has one (CartPole: one NumPy
    operation for all copies). options go to the environment. `observation` (n, d) is where the copies stand now,
    `returns[i]` holds the undiscounted returns of copy i's finished episodes, `lengths[i]` their lengths in steps.
    """

    def __init__(self, name: str, copies: int = 1, seed: int | None = 0, **options: Any) -> None:
        if copies < 1:
            raise ValueError(f"{copies} copies of {name}; at least one is needed")
        vectorized = gym.spec(name).vector_entry_point is not None and not options
        self.name, self.copies = name, copies
        self.vector = gym.make_vec(name, copies, "vector_entry_point" if vectorized else "sync", **options)
        self.observation_space, self.action_space = (
            self.vector.single_observation_space,
            self.vector.single_action_space,
        )
        self.steps = 0
        self.returns: list[list[float]] = [[] for _ in range(copies)]
        self.lengths: list[list[int]] = [[] for _ in range(copies)]
        self._running, self._length = np.zeros(copies), np.zeros(copies, dtype=int)
        self._ended = np.zeros(copies, dtype=bool)
        self.observation = self._tensor(self.vector.reset(seed=seed)[0])

    def step(self, actions: Tensor) -> Step:
        """Take actions[i] in copy i. actions: (n,) integers for Discrete actions, (n, k) reals for a Box.

        ValueError where an environment gives an observation or a reward that is not finite.
        """
        begins = self._ended
        observation, reward, terminated, truncated, _ = self.vector.step(actions.cpu().numpy())
        self.steps += 1
        self.observation = self._tensor(observation)
        if not np.isfinite(reward).all():
            raise ValueError(f"{self.name} gave a reward that is not finite at step {self.steps}: {reward}")
        self._running = np.where(begins, 0.0, self._running + reward)
        self._length = np.where(begins, 0, self._length + 1)
        self._ended = terminated | truncated
        for copy in np.flatnonzero(self._ended):
            self.returns[copy].append(float(self._running[copy]))
            self.lengths[copy].append(int(self._length[copy]))
        return Step(
            self.observation,
            torch.from_numpy(np.asarray(reward, dtype=np.float32)),
            torch.from_numpy(terminated.copy()),
            torch.from_numpy(truncated.copy()),
            torch.from_numpy(~begins),
        )

    def _tensor(self, observation: Any) -> Tensor:
        rows = np.asarray(observation, dtype=np.float32).reshape(self.copies, -1)
        if not np.isfinite(rows).all():
            copy = int(np.flatnonzero(~np.isfinite(rows).all(-1))[0])
            raise ValueError(
                f"{self.name} gave an observation that is not finite in copy {copy} at step {self.steps}: "
                f"{rows[copy].tolist()}"
            )
        return torch.as_tensor(rows)


def finite_actions(space: spaces.Space[Any], agent: str = "this agent") -> int:
    """The number of actions of a Discrete space that begins at 0. TypeError, in words, for any other."""
    if not isinstance(space, spaces.Discrete) or space.start != 0:
        raise TypeError(
            f"{agent} chooses among finitely many actions, numbered from 0 (Discrete), and this environment's "
            f"actions are {space}; wrap the environment, or take an agent for such actions"
        )
    return int(space.n)


def observation_size(space: spaces.Space[Any], agent: str = "this agent") -> int:
    """How many numbers an observation of a Box space has. TypeError, in words, for any other."""
    if not isinstance(space, spaces.Box):
        raise TypeError(
            f"{agent} reads a vector of numbers (Box), and this environment's observations are {space}; "
            "wrap it (for a Discrete space: one-hot), or take a tabular agent"
        )
    return int(np.prod(space.shape))


def discount(gamma: float, endless: bool = False) -> float:
    """gamma, if it lies between 0 and 1 (below 1 where episodes need not end); else ValueError."""
    if not 0 <= gamma <= 1 or (endless and gamma == 1):
        raise ValueError(f"gamma is {gamma}; a discount factor lies in [0, 1{')' if endless else ']'}")
    return gamma


@torch.no_grad()
def play(policy: Callable[[Tensor], Tensor], name: str, episodes: int, seed: int = 0, **options: Any) -> Tensor:
    """Undiscounted returns of `episodes` whole episodes, (episodes,), each played in a copy of its own.

    policy: from observations (episodes, d) to actions (episodes,) or (episodes, k).
    """
    copies = Copies(name, episodes, seed, **options)
    while not all(copies.returns):
        copies.step(policy(copies.observation))
    return torch.tensor([returns[0] for returns in copies.returns])
