"""Exercises of the lab ch03_preference_data: Jaccard, MinHash, LSH, pairing, contradictions, length bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alignlab.exercises import Exercise, Wrong, require, same

Triple = tuple[str, str, str]
"""Prompt, chosen answer, rejected answer."""

TEXTS = [
    ("hello, what is 17 + 25", "what is 17 + 26"),
    ("banana", "a banana"),
    ("who are you", "who are you"),
    ("rain", "sun"),
]
_rng = np.random.default_rng(0)
SIGNATURE = _rng.integers(0, 2**31 - 1, 64)
OTHER = np.where(np.arange(64) % 4 == 0, _rng.integers(0, 2**31 - 1, 64), SIGNATURE)[np.r_[0:60, 61, 60, 63, 62]]
"""60 places keep SIGNATURE's numbers or get new ones; the last four are swapped, so that order matters."""

GROUPS = [
    (["42", "32", "41"], [1.0, 0.2, 0.4], 0.5),
    (["42", "42.", "the sum"], [0.8, 0.6, 0.5], 0.5),
    (["yes", " yes "], [1.0, 0.2], 0.5),
    (["a", "b"], [0.25, 0.75], 0.5),
]
RECORDS: list[Triple] = [
    ("1 + 1?", "2", "3"),
    ("1 + 1?", "3", "2"),
    ("1 + 1?", "2", "4"),
    ("2 + 1?", "3", "2"),
    ("1 + 1?", "2", "4"),
    ("who?", "Lumen", "Atlas"),
]
LENGTHS = ([5, 9, 12, 30, 8, 7], [9, 9, 20, 10, 11, 12])


# ---- solutions
def jaccard(a: str, b: str, n: int) -> float:
    """Shared shingles over all shingles, each counted once."""
    first = {a[i : i + n] for i in range(len(a) - n + 1)}
    second = {b[i : i + n] for i in range(len(b) - n + 1)}
    return len(first & second) / len(first | second)


