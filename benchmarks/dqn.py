"""DQN on CartPole beside stable-baselines3's: the same seeds and environment steps, one seed after another.

Ours runs with its defaults and 3-step targets; theirs with the hyperparameters that its own zoo tuned for this task.
What both reached is judged by the same greedy episodes, outside the time that is measured.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from measure import Comparison
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from alignlab.rl import dqn
from alignlab.rl.environments import play

TASK, SOLVED = "CartPole-v1", 475.0
ZOO: dict[str, Any] = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}
"""rl-baselines3-zoo's for DQN on CartPole-v1, where exploration falls over 0.16 of 50,000 steps."""
EXPLORE = 8_000


@dataclass
class Run:
    """What one seed did: greedy returns at each look, seconds of training until one is solved, and in all."""

    returns: list[float] = field(default_factory=list)
    solved: float | None = None
    seconds: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

    def look(self, policy: Callable[[Tensor], Tensor], episodes: int) -> None:
        """Judge the policy, with the clock stopped."""
        self.seconds += time.perf_counter() - self._since
        self.returns.append(play(policy, TASK, episodes, seed=90_000).mean().item())
        if self.solved is None and self.returns[-1] >= SOLVED:
            self.solved = self.seconds
        self._since = time.perf_counter()

    @property
    def area(self) -> float:
        """The mean return over the looks."""
        return statistics.fmean(self.returns)


def ours(seed: int, steps: int, look: int, episodes: int) -> Run:
    """One seed of `alignlab.rl.dqn.train`."""
    run = Run()

    def watch(now: dqn.Watched) -> None:
        if now.step % look == 0:
            run.look(dqn.greedy(now.networks), episodes)

    dqn.train(TASK, 1, seed, dqn.Config(steps=steps, n=3), watch)
    return run


def theirs(seed: int, steps: int, look: int, episodes: int) -> Run:
    """One seed of stable-baselines3's DQN."""
    run = Run()

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % look == 0:
                with torch.no_grad():
                    run.look(lambda seen: self.model.q_net(seen).argmax(-1), episodes)  # type: ignore[union-attr]
            return True

    model = DQN("MlpPolicy", TASK, seed=seed, device="cpu", exploration_fraction=min(1.0, EXPLORE / steps), **ZOO)
    model.learn(steps, callback=Watch())
    return run


def compare(
    name: str, seeds: int = 5, steps: int = 30_000, look: int = 1_000, episodes: int = 100, target: float = 2.0
) -> Comparison:
    """Seconds of training to a mean return of 475, seed by seed, and whether ours earned as much at equal steps.

    A run of theirs that never gets there counts with its whole time, one of ours fails the comparison.
    """
    pairs = [(ours(seed, steps, look, episodes), theirs(seed, steps, look, episodes)) for seed in range(seeds)]
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    area = [statistics.median(run.area for run in side) for side in (a, b)]
    end = [statistics.median(run.returns[-1] for run in side) for side in (a, b)]
    count = [sum(run.solved is not None for run in side) for side in (a, b)]
    return Comparison(
        name,
        [run.solved or run.seconds for run in a],
        [run.solved or run.seconds for run in b],
        target,
        f"median return over {steps:,} steps {area[0]:.0f} and {area[1]:.0f}, "
        f"at their end {end[0]:.0f} and {end[1]:.0f}; solved by {count[0]} and {count[1]} of {seeds} seeds",
        agree=target == 0 or (area[0] >= area[1] and end[0] >= end[1] and count[0] == seeds),
    )


if __name__ == "__main__":
    compare("DQN to 475 on CartPole")
