"""Section 4.1: label words scored behind a shared prefix, calibration, intervals and tests, tasks, and the diagrams."""

import math
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from alignlab import decoding, intervals, prompting, text
from alignlab.tasks import labelling
from alignlab.transformer import Config, Transformer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book"))

from diagrams import ch04_prompting

Score = Callable[[nn.Module, Sequence[Sequence[int]], Sequence[int]], Tensor]


# --- label words ---


@pytest.fixture(scope="module")
def decoder() -> Transformer:
    torch.manual_seed(0)
    config = Config(97, 32, 64, 2, 4, 2, 8, max_position_embeddings=64)
    return Transformer(config).initialize(0.3).eval()


PROMPTS = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 11], [5, 6, 7, 8, 12, 13, 14], [5, 6, 7, 8, 9]]
LABELS = [3, 40, 41]


def one_by_one(model: nn.Module, prompts: Sequence[Sequence[int]], token_ids: Sequence[int]) -> Tensor:
    """The definition: each prompt read alone and whole, softmax over the vocabulary at its last token."""
    with torch.no_grad():
        rows = [model(torch.tensor([list(prompt)]))[0, -1].double().log_softmax(-1) for prompt in prompts]
    return torch.stack(rows)[:, list(token_ids)]


def check_scores(score: Score, model: Transformer) -> None:
    for prompts in (PROMPTS, PROMPTS[:1], [[1, 2], [3, 4, 5]], [[7], [7, 8]]):
        got = score(model, prompts, LABELS)
        assert torch.allclose(got.double(), one_by_one(model, prompts, LABELS), atol=1e-4)


def test_scores_equal_those_of_each_prompt_read_alone(decoder: Transformer) -> None:
    check_scores(lambda *given: prompting.label_scores(*given).logprobs, decoder)
    check_scores(lambda *given: prompting.label_scores(*given, batch_size=2).logprobs, decoder)


def test_the_likeliest_token_is_the_one_that_generate_writes(decoder: Transformer) -> None:
    want = [done.ids[0] for done in decoding.generate(decoder, PROMPTS, 1)]
    assert prompting.label_scores(decoder, PROMPTS, LABELS).likeliest.tolist() == want


def padded_end(model: nn.Module, prompts: Sequence[Sequence[int]], token_ids: Sequence[int]) -> Tensor:
    ids, mask, _ = text.pad([text.Example(list(prompt), [1] * len(prompt)) for prompt in prompts], 0)
    with torch.no_grad():
        return model(ids, mask)[:, -1].log_softmax(-1)[:, list(token_ids)]


def one_too_early(model: nn.Module, prompts: Sequence[Sequence[int]], token_ids: Sequence[int]) -> Tensor:
    return one_by_one(model, [prompt[:-1] or prompt for prompt in prompts], token_ids)


def over_the_labels(model: nn.Module, prompts: Sequence[Sequence[int]], token_ids: Sequence[int]) -> Tensor:
    return one_by_one(model, prompts, token_ids).log_softmax(-1)


def without_the_prefix(model: nn.Module, prompts: Sequence[Sequence[int]], token_ids: Sequence[int]) -> Tensor:
    shared = prompting.shared_length(prompts)
    return one_by_one(model, [prompt[shared:] for prompt in prompts], token_ids)


def in_order_of_length(model: nn.Module, prompts: Sequence[Sequence[int]], token_ids: Sequence[int]) -> Tensor:
    return one_by_one(model, sorted(prompts, key=len), token_ids)


WRONG_SCORES: dict[str, Score] = {
    "last position of the padded row": padded_end,
    "one position too early": one_too_early,
    "normalized over the label words": over_the_labels,
    "prefix forgotten": without_the_prefix,
    "rows left in the order of their length": in_order_of_length,
}


@pytest.mark.parametrize("name", WRONG_SCORES)
def test_wrong_scores_are_rejected(name: str, decoder: Transformer) -> None:
    with pytest.raises(AssertionError):
        check_scores(WRONG_SCORES[name], decoder)


def test_the_shared_prefix_leaves_each_prompt_a_token() -> None:
    assert prompting.shared_length(PROMPTS) == 3
    assert prompting.shared_length([[1, 2, 3], [1, 2, 3]]) == 2
    assert prompting.shared_length([[1, 2], [1, 2, 3]]) == 1
    assert prompting.shared_length([[1], [2]]) == 0


