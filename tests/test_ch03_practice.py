"""The worked examples of section 3.4, recomputed: what beta does, where smoothing rests, where probability goes."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch03_practice  # noqa: E402

from alignlab.losses.preference import PairLogps, dpo_loss  # noqa: E402

PAGE = re.sub(r"\s+", " ", (BOOK / "ch03_dpo" / "practice.md").read_text(encoding="utf-8"))


def optimum(beta: float) -> torch.distributions.Categorical:
    logits = torch.tensor(ch03_practice.REFERENCE).double().log() + torch.tensor(ch03_practice.REWARD).double() / beta
    return torch.distributions.Categorical(logits=logits)


def test_the_diagram_of_beta_shows_the_optimum_of_its_objective() -> None:
    """No small change of the probabilities raises E[r] - beta KL: a check that does not know the closed form."""
    reward, ref = (torch.tensor(values).double() for values in (ch03_practice.REWARD, ch03_practice.REFERENCE))

    def objective(p: torch.Tensor, beta: float) -> float:
        return (p @ reward - beta * (p * (p / ref).log()).sum()).item()

    for beta in ch03_practice.BETAS[1:]:
        best = torch.tensor(ch03_practice.tilted(beta)).double()
        assert best.sum().item() == pytest.approx(1.0)
        for move in ([1, -1, 0], [-1, 1, 0], [0, 1, -1], [0, -1, 1], [1, 0, -1], [-1, 0, 1]):
            other = best + 1e-4 * torch.tensor(move)
            if (other > 0).all():
                assert objective(other, beta) < objective(best, beta)


def test_the_numbers_of_the_worked_example_of_beta_are_right() -> None:
    ref, one, half = (
        torch.distributions.Categorical(torch.tensor(ch03_practice.REFERENCE).double()),
        optimum(1.0),
        optimum(0.5),
    )
    reward = torch.tensor(ch03_practice.REWARD).double()
    kl = [torch.distributions.kl_divergence(policy, ref).item() for policy in (one, half)]
    gold = [(policy.probs @ reward).item() for policy in (ref, one, half)]
    assert [round(value, 2) for value in one.probs.tolist()] == [0.28, 0.38, 0.34]
    assert [round(value, 2) for value in (*gold, *kl)] == [0.5, 1.06, 1.59, 0.3, 1.06]
    assert [round(gold[2] - gold[1], 2), round(kl[1] - kl[0], 2)] == [0.52, 0.76]
    assert [round(gold[1] - gold[0], 2), round(kl[0], 2)] == [0.56, 0.3]
    for said in (
        "they are 0.28, 0.38 and 0.34",
        "=1.064-0.767=0.30$ nats",
        "the reward 1.59",
        "=1.587/0.5-2.113=1.06$ nats",
        "bought 0.52 of reward for 0.76 nats; the step before it bought 0.56 for 0.30",
    ):
        assert said in PAGE, said


def test_displacement_is_the_softmax_of_the_vectors_and_the_page_says_its_numbers() -> None:
    vectors = torch.tensor(list(ch03_practice.UNEMBEDDINGS.values())).double()
    state = torch.tensor(ch03_practice.STATES[0]).double().requires_grad_()
    log_probs = (vectors @ state).log_softmax(-1)
    (log_probs[0] - log_probs[1]).backward()
    assert state.grad is not None
    assert state.grad.tolist() == pytest.approx([0.0, 1.0])
    seen = []
    for steps, shown in zip((0, 2, 3), ch03_practice.STATES, strict=True):
        at = state.detach() + steps * state.grad
        assert at.tolist() == pytest.approx(list(shown))
        probs = (vectors @ at).softmax(-1).tolist()
        assert list(ch03_practice.probabilities(shown).values()) == pytest.approx(probs)
        assert math.log(probs[0] / probs[1]) == pytest.approx(steps)
        seen.append(", ".join(f"{value:.2f}" for value in probs))
    assert "the probabilities 0.47, 0.47 and 0.06" in PAGE and seen[0] == "0.47, 0.47, 0.06"
    assert f"the probabilities {seen[1]}." in PAGE
    assert f"5, 2, 6, and {seen[2]}." in PAGE


def test_the_smoothed_loss_rests_at_the_margin_that_the_page_gives() -> None:
    beta, smoothing = 0.1, 0.1
    margin = torch.tensor([math.log((1 - smoothing) / smoothing) / beta], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    loss = dpo_loss(PairLogps(margin, zero), PairLogps(zero, zero), beta, smoothing).sum()
    (slope,) = torch.autograd.grad(loss, margin)
    assert slope.item() == pytest.approx(0.0, abs=1e-12)
    assert round(margin.item()) == 22 and round(loss.item(), 3) == 0.325
    assert "give $10\\cdot\\log 9=22$ nats" in PAGE and "=0.325$" in PAGE
