"""Scaling laws: published constants as printed, optima by brute force, fits that find a known law, tries counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import least_squares

from alignlab import scaling
from alignlab.scaling import (
    CHINCHILLA,
    KAPLAN_COMPUTE,
    KAPLAN_PARAMETERS,
    KAPLAN_TOKENS,
    PF_DAY,
    REPLICATION,
    LossLaw,
    coverage,
    effective_tokens,
    fit_loss_law,
    fit_power_law,
    inference_flops,
    isoflop_minimum,
    kaplan_loss,
    pass_at_k,
    training_flops,
)

TRUTH = LossLaw(E=1.9, A=30.0, B=80.0, alpha=0.42, beta=0.36)
SIZES, TOKENS = np.array([1e3, 3e3, 1e4, 3e4, 1e5]), np.array([2e4, 6e4, 2e5, 6e5, 2e6])


def grid(law: LossLaw, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, d, loss) of a law, the loss off by a factor exp(noise)."""
    n, d = (x.flatten() for x in np.meshgrid(SIZES, TOKENS, indexing="ij"))
    return n, d, law(n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(n.shape))


# ---- the laws, as published


def test_kaplans_three_laws_say_what_the_paper_prints() -> None:
    """A loss of 1 nat at the printed scale; ten times more of each takes off 16%, 20% and 11%."""
    for law, scale, left in (
        (KAPLAN_PARAMETERS, 8.8e13, 0.839),
        (KAPLAN_TOKENS, 5.4e13, 0.804),
        (KAPLAN_COMPUTE, 3.1e8, 0.891),
    ):
        assert law(scale) == pytest.approx(1.0)
        assert law(1e10) / law(1e9) == pytest.approx(left, abs=5e-4)
    assert pytest.approx(8.64e19) == PF_DAY


def test_kaplans_joint_law_has_the_two_single_ones_as_its_limits() -> None:
    assert kaplan_loss(1e9, 1e30) == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-6)
    assert kaplan_loss(1e40, 1e10) == pytest.approx((1.8e13 / 1e10) ** 0.103, rel=1e-6)
    # Eight times the parameters want about five times the data (section 1.2): N^0.74 / D stays.
    few, many = kaplan_loss(1e8, 1e10), kaplan_loss(8e8, 8**0.74 * 1e10)
    assert many / kaplan_loss(8e8, 1e30) == pytest.approx(few / kaplan_loss(1e8, 1e30), rel=1e-3)


def test_chinchillas_constants_give_the_exponents_and_the_replication_the_model() -> None:
    """Printed and rounded, a = 0.45; the replication's 0.513 and Chinchilla's own size for Gopher's compute."""
    assert CHINCHILLA.exponents == pytest.approx((0.4516, 0.5484), abs=1e-4)
    assert REPLICATION.exponents == pytest.approx((0.5126, 0.4874), abs=1e-4)
    n, d = REPLICATION.optimal(5.76e23)
    assert n == pytest.approx(72e9, rel=0.01) and d == pytest.approx(1.33e12, rel=0.01) and 18 < d / n < 19
    n, d = CHINCHILLA.optimal(5.76e23)
    assert n == pytest.approx(32e9, rel=0.01) and d / n > 90


@pytest.mark.parametrize(
    ("parameters", "tokens", "flops"),
    [
        (175e9, 300e9, 3.14e23),  # Brown et al. (2020), table D.1
        (405e9, 15.6e12, 3.8e25),  # Grattafiori et al. (2024), section 1
    ],
)
def test_six_n_d_is_the_compute_that_papers_report(parameters: float, tokens: float, flops: float) -> None:
    assert training_flops(parameters, tokens) == pytest.approx(flops, rel=0.01)
    assert inference_flops(parameters, tokens) * 3 == training_flops(parameters, tokens)


# ---- optima, by brute force


