"""Exercises of the lab ch01_pretrain_and_scale: days on a cluster, an exponent, the objective, the optimum, pass@k."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignlab.exercises import Exercise, Wrong, require, same

FloatArray = NDArray[np.float64]

CLUSTERS = (
    (405e9, 15.6e12, 16_384, 989e12, 0.40),
    (70e9, 2e12, 2_048, 312e12, 0.45),
    (134_515_008.0, 2e12, 64, 989e12, 0.30),
)
"""parameters, tokens, chips, peak FLOP/s of one, utilization."""

NS = np.array([2e3, 8e3, 3e4, 1.2e5])
FLOOR = 1.9
LS = FLOOR + np.array([0.62, 0.41, 0.27, 0.19])

PREDICTED, MEASURED = np.array([3.1, 2.4, 2.05, 1.98]), np.array([3.102, 2.39, 2.3, 1.9795])
DELTA = 1e-3

LAWS = ((482.01, 2085.43, 0.3478, 0.3658, 5.76e23), (406.4, 410.7, 0.34, 0.28, 1e21))
"""A, B, alpha, beta, FLOPs."""

COUNTS = ((10, 3, 1), (10, 3, 5), (20, 1, 10), (8, 6, 4), (64, 2, 16))
"""samples, right ones, k."""


# ---- solutions
def days(parameters: float, tokens: float, chips: int, peak: float, utilization: float) -> float:
    """6 N D, divided by what the chips do in a day."""
    return 6 * parameters * tokens / (chips * peak * utilization) / 86_400


def exponent(parameters: FloatArray, losses: FloatArray, floor: float) -> float:
    """Minus the slope of log(L - E) over log N."""
    return float(-np.polyfit(np.log(parameters), np.log(losses - floor), 1)[0])


def objective(predicted: FloatArray, measured: FloatArray, delta: float) -> float:
    """Sum of Huber losses of log predicted - log measured: a square near 0, a line beyond delta."""
    size = np.abs(np.log(predicted) - np.log(measured))
    return float(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum())


def optimum(A: float, B: float, alpha: float, beta: float, flops: float) -> tuple[float, float]:
    """N and D with 6 N D = C at which alpha A / N^alpha = beta B / D^beta."""
    n = (alpha * A / (beta * B) * (flops / 6) ** beta) ** (1 / (alpha + beta))
    return n, flops / 6 / n


def pass_at_k(samples: int, right: int, k: int) -> float:
    """One minus the share of subsets of k without a right one."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


# ---- wrong answers
def days_forward(parameters: float, tokens: float, chips: int, peak: float, utilization: float) -> float:
    return days(parameters, tokens, chips, peak, utilization) / 3


def days_at_peak(parameters: float, tokens: float, chips: int, peak: float, utilization: float) -> float:
    return days(parameters, tokens, chips, peak, 1.0)


def days_turned(parameters: float, tokens: float, chips: int, peak: float, utilization: float) -> float:
    return 6 * parameters * tokens * utilization / (chips * peak) / 86_400


def hours(parameters: float, tokens: float, chips: int, peak: float, utilization: float) -> float:
    return days(parameters, tokens, chips, peak, utilization) * 24


def days_of_one(parameters: float, tokens: float, chips: int, peak: float, utilization: float) -> float:
    return days(parameters, tokens, 1, peak, utilization)


def exponent_with_floor(parameters: FloatArray, losses: FloatArray, floor: float) -> float:
    return exponent(parameters, losses, 0.0)


def exponent_signed(parameters: FloatArray, losses: FloatArray, floor: float) -> float:
    return -exponent(parameters, losses, floor)


def exponent_half_log(parameters: FloatArray, losses: FloatArray, floor: float) -> float:
    return float(-np.polyfit(np.log(parameters), losses - floor, 1)[0])


def exponent_turned(parameters: FloatArray, losses: FloatArray, floor: float) -> float:
    return float(-np.polyfit(np.log(losses - floor), np.log(parameters), 1)[0])


def objective_squared(predicted: FloatArray, measured: FloatArray, delta: float) -> float:
    return float(((np.log(predicted) - np.log(measured)) ** 2).sum() / 2)


def objective_raw(predicted: FloatArray, measured: FloatArray, delta: float) -> float:
    return objective(np.exp(predicted), np.exp(measured), delta)


