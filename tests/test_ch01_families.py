"""What the page on architecture families states: worked examples, table of models, diagrams, the explorer's data."""

from __future__ import annotations

import json
import math
import re
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.models.bart.configuration_bart import BartConfig
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.modernbert.configuration_modernbert import ModernBertConfig
from transformers.models.t5.configuration_t5 import T5Config

from alignlab import counting, scaling
from alignlab.architectures.families import prefix_mask
from alignlab.exercises import architecture_families

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book"))
from diagrams import ch01_families  # noqa: E402

PAGE = (ROOT / "book" / "ch01_structure" / "families.md").read_text(encoding="utf-8")
EXPLORER = ROOT / "labs" / "explorers" / "parameter_counter.json"
LINES = [f"{a}+{b}={a + b}" for a in range(10, 40) for b in range(10, 40)]


def entropy(groups: dict[str, list[str]]) -> float:
    """Mean entropy in nats of what each group holds, groups weighted by their size."""
    total = 0.0
    for tokens in groups.values():
        for token in set(tokens):
            share = tokens.count(token) / len(tokens)
            total -= tokens.count(token) * math.log(share)
    return total / len(LINES)


def test_the_entropies_of_the_worked_example() -> None:
    before, around = [], []
    for t in range(8):
        left: dict[str, list[str]] = {}
        both: dict[str, list[str]] = {}
        for line in LINES:
            left.setdefault(line[:t], []).append(line[t])
            both.setdefault(line[:t] + "?" + line[t + 1 :], []).append(line[t])
        before.append(entropy(left))
        around.append(entropy(both))
    want = [math.log(3), math.log(10), 0, math.log(3), math.log(10), 0, 0, 0]
    assert before == pytest.approx(want, abs=1e-12) and around == pytest.approx([0] * 8)
    assert sum(before) == pytest.approx(math.log(900))
    for number in (f"{math.log(3):.3f}", f"{math.log(10):.3f}", f"{math.log(900):.3f}"):
        assert number in PAGE
    assert "2(1.099+2.303)=6.802" in PAGE


def test_the_pairs_that_are_seen_are_those_of_the_masks() -> None:
    size, prefix = ch01_families.SIZE, ch01_families.PREFIX
    assert (size, prefix) == (7, 4)
    want = {
        "encoder": int(prefix_mask(torch.tensor([size]), size).sum()),
        "prefix decoder": int(prefix_mask(torch.tensor([prefix]), size).sum()),
        "causal decoder": int(prefix_mask(torch.tensor([0]), size).sum()),
    }
    want["encoder-decoder"] = prefix * prefix + 3 * prefix + 3 * 4 // 2
    assert {family: ch01_families.pairs(family) for family in ch01_families.FAMILIES} == want
    assert want == {"encoder": 49, "prefix decoder": 34, "encoder-decoder": 34, "causal decoder": 28}
    for row, column in product(range(size), repeat=2):
        seen = bool(ch01_families.seen("prefix decoder", row, column))
        assert seen == bool(prefix_mask(torch.tensor([prefix]), size)[0, 0, row, column])


def test_llama_7b_is_counted_by_hand_as_the_library_counts_it() -> None:
    attention, mlp, norms = 4 * 4096**2, 3 * 4096 * 11_008, 2 * 4096
    assert (attention, mlp, norms) == (67_108_864, 135_266_304, 8_192)
    layer, tables = attention + mlp + norms, 2 * 32_000 * 4096
    assert (layer, tables) == (202_383_360, 262_144_000)
    total = tables + 32 * layer + 4096
    assert total == sum(counting.parameters(counting.published("LLaMA-7B").architecture).values())
    for number in ("262{,}144{,}000", "67{,}108{,}864", "135{,}266{,}304", "202,383,360"):
        assert number in PAGE
    assert math.ceil(8 * 4096 / 3 / 256) * 256 == 11_008 and f"{8 * 4096 / 3:,.1f}" == "10,922.7"
    assert 0.65 < mlp / layer < 0.68


def test_caches_and_shares_of_the_page() -> None:
    grouped = counting.published("Llama-2-70B").architecture
    assert counting.kv_cache_bytes(grouped, 4096) == 1.25 * 2**30
    assert counting.kv_cache_bytes(grouped, 4096) * 64 / 8 == 10 * 2**30
    small = counting.published("LLaMA-7B").architecture
    cache, weights = counting.kv_cache_bytes(small, 4096, batch=32), 2 * sum(counting.parameters(small).values())
    assert round(cache / 1e9) == 69 and 5 < cache / weights < 5.5
    tiny = counting.parameters(counting.published("Qwen3-0.6B").architecture)
    assert 0.24 < tiny["embedding"] / sum(tiny.values()) < 0.27
    v3 = counting.active_parameters(counting.published("DeepSeek-V3").architecture)
    assert f"{(sum(v3.values()) - v3['embedding']) / 1e9:.1f}" == "36.6" and f"{sum(v3.values()) / 1e9:.1f}" == "37.6"


