"""What section 1.3 and its diagrams say: every number of the worked examples, computed again."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch01_scaling  # noqa: E402
from diagrams.kit import Diagram  # noqa: E402

from alignlab import decoding, models  # noqa: E402
from alignlab.reasoning.voting import vote_accuracy  # noqa: E402
from alignlab.scaling import (  # noqa: E402
    CHINCHILLA,
    REPLICATION,
    coverage,
    effective_tokens,
    inference_flops,
    training_flops,
)
from alignlab.tasks import arithmetic  # noqa: E402

PAGE = BOOK / "ch01_structure" / "scaling_laws.md"


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def words(diagram: Diagram) -> str:
    """All texts of a drawing, its description included."""
    return " ".join(text.text for text in diagram.texts) + " " + diagram.desc


def test_smollm2_costs_what_the_page_says() -> None:
    flops = training_flops(134_515_008.0, 2e12)
    assert f"{flops / 1e21:.2f}" == "1.61"
    seconds = flops / (0.4 * 989e12)
    assert f"{seconds / 1e6:.2f}" == "4.08" and round(seconds / 3600) == 1133 and round(seconds / 3600 / 64) == 18
    assert round(2 * seconds / 3600) == 2267
    assert all(told in page() for told in ("1.61\\cdot10^{21}", "1,133 hours", "18 hours of 64", "2,267 dollars"))


def test_the_optimum_by_hand_is_the_replications() -> None:
    law = REPLICATION
    G = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    assert f"{law.alpha * law.A:.1f} {law.beta * law.B:.1f}" == "167.6 762.9"
    assert "(167.6/762.9)^{1/0.7136}" in page()
    assert f"{G:.4f} {law.exponents[0]:.4f}" == "0.1196 0.5126"
    assert f"{9.6e22 ** law.exponents[0] / 1e11:.2f}" == "6.04"
    n, d = law.optimal(5.76e23)
    assert round(n / 1e9) == 72 and f"{d / 1e12:.2f}" == "1.33" and round(d / n) == 18
    assert f"{law(280e9, 300e9):.3f} {law(70e9, 1.4e12):.3f}" == "2.000 1.974"
    for factor in (0.5, 2.0):
        assert f"{law(n * factor, d / factor) - law(n, d):.3f}" == "0.005"
    n, d = CHINCHILLA.optimal(5.76e23)
    assert round(n / 1e9) == 32 and round(d / n) == 93
    assert f"{CHINCHILLA.exponents[0]:.2f} {REPLICATION.exponents[0]:.2f}" == "0.45 0.51"


def test_the_cheapest_model_over_its_life_is_the_one_the_page_names() -> None:
    loss = REPLICATION.frontier(1e22)
    n0, d0 = REPLICATION.optimal(1e22)
    assert f"{loss:.3f} {n0 / 1e9:.1f} {d0 / 1e12:.2f}" == "2.141 9.0 0.18"
    n, d = REPLICATION.lifetime_optimum(loss, 1e13)
    assert f"{n / 1e9:.1f} {d / 1e12:.1f}" == "2.8 1.5"
    bill = [training_flops(a, b) + inference_flops(a, 1e13) for a, b in ((n, d), (n0, d0))]
    assert f"{bill[0] / bill[1]:.0%}" == "42%" and "42% of the other" in page()


def test_kaplans_exponents_mean_what_the_page_says() -> None:
    assert f"{10**-0.076:.2f} {10**0.73:.1f} {10**0.27:.1f}" == "0.84 5.4 1.9"
    assert round(100**0.73) == 29
    assert f"{effective_tokens(1.0, 4.0):.1f} {effective_tokens(1.0, 40.0):.0f}" == "3.7 15"


def test_tries_and_votes_of_the_worked_example() -> None:
    shares = {"42": 0.5, "32": 0.3, "52": 0.2}
    assert shares == ch01_scaling.SHARES
    assert f"{1 - 0.5**5:.3f} {vote_accuracy(shares, '42', 5):.4f} {vote_accuracy(shares, '42', 15):.3f}" == (
        "0.969 0.6125 0.778"
    )
    # After the easy one of two problems is solved, half of 0.99^k is left.
    assert 1 - coverage([0.5, 0.01], [40])[0] == pytest.approx(0.5 * 0.99**40, rel=1e-6)


def test_the_votes_of_the_quiz_go_up_by_a_tenth() -> None:
    first = vote_accuracy({"right": 0.6, "a": 0.2, "b": 0.2}, "right", 101)
    second = vote_accuracy({"right": 0.2, "wrong": 0.5, "other": 0.3}, "right", 101)
    before, after = (0.6 + 0.2) / 2, (first + second) / 2
    assert f"{before:.0%}" == "40%" and after == pytest.approx(0.5, abs=0.005)


def test_the_quiz_on_serving_states_the_right_costs() -> None:
    small, large = training_flops(3e9, 500 * 3e9), training_flops(9e9, 20 * 9e9)
    assert f"{small / large:.1f}" == "2.8"


def test_tiny_gets_all_four_sums_right() -> None:
    model, tokenizer = models.load("tiny", "cpu")
    sums = [arithmetic.Problem(17, "+", 25), arithmetic.Problem(38, "+", 46)]
    sums += [arithmetic.Problem(67, "+", 85), arithmetic.Problem(94, "-", 37)]
    said = decoding.answer(model, tokenizer, [problem.questions[0] for problem in sums])
    assert all(arithmetic.correct(problem, text) for problem, text in zip(sums, said, strict=True))
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(0.86e6, rel=0.01)
    assert pytest.approx(0.05, abs=0.005) == (1 - 3 / 100) ** 100  # the rule of three


# ---- diagrams


@pytest.mark.parametrize("narrow", [False, True])
def test_the_four_panels_state_kaplans_shares(narrow: bool) -> None:
    told = words(ch01_scaling.four(narrow))
    assert [round(100 * ch01_scaling.left(e)) for e in (0.076, 0.095, 0.050)] == [84, 80, 89]
    assert all(share in told for share in ("84%", "80%", "89%"))


@pytest.mark.parametrize("narrow", [False, True])
def test_the_valleys_are_the_replications(narrow: bool) -> None:
    told = words(ch01_scaling.valleys(narrow))
    sizes = [REPLICATION.optimal(c)[0] / 1e9 for c in ch01_scaling.BUDGETS]
    for size in sizes:
        assert f"{size:.0f}B" in told
    for model in (ch01_scaling.GOPHER, ch01_scaling.CHINCHILLA_70B):
        assert f"{REPLICATION(*model):.3f}" in told
    assert training_flops(*ch01_scaling.GOPHER) == pytest.approx(5.76e23, rel=0.15)


def test_a_step_costs_six_and_its_forward_part_two() -> None:
    told = words(ch01_scaling.six())
    assert len(re.findall(r"\b2 FLOPs", told)) >= 3 and "6 FLOPs" in told


def test_the_tries_of_the_diagram_are_computed() -> None:
    told = words(ch01_scaling.tries())
    assert f"{ch01_scaling.solved(5):.3f}" == "0.969" and f"{ch01_scaling.voted(5):.3f}" in told
    assert math.isclose(ch01_scaling.voted(1), 0.5)
