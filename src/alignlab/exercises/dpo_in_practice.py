"""Exercises of the lab ch03_dpo_in_practice: the tilt of the optimum, label smoothing, length, probability lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

REF_LOGPS = torch.tensor([[0.5, 0.3, 0.15], [0.2, 0.2, 0.55]], dtype=torch.float64).log()
"""log pi_ref of three responses to two prompts; 5% of each row is outside."""

REWARDS = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
MARGINS = torch.tensor([-6.0, 0.0, 2.5, 30.0], dtype=torch.float64)

_NOISE = torch.Generator().manual_seed(0)
POLICY, REFERENCE = (-torch.rand(4, 6, generator=_NOISE, dtype=torch.float64) for _ in range(2))
MASK = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]])
"""Token log-probabilities of two pairs, chosen rows above rejected rows, and which tokens are the response."""

BEFORE = torch.tensor([[0.20, 0.30, 0.25, 0.20], [0.10, 0.40, 0.30, 0.15]], dtype=torch.float64)
AFTER = torch.tensor([[0.10, 0.02, 0.50, 0.20], [0.05, 0.10, 0.65, 0.10]], dtype=torch.float64)


# ---- solutions
def tilt(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """log of pi_ref exp(r / beta) / Z, row by row."""
    scores = ref_logps + rewards / beta
    return scores - scores.logsumexp(-1, keepdim=True)


def smoothed_loss(margin: Tensor, beta: float, smoothing: float) -> Tensor:
    """The label is right with probability 1 - smoothing, and turned round otherwise."""
    right = torch.nn.functional.logsigmoid(beta * margin)
    turned = torch.nn.functional.logsigmoid(-beta * margin)
    return -(1 - smoothing) * right - smoothing * turned


def settled_margin(beta: float, smoothing: float) -> float:
    """Where sigmoid(beta * margin) = 1 - smoothing."""
    return math.log((1 - smoothing) / smoothing) / beta


def mean_margin(policy: Tensor, reference: Tensor, response_mask: Tensor) -> Tensor:
    """Each response's log-ratio as a mean over its own tokens; chosen minus rejected."""
    ratio = ((policy - reference) * response_mask).sum(-1) / response_mask.sum(-1)
    chosen, rejected = ratio.chunk(2)
    return chosen - rejected


def mass_moved(before: Tensor, after: Tensor, chosen: int, rejected: int) -> list[float]:
    """Changes of probability, averaged over prompts: chosen, rejected, every other ending, broken."""
    change = (after - before).mean(0)
    others = change.sum() - change[chosen] - change[rejected]
    return [float(change[chosen]), float(change[rejected]), float(others), float(-change.sum())]


