"""DPO: the loss against closed forms, finite differences and trl, and wrong versions that these tests reject."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.losses.preference import PairLogps, dpo_loss, implicit_rewards

Loss = Callable[[PairLogps, PairLogps, float], Tensor]


def pairs(seed: int = 0, batch: int = 6) -> tuple[PairLogps, PairLogps]:
    """Random summed log-probabilities of a policy and of a reference, in float64."""
    draw = -30 * torch.rand(4, batch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return PairLogps(draw[0], draw[1]), PairLogps(draw[2], draw[3])


def check_dpo(loss: Loss) -> None:
    """Everything that makes a DPO loss right, for the real one and for each wrong one."""
    policy, reference = pairs()
    beta = 0.3
    for index in range(len(policy.chosen)):  # eq. 7 by hand, one pair at a time, in Python floats
        w = policy.chosen[index].item() - reference.chosen[index].item()
        lo = policy.rejected[index].item() - reference.rejected[index].item()
        expected = math.log1p(math.exp(-beta * (w - lo)))
        assert loss(policy, reference, beta)[index].item() == pytest.approx(expected, rel=1e-9)
    assert torch.allclose(loss(reference, reference, beta), torch.full((6,), math.log(2), dtype=torch.float64))
    # Section 4: the gradient in log pi(chosen) is -beta * sigmoid(-beta * margin), and its opposite in rejected.
    chosen, rejected = policy.chosen.clone().requires_grad_(), policy.rejected.clone().requires_grad_()
    loss(PairLogps(chosen, rejected), reference, beta).sum().backward()
    margin = (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected)
    weight = beta * torch.sigmoid(-beta * margin)
    assert chosen.grad is not None and rejected.grad is not None
    assert torch.allclose(chosen.grad, -weight) and torch.allclose(rejected.grad, weight)
    step = 1e-5  # and the same gradient by finite differences
    raised = loss(PairLogps(policy.chosen + step, policy.rejected), reference, beta)
    lowered = loss(PairLogps(policy.chosen - step, policy.rejected), reference, beta)
    assert torch.allclose((raised - lowered) / (2 * step), -weight, atol=1e-8)
    # Far from zero it neither overflows nor underflows to a flat gradient.
    far = PairLogps(torch.tensor([-2000.0]), torch.tensor([0.0]))
    none = PairLogps(torch.zeros(1), torch.zeros(1))
    assert loss(far, none, 1.0).item() == pytest.approx(2000.0)


def test_dpo_loss_equals_its_definition_and_its_gradient() -> None:
    check_dpo(dpo_loss)


WRONG: dict[str, Loss] = {
    "sign flipped": lambda p, r, b: -F.logsigmoid(-b * ((p.chosen - r.chosen) - (p.rejected - r.rejected))),
    "reference left out": lambda p, r, b: -F.logsigmoid(b * (p.chosen - p.rejected)),
    "reference of the rejected added": lambda p, r, b: (
        -F.logsigmoid(b * (p.chosen - r.chosen - p.rejected - r.rejected))
    ),
    "beta outside the sigmoid": lambda p, r, b: -b * F.logsigmoid(p.chosen - r.chosen - p.rejected + r.rejected),
    "sigmoid without its logarithm": lambda p, r, b: (
        -torch.sigmoid(b * (p.chosen - r.chosen - p.rejected + r.rejected))
    ),
    "mean over the batch": lambda p, r, b: dpo_loss(p, r, b).mean().expand(len(p.chosen)),
    "log of a sigmoid, unstable": lambda p, r, b: (
        -torch.log(torch.sigmoid(b * (p.chosen - r.chosen - p.rejected + r.rejected)))
    ),
    "gradient reaches the loss twice": lambda p, r, b: dpo_loss(p, r, b) + 0.1 * (p.chosen - p.chosen.detach()),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_dpo_loss_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_dpo(WRONG[name])


def test_minimizing_dpo_finds_the_optimum_of_the_kl_regularized_reward() -> None:
    """Over 5 responses that can be enumerated, with Bradley-Terry preferences in closed form (eqs. 1 and 4)."""
    generator = torch.Generator().manual_seed(1)
    reward = torch.randn(5, generator=generator, dtype=torch.float64)
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(-1)
    beta = 0.5
    optimum = (reference + reward / beta).softmax(-1)
    first, second = torch.triu_indices(5, 5, offset=1)
    prefer_first = torch.sigmoid(reward[first] - reward[second])
    logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        policy = logits.log_softmax(-1)
        one = PairLogps(policy[first], policy[second]), PairLogps(reference[first], reference[second])
        other = PairLogps(policy[second], policy[first]), PairLogps(reference[second], reference[first])
        loss = (prefer_first * dpo_loss(*one, beta) + (1 - prefer_first) * dpo_loss(*other, beta)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert (logits.softmax(-1) - optimum).abs().sum() / 2 < 1e-5


def test_implicit_rewards_differ_by_the_margin_of_the_loss() -> None:
    policy, reference = pairs(3)
    rewards = implicit_rewards(policy, reference, 0.2)
    assert torch.allclose(-F.logsigmoid(rewards.chosen - rewards.rejected), dpo_loss(policy, reference, 0.2))
    assert torch.allclose(rewards.chosen, 0.2 * (policy.chosen - reference.chosen))


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_a_beta_that_is_not_positive_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta is"):
        dpo_loss(*pairs(), beta)
