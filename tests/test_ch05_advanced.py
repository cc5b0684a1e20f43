"""Section 5.8: what its diagrams and worked examples state, recomputed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from alignlab.rl import distributional, options, planning
from alignlab.rl.gridworld import GridWorld
from alignlab.rl.mdp import FiniteMDP

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book"))
from diagrams import ch05_advanced  # noqa: E402

PAGE = (ROOT / "book" / "ch05_rl" / "advanced.md").read_text(encoding="utf-8")
D = torch.float64


def says(*texts: str) -> None:
    for text in texts:
        assert text in PAGE, f"the page does not say {text!r}"


# ---- models


def test_the_corridor_planned_by_hand() -> None:
    eta, gamma = 0.1, 0.9
    q2, q3 = 0.0, eta * 1.0
    assert q3 == pytest.approx(0.1)
    q2 += eta * (gamma * q3 - q2)
    assert q2 == pytest.approx(0.009)
    q3 += eta * (1 - q3)
    assert q3 == pytest.approx(0.19)
    q2 += eta * (gamma * q3 - q2)
    assert q2 == pytest.approx(0.0252)
    says("=0.009$", "=0.19$", "=0.0252$")


def test_one_planning_step_of_dyna_q_is_the_update_of_the_page() -> None:
    """With two real steps and no exploration the library's table is the hand's."""
    mdp = GridWorld(("S.G",), slip=0.0, step_reward=0.0).mdp(0.9)
    done = planning.dyna_q(mdp, 0, runs=200, episodes=1, alpha=0.1, seed=0)
    assert (done.q[:, 1, 1] == pytest.approx(0.1)) and (done.q[:, 0] == 0).all()


def test_how_an_error_grows_by_a_tenth_in_each_step() -> None:
    error = 0.0
    for _ in range(25):
        error = 1.1 * error + 1
    assert round(error) == 98 and error == pytest.approx((1.1**25 - 1) / 0.1)
    says("(1.1^{25}-1)/0.1=98")


def test_numbers_of_plans() -> None:
    assert f"{49_152.0**12:.0e}" == "2e+56" and f"{2.0**25:.0e}" == "3e+07" and 64 * 25 == 1600
    says(r"\approx2\cdot10^{56}", r"\approx3\cdot10^{7}", "1,600 imagined steps")


def test_the_drawn_plan_that_is_taken_is_the_best() -> None:
    best = max(ch05_advanced.PLANS, key=lambda plan: plan[1])
    assert best[0][0] == "right" and [plan[1] for plan in ch05_advanced.PLANS].count(best[1]) == 1
    for narrow in (False, True):
        assert "first action of the best, right" in ch05_advanced.mpc(narrow).desc


# ---- hierarchies


def test_the_target_of_an_option_by_hand() -> None:
    rewards, gamma, best = [0.0, 0.0, 1.0], 0.9, 0.5
    right = sum(gamma**i * r for i, r in enumerate(rewards)) + gamma**3 * best
    assert right == pytest.approx(1.1745) and 0.9**2 + 0.9 * best == pytest.approx(1.26)
    says("=1.1745$", "=1.26$")


def test_the_hand_target_is_what_the_library_learns() -> None:
    """A corridor of three steps with the reward at the end of the option, and a state worth 0.5 behind it."""
    p, r = torch.zeros(6, 1, 6), torch.zeros(6, 1)
    for s in range(4):
        p[s, 0, s + 1] = 1.0
    p[4, 0, 5] = p[5, 0, 5] = 1.0
    r[2, 0] = 1.0
    r[3, 0] = 0.5
    terminal = torch.tensor([False, False, False, False, True, True])
    mdp = FiniteMDP(p, r, 0.9, torch.eye(6)[0], terminal)
    begins = torch.tensor([True, True, True, False, False, False])
    long = options.Option(begins, torch.ones(6, 1, dtype=D), (~begins).double())
    done = options.learn(mdp, [long, options.primitive(mdp, 0)], 2, 200, alpha=0.5, epsilon=0.5)
    assert done.q[0, 0, 0] == pytest.approx(1.1745, abs=1e-4)


def test_options_of_the_timeline_last_as_long_as_drawn() -> None:
    for narrow in (False, True):
        drawn = ch05_advanced.option_timeline(narrow)
        texts = [placed.text for placed in drawn.texts]
        assert {"k = 5, γ5", "k = 3, γ3"} <= {text.replace("\u00a0", " ") for text in texts}
        assert sum(text.replace("\u00a0", " ").startswith("a") and len(text) == 2 for text in texts) == 8


def test_credit_over_tokens_and_over_steps() -> None:
    assert round(0.99**300, 3) == 0.049 and round(0.99**12, 3) == 0.886 and 300 / 25 == 12
    says("0.99^{300}=0.049", "0.99^{12}=0.886")


# ---- distributions


def test_the_projection_by_hand() -> None:
    atoms = torch.tensor(ch05_advanced.ATOMS, dtype=D)
    probs = torch.tensor(ch05_advanced.NEXT, dtype=D)
    reward, discount = (torch.tensor(x, dtype=D) for x in (ch05_advanced.REWARD, ch05_advanced.DISCOUNT))
    got = distributional.project(probs, reward, discount, atoms)
    assert got.tolist() == pytest.approx([0.04, 0.06, 0.12, 0.36, 0.42])
    assert got.tolist() == pytest.approx(ch05_advanced.projected())
    assert (got @ atoms).item() == pytest.approx(0.53)
    assert (reward + discount * probs @ atoms).item() == pytest.approx(0.56)
    says("Together: 0.04, 0.06, 0.12, 0.36, 0.42", "is 0.53", "=0.56$")


def test_quantile_regression_by_hand() -> None:
    at_one, at_less = ch05_advanced.quantile_losses(0.9, [1.0, 0.8])
    assert (at_one, at_less) == pytest.approx((0.072, 0.092))
    samples = torch.tensor(ch05_advanced.RETURNS, dtype=D)
    u = samples - 0.8
    assert torch.where(u > 0, 0.9 * u, -0.1 * u).mean().item() == pytest.approx(at_less)
    says("=0.072$", "=0.092$")


@pytest.mark.parametrize("narrow", [False, True])
def test_the_drawn_minima_are_the_quantiles(narrow: bool) -> None:
    desc = ch05_advanced.quantiles(narrow).desc
    for tau in (0.1, 0.5, 0.9):
        want = np.quantile(ch05_advanced.RETURNS, tau, method="inverted_cdf")
        assert f"tau {tau:g} is least at {want:.1f}" in desc


def test_attempts_and_the_best_of_four() -> None:
    assert round(1 - 0.7**8, 3) == 0.942 and 1 - 0.5**4 == 0.9375
    first, second = (
        distributional.distribution(torch.tensor([0.5])),
        distributional.distribution(torch.tensor([0.0, 1.0])),
    )
    assert first.mean() == second.mean() == 0.5
    says("1-0.7^8=0.942", "1-0.5^4=0.9375")


def test_the_quiz_on_three_quantiles() -> None:
    z = distributional.distribution(torch.tensor([-1.0, 1.0]), torch.tensor([0.4, 0.6]))
    three = distributional.quantiles(z, 3)
    assert three.tolist() == [-1.0, 1.0, 1.0] and three.mean().item() == pytest.approx(1 / 3)
    assert z.mean() == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["dyna", "mpc", "option_timeline", "feudal", "projection", "quantiles"])
@pytest.mark.parametrize("narrow", [False, True])
def test_the_diagrams_are_sound(name: str, narrow: bool) -> None:
    drawn = getattr(ch05_advanced, name)(narrow)
    assert drawn.problems() == [] and len(drawn.svg()) < 11_000
