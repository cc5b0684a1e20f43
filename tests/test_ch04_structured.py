"""Structured generation's diagrams and worked examples, recomputed: the index of a price, and what a mask bends."""

import re
import sys
from pathlib import Path

import pytest
import torch

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch04_structured as drawn  # noqa: E402

from alignlab.decoding.regular import compile_regex  # noqa: E402
from alignlab.decoding.structured import TokenAutomaton, Vocabulary  # noqa: E402

PAGE = re.sub(r"\s+", " ", (BOOK / "ch04_training_free" / "_structured.md").read_text(encoding="utf-8"))
END = len(drawn.VOCABULARY)


def price() -> TokenAutomaton:
    tokens: list[bytes | None] = [*(token.encode() for token in drawn.VOCABULARY), None]
    return TokenAutomaton(compile_regex(drawn.PATTERN), Vocabulary(tokens, END))


def test_the_drawn_index_is_the_index_of_the_pattern() -> None:
    automaton = price()
    assert automaton.dfa.states == len(drawn.STATES) == len(drawn.ALLOWED)
    order = [automaton.dfa.run(text) for text in ("", "4", "4.", "4.5", "4.50")]
    assert sorted(order) == list(range(5))
    for state, allowed in zip(order, drawn.ALLOWED, strict=True):
        ids = [i for i in automaton.row(state)[0].tolist() if i != END]
        assert sorted(drawn.VOCABULARY[i] for i in ids) == sorted(allowed)
    accepting = tuple(k for k, state in enumerate(order) if automaton.dfa.accepting[state])
    assert accepting == drawn.ACCEPTING


def test_what_the_page_says_of_the_price_is_so() -> None:
    automaton = price()
    run = automaton.dfa.run
    assert "`42` and `50` lead to the state" in PAGE and run("42") == run("4") == run("50")
    assert run("5.") == run("4.") and run(".") == -1 and run("x") == -1
    walked = [run("4" + ".50"[:n]) for n in range(1, 4)]
    assert len(set(walked)) == 3  # `.50` walks through three states


def test_the_drawn_chances_are_those_of_sampling_with_and_of_conditioning() -> None:
    """By simulation: draw digits from the model until valid (conditioning), or from what is allowed (the mask)."""
    generator = torch.Generator().manual_seed(0)
    draws = 400_000
    (first_one, seven, ends_17), (first_four, two, ends_42) = drawn.STEPS["17"], drawn.STEPS["42"]
    first, second, last = torch.rand(3, draws, generator=generator, dtype=torch.float64)
    one, four = first < first_one, (first >= first_one) & (first < first_one + first_four)
    whole_17 = (one & (second < seven) & (last < ends_17)).sum().item()
    whole_42 = (four & (second < two) & (last < ends_42)).sum().item()
    assert whole_17 / (whole_17 + whole_42) == pytest.approx(drawn.given_valid()["17"], abs=0.008)
    assert one.sum().item() / (one | four).sum().item() == pytest.approx(drawn.under_the_mask()["17"], abs=0.005)
    assert drawn.under_the_mask()["17"] == pytest.approx(0.75) and r"$0.6/0.8=75\%$" in PAGE
    assert f"{drawn.given_valid()['17']:.1%}" == "9.7%" and r"$0.0054/0.0554=9.7\%$" in PAGE
    assert r"$0.6\cdot0.9\cdot0.01=0.0054$" in PAGE and r"$0.2\cdot0.5\cdot0.5=0.05$" in PAGE