@pytest.mark.parametrize(
    ("prompts", "labels", "says"),
    [([], [1], "empty"), ([[1], []], [1], "empty"), ([[1]], [2, 2], "different"), ([[1]], [], "at least one"),
     ([[1] * 65, [2]], [1], "context")],
)  # fmt: skip
def test_bad_prompts_are_told(prompts: list[list[int]], labels: list[int], says: str, decoder: Transformer) -> None:
    with pytest.raises(ValueError, match=says):
        prompting.label_scores(decoder, prompts, labels)


def test_a_greedy_answer_equals_that_of_generate(decoder: Transformer) -> None:
    for prompts in (PROMPTS, [[1, 2], [3, 4, 5, 6]]):
        want = [done.ids for done in decoding.generate(decoder, prompts, 6)]
        assert prompting.complete(decoder, prompts, 6) == want
        assert prompting.complete(decoder, prompts, 6, batch_size=2) == want
        stop = want[0][2]
        cut = [ids[: ids.index(stop)] if stop in ids else ids for ids in want]
        assert prompting.complete(decoder, prompts, 6, stop_ids=[stop]) == cut


def test_answers_that_do_not_fit_are_told(decoder: Transformer) -> None:
    with pytest.raises(ValueError, match="context"):
        prompting.complete(decoder, [[1] * 60], 5)
    with pytest.raises(ValueError, match="at least 1"):
        prompting.complete(decoder, PROMPTS, 0)


# --- calibration ---

Calibrate = Callable[[Tensor, Tensor], Tensor]


def check_calibration(calibrate: Calibrate) -> None:
    # The page's example: the prompt says "positive" to 80% even where there is nothing to judge.
    worked = calibrate(torch.tensor([[0.70, 0.30]]).log(), torch.tensor([[0.80, 0.20]]).log()).exp()
    assert worked[0].tolist() == pytest.approx([0.875 / 2.375, 1.5 / 2.375], abs=1e-6)
    # Label words seldom hold all probability: what they have together must not matter.
    scaled = calibrate(torch.tensor([[0.07, 0.03]]).log(), torch.tensor([[0.08, 0.02]]).log()).exp()
    assert torch.allclose(scaled, worked, atol=1e-6)
    # Two content-free inputs: probabilities are averaged, each input counting alike.
    mean = calibrate(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1], [0.03, 0.07]]).log()).exp()
    assert mean[0].tolist() == pytest.approx([0.4, 0.6], abs=1e-6)
    even = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
    assert torch.allclose(calibrate(even, torch.zeros(1, 3)).exp(), even.exp(), atol=1e-6)


def test_calibration_divides_by_what_the_prompt_says_of_nothing() -> None:
    check_calibration(prompting.calibrate)


WRONG_CALIBRATION: dict[str, Calibrate] = {
    "multiplied": lambda p, cf: (p.log_softmax(-1) + cf.log_softmax(-1).exp().mean(0).log()).log_softmax(-1),
    "not normalized": lambda p, cf: p.log_softmax(-1) - cf.log_softmax(-1).exp().mean(0).log(),
    "geometric mean": lambda p, cf: (p - cf.log_softmax(-1).mean(0)).log_softmax(-1),
    "content-free not normalized": lambda p, cf: (p - cf.exp().mean(0).log()).log_softmax(-1),
    "mean of the inputs": lambda p, cf: (p - p.softmax(-1).mean(0).log()).log_softmax(-1),
}


@pytest.mark.parametrize("name", WRONG_CALIBRATION)
def test_a_wrong_calibration_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_calibration(WRONG_CALIBRATION[name])


def test_calibration_of_other_labels_is_told() -> None:
    with pytest.raises(ValueError, match="give"):
        prompting.calibrate(torch.zeros(4, 2), torch.zeros(1, 3))


# --- intervals and tests ---


def check_wilson(wilson: Callable[[int, int], tuple[float, float]]) -> None:
    for right, total in ((90, 120), (0, 15), (20, 20), (1, 3)):
        share = right / total
        held = [p for p in (step / 100_000 for step in range(100_001)) if _is_near(share, p, total)]
        assert wilson(right, total) == pytest.approx((held[0], held[-1]), abs=2e-5)
    assert wilson(90, 120) == pytest.approx((0.6655, 0.8190), abs=1e-4)  # the page's example


