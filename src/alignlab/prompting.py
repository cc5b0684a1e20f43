"""Many prompts that begin alike: label words scored, answers continued, and a prompt's own leaning taken out.

Knows token ids and decoders; nothing about tasks or wording.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignlab.logprobs import output_logits
from alignlab.text import Example, pad
from alignlab.transformer import KVCache, Transformer


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts have in common, at most one less than the shortest has."""
    if not prompts or not all(prompts):
        raise ValueError("a prompt is empty, or there is none; give each at least one token")
    same = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in same), min(map(len, prompts)) - 1)


class Scores(NamedTuple):
    """After each of N prompts: log p of K label tokens (N, K), and the likeliest token of the whole vocabulary (N,)."""

    logprobs: Tensor
    likeliest: Tensor


@torch.inference_mode()
def label_scores(
    model: nn.Module, prompts: Sequence[Sequence[int]], token_ids: Sequence[int], batch_size: int = 64
) -> Scores:
    """log p(token | prompt) of each of these tokens after each prompt, in float32 on the CPU.

    prompts: token ids, of any lengths. What they have in common at their beginning, few-shot examples for instance, is
    read once; its keys and values are copied to every row of a batch. ValueError for an empty prompt, for one beyond
    the model's context, or where a token is named twice (two label words that begin alike cannot be told apart).
    """
    if len(set(token_ids)) != len(token_ids) or not token_ids:
        raise ValueError(f"the label tokens are {list(token_ids)}; give at least one, and all of them different")
    decoder = Transformer.view(model)
    wanted = torch.tensor(list(token_ids), device=decoder.norm.weight.device)
    found = Scores(torch.empty(len(prompts), len(token_ids)), torch.empty(len(prompts), dtype=torch.long))
    for rows, logits, _, _ in _read(decoder, prompts, batch_size, room=0):
        found.logprobs[rows] = (logits[:, wanted] - logits.logsumexp(-1, keepdim=True)).cpu()
        found.likeliest[rows] = logits.argmax(-1).cpu()
    return found


@torch.inference_mode()
def complete(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    batch_size: int = 64,
) -> list[list[int]]:
    """Each prompt's greedy continuation, without its stop token: what the prompts have in common is read once.

    max_new_tokens: at least 1. stop_ids: tokens that end an answer, such as a line break after one line.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    decoder = Transformer.view(model)
    answers: list[list[int]] = [[] for _ in prompts]
    for rows, logits, cache, mask in _read(decoder, prompts, batch_size, room=max_new_tokens):
        going = torch.ones(len(rows), dtype=torch.bool)
        for step in range(max_new_tokens):
            tokens = logits.argmax(-1)
            for index, token in enumerate(tokens.tolist()):
                going[index] &= token not in stop_ids
                if going[index]:
                    answers[rows[index]].append(token)
            if step + 1 == max_new_tokens or not going.any():
                break
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            logits = output_logits(decoder, decoder.hidden(tokens[:, None], mask, cache)[:, -1])
    return answers


def _read(
    decoder: Transformer, prompts: Sequence[Sequence[int]], batch_size: int, room: int
) -> Iterator[tuple[list[int], Tensor, KVCache, Tensor]]:
    """Batches of prompts behind their shared prefix: rows, logits (B, V) after each, the cache and its mask (B, S).

    room: positions that the cache keeps free. Rows are padded on the right, and padding is masked.
    """
    device = decoder.norm.weight.device
    shared = shared_length(prompts)
    longest = max(map(len, prompts)) + room
    if longest > decoder.config.max_position_embeddings:
        raise ValueError(
            f"a prompt and its answer need {longest} tokens, more than the model's context of "
            f"{decoder.config.max_position_embeddings}; use fewer examples"
        )
    prefix = decoder.cache(1, shared)
    if shared:
        decoder.hidden(torch.tensor([list(prompts[0][:shared])], device=device), cache=prefix)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))  # like lengths together: little padding
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ends = [Example(list(prompts[row][shared:]), [1] * (len(prompts[row]) - shared)) for row in rows]
        ids, mask, _ = pad(ends, 0).to(device)
        cache = decoder.cache(len(rows), shared + ids.shape[1] + room)
        cache.keys[:, :, :, :shared], cache.values[:, :, :, :shared] = prefix.keys, prefix.values  # one row to all
        cache.length = shared
        last = mask.sum(-1) - 1
        mask = torch.cat([mask.new_ones(len(rows), shared), mask], 1)
        states = decoder.hidden(ids, mask, cache)[torch.arange(len(rows), device=device), last]  # (B, hidden)
        yield rows, output_logits(decoder, states), cache, mask


def calibrate(logprobs: Tensor, content_free: Tensor) -> Tensor:
    """Contextual calibration, Zhao et al. (2021), section 5: log q with q proportional to p / p_cf.

    logprobs: of K label words for N inputs, (N, K). content_free: of the same words for M inputs without content, such
    as "N/A", under the same prompt, (M, K); p_cf is the mean of their normalized probabilities. Returns (N, K), each
    row's probabilities summing to 1. The paper takes softmax(p / p_cf), which has the same largest label.
    """
    if logprobs.ndim != 2 or content_free.ndim != 2 or logprobs.shape[1] != content_free.shape[1]:
        raise ValueError(
            f"logprobs are {tuple(logprobs.shape)}, content_free {tuple(content_free.shape)}; give (N, K) and (M, K)"
        )
    prior = content_free.log_softmax(-1).exp().mean(0)
    return (logprobs.log_softmax(-1) - prior.log()).log_softmax(-1)
