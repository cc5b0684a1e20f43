"""The worked examples of section 5.7 and its diagrams, recomputed."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch

from alignlab.rl import imitation
from alignlab.rl.mdp import FiniteMDP

BOOK = Path(__file__).parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch05_imitation as drawn  # noqa: E402

PAGE = (BOOK / "ch05_rl/imitation.md").read_text(encoding="utf-8")


def says(*texts: str) -> None:
    """The page holds each text, whatever its line breaks."""
    flat = re.sub(r"\s+", " ", PAGE)
    for text in texts:
        assert text in flat, text


def road(epsilon: float, back: float) -> FiniteMDP:
    """Two states, one action: off the road with epsilon, out of the ditch with `back`."""
    p = torch.tensor([[[1 - epsilon, epsilon]], [[back, 1 - back]]], dtype=torch.float64)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return FiniteMDP(p, torch.zeros(2, 1, dtype=torch.float64), 1.0, start, torch.zeros(2, dtype=torch.bool))


def spent(epsilon: float, back: float, horizon: int) -> float:
    """Expected steps in the ditch, summed over exact distributions."""
    policy = torch.ones(2, 1, dtype=torch.float64)
    return imitation.state_distributions(road(epsilon, back), policy, horizon)[:, 1].sum().item()


def test_answers_of_12_and_of_500_tokens() -> None:
    assert f"{0.99**12:.2f}" == "0.89" and f"{0.99**500:.3f}" == "0.007"
    says("$0.99^{12}=0.89$", "$0.99^{500}=0.007$")


def test_the_road_by_hand_and_in_the_diagram() -> None:
    for horizon in drawn.HORIZONS:
        assert drawn.clone_cost(0.01, horizon) == pytest.approx(spent(0.01, 0.0, horizon))
        assert drawn.dagger_cost(0.01, horizon) == pytest.approx(spent(0.01, 0.99, horizon))
    ten, hundred = (drawn.clone_cost(0.01, horizon) for horizon in (10, 100))
    assert (f"{ten:.2f}", f"{hundred:.1f}", f"{hundred / ten:.0f}") == ("0.44", "36.6", "84")
    assert f"{0.99**10:.3f}" == "0.904" and f"{0.99**100:.3f}" == "0.366"
    assert f"{(1 - 0.99**10) / 0.01:.2f}" == "9.56" and f"{(1 - 0.99**100) / 0.01:.1f}" == "63.4"
    says("$10-9.56=0.44$", "$100-63.4=36.6$", "84 times the cost", r"$99\cdot0.01=0.99$")
    twenty, forty = (spent(0.01, 0.0, horizon) for horizon in (20, 40))
    assert (f"{twenty:.2f}", f"{forty:.2f}", f"{forty / twenty:.2f}") == ("1.79", "6.90", "3.85")
    says("1.79 and 6.90, a factor of 3.85")
    for narrow in (False, True):
        texts = {placed.text for placed in drawn.road(narrow=narrow).texts}
        assert {"4.4%", "36.6%", "90.0%", "0.9%", "1.0%"} <= texts


def test_two_ways_to_the_goal() -> None:
    """Crossroads 0, a cell on the long way 1, the goal 2; every step has the reward theta."""
    p = torch.zeros(3, 2, 3, dtype=torch.float64)
    p[0, 0, 2] = p[0, 1, 1] = p[1, :, 2] = p[2, :, 2] = 1.0
    p[1, 1] = 0.0
    p[1, 1, 2] = 1.0
    start, ends = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), torch.tensor([False, False, True])

    def short(theta: float) -> float:  # on the long way there is nothing to choose: one path, not two
        rewards = torch.full((3, 2), theta, dtype=torch.float64)
        rewards[1] -= math.log(2)
        return imitation.soft_solve(FiniteMDP(p, rewards, 1.0, start, ends)).policy[0, 0].item()

    assert f"{short(-1.0):.3f}" == "0.731"
    met = short(-1.0) + 2 * (1 - short(-1.0))
    assert f"{met:.3f}" == "1.269" and f"{1.12 - met:.3f}" == "-0.149"
    found = -math.log(0.88 / 0.12)
    assert f"{-found:.2f}" == "1.99" and short(found) == pytest.approx(0.88)
    says("$e^{-1}/(e^{-1}+e^{-2})=0.731$", r"$\mu_\pi=0.731+2\cdot0.269=1.269$", "$1.12-1.269=-0.149$", "=1.99$")


def test_the_judge_of_two_actions() -> None:
    expert, learner = (torch.tensor([row], dtype=torch.float64) for row in ([0.9, 0.1], [0.5, 0.5]))
    logits = imitation.best_logits(expert, learner)[0]
    assert [f"{d:.3f}" for d in logits.sigmoid()] == ["0.643", "0.167"]
    assert [f"{logit:.3f}" for logit in logits] == ["0.588", "-1.609"]
    parts = [f"{-d.log():.3f}" for d in logits.sigmoid()] + [f"{-(1 - d).log():.3f}" for d in logits.sigmoid()]
    assert parts == ["0.442", "1.792", "1.030", "0.182"]
    loss = imitation.discriminator_loss(logits, logits, expert[0], learner[0])
    assert f"{loss:.3f}" == "1.183" and f"{imitation.jensen_shannon(expert, learner):.3f}" == "0.102"
    assert loss.item() == pytest.approx(math.log(4) - 2 * imitation.jensen_shannon(expert, learner).item())
    paid = (learner[0] * imitation.imitation_reward(logits, "airl")).sum()
    kl = (learner * (learner / expert).log()).sum()
    assert f"{paid:.3f}" == "-0.511" and paid.item() == pytest.approx(-kl.item())
    says("$0.9/1.4=0.643$", "$0.1/0.6=0.167$", "1.183 nats", r"$\mathrm{JS}=0.102$", r"=-0.511$")


def test_one_more_for_each_step_is_two_for_an_end_at_half() -> None:
    for steps in (1, 2, 3, 7):
        extra = sum(0.5**t for t in range(steps - 1)) + 0.5 ** (steps - 1) * 2
        assert extra == pytest.approx(2.0)
    says("$c/(1-\\\\gamma)=2$")


def test_shaping_by_a_constant_is_the_direction_that_nobody_sees() -> None:
    gamma, kappa = 0.9, -0.431
    step, end = (gamma - 1) * kappa, -kappa
    assert end == pytest.approx(step / (1 - gamma)) and end / step == pytest.approx(10)


def test_each_way_of_the_diagram_is_in_the_table() -> None:
    names = {
        "Behaviour cloning": "behaviour cloning",
        "DAgger": "DAgger",
        "Inverse RL": "inverse reinforcement",
        "GAIL": "GAIL",
    }
    for name, _, _ in drawn.WAYS:
        assert names[name] in PAGE