def test_the_worked_example_of_two_ways_to_spend_one_training() -> None:
    law = scaling.CHINCHILLA
    n, d = float(sum(counting.parameters(counting.published("LLaMA-7B").architecture).values())), 1e12
    budget = 6 * n * d
    other = math.sqrt(budget / 120)
    parts = [law.A / n**law.alpha, law.B / d**law.beta, law.A / other**law.alpha, law.B / (20 * other) ** law.beta]
    assert [f"{part:.3f}" for part in parts] == ["0.185", "0.179", "0.132", "0.237"]
    assert f"{law.E + parts[0] + parts[1]:.3f}" == "2.054" and f"{law.E + parts[2] + parts[3]:.3f}" == "2.059"
    assert (f"{budget:.1e}", f"{other / 1e9:.1f}", f"{20 * other / 1e9:.0f}") == ("4.0e+22", "18.4", "367")
    assert f"{other / n:.1f}" == "2.7" and f"{175e9 / n:.0f}" == "26" and round(300e9 / d, 1) == 0.3
    assert all(text in PAGE for text in ("2.054", "2.059", "0.185", "0.179", "0.132", "0.237", "18.4", "367"))


def test_ratios_of_the_diagram_are_stated_tokens_over_counted_parameters() -> None:
    ratios = {name: value for name, _, value in ch01_families.ratios()}
    assert round(ratios["LLaMA-7B"]) == 148 and round(ratios["Chinchilla"]) == 20 and round(ratios["GPT-3"], 1) == 1.7
    assert list(ratios.values()) == sorted(ratios.values())
    drawing = " ".join(text.text for text in ch01_families.tokens_per_parameter().texts)
    assert all(f"{value:,.0f}" in drawing for value in ratios.values() if value >= 10)


def test_the_block_that_is_drawn_has_llamas_sizes() -> None:
    a = counting.published("LLaMA-7B").architecture
    drawing = " ".join(text.text for text in ch01_families.llama_block().texts)
    for size in (a.hidden_size, a.intermediate_size, a.num_attention_heads, a.head_dim, a.num_hidden_layers):
        assert str(size) in drawing


# (model, counted from transformers' own configuration, as the page states it)
SKELETONS = {
    "BERT base": (lambda: AutoModelForMaskedLM.from_config(BertConfig()), 110e6),
    "BERT large": (
        lambda: AutoModelForMaskedLM.from_config(
            BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
        ),
        340e6,
    ),
    "ModernBERT base": (lambda: AutoModelForMaskedLM.from_config(ModernBertConfig()), 149e6),
    "BART large": (lambda: AutoModel.from_config(BartConfig()), 400e6),
    "T5 small": (lambda: AutoModel.from_config(T5Config()), 60e6),
    "T5 11B": (
        lambda: AutoModel.from_config(
            T5Config(d_model=1024, d_kv=128, d_ff=65_536, num_layers=24, num_heads=128, num_decoder_layers=24)
        ),
        11e9,
    ),
    "GPT-2 XL": (
        lambda: AutoModelForCausalLM.from_config(GPT2Config(n_embd=1600, n_layer=48, n_head=25)),
        1.5e9,
    ),
}


@pytest.mark.parametrize("name", SKELETONS)
def test_the_table_states_what_transformers_skeletons_count(name: str) -> None:
    make, stated = SKELETONS[name]
    with torch.device("meta"):
        counted = sum(p.numel() for p in make().parameters())
    assert counted == pytest.approx(stated, rel=0.045)


def test_the_table_of_models_agrees_with_the_catalogue() -> None:
    for name, first, last in (
        ("LLaMA", "LLaMA-7B", "LLaMA-65B"),
        ("Llama 2", "Llama-2-7B", "Llama-2-70B"),
        ("Llama 3.1", "Llama-3.1-8B", "Llama-3.1-70B"),
        ("Qwen2.5", "Qwen2.5-0.5B", "Qwen2.5-72B"),
        ("Qwen3", "Qwen3-0.6B", "Qwen3-235B-A22B"),
        ("DeepSeek-V2, V3", "DeepSeek-V2", "DeepSeek-V3"),
    ):
        (row,) = [line for line in PAGE.splitlines() if f"| {name} |" in line]
        for model in (counting.published(first), counting.published(last)):
            assert model.stated in row and model.active in row and str(model.year) in row and model.source in row
            assert f"{model.tokens:g}T" in row or f"{model.tokens:.1f}T" in row


def test_every_source_of_the_catalogue_is_cited_on_the_page_or_in_the_chapter() -> None:
    chapter = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book" / "ch01_structure").glob("*.md"))
    keys = set(re.findall(r"\{cite(?::t)?\}`([^`]+)`", chapter))
    cited = {key.strip() for group in keys for key in group.split(",")}
    assert {model.source for model in counting.PUBLISHED} <= cited


def test_the_labs_rows_of_the_exercises_are_the_papers() -> None:
    source, target = architecture_families.spans(list("17+25=42"), [(3, 5)], ["X", "Y"])  # type: ignore[arg-type, list-item]
    assert "".join(map(str, source)) == "17+X=42" and "".join(map(str, target)) == "X25Y"


@pytest.mark.skipif(not EXPLORER.exists(), reason="the lab ch01_architecture_families has not been run yet")
def test_the_counters_data_are_the_catalogue_and_small_enough_for_a_page() -> None:
    assert EXPLORER.stat().st_size < 20_000
    data = json.loads(EXPLORER.read_text(encoding="utf-8"))["data"]
    assert data["models"] == [counting.plain(model) for model in counting.PUBLISHED]
