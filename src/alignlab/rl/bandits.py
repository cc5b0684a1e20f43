"""Bandits: one state, K actions ("arms"), and the price of not knowing which is best.

Knows counts and sums of rewards; nothing about states. A rule says how likely it pulls each arm after what it has seen;
the same rule is played by sampling and, where the arms pay 0 or 1, weighed exactly over everything that can happen.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Rule = Callable[[Array, Array, int], Array]
"""rule(counts, sums, t): probabilities of the arms. counts, sums, probabilities: (..., K); t pulls so far, in all."""


# -- the price ----------------------------------------------------------------------------------------------------


def gaps(means: ArrayLike) -> Array:
    """What each arm loses on average against the best, max(means) - means: (K,). ValueError unless within [0, 1]."""
    p = np.asarray(means, dtype=np.float64)
    if p.ndim != 1 or len(p) < 2 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"the arms' chances are {means!r}; give two or more numbers between 0 and 1")
    return p.max() - p


def kl_bernoulli(p: ArrayLike, q: ArrayLike) -> Array:
    """KL(Bernoulli(p) || Bernoulli(q)) in nats, elementwise; infinite where q excludes what p does."""
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0.0) + np.where(p < 1, (1 - p) * np.log((1 - p) / (1 - q)), 0.0)


def lai_robbins(means: ArrayLike) -> float:
    """The slope of regret against log T that no rule which is good on every bandit can stay under.

    liminf R_T / log T >= sum over the worse arms of gap / KL(arm || best), Lai and Robbins (1985), Theorem 1.
    """
    loss, p = gaps(means), np.asarray(means, dtype=np.float64)
    worse = loss > 0
    return float((loss[worse] / kl_bernoulli(p[worse], p.max())).sum())


def ucb1_bound(means: ArrayLike, steps: ArrayLike) -> Array:
    """What UCB1's expected regret stays under, at every T >= K: Auer et al. (2002), Theorem 1. steps: (T,) or a number.

    8 sum log(T) / gap + (1 + pi^2 / 3) sum gap, over the worse arms.
    """
    loss = gaps(means)
    worse = loss[loss > 0]
    return 8 * np.log(np.asarray(steps, dtype=np.float64)) * (1 / worse).sum() + (1 + np.pi**2 / 3) * worse.sum()


# -- rules --------------------------------------------------------------------------------------------------------


def best_of(index: Array) -> Array:
    """All probability on the highest index, shared equally among equals: (..., K) to (..., K)."""
    best = index == index.max(-1, keepdims=True)
    return best / best.sum(-1, keepdims=True)


def averages(counts: Array, sums: Array, first: float = 0.0) -> Array:
    """The mean reward of each arm so far; `first` for an arm that was never pulled."""
    return np.where(counts > 0, sums / np.maximum(counts, 1), first)


def epsilon_greedy(epsilon: float | Callable[[int], float], first: float = 0.0) -> Rule:
    """With probability epsilon any arm, else the one with the best average. epsilon: a number, or a schedule of t.

    first: what an arm is taken to pay before its first pull; at 1 every arm is tried once.
    """

    def rule(counts: Array, sums: Array, t: int) -> Array:
        e = epsilon(t) if callable(epsilon) else epsilon
        if not 0 <= e <= 1:
            raise ValueError(f"epsilon is {e} after {t} pulls; it is a probability")
        return e / counts.shape[-1] + (1 - e) * best_of(averages(counts, sums, first))

    return rule


def decaying(c: float, d: float, arms: int) -> Callable[[int], float]:
    """epsilon after t pulls, min(1, c K / (d^2 (t + 1))): Auer et al. (2002), Figure 3. d: at most the smallest gap."""
    return lambda t: min(1.0, c * arms / (d * d * (t + 1)))


def linear(start: float, end: float, steps: int) -> Callable[[int], float]:
    """epsilon that falls in a straight line from start to end within `steps` pulls and stays there, as DQN's does."""
    return lambda t: start + (end - start) * min(1.0, t / steps)


def ucb(c: float = 2.0) -> Rule:
    """The arm with the highest average + sqrt(c log t / pulls); c = 2 is UCB1, Auer et al. (2002), Figure 1.

    Arms never pulled come first.
    """

    def rule(counts: Array, sums: Array, t: int) -> Array:
        return best_of(ucb_index(counts, sums, t, c))

    return rule


def ucb_index(counts: Array, sums: Array, t: int, c: float = 2.0) -> Array:
    """average + sqrt(c log t / pulls) of each arm, infinite for one never pulled: (..., K)."""
    width = np.sqrt(c * np.log(max(t, 1)) / np.maximum(counts, 1))
    return np.where(counts > 0, averages(counts, sums) + width, np.inf)


def thompson(seed: int = 0, prior: tuple[float, float] = (1.0, 1.0)) -> Rule:
    """Draw each arm's chance from what is believed of it, Beta(wins + a, losses + b), and pull the best draw.

    Thompson (1933). The rule returns the arm drawn, as a probability of 1: over many draws these average to the
    probability that the arm is the best. seed: of the draws.
    """
    generator, (a, b) = np.random.default_rng(seed), prior

    def rule(counts: Array, sums: Array, t: int) -> Array:
        return best_of(generator.beta(a + sums, b + counts - sums))

    return rule


