"""Bandits: regret by enumeration and closed forms, rules against their definitions, wrong rules rejected."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import integrate, stats

from alignlab.rl import bandits
from alignlab.rl.bandits import Array, Rule

ARMS = (0.3, 0.6)


def by_hand(means: tuple[float, ...], rule: Rule, steps: int) -> float:
    """Expected regret by walking through every sequence of pulls and payments, one by one."""
    best, arms = max(means), range(len(means))
    total = 0.0
    for story in itertools.product(itertools.product(arms, (0, 1)), repeat=steps):
        counts, sums, chance, lost = np.zeros(len(means)), np.zeros(len(means)), 1.0, 0.0
        for t, (arm, reward) in enumerate(story):
            chance *= rule(counts[None], sums[None], t)[0, arm] * (means[arm] if reward else 1 - means[arm])
            lost += best - means[arm]
            counts[arm] += 1
            sums[arm] += reward
        total += chance * lost
    return total


RULES: dict[str, Rule] = {
    "greedy": bandits.epsilon_greedy(0.0),
    "epsilon": bandits.epsilon_greedy(0.3),
    "decaying": bandits.epsilon_greedy(bandits.decaying(0.1, 0.3, 2)),
    "ucb": bandits.ucb(),
    "thompson": bandits.thompson_of_two,
}


@pytest.mark.parametrize("name", RULES)
def test_exact_regret_equals_the_sum_over_every_story(name: str) -> None:
    curve = bandits.exact_regret(ARMS, RULES[name], 5)
    for steps in (1, 3, 5):
        assert curve[steps - 1] == pytest.approx(by_hand(ARMS, RULES[name], steps), abs=1e-12)


def test_exact_regret_of_three_arms_equals_the_sum_over_every_story() -> None:
    means = (0.2, 0.5, 0.9)
    assert bandits.exact_regret(means, bandits.ucb(), 4)[3] == pytest.approx(
        by_hand(means, bandits.ucb(), 4), abs=1e-12
    )


def test_random_pulls_lose_the_mean_gap_at_every_step() -> None:
    curve = bandits.exact_regret(ARMS, bandits.epsilon_greedy(1.0), 20)
    assert curve == pytest.approx(0.15 * np.arange(1, 21))


def test_constant_epsilon_goes_on_losing_its_share_for_ever() -> None:
    """Each step loses at least epsilon times the mean gap, and in the end hardly more."""
    slope = np.diff(bandits.exact_regret((0.1, 0.9), bandits.epsilon_greedy(0.2), 60))
    assert slope.min() > 0.2 * 0.4 - 1e-12
    assert slope[-1] == pytest.approx(0.2 * 0.4, rel=0.05)


Simulated = Callable[[tuple[float, ...], Rule, int, int], Array]


def check_played(played: Simulated) -> None:
    """Mean regret of many games is the exact expectation, within four standard errors, at every step."""
    rules = {**RULES, "thompson": bandits.thompson(3)}
    for name, rule in rules.items():
        steps, runs = 25, 4000
        curves = played(ARMS, rule, steps, runs)
        want = bandits.exact_regret(ARMS, RULES[name], steps)
        assert curves.shape == (runs, steps)
        error = curves.std(0) / math.sqrt(runs) + 1e-9
        assert (np.abs(curves.mean(0) - want) < 4 * error + 1e-6).all(), name


def played_by_us(means: tuple[float, ...], rule: Rule, steps: int, runs: int) -> Array:
    return bandits.regret(means, bandits.play(means, rule, steps, runs).actions)


def test_played_games_have_the_exact_regret_on_average() -> None:
    check_played(played_by_us)


def _stale(means: tuple[float, ...], rule: Rule, steps: int, runs: int) -> Array:
    def late(counts: Array, sums: Array, t: int) -> Array:
        return rule(counts, np.zeros_like(sums), t)  # never learns what was paid

    return played_by_us(means, late, steps, runs)


def _per_step(means: tuple[float, ...], rule: Rule, steps: int, runs: int) -> Array:
    return np.diff(played_by_us(means, rule, steps, runs), axis=-1, prepend=0.0)


def _against_the_mean(means: tuple[float, ...], rule: Rule, steps: int, runs: int) -> Array:
    p = np.asarray(means)
    return (p.mean() - p)[bandits.play(means, rule, steps, runs).actions].cumsum(-1)


WRONG_PLAYS: dict[str, Simulated] = {
    "rewards are not remembered": _stale,
    "regret not summed up": _per_step,
    "compared with the mean arm": _against_the_mean,
    "arms swapped": lambda means, rule, steps, runs: (
        played_by_us(means[::-1], rule, steps, runs) * 0
        + bandits.regret(means, bandits.play(means[::-1], rule, steps, runs).actions)
    ),
}


@pytest.mark.parametrize("name", WRONG_PLAYS)
def test_a_wrong_game_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_played(WRONG_PLAYS[name])


Index = Callable[[Array, Array, int, float], Array]


def check_ucb(index: Index) -> None:
    """The index by its formula, in plain arithmetic; a pull lowers the width, time alone raises it."""
    counts, sums = np.array([[4.0, 9.0, 1.0]]), np.array([[1.0, 6.0, 0.0]])
    got = index(counts, sums, 14, 2.0)[0]
    want = [s / n + math.sqrt(2 * math.log(14) / n) for n, s in ((4, 1), (9, 6), (1, 0))]
    assert got == pytest.approx(want)
    assert index(counts, sums, 100, 2.0)[0] == pytest.approx(
        [s / n + math.sqrt(2 * math.log(100) / n) for n, s in ((4, 1), (9, 6), (1, 0))]
    )
    assert index(counts, sums, 14, 0.5)[0] == pytest.approx(
        [s / n + math.sqrt(0.5 * math.log(14) / n) for n, s in ((4, 1), (9, 6), (1, 0))]
    )
    assert math.isinf(index(np.array([[3.0, 0.0]]), np.array([[3.0, 0.0]]), 3, 2.0)[0, 1])


def test_the_ucb_index_is_its_formula() -> None:
    check_ucb(bandits.ucb_index)


def _width(counts: Array, sums: Array, t: int, c: float, f: Callable[[Array, int, float], Array]) -> Array:
    return np.where(counts > 0, sums / np.maximum(counts, 1) + f(np.maximum(counts, 1), t, c), np.inf)


WRONG_INDICES: dict[str, Index] = {
    "lower bound": lambda n, s, t, c: _width(n, s, t, c, lambda m, t, c: -np.sqrt(c * np.log(t) / m)),
    "root forgotten": lambda n, s, t, c: _width(n, s, t, c, lambda m, t, c: c * np.log(t) / m),
    "log forgotten": lambda n, s, t, c: _width(n, s, t, c, lambda m, t, c: np.sqrt(c * t / m)),
    "c outside the root": lambda n, s, t, c: _width(n, s, t, c, lambda m, t, c: c * np.sqrt(np.log(t) / m)),
    "pulls and time swapped": lambda n, s, t, c: _width(n, s, t, c, lambda m, t, c: np.sqrt(c * np.log(m) / t)),
    "an untried arm counts as 0": lambda n, s, t, c: s / np.maximum(n, 1) + np.sqrt(c * math.log(t) / np.maximum(n, 1)),
}


@pytest.mark.parametrize("name", WRONG_INDICES)
def test_a_wrong_index_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_ucb(WRONG_INDICES[name])


def check_thompson(chances: Callable[[Array, Array], Array]) -> None:
    """P(theta_0 > theta_1) under the two posteriors, beside a numerical integral."""
    for wins, losses in (((0, 0), (0, 0)), ((3, 1), (1, 4)), ((7, 9), (2, 6)), ((0, 5), (6, 0))):
        first, second = (stats.beta(w + 1, lost + 1) for w, lost in zip(wins, losses, strict=True))
        want = integrate.quad(lambda x: first.pdf(x) * second.cdf(x), 0, 1)[0]  # noqa: B023
        counts, sums = np.add(wins, losses)[None].astype(float), np.array([wins], float)
        got = chances(counts, sums)[0]
        assert got == pytest.approx([want, 1 - want], abs=0.02), (wins, losses)


def test_thompsons_exact_probabilities_are_the_integral() -> None:
    check_thompson(lambda counts, sums: bandits.thompson_of_two(counts, sums, 0))
    wins = np.array([[3.0, 1.0]])
    got = bandits.thompson_of_two(np.array([[4.0, 5.0]]), wins, 0)[0, 0]
    first, second = stats.beta(4, 2), stats.beta(2, 5)
    assert got == pytest.approx(integrate.quad(lambda x: first.pdf(x) * second.cdf(x), 0, 1)[0], abs=1e-9)


def drawn(rule: Rule, counts: Array, sums: Array) -> Array:
    return rule(counts.repeat(20_000, 0), sums.repeat(20_000, 0), 0).mean(0, keepdims=True)


def test_thompson_draws_an_arm_as_often_as_it_is_the_best() -> None:
    check_thompson(lambda counts, sums: drawn(bandits.thompson(0), counts, sums))


WRONG_THOMPSON: dict[str, Callable[[Array, Array], Array]] = {
    "losses and wins swapped": lambda n, s: bandits.thompson_of_two(n, n - s, 0),
    "pulls in place of losses": lambda n, s: bandits.thompson_of_two(n + s, s, 0),
    "the means compared": lambda n, s: bandits.best_of((s + 1) / (n + 2)),
    "one shared draw": lambda n, s: drawn(
        lambda c, w, t: bandits.best_of(stats.beta(w + 1, c - w + 1).ppf(np.linspace(0.001, 0.999, len(c))[:, None])),
        n,
        s,
    ),
}


@pytest.mark.parametrize("name", WRONG_THOMPSON)
def test_a_wrong_posterior_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_thompson(WRONG_THOMPSON[name])


def check_bound(slope: Callable[[tuple[float, ...]], float]) -> None:
    """Lai and Robbins's constant: by the definition, and for two nearby arms by its limit 2 p (1 - p) / gap."""
    for means in ((0.3, 0.6), (0.2, 0.5, 0.9), (0.5, 0.5, 0.9)):
        best = max(means)
        want = sum(
            (best - p) / (p * math.log(p / best) + (1 - p) * math.log((1 - p) / (1 - best))) for p in means if p < best
        )
        assert slope(means) == pytest.approx(want)
    assert slope((0.5, 0.501)) == pytest.approx(2 * 0.25 / 0.001, rel=0.01)