# ---- wrong answers
def tilt_times_beta(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    scores = ref_logps + rewards * beta
    return scores - scores.logsumexp(-1, keepdim=True)


def tilt_unnormalized(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return ref_logps + rewards / beta


def tilt_without_reference(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return (rewards / beta).log_softmax(-1).expand_as(ref_logps)


def tilt_over_everything(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    scores = ref_logps + rewards / beta
    return scores - scores.logsumexp((-1, -2), keepdim=True)


def smoothed_the_wrong_way(margin: Tensor, beta: float, smoothing: float) -> Tensor:
    return smoothed_loss(margin, beta, 1 - smoothing)


def smoothed_without_beta(margin: Tensor, beta: float, smoothing: float) -> Tensor:
    return smoothed_loss(margin, 1.0, smoothing)


def robust(margin: Tensor, beta: float, smoothing: float) -> Tensor:
    right, turned = smoothed_loss(margin, beta, 0.0), smoothed_loss(-margin, beta, 0.0)
    return ((1 - smoothing) * right - smoothing * turned) / (1 - 2 * smoothing)


def smoothed_in_the_sigmoid(margin: Tensor, beta: float, smoothing: float) -> Tensor:
    return smoothed_loss((1 - 2 * smoothing) * margin, beta, 0.0)


def settled_without_beta(beta: float, smoothing: float) -> float:
    return math.log((1 - smoothing) / smoothing)


def settled_times_beta(beta: float, smoothing: float) -> float:
    return beta * math.log((1 - smoothing) / smoothing)


def settled_of_ipo(beta: float, smoothing: float) -> float:
    return 1 / (2 * beta)


def settled_negative(beta: float, smoothing: float) -> float:
    return -settled_margin(beta, smoothing)


def summed_margin(policy: Tensor, reference: Tensor, response_mask: Tensor) -> Tensor:
    chosen, rejected = ((policy - reference) * response_mask).sum(-1).chunk(2)
    return chosen - rejected


def mean_over_padding(policy: Tensor, reference: Tensor, response_mask: Tensor) -> Tensor:
    chosen, rejected = ((policy - reference) * response_mask).mean(-1).chunk(2)
    return chosen - rejected


def mean_without_mask(policy: Tensor, reference: Tensor, response_mask: Tensor) -> Tensor:
    chosen, rejected = (policy - reference).mean(-1).chunk(2)
    return chosen - rejected


def mean_without_reference(policy: Tensor, reference: Tensor, response_mask: Tensor) -> Tensor:
    return mean_margin(policy, torch.zeros_like(reference), response_mask)


def one_length_for_both(policy: Tensor, reference: Tensor, response_mask: Tensor) -> Tensor:
    longest = response_mask.sum(-1).view(2, -1).amax(0)
    return summed_margin(policy, reference, response_mask) / longest


def broken_forgotten(before: Tensor, after: Tensor, chosen: int, rejected: int) -> list[float]:
    return [*mass_moved(before, after, chosen, rejected)[:3], 0.0]


def broken_with_the_wrong_sign(before: Tensor, after: Tensor, chosen: int, rejected: int) -> list[float]:
    *moved, broken = mass_moved(before, after, chosen, rejected)
    return [*moved, -broken]


def moved_backwards(before: Tensor, after: Tensor, chosen: int, rejected: int) -> list[float]:
    return mass_moved(after, before, chosen, rejected)


def moved_in_logs(before: Tensor, after: Tensor, chosen: int, rejected: int) -> list[float]:
    return mass_moved(before.log(), after.log(), chosen, rejected)


def others_hold_all(before: Tensor, after: Tensor, chosen: int, rejected: int) -> list[float]:
    moved = mass_moved(before, after, chosen, rejected)
    return [*moved[:2], float((after - before).mean(0).sum()), moved[3]]


# ---- graders
def _grade_tilt(answer: Callable[..., Any]) -> None:
    for beta in (0.5, 2.0):
        given = REF_LOGPS.clone(), REWARDS.clone(), beta
        mistakes = {
            "Beta multiplies the reward; the optimum divides by it, so that a larger beta moves less.": tilt_times_beta(
                *given
            ),
            "Z(x) is missing: the probabilities of a row must sum to 1.": tilt_unnormalized(*given),
            "The reference is missing: this is the softmax of the reward alone.": tilt_without_reference(*given),
            "Your Z adds up both prompts; each row has its own Z(x).": tilt_over_everything(*given),
        }
        same(answer(*given), tilt(*given), f"your optimum at beta {beta}", mistakes=mistakes)


def _grade_smoothed_loss(answer: Callable[..., Any]) -> None:
    for beta, smoothing in ((0.1, 0.2), (0.5, 0.1)):
        given = MARGINS.clone(), beta, smoothing
        mistakes = {
            "The two weights are swapped: 1 - smoothing belongs to the label as given.": smoothed_the_wrong_way(*given),
            "Beta is missing inside the sigmoids.": smoothed_without_beta(*given),
            "That is the unbiased correction of robust DPO, which subtracts; smoothing adds.": robust(*given),
            "You shrank the margin; smoothing mixes two losses.": smoothed_in_the_sigmoid(*given),
            "Smoothing has no effect in yours: this is the plain DPO loss.": smoothed_loss(MARGINS, beta, 0.0),
        }
        same(answer(*given), smoothed_loss(*given), f"your loss at beta {beta}", mistakes=mistakes)


def _grade_settled_margin(answer: Callable[..., Any]) -> None:
    for beta, smoothing in ((0.1, 0.25), (0.5, 0.1)):
        mistakes = {
            "Beta is missing: this is beta times the margin.": settled_without_beta(beta, smoothing),
            "You multiplied by beta; a larger beta settles at a smaller margin.": settled_times_beta(beta, smoothing),
            "That is where IPO settles, whatever the smoothing.": settled_of_ipo(beta, smoothing),
            "The sign is flipped: at yours the rejected response has won.": settled_negative(beta, smoothing),
        }
        want = settled_margin(beta, smoothing)
        same(answer(beta, smoothing), want, f"your margin at beta {beta}, smoothing {smoothing}", mistakes=mistakes)


def _grade_mean_margin(answer: Callable[..., Any]) -> None:
    given = POLICY.clone(), REFERENCE.clone(), MASK.clone()
    mistakes = {
        "You took the sums: a long response then counts for more than a short one.": summed_margin(*given),
        "You divided by the width of the batch; divide each row by the number of its own tokens.": mean_over_padding(
            *given
        ),
        "The mask is missing: prompt and padding are in your mean.": mean_without_mask(*given),
        "The reference is missing: this is SimPO's margin, not that of length-normalized DPO.": mean_without_reference(
            *given
        ),
        "Both rows of a pair are divided by one length; each response has its own.": one_length_for_both(*given),
    }
    same(answer(*given), mean_margin(*given), "your margin", mistakes=mistakes)


def _grade_mass_moved(answer: Callable[..., Any]) -> None:
    for chosen, rejected in ((0, 1), (2, 0)):
        given = BEFORE.clone(), AFTER.clone(), chosen, rejected
        mistakes = {
            "Broken is always 0 in yours: what the row lacks to 1, before and after, is broken.": broken_forgotten(
                *given
            ),
            "Broken has the wrong sign: what the endings lose, broken gains.": broken_with_the_wrong_sign(*given),
            "That is before minus after.": moved_backwards(*given),
            "You subtracted logarithms; probabilities add up to 1, their logarithms do not.": moved_in_logs(*given),
            "Your third number counts chosen and rejected once more.": others_hold_all(*given),
        }
        got = answer(*given)
        require(
            hasattr(got, "__len__") and len(got) == 4,
            "return four numbers: chosen, rejected, other endings, broken",
        )
        same([float(value) for value in got], mass_moved(*given), "your changes", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="dpo_in_practice.tilt",
        task="From `ref_logps` (prompts, responses), `rewards` (responses,) and `beta` give the log-probabilities of "
        "the optimum, (prompts, responses).",
        difficulty=1,
        minutes=5,
        grade=_grade_tilt,
        solution=tilt,
        wrong=[
            Wrong(tilt_times_beta, "Beta multiplies the reward"),
            Wrong(tilt_unnormalized, "Z(x) is missing"),
            Wrong(tilt_without_reference, "reference is missing"),
            Wrong(tilt_over_everything, "adds up both prompts"),
        ],
        hint="pi_ref exp(r / beta), then divide each row by its sum: in logarithms, subtract a logsumexp.",
    ),
    Exercise(
        name="dpo_in_practice.smoothed_loss",
        task="From the margins (B,), beta and the label smoothing give the loss of each pair, (B,).",
        difficulty=1,
        minutes=5,
        grade=_grade_smoothed_loss,
        solution=smoothed_loss,
        wrong=[
            Wrong(smoothed_the_wrong_way, "weights are swapped"),
            Wrong(smoothed_without_beta, "Beta is missing"),
            Wrong(robust, "unbiased correction of robust DPO"),
            Wrong(smoothed_in_the_sigmoid, "shrank the margin"),
        ],
        hint="With probability 1 - smoothing the label is right; otherwise the loss is that of the pair turned round.",
    ),
    Exercise(
        name="dpo_in_practice.settled_margin",
        task="With label smoothing between 0 and 0.5 the loss has a minimum at a finite margin. Give that margin in "
        "nats, from beta and the smoothing.",
        difficulty=2,
        minutes=8,
        grade=_grade_settled_margin,
        solution=settled_margin,
        wrong=[
            Wrong(settled_without_beta, "Beta is missing"),
            Wrong(settled_times_beta, "multiplied by beta"),
            Wrong(settled_of_ipo, "where IPO settles"),
            Wrong(settled_negative, "sign is flipped"),
        ],
        hint="Set the derivative to zero: the model's probability that chosen wins must equal the label's.",
    ),
    Exercise(
        name="dpo_in_practice.mean_margin",
        task="From token log-probabilities of policy and reference, (2B, T), chosen rows first, and the response mask "
        "give the margin of length-normalized DPO, (B,).",
        difficulty=2,
        minutes=8,
        grade=_grade_mean_margin,
        solution=mean_margin,
        wrong=[
            Wrong(summed_margin, "took the sums"),
            Wrong(mean_over_padding, "width of the batch"),
            Wrong(mean_without_mask, "mask is missing"),
            Wrong(mean_without_reference, "reference is missing"),
            Wrong(one_length_for_both, "divided by one length"),
        ],
        hint="A sum over the response's tokens, divided by their number, row by row; then `.chunk(2)`.",
    ),
    Exercise(
        name="dpo_in_practice.mass_moved",
        task="Rows of `before` and `after` hold the probability of every ending; what they lack to 1 is broken. Give "
        "the change of probability, averaged over rows, of: chosen, rejected, all other endings, broken.",
        difficulty=2,
        minutes=8,
        grade=_grade_mass_moved,
        solution=mass_moved,
        wrong=[
            Wrong(broken_forgotten, "Broken is always 0"),
            Wrong(broken_with_the_wrong_sign, "Broken has the wrong sign"),
            Wrong(moved_backwards, "before minus after"),
            Wrong(moved_in_logs, "subtracted logarithms"),
            Wrong(others_hold_all, "once more"),
        ],
        hint="The four numbers add up to zero.",
    ),
]
