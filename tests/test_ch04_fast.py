"""The worked examples and diagrams of section 4.3.5, recomputed with the library."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch04_fast  # noqa: E402

from alignlab.decoding.dola import dola  # noqa: E402
from alignlab.decoding.medusa import best_tree, tree_mask, typical_acceptance  # noqa: E402
from alignlab.decoding.speculative import (  # noqa: E402
    acceptance_rate,
    expected_speedup,
    expected_tokens,
    residual,
)

PAGE = re.sub(
    r"\s+",
    " ",
    "".join((BOOK / "ch04_training_free" / name).read_text(encoding="utf-8") for name in ("_fast.md", "_medusa.md")),
)


def says(text: str) -> None:
    assert text in PAGE, text


def test_the_round_of_the_diagram_follows_the_rule() -> None:
    """u < p / q keeps a token; the first that goes takes all after it along."""
    assert ch04_fast.decisions() == ["stays", "stays", "goes", "thrown away"]
    (_, q, p, u), (_, last_q, last_p, last_u) = ch04_fast.ROUND[2], ch04_fast.ROUND[3]
    assert p / q == pytest.approx(1 / 3) and u == 0.71 and u >= p / q
    assert last_u < min(1, last_p / last_q)
    says("had one chance in three to be kept; the draw of 0.71 sends it away")


def test_the_residual_of_the_worked_example() -> None:
    p, q = torch.tensor(ch04_fast.TARGET).double(), torch.tensor(ch04_fast.DRAFT).double()
    assert p.sum().item() == pytest.approx(1) and q.sum().item() == pytest.approx(1)
    rate = acceptance_rate(p, q).item()
    assert rate == pytest.approx(0.45)
    assert [round(x, 3) for x in residual(p, q).tolist()] == [0.727, 0.0, 0.273, 0.0]
    assert torch.minimum(p, q)[0] + (1 - rate) * residual(p, q)[0] == pytest.approx(0.5)
    says("target $p=(0.5,0.2,0.2,0.1)$, draft $q=(0.1,0.6,0.05,0.25)$")
    says("is kept with probability 0.45")
    says("$(0.4,0,0.15,0)/0.55=(0.727,0,0.273,0)$. The first token's chance is $0.1+0.55\\cdot0.727=0.5$")
    described = ch04_fast.leftover().desc
    assert "together 0.45" in described and "Both come to 0.55" in described


def test_the_expected_tokens_and_bytes_of_the_worked_examples() -> None:
    assert round(expected_tokens(0.8, 4), 2) == 3.36
    assert round(expected_speedup(0.8, 4, 0.1), 1) == 2.4
    says("$(1-0.8^5)/0.2=3.36$")
    says("the speed-up is $3.36/1.4=2.4$")
    assert 2 * 30 * 3 * 64 * 4 == 46_080
    says("$2\\cdot30\\cdot3\\cdot64\\cdot4=46{,}080$ bytes")


def test_the_mask_of_the_diagram_is_the_library_s() -> None:
    sees = [
        [j == i or ch04_fast._is_ancestor(j, i) for j in range(len(ch04_fast.PARENTS))]
        for i in range(len(ch04_fast.PARENTS))
    ]
    assert tree_mask(ch04_fast.PARENTS).tolist() == sees
    seen = [ch04_fast.WORDS[j] for j in range(6) if sees[5][j]]
    assert seen == ["I", "can", "help"]
    assert "help sees I, can and help" in ch04_fast.tree().desc


def test_the_tree_of_the_worked_example_is_the_best_and_worth_what_the_page_says() -> None:
    accuracies = torch.tensor([[0.5, 0.2], [0.4, 0.1]]).double()
    tree = best_tree(accuracies, 3)
    worth = [1.0]
    for node in range(1, 4):
        worth.append(worth[tree.parents[node]] * float(accuracies[tree.depths[node] - 1, tree.ranks[node]]))
    assert sum(worth) == pytest.approx(1.9)
    assert sorted(worth[1:]) == pytest.approx([0.2, 0.2, 0.5])
    says("A chain of two gives $1+0.5+0.2=1.7$ tokens, the tree of three 1.9")


def test_typical_acceptance_and_dola_of_the_worked_examples() -> None:
    ten = torch.full((10,), 0.1).double().log()
    assert bool(typical_acceptance(ten, torch.tensor(3)))
    assert 0.3 * math.exp(-math.log(10)) == pytest.approx(0.03)
    says("among 10 equal tokens each has 0.1, and the threshold is 0.03")
    last = torch.tensor([0.3, 0.5, 0.2]).double().log()
    early = torch.tensor([[0.05, 0.6, 0.35]]).double().log()
    scores, _ = dola(last, early)
    assert [round(x, 2) for x in scores.tolist()[:2]] == [1.79, -0.18]
    says("$\\log6=1.79$ and $\\log0.83=-0.18$")


def test_the_arithmetic_of_the_quiz_is_right() -> None:
    assert round(55 * 2.5) == 138 and round(2.5 * 55 / 80, 1) == 1.7
    assert round(6 * 55 / 80, 1) == 4.1 and round(1.5 * 55 / 80, 2) == 1.03
