"""Exercises of the lab ch04_chain_of_thought: reading an answer, voting, what votes are worth, checking, searching."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import comb
from statistics import median
from typing import Any

from alignlab.exercises import Exercise, Mistake, Wrong, require, same

Candidates = Sequence[tuple[str, float]]


# ---- solutions
def final_answer(text: str) -> int | None:
    """A chain ends with its answer, so the last number counts."""
    numbers = re.findall(r"\d+", text)
    return int(numbers[-1]) if numbers else None


def majority(answers: Sequence[int | None]) -> int | None:
    """Who gave no answer does not vote. most_common keeps the order in which equals were first seen."""
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def vote_accuracy(p: float, n: int) -> float:
    """More than half of n must be right: a sum of binomial probabilities."""
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n // 2 + 1, n + 1))


def next_table(table: Sequence[int], step: tuple[int, int, int]) -> list[int] | None:
    """A step takes two numbers from the table, which must lie there, and puts their sum back."""
    left, right, result = step
    rest = list(table)
    for number in (left, right):
        if number not in rest:
            return None
        rest.remove(number)
    return [*rest, result] if left + right == result else None


def keep_best(candidates: Candidates, b: int) -> list[str]:
    """sorted is stable, so the earlier of equals stays in front; a state counts once."""
    best: dict[str, float] = {}
    for text, value in candidates:
        best[text] = max(value, best.get(text, value))
    return sorted(best, key=lambda text: -best[text])[:b]


# ---- wrong answers
def first_number(text: str) -> int | None:
    numbers = re.findall(r"\d+", text)
    return int(numbers[0]) if numbers else None


def last_digit(text: str) -> int | None:
    numbers = re.findall(r"\d", text)
    return int(numbers[-1]) if numbers else None


def zero_for_none(text: str) -> int:
    return final_answer(text) or 0


def none_votes(answers: Sequence[int | None]) -> int | None:
    return Counter(answers).most_common(1)[0][0]


def the_middle(answers: Sequence[int | None]) -> int | None:
    given = [answer for answer in answers if answer is not None]
    return int(median(given)) if given else None


def latest_of_equals(answers: Sequence[int | None]) -> int | None:
    return majority(answers[::-1])


def any_right(p: float, n: int) -> float:
    return 1 - (1 - p) ** n


def without_counting(p: float, n: int) -> float:
    return sum(p**k * (1 - p) ** (n - k) for k in range(n // 2 + 1, n + 1))


def one_short(p: float, n: int) -> float:
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n // 2, n + 1))


def uses_twice(table: Sequence[int], step: tuple[int, int, int]) -> list[int] | None:
    left, right, result = step
    if left not in table or right not in table or left + right != result:
        return None
    return [number for number in table if number not in (left, right)] + [result]


def trusts_the_result(table: Sequence[int], step: tuple[int, int, int]) -> list[int] | None:
    rest = next_table(table, (step[0], step[1], step[0] + step[1]))
    return None if rest is None else [*rest[:-1], step[2]]


def leaves_the_terms(table: Sequence[int], step: tuple[int, int, int]) -> list[int] | None:
    return None if next_table(table, step) is None else [*table, step[2]]


def ascending(candidates: Candidates, b: int) -> list[str]:
    return [text for text, _ in sorted(candidates, key=lambda one: one[1])][:b]


def with_doubles(candidates: Candidates, b: int) -> list[str]:
    return [text for text, _ in sorted(candidates, key=lambda one: -one[1])][:b]


def unsorted_beam(candidates: Candidates, b: int) -> list[str]:
    return list(dict.fromkeys(text for text, _ in candidates))[:b]


# ---- graders
TEXTS = ("17 + 25 = 42, 42 + 8 = 50, so 50.", "so 7 it is, or rather 107", "I do not know.", "0")


def _grade_final_answer(answer: Callable[..., Any]) -> None:
    for text in TEXTS:
        got, want = answer(text), final_answer(text)
        require(
            got is not None or want is None, f"{text!r} has a number, and you returned None: is a `return` missing?"
        )
        if want is None:
            require(got is None, f"{text!r} has no number: return None. Any number would be counted as an answer.")
            continue
        require(
            isinstance(got, int), f"for {text!r} you returned {got!r}; return an int, so that answers can be compared"
        )
        require(
            got != first_number(text) or got == want,
            f"You took the first number of {text!r}. A chain ends with its answer: take the last one.",
        )
        require(
            got != last_digit(text) or got == want,
            f"For {text!r} you found {got}, a single digit: match runs of digits, `\\d+`.",
        )
        require(got == want, f"for {text!r} you returned {got!r}; it should be {want}")


BALLOTS: tuple[list[int | None], ...] = (
    [41, 42, 43, 42],
    [None, None, None, 42, 41, 42],
    [41, 41, 42, 42],
    [10, 90, 90, 20, 30],
    [None, None],
)


def _grade_majority(answer: Callable[..., Any]) -> None:
    for ballot in BALLOTS:
        got, want = answer(list(ballot)), majority(ballot)
        if got == want:
            continue
        if got is None and None in ballot:
            raise Mistake(f"With {ballot} you elected None. A chain without an answer has no vote.")
        if want is not None and got == the_middle(ballot) and ballot.count(got) < ballot.count(want):
            raise Mistake(f"With {ballot} you gave the middle answer. Answers are names here: count them.")
        if ballot.count(got) == ballot.count(want):
            raise Mistake(f"In {ballot} {got} and {want} tie; of equals the earliest wins, so that runs repeat.")
        raise Mistake(f"With {ballot} you elected {got!r}; the most votes are for {want!r}.")


def _grade_vote_accuracy(answer: Callable[..., Any]) -> None:
    for p, n in ((0.6, 7), (0.4, 5), (0.9, 3), (0.7, 1)):
        mistakes = {
            "That is the chance that any one vote is right (pass@n). A majority needs more than half.": any_right(p, n),
            "You count one order of the votes only: k right ones come in C(n, k) ways.": without_counting(p, n),
            "You begin at n // 2, and half of an odd number, rounded down, is no majority.": one_short(p, n),
        }
        same(answer(p, n), vote_accuracy(p, n), f"your chance for p = {p}, n = {n}", mistakes=mistakes)


TABLES: tuple[tuple[list[int], tuple[int, int, int]], ...] = (
    ([17, 25, 8], (17, 25, 42)),
    ([17, 25, 8], (25, 9, 34)),
    ([17, 25, 8], (8, 8, 16)),
    ([17, 25, 8], (17, 25, 43)),
    ([8, 8, 5], (8, 8, 16)),
    ([8, 8, 5], (8, 5, 13)),
)


def _grade_next_table(answer: Callable[..., Any]) -> None:
    for table, step in TABLES:
        got, want = answer(list(table), step), next_table(table, step)
        got = None if got is None else sorted(got)
        want = None if want is None else sorted(want)
        if got == want:
            continue
        where = f"table {table}, step {step[0]} + {step[1]} = {step[2]}"
        if want is None and step[0] + step[1] != step[2]:
            raise Mistake(f"{where}: you accepted a step whose result is wrong.")
        if got == sorted([*table, step[2]]):
            raise Mistake(f"{where}: the two terms still lie on the table. They are used up.")
        loose = uses_twice(table, step)
        if got == (None if loose is None else sorted(loose)):
            raise Mistake(f"{where}: count how often a number lies there. One 8 cannot be taken twice, two 8s can.")
        raise Mistake(f"{where}: you returned {got}; it should be {want}.")


STATES: list[tuple[str, float]] = [("a", -1.0), ("b", -0.2), ("b", -0.2), ("c", -3.0), ("d", -0.2), ("e", -0.7)]


def _grade_keep_best(answer: Callable[..., Any]) -> None:
    for b in (2, 3, 10):
        got, want = answer(list(STATES), b), keep_best(STATES, b)
        require(got is not None, "your answer is None: is a `return` missing?")
        got = list(got)
        if got == want:
            continue
        if got == ascending(STATES, b):
            raise Mistake("You keep the worst: log-probabilities are negative, and the largest is nearest to 0.")
        if len(set(got)) < len(got):
            raise Mistake(f"With b = {b} you keep {got}. The same state twice is a place of the frontier wasted.")
        if got == unsorted_beam(STATES, b):
            raise Mistake(f"With b = {b} you keep {got}, in the order proposed. Sort by value first.")
        raise Mistake(f"With b = {b} you keep {got}; it should be {want}.")


EXERCISES = [
    Exercise(
        name="chain_of_thought.final_answer",
        task="Return the last whole number of a text as an int, or None if it holds none.",
        difficulty=1,
        minutes=3,
        grade=_grade_final_answer,
        solution=final_answer,
        wrong=[
            Wrong(first_number, "took the first number"),
            Wrong(last_digit, "a single digit"),
            Wrong(zero_for_none, "has no number: return None"),
        ],
        hint="`re.findall(r'\\d+', text)` lists all runs of digits, and an empty list is false.",
    ),
    Exercise(
        name="chain_of_thought.majority",
        task="Return the answer with the most votes. None is no vote; of equals the earliest wins; no votes give None.",
        difficulty=1,
        minutes=4,
        grade=_grade_majority,
        solution=majority,
        wrong=[
            Wrong(none_votes, "has no vote"),
            Wrong(the_middle, "gave the middle answer"),
            Wrong(latest_of_equals, "the earliest wins"),
        ],
        hint="`Counter.most_common` lists equals in the order in which it met them.",
    ),
    Exercise(
        name="chain_of_thought.vote_accuracy",
        task="n chains (n odd) are right independently with probability p, and all wrong ones agree on one answer. "
        "What is the chance that the majority is right?",
        difficulty=2,
        minutes=6,
        grade=_grade_vote_accuracy,
        solution=vote_accuracy,
        wrong=[
            Wrong(any_right, "(pass@n)"),
            Wrong(without_counting, "one order of the votes"),
            Wrong(one_short, "is no majority"),
        ],
        hint="Sum the binomial probabilities of k right votes over k from (n + 1) / 2 to n.",
    ),
    Exercise(
        name="chain_of_thought.next_table",
        task="Check a step (left, right, result) against the numbers on the table: return the table after it, in any "
        "order, or None if a number is not there or the sum is wrong.",
        difficulty=2,
        minutes=8,
        grade=_grade_next_table,
        solution=next_table,
        wrong=[
            Wrong(uses_twice, "cannot be taken twice"),
            Wrong(trusts_the_result, "whose result is wrong"),
            Wrong(leaves_the_terms, "They are used up"),
        ],
        hint="Copy the list and `remove` each term from the copy; what is not in it any more was not there.",
    ),
    Exercise(
        name="chain_of_thought.keep_best",
        task="The selection of tree of thoughts: from (state, value) pairs return the b best different states, best "
        "first, the earlier first among equals.",
        difficulty=2,
        minutes=6,
        grade=_grade_keep_best,
        solution=keep_best,
        wrong=[
            Wrong(ascending, "keep the worst"),
            Wrong(with_doubles, "place of the frontier wasted"),
            Wrong(unsorted_beam, "in the order proposed"),
        ],
        hint="A dict keeps one value per state and the order of first insertion; `sorted` is stable.",
    ),
]