def thompson_of_two(counts: Array, sums: Array, t: int) -> Array:
    """Thompson sampling's probabilities for two arms without drawing, prior Beta(1, 1): (..., 2).

    P(theta_0 > theta_1) = sum_{i < a_0} B(a_1 + i, b_0 + b_1) / ((b_0 + i) B(1 + i, b_0) B(a_1, b_1)), with
    theta_k ~ Beta(a_k, b_k) and whole a_0.
    """
    wins, losses = sums.astype(np.int64), (counts - sums).astype(np.int64)
    a0, a1, b0, b1 = wins[..., 0] + 1, wins[..., 1] + 1, losses[..., 0] + 1, losses[..., 1] + 1
    log_factorial = np.concatenate([[0.0], np.log(np.arange(1, 3 * counts.sum(-1).max() + 6)).cumsum()])

    def log_beta(x: NDArray[np.int64], y: NDArray[np.int64]) -> Array:
        return log_factorial[x - 1] + log_factorial[y - 1] - log_factorial[x + y - 1]

    chance = np.zeros(a0.shape)
    for i in range(int(a0.max())):
        term = log_beta(a1 + i, b0 + b1) - np.log(b0 + i) - log_beta(np.full_like(b0, 1 + i), b0) - log_beta(a1, b1)
        chance += np.where(i < a0, np.exp(term), 0.0)
    return np.stack([chance, 1 - chance], -1)


# -- playing ------------------------------------------------------------------------------------------------------


class Play(NamedTuple):
    """What was pulled and paid: actions (runs, T) integers, rewards (runs, T)."""

    actions: NDArray[np.int16]
    rewards: Array


def play(
    means: ArrayLike | Callable[[int], Array],
    rule: Rule,
    steps: int,
    runs: int = 1,
    seed: int = 0,
    step_size: float | None = None,
    paid: ArrayLike | None = None,
) -> Play:
    """`runs` games of `steps` pulls, side by side; arm a pays 1 with probability means[a], else 0.

    means: (K,), or a function of the step for arms that change. step_size: None for plain averages; a number for
    averages that forget, old + step_size (new - old). paid: (runs, steps, K), what each pull would pay, if it is given.
    Games with one seed meet the same luck: at a step the same draw decides whether the arm pulled pays.
    """
    at = means if callable(means) else None
    p = at(0) if at else np.asarray(means, dtype=np.float64)
    gaps(p)
    tape = None if paid is None else np.asarray(paid, dtype=np.float64)
    if tape is not None and tape.shape != (runs, steps, len(p)):
        raise ValueError(f"paid is {tape.shape}; it must be {(runs, steps, len(p))}")
    luck, choice, rows = np.random.default_rng(seed), np.random.default_rng([seed, 1]), np.arange(runs)
    counts, sums, estimates = np.zeros((3, runs, len(p)))
    actions, rewards = np.zeros((runs, steps), dtype=np.int16), np.zeros((runs, steps))
    for t in range(steps):
        p = at(t) if at else p
        chances = rule(counts, counts * estimates if step_size else sums, t)
        a = (chances.cumsum(-1) > choice.random((runs, 1)) * chances.sum(-1, keepdims=True)).argmax(-1)
        r = (luck.random(runs) < p[a]).astype(np.float64) if tape is None else tape[rows, t, a]
        counts[rows, a] += 1
        sums[rows, a] += r
        estimates[rows, a] += (step_size or 1 / counts[rows, a]) * (r - estimates[rows, a])
        actions[:, t], rewards[:, t] = a, r
    return Play(actions, rewards)


def regret(means: ArrayLike, actions: ArrayLike) -> Array:
    """Cumulative regret, what the best arm would have paid on average beyond the arms pulled: (runs, T) to (runs, T).

    It counts gaps, not rewards: the luck of single payments is left out (pseudo-regret).
    """
    return gaps(means)[np.asarray(actions)].cumsum(-1)


def exact_regret(means: ArrayLike, rule: Rule, steps: int) -> Array:
    """Expected cumulative regret after 1 ... `steps` pulls, (steps,), by going through all that can happen.

    The state of a game is how often each arm was pulled and has paid. Games in one state are counted together, so the
    work grows as steps^(2 K - 1): fit for 2 arms and some 60 steps. The rule must give exact probabilities.
    """
    loss, p = gaps(means), np.asarray(means, dtype=np.float64)
    arms = len(p)
    counts, sums, weight = np.zeros((1, arms)), np.zeros((1, arms)), np.ones((1,), dtype=np.float64)
    total, curve = 0.0, np.zeros(steps)
    for t in range(steps):
        chances = rule(counts, sums, t)
        total += float(weight @ chances @ loss)
        curve[t] = total
        reached = []
        for arm in range(arms):
            for reward, chance in ((1.0, p[arm]), (0.0, 1 - p[arm])):
                more = np.zeros(arms)
                more[arm] = 1.0
                reached.append((counts + more, sums + reward * more, weight * chances[:, arm] * chance))
        stacked = np.concatenate([np.concatenate([n, s], 1) for n, s, _ in reached])
        weights = np.concatenate([w for _, _, w in reached])
        key = stacked.astype(np.int64) @ (steps + 1) ** np.arange(2 * arms, dtype=np.int64)
        _, first, same = np.unique(key, return_index=True, return_inverse=True)
        weight = np.asarray(np.bincount(same.ravel(), weights), dtype=np.float64)
        kept = weight > 0
        counts, sums, weight = stacked[first][kept, :arms], stacked[first][kept, arms:], weight[kept]
    return curve
