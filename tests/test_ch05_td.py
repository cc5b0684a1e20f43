"""Section 5.3: every worked example of the page and every number of its diagrams, computed anew."""

import math
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from alignlab.rl import mdp as exact
from alignlab.rl import tabular
from alignlab.rl.mdp import Episodes, FiniteMDP

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book"))
from diagrams import ch05_td  # noqa: E402

PAGE = (ROOT / "book" / "ch05_rl" / "temporal_difference.md").read_text(encoding="utf-8")


def walk() -> FiniteMDP:
    p, r = torch.zeros(7, 2, 7), torch.zeros(7, 2)
    for s in range(1, 6):
        p[s, 0, s - 1] = p[s, 1, s + 1] = 1.0
    p[0, :, 0] = p[6, :, 6] = 1.0
    r[5, 1] = 1.0
    start = torch.nn.functional.one_hot(torch.tensor(3), 7).float()
    return FiniteMDP(p, r, 1.0, start, torch.tensor([True, *[False] * 5, True]))


def episode(states: list[int], rewards: list[float]) -> Episodes:
    steps = len(rewards)
    return Episodes(
        torch.tensor([states]),
        torch.zeros(1, steps).long(),
        torch.tensor([rewards], dtype=torch.float64),
        torch.ones(1, steps).bool(),
        torch.tensor([True]),
    )


def stated(*texts: str) -> None:
    for text in texts:
        assert text in PAGE, f"the page does not say {text!r}"


def test_the_walks_values_are_sixths() -> None:
    mdp = walk()
    values = exact.values(mdp, mdp.uniform())
    assert torch.allclose(values[1:6], torch.arange(1, 6).double() / 6)
    stated(r"$1/6,\dots,5/6$")


def test_two_walks_to_the_right_by_td_and_by_monte_carlo() -> None:
    right = episode([3, 4, 5, 6], [0.0, 0.0, 1.0])
    values = torch.full((1, 7), 0.5, dtype=torch.float64)
    once = tabular.n_step_td(values, right, 0.1, 1.0)
    twice = tabular.n_step_td(once, right, 0.1, 1.0)
    assert once[0, 3:6].tolist() == pytest.approx([0.5, 0.5, 0.55])
    assert twice[0, 3:6].tolist() == pytest.approx([0.5, 0.505, 0.595])
    mc = tabular.n_step_td(values, right, 0.1, 1.0, None)
    assert mc[0, 3:6].tolist() == pytest.approx([0.55] * 3)
    assert tabular.n_step_td(mc, right, 0.1, 1.0, None)[0, 3:6].tolist() == pytest.approx([0.595] * 3)
    stated("$V(E)=0.595$", "$V(D)=0.505$", "to 0.55 by the first walk, and to 0.595 by the second")


def test_the_predictor_says_three_quarters() -> None:
    b_returns = [0] + [1] * 6 + [0]
    assert sum(b_returns) / len(b_returns) == 6 / 8
    p, r = torch.zeros(3, 1, 3), torch.zeros(3, 1)  # the process of those data: A to B, B out, with 1 in six of eight
    p[0, 0, 1] = p[1, 0, 2] = p[2, 0, 2] = 1.0
    r[1] = 6 / 8
    data = FiniteMDP(p, r, 1.0, torch.tensor([1.0, 0, 0]), torch.tensor([False, False, True]))
    assert exact.values(data, data.uniform())[:2].tolist() == pytest.approx([0.75, 0.75])
    stated("$V(B)=6/8$", "$3/4$")


def test_td_errors_add_up_to_the_error_of_monte_carlo() -> None:
    right, wrong = [0.6, 0.9, 1.0, 1.0], [0.6, 0.0, 0.0, 0.0]
    assert [b - a for a, b in pairwise(right)] == pytest.approx([0.3, 0.1, 0.0])
    assert sum(b - a for a, b in pairwise(right)) == pytest.approx(1 - 0.6)
    assert [b - a for a, b in pairwise(wrong)] == pytest.approx([-0.6, 0.0, 0.0])
    stated("$+0.3$, $+0.1$ and $0$", "$1-0.6=0.4$", "$0-0.6=-0.6$")


