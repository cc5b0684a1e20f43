"""Counted parameters, FLOPs and bytes equal those of real modules, of transformers' skeletons, of makers' reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig

from alignlab import counting
from alignlab.counting import PUBLISHED, Architecture, Experts, Latent, forward_flops, kv_cache_bytes, parameters
from alignlab.transformer import Config, Transformer

TINY = Config(50, 24, 40, 3, 4, 2, 6, 64, tie_word_embeddings=False)
TIED = replace(TINY, tie_word_embeddings=True)
COMMON = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False,
}  # fmt: skip
LATENT = {"kv_lora_rank": 6, "qk_nope_head_dim": 5, "qk_rope_head_dim": 4, "v_head_dim": 7}
EXPERTS = {
    "moe_intermediate_size": 12, "n_routed_experts": 6, "n_shared_experts": 2, "num_experts_per_tok": 3,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
WITHOUT_HEADS = {key: value for key, value in COMMON.items() if key not in ("num_key_value_heads", "head_dim")}
PEERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**COMMON),
    "llama, tied": lambda: LlamaConfig(**{**COMMON, "tie_word_embeddings": True}),
    "qwen2": lambda: Qwen2Config(**COMMON),
    "qwen3": lambda: Qwen3Config(**COMMON),
    "mixtral": lambda: MixtralConfig(**COMMON, num_local_experts=5, num_experts_per_tok=2),
    "qwen3_moe": lambda: Qwen3MoeConfig(**COMMON, moe_intermediate_size=12, num_experts=6, num_experts_per_tok=2),
    "deepseek_v2": lambda: DeepseekV2Config(**WITHOUT_HEADS, **LATENT, **EXPERTS, q_lora_rank=10),
    "deepseek_v2, queries at once": lambda: DeepseekV2Config(**WITHOUT_HEADS, **LATENT, **EXPERTS, q_lora_rank=None),
    "deepseek_v3": lambda: DeepseekV3Config(**WITHOUT_HEADS, **LATENT, **EXPERTS, q_lora_rank=10, num_mtp_layers=0),
}


def total(config: Config) -> int:
    return sum(parameters(config).values())


def skeleton(config: Any) -> int:
    """Parameters of transformers' own model, made without memory; tied ones once."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in model.parameters())


# ---- parameters

Count = Callable[[Config], int]


def check_count(count: Count) -> None:
    """Everything that makes a count of parameters right, for the real one and for each wrong one."""
    for config in (TINY, TIED, replace(TINY, head_dim=10), replace(TINY, num_key_value_heads=4)):
        with torch.device("meta"):
            model = Transformer(config)
        assert count(config) == sum(p.numel() for p in model.parameters())


def test_parameters_are_those_of_the_books_decoder() -> None:
    check_count(total)