def objective_broken(predicted: FloatArray, measured: FloatArray, delta: float) -> float:
    size = np.abs(np.log(predicted) - np.log(measured))
    return float(np.where(size <= delta, size**2 / 2, delta * size).sum())


def objective_mean(predicted: FloatArray, measured: FloatArray, delta: float) -> float:
    return objective(predicted, measured, delta) / len(predicted)


def optimum_swapped(A: float, B: float, alpha: float, beta: float, flops: float) -> tuple[float, float]:
    n, d = optimum(A, B, alpha, beta, flops)
    return d, n


def optimum_terms_equal(A: float, B: float, alpha: float, beta: float, flops: float) -> tuple[float, float]:
    n = (A / B * (flops / 6) ** beta) ** (1 / (alpha + beta))
    return n, flops / 6 / n


def optimum_exponent(A: float, B: float, alpha: float, beta: float, flops: float) -> tuple[float, float]:
    n = (alpha * A / (beta * B) * (flops / 6) ** alpha) ** (1 / (alpha + beta))
    return n, flops / 6 / n


def optimum_six(A: float, B: float, alpha: float, beta: float, flops: float) -> tuple[float, float]:
    return optimum(A, B, alpha, beta, 6 * flops)


def optimum_twenty(A: float, B: float, alpha: float, beta: float, flops: float) -> tuple[float, float]:
    n = math.sqrt(flops / 120)
    return n, 20 * n


def pass_plugged(samples: int, right: int, k: int) -> float:
    return 1 - (1 - right / samples) ** k


def pass_linear(samples: int, right: int, k: int) -> float:
    return min(1.0, k * right / samples)


def pass_none(samples: int, right: int, k: int) -> float:
    return 1 - pass_at_k(samples, right, k)


def pass_all(samples: int, right: int, k: int) -> float:
    return math.comb(right, k) / math.comb(samples, k)


# ---- graders
def _grade_days(answer: Callable[..., Any]) -> None:
    for given in CLUSTERS:
        mistakes = {
            "That is the forward pass alone, 2 N D; the backward pass costs twice as much again.": days_forward(*given),
            "Utilization is missing: no cluster trains at its peak.": days_at_peak(*given),
            "Utilization stands on the wrong side: the less of the peak is used, the longer it takes.": days_turned(
                *given
            ),
            "Those are hours.": hours(*given),
            "That is one chip; divide by their number.": days_of_one(*given),
        }
        same(answer(*given), days(*given), "your number of days", mistakes=mistakes)


def _grade_exponent(answer: Callable[..., Any]) -> None:
    given = (NS.copy(), LS.copy(), FLOOR)
    mistakes = {
        "The floor is still in: a straight line fits L - E, not L, and the floor makes the slope look flatter.": (
            exponent_with_floor(*given)
        ),
        "The sign is flipped: the loss falls, the slope is negative, alpha is its size.": exponent_signed(*given),
        "Take logarithms on both axes; you took that of the sizes only.": exponent_half_log(*given),
        "The axes are swapped: that is by how much log N changes with log (L - E).": exponent_turned(*given),
    }
    same(answer(*given), exponent(*given), "your exponent", mistakes=mistakes)


def _grade_objective(answer: Callable[..., Any]) -> None:
    given = (PREDICTED.copy(), MEASURED.copy(), DELTA)
    got = answer(*given)
    require(np.ndim(got) == 0, "Return one number: the sum over the runs.")
    mistakes = {
        "That is half the square for all runs: the one that is far off rules the fit. Beyond delta it must grow "
        "linearly.": objective_squared(*given),
        "You compared the losses; compare their logarithms, so that an error counts by its share.": objective_raw(
            *given
        ),
        "Your two pieces do not meet at delta: the line is delta (|r| - delta / 2).": objective_broken(*given),
        "You took the mean; sum over the runs.": objective_mean(*given),
    }
    same(float(got), objective(*given), "your objective", tolerance=1e-9, mistakes=mistakes)


def _grade_optimum(answer: Callable[..., Any]) -> None:
    for given in LAWS:
        right = optimum(*given)
        mistakes = {
            "Parameters and tokens are swapped: give N first.": optimum_swapped(*given),
            "You made the two terms equal; at the optimum they *fall* alike: alpha A / N^alpha = beta B / D^beta.": (
                optimum_terms_equal(*given)
            ),
            "The exponent of C is the other one: N grows as C^(beta / (alpha + beta)).": optimum_exponent(*given),
            "The 6 is missing: C = 6 N D.": optimum_six(*given),
            "That is 20 tokens a parameter, which is a rule of thumb; use the law that is given.": optimum_twenty(
                *given
            ),
        }
        got = answer(*given)
        require(np.shape(got) == (2,), "Return two numbers: parameters and tokens.")
        scale = np.array(right)
        same(
            np.asarray(got, dtype=float) / scale,
            np.ones(2),
            "your N and D, as a share of the right ones",
            mistakes={text: np.array(value) / scale for text, value in mistakes.items()},
        )


