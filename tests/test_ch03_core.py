"""Section 3.1's diagrams state what is true: sizes of the model, probabilities of the lab's world, one objective."""

import math
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch03_core  # noqa: E402

from alignlab import logprobs, models, text  # noqa: E402
from alignlab.tasks import scenes  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLACES = ("in the garden", "by the river", "under the tree", "in the kitchen", "near the door")
TIMES = (None, "in the morning", "in the evening", "at night")


def words(diagram: str, narrow: bool) -> str:
    return " ".join(placed.text for placed in getattr(ch03_core, diagram)(narrow=narrow).texts)


def test_parameters_are_those_of_smollm2(small: "tuple[PreTrainedModel, PreTrainedTokenizerBase]") -> None:
    assert sum(parameter.numel() for parameter in small[0].parameters()) == ch03_core.PARAMETERS


@pytest.mark.parametrize("narrow", [False, True])
def test_the_memory_diagram_adds_up(narrow: bool) -> None:
    one = ch03_core.PARAMETERS * 4 / 1e6  # fp32; AdamW keeps gradient and two moments of a trained model beside it
    shown = words("memory", narrow)
    for models_in_units_of_one in (1, 4, 4 + 1, 2 * 4 + 2):
        assert f"{models_in_units_of_one * one:,.0f} MB" in shown


def test_the_tilted_levels_are_those_of_tiny() -> None:
    model, tokenizer = models.load("tiny")
    endings = [scenes.Ending(*parts) for parts in product(scenes.VERBS, PLACES, TIMES)]
    batch = text.pad([scenes.encode(tokenizer, "The old bear", e.text) for e in endings], tokenizer.pad_token_id or 0)
    with torch.no_grad():
        logps = logprobs.sequence_logprobs(model, *batch.to(next(model.parameters()).device)).double().cpu()
    reference = logps.softmax(-1)
    gold = torch.tensor([ending.gold for ending in endings], dtype=torch.float64)
    mass = [reference[gold == level].sum().item() for level in ch03_core.LEVELS]
    assert sum(mass) == pytest.approx(1.0)
    assert list(ch03_core.REFERENCE) == pytest.approx(mass, abs=1e-4)
    optimum = (logps + gold / ch03_core.BETA).softmax(-1)
    _, z, shown = ch03_core.tilted()
    assert shown == pytest.approx([optimum[gold == level].sum().item() for level in ch03_core.LEVELS], abs=1e-3)
    assert z == pytest.approx((reference * (gold / ch03_core.BETA).exp()).sum().item(), rel=1e-3)


@pytest.mark.parametrize("narrow", [False, True])
def test_the_tilt_diagram_shows_its_own_arithmetic(narrow: bool) -> None:
    shown = words("tilt", narrow)
    weights, z, optimum = ch03_core.tilted()
    for level, weight, share in zip(ch03_core.LEVELS, weights, optimum, strict=True):
        assert f"{math.exp(level / ch03_core.BETA):.1f}" in shown
        assert f"{weight:.2f}" in shown and f"{share:.3f}" in shown
    assert f"Z = {z:.1f}" in shown
