"""Exercises of the lab ch04_decoding: length penalty, one beam step, n-grams, contrastive scores, an exact product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

FINISHED = torch.tensor([-4.0, -6.0, -9.0, -3.5], dtype=torch.float64)
LENGTHS = torch.tensor([2, 4, 9, 1])
TOTALS = torch.tensor([-1.0, -3.0, -1.4], dtype=torch.float64)
LOGPROBS = torch.tensor(
    [[0.45, 0.35, 0.1, 0.06, 0.04], [0.9, 0.05, 0.03, 0.01, 0.01], [0.1, 0.6, 0.15, 0.1, 0.05]], dtype=torch.float64
).log()
"""Three beams, five tokens. The second beam is sure of its token and far behind: its own best is not among the best."""

PROBS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
STATES = torch.tensor([[3.0, 0.3], [0.4, 0.5], [0.2, -2.0]], dtype=torch.float64)
PAST = torch.tensor([[2.0, 0.0], [4.0, 2.0], [-0.5, 0.1]], dtype=torch.float64)

STEPS = torch.tensor(
    [[2.0, 1.0, 0.5, -1.0], [0.0, 0.4, 1.5, 1.0], [3.0, 2.9, -2.0, 0.0]], dtype=torch.float64
)  # logits of three positions, four tokens


# ---- solutions
def length_penalty(logprobs: Tensor, lengths: Tensor, alpha: float) -> Tensor:
    """A log-probability is negative: the larger the divisor, the better the score."""
    return logprobs / lengths**alpha


def beam_step(totals: Tensor, logprobs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """All W * V continuations compete; a place in the flattened table is parent * V + token."""
    best = (totals[:, None] + logprobs).flatten().topk(count)
    vocabulary = logprobs.shape[1]
    return best.indices // vocabulary, best.indices % vocabulary, best.values


def no_repeat(ids: Sequence[int], n: int) -> set[int]:
    """What followed an earlier occurrence of the last n - 1 tokens."""
    last = list(ids[len(ids) - n + 1 :])
    return {ids[at + n - 1] for at in range(len(ids) - n + 1) if list(ids[at : at + n - 1]) == last}


def contrastive(probs: Tensor, states: Tensor, past: Tensor, alpha: float) -> Tensor:
    """The penalty is the largest cosine to any state so far."""
    cosines = F.normalize(states, dim=-1) @ F.normalize(past, dim=-1).T
    return (1 - alpha) * probs - alpha * cosines.amax(-1)


def text_probability(logits: Tensor, ids: Sequence[int], k: int) -> Tensor:
    """Cut each position's distribution, renormalize it, take the token's share; multiply."""
    least = logits.topk(k).values[:, -1:]
    probs = logits.masked_fill(logits < least, -torch.inf).softmax(-1)
    return probs[torch.arange(len(ids)), torch.tensor(ids)].prod()


# ---- wrong answers
def multiplies_by_length(logprobs: Tensor, lengths: Tensor, alpha: float) -> Tensor:
    return logprobs * lengths**alpha


def ignores_alpha(logprobs: Tensor, lengths: Tensor, alpha: float) -> Tensor:
    return logprobs / lengths


def subtracts_length(logprobs: Tensor, lengths: Tensor, alpha: float) -> Tensor:
    return logprobs - alpha * lengths


def forgets_the_past(totals: Tensor, logprobs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    return beam_step(torch.zeros_like(totals), logprobs, count)


def one_for_each_beam(totals: Tensor, logprobs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    best = (totals[:, None] + logprobs).max(-1)
    order = best.values.argsort(descending=True)[:count]
    return order, best.indices[order], best.values[order]


def divides_by_width(totals: Tensor, logprobs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    best = (totals[:, None] + logprobs).flatten().topk(count)
    return best.indices % len(totals), best.indices // len(totals), best.values


def one_token_more(ids: Sequence[int], n: int) -> set[int]:
    return no_repeat(ids, n + 1)


def everything_seen(ids: Sequence[int], n: int) -> set[int]:
    return set(ids)


def only_the_last_token(ids: Sequence[int], n: int) -> set[int]:
    return no_repeat(ids, 2)


def mean_similarity(probs: Tensor, states: Tensor, past: Tensor, alpha: float) -> Tensor:
    cosines = F.normalize(states, dim=-1) @ F.normalize(past, dim=-1).T
    return (1 - alpha) * probs - alpha * cosines.mean(-1)


def inner_product(probs: Tensor, states: Tensor, past: Tensor, alpha: float) -> Tensor:
    return (1 - alpha) * probs - alpha * (states @ past.T).amax(-1)


def rewards_similarity(probs: Tensor, states: Tensor, past: Tensor, alpha: float) -> Tensor:
    return 2 * (1 - alpha) * probs - contrastive(probs, states, past, alpha)


def does_not_renormalize(logits: Tensor, ids: Sequence[int], k: int) -> Tensor:
    least = logits.topk(k).values[:, -1:]
    probs = logits.softmax(-1).masked_fill(logits < least, 0)
    return probs[torch.arange(len(ids)), torch.tensor(ids)].prod()


def cuts_nothing(logits: Tensor, ids: Sequence[int], k: int) -> Tensor:
    return logits.softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].prod()


def gives_the_logarithm(logits: Tensor, ids: Sequence[int], k: int) -> Tensor:
    return text_probability(logits, ids, k).log()


# ---- graders
def _grade_length_penalty(answer: Callable[..., Any]) -> None:
    for alpha in (0.5, 2.0, 0.0, 1.0):
        mistakes = {
            "You multiplied by the power of the length: a long text then falls behind, and it should catch up.": (
                multiplies_by_length(FINISHED, LENGTHS, alpha)
            ),
            "You divided by the length itself: alpha is the exponent.": ignores_alpha(FINISHED, LENGTHS, alpha),
            "You subtracted alpha for each token; the penalty is a divisor.": subtracts_length(
                FINISHED, LENGTHS, alpha
            ),
        }
        same(
            answer(FINISHED.clone(), LENGTHS.clone(), alpha),
            length_penalty(FINISHED, LENGTHS, alpha),
            f"your scores at alpha = {alpha}",
            mistakes=mistakes,
        )


def _grade_beam_step(answer: Callable[..., Any]) -> None:
    got = answer(TOTALS.clone(), LOGPROBS.clone(), 3)
    require(got is not None, "your answer is None: is a `return` missing?")
    require(isinstance(got, tuple | list) and len(got) == 3, "return three tensors: parents, tokens, totals")
    want = beam_step(TOTALS, LOGPROBS, 3)
    known = {
        "You left out what the beams had before: add each beam's total to its row.": forgets_the_past,
        "You took the best of each beam. One beam may have several places, and another none.": one_for_each_beam,
        "Parent and token are mixed up: a flattened place is parent * V + token.": divides_by_width,
    }
    for message, wrong in known.items():
        pairs = zip(got, wrong(TOTALS, LOGPROBS, 3), strict=True)
        alike = all(
            torch.is_tensor(a) and a.shape == b.shape and torch.allclose(a.double(), b.double()) for a, b in pairs
        )
        require(not alike, message)
    for at, name in enumerate(("parents", "tokens", "totals")):
        same(got[at], want[at], f"your {name}")


def _grade_no_repeat(answer: Callable[..., Any]) -> None:
    for ids, n in (
        ([1, 2, 3, 4, 2, 3, 1, 2, 3], 3),
        ([5, 6, 5, 7, 5], 2),
        ([1, 2, 3, 9, 4, 3, 5, 2, 3], 3),
        ([4, 4, 2], 1),
        ([1, 2], 4),
    ):
        got = answer(list(ids), n)
        require(got is not None, "your answer is None: is a `return` missing?")
        require(isinstance(got, set | frozenset | list | tuple), "return the banned tokens as a set")
        found, want = set(got), no_repeat(ids, n)
        if found == want:
            continue
        known = {
            "You asked for n tokens in a row before the banned one; n counts the banned one, too.": one_token_more,
            "You banned every token seen. Only what would repeat n tokens in a row is banned.": everything_seen,
            "You compared the last token only; compare the last n - 1.": only_the_last_token,
        }
        for message, wrong in known.items():
            require(found != wrong(ids, n), message)
        require(False, f"after {ids} with n = {n} you ban {sorted(found)}; it should be {sorted(want)}")


def _grade_contrastive(answer: Callable[..., Any]) -> None:
    for alpha in (0.6, 0.3):
        mistakes = {
            "You took the mean similarity; the penalty is the largest one.": mean_similarity(
                PROBS, STATES, PAST, alpha
            ),
            "You compared inner products: divide by both lengths, for a cosine.": inner_product(
                PROBS, STATES, PAST, alpha
            ),
            "The penalty's sign is flipped: yours rewards repetition.": rewards_similarity(PROBS, STATES, PAST, alpha),
        }
        same(
            answer(PROBS.clone(), STATES.clone(), PAST.clone(), alpha),
            contrastive(PROBS, STATES, PAST, alpha),
            f"your scores at alpha = {alpha}",
            mistakes=mistakes,
        )


def _grade_text_probability(answer: Callable[..., Any]) -> None:
    first = answer(STEPS.clone(), [0, 2, 1], 2)
    require(first is not None, "your answer is None: is a `return` missing?")
    in_logs = gives_the_logarithm(STEPS, [0, 2, 1], 2)
    require(
        abs(float(first) - float(in_logs)) > 1e-6, "Yours is the log-probability; the task asks for the probability."
    )
    outside = {
        "A text with a token that is cut has probability above 0 in yours: nothing is cut.": cuts_nothing(
            STEPS, [3, 2, 1], 2
        )
    }
    same(
        answer(STEPS.clone(), [3, 2, 1], 2), 0.0, "the probability of a text with a token that is cut", mistakes=outside
    )
    for ids, k in (([0, 2, 1], 2), ([1, 3, 0], 3)):
        mistakes = {
            "You cut, and left the rest as it was: what is kept must sum to 1 again at each position.": (
                does_not_renormalize(STEPS, ids, k)
            )
        }
        same(
            answer(STEPS.clone(), list(ids), k),
            text_probability(STEPS, ids, k),
            f"the probability of {ids} with k = {k}",
            mistakes=mistakes,
        )


EXERCISES = [
    Exercise(
        name="decoding.length_penalty",
        task="Score finished texts from their log-probabilities (N,), their lengths (N,) and the exponent alpha.",
        difficulty=1,
        minutes=3,
        grade=_grade_length_penalty,
        solution=length_penalty,
        wrong=[
            Wrong(multiplies_by_length, "multiplied by the power"),
            Wrong(ignores_alpha, "alpha is the exponent"),
            Wrong(subtracts_length, "a divisor"),
        ],
        hint="score = log-probability / length^alpha.",
    ),
    Exercise(
        name="decoding.beam_step",
        task=(
            "From beams' totals (W,) and next-token log-probabilities (W, V), return parents, tokens and totals, each "
            "(count,), of the best continuations of all."
        ),
        difficulty=2,
        minutes=8,
        grade=_grade_beam_step,
        solution=beam_step,
        wrong=[
            Wrong(forgets_the_past, "what the beams had before"),
            Wrong(one_for_each_beam, "the best of each beam"),
            Wrong(divides_by_width, "Parent and token are mixed up"),
        ],
        hint="Add, flatten to (W * V,), take topk, and turn each place back into a row and a column.",
    ),
    Exercise(
        name="decoding.no_repeat",
        task="Return the set of tokens that must not come next, so that no n tokens in a row occur twice in ids.",
        difficulty=2,
        minutes=6,
        grade=_grade_no_repeat,
        solution=no_repeat,
        wrong=[
            Wrong(one_token_more, "n counts the banned one"),
            Wrong(everything_seen, "banned every token seen"),
            Wrong(only_the_last_token, "the last token only"),
        ],
        hint="Find each earlier place where the last n - 1 tokens stand; the token after it is banned.",
    ),
    Exercise(
        name="decoding.contrastive",
        task=(
            "Score k candidates: probabilities (k,), their states (k, H), the states so far (T, H), alpha. The best "
            "score is chosen next."
        ),
        difficulty=2,
        minutes=6,
        grade=_grade_contrastive,
        solution=contrastive,
        wrong=[
            Wrong(mean_similarity, "mean similarity"),
            Wrong(inner_product, "inner products"),
            Wrong(rewards_similarity, "sign is flipped"),
        ],
        hint="(1 - alpha) p minus alpha times the largest cosine.",
    ),
    Exercise(
        name="decoding.text_probability",
        task="The probability that top-k sampling draws the tokens ids (T,), from the logits (T, V) at their places.",
        difficulty=2,
        minutes=6,
        grade=_grade_text_probability,
        solution=text_probability,
        wrong=[
            Wrong(does_not_renormalize, "must sum to 1 again"),
            Wrong(cuts_nothing, "nothing is cut"),
            Wrong(gives_the_logarithm, "the log-probability"),
        ],
        hint="At each position: cut, softmax, pick the token. Then the product.",
    ),
]