def _is_near(share: float, p: float, total: int) -> bool:
    """The definition: the measured share is at most 1.96 standard errors of p away from p."""
    return abs(share - p) <= 1.96 * math.sqrt(p * (1 - p) / total) + 1e-12


def test_wilson_holds_all_shares_from_which_the_measured_one_is_near() -> None:
    check_wilson(intervals.wilson)


def test_wilson_holds_the_truth_as_often_as_it_says() -> None:
    """Exact coverage: the probability of every count, summed where the interval holds p."""
    total = 120
    held = [intervals.wilson(right, total) for right in range(total + 1)]
    for p in (0.5, 0.75, 0.95):
        masses = [math.comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(total + 1)]
        assert 0.93 < sum(mass for mass, (low, high) in zip(masses, held, strict=True) if low <= p <= high) < 0.98


def test_a_wald_interval_is_rejected() -> None:
    def wald(right: int, total: int) -> tuple[float, float]:
        share = right / total
        half = 1.96 * math.sqrt(share * (1 - share) / total)
        return share - half, share + half

    with pytest.raises(AssertionError):
        check_wilson(wald)


def check_mcnemar(mcnemar: Callable[[Any, Any], float]) -> None:
    for only_first, only_second in product((0, 1, 4, 8), repeat=2):
        first = [True] * only_first + [False] * only_second + [True] * 30 + [False] * 7
        second = [False] * only_first + [True] * only_second + [True] * 30 + [False] * 7
        differ, gap = only_first + only_second, abs(only_first - only_second)
        splits = torch.tensor([[bits >> item & 1 for item in range(differ)] for bits in range(2**differ)])
        ones = splits.sum(-1) if differ else torch.zeros(1)
        as_extreme = ((2 * ones - differ).abs() >= gap).double().mean().item()  # every split of coins, counted
        assert mcnemar(first, second) == pytest.approx(as_extreme, abs=1e-12)


def test_mcnemar_counts_the_splits_at_least_as_uneven() -> None:
    check_mcnemar(intervals.mcnemar)
    first, second = [True] * 12 + [False] * 4, [False] * 12 + [True] * 4
    assert intervals.mcnemar(first, second) == pytest.approx(2 * 2517 / 65536)  # the page's example


@pytest.mark.parametrize("name", ["one side", "all items"])
def test_a_wrong_mcnemar_is_rejected(name: str) -> None:
    def all_items(first: Any, second: Any) -> float:
        fewer, total = sum(b and not a for a, b in zip(first, second, strict=True)), len(first)
        return min(1.0, 2 * sum(math.comb(total, k) for k in range(fewer + 1)) / 2**total)

    wrong = {"one side": lambda a, b: intervals.mcnemar(a, b) / 2, "all items": all_items}[name]
    with pytest.raises(AssertionError):
        check_mcnemar(wrong)


def test_a_paired_difference_is_narrower_than_an_unpaired_one() -> None:
    first = torch.tensor([True] * 70 + [False] * 30)
    second = torch.tensor([True] * 78 + [False] * 22)
    gain, low, high = intervals.paired_difference(first, second)
    assert gain == pytest.approx(0.08) and low < gain < high
    se = math.sqrt(0.08 * 0.92 / 100)  # every difference is 0 or 1
    assert (high - low) / 2 == pytest.approx(1.96 * se, rel=0.15)
    unpaired = 1.96 * math.sqrt((0.7 * 0.3 + 0.78 * 0.22) / 100)
    assert (high - low) / 2 < unpaired / 2


def test_holm_by_hand() -> None:
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert intervals.holm([]) == []


def test_outcomes_of_different_items_are_told() -> None:
    with pytest.raises(ValueError, match="same items"):
        intervals.mcnemar([True], [True, False])
    with pytest.raises(ValueError, match="total"):
        intervals.wilson(3, 2)


# --- tasks ---


def test_no_word_that_decides_is_in_both_splits() -> None:
    assert not set(labelling.words("train")) & set(labelling.words("held-out"))


@pytest.mark.parametrize("make", [labelling.reviews, labelling.topics, labelling.orders])
def test_items_are_the_same_every_time_and_all_different(make: Any) -> None:
    items = make("held-out", 120, 0)
    assert items == make("held-out", 120, 0) != make("held-out", 120, 1)
    assert len({item.text for item in items}) == 120


