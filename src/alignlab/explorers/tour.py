"""A forward pass as small data for a page: the first numbers of every tensor at the last token, in 16-bit floats.

Knows tensors and token texts; nothing about models or pages.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from alignlab.explorers.heads import packed_weights

STAGES = (
    "norm1", "q", "k", "v", "turned_q", "turned_k", "mixed", "attention", "middle",
    "norm2", "gate", "up", "inner", "mlp", "out",
)  # fmt: skip
"""The tensors of one layer in the order in which they are computed."""

SHOWN = 8
"""How many numbers of each tensor are kept."""


def tour_example(
    title: str,
    tokens: Sequence[str],
    embedded: Tensor,
    layers: Sequence[Mapping[str, Tensor]],
    attention: Tensor,
    streams: Tensor,
    final: Tensor,
    guesses: Sequence[Sequence[tuple[str, float]]],
) -> dict[str, Any]:
    """One text for the explorer `model_tour`.

    tokens: the T token texts. embedded: (d,) the last token's embedding. layers: for each layer the tensors named in
    STAGES at the last token, one axis each. attention: (layers, heads, T), its weights. streams: (layers + 1, T, d),
    the residual stream before the first layer and after each. final: (d,) after the last norm. guesses: after the
    embedding and after each layer the likeliest tokens, with probabilities, if the output head read there. ValueError
    where the counts do not fit or a number is beyond 16 bits.
    """
    depth, length = len(layers), len(tokens)
    given = attention.shape[0], attention.shape[2], streams.shape[0], streams.shape[1], len(guesses)
    if given != (depth, length, depth + 1, length, depth + 1):
        raise ValueError(f"{depth} layers and {length} tokens do not fit attention, streams and guesses: {given}")
    tensors = [embedded, *(layer[name] for layer in layers for name in STAGES), final]
    values = np.stack([tensor.detach().double().cpu().numpy()[:SHOWN] for tensor in tensors])
    sizes = np.array([tensor.detach().double().square().mean().sqrt().item() for tensor in tensors])
    return {
        "title": title,
        "tokens": list(tokens),
        "layers": depth,
        "heads": attention.shape[1],
        "values": _halves(values),
        "rms": _halves(sizes),
        "attention": packed_weights(attention),
        "streams": _halves(streams.detach().double().square().mean(-1).sqrt().cpu().numpy()),
        "guesses": [[[token, round(float(p), 4)] for token, p in row] for row in guesses],
    }


def _halves(numbers: np.ndarray) -> str:
    """Base64 of 16-bit floats, little-endian, in order."""
    with np.errstate(over="ignore"):  # told below, with the number
        halves = numbers.astype("<f2")
    if not np.isfinite(halves).all():
        raise ValueError(f"{np.abs(numbers).max():.3g} is beyond a 16-bit float")
    return base64.b64encode(halves.tobytes()).decode()
