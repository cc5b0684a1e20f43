"""Attention against loops over its definition, torch, DeepSeek's and BLOOM's code; and wrong versions rejected."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DeepseekV3Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from alignlab.architectures.attention import (
    LatentAttention,
    LatentCache,
    alibi,
    alibi_slopes,
    attention,
    blockwise_attention,
    rotary_score,
    sinusoidal_positions,
)
from alignlab.counting import Architecture, Latent, kv_cache_bytes
from alignlab.transformer import Config, Transformer, rotary_angles, rotate

Attend = Callable[..., Tensor]


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads(h: int = 4, h_kv: int = 2, rows: int = 7, columns: int = 7, size: int = 6, value: int = 5) -> list[Tensor]:
    return [
        drawn(2, h, rows, size, seed=1, scale=2.0),
        drawn(2, h_kv, columns, size, seed=2),
        drawn(2, h_kv, columns, value, seed=3),
    ]


def by_hand(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The definition, one number after the other."""
    batch, h, rows, size = q.shape
    columns, shared = k.shape[2], h // k.shape[1]
    out = torch.zeros(batch, h, rows, v.shape[-1], dtype=q.dtype)
    for b in range(batch):
        for i in range(h):
            for t in range(rows):
                limit = t + columns - rows + 1 if causal else columns
                scores = [
                    sum(q[b, i, t, e].item() * k[b, i // shared, s, e].item() for e in range(size)) / math.sqrt(size)
                    for s in range(limit)
                ]
                odds = [math.exp(score) for score in scores]
                for s in range(limit):
                    out[b, i, t] += odds[s] / sum(odds) * v[b, i // shared, s]
    return out


def causal_mask(rows: int, columns: int) -> Tensor:
    return torch.arange(columns) <= torch.arange(columns - rows, columns)[:, None]


# ---- plain attention


def check_attention(attend: Callable[..., tuple[Tensor, Tensor]]) -> None:
    for shape in ({}, {"h_kv": 1}, {"h_kv": 4}, {"rows": 3, "columns": 8}):
        q, k, v = heads(**shape)
        mask = causal_mask(q.shape[2], k.shape[2])
        for causal in (True, False):
            mixed, weights = attend(q, k, v, mask if causal else None)
            torch.testing.assert_close(mixed, by_hand(q, k, v, causal))
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=q.dtype))
            assert weights.shape == (2, 4, q.shape[2], k.shape[2]) and not (causal and weights[..., ~mask].any())
    numbers = torch.zeros_like(mask, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(attend(q, k, v, numbers)[0], attend(q, k, v, mask)[0])


def test_attention_equals_its_definition_number_by_number() -> None:
    check_attention(attention)


def test_attention_equals_torchs() -> None:
    q, k, v = heads()
    want = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attention(q, k, v, causal_mask(7, 7))[0], want)


def tiled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    k, v = (x.repeat(1, q.shape[1] // x.shape[1], 1, 1) for x in (k, v))
    return attention(q, k, v, mask)


def over_queries(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-2).nan_to_num()
    return weights @ v, weights


def masked_after(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    weights = attention(q, k, v)[1]
    weights = weights if mask is None else weights * (mask if mask.dtype == torch.bool else mask.exp())
    return weights @ v.repeat_interleave(q.shape[1] // v.shape[1], 1), weights


def one_too_many(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.cat([mask[..., 1:], torch.ones_like(mask[..., :1])], dim=-1)
    return attention(q, k, v, mask)


WRONG_ATTENTION: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "no scale": lambda q, k, v, mask=None: attention(q, k, v, mask, scale=1.0),
    "scale by the number of keys": lambda q, k, v, mask=None: attention(q, k, v, mask, scale=k.shape[2] ** -0.5),
    "scale without the root": lambda q, k, v, mask=None: attention(q, k, v, mask, scale=1 / q.shape[-1]),
    "key heads in the wrong order": tiled,
    "softmax over the queries": over_queries,
    "mask after the softmax": masked_after,
    "mask off by one": one_too_many,
}


@pytest.mark.parametrize("name", WRONG_ATTENTION)
def test_a_wrong_attention_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_attention(WRONG_ATTENTION[name])


def test_heads_that_cannot_be_shared_evenly_are_named() -> None:
    q, k, v = heads(h=4, h_kv=3)
    with pytest.raises(ValueError, match="4 query heads cannot share 3 key heads"):
        attention(q, k, v)


# ---- in blocks


def check_blockwise(attend: Attend) -> None:
    for rows, columns, h_kv in ((7, 7, 2), (3, 10, 1), (12, 12, 4), (1, 9, 2)):
        q, k, v = heads(h_kv=h_kv, rows=rows, columns=columns)
        k = k * torch.linspace(0.1, 8, columns, dtype=k.dtype)[:, None]  # the largest score comes late, and is large
        for block in (1, 2, 5, 64):
            for causal in (True, False):
                torch.testing.assert_close(attend(q, k, v, block=block, causal=causal), by_hand(q, k, v, causal))
    large = attend(q * 1e3, k, v, block=2)
    assert large.isfinite().all()


def test_attention_in_blocks_equals_its_definition() -> None:
    check_blockwise(blockwise_attention)


def test_attention_in_blocks_has_torchs_gradients() -> None:
    def gradients(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        inputs = [x.requires_grad_() for x in heads(rows=9, columns=9)]
        return torch.autograd.grad(attend(*inputs).square().sum(), inputs)

    ours = gradients(lambda q, k, v: blockwise_attention(q, k, v, block=4))
    theirs = gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want)


def blocks(
    keep_largest: bool = True, shrink_total: bool = True, shrink_mixed: bool = True, divide_each: bool = False
) -> Attend:
    """Attention in blocks of keys, with a mistake in how a block joins those before it."""

    def attend(q: Tensor, k: Tensor, v: Tensor, block: int = 4, causal: bool = True) -> Tensor:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        mask = causal_mask(q.shape[2], k.shape[2]) if causal else torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
        largest = q.new_full((*q.shape[:-1], 1), -torch.inf)
        total, mixed = torch.zeros_like(largest), q.new_zeros(*q.shape[:-1], v.shape[-1])
        for start in range(0, k.shape[2], block):
            part = slice(start, start + block)
            scores = (q @ k[:, :, part].transpose(-2, -1) * q.shape[-1] ** -0.5).masked_fill(~mask[:, part], -torch.inf)
            new = torch.maximum(largest, scores.amax(-1, keepdim=True)) if keep_largest else torch.zeros_like(largest)
            weights = (scores - new).exp()
            shrink = (largest - new).exp() if keep_largest else torch.ones_like(largest)
            if divide_each:
                weights = (weights / weights.sum(-1, keepdim=True)).nan_to_num()
            total = total * (shrink if shrink_total else 1) + weights.sum(-1, keepdim=True)
            mixed = mixed * (shrink if shrink_mixed else 1) + weights @ v[:, :, part]
            largest = new
        return mixed / total

    return attend


WRONG_BLOCKS = {
    "no running largest": blocks(keep_largest=False),
    "sum not shrunk": blocks(shrink_total=False),
    "values not shrunk": blocks(shrink_mixed=False),
    "each block normalized alone": blocks(divide_each=True),
}


def test_the_blocks_of_the_wrong_versions_are_right_without_a_mistake() -> None:
    check_blockwise(blocks())


@pytest.mark.parametrize("name", WRONG_BLOCKS)
def test_wrong_blocks_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_blockwise(WRONG_BLOCKS[name])


def test_attention_in_blocks_names_what_is_wrong_with_its_sizes() -> None:
    q, k, v = heads()
    with pytest.raises(ValueError, match="block is 0"):
        blockwise_attention(q, k, v, block=0)
    with pytest.raises(ValueError, match="7 queries stand at the end of 3 keys"):
        blockwise_attention(q, k[:, :, :3], v[:, :, :3])


def test_blocks_of_the_future_are_never_computed() -> None:
    """The rows of the first block do not touch the keys of the second, even where these are not numbers."""
    q, k, v = heads(rows=4, columns=4)
    want = blockwise_attention(q, k, v, block=2)[:, :, :2]
    k[:, :, 2:], v[:, :, 2:] = torch.nan, torch.nan
    torch.testing.assert_close(blockwise_attention(q, k, v, block=2)[:, :, :2], want)


# ---- positions


def check_sinusoids(sinusoids: Callable[[Tensor, int], Tensor]) -> None:
    got = sinusoids(torch.arange(50), 12)
    for position in (0, 1, 7, 49):
        for i in range(6):
            angle = position / 10_000 ** (2 * i / 12)
            assert got[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert got[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_sinusoids_are_those_of_the_paper_and_of_distilbert() -> None:
    from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings

    check_sinusoids(sinusoidal_positions)
    table = torch.empty(40, 16)
    create_sinusoidal_embeddings(40, 16, table)
    torch.testing.assert_close(sinusoidal_positions(torch.arange(40), 16), table)
    with pytest.raises(ValueError, match="size is 7"):
        sinusoidal_positions(torch.arange(3), 7)


def halves(positions: Tensor, size: int) -> Tensor:
    angles = positions[:, None] / 10_000 ** (torch.arange(0, size, 2) / size)
    return torch.cat([angles.sin(), angles.cos()], -1)


def dense(positions: Tensor, size: int) -> Tensor:
    angles = positions[:, None] / 10_000 ** (torch.arange(size // 2) / size)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


WRONG_SINUSOIDS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "cosine first": lambda p, d: sinusoidal_positions(p, d).unflatten(-1, (-1, 2)).flip(-1).flatten(-2),
    "sines in one half": halves,
    "exponent i for 2i": dense,
    "positions from 1": lambda p, d: sinusoidal_positions(p + 1, d),
}


@pytest.mark.parametrize("name", WRONG_SINUSOIDS)
def test_wrong_sinusoids_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_sinusoids(WRONG_SINUSOIDS[name])


def test_a_shift_of_sinusoids_is_a_rotation_that_is_the_same_everywhere() -> None:
    """Vaswani et al., sec. 3.5: PE(pos + k) is a linear function of PE(pos)."""
    size, shift = 8, 5
    table = sinusoidal_positions(torch.arange(60), size).double()
    angles = shift / 10_000 ** (torch.arange(0, size, 2).double() / size)
    sin, cos = table.unflatten(-1, (-1, 2)).unbind(-1)
    moved = torch.stack([sin * angles.cos() + cos * angles.sin(), cos * angles.cos() - sin * angles.sin()], -1)
    torch.testing.assert_close(moved.flatten(-2)[:-shift], table[shift:], atol=1e-5, rtol=0)


def check_alibi(bias: Callable[[int, int, int], Tensor]) -> None:
    for h, slopes in ((8, [2.0**-i for i in range(1, 9)]), (4, [2.0 ** (-2 * i) for i in range(1, 5)])):
        for length, past in ((5, 0), (3, 4)):
            got = bias(h, length, past)
            assert got.shape == (1, h, length, past + length)
            for i in range(h):
                for t in range(length):
                    for s in range(past + length):
                        want = -slopes[i] * (past + t - s) if s <= past + t else -math.inf
                        assert got[0, i, t, s].item() == pytest.approx(want)


def test_alibi_is_minus_slope_times_distance() -> None:
    check_alibi(alibi)


WRONG_ALIBI: dict[str, Callable[[int, int, int], Tensor]] = {
    "sign flipped": lambda h, t, past: torch.where(alibi(h, t, past).isinf(), -torch.inf, -alibi(h, t, past)),
    "the future allowed": lambda h, t, past: alibi(h, t, past).nan_to_num(neginf=0.0),
    "slopes reversed": lambda h, t, past: alibi(h, t, past).flip(1),
    "queries counted from 0": lambda h, t, past: F.pad(alibi(h, t, 0), (0, past), value=-torch.inf),
    "one slope for all": lambda h, t, past: alibi(h, t, past)[:, :1].expand(-1, h, -1, -1),
}


@pytest.mark.parametrize("name", WRONG_ALIBI)
def test_a_wrong_alibi_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_alibi(WRONG_ALIBI[name])


@pytest.mark.parametrize("h", [1, 2, 3, 4, 6, 8, 9, 12, 20])
def test_alibi_attends_as_blooms_does(h: int) -> None:
    """BLOOM adds slope times the key's position, which differs from ours by a number for each row."""
    theirs = build_alibi_tensor(torch.ones(1, 10, dtype=torch.long), h, torch.float32)[:, 0]  # (h, S)
    slopes = theirs[:, 1] - theirs[:, 0]
    torch.testing.assert_close(alibi_slopes(h), slopes)
    scores = drawn(1, h, 10, 10).float()
    ours = (scores + alibi(h, 10)).softmax(-1)
    want = (scores + theirs[None, :, None]).masked_fill(~causal_mask(10, 10), -torch.inf).softmax(-1)
    torch.testing.assert_close(ours, want)
    with pytest.raises(ValueError, match="heads is 0"):
        alibi_slopes(0)


def decoder(**sizes: Any) -> Transformer:
    shape: dict[str, Any] = {
        "vocab_size": 20, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 6,
    }  # fmt: skip
    torch.manual_seed(0)
    return Transformer(Config(**{**shape, **sizes})).initialize(0.4).double()


def test_a_decoder_with_alibi_reads_on_from_its_cache() -> None:
    model, x, none = decoder(), drawn(2, 9, 24), torch.zeros(1, 9, dtype=torch.long)
    whole = model.states(x, none, alibi(4, 9).double())
    cache = model.cache(2, 9)
    parts = [
        model.states(x[:, :6], none[:, :6], alibi(4, 6).double(), cache),
        *(model.states(x[:, t : t + 1], none[:, :1], alibi(4, 1, t).double(), cache) for t in range(6, 9)),
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert (whole - model.states(x, none)).abs().max() > 1e-2


def test_with_all_positions_zero_a_decoder_of_one_layer_is_blind_to_order() -> None:
    """One layer of causal attention: the last row sees a set. A second layer is no longer blind (Kazemnejad 2023)."""
    x, shuffled = drawn(1, 8, 24), torch.tensor([3, 0, 6, 1, 2, 5, 4, 7])
    none = torch.zeros(1, 8, dtype=torch.long)
    for layers, blind in ((1, True), (2, False)):
        model = decoder(num_hidden_layers=layers)
        gap = (model.states(x, none)[:, -1] - model.states(x[:, shuffled], none)[:, -1]).abs().max()
        assert (gap < 1e-10) == blind
    model, order = decoder(num_hidden_layers=1), torch.arange(8)[None]
    assert (model.states(x, order)[:, -1] - model.states(x[:, shuffled], order)[:, -1]).abs().max() > 1e-3


def check_rotary_score(score: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    q, k, theta = drawn(3, 16, seed=4), drawn(3, 16, seed=5), 50.0
    config = Config(1, 1, 1, 1, 1, 1, head_dim=16, rope_theta=theta)
    for m, n in ((0, 0), (5, 2), (400, 397), (9, 0), (2, 7)):
        turned = [
            rotate(x[:, None], *(part[0] for part in rotary_angles(config, torch.tensor([[at]]))))[:, 0]
            for x, at in ((q, m), (k, n))
        ]
        want = (turned[0] * turned[1]).sum(-1)
        torch.testing.assert_close(score(q, k, torch.tensor([m - n]), theta)[:, 0], want, atol=2e-4, rtol=0)


def test_the_rotary_score_needs_the_distance_alone() -> None:
    check_rotary_score(rotary_score)


def pairs_side_by_side(q: Tensor, k: Tensor, d: Tensor, theta: float) -> Tensor:
    order = torch.cat([torch.arange(0, q.shape[-1], 2), torch.arange(1, q.shape[-1], 2)])
    return rotary_score(q[..., order], k[..., order], d, theta)


WRONG_SCORES: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "distance reversed": lambda q, k, d, theta: rotary_score(q, k, -d, theta),
    "pairs side by side": pairs_side_by_side,
    "another base": lambda q, k, d, theta: rotary_score(q, k, d, 10_000.0),
    "distance ignored": lambda q, k, d, theta: rotary_score(q, k, 0 * d, theta),
    "only the cosine": lambda q, k, d, theta: (rotary_score(q, k, d, theta) + rotary_score(q, k, -d, theta)) / 2,
}


@pytest.mark.parametrize("name", WRONG_SCORES)
def test_a_wrong_rotary_score_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_rotary_score(WRONG_SCORES[name])


# ---- latent attention

LATENTS = {
    "queries straight": Latent(kv_rank=10, query_rank=0, plain_dim=6, rotary_dim=4, value_dim=5),
    "queries compressed": Latent(kv_rank=10, query_rank=9, plain_dim=6, rotary_dim=4, value_dim=5),
}


def latent_attention(latent: Latent) -> LatentAttention:
    torch.manual_seed(1)
    module = LatentAttention(24, 4, latent)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return module.double()


def turning(length: int, size: int, past: int = 0) -> tuple[Tensor, Tensor]:
    positions = torch.arange(past, past + length)[None]
    cos, sin = rotary_angles(Config(1, 1, 1, 1, 1, 1, head_dim=size), positions)
    return cos.double(), sin.double()


@pytest.mark.parametrize("name", LATENTS)
def test_latent_attention_equals_deepseeks_of_transformers(name: str) -> None:
    latent = LATENTS[name]
    config = DeepseekV3Config(
        hidden_size=24, num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=latent.kv_rank,
        q_lora_rank=latent.query_rank or None, qk_rope_head_dim=latent.rotary_dim, v_head_dim=latent.value_dim,
        qk_nope_head_dim=latent.plain_dim, rope_interleave=False, num_hidden_layers=1, attn_implementation="eager",
    )  # fmt: skip
    peer, ours = DeepseekV3Attention(config, 0).double(), latent_attention(latent)
    peer.load_state_dict(ours.state_dict(), strict=True)
    x = drawn(2, 7, 24)
    rotary = DeepseekV3RotaryEmbedding(config)(x, torch.arange(7)[None])
    mask = torch.zeros(7, 7, dtype=torch.float64).masked_fill(~causal_mask(7, 7), -torch.inf)
    want = peer(x, rotary, mask[None, None])[0]
    torch.testing.assert_close(ours(x, turning(7, latent.rotary_dim), None, None, 0), want, atol=1e-6, rtol=1e-6)


def check_absorbed(module: LatentAttention, latent: Latent) -> None:
    """Token by token from the cache, with the matrices absorbed, as all at once with keys and values made."""
    x = drawn(2, 8, 24)
    whole = module(x, turning(8, latent.rotary_dim), None, None, 0)
    cache = LatentCache(latent, 1, 2, 8, dtype=torch.float64)
    parts = []
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 8)):
        parts.append(module(x[:, start:end], turning(end - start, latent.rotary_dim, start), None, cache, 0))
        cache.length = end
    torch.testing.assert_close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("name", LATENTS)
def test_absorbed_matrices_change_nothing(name: str) -> None:
    check_absorbed(latent_attention(LATENTS[name]), LATENTS[name])


class Mistaken(LatentAttention):
    """Latent attention with a wrong way to decode."""

    mistake = ""

    def absorbed(self, q: Tensor, q_turned: Tensor, c: Tensor, k_turned: Tensor, mask: Tensor | None) -> Tensor:
        sizes = [self.latent.plain_dim, self.latent.value_dim]
        make_k, make_v = self.kv_b_proj.weight.unflatten(0, (self.heads, -1)).split(sizes, dim=1)
        if self.mistake == "values taken for keys":
            make_k, make_v = self.kv_b_proj.weight.unflatten(0, (self.heads, -1)).flip(1).split(sizes, dim=1)
        if self.mistake == "no turned part":
            q_turned = torch.zeros_like(q_turned)
        query, keys = torch.cat([q @ make_k, q_turned], -1), torch.cat([c, k_turned], -1)
        right = self.latent.plain_dim + self.latent.rotary_dim
        size = query.shape[-1] if self.mistake == "scale of the latent" else right
        mask = causal_mask(query.shape[2], keys.shape[2])
        mixed, _ = attention(query, keys, c, mask, scale=size**-0.5)
        return mixed @ make_v.transpose(-2, -1)


@pytest.mark.parametrize("mistake", ["", "values taken for keys", "no turned part", "scale of the latent"])
def test_a_wrong_way_to_absorb_is_rejected(mistake: str) -> None:
    latent = LATENTS["queries straight"]
    wrong = Mistaken(24, 4, latent).double()
    wrong.load_state_dict(latent_attention(latent).state_dict())
    wrong.mistake = mistake
    if not mistake:
        check_absorbed(wrong, latent)
        return
    with pytest.raises(AssertionError):
        check_absorbed(wrong, latent)


def test_a_decoder_with_latent_attention_decodes_from_a_smaller_cache() -> None:
    latent = Latent(kv_rank=8, query_rank=0, plain_dim=6, rotary_dim=4, value_dim=6)
    model = decoder(head_dim=latent.rotary_dim, num_key_value_heads=1)
    for block in model.layers:
        block.self_attn = LatentAttention(24, 4, latent).double()
    model.initialize(0.4)
    ids = torch.randint(20, (2, 10), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = model(ids)
        cache = LatentCache(latent, 2, 2, 10, dtype=torch.float64)
        parts = [model(ids[:, :4], cache=cache), *(model(ids[:, t : t + 1], cache=cache) for t in range(4, 10))]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    kept = cache.keys.numel() + cache.values.numel()
    sizes = Architecture(20, 24, 32, 2, 4, 1, 4, latent=latent)
    assert kept == kv_cache_bytes(sizes, 10, batch=2, bytes_per_number=1) == 2 * 2 * 10 * 12
    usual = decoder().cache(2, 10)
    assert usual.keys.numel() + usual.values.numel() == 4 * kept
    cache.truncate(5)
    with torch.no_grad():
        torch.testing.assert_close(model(ids[:, 5:7], cache=cache), whole[:, 5:7])


def test_latent_attention_says_where_the_angles_have_another_size() -> None:
    latent = LATENTS["queries straight"]
    with pytest.raises(ValueError, match=r"angles are for 6 numbers and latent\.rotary_dim is 4"):
        latent_attention(latent)(drawn(1, 3, 24), turning(3, 6), None, None, 0)