def test_labels_are_balanced() -> None:
    for items, labels in ((labelling.reviews("held-out", 120), labelling.SENTIMENTS),
                          (labelling.topics("held-out", 120), labelling.TOPICS)):  # fmt: skip
        assert {label: sum(item.answer == label for item in items) for label in labels} == dict.fromkeys(
            labels, 120 // len(labels)
        )


def test_a_review_means_what_its_label_says() -> None:
    for split in ("train", "held-out"):
        praise, blame = labelling._PRAISE[split].split(), labelling._BLAME[split].split()
        for item in labelling.reviews(split, 60):
            good, bad = (sum(f" {word}" in item.text for word in words) for words in (praise, blame))
            says_good = good > 0 if item.kind == "plain" else bad > 0
            assert says_good == (item.answer == "positive") and bool(good) != bool(bad)


def test_the_verifier_of_orders() -> None:
    item = labelling.Item("Maria from Lima ordered 14 lamps.", "Maria | Lima | 14", "form 1")
    assert labelling.extracted(" Maria | Lima | 14\n\nText: more", item)
    for answer in ("Maria, Lima, 14", "The answer is Maria | Lima | 14", "Maria | Lima | 1", "", "Lima | Maria | 14"):
        assert not labelling.extracted(answer, item)


def test_more_items_than_there_are_is_told() -> None:
    with pytest.raises(ValueError, match="different"):
        labelling.topics("train", 10_000)


# --- diagrams ---


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", ["shots", "prefix", "calibration", "cost"])
def test_diagrams_hold_together(name: str, narrow: bool) -> None:
    assert getattr(ch04_prompting, name)(narrow=narrow).problems() == []


def test_the_calibration_diagram_is_the_librarys() -> None:
    rows = [torch.tensor([values]).log() for values in (ch04_prompting.PROMPT, ch04_prompting.CONTENT_FREE)]
    drawn = ch04_prompting.calibrated()
    assert prompting.calibrate(*rows).exp()[0].tolist() == pytest.approx(list(drawn), abs=1e-6)
    shown = " ".join(placed.text for placed in ch04_prompting.calibration().texts)
    assert f"{drawn[0]:.0%}" in shown and f"{drawn[1]:.0%}" in shown


def test_the_cost_diagram_breaks_even_where_both_cost_the_same() -> None:
    meet = ch04_prompting.break_even()
    assert meet == 160
    assert ch04_prompting.gflops("shots", meet) == pytest.approx(ch04_prompting.gflops("lora", meet))
    starts = [ch04_prompting.gflops(way, 0) for way in ("cached", "lora")]
    slopes = [ch04_prompting.gflops(way, 1) - start for way, start in zip(("cached", "lora"), starts, strict=True)]
    assert slopes[0] == pytest.approx(slopes[1]) and starts[0] < starts[1]


def test_shapes_and_sizes_are_smollm2s(small: "tuple[PreTrainedModel, PreTrainedTokenizerBase]") -> None:
    model, tokenizer = small
    config: Any = model.config
    assert sum(p.numel() for p in model.parameters()) == ch04_prompting.PARAMETERS
    head = config.hidden_size // config.num_attention_heads
    kv = f"({config.num_hidden_layers}, {config.num_key_value_heads}, P, {head})"
    shown = " ".join(placed.text for placed in ch04_prompting.prefix().texts).replace("\u00a0", " ")
    for shape in (kv, f"(N, {config.hidden_size})", f"(N, {config.vocab_size})"):
        assert shape in shown
    for word in (*labelling.SENTIMENTS, *labelling.TOPICS):  # the lab scores one token a label
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1


def test_the_shared_prefix_changes_nothing_on_the_real_model(
    small: "tuple[PreTrainedModel, PreTrainedTokenizerBase]",
) -> None:
    model, tokenizer = small
    shots = "Review: The soup was superb.\nSentiment: positive\n\n"
    texts = [f"{shots}Review: {item.text}\nSentiment:" for item in labelling.reviews("held-out", 3)]
    prompts = [tokenizer.encode(each, add_special_tokens=False) for each in texts]
    labels = [tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in labelling.SENTIMENTS]
    with torch.no_grad():
        alone = torch.stack([model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[labels] for ids in prompts])
    assert torch.allclose(prompting.label_scores(model, prompts, labels).logprobs, alone, atol=1e-3)
