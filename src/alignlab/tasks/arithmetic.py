"""Sums and differences of whole numbers up to 99: problems, their split, and a verifier."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from alignlab.tasks import Split, held_out

LARGEST = 99
HELD_OUT = 0.1
_EQUATION = re.compile(r"(?<!\d)(\d+) ([+-]) (\d+) = (-?\d+)")


@dataclass(frozen=True)
class Problem:
    """`left operator right`, such as 17 + 25."""

    left: int
    operator: Literal["+", "-"]
    right: int

    @property
    def value(self) -> int:
        """The right result."""
        return self.left + self.right if self.operator == "+" else self.left - self.right

    @property
    def expression(self) -> str:
        """As it is written: `17 + 25`."""
        return f"{self.left} {self.operator} {self.right}"

    @property
    def questions(self) -> tuple[str, ...]:
        """The forms in which it is asked, the usual one first."""
        return f"What is {self.expression}?", f"How much is {self.expression}?", f"Calculate {self.expression}."

    @property
    def answer(self) -> str:
        """The full answer: `17 + 25 = 42.`"""
        return f"{self.expression} = {self.value}."

    @property
    def family(self) -> tuple[int, int]:
        """The smaller and the larger of two numbers: those added, or those whose sum `left` is in a difference.

        17 + 25, 25 + 17, 42 - 17 and 42 - 25 are one family: who knows one of them can work out the others.
        """
        parts = (self.left if self.operator == "+" else self.value, self.right)
        return min(parts), max(parts)

    @property
    def split(self) -> Split:
        """Families are held out whole, so that no held-out problem is a trained one turned round."""
        return "held-out" if held_out("terms {} and {}".format(*self.family), HELD_OUT) else "train"


def problems(split: Split | None = None) -> Iterator[Problem]:
    """All sums of two numbers up to 99 and all their differences that are not negative; of one split, if given."""
    for left in range(LARGEST + 1):
        for right in range(LARGEST + 1):
            both = [Problem(left, "+", right)] + ([Problem(left, "-", right)] if right <= left else [])
            yield from (problem for problem in both if split in (None, problem.split))


def correct(problem: Problem, response: str) -> bool:
    """Whether the last number of a response is the problem's value: the verifier. No number at all is wrong."""
    numbers = re.findall(r"(?<![\w.])-?\d+", response)
    return bool(numbers) and int(numbers[-1]) == problem.value


def wrong_equations(text: str) -> list[str]:
    """The equations in a text that do not hold, as written."""
    return [
        match[0]
        for match in _EQUATION.finditer(text)
        if Problem(int(match[1]), "+" if match[2] == "+" else "-", int(match[3])).value != int(match[4])
    ]
