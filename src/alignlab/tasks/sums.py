"""Sums of several numbers: problems, chains of thought that solve them, and a verifier of every step."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

from alignlab.tasks import Split, arithmetic, held_out

SMALLEST, LARGEST = 2, 40
_STEP = re.compile(r"(?<!\d)(?=(\d+) \+ (\d+) = (\d+)(?!\d))")  # a result may be the next left side

Mark = Literal["right", "slip", "stray"]
"""Of a step: right; a slip, where the equation is wrong; stray, where it adds a number that is not on the table."""


@dataclass(frozen=True)
class Sum:
    """A sum of two or more numbers, such as 17 + 25 + 8."""

    terms: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.terms) < 2:
            raise ValueError(f"a sum needs two terms or more, not {self.terms}")

    @property
    def value(self) -> int:
        """The right result."""
        return sum(self.terms)

    @property
    def expression(self) -> str:
        """As it is written: `17 + 25 + 8`."""
        return " + ".join(map(str, self.terms))

    @property
    def question(self) -> str:
        """As it is asked: `What is 17 + 25 + 8?`"""
        return f"What is {self.expression}?"

    @property
    def split(self) -> Split:
        """Held out if two of its terms are a pair that `arithmetic` holds out: no order of adding shows that pair."""
        pairs = combinations(sorted(self.terms), 2)
        return "held-out" if any(held_out(f"terms {a} and {b}", arithmetic.HELD_OUT) for a, b in pairs) else "train"

    def chain(self, order: Sequence[int] | None = None) -> str:
        """A running total of the terms in an order (of their places): `17 + 25 = 42 + 8 = 50.`

        Each equals sign is about the two numbers before it, as one writes it on a slip of paper.
        """
        first, *rest = (self.terms[place] for place in (range(len(self.terms)) if order is None else order))
        said, total = str(first), first
        for term in rest:
            total += term
            said += f" + {term} = {total}"
        return f"{said}."


def draw(rng: random.Random, terms: int, split: Split, largest: int = LARGEST) -> Sum:
    """A random sum of so many different numbers of that split."""
    while True:
        problem = Sum(tuple(rng.sample(range(SMALLEST, largest + 1), terms)))
        if problem.split == split:
            return problem


class Step(NamedTuple):
    """One equation of a chain, as written, and what is wrong with it, if anything."""

    left: int
    right: int
    result: int
    mark: Mark


def steps(problem: Sum, text: str) -> list[Step]:
    """The steps of a chain, each marked by rule.

    On the table lie the problem's terms. A step takes two numbers from it and puts back the result that it claims, so
    that a slip is marked once, and what follows from it is not.
    """
    table, found = Counter(problem.terms), []
    for match in _STEP.finditer(text):
        left, right, result = map(int, match.groups())
        taken = Counter([left, right])
        stray = any(table[number] < count for number, count in taken.items())
        table = (table - taken) + Counter([result])
        found.append(Step(left, right, result, "stray" if stray else "right" if left + right == result else "slip"))
    return found


def sound(problem: Sum, text: str) -> bool:
    """Whether a chain proves its answer: every step is right, and no number but the answer is left on the table."""
    found, last = steps(problem, text), answer(text)
    used_up = len(found) == len(problem.terms) - 1
    return used_up and all(step.mark == "right" for step in found) and last == found[-1].result


def answer(text: str) -> int | None:
    """The last number of a text; None if it has none."""
    numbers = re.findall(r"\d+", text)
    return int(numbers[-1]) if numbers else None
