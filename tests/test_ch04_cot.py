"""Section 4.2: votes against brute force, the verifier of chains against wrong ones, the page's worked numbers."""

import itertools
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch04_cot  # noqa: E402

from alignlab.reasoning.voting import majority, vote_accuracy, vote_at_n  # noqa: E402
from alignlab.tasks import sums  # noqa: E402

PAGE = re.sub(r"\s+", " ", (BOOK / "ch04_training_free" / "chain_of_thought.md").read_text(encoding="utf-8"))

Shares = Mapping[str, float]


# ---- votes


def by_enumeration(shares: Shares, right: str, votes: int) -> float:
    """Every sequence of votes, its probability, and the right answer's part of the win."""
    chance = 0.0
    for cast in itertools.product(shares, repeat=votes):
        counts = Counter(cast)
        if counts[right] == max(counts.values()):
            tied = sum(count == counts[right] for count in counts.values())
            chance += math.prod(shares[name] for name in cast) / tied
    return chance


def by_subsets(samples: list[str], right: str, votes: int) -> float:
    """Every subset of the samples."""
    wins = []
    for subset in itertools.combinations(samples, votes):
        counts = Counter(subset)
        tied = [name for name, count in counts.items() if count == max(counts.values())]
        wins.append((right in tied) / len(tied))
    return sum(wins) / len(wins)


SHARES: list[Shares] = [
    {"50": 0.6, "40": 0.3, "49": 0.1},
    {"50": 0.3, "40": 0.5, "49": 0.2},
    {"50": 0.25, "a": 0.25, "b": 0.25, "c": 0.25},
    {"50": 1.0},
]
SAMPLES = ["50", "40", "50", "49", "40", "50", "48", "40"]


def check_vote_accuracy(accuracy: Callable[[Shares, str, int], float]) -> None:
    for shares in SHARES:
        for votes in range(1, 7):
            assert accuracy(shares, "50", votes) == pytest.approx(by_enumeration(shares, "50", votes)), (shares, votes)


def check_vote_at_n(accuracy: Callable[[Mapping[str, int], str, int], float]) -> None:
    for right in ("50", "40", "48"):
        for votes in range(1, len(SAMPLES) + 1):
            want = by_subsets(SAMPLES, right, votes)
            assert accuracy(Counter(SAMPLES), right, votes) == pytest.approx(want), (right, votes)


def test_the_accuracy_of_a_vote_equals_an_enumeration_of_all_votes() -> None:
    check_vote_accuracy(vote_accuracy)


def test_vote_at_n_equals_a_count_over_all_subsets() -> None:
    check_vote_at_n(vote_at_n)


def _any_right(shares: Shares, right: str, votes: int) -> float:
    return 1 - (1 - shares.get(right, 0.0)) ** votes