def check_optimal(optimal: Callable[[LossLaw, float], tuple[float, float]]) -> None:
    """No split of the compute over a fine grid does better, and all of it is spent."""
    for law in (CHINCHILLA, REPLICATION, TRUTH):
        for flops in (1e15, 1e21, 5.76e23):
            n, d = optimal(law, flops)
            assert 6 * n * d == pytest.approx(flops)
            others = n * np.logspace(-1, 1, 20_001)
            best = others[np.argmin(law(others, flops / (6 * others)))]
            assert n == pytest.approx(best, rel=5e-4)


def test_the_closed_form_optimum_is_the_lowest_point_of_the_line_of_equal_compute() -> None:
    check_optimal(LossLaw.optimal)
    n, d = TRUTH.optimal(1e18)
    assert TRUTH.alpha * TRUTH.A / n**TRUTH.alpha == pytest.approx(TRUTH.beta * TRUTH.B / d**TRUTH.beta)
    exponent = -TRUTH.alpha * TRUTH.beta / (TRUTH.alpha + TRUTH.beta)
    fall = (TRUTH.frontier(1e20) - TRUTH.E) / (TRUTH.frontier(1e18) - TRUTH.E)
    assert fall == pytest.approx(100**exponent)


def _swapped(law: LossLaw, flops: float) -> tuple[float, float]:
    n, d = law.optimal(flops)
    return d, n


def _exponents_swapped(law: LossLaw, flops: float) -> tuple[float, float]:
    b, a = law.exponents
    G = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    return G * (flops / 6) ** a, (flops / 6) ** b / G


def _coefficients_forgotten(law: LossLaw, flops: float) -> tuple[float, float]:
    a, b = law.exponents
    G = (law.A / law.B) ** (1 / (law.alpha + law.beta))
    return G * (flops / 6) ** a, (flops / 6) ** b / G


def _six_forgotten(law: LossLaw, flops: float) -> tuple[float, float]:
    return law.optimal(6 * flops)


@pytest.mark.parametrize("wrong", [_swapped, _exponents_swapped, _coefficients_forgotten, _six_forgotten])
def test_a_wrong_optimum_is_rejected(wrong: Callable[[LossLaw, float], tuple[float, float]]) -> None:
    with pytest.raises(AssertionError):
        check_optimal(wrong)


def test_serving_many_tokens_makes_the_best_model_smaller_and_longer_trained() -> None:
    loss = REPLICATION.frontier(1e22)
    n0, d0 = REPLICATION.lifetime_optimum(loss, 0.0)
    assert (n0, d0) == pytest.approx(REPLICATION.optimal(1e22), rel=1e-4)
    served = 1e13
    n, d = REPLICATION.lifetime_optimum(loss, served)
    assert REPLICATION(n, d) == pytest.approx(loss)
    sizes = n0 * np.logspace(-1.0, 1, 4001)
    sizes = sizes[REPLICATION.E + REPLICATION.A / sizes**REPLICATION.alpha < loss]
    costs = [training_flops(m, REPLICATION.tokens_for(m, loss)) + inference_flops(m, served) for m in sizes.tolist()]
    assert n == pytest.approx(sizes[int(np.argmin(costs))], rel=2e-3)
    assert n < 0.6 * n0 and d > 2 * d0


def test_a_loss_below_the_floor_is_refused_with_the_floor() -> None:
    with pytest.raises(ValueError, match=r"stay above 2\.\d+ nats by this law; 1\.9000 is asked"):
        REPLICATION.tokens_for(1e9, 1.9)
    with pytest.raises(ValueError, match=r"floor is E = 1\.8172"):
        REPLICATION.lifetime_optimum(1.8, 0.0)
    assert REPLICATION(7e9, REPLICATION.tokens_for(7e9, 2.1)) == pytest.approx(2.1)


def test_repeated_tokens_are_worth_less_and_less() -> None:
    assert effective_tokens(1e9, 1e9) == pytest.approx(1e9)
    four, many = effective_tokens(1e9, 4e9), effective_tokens(1e9, 1e12)
    assert 3.6e9 < four < 4e9 and many == pytest.approx(16.39e9, rel=1e-3)
    # The first repetition is worth nearly a fresh epoch: the derivative there is 1.
    assert (effective_tokens(1.0, 1.001) - 1.0) / 0.001 == pytest.approx(1.0, abs=1e-3)


