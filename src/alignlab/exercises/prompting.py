"""Exercises of the lab ch04_prompting: label scores, their calibration, two questions of statistics and one of cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, same

Z = 1.96
LOGITS = torch.tensor(
    [[0.5, 2.0, -1.0, 0.0], [1.0, 0.0, 0.5, 3.0], [0.2, 0.1, 2.5, -0.5], [2.0, 1.0, 0.0, 1.5], [0.0, 0.3, 0.6, 0.9]],
    dtype=torch.float64,
)
"""Logits (T, V) of five positions over four tokens."""

IDS = [2, 1, 3, 0, 2]
PROBS = torch.tensor([[0.55, 0.40, 0.05], [0.70, 0.10, 0.20], [0.30, 0.40, 0.30]], dtype=torch.float64)
CONTENT_FREE = torch.tensor([0.60, 0.30, 0.10], dtype=torch.float64)
OLD = [True] * 12 + [False] * 4 + [True] * 60 + [False] * 24
NEW = [False] * 12 + [True] * 4 + [True] * 60 + [False] * 24
"""Outcomes of two prompts on 100 items: 12 right with the old alone, 4 with the new alone."""


# ---- solutions
def label_score(logits: Tensor, ids: Sequence[int], start: int) -> Tensor:
    """The logits at position t - 1 predict the token at t."""
    logprobs = logits.log_softmax(-1)
    return sum((logprobs[t - 1, ids[t]] for t in range(start, len(ids))), torch.zeros((), dtype=logits.dtype))


def calibrate(probs: Tensor, content_free: Tensor) -> Tensor:
    """What the prompt alone would say is divided out; then each row is made to sum to 1."""
    ratio = probs / content_free
    return ratio / ratio.sum(-1, keepdim=True)


def wilson(right: int, total: int) -> tuple[float, float]:
    """All p with |right / total - p| <= z sqrt(p (1 - p) / total): the roots of a quadratic."""
    share, shrink = right / total, 1 + Z**2 / total
    middle = (share + Z**2 / (2 * total)) / shrink
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)) / shrink
    return middle - half, middle + half


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Where the two agree, nothing is learned. Where they differ, a fair coin would decide."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    differ, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(differ, k) for k in range(fewer + 1)) / 2**differ)


def break_even(shot_tokens: int, trained_tokens: int, cached: float) -> float:
    """4 N a trained token (frozen weights get no gradient of their own), 2 N a shot token that must be read."""
    return 4 * trained_tokens / (2 * shot_tokens * (1 - cached))


# ---- wrong answers
def score_not_shifted(logits: Tensor, ids: Sequence[int], start: int) -> Tensor:
    logprobs = logits.log_softmax(-1)
    return sum((logprobs[t, ids[t]] for t in range(start, len(ids))), torch.zeros((), dtype=logits.dtype))


def score_mean(logits: Tensor, ids: Sequence[int], start: int) -> Tensor:
    return label_score(logits, ids, start) / (len(ids) - start)


def score_of_logits(logits: Tensor, ids: Sequence[int], start: int) -> Tensor:
    return sum((logits[t - 1, ids[t]] for t in range(start, len(ids))), torch.zeros((), dtype=logits.dtype))


def score_with_prompt(logits: Tensor, ids: Sequence[int], start: int) -> Tensor:
    return label_score(logits, ids, 1)


def score_first_token(logits: Tensor, ids: Sequence[int], start: int) -> Tensor:
    return label_score(logits, ids[: start + 1], start)


def calibrate_by_product(probs: Tensor, content_free: Tensor) -> Tensor:
    product = probs * content_free
    return product / product.sum(-1, keepdim=True)


def calibrate_unnormalized(probs: Tensor, content_free: Tensor) -> Tensor:
    return probs / content_free


def calibrate_by_difference(probs: Tensor, content_free: Tensor) -> Tensor:
    return probs - content_free


def calibrate_by_batch(probs: Tensor, content_free: Tensor) -> Tensor:
    return calibrate(probs, probs.mean(0))


def calibrate_over_rows(probs: Tensor, content_free: Tensor) -> Tensor:
    ratio = probs / content_free
    return ratio / ratio.sum(0, keepdim=True)


def wald(right: int, total: int) -> tuple[float, float]:
    share = right / total
    half = Z * math.sqrt(share * (1 - share) / total)
    return share - half, share + half


def wilson_not_shrunk(right: int, total: int) -> tuple[float, float]:
    low, high = wilson(right, total)
    shrink = 1 + Z**2 / total
    return low * shrink, high * shrink


def wilson_one_sigma(right: int, total: int) -> tuple[float, float]:
    share, shrink = right / total, 1 + 1 / total
    middle, half = (share + 1 / (2 * total)) / shrink, math.sqrt(share * (1 - share) / total + 1 / (4 * total**2))
    return middle - half / shrink, middle + half / shrink


def one_sided(first: Sequence[bool], second: Sequence[bool]) -> float:
    return mcnemar(first, second) / 2


def strictly_below(first: Sequence[bool], second: Sequence[bool]) -> float:
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    differ, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(differ, k) for k in range(fewer)) / 2**differ)


def point_probability(first: Sequence[bool], second: Sequence[bool]) -> float:
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    differ = only_first + only_second
    return min(1.0, 2 * math.comb(differ, min(only_first, only_second)) / 2**differ)


def all_items(first: Sequence[bool], second: Sequence[bool]) -> float:
    total, fewer = len(first), sum(b and not a for a, b in zip(first, second, strict=True))
    return min(1.0, 2 * sum(math.comb(total, k) for k in range(fewer + 1)) / 2**total)


def unpaired(first: Sequence[bool], second: Sequence[bool]) -> float:
    n, a, b = len(first), sum(first) / len(first), sum(second) / len(second)
    pooled = (a + b) / 2
    if pooled in (0, 1):
        return 1.0
    return math.erfc(abs(a - b) / math.sqrt(2 * pooled * (1 - pooled) / n) / math.sqrt(2))


def full_training(shot_tokens: int, trained_tokens: int, cached: float) -> float:
    return 6 * trained_tokens / (2 * shot_tokens * (1 - cached))


def forward_only(shot_tokens: int, trained_tokens: int, cached: float) -> float:
    return trained_tokens / (shot_tokens * (1 - cached))


def pays_for_cached(shot_tokens: int, trained_tokens: int, cached: float) -> float:
    return 2 * trained_tokens / (shot_tokens * cached)


def ignores_cache(shot_tokens: int, trained_tokens: int, cached: float) -> float:
    return 2 * trained_tokens / shot_tokens


def inverted(shot_tokens: int, trained_tokens: int, cached: float) -> float:
    return shot_tokens * (1 - cached) / (2 * trained_tokens)


# ---- graders
def _grade_label_score(answer: Callable[..., Any]) -> None:
    for start in (3, 2):
        given = LOGITS, IDS, start
        mistakes = {
            "You read each token's score at its own position; the logits at t - 1 predict token t.": score_not_shifted(
                *given
            ),
            "You took the mean over the label's tokens. The log-probability of a sequence is the sum.": score_mean(
                *given
            ),
            "Logits are not log-probabilities: take log_softmax over the vocabulary first.": score_of_logits(*given),
            "The prompt's own tokens are in your sum; begin with the label's first one.": score_with_prompt(*given),
            "That is the label's first token alone; the others count too.": score_first_token(*given),
        }
        same(
            answer(LOGITS.clone(), list(IDS), start),
            label_score(*given),
            f"your score of the label from position {start}",
            mistakes=mistakes,
        )


def _grade_calibrate(answer: Callable[..., Any]) -> None:
    given = PROBS, CONTENT_FREE
    mistakes = {
        "You multiplied by the prompt's own leaning, which makes it count twice. Divide.": calibrate_by_product(*given),
        "Your rows do not sum to 1.": calibrate_unnormalized(*given),
        "You subtracted. Contextual calibration divides: a label twice as likely without content counts half.": (
            calibrate_by_difference(*given)
        ),
        "You divided by the mean over the inputs; that assumes that all labels are equally frequent there.": (
            calibrate_by_batch(*given)
        ),
        "You normalized over the inputs. Each row, the labels of one input, sums to 1.": calibrate_over_rows(*given),
    }
    same(answer(PROBS.clone(), CONTENT_FREE.clone()), calibrate(*given), "your probabilities", mistakes=mistakes)


def _grade_wilson(answer: Callable[..., Any]) -> None:
    for right, total in ((90, 120), (20, 20)):
        mistakes = {
            "That is p ± z sqrt(p (1 - p) / n): it takes the measured share's own error, and has no width at 100%.": (
                wald(right, total)
            ),
            "The factor 1 / (1 + z² / n) is missing.": wilson_not_shrunk(right, total),
            "Your z is 1, which holds 68%. For 95% it is 1.96.": wilson_one_sigma(right, total),
        }
        same(answer(right, total), wilson(right, total), f"your interval for {right} of {total}", mistakes=mistakes)


def _grade_mcnemar(answer: Callable[..., Any]) -> None:
    for first, second in ((OLD, NEW), (NEW, OLD), ([True, False, True, False], [False, True, True, False])):
        mistakes = {
            "That is one side. A difference to either side would have surprised you: double it.": one_sided(
                first, second
            ),
            "The tail must hold what you saw as well: sum up to the smaller count, itself included.": strictly_below(
                first, second
            ),
            "That is the probability of exactly this split; add those that are more extreme.": point_probability(
                first, second
            ),
            "Items on which both agree say nothing about which is better: leave them out.": all_items(first, second),
            "You compared two shares as if other items had been used for each; the items are the same.": unpaired(
                first, second
            ),
        }
        same(answer(list(first), list(second)), mcnemar(first, second), "your p-value", mistakes=mistakes)


def _grade_break_even(answer: Callable[..., Any]) -> None:
    for given in ((150, 12_000, 0.25), (150, 12_000, 0.9)):
        mistakes = {
            "6 N a token is for training all weights. LoRA's frozen weights need no gradient: 4 N.": full_training(
                *given
            ),
            "You counted the forward pass of training alone; the backward pass costs as much again.": forward_only(
                *given
            ),
            "Your shots cost nothing when they are *not* cached. Only the share 1 - cached is read anew.": (
                pays_for_cached(*given)
            ),
            "Cached requests do not read the shots again: their share costs nothing here.": ignores_cache(*given),
            "You have the cost of a request over that of training; turn it round.": inverted(*given),
        }
        same(
            answer(*given),
            break_even(*given),
            f"your number of requests at a cached share of {given[2]}",
            mistakes=mistakes,
        )


EXERCISES = [
    Exercise(
        name="prompting.label_score",
        task="Give log p(label | prompt) from the logits (T, V) of a text whose tokens are ids (T,), and whose label "
        "begins at position `start`.",
        difficulty=2,
        minutes=6,
        grade=_grade_label_score,
        solution=label_score,
        wrong=[
            Wrong(score_not_shifted, "at its own position"),
            Wrong(score_mean, "took the mean"),
            Wrong(score_of_logits, "Logits are not log-probabilities"),
            Wrong(score_with_prompt, "prompt's own tokens"),
            Wrong(score_first_token, "first token alone"),
        ],
        hint="`log_softmax` over the vocabulary; then for each label token the entry one position earlier.",
    ),
    Exercise(
        name="prompting.calibrate",
        task="Calibrate the probabilities (N, K) of K labels by those (K,) of an input without content.",
        difficulty=1,
        minutes=5,
        grade=_grade_calibrate,
        solution=calibrate,
        wrong=[
            Wrong(calibrate_by_product, "makes it count twice"),
            Wrong(calibrate_unnormalized, "do not sum to 1"),
            Wrong(calibrate_by_difference, "You subtracted"),
            Wrong(calibrate_by_batch, "mean over the inputs"),
            Wrong(calibrate_over_rows, "normalized over the inputs"),
        ],
        hint="`q` is proportional to `p / p_cf`, row by row.",
    ),
    Exercise(
        name="prompting.wilson",
        task="Give the 95% Wilson interval (low, high) of a share: `right` of `total`, z = 1.96.",
        difficulty=2,
        minutes=8,
        grade=_grade_wilson,
        solution=wilson,
        wrong=[
            Wrong(wald, "has no width at 100%"),
            Wrong(wilson_not_shrunk, "is missing"),
            Wrong(wilson_one_sigma, "holds 68%"),
        ],
        hint="Middle `(s + z²/2n) / (1 + z²/n)`; half width `z sqrt(s(1-s)/n + z²/4n²) / (1 + z²/n)`.",
    ),
    Exercise(
        name="prompting.mcnemar",
        task="Give McNemar's exact two-sided p-value of two prompts from their outcomes on the same items.",
        difficulty=3,
        minutes=10,
        grade=_grade_mcnemar,
        solution=mcnemar,
        wrong=[
            Wrong(one_sided, "That is one side"),
            Wrong(strictly_below, "itself included"),
            Wrong(point_probability, "exactly this split"),
            Wrong(all_items, "leave them out"),
            Wrong(unpaired, "as if other items"),
        ],
        hint="Count the items that one prompt alone has right. Under chance they split like coins: use `math.comb`.",
    ),
    Exercise(
        name="prompting.break_even",
        task="After how many requests has a LoRA fine-tune on `trained_tokens` tokens cost fewer FLOPs than reading "
        "`shot_tokens` tokens of examples with each request, if a share `cached` of the requests finds them cached?",
        difficulty=2,
        minutes=6,
        grade=_grade_break_even,
        solution=break_even,
        wrong=[
            Wrong(full_training, "for training all weights"),
            Wrong(forward_only, "forward pass of training alone"),
            Wrong(pays_for_cached, "*not* cached"),
            Wrong(ignores_cache, "do not read the shots again"),
            Wrong(inverted, "turn it round"),
        ],
        hint="A token read costs `2 N`, one trained on with frozen weights `4 N`; N cancels.",
    ),
]
