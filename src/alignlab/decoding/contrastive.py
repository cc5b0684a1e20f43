"""Contrastive search: likely next tokens, of which the one whose hidden state resembles the text so far least."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignlab.decoding.sampling import Completion, _require, pad_left
from alignlab.transformer import Transformer


def contrastive_score(probs: Tensor, states: Tensor, past: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) p(v) - alpha max_j cos(h_v, h_j), Su et al. (2022), eq. 5.

    probs: (B, k) probabilities of the candidates; states: (B, k, H) their hidden states; past: (B, T, H) unit-length
    hidden states of the tokens so far, zero for padding. Returns (B, k).
    """
    similarity = F.normalize(states, dim=-1) @ past.transpose(1, 2)  # (B, k, T)
    similarity = similarity.masked_fill((past == 0).all(-1)[:, None], -torch.inf)
    return (1 - alpha) * probs - alpha * similarity.amax(-1)


@torch.inference_mode()
def contrastive_search(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    k: int = 4,
    alpha: float = 0.6,
    *,
    stop_id: int | None = None,
) -> list[Completion]:
    """Continue each prompt by contrastive search, Su et al. (2022); deterministic. alpha 0 or k 1 is greedy search.

    model, prompts, max_new_tokens, stop_id: as for `generate`. k: candidates a step, each of which costs a row of the
    batch. alpha: weight of the degeneration penalty, 0 to 1. The states compared are the last layer's, normalized.
    """
    decoder = Transformer.view(model)
    device = decoder.norm.weight.device
    _require(k >= 1 and k == int(k), f"k is {k}; it must be a whole number, at least 1")
    _require(0 <= alpha <= 1, f"alpha is {alpha}; it must be between 0 and 1")
    tokens, present, padded = pad_left(prompts, max_new_tokens, decoder.config.max_position_embeddings, device)
    longest, end = tokens.shape[1] - max_new_tokens, tokens.shape[1]
    k = min(k, decoder.config.vocab_size)
    cache = decoder.cache(len(prompts), end)
    states = decoder.hidden(tokens[:, :longest], present[:, :longest] if padded else None, cache)
    logits = decoder.lm_head(states[:, -1]).float()
    past = F.normalize(states.float(), dim=-1) * present[:, :longest, None]
    rows = torch.arange(len(prompts), device=device)  # which prompt each of the batch's searches belongs to
    cache.select(rows.repeat_interleave(k))
    completions: dict[int, Completion] = {}
    for at in range(longest, end):
        probs, candidates = logits.softmax(-1).topk(k)  # (B, k)
        mask = present[rows, : at + 1].repeat_interleave(k, dim=0) if padded else None
        states = decoder.hidden(candidates.view(-1, 1), mask, cache).view(len(rows), k, -1)
        chosen = contrastive_score(probs, states.float(), past, alpha).argmax(-1)
        batch = torch.arange(len(rows), device=device)
        next_ids, state = candidates[batch, chosen], states[batch, chosen]
        tokens[rows, at] = next_ids
        kept = (batch * k + chosen).repeat_interleave(k)  # all k rows go on from the chosen candidate
        cache.keys[:, :, :, at], cache.values[:, :, :, at] = cache.keys[:, kept, :, at], cache.values[:, kept, :, at]
        past = torch.cat([past, F.normalize(state.float(), dim=-1)[:, None]], dim=1)
        logits = decoder.lm_head(state).float()
        if stop_id is not None and bool((stopped := next_ids == stop_id).any()):
            for row in rows[stopped].tolist():
                completions[row] = Completion(tokens[row, longest:at].tolist(), ended=True)
            going = (~stopped).nonzero().flatten()
            if not len(going):
                break
            rows, past, logits = rows[going], past[going], logits[going]
            cache.select((going[:, None] * k + torch.arange(k, device=device)).flatten())
    for row in set(range(len(prompts))) - completions.keys():
        completions[row] = Completion(tokens[row, longest:].tolist(), ended=False)
    return [completions[row] for row in range(len(prompts))]