# ---- fits

Fitter = Callable[[np.ndarray, np.ndarray, np.ndarray], LossLaw]


def check_fit(fit: Fitter) -> None:
    """Exact points give back the law; so do noisy ones with a few that are far off, as nearly as scipy finds it."""
    found = fit(*grid(TRUTH))
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=1e-3), name
    n, d, losses = grid(TRUTH, noise=0.002)
    losses[[3, 17]] *= 1.4  # two broken runs
    found = fit(n, d, losses)
    assert found.alpha == pytest.approx(TRUTH.alpha, abs=0.05) and found.beta == pytest.approx(TRUTH.beta, abs=0.05)
    assert found(1e6, 1e7) == pytest.approx(TRUTH(1e6, 1e7), rel=0.01)


def _fit(n: np.ndarray, d: np.ndarray, losses: np.ndarray) -> LossLaw:
    return fit_loss_law(n, d, losses).law


def test_the_fit_finds_the_law_that_made_the_points() -> None:
    check_fit(_fit)


def _without_floor(n: np.ndarray, d: np.ndarray, losses: np.ndarray) -> LossLaw:
    return fit_loss_law(n, d, losses, E=0.0).law


def _squared(n: np.ndarray, d: np.ndarray, losses: np.ndarray) -> LossLaw:
    """Least squares: the broken runs pull it away."""
    return fit_loss_law(n, d, losses, delta=1e9).law


def _from_one_start(n: np.ndarray, d: np.ndarray, losses: np.ndarray) -> LossLaw:
    """A few steps from a poor start: the reason that a published fit was off."""
    points = scaling._Points(np.log(n), np.log(d), np.log(losses), 1e-3, False)
    theta, _ = scaling._descend(points, np.array([[0.0, 0.0, 0.0, 1.0, 1.0]]), np.ones((1, len(n))), steps=5)
    return scaling._law(theta[0])


@pytest.mark.parametrize("wrong", [_without_floor, _squared, _from_one_start])
def test_a_wrong_fit_is_rejected(wrong: Fitter) -> None:
    with pytest.raises(AssertionError):
        check_fit(wrong)


def test_the_fit_reaches_the_least_objective_that_scipy_finds() -> None:
    n, d, losses = grid(TRUTH, noise=0.01, seed=3)

    def residuals(theta: np.ndarray) -> np.ndarray:
        e, a, b, alpha, beta = theta
        return np.log(np.exp(e) + np.exp(a) / n**alpha + np.exp(b) / d**beta) - np.log(losses)

    def huber(theta: np.ndarray, delta: float = 1e-3) -> float:
        size = np.abs(residuals(theta))
        return float(np.where(size < delta, size**2 / 2, delta * (size - delta / 2)).sum())

    peers = []
    for alpha, beta in itertools.product((0.2, 0.5), repeat=2):
        start = [0.5, math.log(0.5) + alpha * math.log(1e4), math.log(0.5) + beta * math.log(2e5), alpha, beta]
        peers.append(huber(least_squares(residuals, start, loss="huber", f_scale=1e-3, max_nfev=5000).x))
    law = fit_loss_law(n, d, losses).law
    ours = huber(np.array([math.log(law.E), math.log(law.A), math.log(law.B), law.alpha, law.beta]))
    assert ours <= min(peers) * 1.001


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """90% intervals of alpha from 25 repetitions of the experiment: between 17 and 25 hold it."""
    held = 0
    for seed in range(25):
        n, d, losses = grid(TRUTH, noise=0.003, seed=seed)
        low, high = fit_loss_law(n, d, losses, E=TRUTH.E, draws=40, seed=seed).interval(lambda law: law.alpha)
        held += low <= TRUTH.alpha <= high
    assert 17 <= held <= 25