def test_the_lower_bound_is_lai_and_robbinss() -> None:
    check_bound(bandits.lai_robbins)
    assert bandits.kl_bernoulli(0.0, 0.25) == pytest.approx(math.log(4 / 3))
    assert math.isinf(bandits.kl_bernoulli(0.5, 1.0))


def _sum(means: tuple[float, ...], term: Callable[[float, float], float]) -> float:
    return sum(term(p, max(means)) for p in means if p < max(means))


WRONG_BOUNDS: dict[str, Callable[[tuple[float, ...]], float]] = {
    "the divergence reversed": lambda m: sum(
        (max(m) - p) / float(bandits.kl_bernoulli(max(m), p)) for p in m if p < max(m)
    ),
    "the gap forgotten": lambda m: _sum(m, lambda p, best: 1 / float(bandits.kl_bernoulli(p, best))),
    "in bits": lambda m: bandits.lai_robbins(m) / math.log(2),
    "one arm alone": lambda m: (max(m) - min(m)) / float(bandits.kl_bernoulli(min(m), max(m))),
}


@pytest.mark.parametrize("name", WRONG_BOUNDS)
def test_a_wrong_bound_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_bound(WRONG_BOUNDS[name])


def test_ucb1s_regret_stays_under_its_bound_which_is_the_theorems() -> None:
    steps = np.arange(2, 61)
    want = 8 * np.log(steps) / 0.3 + (1 + math.pi**2 / 3) * 0.3
    assert bandits.ucb1_bound(ARMS, steps) == pytest.approx(want)
    assert (bandits.exact_regret(ARMS, bandits.ucb(), 60)[1:] < want).all()


