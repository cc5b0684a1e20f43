"""The decoder against transformers' Llama, its cache against the full forward, and wrong parts that are rejected."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
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


def masked(diagonal: int) -> Any:
    """Attention whose mask ends `diagonal` places after the token itself; the first token always sees itself."""

    def wrong(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, **_: Any) -> Tensor:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(diagonal)
        mask[0, 0] = True
        return attend(q, k, v, attn_mask=mask, enable_gqa=True)

    return wrong


def norm_with_epsilon_outside(self: transformer.RMSNorm, x: Tensor) -> Tensor:
    return self.weight * x / (x.square().mean(-1, keepdim=True).sqrt() + self.eps)


def norm_scaled_before(self: transformer.RMSNorm, x: Tensor) -> Tensor:
    x = self.weight * x
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


def angles_of_whole_width(config: Config, positions: Tensor) -> tuple[Tensor, Tensor]:
    return ANGLES(replace(config, rope_theta=config.rope_theta**0.5), positions)


def angles_by_two(config: Config, positions: Tensor) -> tuple[Tensor, Tensor]:
    return ANGLES(config, 2 * positions)


def block_without_sum(self: transformer.Block, x: Tensor, *arguments: Any) -> Tensor:
    x = x + self.self_attn(self.input_layernorm(x), *arguments)
    return self.mlp(self.post_attention_layernorm(x))


def block_normed_once(self: transformer.Block, x: Tensor, *arguments: Any) -> Tensor:
    normed = self.input_layernorm(x)
    return x + self.self_attn(normed, *arguments) + self.mlp(self.post_attention_layernorm(x))


ANGLES = transformer.rotary_angles


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
    "mask off by one: the next token is seen": (F, "scaled_dot_product_attention", masked(1)),
    "mask off by one: a token does not see itself": (F, "scaled_dot_product_attention", masked(-1)),
    "attention without its scale": (F, "scaled_dot_product_attention", attention(scale=1.0)),
    "key heads repeated in the wrong order": (F, "scaled_dot_product_attention", attention(tile=True)),
    "rotary frequencies that fall half as fast": (transformer, "rotary_angles", angles_of_whole_width),
    "rotary positions that count by two": (transformer, "rotary_angles", angles_by_two),
    "epsilon outside the root": (transformer.RMSNorm, "forward", norm_with_epsilon_outside),
    "norm scaled before it is taken": (transformer.RMSNorm, "forward", norm_scaled_before),
    "MLP replaces the stream": (transformer.Block, "forward", block_without_sum),
    "attention and MLP read the same stream": (transformer.Block, "forward", block_normed_once),
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


def test_a_text_too_long_for_what_the_cache_leaves_is_told_where_it_ends(peer: LlamaForCausalLM) -> None:
    decoder = Transformer.view(peer)
    cache = decoder.cache(batch=1, capacity=80)
    with torch.no_grad():
        decoder(torch.zeros(1, 60, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match=r"context of 64 \(60 in the cache, 5 new\): those from position 64 on"):
        decoder(torch.zeros(1, 5, dtype=torch.long), cache=cache)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_saved_checkpoint_loads_whole_or_in_pieces(peer: LlamaForCausalLM, tmp_path: Path, shards: int) -> None:
    peer.save_pretrained(tmp_path, max_shard_size="1GB" if shards == 1 else "12KB")
    assert len(list(tmp_path.glob("*.safetensors"))) >= shards
    decoder = Transformer.load(tmp_path)
    assert not decoder.training and decoder.lm_head.weight is decoder.embed_tokens.weight
    with torch.no_grad():
        assert torch.allclose(decoder(IDS), peer(IDS).logits, atol=1e-5)


def broken(peer: LlamaForCausalLM, what: str) -> dict[str, Tensor]:
    """The peer's weights with one thing wrong."""
    weights = dict(peer.state_dict())
    gate = "model.layers.1.mlp.gate_proj.weight"
    if what == "missing":
        del weights[gate], weights["model.norm.weight"]
    if what == "unknown":
        weights["model.layers.3.mlp.gate_proj.weight"] = weights[gate]
        weights["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)
    if what == "misshapen":
        weights["model.layers.0.self_attn.k_proj.weight"] = weights["model.layers.0.self_attn.q_proj.weight"]
        weights[gate] = weights[gate].T
    if what == "not a number":
        weights[gate] = weights[gate].clone()
        weights[gate][3, 4] = torch.nan
    if what == "untied":
        weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    if what == "many":
        weights = {name: tensor for name, tensor in weights.items() if "layers" not in name}
    return weights


BROKEN = {
    "missing": r"missing: layers\.1\.mlp\.gate_proj\.weight \(48, 32\), norm\.weight \(32,\)$",
    "unknown": r"unknown: layers\.3\.mlp\.gate_proj\.weight \(48, 32\), layers\.0\.self_attn\.q_proj\.bias \(32,\)$",
    "misshapen": r"misshapen: layers\.0\.self_attn\.k_proj\.weight is \(32, 32\), expected \(16, 32\), .*, 48\)",
    "not a number": r"not finite: layers\.1\.mlp\.gate_proj\.weight$",
    "untied": r"lm_head\.weight differs from embed_tokens\.weight",
    "many": r"missing: layers\.0\..* and 19 more$",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name_and_copies_nothing(
    peer: LlamaForCausalLM, what: str
) -> None:
    ours = Transformer(Config.of(peer.config))
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(ValueError, match=BROKEN[what]):
        ours.load_weights(broken(peer, what))
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


def test_a_broken_folder_is_named(peer: LlamaForCausalLM, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match=r"needs config\.json and \*\.safetensors"):
        Transformer.load(tmp_path)
    peer.config.save_pretrained(tmp_path)
    save_file(
        {name: tensor.contiguous() for name, tensor in broken(peer, "missing").items() if name != "lm_head.weight"},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ValueError, match=rf"{tmp_path.name}: the checkpoint does not fit .*missing: layers"):
        Transformer.load(tmp_path)


def test_old_names_and_rotary_frequencies_are_no_fault(peer: LlamaForCausalLM) -> None:
    weights = {name.removeprefix("model."): tensor for name, tensor in peer.state_dict().items()}
    weights["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    del weights["lm_head.weight"]
    with torch.no_grad():
        ours = Transformer(Config.of(peer.config)).load_weights(weights)
        assert torch.allclose(ours(IDS), peer(IDS).logits, atol=1e-5)


def test_sizes_that_do_not_fit_each_other_are_refused() -> None:
    sizes: dict[str, Any] = {"vocab_size": 5, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    with pytest.raises(ValueError, match="3 query heads cannot share 2 key and value heads"):
        Config(**sizes, num_attention_heads=3, num_key_value_heads=2, head_dim=4)
    with pytest.raises(ValueError, match="head_dim is 5"):
        Config(**sizes, num_attention_heads=2, num_key_value_heads=2, head_dim=5)