def test_runs_are_drawn_as_a_whole() -> None:
    """Points of a run err together: an interval that takes them for independent is too narrow."""
    rng, runs = np.random.default_rng(0), np.repeat(np.arange(20), 5)
    n = np.repeat(np.tile(np.logspace(3, 5, 10), 2), 5)
    d = np.tile(np.logspace(4, 6, 5), 20)
    losses = TRUTH(n, d) * np.exp(0.01 * rng.standard_normal(20))[runs]
    width = {}
    for name, groups in (("runs", runs), ("points", None)):
        low, high = fit_loss_law(n, d, losses, E=1.9, groups=groups, draws=100).interval(lambda law: law.alpha)
        width[name] = high - low
    assert width["runs"] > 1.25 * width["points"]


def test_too_few_points_and_impossible_losses_are_refused() -> None:
    n, d, losses = grid(TRUTH)
    with pytest.raises(ValueError, match="1 sizes and 5 token counts cannot fix 5 constants"):
        fit_loss_law(n[:5], d[:5], losses[:5])
    with pytest.raises(ValueError, match="must all be above 0"):
        fit_loss_law(n, d, losses - 10)
    with pytest.raises(ValueError, match="one number of each a point"):
        fit_loss_law(n, d[:3], losses)


def test_a_straight_line_in_logarithms_is_found_exactly() -> None:
    x = np.array([1.0, 10.0, 100.0, 500.0])
    assert fit_power_law(x, 7.0 * x**-0.3) == pytest.approx((7.0, -0.3))
    y = 7.0 * x**-0.3
    y[3] *= 2
    assert fit_power_law(x, y, weights=[1, 1, 1, 0]) == pytest.approx((7.0, -0.3))
    with pytest.raises(ValueError, match="two different x"):
        fit_power_law([3.0, 3.0], [1.0, 2.0])


def test_a_parabola_finds_the_best_size_and_says_where_there_is_none() -> None:
    flops = 1e21
    best, _ = TRUTH.optimal(flops)
    sizes = best * np.logspace(-0.4, 0.4, 7)
    n, loss = isoflop_minimum(sizes, TRUTH(sizes, flops / (6 * sizes)))
    assert n == pytest.approx(best, rel=0.03) and loss == pytest.approx(TRUTH.frontier(flops), rel=1e-3)
    with pytest.raises(ValueError, match="no lowest point within the sizes tried"):
        isoflop_minimum(sizes * 30, TRUTH(sizes * 30, flops / (6 * sizes * 30)))
    with pytest.raises(ValueError, match="three sizes"):
        isoflop_minimum(sizes[:2], [2.0, 2.1])


# ---- test time


def check_pass_at_k(estimate: Callable[[int, int, int], float]) -> None:
    """The share of all subsets of k that hold a right one, by listing them; unbiased for 1 - (1 - p)^k."""
    for n, c in ((5, 0), (5, 2), (6, 1), (6, 6)):
        for k in range(1, n + 1):
            subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert estimate(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    n, p = 8, 0.3
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    for k in (1, 3, 8):
        mean = sum(q * estimate(n, c, k) for c, q in enumerate(chance))
        assert mean == pytest.approx(1 - (1 - p) ** k)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one() -> None:
    check_pass_at_k(pass_at_k)
    with pytest.raises(ValueError, match="2 right of 5, k = 6"):
        pass_at_k(5, 2, 6)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda n, c, k: 1 - (1 - c / n) ** k,  # plugs the share in: biased low
        lambda n, c, k: min(1.0, k * c / n),
        lambda n, c, k: math.comb(n - c, k) / math.comb(n, k),
    ],
)
def test_a_wrong_pass_at_k_is_rejected(wrong: Callable[[int, int, int], float]) -> None:
    with pytest.raises(AssertionError):
        check_pass_at_k(wrong)


def test_failures_fall_exponentially_for_one_problem_and_as_a_power_law_over_many() -> None:
    k = np.array([1, 10, 100, 1000])
    assert 1 - coverage([0.2], k)[:2] == pytest.approx([0.8, 0.8**10])
    # Chances with density b p^(b-1) near 0: the mean of (1 - p)^k falls as k^-b. Here b = 1/2.
    chances = ((np.arange(200_000) + 0.5) / 200_000) ** 2
    left = 1 - coverage(chances, k)
    slope = np.polyfit(np.log(k[1:]), np.log(left[1:]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.02)
