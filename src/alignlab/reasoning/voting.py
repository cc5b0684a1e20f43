"""Voting over answers: the winner, and exactly how often it is right for a number of votes.

Knows answers as labels and their counts or probabilities; nothing about models or texts.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import comb, factorial
from typing import TypeVar

Answer = TypeVar("Answer", bound=Hashable)


def majority(answers: Sequence[Answer | None], weights: Sequence[float] | None = None) -> Answer | None:
    """The answer with the most votes, the earliest of equals; None where there is none. Wang et al. (2022), section 2.

    answers: one a chain, None where a chain has no answer: it has no vote. weights: of each vote, 1 if not given.
    """
    if weights is not None and len(weights) != len(answers):
        raise ValueError(f"{len(answers)} answers have {len(weights)} weights; give one each")
    votes: dict[Answer, float] = {}
    for answer, weight in zip(answers, weights or [1.0] * len(answers), strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0.0) + weight
    return max(votes, key=votes.__getitem__) if votes else None


def vote_accuracy(shares: Mapping[Answer, float], right: Answer, votes: int) -> float:
    """Chance that the majority of `votes` independent answers is right; a tie is broken by lot.

    shares: probability of each answer, which sum to 1. With many votes this goes to 1 where the right answer is the
    likeliest, and to 0 where another one is: voting estimates the mode.
    """
    total = sum(shares.values())
    if abs(total - 1) > 1e-6 or min(shares.values(), default=0) < 0:
        raise ValueError(f"the shares sum to {total:g}; give probabilities that sum to 1")

    def ways(answer: Answer, times: int) -> float:
        return float(shares[answer] ** times / factorial(times))

    return _chance(list(shares), right, votes, ways) * factorial(votes)


def vote_at_n(counts: Mapping[Answer, int], right: Answer, votes: int) -> float:
    """Share of all subsets of `votes` samples whose majority is right; a tie counts as the chance of its lot.

    counts: how often each answer occurs among the samples of one problem. Unbiased for `vote_accuracy`, as pass@k of
    Chen et al. (2021), eq. 1, is for the chance that one of k is right. ValueError for more votes than samples.
    """
    samples = sum(counts.values())
    if votes > samples:
        raise ValueError(f"{votes} votes need as many samples; there are {samples}")

    def ways(answer: Answer, times: int) -> float:
        return comb(counts[answer], times)

    return _chance(list(counts), right, votes, ways) / comb(samples, votes)


def _chance(answers: Sequence[Answer], right: Answer, votes: int, ways: Callable[[Answer, int], float]) -> float:
    """Sum over all outcomes in which `right` has the most votes, each divided by the size of its tie.

    ways(answer, times): the factor of an answer that gets `times` votes. For a number of votes of the right answer,
    no other may have more: their outcomes are counted by a polynomial in (votes used, answers tied with it).
    """
    if votes < 1:
        raise ValueError(f"there are {votes} votes; give at least one")
    if right not in answers:
        return 0.0
    total = 0.0
    for most in range(1, votes + 1):
        if not (mine := ways(right, most)):
            continue
        table = {(most, 0): mine}
        for other in answers:
            if other == right:
                continue
            grown: dict[tuple[int, int], float] = {}
            for (used, tied), value in table.items():
                for times in range(min(most, votes - used) + 1):
                    if factor := ways(other, times):
                        key = (used + times, tied + (times == most))
                        grown[key] = grown.get(key, 0.0) + value * factor
            table = grown
        total += sum(value / (tied + 1) for (used, tied), value in table.items() if used == votes)
    return total