def minhash(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Each place is a coin throw with head probability J: its mean, and the standard error of that mean."""
    estimate = float((first == second).mean())
    return estimate, (estimate * (1 - estimate) / len(first)) ** 0.5


def candidate(similarity: float, bands: int, rows: int) -> float:
    """One band agrees with probability J^rows; some band, unless all fail."""
    return 1 - (1 - similarity**rows) ** bands


def pair(answers: Sequence[str], scores: Sequence[float], least: float) -> tuple[str, str] | None:
    """Best against worst, if they differ as texts and by at least the margin."""
    best = max(range(len(answers)), key=lambda i: scores[i])
    worst = min(range(len(answers)), key=lambda i: scores[i])
    if scores[best] - scores[worst] < least or answers[best].strip() == answers[worst].strip():
        return None
    return answers[best], answers[worst]


def consistent(records: Sequence[Triple]) -> list[Triple]:
    """What no other record of the same prompt says the other way round."""
    said = set(records)
    return [(prompt, a, b) for prompt, a, b in records if (prompt, b, a) not in said]


def length_accuracy(chosen: Sequence[int], rejected: Sequence[int]) -> float:
    """The better of "longer wins" and "shorter wins"; where lengths are equal, both guess."""
    longer = sum((a > b) + 0.5 * (a == b) for a, b in zip(chosen, rejected, strict=True)) / len(chosen)
    return max(longer, 1 - longer)


# ---- wrong answers
def dice(a: str, b: str, n: int) -> float:
    first, second = ({t[i : i + n] for i in range(len(t) - n + 1)} for t in (a, b))
    return 2 * len(first & second) / (len(first) + len(second))


def containment(a: str, b: str, n: int) -> float:
    first, second = ({t[i : i + n] for i in range(len(t) - n + 1)} for t in (a, b))
    return len(first & second) / min(len(first), len(second))


def with_repeats(a: str, b: str, n: int) -> float:
    first, second = ([t[i : i + n] for i in range(len(t) - n + 1)] for t in (a, b))
    shared = sum(min(first.count(s), second.count(s)) for s in set(first))
    return shared / (len(first) + len(second) - shared)


def one_short(a: str, b: str, n: int) -> float:
    first, second = ({t[i : i + n] for i in range(len(t) - n)} for t in (a, b))
    return len(first & second) / len(first | second)


def as_sets(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    a, b = set(first.tolist()), set(second.tolist())
    estimate = len(a & b) / len(a | b)
    return estimate, (estimate * (1 - estimate) / len(first)) ** 0.5


def variance(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    estimate, error = minhash(first, second)
    return estimate, error**2


def one_throw(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    estimate, error = minhash(first, second)
    return estimate, error * len(first) ** 0.5


def swapped_shape(similarity: float, bands: int, rows: int) -> float:
    return 1 - (1 - similarity**bands) ** rows


def never(similarity: float, bands: int, rows: int) -> float:
    return (1 - similarity**rows) ** bands


def every_band(similarity: float, bands: int, rows: int) -> float:
    return similarity ** (rows * bands)


def expected_bands(similarity: float, bands: int, rows: int) -> float:
    return bands * similarity**rows


def without_margin(answers: Sequence[str], scores: Sequence[float], least: float) -> tuple[str, str] | None:
    return pair(answers, scores, 0.0)


def strict(answers: Sequence[str], scores: Sequence[float], least: float) -> tuple[str, str] | None:
    return pair(answers, scores, least + 1e-9)


def equal_texts(answers: Sequence[str], scores: Sequence[float], least: float) -> tuple[str, str] | None:
    best = max(range(len(answers)), key=lambda i: scores[i])
    worst = min(range(len(answers)), key=lambda i: scores[i])
    return (answers[best], answers[worst]) if scores[best] - scores[worst] >= least else None


def second_best(answers: Sequence[str], scores: Sequence[float], least: float) -> tuple[str, str] | None:
    order = sorted(range(len(answers)), key=lambda i: -scores[i])
    best, other = order[0], order[1]
    if scores[best] - scores[other] < least or answers[best].strip() == answers[other].strip():
        return None
    return answers[best], answers[other]


def worst_first(answers: Sequence[str], scores: Sequence[float], least: float) -> tuple[str, str] | None:
    found = pair(answers, scores, least)
    return (found[1], found[0]) if found else None


def first_wins(records: Sequence[Triple]) -> list[Triple]:
    kept: list[Triple] = []
    for prompt, a, b in records:
        if (prompt, b, a) not in kept:
            kept.append((prompt, a, b))
    return kept


def any_prompt(records: Sequence[Triple]) -> list[Triple]:
    said = {(a, b) for _, a, b in records}
    return [(prompt, a, b) for prompt, a, b in records if (b, a) not in said]


def no_repeats(records: Sequence[Triple]) -> list[Triple]:
    return list(dict.fromkeys(consistent(records)))


def only_contradictions(records: Sequence[Triple]) -> list[Triple]:
    return [record for record in records if record not in consistent(records)]


def longer_only(chosen: Sequence[int], rejected: Sequence[int]) -> float:
    return sum((a > b) + 0.5 * (a == b) for a, b in zip(chosen, rejected, strict=True)) / len(chosen)


def ties_ignored(chosen: Sequence[int], rejected: Sequence[int]) -> float:
    longer = sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(chosen)
    return max(longer, 1 - longer)


def by_mean(chosen: Sequence[int], rejected: Sequence[int]) -> float:
    return sum(chosen) / (sum(chosen) + sum(rejected))


# ---- graders
def _grade_jaccard(answer: Callable[..., Any]) -> None:
    for a, b in TEXTS:
        for n in (2, 3):
            mistakes = {
                "Twice the shared over the sum of the sizes is Dice's measure; Jaccard divides by the union.": dice(
                    a, b, n
                ),
                "That divides by the smaller set (containment); Jaccard divides by the union.": containment(a, b, n),
                "A shingle that occurs twice is counted twice; both sides are sets.": with_repeats(a, b, n),
                "The last shingle is missing: a text of length L has L - n + 1 of them.": one_short(a, b, n),
            }
            same(answer(a, b, n), jaccard(a, b, n), f"your similarity of {a!r} and {b!r} (n = {n})", mistakes=mistakes)


def _grade_minhash(answer: Callable[..., Any]) -> None:
    got = answer(SIGNATURE.copy(), OTHER.copy())
    require(
        isinstance(got, tuple | list) and len(got) == 2,
        f"your answer is a {type(got).__name__}; return two numbers, the estimate and its standard error",
    )
    mistakes = {
        "The signatures are compared as sets; only equal numbers in the same place count.": as_sets(SIGNATURE, OTHER),
        "Your error is the variance of the mean; take its square root.": variance(SIGNATURE, OTHER),
        "Your error is that of a single throw; divide by the square root of k.": one_throw(SIGNATURE, OTHER),
    }
    same(got, minhash(SIGNATURE, OTHER), "your (estimate, error)", mistakes=mistakes)


def _grade_candidate(answer: Callable[..., Any]) -> None:
    for similarity, bands, rows in ((0.7, 32, 4), (0.5, 20, 5), (0.9, 8, 16)):
        mistakes = {
            "Bands and rows are exchanged: a band holds `rows` numbers, and all of them must agree.": swapped_shape(
                similarity, bands, rows
            ),
            "That is the probability that no band agrees; take 1 minus it.": never(similarity, bands, rows),
            "That asks all bands to agree; one is enough.": every_band(similarity, bands, rows),
            "That is the expected number of agreeing bands; it can exceed 1.": expected_bands(similarity, bands, rows),
        }
        same(
            answer(similarity, bands, rows),
            candidate(similarity, bands, rows),
            f"your probability at J = {similarity}, {bands} bands of {rows}",
            mistakes=mistakes,
        )


def _grade_pair(answer: Callable[..., Any]) -> None:
    for answers, scores, least in GROUPS:
        got, want = answer(list(answers), list(scores), least), pair(answers, scores, least)
        shown = f"For {answers} with scores {scores} and least margin {least}"
        if want is None:
            require(
                got is None or scores != GROUPS[2][1],
                f"{shown}: the two texts are equal but for blanks, so there is nothing to prefer; return None.",
            )
            require(got is None, f"{shown}: the margin is too small, so return None; you returned {got}.")
            continue
        require(got is not None, f"{shown}: a margin of exactly the least is enough; expected {want}, got None.")
        require(isinstance(got, tuple | list) and len(got) == 2, f"{shown}: return (chosen, rejected), not {got!r}.")
        require(tuple(got) != (want[1], want[0]), f"{shown}: chosen and rejected are swapped; the best comes first.")
        require(got[1] == want[1], f"{shown}: rejected is not the worst one; got {got[1]!r}, not {want[1]!r}.")
        require(tuple(got) == want, f"{shown}: expected {want}, got {tuple(got)}.")


def _grade_consistent(answer: Callable[..., Any]) -> None:
    got = answer(list(RECORDS))
    require(isinstance(got, list | tuple), f"your answer is a {type(got).__name__}; return a list of records")
    got = [tuple(record) for record in got]
    require(got != only_contradictions(RECORDS), "These are the contradictions; return what is left without them.")
    require(
        got != first_wins(RECORDS),
        "The first of two contradicting records stays: nothing says that the first is the right one; drop both.",
    )
    require(
        got != any_prompt(RECORDS),
        "A record is dropped because of another prompt's: a contradiction needs the same prompt.",
    )
    require(
        got != no_repeats(RECORDS),
        "A record that says the same twice was dropped too: a repetition is no contradiction.",
    )
    require(got == consistent(RECORDS), f"expected {consistent(RECORDS)}, got {got}")


def _grade_length(answer: Callable[..., Any]) -> None:
    for chosen, rejected in (LENGTHS, LENGTHS[::-1]):
        mistakes = {
            'Only "longer wins" is tried; "shorter wins" may be the better rule.': longer_only(chosen, rejected),
            "Equal lengths are not counted as half: there the rule can only guess.": ties_ignored(chosen, rejected),
            "That compares total lengths; count pairs.": by_mean(chosen, rejected),
        }
        same(
            answer(list(chosen), list(rejected)), length_accuracy(chosen, rejected), "your accuracy", mistakes=mistakes
        )


EXERCISES = [
    Exercise(
        name="preference_data.jaccard",
        task="Give the Jaccard similarity of two texts from their shingles of n characters.",
        difficulty=1,
        minutes=4,
        grade=_grade_jaccard,
        solution=jaccard,
        wrong=[
            Wrong(dice, "Dice's measure"),
            Wrong(containment, "containment"),
            Wrong(with_repeats, "counted twice"),
            Wrong(one_short, "last shingle is missing"),
        ],
        hint="Two sets, `a & b` and `a | b`.",
    ),
    Exercise(
        name="preference_data.minhash",
        task="From two signatures (k,), give the estimate of J and its estimated standard error.",
        difficulty=2,
        minutes=5,
        grade=_grade_minhash,
        solution=minhash,
        wrong=[
            Wrong(as_sets, "compared as sets"),
            Wrong(variance, "square root."),
            Wrong(one_throw, "single throw"),
        ],
        hint="k throws of a coin: the share of heads, and the standard error of a share.",
    ),
    Exercise(
        name="preference_data.candidate",
        task="Give the probability that LSH makes a pair of similarity J a candidate, with b bands of r rows.",
        difficulty=2,
        minutes=5,
        grade=_grade_candidate,
        solution=candidate,
        wrong=[
            Wrong(swapped_shape, "exchanged"),
            Wrong(never, "no band agrees"),
            Wrong(every_band, "all bands to agree"),
            Wrong(expected_bands, "expected number"),
        ],
        hint="When does no band agree?",
    ),
    Exercise(
        name="preference_data.pair",
        task="From answers, scores and a least margin, give (chosen, rejected), or None if there is no preference.",
        difficulty=2,
        minutes=6,
        grade=_grade_pair,
        solution=pair,
        wrong=[
            Wrong(without_margin, "margin is too small"),
            Wrong(strict, "exactly the least"),
            Wrong(equal_texts, "equal but for blanks"),
            Wrong(second_best, "not the worst one"),
            Wrong(worst_first, "swapped"),
        ],
        hint="Best and worst, then two reasons to return None.",
    ),
    Exercise(
        name="preference_data.consistent",
        task="Drop every record (prompt, chosen, rejected) that another one contradicts, and keep the others in order.",
        difficulty=2,
        minutes=6,
        grade=_grade_consistent,
        solution=consistent,
        wrong=[
            Wrong(first_wins, "drop both"),
            Wrong(any_prompt, "same prompt"),
            Wrong(no_repeats, "no contradiction"),
            Wrong(only_contradictions, "These are the contradictions"),
        ],
        hint="Is (prompt, rejected, chosen) among the records?",
    ),
    Exercise(
        name="preference_data.length_accuracy",
        task="Give how often length alone names the chosen answer: the better of two rules, ties counted as half.",
        difficulty=1,
        minutes=5,
        grade=_grade_length,
        solution=length_accuracy,
        wrong=[
            Wrong(longer_only, "shorter wins"),
            Wrong(ties_ignored, "counted as half"),
            Wrong(by_mean, "total lengths"),
        ],
        hint="If one rule is right in a share p of the pairs, the other is right in 1 - p.",
    ),
]
