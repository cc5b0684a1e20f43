"""Masks equal their definition in loops, cross-attention equals torch's, what is hidden is what the papers hide."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from alignlab.architectures.families import (
    IGNORED,
    CrossAttention,
    EncoderDecoder,
    corrupt_spans,
    full_mask,
    mask_tokens,
    prefix_mask,
    stream,
)
from alignlab.transformer import Config, Transformer

CONFIG = Config(20, 32, 48, 2, 4, 4, 8, 64)
GROUPED = Config(20, 32, 48, 2, 4, 2, 8, 64)


# ---- masks

Mask = Callable[[Tensor, int], Tensor]


def check_prefix(mask: Mask) -> None:
    prefix = torch.tensor([0, 1, 3, 6])
    got = mask(prefix, 6)
    assert got.shape == (4, 1, 6, 6) and got.dtype == torch.bool
    for b, size in enumerate(prefix.tolist()):
        for row in range(6):
            for column in range(6):
                assert got[b, 0, row, column].item() == (column <= row or column < size)


def test_the_prefix_sees_itself_whole_and_the_rest_sees_the_past() -> None:
    check_prefix(prefix_mask)


def _only_in_prefix(prefix: Tensor, length: int) -> Tensor:
    place = torch.arange(length)
    inside = place < prefix[:, None]
    return ((place <= place[:, None]) & ~inside[:, :, None] | (inside[:, :, None] & inside[:, None, :]))[:, None]


WRONG_MASKS: dict[str, Mask] = {
    "transposed": lambda p, n: prefix_mask(p, n).transpose(-1, -2),
    "one too many": lambda p, n: prefix_mask((p + 1).clamp(max=n), n),
    "causal throughout": lambda p, n: prefix_mask(torch.zeros_like(p), n),
    "everything seen": lambda p, n: prefix_mask(torch.full_like(p, n), n),
    "a token does not see itself": lambda p, n: prefix_mask(p, n) & ~torch.eye(n, dtype=torch.bool),
    "the prefix is causal, the rest sees it": lambda p, n: (
        prefix_mask(p, n)
        & ((torch.arange(n)[:, None] >= p[:, None, None])[:, None] | prefix_mask(torch.zeros_like(p), n))
    ),
}


@pytest.mark.parametrize("name", WRONG_MASKS)
def test_a_wrong_prefix_mask_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_prefix(WRONG_MASKS[name])


def test_a_prefix_longer_than_its_row_is_refused() -> None:
    with pytest.raises(ValueError, match="prefixes of 2 to 7 tokens in rows of 6"):
        prefix_mask(torch.tensor([2, 7]), 6)


def test_no_prefix_is_the_decoders_own_mask_and_a_whole_one_is_the_encoders() -> None:
    torch.manual_seed(0)
    model = Transformer(CONFIG).initialize()
    ids = torch.randint(20, (2, 7))
    x, positions = model.embed_tokens(ids), torch.arange(7)[None]
    causal = model.states(x, positions, prefix_mask(torch.tensor([0, 1]), 7))
    torch.testing.assert_close(causal, model.hidden(ids), rtol=1e-5, atol=1e-6)
    whole = prefix_mask(torch.tensor([7, 7]), 7)
    assert torch.equal(whole, full_mask(torch.ones(2, 7)))


def test_padding_changes_nothing_for_an_encoders_tokens() -> None:
    torch.manual_seed(0)
    model = Transformer(CONFIG).initialize()
    ids = torch.randint(20, (1, 5))
    alone = model.states(model.embed_tokens(ids), torch.arange(5)[None], full_mask(torch.ones(1, 5)))
    padded = torch.cat([ids, torch.randint(20, (1, 3))], 1)
    mask = full_mask(torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]]))
    beside = model.states(model.embed_tokens(padded), torch.arange(8)[None], mask)
    torch.testing.assert_close(beside[:, :5], alone, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(beside).all()


def test_each_family_sees_what_it_should() -> None:
    """Change one token; the states that move are those of the rows that see it."""
    torch.manual_seed(0)
    model = Transformer(CONFIG).initialize(0.2)
    ids = torch.randint(20, (1, 6))
    other = ids.clone()
    other[0, 3] = (ids[0, 3] + 1) % 20
    for prefix, moved in ((0, {3, 4, 5}), (4, {0, 1, 2, 3, 4, 5}), (2, {3, 4, 5}), (6, {0, 1, 2, 3, 4, 5})):
        mask = prefix_mask(torch.tensor([prefix]), 6)
        a, b = (model.states(model.embed_tokens(x), torch.arange(6)[None], mask) for x in (ids, other))
        assert {i for i in range(6) if not torch.allclose(a[0, i], b[0, i], atol=1e-7)} == moved


# ---- cross-attention

Cross = Callable[[CrossAttention, Tensor, Tensor, Tensor | None], Tensor]


def check_cross(cross: Cross) -> None:
    torch.manual_seed(0)
    layer = CrossAttention(CONFIG)
    theirs = nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight]))
        theirs.out_proj.weight.copy_(layer.o_proj.weight)
    x, memory = torch.randn(2, 3, 32), torch.randn(2, 6, 32)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    for seen in (None, mask):
        blind = None if seen is None else seen == 0
        want = theirs(x, memory, memory, key_padding_mask=blind)[0]
        torch.testing.assert_close(cross(layer, x, memory, seen), want, rtol=1e-5, atol=1e-6)


def test_cross_attention_equals_torchs() -> None:
    check_cross(lambda layer, x, memory, mask: layer(x, memory, mask))


def _by_hand(
    layer: CrossAttention,
    x: Tensor,
    memory: Tensor,
    mask: Tensor | None,
    *,
    scale: float = 8**-0.5,
    causal: bool = False,
) -> Tensor:
    def heads(projection: nn.Linear, states: Tensor) -> Tensor:
        return projection(states).view(*states.shape[:2], 4, 8).transpose(1, 2)

    scores = heads(layer.q_proj, x) @ heads(layer.k_proj, memory).transpose(-1, -2) * scale
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -torch.inf)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    mixed = scores.softmax(-1) @ heads(layer.v_proj, memory)
    return layer.o_proj(mixed.transpose(1, 2).flatten(2))


def test_cross_attention_equals_its_definition() -> None:
    check_cross(_by_hand)


WRONG_CROSS: dict[str, Cross] = {
    "keys and values from the text that is written": lambda layer, x, memory, mask: layer(x, x),
    "queries from the source": lambda layer, x, memory, mask: layer(memory, memory, mask)[:, :3],
    "padding seen": lambda layer, x, memory, mask: layer(x, memory),
    "mask the wrong way round": lambda layer, x, memory, mask: layer(x, memory, None if mask is None else 1 - mask),
    "no scale": lambda *given: _by_hand(*given, scale=1.0),
    "causal between two texts": lambda *given: _by_hand(*given, causal=True),
}


@pytest.mark.parametrize("name", WRONG_CROSS)
def test_a_wrong_cross_attention_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_cross(WRONG_CROSS[name])


def test_grouped_cross_attention_is_the_plain_one_with_keys_and_values_repeated() -> None:
    torch.manual_seed(0)
    grouped, plain = CrossAttention(GROUPED), CrossAttention(CONFIG)
    with torch.no_grad():
        plain.q_proj.weight.copy_(grouped.q_proj.weight)
        plain.o_proj.weight.copy_(grouped.o_proj.weight)
        for name in ("k_proj", "v_proj"):
            small = getattr(grouped, name).weight.view(2, 8, 32)
            getattr(plain, name).weight.copy_(torch.stack([small[0], small[0], small[1], small[1]]).view(32, 32))
    x, memory = torch.randn(2, 3, 32), torch.randn(2, 5, 32)
    torch.testing.assert_close(grouped(x, memory), plain(x, memory), rtol=1e-5, atol=1e-6)


# ---- the encoder-decoder


def test_the_decoder_half_is_causal_and_sees_the_whole_source() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(CONFIG).initialize(0.2)
    source, target = torch.randint(20, (1, 5)), torch.randint(20, (1, 6))
    before = model(source, target)
    later = target.clone()
    later[0, 4] = (target[0, 4] + 1) % 20
    moved = {i for i in range(6) if not torch.allclose(before[0, i], model(source, later)[0, i], atol=1e-6)}
    assert moved == {4, 5}
    for place in range(5):
        other = source.clone()
        other[0, place] = (source[0, place] + 1) % 20
        assert all(not torch.allclose(before[0, i], model(other, target)[0, i], atol=1e-6) for i in range(6))


def test_padding_of_the_source_changes_no_logit() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(CONFIG).initialize()
    source, target = torch.randint(20, (1, 4)), torch.randint(20, (1, 3))
    padded = torch.cat([source, torch.randint(20, (1, 2))], 1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    torch.testing.assert_close(model(padded, target, mask), model(source, target), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model(padded, target), model(source, target), atol=1e-4)


def test_the_decoder_may_have_another_depth_and_shares_the_embeddings() -> None:
    model = EncoderDecoder(CONFIG, decoder_layers=3)
    assert len(model.layers) == 3 and len(model.encoder.layers) == 2
    assert sum(p.numel() == 20 * 32 for p in model.parameters()) == 1


# ---- what is hidden

Masking = Callable[..., tuple[Tensor, Tensor]]


def check_masking(masking: Masking) -> None:
    ids = torch.randint(5, 1000, (400, 500), generator=torch.Generator().manual_seed(1))
    inputs, labels = masking(ids, 0, 1000, generator=torch.Generator().manual_seed(0))
    chosen = labels != IGNORED
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(inputs[~chosen], ids[~chosen])

    def near(share: Tensor, want: float, of: int) -> bool:
        return abs(share.double().mean().item() - want) < 5 * math.sqrt(want * (1 - want) / of)

    n = int(chosen.sum())
    assert near(chosen, 0.15, ids.numel())
    masked, kept = inputs[chosen] == 0, inputs[chosen] == ids[chosen]
    assert near(masked, 0.8001, n) and near(kept, 0.1001, n)
    others = inputs[chosen][~masked & ~kept]
    assert near(others < 500, (500 - 1) / 999, len(others))


def test_masking_is_berts_eighty_ten_ten() -> None:
    check_masking(mask_tokens)


def _always_masked(ids: Tensor, mask: int, size: int, **more: torch.Generator) -> tuple[Tensor, Tensor]:
    _, labels = mask_tokens(ids, mask, size, **more)
    return torch.where(labels != IGNORED, mask, ids), labels


def _labels_everywhere(ids: Tensor, mask: int, size: int, **more: torch.Generator) -> tuple[Tensor, Tensor]:
    return mask_tokens(ids, mask, size, **more)[0], ids


def _labels_are_inputs(ids: Tensor, mask: int, size: int, **more: torch.Generator) -> tuple[Tensor, Tensor]:
    inputs, labels = mask_tokens(ids, mask, size, **more)
    return inputs, torch.where(labels != IGNORED, inputs, IGNORED)


def _labels_where_masked(ids: Tensor, mask: int, size: int, **more: torch.Generator) -> tuple[Tensor, Tensor]:
    inputs, labels = mask_tokens(ids, mask, size, **more)
    return inputs, torch.where(inputs == mask, labels, IGNORED)


WRONG_MASKING: dict[str, Masking] = {
    "every chosen token masked": _always_masked,
    "loss on every token": _labels_everywhere,
    "labels taken after masking": _labels_are_inputs,
    "no loss on what was kept or replaced": _labels_where_masked,
    "twice the rate": lambda ids, mask, size, **more: mask_tokens(ids, mask, size, 0.3, **more),
}


@pytest.mark.parametrize("name", WRONG_MASKING)
def test_a_wrong_masking_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_masking(WRONG_MASKING[name])


def test_a_rate_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the rate is 15\.0"):
        mask_tokens(torch.zeros(1, 3, dtype=torch.long), 0, 5, 15.0)


def test_span_corruption_is_the_papers_figure_two() -> None:
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week", "."]
    ids = list(range(len(words)))
    x, y, z = 100, 101, 102
    source, target = corrupt_spans(ids, [(2, 4), (8, 9)], [x, y, z])
    names = {**dict(enumerate(words)), x: "<X>", y: "<Y>", z: "<Z>"}
    assert " ".join(names[i] for i in source) == "Thank you <X> me to your party <Y> week ."
    assert " ".join(names[i] for i in target) == "<X> for inviting <Y> last <Z>"


def test_source_and_target_hold_every_token_once() -> None:
    ids = list(range(12))
    for spans in ([(0, 2), (5, 6), (9, 12)], [(0, 12)], [], [(11, 12)]):
        source, target = corrupt_spans(ids, spans, [100, 101, 102, 103])
        assert sorted(i for i in source + target if i < 100) == ids
        rebuilt: list[int] = []
        for i in source:
            if i < 100:
                rebuilt.append(i)
            else:
                at = target.index(i) + 1
                while target[at] < 100:
                    rebuilt.append(target[at])
                    at += 1
        assert rebuilt == ids


@pytest.mark.parametrize("spans", [[(3, 3)], [(4, 6), (1, 2)], [(1, 3), (3, 4)], [(9, 13)]])
def test_spans_that_cannot_be_told_apart_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="empty, out of order, or touches"):
        corrupt_spans(list(range(12)), spans, [100, 101, 102])


def test_too_few_sentinels_are_refused() -> None:
    with pytest.raises(ValueError, match="1 spans need 2 sentinels; there are 1"):
        corrupt_spans([1, 2], [(0, 1)], [100])


def test_a_stream_scores_the_target_where_it_is_predicted() -> None:
    ids, labels = stream([5, 6, 7], [8, 9])
    assert ids == [5, 6, 7, 8, 9] and labels == [IGNORED, IGNORED, 8, 9, IGNORED]
    assert stream([5, 6, 7], [8, 9], "all")[1] == [6, 7, 8, 9, IGNORED]
