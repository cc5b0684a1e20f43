"""What section 1.1.4, the topic on CLIP and picture tokens, and their diagrams state, recomputed."""

import functools
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book"))

from diagrams import ch01_vision  # noqa: E402

from alignlab.architectures.vision import patchify, quantize  # noqa: E402
from alignlab.exercises.multimodal import patch_tokens  # noqa: E402
from alignlab.losses.contrastive import clip_loss  # noqa: E402
from alignlab.tasks import pictures  # noqa: E402


def page(name: str) -> str:
    return re.sub(r"\s+", " ", (ROOT / "book" / "ch01_structure" / name).read_text(encoding="utf-8"))


SECTION, TOPIC = page("_multimodal.md"), page("multimodal.md")
LAB = (ROOT / "labs" / "source" / "ch01_multimodal.py").read_text(encoding="utf-8")


def vectors_with(cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors with these cosines: texts orthonormal, pictures completed by axes of their own."""
    count = len(cosines)
    rest = (1 - cosines.square().sum(1)).clamp(min=0).sqrt()
    images = torch.cat([cosines, torch.diag(rest)], 1)
    return images, torch.cat([torch.eye(count), torch.zeros(count, count)], 1).to(cosines)


def test_the_worked_example_of_clip_is_that_of_the_loss() -> None:
    images, texts = vectors_with(torch.tensor(ch01_vision.COSINES, dtype=torch.float64))
    assert torch.allclose(images.norm(dim=1), torch.ones(2, dtype=torch.float64))
    found = clip_loss(images, texts, ch01_vision.SCALE)
    rows, columns = ch01_vision.pair_losses()
    assert found.tolist() == pytest.approx([(a + b) / 2 for a, b in zip(rows, columns, strict=True)])
    assert [f"{x:.3f}" for x in (*rows, *columns)] == ["0.079", "0.079", "0.030", "0.201"]
    assert f"{found.mean():.3f}" == "0.097"
    for part in ("=0.079$", "=0.030$", "=0.201$", "=0.097$ nats"):
        assert part in TOPIC


def test_the_zero_shot_example_is_a_softmax() -> None:
    cosines = torch.tensor([cosine for _, cosine in ch01_vision.CLASSES], dtype=torch.float64)
    want = (ch01_vision.SCALE * cosines).softmax(0)
    assert ch01_vision.class_probabilities() == pytest.approx(want.tolist())
    assert {name.removeprefix("a ") for name, _ in ch01_vision.CLASSES} <= set(pictures.NAMES)


def test_the_worked_example_of_quantization_is_that_of_quantize() -> None:
    codes = torch.tensor(list(ch01_vision.CODES.values()), dtype=torch.float64)
    z = torch.tensor([ch01_vision.VECTOR], dtype=torch.float64, requires_grad=True)
    found = quantize(z, codes)
    assert found.codes.tolist() == [0]
    distances = list(ch01_vision.distances().values())
    assert distances == pytest.approx([0.13, 1.13, 0.73]) and found.codebook.item() == pytest.approx(0.13)
    assert 0.25 * found.commitment.item() == pytest.approx(0.0325)
    pull = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    (through,) = torch.autograd.grad((found.vectors * pull).sum(), z, retain_graph=True)
    (back,) = torch.autograd.grad(0.25 * found.commitment.sum(), z)
    assert torch.equal(through, pull) and back[0].tolist() == pytest.approx([-0.1, 0.15])
    for part in ("0.13, 1.13 and 0.73", "the third 0.0325", "$(2,-1)$ at $z$", "(-0.1,0.15)"):
        assert part in TOPIC


def test_the_patches_counted_by_hand_are_those_of_the_exercise() -> None:
    assert patch_tokens(336, 336, 14, 1) == 576 == 24**2
    assert patch_tokens(224, 224, 14, 2) == 64
    assert (patch_tokens(672, 672, 14, 1), patch_tokens(672, 672, 14, 2)) == (2304, 576)
    for part in ("$336/14=24$", "$24^2=576$", "$16^2/4=64$", "and 66 with its two marks", "2,304 and 576"):
        assert part in SECTION


def test_the_diagrams_sizes_are_the_labs() -> None:
    images = torch.zeros(1, 3, pictures.SIDE, pictures.SIDE)
    assert patchify(images, 6).shape == (1, ch01_vision.PATCHES, ch01_vision.PATCH_NUMBERS)
    assert patchify(images, 8).shape[1] == ch01_vision.CODE_TOKENS
    assert f"PatchEncoder(sizes(1, {ch01_vision.ENCODER_WIDTH}," in LAB
    assert f"Transformer(sizes(WORDS + 2, {ch01_vision.WIDTH}," in LAB
    assert len(pictures.WORDS) + 2 == ch01_vision.TABLE
    assert (
        "PATCH = 6\n" in LAB
        and f"CELL, CODES = 8, {ch01_vision.CODE_TOKENS} " in LAB
        and "1,728 numbers" in TOPIC
        and 3 * 24 * 24 == 1728
    )


def test_a_perfect_table_at_scale_one_is_far_from_zero() -> None:
    count = 128
    images, texts = vectors_with(torch.eye(count, dtype=torch.float64))
    want = math.log(1 + (count - 1) * math.exp(-1))
    assert clip_loss(images, texts, 1.0).mean().item() == pytest.approx(want)
    assert "math.log(1 + (budget.clip_batch - 1) * math.exp(-1))" in LAB


def test_the_quiz_on_batches_is_right_that_half_the_batch_costs_log_two_less() -> None:
    same = torch.ones(64, 4, dtype=torch.float64)
    whole, half = clip_loss(same, same, 10.0).mean(), clip_loss(same[:32], same[:32], 10.0).mean()
    assert (whole - half).item() == pytest.approx(math.log(2))


def near_captions() -> Callable[[str], list[str]]:
    """The lab's own function, with what it needs of the lab."""
    body = LAB[LAB.index("PARTS = {caption") : LAB.index("@torch.no_grad()\ndef chooses")]
    names: dict[str, Any] = {"EVERY": set(pictures.captions()), "functools": functools}
    exec(body, names)
    return names["near"]


@pytest.mark.parametrize(
    ("caption", "others"),
    [
        ("a red circle at the upper left", 5 + 3 + 2 + 2),
        ("two red circles", 2 + 5 + 3),
        ("a red circle left of a blue square", 5 + 3 + 1 + 5 + 3),
        ("a red circle left of a blue circle", 5 + 3 + 1 + 5 + 3 - 2),  # of two things alike there is no such caption
    ],
)
def test_the_choice_is_among_captions_that_differ_in_one_place(caption: str, others: int) -> None:
    found = near_captions()(caption)
    assert found[0] == caption and len(found) == len(set(found)) == 1 + others
    for other in found[1:]:
        one, two = (text.replace("left of", "left-of").split() for text in (caption, other))
        assert sum(a != b for a, b in zip(one, two, strict=True)) == 1


def test_text_is_compared_after_as_many_steps_of_the_same_schedule() -> None:
    body = LAB[LAB.index("stage_2 = dict(") : LAB.index('stages["stage 2: all parts"] =')]
    assert body.count("**stage_2") == 2 and "steps=budget.tune_steps" in body
    assert "text_alone[budget.alone_steps], text_beside[budget.alone_steps]" in LAB


def test_curves_are_given_numbers_and_no_tensors_that_still_have_a_graph() -> None:
    assert "return terms[0].item()" in LAB
    assert re.findall(r"curve\.add\(([^)]*)\)", LAB) == ["name, step, loss"]