def test_the_lambda_return_of_the_example_both_ways() -> None:
    values = torch.tensor([[*ch05_td.ALONG, 0.0]], dtype=torch.float64)
    path = episode([0, 1, 2, 3], [0.0, 0.0, 1.0])
    gains = tabular.lambda_targets(values, path, 1.0, 0.5)[0]
    assert gains.tolist() == pytest.approx([0.75, 0.9, 1.0])
    moved = tabular.td_lambda(values, path, 0.1, 1.0, 0.5, offline=True) - values
    assert moved[0, 0].item() == pytest.approx(0.1 * 0.25)
    stated("G_0^\\lambda=0.3+0.2+0.25=0.75", "G_1^\\lambda=0.5\\cdot0.8+0.5\\cdot1=0.9", "0.25\\,\\alpha")


def test_the_diagrams_say_what_the_library_computes() -> None:
    target, error, after = ch05_td.step()
    assert (target, error, after) == pytest.approx((0.55, 0.05, 0.505))
    assert ch05_td.returns() == [0.6, 0.8, 1.0] and ch05_td.weights() == [0.5, 0.25, 0.25]
    assert ch05_td.errors() == pytest.approx([0.1, 0.2, 0.2]) and ch05_td.traces() == [1.0, 0.5, 0.25]
    assert ch05_td.lambda_return() == pytest.approx(0.75)
    backward = 0.5 + sum(e * d for e, d in zip(ch05_td.traces(), ch05_td.errors(), strict=True))
    assert backward == pytest.approx(ch05_td.lambda_return())


@pytest.mark.parametrize("narrow", [False, True])
def test_each_tree_of_the_four_ways_uses_what_its_method_looks_at(narrow: bool) -> None:
    assert [way[3:] for way in ch05_td.WAYS] == [(True, True), (True, False), (False, True), (False, False)]
    words = ch05_td.four_ways(narrow=narrow).desc
    for name, looks, *_ in ch05_td.WAYS:
        assert f"{name}: {looks}" in words


def test_weights_of_an_answer_of_twelve_tokens() -> None:
    weights = [0.05 * 0.95**k for k in range(11)] + [0.95**11]
    assert sum(weights) == pytest.approx(1.0) and round(weights[-1], 2) == 0.57
    stated("weight 0.05", "$0.95^{11}=0.57$")


def test_the_quiz_on_weights_is_right() -> None:
    assert sum((0.5, 0.25, 0.125, 0.0625)) == 0.9375 and sum((0.5, 0.25, 0.125, 0.125)) == 1.0
    stated("They sum to 0.9375")


def test_a_search_of_depth_two_is_two_sweeps() -> None:
    mdp = walk()
    values = torch.zeros(7, dtype=torch.float64)
    sweeps = []
    for _ in range(2):
        values = exact.v_from_q(exact.q_from_v(mdp, values), mdp.uniform())
        sweeps.append(values)
    assert sweeps[0][5] == 0.5 and sweeps[0][1:5].sum() == 0 and sweeps[1][4] == 0.25
    paths = [(a, b) for a in (0, 1) for b in (0, 1)]
    assert sum(0.25 for a, b in paths if (a, b) == (1, 1)) == 0.25  # of the paths from D only right-right pays
    assert all(sum(2**d for d in range(1, k + 1)) == 2 ** (k + 1) - 2 for k in range(1, 12))
    stated("$V(D)=\\tfrac12\\cdot0.5=0.25$", "$2+4+\\dots+2^k$", "$2k$")


def test_the_bias_of_a_one_step_target_is_the_neighbours_error() -> None:
    mdp = walk().with_gamma(0.9)
    policy, guess = mdp.uniform(), torch.tensor([0.0, 0.4, 0.1, 0.9, 0.3, 0.2, 0.0], dtype=torch.float64)
    truth = exact.values(mdp, policy)
    p, _ = exact.policy_transitions(mdp, policy)
    target = exact.v_from_q(exact.q_from_v(mdp, guess), policy)
    assert torch.allclose((target - truth)[1:6], (0.9 * p @ (guess - truth))[1:6])


def test_answers_of_twelve_tokens_cannot_be_listed() -> None:
    assert math.log10(49_152**12) > 56
    stated("$49{,}152^{12}$")
