"""Actor-critic on CartPole, seed by seed: ours beside stable-baselines3's A2C, in turns, in one process, on one thread.

Theirs has the settings that its authors' collection of tuned settings (rl-baselines3-zoo) lists for CartPole-v1: eight
environments, no entropy bonus, everything else as it comes. Ours runs with its defaults. Both are judged alike, by the
mean return of the last 100 training episodes: the seconds until it is 475, and where it stands at equal numbers of
environment steps, which takes more seeds, since early returns scatter.
"""

import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from measure import Comparison

from alignlab.rl.policy_gradient import ActorCritic, train

TASK, GOAL, WINDOW = "CartPole-v1", 475.0, 100


@dataclass
class Course:
    """How one training went: seconds until the goal (None: never), and the window's mean return at `marks` steps."""

    goal: float
    marks: Sequence[int]
    began: float = field(default_factory=time.perf_counter)
    reached: float | None = None
    returns: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def note(self, steps: int, mean: float, episodes: int) -> bool:
        """Take down where a run stands; true when it may end: the goal is reached and all marks are passed."""
        if self.reached is None and episodes >= WINDOW and mean >= self.goal:
            self.reached = time.perf_counter() - self.began
        while len(self.returns) < len(self.marks) and steps >= self.marks[len(self.returns)]:
            self.returns.append(mean)
        return self.reached is not None and len(self.returns) == len(self.marks)

    def end(self) -> None:
        """The run is over: where it never got to the goal, its whole time counts."""
        self.seconds = self.reached if self.reached is not None else time.perf_counter() - self.began
        self.returns += self.returns[-1:] * (len(self.marks) - len(self.returns))


def ours(seed: int, steps: int, goal: float, marks: Sequence[int]) -> Course:
    """One seed, alone."""
    course = Course(goal, marks)

    def watch(agent: ActorCritic) -> bool:
        return course.note(agent.steps[-1], agent.returns[-1][0], agent.episodes[0])

    train(TASK, 1, seed, steps, watch=watch)
    course.end()
    return course


def theirs(seed: int, steps: int, goal: float, marks: Sequence[int]) -> Course:
    """One seed of stable-baselines3's A2C."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    course = Course(goal, marks)

    class Watch(BaseCallback):
        ended, enough = 0, False

        def _on_step(self) -> bool:
            self.ended += sum(bool(done) for done in self.locals["dones"])
            return not self.enough

        def _on_rollout_end(self) -> None:
            last: Any = self.model.ep_info_buffer
            mean = sum(episode["r"] for episode in last) / max(len(last), 1)
            self.enough = course.note(self.num_timesteps, mean, self.ended)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        environments = make_vec_env(TASK, n_envs=8, seed=seed)
        model = A2C("MlpPolicy", environments, ent_coef=0.0, seed=seed, device="cpu")
        course.began = time.perf_counter()
        model.learn(steps, callback=Watch())
    course.end()
    return course


def compare(
    name: str,
    seeds: int = 5,
    steps: int = 120_000,
    patience: int = 300_000,
    marks: Sequence[int] = (25_000, 50_000, 100_000),
    more_seeds: int = 10,
    target: float = 2.0,
) -> Comparison:
    """Seconds to a mean return of 475, seed by seed, and whether ours earned as much at equal environment steps.

    Ours has `steps` environment steps, theirs `patience`: a run of theirs that never gets there counts with its whole
    time, one of ours fails the comparison. more_seeds: further ones, for the returns at `marks` alone.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # both are quickest so: their products are small
    pairs = [(ours(seed, steps, GOAL, marks), theirs(seed, patience, GOAL, marks)) for seed in range(seeds)]
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    others = range(seeds, seeds + more_seeds)
    returns = [
        [run.returns for run in a] + [ours(seed, steps, 0.0, marks).returns for seed in others],
        [run.returns for run in b] + [theirs(seed, patience, 0.0, marks).returns for seed in others],
    ]
    torch.set_num_threads(threads)
    earned = [[statistics.median(run[i] for run in side) for i in range(len(marks))] for side in returns]
    solved = [sum(run.reached is not None for run in side) for side in (a, b)]
    told = ", ".join(f"{m:.0f} and {o:.0f} at {mark:,} steps" for mark, m, o in zip(marks, *earned, strict=True))
    return Comparison(
        name,
        [run.seconds for run in a],
        [run.seconds for run in b],
        target,
        f"median return of {len(returns[0])} seeds {told}; solved by {solved[0]} of {seeds} seeds within {steps:,} and "
        f"by {solved[1]} within {patience:,}",
        agree=target == 0 or (all(m >= o for m, o in zip(*earned, strict=True)) and solved[0] == seeds),
    )


if __name__ == "__main__":
    compare("actor-critic to 475 on CartPole")