def test_given_payments_are_the_ones_that_are_paid() -> None:
    paid = np.zeros((2, 6, 2))
    paid[0, :, 1] = 1.0
    paid[1, :, 0] = 1.0
    game = bandits.play(ARMS, bandits.ucb(), 6, 2, paid=paid)
    assert game.rewards.tolist() == [[float(a == 1) for a in game.actions[0]], [float(a == 0) for a in game.actions[1]]]
    with pytest.raises(ValueError, match=r"paid is \(2, 6, 2\)"):
        bandits.play(ARMS, bandits.ucb(), 7, 2, paid=paid)


def test_a_constant_step_size_follows_arms_that_change() -> None:
    """After the swap the forgetting average finds the new best arm; the plain one holds on to the old."""

    def means(t: int) -> Array:
        return np.array([0.8, 0.2] if t < 300 else [0.2, 0.8])

    rule = bandits.epsilon_greedy(0.1)
    late = {size: bandits.play(means, rule, 400, 200, step_size=size).actions[:, -40:].mean() for size in (None, 0.1)}
    assert late[None] < 0.3 and late[0.1] > 0.85


def test_schedules_say_what_they_say() -> None:
    assert [bandits.decaying(0.5, 0.5, 2)(t) for t in (0, 3, 7)] == pytest.approx([1.0, 1.0, 0.5])
    assert [bandits.linear(1.0, 0.1, 90)(t) for t in (0, 45, 90, 500)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"two or more numbers between 0 and 1"):
        bandits.gaps((0.3, 1.2))
    with pytest.raises(ValueError, match=r"two or more"):
        bandits.gaps((0.3,))
    with pytest.raises(ValueError, match=r"epsilon is 1.5 after 0 pulls"):
        bandits.play(ARMS, bandits.epsilon_greedy(1.5), 3)
