"""From messages to tensors: chat format, which tokens are the response, padding and packing.

Knows the tokenizer; nothing about models or losses.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


class Example(NamedTuple):
    """One tokenized text: ids, and for each token whether it is part of the response (is trained on or scored)."""

    ids: list[int]
    response_mask: list[int]


class Batch(NamedTuple):
    """Padded examples, each (B, T): token ids, 1 for a token and 0 for padding, 1 for a response token."""

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(*(tensor.to(device) for tensor in self))


def chat(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message]) -> str:
    """A prompt in the model's own chat format, ending where the assistant's answer begins.

    prompt: what the user says, or messages [{"role": ..., "content": ...}].
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not messages or not all(message["content"].strip() for message in messages):
        raise ValueError("the prompt is empty; give at least one message with some text")
    if tokenizer.chat_template is None:
        return "".join(message["content"] for message in messages)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message]) -> list[int]:
    """Token ids of a prompt in chat format. The template writes its own special tokens: none are added twice."""
    return tokenizer.encode(chat(tokenizer, prompt), add_special_tokens=False)


def encode_response(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message], response: str, ended: bool = True
) -> Example:
    """Prompt and response as one sequence, the response marked, its end-of-sequence token included.

    ended: False for an answer cut off before its end, which must not learn to stop there.
    Prompt and response are tokenized apart, so that the boundary is where generation would put it.
    """
    if not response.strip():
        raise ValueError(f"the response to {prompt!r} is empty; drop the pair or give a text")
    prompt_ids = encode_prompt(tokenizer, prompt)
    response_ids = tokenizer.encode(response, add_special_tokens=False)
    response_ids += [tokenizer.eos_token_id] if ended else []
    return join(prompt_ids, response_ids)


def join(prompt_ids: list[int], response_ids: list[int]) -> Example:
    """Prompt and response as one sequence, the response marked."""
    return Example(prompt_ids + response_ids, [0] * len(prompt_ids) + [1] * len(response_ids))


def pad(examples: Sequence[Example], pad_id: int, max_length: int | None = None) -> Batch:
    """Stack examples, padded on the right to the longest.

    ValueError where one exceeds max_length (nothing is cut silently), or where ids and mask differ in length.
    """
    if not examples:
        raise ValueError("there is nothing to pad: the batch is empty")
    longest = max(len(example.ids) for example in examples)
    if max_length is not None and longest > max_length:
        raise ValueError(f"an example has {longest} tokens, more than max_length = {max_length}; shorten or drop it")
    shape = (len(examples), longest)
    input_ids = torch.full(shape, pad_id)
    attention_mask, response_mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for row, (ids, mask) in enumerate(examples):
        if len(ids) != len(mask):
            raise ValueError(
                f"example {row} has {len(ids)} tokens and a response mask of {len(mask)}; give one a token"
            )
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attention_mask[row, : len(ids)] = 1
        response_mask[row, : len(ids)] = torch.tensor(mask)
    return Batch(input_ids, attention_mask, response_mask)


def pack(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Group examples into bins of at most `length` tokens, the longest first into the fullest bin that holds it.

    Best-fit decreasing (Johnson, 1973): nothing is cut, and little padding is left.
    """
    bins: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda example: -len(example.ids)):
        size = len(example.ids)
        if size > length:
            raise ValueError(f"an example has {size} tokens, more than the {length} of a bin; shorten or drop it")
        fits = [index for index, free in enumerate(room) if free >= size]
        if fits:
            best = min(fits, key=room.__getitem__)
            bins[best].append(example)
            room[best] -= size
        else:
            bins.append([example])
            room.append(length - size)
    return bins
