"""The worked examples and diagrams of section 4.3, recomputed by the library."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch04_decoding  # noqa: E402

from alignlab import decoding  # noqa: E402
from alignlab.decoding import Beams  # noqa: E402
from alignlab.decoding.beam import Candidate  # noqa: E402

PAGE = re.sub(r"\s+", " ", (BOOK / "ch04_training_free" / "decoding.md").read_text(encoding="utf-8"))


def test_the_diagram_of_truncations_shows_what_the_library_keeps() -> None:
    logits = torch.tensor(ch04_decoding.PROBS, dtype=torch.float64).log()
    kept = {
        "top-k 3": decoding.top_k(logits, 3),
        "top-p 0.9": decoding.top_p(logits, 0.9),
        "min-p 0.2": decoding.min_p(logits, 0.2),
        "typical 0.35": decoding.typical(logits, 0.35),
        "eta 0.1": decoding.eta(logits, 0.1),
        "epsilon 0.1": logits.masked_fill(logits.exp() < 0.1, -torch.inf),
    }
    assert tuple(kept) == ch04_decoding.RULES
    shown = ch04_decoding.kept()
    assert {rule: cut.isfinite().tolist() for rule, cut in kept.items()} == shown
    assert len({tuple(row) for row in shown.values()}) >= 4  # else the figure would show nothing
    assert sum(ch04_decoding.PROBS) == pytest.approx(1.0)


def test_the_diagram_of_a_beam_is_the_librarys_search() -> None:
    vocabulary = sorted({token for row in ch04_decoding.NEXT.values() for token in row})
    beams = Beams(ch04_decoding.WIDTH, 3, stop_id=vocabulary.index("end"))
    texts = []
    for _ in range(2):
        candidates = [
            Candidate(place, vocabulary.index(token), beam.logprob + math.log(p), beam.score + math.log(p))
            for place, beam in enumerate(beams.running)
            for token, p in ch04_decoding.NEXT[tuple(vocabulary[id] for id in beam.ids)].items()
        ]
        beams.advance(sorted(candidates, key=lambda candidate: -candidate.score))
        texts.append([(tuple(vocabulary[id] for id in beam.ids), math.exp(beam.logprob)) for beam in beams.running])
    first = ch04_decoding.step({(): 1.0})[:2]
    second = ch04_decoding.step(dict(first))[:2]
    for found, shown in zip(texts, (first, second), strict=True):
        assert [ids for ids, _ in found] == [ids for ids, _ in shown]
        assert [p for _, p in found] == pytest.approx([p for _, p in shown])
    assert second[0][0] == ("A", "fish") and first[0][0] == ("The",)  # greedy search goes the other way


def test_the_order_of_steps_is_the_order_in_which_sampling_applies_them() -> None:
    """Swapping two neighbours of the drawn order changes what comes out; the drawn order gives what `apply` gives."""
    logits = torch.tensor([[4.0, 3.0, 2.2, 1.9, 1.5, 0.5]], dtype=torch.float64)
    seen = torch.tensor([[0, 2, 0, 2]])
    sampling = decoding.Sampling(
        temperature=2.5,
        top_k=5,
        top_p=0.75,
        min_p=0.3,
        repetition_penalty=1.4,
        frequency_penalty=0.2,
        no_repeat_ngram=2,
    )
    steps = [
        lambda x: decoding.occurrence_penalty(decoding.repetition_penalty(x, seen, 1.4), seen, 0.2, 0.0),
        lambda x: decoding.no_repeat_ngram(x, seen, 2),
        lambda x: decoding.temperature(x, 2.5),
        lambda x: decoding.top_k(x, 5),
        lambda x: decoding.top_p(x, 0.75),
        lambda x: decoding.min_p(x, 0.3),
    ]

    def through(order: list[int]) -> torch.Tensor:
        x = logits
        for place in order:
            x = steps[place](x)
        return x.softmax(-1)

    want = sampling.apply(logits, seen, seen).softmax(-1)
    assert torch.allclose(through([0, 1, 2, 3, 4, 5]), want)
    assert not torch.allclose(through([0, 1, 3, 4, 2, 5]), want)
    names = [name for name, _, _ in ch04_decoding.ORDER]
    assert names == [
        "bias, grammar", "repetition, frequency, presence", "no-repeat n-gram", "temperature", "top-k", "top-p",
        "min-p", "typical, eta", "softmax, draw",
    ]  # fmt: skip


def test_the_numbers_of_the_pages_worked_examples_are_right() -> None:
    # greedy, and the best of all texts of two tokens
    texts = {
        (a, b): p * q
        for a, p in ch04_decoding.NEXT[()].items()
        if a != "Its"
        for b, q in ch04_decoding.NEXT[(a,)].items()
    }
    assert max(texts, key=lambda text: texts[text]) == ("A", "fish")
    assert [round(texts[text], 3) for text in (("A", "fish"), ("The", "dog"))] == [0.36, 0.2]
    # length penalty: "The end" and "A fish" with an end token of probability 0.5 after it
    short, long = math.log(0.5 * 0.25), math.log(0.4 * 0.9 * 0.3)
    assert [round(value, 2) for value in (short, long)] == [-2.08, -2.23]
    assert [round(value, 2) for value in (short / 2, long / 3)] == [-1.04, -0.74]
    assert short > long and short / 2 < long / 3
    # truncations
    entropy = ch04_decoding._entropy()
    assert round(entropy, 2) == 1.58
    assert round(math.sqrt(0.1) * math.exp(-entropy), 3) == 0.065
    for said in ("0.36", "-2.08", "-2.23", "-1.04", "-0.74", "1.58 nats", "0.065"):
        assert said in PAGE, said


def test_penalties_of_the_worked_example() -> None:
    logits = torch.tensor([[2.0, 1.5, -0.5]])
    seen = torch.tensor([[0, 0, 0, 2]])
    assert decoding.repetition_penalty(logits, seen, 1.25)[0].tolist() == pytest.approx([1.6, 1.5, -0.625])
    assert decoding.occurrence_penalty(logits, seen, 0.2, 0.5)[0].tolist() == pytest.approx([0.9, 1.5, -1.2])
    for said in ("1.6", "-0.625", "0.9", "-1.2"):
        assert said in PAGE, said
