"""Attention weights of a whole model as small data for a page: 4 bits a weight, the lower triangle only.

Knows weights and token texts; nothing about models or pages.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEVELS = 15
"""The largest code. A weight a is kept as round(15 sqrt(a)), so that small weights are told apart."""


def attention_example(title: str, tokens: Sequence[str], weights: Tensor) -> dict[str, Any]:
    """One text for the explorer `attention_heads`: its tokens, and each head's weights packed.

    tokens: the T token texts, in order. weights: (layers, heads, T, T), row t the weights of position t over positions
    up to t. Returns {title, tokens, layers, heads, packed}; `packed` is base64 of two codes a byte, the first in the
    high half, in the order layer, head, row, column up to the row. ValueError where shapes do not fit, a row does not
    sum to 1, or a position reads a later one.
    """
    if weights.ndim != 4 or weights.shape[2] != weights.shape[3] or weights.shape[2] != len(tokens):
        raise ValueError(
            f"weights are {tuple(weights.shape)} for {len(tokens)} tokens; give (layers, heads, T, T) with T tokens"
        )
    kept = weights.detach().double().cpu()
    length = len(tokens)
    rows, columns = torch.tril_indices(length, length)
    if later := float(kept.triu(1).abs().max()):
        raise ValueError(f"a position reads a later one with weight {later:.3g}; give causal attention weights")
    if (away := float((kept.sum(-1) - 1).abs().max())) > 1e-3:
        raise ValueError(f"a row of weights misses 1 by {away:.3g}; give weights after the softmax")
    return {
        "title": title,
        "tokens": list(tokens),
        "layers": weights.shape[0],
        "heads": weights.shape[1],
        "packed": packed_weights(kept[:, :, rows, columns]),
    }


def packed_weights(weights: Tensor) -> str:
    """Weights between 0 and 1 as base64 of two codes a byte, the first in the high half, in the tensor's order."""
    codes = (LEVELS * weights.detach().double().clamp(0, 1).sqrt()).round().to(torch.uint8).cpu().flatten().numpy()
    codes = np.append(codes, np.zeros(len(codes) % 2, dtype=np.uint8))
    return base64.b64encode((codes[0::2] << 4 | codes[1::2]).tobytes()).decode("ascii")


def unpacked_weights(example: dict[str, Any]) -> Tensor:
    """The weights that a page shows for an example, (layers, heads, T, T): codes back to weights, rows summing to 1."""
    length, shape = len(example["tokens"]), (example["layers"], example["heads"])
    pairs = np.frombuffer(base64.b64decode(example["packed"]), np.uint8)
    codes = np.stack([pairs >> 4, pairs & LEVELS], 1).reshape(-1).astype(np.float64)
    rows, columns = torch.tril_indices(length, length)
    size = shape[0] * shape[1] * len(rows)
    if len(codes) - size not in (0, 1):
        raise ValueError(f"{len(codes)} codes for {shape[0]} layers, {shape[1]} heads and {length} tokens: want {size}")
    weights = torch.zeros(*shape, length, length, dtype=torch.float64)
    weights[:, :, rows, columns] = torch.from_numpy((codes[:size] / LEVELS) ** 2).view(*shape, -1)
    return weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
