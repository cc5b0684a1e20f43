"""The worked examples of section 5.5, recomputed: one decision, the corridor, an actor-critic rollout."""

import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch05_pg  # noqa: E402

from alignlab.exercises.policy_gradient import best_baseline  # noqa: E402
from alignlab.rl.mdp import FiniteMDP, occupancy, q_from_v, values  # noqa: E402
from alignlab.rl.policy_gradient import score  # noqa: E402
from alignlab.rl.returns import lambda_returns  # noqa: E402

PAGE = re.sub(r"\s+", " ", (BOOK / "ch05_rl" / "policy_gradient.md").read_text(encoding="utf-8"))
PROBS = torch.tensor(ch05_pg.PROBABILITIES, dtype=torch.float64)
REWARDS = torch.tensor(ch05_pg.REWARDS, dtype=torch.float64)


def says(*parts: str) -> None:
    for part in parts:
        assert part in PAGE, part


def moments(baseline: float) -> tuple[torch.Tensor, float]:
    """Mean and total variance of the estimate, from the library's scores."""
    estimates = (REWARDS - baseline)[:, None] * score(PROBS.log().expand(3, 3), torch.arange(3))
    mean = PROBS @ estimates
    return mean, (PROBS @ (estimates - mean).square().sum(1)).item()


def test_the_decision_of_the_page_and_its_diagram_have_the_gradient_of_autograd() -> None:
    logits = PROBS.log().requires_grad_()
    (wanted,) = torch.autograd.grad((logits.softmax(-1) * REWARDS).sum(), logits)
    assert [round(x, 2) for x in wanted.tolist()] == [0.25, -0.15, -0.1]
    for baseline in (0.0, 0.5, 1.0):
        mean, variance = moments(baseline)
        torch.testing.assert_close(mean, wanted)
        assert ch05_pg.mean(baseline) == pytest.approx(wanted.tolist())
        assert ch05_pg.variance(baseline) == pytest.approx(variance)
    assert [round(moments(b)[1], 3) for b in (0.0, 0.5)] == [0.095, 0.06]
    assert moments(1.0)[1] > moments(0.5)[1]  # the first quiz
    says("is $(0.5\\cdot0.5,\\;0.3\\cdot(-0.5),\\;0.2\\cdot(-0.5))=(0.25,-0.15,-0.10)$", "falls from 0.095 to 0.060")
    says("$1\\cdot(1-0.5,-0.3,-0.2)=(0.5,-0.3,-0.2)$")


def test_the_best_baseline_of_the_page_is_best() -> None:
    best = best_baseline(PROBS, REWARDS).item()
    lengths = score(PROBS.log().expand(3, 3), torch.arange(3)).square().sum(1)
    assert [round(x, 2) for x in lengths.tolist()] == [0.38, 0.78, 0.98]
    assert round(best, 2) == 0.31 and round(moments(best)[1], 3) == 0.037
    assert all(moments(best)[1] < moments(best + step)[1] for step in (-0.05, 0.05))
    says("squared lengths 0.38, 0.78 and 0.98", "=\\frac{0.19}{0.62}=0.31$, and the variance is 0.037")


def corridor(right: torch.Tensor) -> tuple[FiniteMDP, torch.Tensor]:
    following = torch.tensor([[0, 1], [2, 0], [1, 3], [3, 3]])
    start, terminal = torch.tensor([1.0, 0, 0, 0]), torch.tensor([False, False, False, True])
    mdp = FiniteMDP(F.one_hot(following, 4).double(), torch.full((4, 2), -1.0), 1.0, start, terminal)
    return mdp, torch.stack([1 - right, right]).expand(4, 2)