WRONG: dict[str, Count] = {
    "keys and values as if each query head had its own": lambda c: total(
        replace(c, num_key_value_heads=c.num_attention_heads)
    ),
    "the head left out": lambda c: total(replace(c, tie_word_embeddings=True)),
    "a tied head counted again": lambda c: total(replace(c, tie_word_embeddings=False)),
    "two matrices in the MLP": lambda c: total(c) - c.num_hidden_layers * c.hidden_size * c.intermediate_size,
    "the last norm forgotten": lambda c: total(c) - c.hidden_size,
    "head width taken for width over heads": lambda c: total(
        replace(c, head_dim=c.hidden_size // c.num_attention_heads)
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_count_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_count(WRONG[name])


@pytest.mark.parametrize("name", PEERS)
def test_every_family_counts_as_transformers_own_skeleton(name: str) -> None:
    config = PEERS[name]()
    assert total(counting.architecture_of(config)) == skeleton(config)


def test_the_parts_are_where_the_parameters_are() -> None:
    with torch.device("meta"):
        model = Transformer(TINY)
    parts = parameters(TINY)
    assert tuple(parts) == counting.PARTS
    assert parts["attention"] == sum(p.numel() for block in model.layers for p in block.self_attn.parameters())
    assert parts["mlp"] == sum(p.numel() for block in model.layers for p in block.mlp.parameters())
    assert parts["norms"] == sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert parts["embedding"] == parts["head"] == 50 * 24 and parameters(TIED)["head"] == 0
    assert parts["experts"] == parts["shared_experts"] == parts["router"] == 0


def test_active_parameters_leave_out_the_experts_that_sleep() -> None:
    config = counting.architecture_of(PEERS["deepseek_v3"]())
    experts = config.experts
    assert experts is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(PEERS["deepseek_v3"]())
    routed = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    assert parameters(config)["experts"] == routed
    asleep = routed * (experts.routed - experts.active) // experts.routed
    assert sum(counting.active_parameters(config).values()) == total(config) - asleep
    assert counting.active_parameters(TINY) == parameters(TINY)


# ---- published models


def stated(text: str) -> tuple[float, float]:
    """A size in its makers' words and the worth of one unit of its last digit: "6.7B" is 6.7e9 and 1e8."""
    unit = {"M": 1e6, "B": 1e9}[text[-1]]
    digits = len(text[:-1].partition(".")[2])
    return float(text[:-1]) * unit, unit / 10**digits


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.name)
def test_each_published_model_counts_to_what_its_makers_state(model: counting.Published) -> None:
    size, step = stated(model.stated)
    step = max(step, 0.015 * size)  # some makers cut digits off instead of rounding: 405.85 billion are "405B"
    assert abs(total(model.architecture) - size) < step
    if model.active:
        used = counting.active_parameters(model.architecture)
        low, high = sum(used.values()) - used["embedding"], sum(used.values())  # with or without the table looked up
        size, step = stated(model.active)
        assert low - step < size < high + step


def test_exact_sizes_known_from_the_checkpoints() -> None:
    known = {
        "SmolLM2-135M": 134_515_008,
        "LLaMA-7B": 6_738_415_616,
        "Llama-2-70B": 68_976_648_192,
        "Llama-3.1-8B": 8_030_261_248,
        "Qwen2.5-0.5B": 494_032_768,
        "Qwen2.5-7B": 7_615_616_512,
        "Qwen3-8B": 8_190_735_360,
        "Mixtral-8x7B": 46_702_792_704,
        "DeepSeek-V2-Lite": 15_706_484_224,
    }
    assert {name: total(counting.published(name).architecture) for name in known} == known


@pytest.mark.parametrize("name", ["Qwen3-30B-A3B", "DeepSeek-V2", "DeepSeek-V3", "Llama-3.1-405B"])
def test_published_sizes_hold_in_transformers_skeleton(name: str) -> None:
    a = counting.published(name).architecture
    shared = {
        "vocab_size": a.vocab_size, "hidden_size": a.hidden_size, "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.num_hidden_layers, "num_attention_heads": a.num_attention_heads,
        "num_key_value_heads": a.num_key_value_heads, "tie_word_embeddings": a.tie_word_embeddings,
    }  # fmt: skip
    e, m = a.experts, a.latent
    config: Any
    if m is None and e is None:
        config = LlamaConfig(**shared, head_dim=a.head_dim)
    elif m is None:
        assert e is not None
        config = Qwen3MoeConfig(
            **shared, head_dim=a.head_dim, moe_intermediate_size=e.width, num_experts=e.routed,
            num_experts_per_tok=e.active,
        )  # fmt: skip
    else:
        assert e is not None
        make = DeepseekV3Config if "V3" in name else DeepseekV2Config
        config = make(
            **shared, kv_lora_rank=m.kv_rank, q_lora_rank=m.query_rank, qk_nope_head_dim=m.plain_dim,
            qk_rope_head_dim=m.rotary_dim, v_head_dim=m.value_dim, moe_intermediate_size=e.width,
            n_routed_experts=e.routed, num_experts_per_tok=e.active, n_shared_experts=e.shared,
            first_k_dense_replace=e.dense_layers, num_nextn_predict_layers=0,
        )  # fmt: skip
    assert skeleton(config) == total(a)


def test_an_unknown_model_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(LookupError, match="LLaMA-7B"):
        counting.published("LLaMA-8B")


# ---- FLOPs

Flops = Callable[..., int]


def flops(config: Config, tokens: int, past: int = 0) -> int:
    return sum(forward_flops(config, tokens, past).values())


def check_flops(count: Flops) -> None:
    """Equal to what torch counts in a real forward pass, without and with a cache."""
    for config in (TINY, replace(TINY, num_key_value_heads=4, head_dim=10)):
        model = Transformer(config).initialize()
        for past, new in ((0, 11), (7, 1), (5, 4)):
            cache = model.cache(1, 16)
            if past:
                model(torch.zeros(1, past, dtype=torch.long), cache=cache)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(torch.zeros(1, new, dtype=torch.long), cache=cache)
            assert counter.get_total_flops() == count(config, new, past)


def test_flops_are_those_that_torch_counts_in_a_forward_pass() -> None:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        check_flops(flops)


WRONG_FLOPS: dict[str, Flops] = {
    "one FLOP for a multiplication and its addition": lambda c, t, p: flops(c, t, p) // 2,
    "scores without values": lambda c, t, p: flops(c, t, p) - forward_flops(c, t, p)["scores"] // 2,
    "the cache forgotten": lambda c, t, p: flops(c, t),
    "the embedding multiplied": lambda c, t, p: flops(c, t, p) + 2 * t * c.vocab_size * c.hidden_size,
    "twice the parameters and no attention": lambda c, t, p: 2 * t * total(c),
}


@pytest.mark.parametrize("name", WRONG_FLOPS)
def test_wrong_flops_are_rejected(name: str) -> None:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), pytest.raises(AssertionError):
        check_flops(WRONG_FLOPS[name])


def test_causal_scores_are_the_pairs_that_are_seen() -> None:
    pairs = sum(1 for row in range(5) for column in range(3 + 5) if column <= 3 + row)
    one = forward_flops(TINY, 1)["scores"]  # a single pair
    assert forward_flops(TINY, 5, past=3, causal=True)["scores"] == pairs * one
    assert forward_flops(TINY, 5, past=3)["scores"] == 5 * 8 * one


def test_only_the_head_depends_on_how_many_logits_are_read() -> None:
    every, last = forward_flops(TINY, 9), forward_flops(TINY, 9, logits=1)
    assert every["head"] == 9 * last["head"]
    assert {k: v for k, v in every.items() if k != "head"} == {k: v for k, v in last.items() if k != "head"}


def test_experts_cost_what_is_active_and_latent_attention_what_it_multiplies() -> None:
    config = counting.architecture_of(PEERS["deepseek_v3"]())
    with torch.no_grad():
        peer = AutoModelForCausalLM.from_config(PEERS["deepseek_v3"](), attn_implementation="eager")
    tokens = 5
    named = {name: p for name, p in peer.named_parameters() if p.dim() > 1 and "embed" not in name}
    dense = sum(p.numel() for name, p in named.items() if ".experts." not in name)
    routed = sum(p.numel() for name, p in named.items() if ".experts." in name) // 6 * 3
    counted = forward_flops(config, tokens)
    assert sum(counted.values()) - counted["scores"] == 2 * tokens * (dense + routed)
    assert counted["scores"] == 2 * 3 * 4 * (5 + 4 + 7) * tokens * tokens
    assert forward_flops(config, 1, past=9)["scores"] == 2 * 3 * 4 * (6 + 4 + 6) * 10  # scores the cached vector itself


# ---- bytes


def test_cache_bytes_are_those_of_the_cache_that_is_allocated() -> None:
    cache = Transformer(TINY).cache(3, 20)
    held = cache.keys.nbytes + cache.values.nbytes
    assert kv_cache_bytes(TINY, 20, batch=3, bytes_per_number=4) == held


def test_a_latent_cache_holds_one_vector_and_its_position() -> None:
    v2 = counting.published("DeepSeek-V2").architecture
    assert kv_cache_bytes(v2, 1) == 60 * (512 + 64) * 2
    plain = replace(v2, latent=None)
    assert kv_cache_bytes(plain, 1) == 60 * 2 * 128 * 128 * 2


def test_mixed_precision_adam_keeps_sixteen_bytes_a_parameter() -> None:
    model = torch.nn.Linear(8, 8, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    (weight,) = model.parameters()
    assert weight.grad is not None
    moments = sum(optimizer.state[weight][key].nbytes for key in ("exp_avg", "exp_avg_sq"))
    plain = counting.training_bytes(64, mixed=False)
    assert plain == {"weights": weight.nbytes, "gradients": weight.grad.nbytes, "master weights": 0, "moments": moments}
    assert sum(counting.training_bytes(1).values()) == 16


# ---- bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"experts": Experts(4, 5, 8)}, "5 of 4 routed experts"),
        ({"experts": Experts(4, 1, 8, dense_layers=9)}, "9 of 3 layers"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change: dict[str, Any], words: str) -> None:
    sizes = {name: getattr(TINY, name) for name in Config.__dataclass_fields__}
    with pytest.raises(ValueError, match=words):
        Architecture(**{**sizes, **change})


def test_latent_attention_needs_no_even_share_of_heads() -> None:
    sizes = {name: getattr(TINY, name) for name in Config.__dataclass_fields__}
    assert Architecture(**{**sizes, "num_key_value_heads": 3}, latent=Latent(4, 0, 2, 2, 2)).latent


def test_a_model_type_that_is_not_counted_is_named() -> None:
    with pytest.raises(ValueError, match="'gpt2' are not counted"):
        counting.architecture_of(type("C", (), {"model_type": "gpt2"})())
    with pytest.raises(ValueError, match="0 new tokens"):
        forward_flops(TINY, 0)
