"""Sections 1.1.2 and 1.1.3: what the diagrams and the worked examples state, computed anew."""

import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab import bpe, text
from alignlab.explorers import smollm2_merges

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book"))
from diagrams import ch01_tokens as diagrams  # noqa: E402

INPUT = (ROOT / "book" / "ch01_structure" / "_input_layer.md").read_text(encoding="utf-8")
OUTPUT = (ROOT / "book" / "ch01_structure" / "_output_layer.md").read_text(encoding="utf-8")


def dotted(token: bytes) -> str:
    return token.decode().replace(" ", "·")


def test_the_pieces_tokens_and_ids_of_the_running_example_are_smollm2s() -> None:
    ours = smollm2_merges.tokenizer()
    ids = ours.encode(diagrams.TEXT)
    assert ids == diagrams.IDS
    assert [dotted(ours.tokens[i]) for i in ids] == diagrams.TOKENS
    pieces = [(piece.replace(" ", "·"), len(ours.encode(piece))) for piece in ours.pieces(diagrams.TEXT)]
    assert pieces == diagrams.PIECES
    assert "has ten tokens, each digit one of its own" in INPUT and len(ids) == 10


def test_the_merges_by_hand_are_those_that_training_finds() -> None:
    learned = bpe.train([diagrams.SMALL_TEXT], 256 + len(diagrams.MERGES))
    assert [(dotted(a), dotted(b)) for a, b in learned.merges] == [(a, b) for a, b, _ in diagrams.MERGES]
    assert learned.vocabulary[b"re"] == 256  # the 257th token, as the page says
    assert diagrams.SMALL_TEXT in INPUT


def test_the_pairs_by_hand_occur_as_often_as_is_said() -> None:
    learned = bpe.train([diagrams.SMALL_TEXT], 256 + len(diagrams.MERGES))
    for k, (left, right, times) in enumerate(diagrams.MERGES):
        before = bpe.Tokenizer(learned.vocabulary, learned.merges[:k])
        pieces = [before.merge(piece.encode()) for piece in before.pieces(diagrams.SMALL_TEXT)]
        pairs = [(dotted(a), dotted(b)) for piece in pieces for a, b in pairwise(piece)]
        assert pairs.count((left, right)) == times
        assert times == max(map(pairs.count, pairs))


@pytest.mark.parametrize("merges", diagrams.SHOWN)
def test_the_words_of_the_diagram_are_split_as_the_library_splits_them(merges: int) -> None:
    learned = bpe.train([diagrams.SMALL_TEXT], 256 + merges)
    want = [[dotted(symbol) for symbol in learned.merge(word.replace("·", " ").encode())] for word in diagrams.WORDS]
    assert diagrams.states(diagrams.WORDS, merges) == want


def test_the_output_layer_of_the_diagram_is_smollm2s(small: Any) -> None:
    model, tokenizer = small
    ids = torch.tensor([text.encode_prompt(tokenizer, diagrams.TEXT)])
    with torch.inference_mode():
        h = model.model(ids).last_hidden_state[0, -1]
        matrix = model.lm_head.weight
        z = matrix @ h
    best = z.softmax(-1).topk(3)
    for i, p, (token, logit, percent) in zip(best.indices.tolist(), best.values.tolist(), diagrams.TOP, strict=True):
        assert tokenizer.decode([i]) == token
        assert z[i].item() == pytest.approx(logit, abs=0.006)
        assert 100 * p == pytest.approx(percent, abs=0.06)
    row = matrix[best.indices[0]]
    assert h.norm().item() == pytest.approx(diagrams.NORM, abs=0.006)
    assert row.norm().item() == pytest.approx(diagrams.ROW, abs=6e-4)
    assert torch.cosine_similarity(h, row, 0).item() == pytest.approx(diagrams.COSINE, abs=6e-5)
    product = diagrams.NORM * diagrams.ROW * diagrams.COSINE
    assert product == pytest.approx(diagrams.TOP[0][1], abs=0.02)


def test_the_ratio_worked_by_hand_follows_from_the_two_logits() -> None:
    (_, first, p), (_, second, q), _ = diagrams.TOP
    assert f"${first:.2f}-{second:.2f}={first - second:.2f}$" in OUTPUT
    assert f"$e^{{0.79}}={math.exp(first - second):.1f}$" in OUTPUT
    assert f"{p}\\,\\%/{math.exp(first - second):.1f}={q}" in OUTPUT
    assert p / math.exp(first - second) == pytest.approx(q, abs=0.1)
    assert math.exp(11.1) > torch.finfo(torch.float16).max > math.exp(11.0)


def test_the_quiz_about_ranks_has_the_answer_that_is_marked() -> None:
    letters = {bytes([byte]): i for i, byte in enumerate(bpe.ALPHABET)}
    one = bpe.Tokenizer(letters | {b"ne": 256, b"on": 257}, [(b"n", b"e"), (b"o", b"n")])
    assert one.merge(b"one") == [b"o", b"ne"]


def test_blank_lines_before_a_digit_are_cut_otherwise_where_digits_are_cut_first() -> None:
    """Why the numbered list costs more after a conversion that drops the rule for digits."""
    published = smollm2_merges.tokenizer()
    converted = bpe.Tokenizer(published.vocabulary, published.merges, published.special, patterns=(bpe.GPT2,))
    assert published.patterns == [bpe.DIGITS, bpe.GPT2]
    assert published.pieces("tips:\n\n1.") == ["tips", ":", "\n\n", "1", "."]
    assert converted.pieces("tips:\n\n1.") == ["tips", ":", "\n", "\n", "1", "."]
    for same in ("What is 17 + 25?", "Who are you?", "1. First\n2. Second", "x1y2"):
        assert converted.encode(same) == published.encode(same)
    for other in ("tips:\n\n1.", "a  17", "add ½ cup"):
        assert converted.encode(other) != published.encode(other)


@pytest.mark.parametrize("name", ["input_layer", "merging", "output_layer"])
@pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
def test_the_diagrams_are_sound(name: str, narrow: bool) -> None:
    assert getattr(diagrams, name)(narrow=narrow).problems() == []
