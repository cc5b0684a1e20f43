"""What the page on the road to large models, its diagrams and its timeline state, computed anew and looked up."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BOOK = Path(__file__).resolve().parent.parent / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch01_roadmap  # noqa: E402

from alignlab.explorers import milestones  # noqa: E402
from alignlab.explorers.milestones import MILESTONES, SUBJECTS  # noqa: E402

PAGE = (BOOK / "ch01_structure" / "roadmap.md").read_text(encoding="utf-8")
BIB = (BOOK / "references.bib").read_text(encoding="utf-8")
ENTRIES: dict[str, str] = dict(re.findall(r"@\w+\{([^,]+),\n(.*?)\n\}", BIB, re.DOTALL))
BY_NAME = {one.name: one for one in MILESTONES}


def says(*parts: str) -> None:
    for part in parts:
        assert part in PAGE, part


# ---- worked examples


def test_the_backward_pass_with_two_weights_is_autograds_and_the_page_says_it() -> None:
    v = ch01_roadmap.backward_numbers()
    w1, w2 = torch.tensor(0.5, requires_grad=True), torch.tensor(1.5, requires_grad=True)
    a = torch.tanh(w1 * 2.0)
    loss = (w2 * a - 1.0) ** 2 / 2
    loss.backward()
    assert w1.grad is not None and w2.grad is not None
    assert v["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert v["dw1"] == pytest.approx(w1.grad.item(), abs=1e-6)
    assert v["dw2"] == pytest.approx(w2.grad.item(), abs=1e-6)
    assert [f"{v[key]:.3f}" for key in ("a", "y", "dy", "da", "du", "dw2", "dw1")] == [
        "0.762", "1.142", "0.142", "0.214", "0.090", "0.108", "0.179",
    ]  # fmt: skip
    assert f"{v['a'] ** 2:.3f}" == "0.580"
    says("$a=0.762$, $y=1.142$", "0.142\\cdot1.5=0.214", "0.214\\cdot(1-0.580)=0.090", "0.762\\cdot0.142=0.108")
    says("2\\cdot0.090=0.179")


def test_the_equations_of_back_propagation_are_autograds() -> None:
    torch.manual_seed(0)
    W1, W2 = torch.randn(5, 3, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    x = torch.randn(3)
    a = torch.tanh(W1 @ x)
    torch.nn.functional.cross_entropy((W2 @ a)[None], torch.tensor([2])).backward()
    with torch.no_grad():
        error = (W2 @ a).softmax(0) - torch.eye(4)[2]
        back = (W2.T @ error) * (1 - a**2)
    torch.testing.assert_close(W2.grad, torch.outer(error, a))
    torch.testing.assert_close(W1.grad, torch.outer(back, x))


def test_powers_and_gates_are_as_printed() -> None:
    assert f"{0.9**50:.3f}" == "0.005" and f"{1.1**50:.0f}" == "117"
    says("$0.9^{50}=0.005$", "$1.1^{50}=117$")
    assert f"{0.5**50:.0e}" == "9e-16"
    keep = 1 / (1 + math.exp(-5))
    assert f"{keep:.4f}" == "0.9933" and f"{0.9933**50:.2f}" == "0.71" and f"{keep**50:.2f}" == "0.71"
    says("$0.5^{50}=9\\cdot10^{-16}$", "$\\sigma(5)=0.9933$", "$0.9933^{50}=0.71$")


def test_the_softmax_of_three_scores_is_as_printed() -> None:
    raised = [math.exp(score) for score in ch01_roadmap.SCORES]
    assert [f"{one:.2f}" for one in raised] == ["7.39", "1.00", "2.72"] and f"{sum(raised):.2f}" == "11.11"
    assert [f"{one:.2f}" for one in ch01_roadmap.weights()] == ["0.67", "0.09", "0.24"]
    says("7.39, 1 and 2.72 over 11.11: 0.67, 0.09 and 0.24")


def test_what_guessing_costs_is_as_printed() -> None:
    assert f"{math.log(8):.2f}" == "2.08" and 1 / 8 == 0.125 and f"{math.log(49_152):.2f}" == "10.80"
    says("(guessing: 2.08)", "(guessing: 12.5%)", "guessing among 49,152 tokens costs 10.80")


def months(earlier: str, later: str) -> int:
    a, b = BY_NAME[earlier].date, BY_NAME[later].date
    return 12 * (int(b[:4]) - int(a[:4])) + int(b[5:]) - int(a[5:])


def size(name: str) -> float:
    found = BY_NAME[name].parameters
    assert found is not None
    return found


def test_the_growth_of_models_is_as_printed() -> None:
    first = size("GPT-3") / size("GPT-1")
    assert f"{first:,.0f}" == "1,496" and f"{math.log2(first):.1f}" == "10.5"
    assert months("GPT-1", "GPT-3") == 23 and f"{23 / math.log2(first):.1f}" == "2.2"
    second = size("Llama 3.1") / size("GPT-3")
    assert f"{second:.1f}" == "2.3" and months("GPT-3", "Llama 3.1") == 50 and f"{math.log2(second):.1f}" == "1.2"
    assert f"{15.6e12 / 300e9:.0f}" == "52"
    shares = [(BY_NAME[name].active or 0) / size(name) for name in ("DeepSeek-V3", "DeepSeek-V4")]
    assert [f"{share:.1%}" for share in shares] == ["5.5%", "3.1%"]
    says("a factor of 1,496", "$\\log_2 1496=10.5$ doublings in 23 months: one in 2.2 months", "2.3 in 50 months")
    says("1.2 doublings", "52 times", "uses 37, or 5.5%", "1.6 trillion and 49 billion, 3.1%")


# ---- the timeline


def test_each_milestone_names_a_source_of_the_bibliography_and_its_date() -> None:
    for one in MILESTONES:
        assert one.cite in ENTRIES, one
        assert re.fullmatch(r"20(1[2-9]|2[0-6])-(0[1-9]|1[0-2])", one.date), one
        eprint = re.search(r"eprint = \{(\d{2})(\d{2})\.", ENTRIES[one.cite])
        if eprint:
            assert one.date == f"20{eprint[1]}-{eprint[2]}", one
        else:
            year = re.search(r"year = \{(\d{4})\}", ENTRIES[one.cite])
            assert year and year[1] == one.date[:4], one


def test_the_timeline_holds_what_its_heading_in_the_outline_names() -> None:
    first = {"AlexNet", "word2vec", "Seq2Seq", "Attention", "Transformer", "GPT-1", "GPT-2", "GPT-3", "BERT", "RoBERTa"}
    assert first | {"ChatGPT", "GPT-4", "LLaMA", "DeepSeek-R1"} <= set(BY_NAME)
    assert {one.date[:4] for one in MILESTONES} == {str(year) for year in range(2012, 2027)}
    assert {one.subject for one in MILESTONES} == set(SUBJECTS)


def test_nothing_is_older_than_what_it_grew_from_and_names_are_unique() -> None:
    assert len(BY_NAME) == len(MILESTONES)
    for one in MILESTONES:
        for parent in one.parents:
            assert BY_NAME[parent].date <= one.date, (one.name, parent)


UNITS = {"million": 1e6, "billion": 1e9, "trillion": 1e12}


def test_numbers_of_parameters_are_those_of_the_words() -> None:
    """What is drawn is what the card says: the largest number of parameters in the text, and the active ones."""
    for one in MILESTONES:
        words = one.size.split(";")[0]
        found = [float(n) * UNITS[unit] for n, unit in re.findall(r"([\d.]+) (million|billion|trillion)", words)]
        if "parameters" in words and not words.startswith("shown with"):
            active = re.search(r"(?:of those )?([\d.]+) (million|billion|trillion) active", words)
            assert one.parameters == pytest.approx(max(found)), one
            assert one.active == (float(active[1]) * UNITS[active[2]] if active else None), one
        else:
            assert one.parameters is None, one


def test_each_milestone_leads_to_a_place_of_the_book() -> None:
    outline = (BOOK / "outline.yml").read_text(encoding="utf-8")
    for one in MILESTONES:
        assert f'id: "{one.section}"' in outline or f"id: {one.section}," in outline, one
        page, _, anchor = milestones.address(one.section).partition("#")
        path = BOOK.parent / page.replace(".html", ".md")
        assert path.exists(), one
        if anchor:
            text = path.read_text(encoding="utf-8")
            included = "".join((path.parent / name).read_text(encoding="utf-8") for name in _included(path))
            written = f"({anchor})=" in text + included
            section = ".".join(one.section.split(".")[:2])
            assert written or f"{{outline}} {section}" in text, one


def _included(path: Path) -> list[str]:
    return [
        n for n in re.findall(r"```\{include\} (\S+)", path.read_text(encoding="utf-8")) if (path.parent / n).exists()
    ]


def test_the_data_are_in_order_and_small() -> None:
    import json

    from alignlab import explorers

    data: dict[str, Any] = milestones.data()
    dates = [one["date"] for one in data["milestones"]]
    assert dates == sorted(dates) and data["start"]["name"] in BY_NAME
    assert len(json.dumps(explorers.packed(data), ensure_ascii=False).encode()) < 40_000


# ---- the diagrams


@pytest.mark.parametrize("name", ch01_roadmap.ALL)
@pytest.mark.parametrize("narrow", [False, True])
def test_the_diagrams_are_sound(name: str, narrow: bool) -> None:
    assert getattr(ch01_roadmap, name)(narrow=narrow).problems() == []


def test_the_diagram_of_steps_names_the_outlines_steps_in_order() -> None:
    names = [name for name, *_ in ch01_roadmap.STEPS]
    assert names == ["MLP", "RNN", "LSTM, GRU", "Attention", "Transformer", "Pre-training", "Scaling"]


def test_the_table_of_factors_is_their_powers() -> None:
    drawn = {placed.text for placed in ch01_roadmap.unrolled().texts}
    for factor in ch01_roadmap.FACTORS:
        assert f"{factor:.2f}" in drawn and ch01_roadmap.BACK[0] == 1
        for k in ch01_roadmap.BACK[1:]:
            assert f"{factor**k:.3g}" in drawn