def _needs_more_than_half(shares: Shares, right: str, votes: int) -> float:
    p = shares[right]
    return sum(math.comb(votes, k) * p**k * (1 - p) ** (votes - k) for k in range(votes // 2 + 1, votes + 1))


def _ties_are_won(shares: Shares, right: str, votes: int) -> float:
    chance = 0.0
    for cast in itertools.product(shares, repeat=votes):
        counts = Counter(cast)
        chance += (counts[right] == max(counts.values())) * math.prod(shares[name] for name in cast)
    return chance


WRONG_ACCURACY: dict[str, Callable[[Shares, str, int], float]] = {
    "pass@n": _any_right,
    "more than half instead of most": _needs_more_than_half,
    "a tie counts as won": _ties_are_won,
    "a tie counts as lost": lambda shares, right, votes: (
        2 * vote_accuracy(shares, right, votes) - _ties_are_won(shares, right, votes)
    ),
    "one vote, whatever their number": lambda shares, right, votes: shares[right],
}
WRONG_AT_N: dict[str, Callable[[Mapping[str, int], str, int], float]] = {
    "pass@k": lambda counts, right, votes: (
        1 - math.comb(sum(counts.values()) - counts[right], votes) / math.comb(sum(counts.values()), votes)
    ),
    "drawn with replacement": lambda counts, right, votes: vote_accuracy(
        {name: count / sum(counts.values()) for name, count in counts.items()}, right, votes
    ),
    "the winner of all samples": lambda counts, right, votes: float(
        max(counts, key=lambda name: counts[name]) == right
    ),
}


@pytest.mark.parametrize("name", WRONG_ACCURACY)
def test_a_wrong_accuracy_of_a_vote_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_vote_accuracy(WRONG_ACCURACY[name])


@pytest.mark.parametrize("name", WRONG_AT_N)
def test_a_wrong_vote_at_n_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_vote_at_n(WRONG_AT_N[name])


def test_vote_at_n_is_unbiased_for_the_accuracy_of_a_vote() -> None:
    """The mean over all pools of four samples is the accuracy, exactly."""
    shares, votes = {"50": 0.5, "40": 0.3, "49": 0.2}, 3
    mean = sum(
        math.prod(shares[name] for name in pool) * vote_at_n(Counter(pool), "50", votes)
        for pool in itertools.product(shares, repeat=4)
    )
    assert mean == pytest.approx(vote_accuracy(shares, "50", votes))


def test_many_votes_find_the_mode_and_not_the_truth() -> None:
    assert vote_accuracy({"50": 0.5, "40": 0.3, "49": 0.2}, "50", 101) > 0.95
    assert vote_accuracy({"50": 0.3, "40": 0.5, "49": 0.2}, "50", 101) < 0.05


def test_majority_counts_votes_keeps_the_earliest_of_equals_and_gives_none_no_vote() -> None:
    assert majority([None, 41, 42, None, None, 42]) == 42
    assert majority([42, 41, 41, 42]) == 42
    assert majority([None, None]) is None and majority([]) is None
    assert majority(["a", "b", "b"], weights=[5.0, 2.0, 2.0]) == "a"
    with pytest.raises(ValueError, match="3 answers have 2 weights"):
        majority(["a", "b", "b"], weights=[1.0, 2.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vote_accuracy({"a": 0.5, "b": 0.6}, "a", 3), "sum to 1.1"),
        (lambda: vote_accuracy({"a": 1.5, "b": -0.5}, "a", 3), "probabilities"),
        (lambda: vote_accuracy({"a": 1.0}, "a", 0), "0 votes"),
        (lambda: vote_at_n({"a": 2}, "a", 3), "3 votes need as many samples; there are 2"),
        (lambda: vote_at_n({"a": 2}, "a", 0), "0 votes"),
        (lambda: sums.Sum((17,)), "two terms or more"),
    ],
)
def test_a_vote_or_a_sum_out_of_range_is_told(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_answer_that_was_never_given_never_wins() -> None:
    assert vote_accuracy({"40": 1.0}, "50", 5) == 0.0 and vote_at_n({"40": 5}, "50", 3) == 0.0


# ---- sums and their chains

PROBLEM = sums.Sum((17, 25, 8, 40))
Sound = Callable[[sums.Sum, str], bool]
UNSOUND = {
    "a slip that is carried on": "17 + 25 = 43, 43 + 8 = 51, 51 + 40 = 91, so 91.",
    "two slips that cancel": "17 + 25 = 43, 43 + 8 = 50, 50 + 40 = 90, so 90.",
    "a term used twice": "17 + 25 = 42, 42 + 25 = 67, 67 + 40 = 107, so 107.",
    "a term left out": "17 + 25 = 42, 42 + 40 = 82, so 82.",
    "a term of no one": "17 + 25 = 42, 42 + 9 = 51, 51 + 40 = 91, so 91.",
    "the answer is not the last result": "17 + 25 = 42, 42 + 8 = 50, 50 + 40 = 90, so 91.",
    "one step too many": "17 + 25 = 42, 42 + 8 = 50, 50 + 40 = 90, 90 + 90 = 180, so 180.",
    "no steps at all": "90.",
    "nothing": "",
}


def check_sound(sound: Sound) -> None:
    for order in itertools.permutations(range(4)):
        assert sound(PROBLEM, PROBLEM.chain(order)), order
    assert sound(PROBLEM, "17 + 25 = 42, 8 + 40 = 48, 42 + 48 = 90, so 90."), "a tree is a chain of steps too"
    assert sound(sums.Sum((8, 8)), "8 + 8 = 16, so 16.")
    for name, chain in UNSOUND.items():
        assert not sound(PROBLEM, chain), name


def test_a_sound_chain_uses_each_term_once_and_every_sum_is_right() -> None:
    check_sound(sums.sound)


WRONG_SOUND: dict[str, Sound] = {
    "answer only": lambda problem, text: sums.answer(text) == problem.value,
    "equations only": lambda problem, text: all(
        step.left + step.right == step.result for step in sums.steps(problem, text)
    ),
    "number of steps not counted": lambda problem, text: (
        bool(sums.steps(problem, text))
        and all(step.mark == "right" for step in sums.steps(problem, text))
        and sums.answer(text) == sums.steps(problem, text)[-1].result
    ),
    "given order only": lambda problem, text: text == problem.chain(),
    "answer not compared": lambda problem, text: (
        len(sums.steps(problem, text)) == len(problem.terms) - 1
        and all(step.mark == "right" for step in sums.steps(problem, text))
    ),
}


@pytest.mark.parametrize("name", WRONG_SOUND)
def test_a_wrong_verifier_of_chains_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_sound(WRONG_SOUND[name])


def test_each_step_is_marked_for_its_own_fault_and_not_for_an_earlier_one() -> None:
    marks = [step.mark for step in sums.steps(PROBLEM, "17 + 25 = 43, 43 + 8 = 51, 51 + 8 = 59, so 59.")]
    assert marks == ["slip", "right", "stray"]


def test_no_training_problem_shows_a_held_out_pair_in_any_order() -> None:
    from alignlab.tasks.arithmetic import Problem

    rng = random.Random(0)
    for _ in range(200):
        problem = sums.draw(rng, 4, "train")
        assert len(set(problem.terms)) == 4
        for a, b in itertools.permutations(problem.terms, 2):
            assert Problem(a, "+", b).split == "train"
    assert sums.Sum((17, 8, 25)).split == "held-out"
    assert sums.draw(rng, 5, "held-out").split == "held-out"


def test_an_answer_is_the_last_number() -> None:
    assert sums.answer("17 + 25 = 42, so 42.") == 42
    assert sums.answer("I do not know.") is None


# ---- the page and its diagrams


def test_the_diagram_of_a_vote_sums_sound_and_unsound_chains_as_they_are() -> None:
    problem = sums.Sum((17, 25, 8))
    assert problem.question == ch04_cot.QUESTION
    assert sum(p for _, p in ch04_cot.CHAINS) == pytest.approx(1.0)
    summed: dict[str, float] = {}
    for chain, p in ch04_cot.CHAINS:
        assert sums.sound(problem, chain) == (sums.answer(chain) == 50), chain
        assert len(sums.steps(problem, chain)) == 2 and "stray" not in {s.mark for s in sums.steps(problem, chain)}
        summed[str(sums.answer(chain))] = summed.get(str(sums.answer(chain)), 0.0) + p
    assert summed == pytest.approx(SHARES[0]) and ch04_cot.answers() == pytest.approx(SHARES[0])
    likeliest = max(ch04_cot.CHAINS, key=lambda one: one[1])
    assert sums.answer(likeliest[0]) == 40


def test_the_diagram_of_rounds_counts_the_layers_of_tiny_and_shows_a_sound_chain() -> None:
    from alignlab import models

    assert models.load("tiny", "cpu")[0].config.num_hidden_layers == ch04_cot.LAYERS
    steps = ", ".join(f"{upto} {wrote}" for _, upto, wrote in ch04_cot.ROUNDS)
    assert sums.sound(sums.Sum((17, 25, 8)), f"{steps}, so 50.")


def test_every_shape_of_thought_leads_from_question_to_answer() -> None:
    for name, _, nodes, edges in ch04_cot.SHAPES:
        reached, before = {0}, 0
        while len(reached) > before:
            before = len(reached)
            reached |= {b for a, b in edges if a in reached}
        assert reached == set(range(len(nodes))), name
        assert nodes[0][2] == "prompt" and nodes[-1][2] == "chosen", name
        assert all(nodes[a][1] < nodes[b][1] for a, b in edges), name
        joins = max(Counter(b for _, b in edges if nodes[b][2] == "policy").values(), default=0)
        assert (joins > 1) == (name == "Graph (GoT)"), name


def test_the_picture_counts_what_it_shows() -> None:
    left, right = ch04_cot.PLATES
    assert f"{left} apples, right {right}. {left} − {right} = {left - right}." in ch04_cot.RATIONALE
    assert f"{left} −" not in ch04_cot.BLIND


def test_the_page_says_the_numbers_of_its_worked_vote() -> None:
    good, bad = SHARES[0], SHARES[1]
    assert [round(vote_accuracy(good, "50", n), 3) for n in (1, 3, 5, 21)] == [0.6, 0.684, 0.747, 0.932]
    assert [round(vote_accuracy(bad, "50", n), 3) for n in (1, 3, 5, 21)] == [0.3, 0.276, 0.258, 0.142]
    three, two, tie = 0.6**3, 3 * 0.6**2 * 0.4, 6 * 0.6 * 0.3 * 0.1 / 3
    assert [round(value, 3) for value in (three, two, tie)] == [0.216, 0.432, 0.036]
    for said in ("0.216+0.432+0.036=0.684", "0.747", "0.932", "0.276", "0.142"):
        assert said in PAGE, said


def test_the_page_says_what_a_chain_of_steps_is_worth() -> None:
    assert [round(0.97**k, 2) for k in (1, 4, 20)] == [0.97, 0.89, 0.54]
    assert "0.97^4=0.89" in PAGE and "0.97^{20}=0.54" in PAGE
