"""The worked examples of the page on attention and of its diagrams, recomputed."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import DeepseekV2Config, DeepseekV3Config

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch01_attention  # noqa: E402

from alignlab.architectures.attention import (  # noqa: E402
    LatentCache,
    alibi,
    alibi_slopes,
    attention,
    blockwise_attention,
    rotary_score,
    sinusoidal_positions,
)
from alignlab.counting import Architecture, Latent, kv_cache_bytes  # noqa: E402
from alignlab.transformer import Config  # noqa: E402

PAGE = re.sub(r"\s+", " ", (BOOK / "ch01_structure" / "attention.md").read_text(encoding="utf-8"))
SMOLLM2 = Config(49_152, 576, 1536, 30, 9, 3, 64, max_position_embeddings=8192, rope_theta=100_000.0)


def says(*parts: str) -> None:
    for part in parts:
        assert part in PAGE, part


def test_the_worked_example_of_attention() -> None:
    q = torch.tensor([2.0, 0, 0, 0]).view(1, 1, 1, 4)
    k = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [2, 0, 0, 0]]).view(1, 1, 3, 4)
    v = torch.tensor([10.0, 20, 30]).view(1, 1, 3, 1)
    assert (q @ k.transpose(-2, -1)).flatten().tolist() == [2, 0, 4]
    out, weights = attention(q, k, v)
    assert [round(w, 3) for w in weights.flatten().tolist()] == [0.245, 0.09, 0.665]
    assert round(out.item(), 1) == 24.2
    hard = attention(q, k, v, scale=1.0)[1]
    assert [round(w, 3) for w in hard.flatten().tolist()] == [0.117, 0.016, 0.867]
    says("Weights 0.245, 0.090, 0.665", "$2.45+1.80+19.96=24.2$", "would be 0.117, 0.016, 0.867")


def test_random_products_spread_as_the_root_of_the_width() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(20_000, 64, generator=generator) for _ in range(2))
    assert (q * k).sum(1).std().item() == pytest.approx(8, rel=0.03)
    says("at $d_h=64$ scores would spread by 8")


def test_what_smollm2_and_deepseek_keep_of_a_token() -> None:
    assert kv_cache_bytes(SMOLLM2, 1) == 23_040 and kv_cache_bytes(SMOLLM2, 1) == 30 * 2 * 384
    assert kv_cache_bytes(SMOLLM2, 8192) / 2**20 == 180
    assert round(134_515_008 * 2 / 2**20) == 257
    says("$2\\cdot3\\cdot64=384$ numbers", "23,040 bytes a token", "70% of the 257 MiB")
    assert round(100 * 8192 * 23_040 / (134_515_008 * 2)) == 70
    assert ch01_attention.CACHED == {"MHA": 1152, "GQA": 384, "MQA": 128, "MLA": 288}
    for config in (DeepseekV2Config(), DeepseekV3Config()):
        assert (config.kv_lora_rank, config.qk_rope_head_dim, config.q_lora_rank) == (512, 64, 1536)
        assert config.v_head_dim == config.qk_nope_head_dim == 128
    sizes = ch01_attention.DEEPSEEK
    latent = Latent(sizes["latent"], sizes["query"], sizes["size"], sizes["turned"], sizes["size"])
    deepseek = Architecture(102_400, sizes["width"], 12_288, 60, sizes["heads"], sizes["heads"], 128, latent=latent)
    assert kv_cache_bytes(deepseek, 1) == 576 * 60 * 2 == 69_120
    cache = LatentCache(latent, 1, 1, 10)
    assert cache.keys.numel() + cache.values.numel() == 10 * 576
    assert 2 * sizes["heads"] * sizes["size"] == 32_768 and round(32_768 / 576) == 57
    assert 576 / (2 * sizes["size"]) == 2.25
    says("$576\\cdot60\\cdot2=69{,}120$ bytes", "57 times as many", "GQA with 2.25 groups")
    assert 8192**2 * 4 / 2**20 == 256
    says("At $T=8{,}192$ that is 256 MiB")


def test_the_worked_example_in_blocks_and_its_diagram() -> None:
    first, second = ch01_attention.joined()
    assert first[0] == 2 and second[0] == 4
    assert [round(x, 3) for x in (first[1], second[1])] == [1.368, 1.203]
    assert [round(x, 2) for x in (first[2], second[2])] == [23.68, 33.94]
    scores = torch.tensor(ch01_attention.SCORES, dtype=torch.float64).view(1, 1, 4, 1)
    values = torch.tensor(ch01_attention.VALUES, dtype=torch.float64).view(1, 1, 4, 1)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    got = blockwise_attention(one, scores, values, block=2, causal=False, scale=1.0).item()
    assert got == pytest.approx(second[2] / second[1]) and round(got, 2) == 28.20
    odds = [math.exp(s) for s in ch01_attention.SCORES]
    assert round(sum(odds), 2) == 65.71 and round(odds[2], 2) == 54.60
    parts = [round(o * v, 1) for o, v in zip(odds, ch01_attention.VALUES, strict=True)]
    assert parts == [27.2, 147.8, 1637.9, 40.0]
    assert math.isinf(torch.tensor(88.8).exp().item()) and math.isfinite(torch.tensor(88.7).exp().item())
    says("$\\ell=e^{-1}+1=1.368$", "Output $33.94/1.203=28.20$", "$(27.2+147.8+1637.9+40)/65.71=28.20$", "88.7")


def test_the_clocks_of_the_sinusoids() -> None:
    got = sinusoidal_positions(torch.tensor([3]), 4)[0]
    assert [round(x, 3) for x in got.tolist()] == [0.141, -0.99, 0.03, 1.0]
    says("=(0.141,-0.990,0.030,1.000)$")
    assert round(2 * math.pi, 1) == 6.3 and round(2 * math.pi * 10_000 ** (510 / 512), -2) == 60_600
    says("at $d=512$ the first goes round in 6.3 positions, the last in about 60,600")


def test_the_worked_example_of_rotation_and_its_diagram() -> None:
    """One pair turning by 30 degrees a position: a head of width 2, whose one frequency is 1, at fitting distances."""
    x = torch.tensor([1.0, 0.0], dtype=torch.float64)
    step = math.radians(ch01_attention.FREQUENCY)
    for m, n in ch01_attention.PLACES:
        got = rotary_score(x, x, torch.tensor([(m - n) * step])).item()
        assert got == pytest.approx(0.5)
        turned = math.cos(m * step) * math.cos(n * step) + math.sin(m * step) * math.sin(n * step)
        assert turned == pytest.approx(0.5)
    says("At positions 3 and 1 they stand at 90° and 30°", "At 8 and 6: 240° and 180°")


def test_smollm2s_slowest_pair_hardly_turns() -> None:
    slowest = SMOLLM2.rope_theta ** (-2 * 31 / 64)
    assert f"{slowest:.2e}" == "1.43e-05"
    assert round(math.degrees(slowest * 8192), 1) == 6.7
    says("$1.43\\cdot10^{-5}$ radians a token", "it moves by 6.7°")


def test_the_worked_example_of_alibi() -> None:
    assert alibi_slopes(8)[[0, 1, 7]].tolist() == [0.5, 0.25, 1 / 256]
    near, far = (alibi(8, 3)[0, head, 2].softmax(-1) for head in (0, 7))
    assert [round(w, 3) for w in near.tolist()] == [0.186, 0.307, 0.506]
    assert far.tolist() == pytest.approx([1 / 3] * 3, abs=2e-3)
    says("weights 0.186, 0.307, 0.506", "$\\frac12,\\frac14,\\dots,\\frac1{256}$")


def test_a_sum_of_sixteen_parts_is_four_times_as_large() -> None:
    parts = torch.randn(16, 4096, generator=torch.Generator().manual_seed(0))
    assert parts.sum(0).std().item() == pytest.approx(4, rel=0.05)
    says("After 16 additions it is 4")


def measured() -> dict[str, float]:
    """The lab's numbers, as its executed notebook holds them."""
    notebook = json.loads((BOOK.parent / "labs" / "ch01_attention_and_positions.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            found = output.get("data", {}).get("application/vnd.alignlab.results+json")
            if found:
                return {name: result["value"] for name, result in found["results"].items()}
    raise AssertionError("the notebook holds no results")


def test_what_the_page_says_in_words_is_what_the_lab_measured() -> None:
    m = measured()
    assert m["squeezed_128_change"] < 0.1 * m["averaged_change"]
    says("keeps far more than common heads")
    assert m["mla32_wrong"] < m["mha_wrong"] < m["gqa_wrong"] < m["mqa_wrong"] and m["mla16_wrong"] < m["mqa_wrong"]
    says("MLA errs less than MHA with four times as much", "it is still ahead of MQA")
    assert abs(m["none_512"] - m["rotary_512"]) < 0.1 and m["alibi_512"] > 0.2 + m["rotary_512"]
    says("go about as far as RoPE", "ALiBi alone holds")
    assert m["none_old"] > m["alibi_old"] > m["rotary_old"]
    says("nothing tells it that far is less")
    assert m["own_last"] > 10 * m["own_first"] and m["pressed_first"] > 5 * m["own_first"]
    assert abs(m["tuned_last"] - m["tuned_first"]) < 0.05 and m["tuned_last"] < m["pressed_last"] / 2
    assert m["base_first"] < 1.2 * m["own_first"] and m["base_last"] < m["own_last"]
    assert m["yarn_first"] > m["own_first"] and m["yarn_last"] < min(m["base_last"], m["tuned_last"])
    says("down to one level", "leaves the near distances as they were", "holds to the end")
    assert m["post_ratio"] > 100 and m["pre_ratio"] < 10 and 0.5 < m["post_halved_ratio"] < 2
    assert m["post_warm_loss"] > 2.5 > 0.5 > max(m["pre_loss"], m["post_halved_loss"])
    says("Here warm-up alone does not help", "and smaller weights do", "it does not show that warm-up never helps")


@pytest.mark.parametrize("name", ["heads", "latent", "blocks", "rotation", "entrances", "norms"])
def test_the_diagrams_are_sound(name: str) -> None:
    for narrow in (False, True):
        drawn = getattr(ch01_attention, name)(narrow)
        assert not drawn.problems() and len(drawn.svg()) < 11_000
        assert f"ch01_attention.{name}" in PAGE
