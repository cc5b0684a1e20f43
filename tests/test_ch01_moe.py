"""What the pages on experts and on the training landscape state: worked examples, figures of diagrams, sizes."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab import counting, text
from alignlab.architectures.moe import capacity, load_balance_loss, route, within_capacity

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book"))

from diagrams import ch01_landscape, ch01_moe  # noqa: E402

EXPERTS = (ROOT / "book/ch01_structure/experts.md").read_text(encoding="utf-8")
LANDSCAPE = (ROOT / "book/ch01_structure/training_landscape.md").read_text(encoding="utf-8")


def test_the_routers_worked_example_is_what_the_library_computes() -> None:
    found = route(torch.tensor([ch01_moe.LOGITS]), 2)
    assert found.scores[0].tolist() == pytest.approx(ch01_moe.probabilities())
    assert found.weights[0].tolist() == pytest.approx(ch01_moe.top_two())
    assert [f"{p:.2f}" for p in ch01_moe.probabilities()] == ["0.64", "0.24", "0.09", "0.03"]
    assert "p=(0.64, 0.24, 0.09, 0.03)" in EXPERTS and r"\frac{0.644}{0.881}=0.73" in EXPERTS
    first, second = ch01_moe.probabilities()[:2]
    assert f"{first:.3f}" == "0.644" and f"{first + second:.3f}" == "0.881"
    assert sum(math.exp(z) for z in ch01_moe.LOGITS) == pytest.approx(11.475, abs=5e-4)


def test_the_queue_of_the_diagram_is_the_librarys() -> None:
    experts = torch.tensor(ch01_moe.QUEUE)[:, None]
    assert capacity(len(experts), 3, 1, 1.0) == ch01_moe.LIMIT
    kept = within_capacity(experts, 3, ch01_moe.LIMIT)[:, 0]
    assert (~kept).tolist() == ch01_moe.dropped()
    assert int((~kept).sum()) == 2 and 3 * ch01_moe.LIMIT - int(kept.sum()) == 2  # two dropped, two places empty


def two_experts(first: list[float]) -> float:
    scores = torch.tensor([[p, 1 - p] for p in first], dtype=torch.float64)
    return load_balance_loss(scores, scores.argmax(-1, keepdim=True)).item()


def test_the_balance_losss_worked_examples_and_its_value_below_one() -> None:
    assert two_experts([0.9, 0.8, 0.6, 0.3]) == pytest.approx(1.15)
    assert two_experts([0.51, 0.51, 0.51, 0.01]) == pytest.approx(0.885)
    assert two_experts([0.51, 0.49]) == pytest.approx(1.0)
    assert "=1.15$" in EXPERTS and "$0.885$" in EXPERTS


def test_mixtrals_parameters_by_hand_and_by_counting() -> None:
    model = counting.published("Mixtral-8x7B").architecture
    parts, active = counting.parameters(model), counting.active_parameters(model)
    expert = 3 * 4096 * 14_336
    assert expert == 176_160_768 and "176{,}160{,}768" in EXPERTS
    assert parts["experts"] == 32 * 8 * expert and active["experts"] == 32 * 2 * expert
    said = {
        parts["experts"]: "45.1", active["experts"]: "11.3", parts["attention"]: "1.34",
        parts["embedding"] + parts["head"]: "0.26", sum(parts.values()): "46.7", sum(active.values()): "12.9",
    }  # fmt: skip
    for count, words in said.items():
        assert f"{count / 1e9:.{len(words.split('.')[1])}f}" == words and words in EXPERTS
    assert f"{2 * sum(parts.values()) / 1e9:.0f} GB in bf16" == "93 GB in bf16" and "93 GB in bf16" in EXPERTS


def test_how_many_experts_a_batch_touches() -> None:
    """8 (1 - 0.75^B), against every choice of two experts by two tokens, and against draws for eight."""
    pairs = [(a, b) for a in range(8) for b in range(a)]
    exact = sum(len({*one, *two}) for one in pairs for two in pairs) / len(pairs) ** 2
    assert pytest.approx(exact) == 8 * (1 - 0.75**2)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(4000, 8, 8, generator=generator).topk(2, -1).indices.flatten(1)
    touched = torch.zeros(4000, 8).scatter_(1, drawn, 1.0).sum(1).mean().item()
    assert pytest.approx(touched, abs=0.05) == 8 * (1 - 0.75**8)
    assert f"{8 * (1 - 0.75**8):.1f}" == "7.2" and f"{8 * (1 - 0.75**32):.1f}" == "8.0"


def test_the_combinations_of_finer_experts() -> None:
    assert math.comb(16, 2) == 120 and math.comb(64, 8) == 4_426_165_368
    assert "120 sets" in EXPERTS and "4,426,165,368" in EXPERTS


# ---- the landscape


def test_the_numbers_of_the_landscape_follow_from_their_factors() -> None:
    assert f"{6 * 405e9 * 15.6e12:.1e}" == "3.8e+25"
    assert f"{6 * 134_515_008 * 2e12:.1e}" == "1.6e+21"
    years = 6 * 134_515_008 * 2e12 / 3e10 / (365.25 * 86_400)
    assert 1650 < years < 1750
    assert (4.9 + 60) / 3640 < 0.02 and f"{147 / 2788:.0%}" == "5%"
    assert f"{math.log2(49_152):.1f}" == "15.6" and f"{271_409 / 8 / 1000:.0f}" == "34"
    assert f"{49_152**10:.0e}" == "8e+46"
    for words in (
        r"3.8\cdot10^{25}",
        r"1.6\cdot10^{21}",
        "1,700 years",
        "under 2%",
        "15.6 for SmolLM2",
        "34 kilobytes",
    ):
        assert words in LANDSCAPE


def test_the_table_of_scales_and_its_diagram_agree() -> None:
    said = {"12,725": 12_725, "33,207": 33_207, "31,144": 31_144, "27,540": 27_540, "1,418,091": 1_418_091,
            "939,344": 939_344, "271,409": 271_409, "150,000": 150e3, "about 30,000": 30e3, "800,000": 800e3,
            "1.5 million": 1.5e6, "300B": 300e9, "2.0T": 2e12, "14.8T": 14.8e12, "18T": 18e12}  # fmt: skip
    drawn = {value for _, _, _, models in ch01_landscape.SCALES for _, value in models}
    for words, value in said.items():
        assert words in LANDSCAPE and value in drawn
    for _, _, _, models in ch01_landscape.SCALES:
        assert [value for _, value in models] == sorted(value for _, value in models)
    assert 11_295 + 1_430 == 12_725 and 6_623 + 26_584 == 33_207  # InstructGPT's table 6: labelers and customers


@pytest.mark.slow
def test_the_chain_of_the_diagram_is_smollm2s(small: Any) -> None:
    model, tokenizer = small
    prompt = text.encode_prompt(tokenizer, "What is 17 + 25?")
    for _, tokens in ch01_landscape.ANSWERS:
        answer = tokenizer.encode(ch01_landscape.OPENING + "".join(t for t, _ in tokens), add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        logprobs = logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
        opening = len(answer) - len(tokens)
        assert opening == 8
        assert logprobs[:opening].sum().exp().item() == pytest.approx(ch01_landscape.SHARED, abs=6e-4)
        assert logprobs[opening:].exp().tolist() == pytest.approx([p for _, p in tokens], abs=6e-4)


def test_the_chains_products_are_those_of_the_page() -> None:
    right, likely = (ch01_landscape.product(tokens) for _, tokens in ch01_landscape.ANSWERS)
    assert f"{right:.5f}" == "0.00067" and f"{likely:.3f}" == "0.032" and f"{likely / right:.0f}" == "48"
    assert f"{math.log(right):.2f}" == "-7.31"
    logs = [math.log(ch01_landscape.SHARED), *(math.log(p) for _, p in ch01_landscape.ANSWERS[0][1])]
    assert [f"{x:.2f}" for x in logs] == ["-1.43", "-3.96", "-0.03", "-1.89"]
    assert (
        "0.00067" in LANDSCAPE and "it is 48 times as likely" in LANDSCAPE and "-1.43-3.96-0.03-1.89=-7.31" in LANDSCAPE
    )


def test_relative_frequencies_are_the_likeliest_table() -> None:
    """Maximize the likelihood of counts 5, 3, 2 over the simplex by gradient steps; the page says where it must end."""
    counts = torch.tensor([5.0, 3.0, 2.0])
    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -(counts * logits.log_softmax(0)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(logits.detach().softmax(0), counts / counts.sum(), atol=1e-3, rtol=0)
