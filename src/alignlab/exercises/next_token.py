"""Exercises of the lab ch04_next_token: temperature, entropy, top-p and min-p on the logits of one position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Mistake, Wrong, require, same

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, 3.0, 0.0], dtype=torch.float64)
"""Unsorted on purpose: an answer that forgets to go back to the vocabulary's order cannot pass."""


# ---- solutions
def temperature(logits: Tensor, t: float) -> Tensor:
    """Divide the logits, then normalize."""
    return (logits / t).softmax(-1)


def entropy(logits: Tensor) -> Tensor:
    """A cut token has p = 0 and log p = -inf: it adds nothing, and 0 * inf must not become nan."""
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0)).sum(-1)


def top_p(logits: Tensor, p: float) -> Tensor:
    """A token stays while the tokens above it hold less than p."""
    probs, order = logits.softmax(-1).sort(descending=True)
    mass_above = probs.cumsum(-1) - probs
    cut = order[mass_above >= p]
    return logits.index_fill(-1, cut, -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """p_i >= p * max p means z_i >= max z + log p: the normalizer drops out."""
    return logits.masked_fill(logits < logits.max() + torch.tensor(p).log(), -torch.inf)


# ---- wrong answers
def divides_probabilities(logits: Tensor, t: float) -> Tensor:
    return logits.softmax(-1) / t


def multiplies_logits(logits: Tensor, t: float) -> Tensor:
    return (logits * t).softmax(-1)


def leaves_logits(logits: Tensor, t: float) -> Tensor:
    return logits / t


def nan_entropy(logits: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return -(p * p.log()).sum(-1)


def entropy_in_bits(logits: Tensor) -> Tensor:
    return entropy(logits) / torch.tensor(2.0).log()


def negative_entropy(logits: Tensor) -> Tensor:
    return -entropy(logits)


def drops_the_crossing_token(logits: Tensor, p: float) -> Tensor:
    probs, order = logits.softmax(-1).sort(descending=True)
    return logits.index_fill(-1, order[probs.cumsum(-1) >= p], -torch.inf)


def forgets_to_unsort(logits: Tensor, p: float) -> Tensor:
    probs, _ = logits.softmax(-1).sort(descending=True)
    return logits.masked_fill(probs.cumsum(-1) - probs >= p, -torch.inf)


def keeps_the_unlikely(logits: Tensor, p: float) -> Tensor:
    probs, order = logits.softmax(-1).sort()
    return logits.index_fill(-1, order[probs.cumsum(-1) - probs >= p], -torch.inf)


def absolute_threshold(logits: Tensor, p: float) -> Tensor:
    return logits.masked_fill(logits.softmax(-1) < p, -torch.inf)


def compares_logits(logits: Tensor, p: float) -> Tensor:
    return logits.masked_fill(logits < p * logits.max(), -torch.inf)


def zeroes_the_cut(logits: Tensor, p: float) -> Tensor:
    return logits.masked_fill(min_p(logits, p) == -torch.inf, 0)


# ---- graders
def _grade_temperature(answer: Callable[..., Any]) -> None:
    for t in (2.0, 0.5):
        mistakes = {
            "You divided the probabilities. Divide the logits, before the softmax.": divides_probabilities(LOGITS, t),
            "You multiplied by the temperature: above 1 yours sharpens, and it should flatten.": multiplies_logits(
                LOGITS, t
            ),
            "You returned logits; the task asks for probabilities, which sum to 1.": leaves_logits(LOGITS, t),
        }
        same(
            answer(LOGITS.clone(), t),
            temperature(LOGITS, t),
            f"your distribution at temperature {t}",
            mistakes=mistakes,
        )


def _grade_entropy(answer: Callable[..., Any]) -> None:
    for logits in (LOGITS, top_p(LOGITS, 0.8)):
        got = answer(logits.clone())
        require(got is not None, "your answer is None: is a `return` missing?")
        require(
            not torch.as_tensor(got).isnan().any(),
            "Yours is not a number where a token is cut: 0 times log 0 must count as 0.",
        )
        mistakes = {
            "Yours is in bits. Nats use the natural logarithm.": entropy_in_bits(logits),
            "The sign is flipped: entropy is never negative.": negative_entropy(logits),
        }
        same(got, entropy(logits), "your entropy", mistakes=mistakes)


def _grade_top_p(answer: Callable[..., Any]) -> None:
    for p in (0.8, 0.5, 0.95):
        mistakes = {
            "The token that crosses p is missing: what you kept holds less than p.": _kept(
                drops_the_crossing_token(LOGITS, p)
            ),
            "The mask is still in sorted order: take it back to the order of the vocabulary.": _kept(
                forgets_to_unsort(LOGITS, p)
            ),
            "You filled the set from the least likely end; begin with the likeliest.": _kept(
                keeps_the_unlikely(LOGITS, p)
            ),
        }
        _same_cut(answer(LOGITS.clone(), p), top_p(LOGITS, p), f"with p = {p}", mistakes)


def _grade_min_p(answer: Callable[..., Any]) -> None:
    for p in (0.1, 0.3):
        got = answer(LOGITS.clone(), p)
        mistakes = {
            "You compared each probability with p itself; compare it with p times the largest.": _kept(
                absolute_threshold(LOGITS, p)
            ),
            "You scaled the largest logit. The rule is about probabilities: p becomes log p next to a logit.": _kept(
                compares_logits(LOGITS, p)
            ),
        }
        if torch.is_tensor(got) and got.shape == LOGITS.shape and not got.isinf().any():
            raise Mistake("Nothing is cut: a cut logit is -inf. A logit of 0 still has weight, because exp(0) = 1.")
        _same_cut(got, min_p(LOGITS, p), f"with p = {p}", mistakes)


def _kept(logits: Tensor) -> Tensor:
    return (logits > -torch.inf).double()


def _same_cut(got: Any, want: Tensor, where: str, mistakes: dict[str, Tensor]) -> None:
    require(torch.is_tensor(got), f"your answer is a {type(got).__name__}; return logits as a tensor")
    same(_kept(got), _kept(want), f"what you keep (1 kept, 0 cut) {where}", mistakes=mistakes)
    same(
        got[want > -torch.inf], want[want > -torch.inf], f"the logits that you keep {where}, which should be unchanged,"
    )


EXERCISES = [
    Exercise(
        name="next_token.temperature",
        task="Turn logits (V,) and a temperature above 0 into probabilities (V,).",
        difficulty=1,
        minutes=3,
        grade=_grade_temperature,
        solution=temperature,
        wrong=[
            Wrong(divides_probabilities, "divided the probabilities"),
            Wrong(multiplies_logits, "multiplied by the temperature"),
            Wrong(leaves_logits, "returned logits"),
        ],
        hint="`p_i` is proportional to `exp(z_i / t)`.",
    ),
    Exercise(
        name="next_token.entropy",
        task="Compute the entropy in nats of softmax(logits), where some logits are -inf; give a finite number.",
        difficulty=2,
        minutes=5,
        grade=_grade_entropy,
        solution=entropy,
        wrong=[
            Wrong(nan_entropy, "not a number where a token is cut"),
            Wrong(entropy_in_bits, "in bits"),
            Wrong(negative_entropy, "sign is flipped"),
        ],
        hint="`log_softmax` gives -inf for a cut token. Make it finite before you multiply by p = 0.",
    ),
    Exercise(
        name="next_token.top_p",
        task="Cut logits (V,) to the smallest set of likeliest tokens that holds at least p; cut tokens become -inf.",
        difficulty=2,
        minutes=8,
        grade=_grade_top_p,
        solution=top_p,
        wrong=[
            Wrong(drops_the_crossing_token, "crosses p is missing"),
            Wrong(forgets_to_unsort, "sorted order"),
            Wrong(keeps_the_unlikely, "least likely end"),
        ],
        hint="Sort, and look at the mass *above* each token: cumulative sum minus the token's own probability.",
    ),
    Exercise(
        name="next_token.min_p",
        task="Keep tokens of logits (V,) at least p times as likely as the likeliest; cut tokens become -inf.",
        difficulty=2,
        minutes=5,
        grade=_grade_min_p,
        solution=min_p,
        wrong=[
            Wrong(absolute_threshold, "compared each probability with p itself"),
            Wrong(compares_logits, "scaled the largest logit"),
            Wrong(zeroes_the_cut, "Nothing is cut"),
        ],
        hint="A ratio of probabilities is a difference of logits: `log(p_i / p_max) = z_i - z_max`.",
    ),
]
