"""Attention in its variants: plain, in blocks, latent (MLA); and what tells it positions: sinusoids, ALiBi, rotation.

Knows tensors and the decoder's parts; nothing about training. Query head i shares key and value head i // (h / h_kv).
`LatentAttention` stands in for `transformer.Attention`: exchange a block's `self_attn`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignlab.counting import Latent
from alignlab.transformer import KVCache, RMSNorm, rotate


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    r"""softmax(q k^T / sqrt(d_h)) v, Vaswani et al. (2017), eq. 1, with grouped heads, Ainslie et al. (2023).

    q: (B, h, T, d_h). k: (B, h_kv, S, d_h), v: (B, h_kv, S, d_v): h_kv = h is multi-head attention, 1 is multi-query.
    mask: None where every query sees every key; else (B or 1, h or 1, T, S): True where a query may see a key, or
    numbers that are added to the scores. scale: default 1 / sqrt(d_h).
    Returns the mixed values (B, h, T, d_v) and the weights (B, h, T, S), whose rows sum to 1.
    """
    queries = _grouped(q, k)  # (B, h_kv, g, T, d_h)
    scores = queries @ k[:, :, None].transpose(-2, -1) * (scale or q.shape[-1] ** -0.5)
    scores = scores.flatten(1, 2)  # (B, h, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1)
    mixed = weights.unflatten(1, queries.shape[1:3]) @ v[:, :, None]
    return mixed.flatten(1, 2), weights


def blockwise_attention(
    q: Tensor, k: Tensor, v: Tensor, block: int = 64, causal: bool = True, scale: float | None = None
) -> Tensor:
    r"""The same mixed values with no (T, S) matrix: Dao et al. (2022), algorithm 1; queries outside, as in Dao (2023).

    Shapes as in `attention`. block: rows and columns of scores that exist at a time. causal: the last query stands at
    the last key, and sees no key after itself. Of each query it keeps the largest score so far, the sum of
    exp(score - largest) and the sum of values so weighted; where a larger score comes, both sums shrink by
    exp(old - new), the online softmax of Milakov and Gimelshein (2018). Returns (B, h, T, d_v).
    """
    if block < 1:
        raise ValueError(f"block is {block}; give at least 1 row")
    length, width = q.shape[2], k.shape[2]
    if causal and length > width:
        raise ValueError(f"{length} queries stand at the end of {width} keys: there are too few keys")
    scale = scale or q.shape[-1] ** -0.5
    queries, k, v = _grouped(q, k), k[:, :, None], v[:, :, None]
    done = []
    for begin in range(0, length, block):
        rows = queries[:, :, :, begin : begin + block]  # (B, h_kv, g, rows, d_h)
        first = begin + width - length  # the first row's position among the keys
        last = first + rows.shape[3]
        at = torch.arange(first, last, device=q.device)[:, None]
        largest = rows.new_full((*rows.shape[:-1], 1), -torch.inf)
        total, mixed = torch.zeros_like(largest), rows.new_zeros(*rows.shape[:-1], v.shape[-1])
        for start in range(0, last if causal else width, block):
            seen = slice(start, min(start + block, width))
            scores = rows @ k[..., seen, :].transpose(-2, -1) * scale
            if causal:
                scores = scores.masked_fill(torch.arange(start, seen.stop, device=q.device) > at, -torch.inf)
            new = torch.maximum(largest, scores.amax(-1, keepdim=True))
            weights, shrink = (scores - new).exp(), (largest - new).exp()
            total = total * shrink + weights.sum(-1, keepdim=True)
            mixed = mixed * shrink + weights @ v[..., seen, :]
            largest = new
        done.append(mixed / total)
    return torch.cat(done, dim=3).flatten(1, 2)


def _grouped(q: Tensor, k: Tensor) -> Tensor:
    """Queries by the key head that they share: (B, h, T, d_h) -> (B, h_kv, h / h_kv, T, d_h)."""
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads evenly")
    return q.unflatten(1, (k.shape[1], -1))


# ---- positions


def sinusoidal_positions(positions: Tensor, size: int, base: float = 10_000.0) -> Tensor:
    """sin and cos of position / base^(2i/size) in turn, Vaswani et al. (2017), sec. 3.5; added to the embeddings.

    positions: (...) -> (..., size), size even.
    """
    if size % 2:
        raise ValueError(f"size is {size}; sines and cosines come in pairs, so give an even one")
    exponents = torch.arange(0, size, 2, device=positions.device).float() / size
    angles = positions[..., None].float() / base**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def alibi_slopes(heads: int) -> Tensor:
    """Press et al. (2021), sec. 3: 2^(-8/h), 2^(-16/h), ... for h a power of two; (h,), all in (0, 1).

    For another h, as in the authors' code: the slopes of the power of two below, then every second one of twice it.
    """
    if heads < 1:
        raise ValueError(f"heads is {heads}; give at least 1")
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(slopes + between)


def alibi(heads: int, length: int, past: int = 0) -> Tensor:
    """What ALiBi adds to the scores: minus slope times distance, -inf for the future; (1, heads, T, past + T).

    Press et al. (2021), sec. 3. It is the mask of `Transformer.states`, whose positions are then all 0.
    """
    distance = torch.arange(past, past + length)[:, None] - torch.arange(past + length)
    bias = -alibi_slopes(heads)[:, None, None] * distance
    return bias.masked_fill(distance < 0, -torch.inf)[None]


def rotary_score(q: Tensor, k: Tensor, distances: Tensor, theta: float = 10_000.0) -> Tensor:
    r"""q^T k after both were turned, from their distance alone: Su et al. (2021), eq. 16 (without 1 / sqrt(d_h)).

    q, k: (..., d_h) before they are turned, pairs (i, i + d_h/2) as in `transformer.rotate`. distances: (D,), position
    of the query minus that of the key. Each pair gives Re(q conj(k) e^(i distance frequency)). Returns (..., D).
    """
    a, b = q.chunk(2, dim=-1)
    c, d = k.chunk(2, dim=-1)
    frequencies = theta ** -(torch.arange(0, q.shape[-1], 2, device=q.device).to(q.dtype) / q.shape[-1])
    angles = distances.to(q.dtype)[:, None] * frequencies  # (D, d_h / 2)
    along, across = a * c + b * d, b * c - a * d
    return (along[..., None, :] * angles.cos() - across[..., None, :] * angles.sin()).sum(-1)


# ---- latent attention


class LatentCache(KVCache):
    """What latent attention keeps: `keys` holds the latents, (layers, B, 1, capacity, kv_rank).

    `values` holds the turned keys, (layers, B, 1, capacity, rotary_dim).
    """

    def __init__(
        self,
        latent: Latent,
        layers: int,
        batch: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (layers, batch, 1, capacity)
        self.keys = torch.zeros(*shape, latent.kv_rank, device=device, dtype=dtype)
        self.values = torch.zeros(*shape, latent.rotary_dim, device=device, dtype=dtype)
        self.length = 0


class LatentAttention(nn.Module):
    """Multi-head latent attention, DeepSeek-AI (2024), DeepSeek-V2, eq. 9-19; stands in for `transformer.Attention`.

    Its modules carry the names of transformers' DeepSeek. The Transformer's Config has head_dim = latent.rotary_dim,
    since only that part of queries and keys is turned.
    """

    def __init__(self, hidden_size: int, heads: int, latent: Latent, eps: float = 1e-6) -> None:
        super().__init__()
        self.heads, self.latent = heads, latent
        query = heads * (latent.plain_dim + latent.rotary_dim)
        if latent.query_rank:
            self.q_a_proj = nn.Linear(hidden_size, latent.query_rank, bias=False)
            self.q_a_layernorm = RMSNorm(latent.query_rank, eps)
            self.q_b_proj = nn.Linear(latent.query_rank, query, bias=False)
        else:
            self.q_proj = nn.Linear(hidden_size, query, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden_size, latent.kv_rank + latent.rotary_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(latent.kv_rank, eps)
        self.kv_b_proj = nn.Linear(latent.kv_rank, heads * (latent.plain_dim + latent.value_dim), bias=False)
        self.o_proj = nn.Linear(heads * latent.value_dim, hidden_size, bias=False)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        """x (B, T, hidden) -> (B, T, hidden); arguments as in `transformer.Attention`, the cache a `LatentCache`.

        With a cache the weights that make keys and values move to the other side (`absorbed`): nothing is rebuilt.
        """
        batch, length, _ = x.shape
        if rotary[0].shape[-1] != self.latent.rotary_dim:
            raise ValueError(
                f"the angles are for {rotary[0].shape[-1]} numbers and latent.rotary_dim is {self.latent.rotary_dim}; "
                "give the Transformer a Config with head_dim = latent.rotary_dim"
            )
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if self.latent.query_rank else self.q_proj(x)
        q = q.view(batch, length, self.heads, -1).transpose(1, 2)  # (B, h, T, plain_dim + rotary_dim)
        q, q_turned = q.split([self.latent.plain_dim, self.latent.rotary_dim], dim=-1)
        c, k_turned = self.kv_a_proj_with_mqa(x)[:, None].split([self.latent.kv_rank, self.latent.rotary_dim], dim=-1)
        c = self.kv_a_layernorm(c)  # (B, 1, T, kv_rank)
        q_turned, k_turned = rotate(q_turned, *rotary), rotate(k_turned, *rotary)
        if cache is not None:
            c, k_turned = cache.extend(layer, c, k_turned)
        mix = self.expanded if cache is None else self.absorbed
        mixed = mix(q, q_turned, c, k_turned, mask)  # (B, h, T, value_dim)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))

    def expanded(self, q: Tensor, q_turned: Tensor, c: Tensor, k_turned: Tensor, mask: Tensor | None) -> Tensor:
        """Keys and values of every head, made from the latents: eq. 10, 11 and 16-18. As one trains.

        q (B, h, T, plain_dim), q_turned (B, h, T, rotary_dim), c (B, 1, S, kv_rank), k_turned (B, 1, S, rotary_dim).
        Returns (B, h, T, value_dim).
        """
        made = self.kv_b_proj(c[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = made.split([self.latent.plain_dim, self.latent.value_dim], dim=-1)
        k = torch.cat([k, k_turned.expand(-1, self.heads, -1, -1)], dim=-1)
        return self._attend(torch.cat([q, q_turned], dim=-1), k, v, mask)

    def absorbed(self, q: Tensor, q_turned: Tensor, c: Tensor, k_turned: Tensor, mask: Tensor | None) -> Tensor:
        """The same with q^T (W c) as (W^T q)^T c: multi-query attention over the latents themselves. As one decodes.

        Sec. 2.1.2 of the paper: the matrix that makes keys is absorbed into the queries, the one that makes values is
        applied to the mixed latent, once for each query instead of once for each token kept.
        """
        make_k, make_v = self.kv_b_proj.weight.unflatten(0, (self.heads, -1)).split(
            [self.latent.plain_dim, self.latent.value_dim], dim=1
        )  # (h, plain_dim, kv_rank), (h, value_dim, kv_rank)
        query = torch.cat([q @ make_k, q_turned], dim=-1)  # (B, h, T, kv_rank + rotary_dim)
        mixed = self._attend(query, torch.cat([c, k_turned], dim=-1), c, mask)  # (B, h, T, kv_rank)
        return mixed @ make_v.transpose(-2, -1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        scale = (self.latent.plain_dim + self.latent.rotary_dim) ** -0.5
        causal = mask is None and q.shape[2] > 1
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True)