def test_the_corridor_of_the_page_is_solved_right() -> None:
    mdp, policy = corridor(torch.tensor(0.5, dtype=torch.float64))
    v, d = values(mdp, policy), occupancy(mdp, policy)
    q = q_from_v(mdp, v)
    gains = (q[:, 1] - q[:, 0])[:3]
    assert v[:3].tolist() == pytest.approx([-12, -10, -6])
    assert d[:3].tolist() == pytest.approx([6, 4, 2])
    assert gains.tolist() == pytest.approx([2, -6, 10])
    assert (0.25 * (d[:3] * gains).sum()).item() == pytest.approx(2.0)
    for p in (0.2, 0.5, 0.9):
        exact = values(*corridor(torch.tensor(p, dtype=torch.float64)))[0].item()
        assert exact == pytest.approx(2 * (p - 2) / (p * (1 - p)))
    up, down = (2 * (p - 2) / (p * (1 - p)) for p in (0.5 + 1e-6, 0.5 - 1e-6))
    assert (up - down) / 2e-6 == pytest.approx(8, rel=1e-5)
    says("$V=(-12,-10,-6)$", "$d=(6,4,2)$", "$-11-(-13)=2$", "$-13-(-7)=-6$", "$-1-(-11)=10$")
    says("\\frac14(6\\cdot2-4\\cdot6+2\\cdot10)=\\frac14\\cdot8=2$", "$J=\\frac{2(p-2)}{p(1-p)}$, whose derivative")


def test_the_rollout_of_the_page_is_computed_right_and_a_fall_changes_the_sign() -> None:
    rewards, v = torch.ones(3, dtype=torch.float64), torch.tensor([5.0, 4, 6, 8], dtype=torch.float64)
    no, fell = torch.zeros(3, dtype=torch.bool), torch.tensor([False, False, True])
    goes_on = lambda_returns(rewards, v[1:], no, 0.9, 1.0)
    assert goes_on.tolist() == pytest.approx([8.542, 8.38, 8.2])
    assert (goes_on - v[:3]).tolist() == pytest.approx([3.542, 4.38, 2.2])
    deltas = rewards + 0.9 * v[1:] - v[:3]
    assert deltas.tolist() == pytest.approx([-0.4, 2.4, 2.2])
    assert (deltas @ torch.tensor([1, 0.9, 0.81], dtype=torch.float64)).item() == pytest.approx(3.542)
    ended = lambda_returns(rewards, v[1:], fell, 0.9, 1.0)
    assert ended.tolist() == pytest.approx([2.71, 1.9, 1])
    assert (ended - v[:3]).tolist() == pytest.approx([-2.29, -2.1, -5])
    clock = lambda_returns(rewards, v[1:], no, 0.9, 1.0, truncated=fell)
    assert clock.tolist() == pytest.approx(goes_on.tolist())
    says("$1+0.9\\cdot8=8.2$, $1+0.9\\cdot8.2=8.38$, $1+0.9\\cdot8.38=8.542$", "$3.542$, $4.38$, $2.2$")
    says(
        "$-0.4+0.9\\cdot2.4+0.81\\cdot2.2=3.542$", "the returns are 1, 1.9, 2.71, the advantages $-2.29$, $-2.1$, $-5$"
    )


def test_the_diagram_of_credit_says_which_reward_counts_for_which_action() -> None:
    whole, to_go, critic = ch05_pg.CREDITS.values()
    for t in range(ch05_pg.STEPS):
        for k in range(ch05_pg.STEPS):
            assert whole(t, k)
            assert bool(to_go(t, k)) == (k >= t)
            assert critic(t, k) == ("own" if k in (t, t + 1) else "value" if k == t + 2 else "")


def test_every_result_that_the_page_prints_is_reported_by_the_lab() -> None:
    lab = (BOOK.parent / "labs" / "source" / "ch05_policy_gradient.py").read_text(encoding="utf-8")
    for name in set(re.findall(r"\{result\}`policy_gradient\.(\w+)`", PAGE)):
        stem = re.sub(r"_(mean|range|seconds|whole)$", "", name)
        assert f'"{name}"' in lab or f'"{stem}"' in lab, name
