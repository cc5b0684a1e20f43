"""The decoder against transformers' Llama, its cache against the full forward, and wrong parts that are rejected."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from alignlab import transformer
from alignlab.transformer import Config, Transformer


@pytest.fixture(scope="module")
def peer() -> LlamaForCausalLM:
    """A small Llama of transformers with random weights, sharp enough that every part shows in the logits."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, rms_norm_eps=1e-2, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0}, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


IDS = torch.arange(20).view(2, 10)


def largest_gap(peer: LlamaForCausalLM) -> float:
    with torch.no_grad():
        return (Transformer.view(peer)(IDS) - peer(IDS).logits).abs().max().item()


def test_logits_equal_transformers(peer: LlamaForCausalLM) -> None:
    assert largest_gap(peer) < 1e-5


def test_logits_of_smollm2_equal_transformers(small: Any) -> None:
    model, tokenizer = small
    ids = torch.tensor([tokenizer.encode("<|im_start|>user\nWhat is 17 + 25?<|im_end|>\n<|im_start|>assistant\n")])
    with torch.no_grad():
        assert (Transformer.view(model)(ids) - model(ids).logits).abs().max().item() < 1e-4


def test_weights_load_by_name(peer: LlamaForCausalLM) -> None:
    ours = Transformer(Config.of(peer.config))
    state = {name.removeprefix("model."): value for name, value in peer.state_dict().items()}
    ours.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert torch.allclose(ours(IDS), peer(IDS).logits, atol=1e-5)


def rotate_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * cos + turned * sin


def attention(**changes: Any) -> Any:
    def wrong(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, is_causal: bool = False, enable_gqa: bool = True
    ) -> Tensor:
        kwargs: dict[str, Any] = {"attn_mask": attn_mask, "is_causal": is_causal, "enable_gqa": enable_gqa, **changes}
        if changes.get("tile"):
            kwargs = {"attn_mask": attn_mask, "is_causal": is_causal}
            k, v = (t.repeat(1, q.shape[1] // t.shape[1], 1, 1) for t in (k, v))
        return attend(q, k, v, **kwargs)

    return wrong


attend = F.scaled_dot_product_attention


def norm_without_epsilon(self: transformer.RMSNorm, x: Tensor) -> Tensor:
    return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True))


def norm_of_layer(self: transformer.RMSNorm, x: Tensor) -> Tensor:
    return self.weight * (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + self.eps)


def swapped_gate(self: transformer.MLP, x: Tensor) -> Tensor:
    return self.down_proj(self.gate_proj(x) * F.silu(self.up_proj(x)))


@contextmanager
def changed(target: Any, name: str, value: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, value)
        yield


WRONG = {
    "rotary pairs interleaved": (transformer, "rotate", rotate_interleaved),
    "rotary sine reversed": (transformer, "rotate", lambda x, cos, sin, right=transformer.rotate: right(x, cos, -sin)),
    "attention sees the future": (F, "scaled_dot_product_attention", attention(is_causal=False)),
    "attention without its scale": (F, "scaled_dot_product_attention", attention(scale=1.0)),
    "key heads repeated in the wrong order": (F, "scaled_dot_product_attention", attention(tile=True)),
    "norm without epsilon": (transformer.RMSNorm, "forward", norm_without_epsilon),
    "layer norm for RMS norm": (transformer.RMSNorm, "forward", norm_of_layer),
    "gate and up swapped": (transformer.MLP, "forward", swapped_gate),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_part_shows_in_the_logits(name: str, peer: LlamaForCausalLM) -> None:
    with torch.no_grad():
        right = peer(IDS).logits
        with changed(*WRONG[name]):
            gap = (Transformer.view(peer)(IDS) - right).abs().max().item()
    assert gap > 1e-3


@pytest.mark.parametrize("pieces", [[10], [1] * 10, [4, 1, 5], [9, 1]])
def test_cached_decoding_equals_the_full_forward(peer: LlamaForCausalLM, pieces: list[int]) -> None:
    decoder = Transformer.view(peer)
    with torch.no_grad():
        cache = decoder.cache(batch=2, capacity=10)
        parts = [decoder(part, cache=cache) for part in IDS.split(pieces, dim=1)]
        assert torch.allclose(torch.cat(parts, dim=1), decoder(IDS), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_logit_of_a_token(peer: LlamaForCausalLM, side: str) -> None:
    decoder = Transformer.view(peer)
    short = IDS[:1, :6]
    filler = torch.full((1, 4), 7)
    zeros, ones = torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 6, dtype=torch.long)
    ids = torch.cat([filler, short] if side == "left" else [short, filler], dim=1)
    mask = torch.cat([zeros, ones] if side == "left" else [ones, zeros], dim=1)
    with torch.no_grad():
        padded = decoder(ids, mask)
    assert torch.isfinite(padded).all()
    kept = padded[:, 4:] if side == "left" else padded[:, :6]
    with torch.no_grad():
        assert torch.allclose(kept, decoder(short), atol=1e-5)


def test_a_view_shares_weights_and_sees_lora_at_once() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16,
    )  # fmt: skip
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])).eval()
    view = Transformer.view(model)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        before = view(ids)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        assert not torch.allclose(view(ids), before, atol=1e-3)
        assert torch.allclose(view(ids), model(ids).logits, atol=1e-5)
        with model.disable_adapter():
            assert torch.allclose(view(ids), before, atol=1e-6)


def test_too_long_a_text_is_told_with_the_numbers(peer: LlamaForCausalLM) -> None:
    decoder = Transformer.view(peer)
    with pytest.raises(ValueError, match="65 tokens exceed the model's context of 64"):
        decoder(torch.zeros(1, 65, dtype=torch.long))
    with pytest.raises(ValueError, match="do not fit in a cache of 4"):
        decoder(IDS, cache=decoder.cache(2, 4))


def test_a_model_with_parts_that_the_decoder_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="attention_bias"):
        Config.of(LlamaConfig(attention_bias=True))
    with pytest.raises(ValueError, match="mlp_bias"):
        Config.of(LlamaConfig(mlp_bias=True))
    with pytest.raises(ValueError, match="rope_type"):
        Config.of(LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}))
