"""A next-token distribution as small data for a page: the best tokens one by one, the rest of the vocabulary by rank.

Knows logits and token ids; nothing about models, prompts or pages.
"""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor


class Tail(TypedDict):
    """Groups of tokens of neighbouring rank: how many, and the logit that gives each its true mass at T = 1."""

    size: list[int]
    logit: list[float]


class Columns(TypedDict):
    """What a page needs of one prompt: tokens that stand for themselves, by falling logit, and the grouped rest."""

    id: list[int]
    logit: list[float]
    seen: list[int]
    tail: Tail


def next_token_columns(
    logits: Tensor, context: list[int], best: int = 200, singles: int = 200, growth: float = 0.025
) -> Columns:
    """Summarize next-token logits (V,): any temperature and truncation can be worked out from a few hundred numbers.

    context: token ids read so far; each that occurs stands for itself, for the repetition penalty acts on tokens.
    best: how many of the likeliest tokens stand for themselves. singles: how many groups of one token open the tail,
    where cuts often fall. growth: the share of a later group in the ranks above it. Groups this narrow keep
    probabilities and tail mass within 1e-3 of the full vocabulary's at temperatures from 0.05 to 2.
    `seen` holds places in `id`, not token ids.
    """
    if logits.ndim != 1:
        raise ValueError(f"the logits have shape {tuple(logits.shape)}; give those of one position, (vocabulary,)")
    values = logits.detach().double().cpu()
    order = values.argsort(descending=True, stable=True)
    occurred = torch.zeros(len(values), dtype=torch.bool)
    occurred[context] = True
    alone = occurred[order]
    alone[:best] = True
    shown, rest = order[alone], values[order[~alone]]
    size: list[int] = []
    logit: list[float] = []
    start = 0
    while start < len(rest):
        width = 1 if start < singles else math.ceil((best + start) * growth)
        stop = min(len(rest), start + width)
        size.append(stop - start)
        logit.append(round((rest[start:stop].logsumexp(0) - math.log(stop - start)).item(), 4))
        start = stop
    return {
        "id": shown.tolist(),
        "logit": [round(value, 5) for value in values[shown].tolist()],
        "seen": occurred[shown].nonzero()[:, 0].tolist(),
        "tail": {"size": size, "logit": logit},
    }