def _grade_pass_at_k(answer: Callable[..., Any]) -> None:
    for given in COUNTS:
        mistakes = {
            "You put the share c/n into 1 - (1 - p)^k: that draws with replacement, and is too low on average.": (
                pass_plugged(*given)
            ),
            "Chances do not add up: two right samples in one draw count once.": pass_linear(*given),
            "That is the chance that none is right.": pass_none(*given),
            "That is the chance that all k are right.": pass_all(*given),
        }
        same(answer(*given), pass_at_k(*given), f"pass@{given[2]} of {given[:2]}", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="pretrain_and_scale.days",
        task="How many days does a training run take, from parameters, tokens, number of chips, peak FLOP/s of one "
        "chip, and the share of the peak that is used?",
        difficulty=1,
        minutes=4,
        grade=_grade_days,
        solution=days,
        wrong=[
            Wrong(days_forward, "forward pass alone"),
            Wrong(days_at_peak, "Utilization is missing"),
            Wrong(days_turned, "wrong side"),
            Wrong(hours, "Those are hours"),
            Wrong(days_of_one, "one chip"),
        ],
        hint="FLOPs are 6 N D. A cluster does chips x peak x utilization of them in a second; a day has 86,400.",
    ),
    Exercise(
        name="pretrain_and_scale.exponent",
        task="Give alpha of L = E + A / N^alpha from sizes (K,), losses (K,) and a known floor E.",
        difficulty=1,
        minutes=5,
        grade=_grade_exponent,
        solution=exponent,
        wrong=[
            Wrong(exponent_with_floor, "The floor is still in"),
            Wrong(exponent_signed, "The sign is flipped"),
            Wrong(exponent_half_log, "logarithms on both axes"),
            Wrong(exponent_turned, "axes are swapped"),
        ],
        hint="log(L - E) = log A - alpha log N is a straight line; `np.polyfit(x, y, 1)[0]` is its slope.",
    ),
    Exercise(
        name="pretrain_and_scale.objective",
        task="Give the objective by which Hoffmann et al. fit: the sum of Huber losses of log predicted - log "
        "measured, with its threshold delta.",
        difficulty=2,
        minutes=6,
        grade=_grade_objective,
        solution=objective,
        wrong=[
            Wrong(objective_squared, "half the square for all"),
            Wrong(objective_raw, "compared the losses"),
            Wrong(objective_broken, "do not meet at delta"),
            Wrong(objective_mean, "You took the mean"),
        ],
        hint="r^2 / 2 where |r| <= delta, delta (|r| - delta / 2) beyond.",
    ),
    Exercise(
        name="pretrain_and_scale.optimum",
        task="Give parameters and tokens of least E + A / N^alpha + B / D^beta for a compute of C = 6 N D.",
        difficulty=2,
        minutes=8,
        grade=_grade_optimum,
        solution=optimum,
        wrong=[
            Wrong(optimum_swapped, "tokens are swapped"),
            Wrong(optimum_terms_equal, "made the two terms equal"),
            Wrong(optimum_exponent, "exponent of C is the other"),
            Wrong(optimum_six, "The 6 is missing"),
            Wrong(optimum_twenty, "rule of thumb"),
        ],
        hint="Put D = C / (6 N) into the law and set the derivative by log N to 0.",
    ),
    Exercise(
        name="pretrain_and_scale.pass_at_k",
        task="Of n samples c are right. Give the unbiased estimate of the chance that at least one of k is.",
        difficulty=2,
        minutes=5,
        grade=_grade_pass_at_k,
        solution=pass_at_k,
        wrong=[
            Wrong(pass_plugged, "draws with replacement"),
            Wrong(pass_linear, "Chances do not add up"),
            Wrong(pass_none, "none is right"),
            Wrong(pass_all, "all k are right"),
        ],
        hint="Of all subsets of k samples, how many hold no right one? `math.comb` counts them.",
    ),
]
