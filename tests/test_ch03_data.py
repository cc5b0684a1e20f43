"""What section 3.2's diagrams state is true of SmolLM2's tokenizer, of MinHash and of the lab; they hold together."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book"))

from diagrams import ch03_data

from alignlab import text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Small = tuple[PreTrainedModel, PreTrainedTokenizerBase]

FULL = {key: str(900 - 70 * index) for index, (key, _, _) in enumerate((*ch03_data._PROMPTS, *ch03_data._PAIRS))}


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("known", [{}, FULL, dict.fromkeys(FULL, "1,234"), dict.fromkeys(FULL, "0")])
def test_the_funnel_holds_any_counts(monkeypatch: Any, known: dict[str, str], narrow: bool) -> None:
    monkeypatch.setattr(ch03_data, "counts", lambda: known)
    diagram = ch03_data.pipeline(narrow)
    assert diagram.problems() == []
    shown = [placed.text for placed in diagram.texts]
    assert all(value in shown for value in known.values())


def test_the_funnel_shows_what_the_lab_counted(tmp_path: Path, monkeypatch: Any) -> None:
    data = {ch03_data.RESULTS: {"results": {name: {"value": 1, "text": shown} for name, shown in FULL.items()}}}
    notebook = {"cells": [{"outputs": [{"data": {"text/plain": ""}}]}, {"outputs": [{"data": data}]}, {}]}
    path = tmp_path / "lab.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    monkeypatch.setattr(ch03_data, "NOTEBOOK", path)
    ch03_data.counts.cache_clear()
    try:
        assert ch03_data.counts() == FULL
    finally:
        ch03_data.counts.cache_clear()


def test_the_two_signatures_agree_in_the_first_band_and_in_four_places() -> None:
    first, second = (ch03_data.signature(prompt) for prompt in ch03_data.TEXTS)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, True, True, False]
    every = sorted({s for prompt in ch03_data.TEXTS for s in ch03_data.shingles(prompt)})
    for prompt, row in zip(ch03_data.TEXTS, (first, second), strict=True):
        for (a, b), value in zip(ch03_data.COEFFICIENTS, row, strict=True):
            values = [(a * every.index(prompt[i : i + 4]) + b) % 97 for i in range(len(prompt) - 3)]
            assert value == sorted(values)[0]


def test_the_record_shows_the_tokens_of_both_answers(small: "Small") -> None:
    _, tokenizer = small
    for answer, tokens in (
        (ch03_data.CHOSEN, ch03_data.CHOSEN_TOKENS),
        (ch03_data.REJECTED, ch03_data.REJECTED_TOKENS),
    ):
        row = text.encode_response(tokenizer, ch03_data.QUESTION, answer)
        found = tokenizer.convert_ids_to_tokens(row.ids)
        assert row.response_mask == [0] * ch03_data.PROMPT_COUNT + [1] * len(tokens)
        assert found[ch03_data.PROMPT_COUNT :] == tokens
        assert found[: ch03_data.PROMPT_COUNT][-len(ch03_data.PROMPT_END) :] == ch03_data.PROMPT_END
