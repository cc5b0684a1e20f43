"""Exercises of the lab ch04_rag: pooling, BM25, fusion of rankings, unsupported numbers, and when to say nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.exercises import Exercise, Mistake, Wrong, require, same


# ---- solutions
def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """The mask leaves the padding out of sum and count."""
    mask = mask[..., None]
    return F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def bm25_word(tf: Tensor, lengths: Tensor, k1: float, b: float) -> Tensor:
    """df is the number of documents that hold the word at all."""
    n, df = len(tf), int((tf > 0).sum())
    idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
    return idf * tf / (tf + k1 * (1 - b + b * lengths / lengths.mean()))


def fuse(ranks: Tensor, k: float) -> Tensor:
    """A document that a ranking does not hold has rank 0 here, and gets nothing from it."""
    return torch.where(ranks > 0, 1 / (k + ranks), torch.zeros(())).sum(0)


def unsupported(answer: str, passages: Sequence[str]) -> list[str]:
    """Whole numbers are compared, so that 4 is not supported by 42."""
    known = set(re.findall(r"\d+", " ".join(passages)))
    return [number for number in re.findall(r"\d+", answer) if number not in known]


def expected_score(confidence: Tensor, t: float) -> Tensor:
    """Answer where that is worth more than the 0 of "I don't know": exactly where the confidence exceeds t."""
    return (confidence - (1 - confidence) * t / (1 - t)).clamp(min=0)


# ---- wrong answers
def pools_padding(states: Tensor, mask: Tensor) -> Tensor:
    return F.normalize(states.mean(1), dim=-1)


def divides_by_all(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(1) / states.shape[1]


def takes_the_first(states: Tensor, mask: Tensor) -> Tensor:
    return F.normalize(states[:, 0], dim=-1)


def leaves_length(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def without_idf(tf: Tensor, lengths: Tensor, k1: float, b: float) -> Tensor:
    return tf / (tf + k1 * (1 - b + b * lengths / lengths.mean()))


def without_length(tf: Tensor, lengths: Tensor, k1: float, b: float) -> Tensor:
    return bm25_word(tf, torch.ones_like(lengths), k1, b)


def never_saturates(tf: Tensor, lengths: Tensor, k1: float, b: float) -> Tensor:
    n, df = len(tf), int((tf > 0).sum())
    return tf * math.log(1 + (n - df + 0.5) / (df + 0.5))


def counts_occurrences(tf: Tensor, lengths: Tensor, k1: float, b: float) -> Tensor:
    n, df = len(tf), int(tf.sum())
    idf = math.log(1 + max(n - df + 0.5, 0) / (df + 0.5))
    return idf * tf / (tf + k1 * (1 - b + b * lengths / lengths.mean()))


def rewards_absence(ranks: Tensor, k: float) -> Tensor:
    return (1 / (k + ranks)).sum(0)


def without_k(ranks: Tensor, k: float) -> Tensor:
    return torch.where(ranks > 0, 1 / ranks.clamp(min=1), torch.zeros(())).sum(0)


def from_zero(ranks: Tensor, k: float) -> Tensor:
    return torch.where(ranks > 0, 1 / (k + ranks - 1), torch.zeros(())).sum(0)


def substring(answer: str, passages: Sequence[str]) -> list[str]:
    text = " ".join(passages)
    return [number for number in re.findall(r"\d+", answer) if number not in text]


def first_passage(answer: str, passages: Sequence[str]) -> list[str]:
    return unsupported(answer, passages[:1])


def supported(answer: str, passages: Sequence[str]) -> list[str]:
    known = set(re.findall(r"\d+", " ".join(passages)))
    return [number for number in re.findall(r"\d+", answer) if number in known]


def answers_always(confidence: Tensor, t: float) -> Tensor:
    return confidence - (1 - confidence) * t / (1 - t)


def fears_nothing(confidence: Tensor, t: float) -> Tensor:
    return torch.where(confidence > t, confidence, torch.zeros(()))


def pays_t(confidence: Tensor, t: float) -> Tensor:
    return (confidence - (1 - confidence) * t).clamp(min=0)


def odds_turned(confidence: Tensor, t: float) -> Tensor:
    return (confidence - (1 - confidence) * (1 - t) / t).clamp(min=0)


# ---- graders
def _grade_pool(answer: Callable[..., Any]) -> None:
    states = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).float()
    mistakes = {
        "Padding is in the mean: the same text would get another vector beside a longer one.": pools_padding(
            states, mask
        ),
        "You divided by the length of the row, padding included. Count the mask instead.": divides_by_all(states, mask),
        "That is the first token's vector. This encoder was trained with the mean.": takes_the_first(states, mask),
        "The length is not 1, so an inner product would not be the cosine.": leaves_length(states, mask),
    }
    same(answer(states, mask), mean_pool(states, mask), "your vectors", mistakes=mistakes)


def _grade_bm25(answer: Callable[..., Any]) -> None:
    tf, lengths = torch.tensor([3.0, 1.0, 0.0, 0.0, 1.0, 0.0]), torch.tensor([12.0, 4.0, 9.0, 20.0, 30.0, 15.0])
    for k1, b in ((1.5, 0.75), (0.9, 0.4)):
        mistakes = {
            "The idf is missing: a word of every document would count as much as a rare one.": without_idf(
                tf, lengths, k1, b
            ),
            "The documents' lengths are not used: divide each by the mean length.": without_length(tf, lengths, k1, b),
            "The third occurrence counts as much as the first: tf must saturate.": never_saturates(tf, lengths, k1, b),
            "df counts documents that hold the word, not its occurrences.": counts_occurrences(tf, lengths, k1, b),
        }
        same(answer(tf.clone(), lengths.clone(), k1, b), bm25_word(tf, lengths, k1, b), "your scores", 1e-5, mistakes)


def _grade_fuse(answer: Callable[..., Any]) -> None:
    ranks = torch.tensor([[1.0, 2.0, 3.0, 0.0], [0.0, 1.0, 0.0, 2.0]])
    for k in (60.0, 1.0, 2.0):
        mistakes = {
            "A document that a ranking does not hold got a share from it: rank 0 means absent.": rewards_absence(
                ranks, k
            ),
            "k is missing: the first of one ranking would beat all that both agree on.": without_k(ranks, k),
            "Ranks begin at 1 here; you made the first one 0.": from_zero(ranks, k),
        }
        same(answer(ranks.clone(), k), fuse(ranks, k), f"your scores at k = {k:g}", mistakes=mistakes)


def _grade_unsupported(answer: Callable[..., Any]) -> None:
    cases = [
        ("Built in 1874, 41 metres high.", ["The tower was built in 1874.", "It is 41 metres high."], []),
        ("It has 4 keepers and 12 lamps.", ["The tower has 42 windows.", "It has 12 lamps."], ["4"]),
        ("In 1902, then 1911.", ["Nothing is known."], ["1902", "1911"]),
    ]
    for text, passages, want in cases:
        got = answer(text, list(passages))
        require(isinstance(got, list | tuple), "Give a list of numbers, as strings, in the answer's order.")
        got = [str(number) for number in got]
        if got == want:
            continue
        if got == substring(text, passages):
            raise Mistake("You looked for the digits inside other numbers: 4 is not supported by 42.")
        if got == first_passage(text, passages):
            raise Mistake("You read the first passage alone; any of them may support a number.")
        if got == supported(text, passages):
            raise Mistake("These are the numbers that the passages do hold; the task asks for the others.")
        raise Mistake(f"For {text!r} and {passages} yours is {got}; it should be {want}.")


def _grade_score(answer: Callable[..., Any]) -> None:
    confidence = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.9, 1.0])
    for t in (0.75, 0.4):
        mistakes = {
            "Below t an answer costs more than it brings: say nothing there, for 0.": answers_always(confidence, t),
            "You know when to answer, but a wrong answer still costs t / (1 - t).": fears_nothing(confidence, t),
            "A wrong answer costs t / (1 - t), not t.": pays_t(confidence, t),
            "The odds are turned round: a wrong answer costs t / (1 - t), not (1 - t) / t.": odds_turned(confidence, t),
        }
        same(answer(confidence.clone(), t), expected_score(confidence, t), f"your scores at t = {t}", 1e-5, mistakes)


EXERCISES = [
    Exercise(
        name="rag.mean_pool",
        task="Give the sentence embeddings (B, d), of length 1, from token vectors (B, T, d) and a mask (B, T) that is "
        "1 on tokens and 0 on padding.",
        difficulty=1,
        minutes=5,
        grade=_grade_pool,
        solution=mean_pool,
        wrong=[
            Wrong(pools_padding, "Padding is in the mean"),
            Wrong(divides_by_all, "Count the mask"),
            Wrong(takes_the_first, "first token's vector"),
            Wrong(leaves_length, "would not be the cosine"),
        ],
        hint="`mask[..., None]` has the shape (B, T, 1). It belongs into the sum and into the count.",
    ),
    Exercise(
        name="rag.bm25_word",
        task="Give the BM25 scores (N,) that one word adds to N documents: tf (N,) is how often each holds it, lengths "
        "(N,) their words.",
        difficulty=2,
        minutes=8,
        grade=_grade_bm25,
        solution=bm25_word,
        wrong=[
            Wrong(without_idf, "idf is missing"),
            Wrong(without_length, "lengths are not used"),
            Wrong(never_saturates, "must saturate"),
            Wrong(counts_occurrences, "not its occurrences"),
        ],
        hint="`idf * tf / (tf + k1 * (1 - b + b * lengths / lengths.mean()))`, where df is `(tf > 0).sum()`.",
    ),
    Exercise(
        name="rag.fuse",
        task="Give the fused scores (N,) of N documents from their ranks (R, N) in R rankings, counted from 1, 0 where "
        "a ranking does not hold the document.",
        difficulty=1,
        minutes=5,
        grade=_grade_fuse,
        solution=fuse,
        wrong=[
            Wrong(rewards_absence, "rank 0 means absent"),
            Wrong(without_k, "k is missing"),
            Wrong(from_zero, "Ranks begin at 1"),
        ],
        hint="`torch.where(ranks > 0, ..., 0)` before the sum.",
    ),
    Exercise(
        name="rag.unsupported",
        task="Give the whole numbers in an answer, as strings and in its order, that stand in none of the passages.",
        difficulty=1,
        minutes=5,
        grade=_grade_unsupported,
        solution=unsupported,
        wrong=[
            Wrong(substring, "inside other numbers"),
            Wrong(first_passage, "first passage alone"),
            Wrong(supported, "asks for the others"),
        ],
        hint="`re.findall` with digits on both sides, then compare sets and not strings.",
    ),
    Exercise(
        name="rag.expected_score",
        task="A right answer earns 1, a wrong one costs t / (1 - t), silence gives 0. Give the expected score of the "
        "best behaviour at each confidence (N,).",
        difficulty=2,
        minutes=6,
        grade=_grade_score,
        solution=expected_score,
        wrong=[
            Wrong(answers_always, "say nothing there"),
            Wrong(fears_nothing, "still costs"),
            Wrong(pays_t, "not t."),
            Wrong(odds_turned, "odds are turned round"),
        ],
        hint="Write what an answer is worth at confidence p, and compare it with 0. Where does it cross?",
    ),
]
