"""The world of scene endings: its sums are exact, and agree with what sampling finds."""

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignlab import decoding, models
from alignlab.tasks import scenes


@pytest.fixture(scope="module")
def tiny() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return models.load("tiny", "cpu")


@pytest.fixture(scope="module")
def exact(tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> torch.Tensor:
    return scenes.exact_logprobs(*tiny, ["The old bear"])[0]


def test_endings_differ_and_read_back_as_themselves() -> None:
    texts = [ending.text for ending in scenes.ENDINGS]
    assert len(set(texts)) == len(texts) == 1100
    assert [scenes.gold_reward(text) for text in texts] == scenes.GOLD.tolist()


def test_gold_reward_by_hand() -> None:
    assert scenes.gold_reward(" sings on the hill.") == 2.5
    assert scenes.gold_reward(" sings on the hill at night.") == 2.0
    assert scenes.gold_reward(" sleeps in the kitchen on Monday.") == 0.0
    for broken in ("", " sings.", "sings on the hill.", " sings on the hill. 2 + 3 = 5."):
        assert scenes.gold_reward(broken) == scenes.BROKEN
    assert scenes.gold_reward(" sings on the hill.", ended=False) == scenes.BROKEN


def test_prompts_are_split_without_overlap() -> None:
    train, heldout = set(scenes.prompts("train")), set(scenes.prompts("held-out"))
    assert not train & heldout and train | heldout == set(scenes.prompts())
    assert 0.15 < len(heldout) / len(train | heldout) < 0.35


def test_tiny_gives_the_endings_nearly_all_its_probability(exact: torch.Tensor) -> None:
    assert exact.shape == (1100,)
    assert 0.95 < exact.exp().sum() < 1


def test_exact_sums_agree_with_samples(
    tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase], exact: torch.Tensor
) -> None:
    model, tokenizer = tiny
    prompt = tokenizer.encode("The old bear", add_special_tokens=False)
    generator = torch.Generator().manual_seed(0)
    end = tokenizer.convert_tokens_to_ids(scenes.END)
    drawn = decoding.generate(model, [prompt] * 2000, 24, decoding.Sampling(), stop_id=end, generator=generator)
    rewards = torch.tensor([scenes.gold_reward(tokenizer.decode(ids), ended) for ids, ended in drawn])
    error = rewards.std() / len(rewards) ** 0.5
    assert abs(rewards.mean() - scenes.expected_gold(exact)) < 4 * error < 0.2
    # Wrong sums stand out: broken responses counted as 0 would not, the endings unweighted do.
    assert abs(rewards.mean() - scenes.GOLD.mean()) > 4 * error


def test_kl_of_a_policy_with_itself_is_zero_and_grows_away_from_it(exact: torch.Tensor) -> None:
    assert scenes.exact_kl(exact, exact).item() == pytest.approx(0, abs=1e-9)
    tilted = exact + scenes.GOLD
    tilted = tilted - tilted.logsumexp(-1) + exact.logsumexp(-1)  # the share of broken responses stays
    by_hand = (tilted.exp() * (tilted - exact)).sum()
    assert scenes.exact_kl(tilted, exact).item() == pytest.approx(by_hand.item(), abs=1e-9)
    assert by_hand > 0.1
