"""Encoder, encoder-decoder and prefix decoder from the decoder's own parts: masks, cross-attention, what is hidden.

Knows what each family sees and is asked to predict; nothing about optimizers. A causal decoder is `Transformer` itself.
"""

from collections.abc import Iterable, Sequence
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignlab.transformer import MLP, Attention, Config, RMSNorm, Transformer, draw_weights, rotary_angles

IGNORED = -100
"""The label of a position that is not predicted, as in torch's cross_entropy."""


# ---- who sees whom


def full_mask(attention_mask: Tensor) -> Tensor:
    """An encoder's mask: each token sees every token, before and after it; nobody sees padding.

    attention_mask: (B, T), 1 for a token. Returns (B, 1, T, T), True where the row may see the column. A row of
    padding sees itself, so that its softmax is over something.
    """
    seen = attention_mask.bool()[:, None, None, :] | torch.eye(
        attention_mask.shape[1], dtype=torch.bool, device=attention_mask.device
    )
    return seen.expand(-1, 1, attention_mask.shape[1], -1)


def prefix_mask(prefix: Tensor, length: int) -> Tensor:
    """A prefix decoder's mask, Dong et al. (2019), figure 1: the prefix sees itself whole, the rest sees the past.

    prefix: (B,), how many tokens of each row are prefix, 0 to length; 0 or 1 gives the causal mask, `length` the
    encoder's. Returns (B, 1, T, T), True where the row may see the column.
    """
    if prefix.numel() and not 0 <= int(prefix.min()) <= int(prefix.max()) <= length:
        raise ValueError(f"prefixes of {prefix.min().item()} to {prefix.max().item()} tokens in rows of {length}")
    place = torch.arange(length, device=prefix.device)
    causal = place[None, :] <= place[:, None]
    return (causal | (place < prefix[:, None, None]))[:, None]


# ---- the encoder-decoder


class CrossAttention(nn.Module):
    """Queries from the text that is written, keys and values from the one that was read: Vaswani et al. (2017), 3.2.3.

    Nothing is rotated: positions of two texts have no distance.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries, shared = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, shared, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, shared, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, T, hidden) and the encoder's states (B, S, hidden) -> (B, T, hidden). mask: (B, S), 1 for a token."""

        def heads(projection: nn.Linear, states: Tensor) -> Tensor:
            return projection(states).view(*states.shape[:2], -1, self.head_dim).transpose(1, 2)

        q, k, v = heads(self.q_proj, x), heads(self.k_proj, memory), heads(self.v_proj, memory)
        seen = None if mask is None else mask.bool()[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """The decoder's layer with a third part between attention and MLP: a look at what the encoder made of its text."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.cross_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.cross_attn = CrossAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config.hidden_size, config.intermediate_size)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], memory: Tensor, memory_mask: Tensor | None, layer: int
    ) -> Tensor:
        """x (B, T, hidden), memory (B, S, hidden) -> (B, T, hidden). Among themselves the new tokens are causal."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, None, None, layer)
        x = x + self.cross_attn(self.cross_layernorm(x), memory, memory_mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class EncoderDecoder(nn.Module):
    """Reads a source in both directions, writes a target from left to right. Both share one table of embeddings."""

    def __init__(self, config: Config, decoder_layers: int | None = None) -> None:
        """config: of the encoder, whose num_hidden_layers the decoder shares unless it is given its own."""
        super().__init__()
        self.config = config
        self.encoder = Transformer(config)
        count = config.num_hidden_layers if decoder_layers is None else decoder_layers
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(count))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def initialize(self, std: float = 0.02) -> Self:
        """Fresh weights, normal with this standard deviation."""
        draw_weights(self, std)
        return self

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """The encoder's states (B, S, hidden) of tokens (B, S); source_mask (B, S), 1 for a token."""
        mask = torch.ones_like(source) if source_mask is None else source_mask
        positions = torch.arange(source.shape[1], device=source.device)[None]
        return self.encoder.states(self.encoder.embed_tokens(source), positions, full_mask(mask))

    def decode(self, target: Tensor, memory: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Next-token logits (B, T, vocab) after each token of the target (B, T), which begins with a start token."""
        x = self.encoder.embed_tokens(target)
        rotary = rotary_angles(self.config, torch.arange(target.shape[1], device=target.device)[None])
        for layer, block in enumerate(cast(Iterable[DecoderBlock], self.layers)):
            x = block(x, rotary, memory, source_mask, layer)
        return self.encoder.lm_head(self.norm(x))

    def forward(self, source: Tensor, target: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, vocab) for the token after each token of the target, having read the source (B, S)."""
        return self.decode(target, self.encode(source, source_mask), source_mask)


# ---- what is hidden, and what must be said


def mask_tokens(
    ids: Tensor, mask_id: int, vocabulary: int, rate: float = 0.15, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Inputs and labels of masked language modelling, Devlin et al. (2018), section 3.1: each (B, T).

    Each token is chosen with probability `rate`. Of the chosen, 80% become `mask_id`, 10% a random token of the
    vocabulary, 10% stay; the label is the token itself where it was chosen, IGNORED elsewhere.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"the rate is {rate}; it is a probability above 0")
    chosen = torch.rand(ids.shape, generator=generator) < rate
    fate = torch.rand(ids.shape, generator=generator)
    others = torch.randint(vocabulary, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), others, inputs)
    return inputs, torch.where(chosen, ids, IGNORED)


def corrupt_spans(
    ids: Sequence[int], spans: Sequence[tuple[int, int]], sentinels: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Source and target of span corruption, Raffel et al. (2019), figure 2.

    spans: (start, end) in order, not empty, not touching. Each is replaced by the next sentinel in the source; the
    target names each sentinel before the tokens that it stands for, and ends with one more.
    """
    if len(sentinels) <= len(spans):
        raise ValueError(f"{len(spans)} spans need {len(spans) + 1} sentinels; there are {len(sentinels)}")
    source: list[int] = []
    target: list[int] = []
    at = 0
    for (start, end), sentinel in zip(spans, sentinels, strict=False):
        if not (at < start or at == start == 0) or not start < end <= len(ids):
            raise ValueError(f"span {start} to {end} is empty, out of order, or touches its neighbour")
        source += [*ids[at:start], sentinel]
        target += [sentinel, *ids[start:end]]
        at = end
    return [*source, *ids[at:]], [*target, sentinels[len(spans)]]


def stream(source: Sequence[int], target: Sequence[int], labelled: str = "target") -> tuple[list[int], list[int]]:
    """A source and its target as one row for a decoder: tokens, and labels shifted to where they are predicted.

    labelled: "target" scores the target alone (prefix language modelling), "all" every token but the first.
    """
    ids = [*source, *target]
    first = len(source) if labelled == "target" else 1
    labels = [IGNORED] * len(ids)
    for place in range(max(first, 1), len(ids)):
        labels[place - 1] = ids[place]
    return ids, labels
