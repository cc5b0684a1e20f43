"""Chat format, response masks, padding and packing, on SmolLM2's tokenizer."""

from typing import Any

import pytest
import torch

from alignlab import text
from alignlab.text import Example


def test_a_prompt_equals_the_template_of_the_tokenizer(small: Any) -> None:
    _, tokenizer = small
    messages = [{"role": "user", "content": "Who are you?"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert text.encode_prompt(tokenizer, "Who are you?") == expected
    assert text.encode_prompt(tokenizer, messages) == expected


def test_the_mask_covers_the_response_and_its_end_and_nothing_else(small: Any) -> None:
    _, tokenizer = small
    example = text.encode_response(tokenizer, "Who are you?", "I am Lumen.")
    marked = [token for token, response in zip(example.ids, example.response_mask, strict=True) if response]
    assert tokenizer.decode(marked) == "I am Lumen.<|im_end|>"
    assert example.ids[: -len(marked)] == text.encode_prompt(tokenizer, "Who are you?")
    cut = text.encode_response(tokenizer, "Who are you?", "I am Lumen.", ended=False)
    assert cut.ids == example.ids[:-1]


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_empty_prompts_and_responses_are_refused(small: Any, empty: str) -> None:
    _, tokenizer = small
    with pytest.raises(ValueError, match="prompt is empty"):
        text.encode_prompt(tokenizer, empty)
    with pytest.raises(ValueError, match="is empty"):
        text.encode_response(tokenizer, "Who are you?", empty)


EXAMPLES = [Example([5, 6, 7], [0, 1, 1]), Example([8, 9], [0, 1])]


def test_padding_is_on_the_right_and_marked_nowhere() -> None:
    batch = text.pad(EXAMPLES, pad_id=2)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 2]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.response_mask.tolist() == [[0, 1, 1], [0, 1, 0]]
    assert batch.to(torch.device("cpu")).input_ids.dtype == torch.long


def test_padding_refuses_what_it_would_have_to_cut() -> None:
    with pytest.raises(ValueError, match="3 tokens, more than max_length = 2"):
        text.pad(EXAMPLES, pad_id=0, max_length=2)
    with pytest.raises(ValueError, match="example 1 has 3 tokens and a response mask of 1"):
        text.pad([EXAMPLES[0], Example([5, 6, 7], [1])], pad_id=0)
    with pytest.raises(ValueError, match="batch is empty"):
        text.pad([], pad_id=0)


def test_packing_keeps_every_example_whole_and_reaches_the_fewest_bins() -> None:
    sizes = [3, 4, 5, 4, 6, 2]  # 24 tokens: three bins of 8 hold them exactly; best fit in this order takes four
    examples = [Example([size] * size, [1] * size) for size in sizes]
    bins = text.pack(examples, length=8)
    assert sorted(len(example.ids) for group in bins for example in group) == sorted(sizes)
    assert all(sum(len(example.ids) for example in group) <= 8 for group in bins)
    assert len(bins) == 3
    with pytest.raises(ValueError, match="9 tokens"):
        text.pack([Example([0] * 9, [1] * 9)], length=8)
