"""DPO and its family: against definitions by hand, finite differences, limits and trl; wrong versions are rejected."""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab import logprobs, models, text
from alignlab.losses.preference import (
    PairLogps,
    cpo_loss,
    dpo_loss,
    implicit_rewards,
    ipo_loss,
    kto_loss,
    log_odds,
    orpo_loss,
    per_token,
    simpo_loss,
)
from alignlab.tasks import scenes

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


# ---- the family
def log_sigmoid(u: float) -> float:
    """In Python floats, for u that does not overflow."""
    return -math.log1p(math.exp(-u))


def means(seed: int = 0, batch: int = 6) -> PairLogps:
    """Random log-probabilities per token, in float64."""
    draw = -3 * torch.rand(2, batch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.05
    return PairLogps(draw[0], draw[1])


def slopes_agree(loss: Callable[..., Tensor], *values: Tensor) -> None:
    """The gradient of each row by each value, from autograd, is the one that finite differences give."""
    step = 1e-6
    inputs = [value.clone().requires_grad_() for value in values]
    loss(*inputs).sum().backward()
    for index, value in enumerate(inputs):
        raised, lowered = ([*values[:index], values[index] + s * step, *values[index + 1 :]] for s in (1, -1))
        slope = (loss(*raised) - loss(*lowered)) / (2 * step)
        assert value.grad is not None and torch.allclose(value.grad, slope, atol=1e-6)


def all_close(got: Tensor, expected: Sequence[float]) -> None:
    """One value per example, each as calculated by hand."""
    assert got.shape == (len(expected),)
    assert got.tolist() == pytest.approx(list(expected), rel=1e-9)


def check_cdpo(loss: Callable[..., Tensor]) -> None:
    """Conservative DPO, as loss(policy, reference, beta, label_smoothing)."""
    (policy, reference), beta, eps = pairs(), 0.3, 0.2
    margins = [
        (a - b) - (c - d)
        for a, b, c, d in zip(
            *(v.tolist() for v in (policy.chosen, reference.chosen, policy.rejected, reference.rejected)), strict=True
        )
    ]
    by_hand = [-(1 - eps) * log_sigmoid(beta * m) - eps * log_sigmoid(-beta * m) for m in margins]
    all_close(loss(policy, reference, beta, eps), by_hand)
    all_close(loss(policy, reference, beta, 0.0), dpo_loss(policy, reference, beta).tolist())
    slopes_agree(lambda w, lo: loss(PairLogps(w, lo), reference, beta, eps), *policy)
    # Its minimum is where the model's preference is 1 - eps, not at an infinite margin.
    best = math.log((1 - eps) / eps) / beta
    chosen = torch.tensor([best], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    loss(PairLogps(chosen, zero), PairLogps(zero, zero), beta, eps).sum().backward()
    assert chosen.grad is not None and abs(chosen.grad.item()) < 1e-12


def check_ipo(loss: Callable[..., Tensor]) -> None:
    """IPO, as loss(policy, reference, tau)."""
    (policy, reference), tau = pairs(), 0.2
    rows = zip(
        *(v.tolist() for v in (policy.chosen, reference.chosen, policy.rejected, reference.rejected)), strict=True
    )
    all_close(loss(policy, reference, tau), [(a - b - c + d - 1 / (2 * tau)) ** 2 for a, b, c, d in rows])
    all_close(loss(reference, reference, tau), [1 / (4 * tau**2)] * 6)
    slopes_agree(lambda w, lo: loss(PairLogps(w, lo), reference, tau), *policy)
    reached = PairLogps(reference.chosen + 1 / (2 * tau), reference.rejected)
    all_close(loss(reached, reference, tau) + 1, [1.0] * 6)  # zero at the target margin ...
    beyond = PairLogps(reference.chosen + 1 / tau, reference.rejected)
    assert (loss(beyond, reference, tau) > 1).all()  # ... and not zero beyond it


def check_kto(loss: Callable[..., Tensor]) -> None:
    """KTO, as loss(policy, reference, desirable, kl, beta, desirable_weight, undesirable_weight)."""
    (policy, reference), beta, good, bad = pairs(), 0.3, 1.0, 1.7
    desirable = torch.tensor([True, False, True, True, False, False])
    for estimate in (0.8, -0.8):
        z = max(0.0, estimate)
        rows = zip(policy.chosen.tolist(), reference.chosen.tolist(), desirable.tolist(), strict=True)
        by_hand = [
            good * (1 - math.exp(log_sigmoid(beta * (p - r - z))))
            if d
            else bad * (1 - math.exp(log_sigmoid(beta * (z - (p - r)))))
            for p, r, d in rows
        ]
        all_close(
            loss(
                policy.chosen, reference.chosen, desirable, torch.tensor(estimate, dtype=torch.float64), beta, good, bad
            ),
            by_hand,
        )
    kl = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    values = policy.chosen.clone().requires_grad_()
    losses = loss(values, reference.chosen, desirable, kl, beta, good, bad)
    assert ((losses > 0) & (losses < torch.where(desirable, good, bad))).all()
    losses.sum().backward()
    assert kl.grad is None or kl.grad == 0  # the reference point is a constant
    assert values.grad is not None and (values.grad[desirable] < 0).all() and (values.grad[~desirable] > 0).all()
    slopes_agree(lambda p: loss(p, reference.chosen, desirable, kl.detach(), beta, good, bad), policy.chosen)
    # A response far from z_0, for better or worse, pulls no more: the value saturates on both sides.
    for gain in (-400.0, 400.0):
        far = torch.full((6,), gain, dtype=torch.float64, requires_grad=True)
        loss(far, torch.zeros(6).double(), desirable, kl.detach(), beta, good, bad).sum().backward()
        assert far.grad is not None and far.grad.abs().max() < 1e-6


def check_orpo(loss: Callable[..., Tensor]) -> None:
    """ORPO, as loss(policy, beta), from log-probabilities per token."""
    policy, beta = means(), 0.4
    rows = [(math.exp(w), math.exp(lo)) for w, lo in zip(policy.chosen.tolist(), policy.rejected.tolist(), strict=True)]
    all_close(
        loss(policy, beta), [-math.log(p) - beta * log_sigmoid(math.log(p / (1 - p) / (q / (1 - q)))) for p, q in rows]
    )
    slopes_agree(lambda w, lo: loss(PairLogps(w, lo), beta), *policy)
    # p near 1 and tiny p in float32: odds of 1 - 1e-6 and of 1e-30 against even odds
    even = math.log(0.5)
    for p, odds in ((-1e-6, math.log(1e6)), (-69.0, -69.0)):
        wide = loss(PairLogps(torch.tensor([p]), torch.tensor([even])), 1.0)
        assert wide.item() == pytest.approx(-p - log_sigmoid(odds), rel=1e-4, abs=1e-5)
    certain = torch.zeros(1, requires_grad=True)  # p rounds to 1
    loss(PairLogps(certain, torch.tensor([even])), 1.0).sum().backward()
    assert certain.grad is not None and certain.grad.isfinite().all()


def check_cpo(loss: Callable[..., Tensor]) -> None:
    """CPO, as loss(policy, beta, nll_weight)."""
    (policy, _), beta, weight = pairs(), 0.3, 0.5
    rows = zip(policy.chosen.tolist(), policy.rejected.tolist(), strict=True)
    all_close(loss(policy, beta, weight), [-log_sigmoid(beta * (w - lo)) - weight * w for w, lo in rows])
    all_close(loss(policy, beta, 0.0), dpo_loss(policy, PairLogps(*torch.full((2, 6), -7.0).double()), beta).tolist())
    slopes_agree(lambda w, lo: loss(PairLogps(w, lo), beta, weight), *policy)


def check_simpo(loss: Callable[..., Tensor]) -> None:
    """SimPO, as loss(policy, beta, gamma), from log-probabilities per token."""
    policy, beta, gamma = means(), 2.0, 0.7
    rows = zip(policy.chosen.tolist(), policy.rejected.tolist(), strict=True)
    all_close(loss(policy, beta, gamma), [-log_sigmoid(beta * w - beta * lo - gamma) for w, lo in rows])
    slopes_agree(lambda w, lo: loss(PairLogps(w, lo), beta, gamma), *policy)
    reached = PairLogps(policy.rejected + gamma / beta, policy.rejected)  # gamma is in units of reward
    all_close(loss(reached, beta, gamma), [math.log(2)] * 6)


CHECKS: dict[str, tuple[Callable[..., None], Callable[..., Tensor]]] = {
    "cdpo": (check_cdpo, dpo_loss),
    "ipo": (check_ipo, ipo_loss),
    "kto": (check_kto, kto_loss),
    "orpo": (check_orpo, orpo_loss),
    "cpo": (check_cpo, cpo_loss),
    "simpo": (check_simpo, simpo_loss),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_loss_of_the_family_equals_its_definition_and_its_gradient(name: str) -> None:
    check, loss = CHECKS[name]
    check(loss)


def swap(pair: PairLogps) -> PairLogps:
    return PairLogps(pair.rejected, pair.chosen)


def margin(p: PairLogps, r: PairLogps) -> Tensor:
    return (p.chosen - r.chosen) - (p.rejected - r.rejected)


TOKENS = torch.tensor([4.0, 9.0, 5.0, 7.0, 3.0, 8.0]).double()
"""Lengths that differ, for the wrong ones that divide where nothing is to be divided, or multiply."""


def kto_without_clamp(p: Tensor, r: Tensor, d: Tensor, kl: Tensor, b: float, good: float, bad: float) -> Tensor:
    gain = b * (p - r - kl.detach())
    return torch.where(d, good * torch.sigmoid(-gain), bad * torch.sigmoid(gain))


def kto_without_detach(p: Tensor, r: Tensor, d: Tensor, kl: Tensor, b: float, good: float, bad: float) -> Tensor:
    gain = b * (p - r - kl.clamp(min=0))
    return torch.where(d, good * torch.sigmoid(-gain), bad * torch.sigmoid(gain))


def kto_in_logarithms(p: Tensor, r: Tensor, d: Tensor, kl: Tensor, b: float, good: float, bad: float) -> Tensor:
    gain = b * (p - r - kl.detach().clamp(min=0))
    return torch.where(d, -good * F.logsigmoid(gain), -bad * F.logsigmoid(-gain))


def or_loss(log_ratio: Callable[[PairLogps], Tensor]) -> Callable[[PairLogps, float], Tensor]:
    return lambda p, b: -p.chosen - b * F.logsigmoid(log_ratio(p))


FAMILY_WRONG: dict[str, Callable[..., Tensor]] = {
    "cdpo: sign flipped": lambda p, r, b, e: dpo_loss(swap(p), swap(r), b, e),
    "cdpo: reference missing": lambda p, r, b, e: dpo_loss(p, PairLogps(r.chosen * 0, r.chosen * 0), b, e),
    "cdpo: weights swapped": lambda p, r, b, e: (
        -e * F.logsigmoid(b * margin(p, r)) - (1 - e) * F.logsigmoid(-b * margin(p, r))
    ),
    "cdpo: half as smooth": lambda p, r, b, e: dpo_loss(p, r, b, e / 2),
    "cdpo: robust DPO's sign": lambda p, r, b, e: (
        -(1 - e) * F.logsigmoid(b * margin(p, r)) + e * F.logsigmoid(-b * margin(p, r))
    ),
    "cdpo: mean for one value per example": lambda p, r, b, e: dpo_loss(p, r, b, e).mean(),
    "cdpo: per token": lambda p, r, b, e: dpo_loss(
        PairLogps(p.chosen / TOKENS[: len(p.chosen)], p.rejected),
        PairLogps(r.chosen / TOKENS[: len(p.chosen)], r.rejected),
        b,
        e,
    ),
    "ipo: sign flipped": lambda p, r, t: (margin(p, r) + 1 / (2 * t)).square(),
    "ipo: reference missing": lambda p, r, t: (p.chosen - p.rejected - 1 / (2 * t)).square(),
    "ipo: target 1 / tau": lambda p, r, t: (margin(p, r) - 1 / t).square(),
    "ipo: target tau / 2": lambda p, r, t: (margin(p, r) - t / 2).square(),
    "ipo: tau scales the margin": lambda p, r, t: (t * margin(p, r) - 1 / 2).square(),
    "ipo: no penalty beyond the target": lambda p, r, t: (1 / (2 * t) - margin(p, r)).clamp(min=0).square(),
    "ipo: divided by the tokens": lambda p, r, t: (margin(p, r) / TOKENS - 1 / (2 * t)).square(),
    "ipo: mean for one value per example": lambda p, r, t: ipo_loss(p, r, t).mean(),
    "kto: sign flipped": lambda p, r, d, kl, b, g, u: kto_loss(p, r, ~d, kl, b, u, g),
    "kto: reference missing": lambda p, r, d, kl, b, g, u: kto_loss(p, r * 0, d, kl, b, g, u),
    "kto: reference point missing": lambda p, r, d, kl, b, g, u: kto_loss(p, r, d, kl * 0, b, g, u),
    "kto: reference point added": lambda p, r, d, kl, b, g, u: kto_loss(p + 2 * kl.clamp(min=0), r, d, kl, b, g, u),
    "kto: weights swapped": lambda p, r, d, kl, b, g, u: kto_loss(p, r, d, kl, b, u, g),
    "kto: reference point not clamped": kto_without_clamp,
    "kto: reference point not detached": kto_without_detach,
    "kto: logarithms, as in DPO": kto_in_logarithms,
    "kto: beta outside": lambda p, r, d, kl, b, g, u: b * kto_loss(p, r, d, kl, 1.0, g, u),
    "kto: sum for one value per example": lambda p, r, d, kl, b, g, u: kto_loss(p, r, d, kl, b, g, u).sum(),
    "kto: divided by the tokens": lambda p, r, d, kl, b, g, u: kto_loss(p / TOKENS, r / TOKENS, d, kl, b, g, u),
    "orpo: sign flipped": or_loss(lambda p: log_odds(p.rejected) - log_odds(p.chosen)),
    "orpo: probabilities for odds": or_loss(lambda p: p.chosen - p.rejected),
    "orpo: log(1 - p) added": or_loss(
        lambda p: p.chosen - p.rejected + torch.log1p(-p.chosen.exp()) - torch.log1p(-p.rejected.exp())
    ),
    "orpo: log(1 - log p)": or_loss(
        lambda p: p.chosen - p.rejected - torch.log1p(-p.chosen) + torch.log1p(-p.rejected)
    ),
    "orpo: log1p(-p), unstable at p = 1": or_loss(
        lambda p: p.chosen - torch.log1p(-p.chosen.exp()) - p.rejected + torch.log1p(-p.rejected.exp())
    ),
    "orpo: odds ratio without its logarithm": or_loss(lambda p: (log_odds(p.chosen) - log_odds(p.rejected)).exp()),
    "orpo: SFT term missing": lambda p, b: orpo_loss(p, b) + p.chosen,
    "orpo: SFT on the rejected": lambda p, b: orpo_loss(p, b, nll=-p.rejected),
    "orpo: odds ratio not weighted": lambda p, b: orpo_loss(p, 1.0),
    "orpo: beta inside": lambda p, b: -p.chosen - F.logsigmoid(b * (log_odds(p.chosen) - log_odds(p.rejected))),
    "orpo: sum for mean": lambda p, b: orpo_loss(PairLogps(p.chosen * 4, p.rejected * 4), b),
    "orpo: mean for one value per example": lambda p, b: orpo_loss(p, b).mean(),
    "cpo: sign flipped": lambda p, b, w: cpo_loss(swap(p), b, w, nll=-p.chosen),
    "cpo: SFT on the rejected": lambda p, b, w: cpo_loss(p, b, w, nll=-p.rejected),
    "cpo: SFT term's sign flipped": lambda p, b, w: cpo_loss(p, b, w, nll=p.chosen),
    "cpo: SFT term missing": lambda p, b, w: cpo_loss(p, b, 0.0),
    "cpo: SFT term not weighted": lambda p, b, w: cpo_loss(p, b, 1.0),
    "cpo: beta missing": lambda p, b, w: cpo_loss(p, 1.0, w),
    "cpo: divided by the tokens": lambda p, b, w: cpo_loss(PairLogps(p.chosen / TOKENS, p.rejected / TOKENS), b, w),
    "cpo: mean for one value per example": lambda p, b, w: cpo_loss(p, b, w).mean(),
    "simpo: sign flipped": lambda p, b, g: simpo_loss(swap(p), b, g),
    "simpo: target added": lambda p, b, g: -F.logsigmoid(b * (p.chosen - p.rejected) + g),
    "simpo: target missing": lambda p, b, g: simpo_loss(p, b, 0.0),
    "simpo: target times beta": lambda p, b, g: -F.logsigmoid(b * (p.chosen - p.rejected - g)),
    "simpo: beta missing": lambda p, b, g: simpo_loss(p, 1.0, g),
    "simpo: sum for mean": lambda p, b, g: simpo_loss(PairLogps(p.chosen * TOKENS, p.rejected * TOKENS), b, g),
    "simpo: mean for one value per example": lambda p, b, g: simpo_loss(p, b, g).mean(),
}


@pytest.mark.parametrize("name", FAMILY_WRONG)
def test_a_wrong_loss_of_the_family_is_rejected(name: str) -> None:
    check, _ = CHECKS[name.split(":")[0]]
    with pytest.raises(AssertionError):
        check(FAMILY_WRONG[name])


def test_every_loss_of_the_family_has_wrong_versions() -> None:
    assert {name.split(":")[0] for name in FAMILY_WRONG} == set(CHECKS)


def check_log_odds(function: Callable[[Tensor], Tensor]) -> None:
    """log(p / (1 - p)) in float32, against 50 digits' worth of float64, from p = 1e-30 to p = 1 - 1e-7."""
    for logp in (-69.07755, -20.0, -3.0, -0.6931472, -0.1, -1e-3, -1e-6):
        exact = logp - math.log(-math.expm1(logp))
        assert function(torch.tensor([logp])).item() == pytest.approx(exact, rel=1e-5, abs=1e-6)


def test_log_odds_are_exact_for_tiny_probabilities_and_near_one() -> None:
    check_log_odds(log_odds)
    for wrong in (
        lambda x: x - torch.log(1 - x.exp()),  # cancels near 1
        lambda x: torch.log(x.exp() / (1 - x.exp())),  # ... and underflows near 0
        lambda x: x + torch.log1p(-x.exp()),
    ):
        with pytest.raises(AssertionError):
            check_log_odds(wrong)
    with pytest.raises(ValueError, match="must not be above 0"):
        log_odds(torch.tensor([0.5]))


def test_minimizing_ipo_regresses_on_the_preference_and_dpo_runs_away() -> None:
    """Azar et al. (2023), section 4.2: one response is always preferred; IPO stops at a margin of 1 / (2 tau)."""
    zero = torch.zeros(1, dtype=torch.float64)
    ends = {}
    for name, loss in (("ipo", ipo_loss), ("dpo", dpo_loss)):
        gap = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([gap], lr=0.5)
        for _ in range(400):
            optimizer.zero_grad()
            loss(PairLogps(gap, zero), PairLogps(zero, zero), 0.5).sum().backward()
            optimizer.step()
        ends[name] = gap.item()
    assert ends["ipo"] == pytest.approx(1.0, abs=1e-6)
    assert ends["dpo"] > 10 * ends["ipo"]


BAD_VALUES: dict[str, tuple[Callable[[], Tensor], str]] = {
    "dpo beta 0": (lambda: dpo_loss(*pairs(), 0.0), "beta is 0.0"),
    "dpo beta below 0": (lambda: dpo_loss(*pairs(), -0.1), "beta is -0.1"),
    "dpo beta nan": (lambda: dpo_loss(*pairs(), math.nan), "beta is nan"),
    "dpo smoothing a half": (lambda: dpo_loss(*pairs(), 0.1, 0.5), "label_smoothing is 0.5"),
    "dpo smoothing below 0": (lambda: dpo_loss(*pairs(), 0.1, -0.1), "label_smoothing is -0.1"),
    "ipo tau 0": (lambda: ipo_loss(*pairs(), 0.0), "tau is 0.0"),
    "kto beta 0": (lambda: kto(beta=0.0), "beta is 0.0"),
    "kto weight 0": (lambda: kto(desirable_weight=0.0), "desirable_weight is 0.0"),
    "kto other weight": (lambda: kto(undesirable_weight=-1.0), "undesirable_weight is -1.0"),
    "kto labels": (lambda: kto(desirable=torch.ones(6)), "give booleans"),
    "orpo beta 0": (lambda: orpo_loss(means(), 0.0), "beta is 0.0"),
    "orpo logp above 0": (lambda: orpo_loss(PairLogps(-means().chosen, means().rejected)), "must not be above 0"),
    "cpo beta 0": (lambda: cpo_loss(means(), 0.0), "beta is 0.0"),
    "cpo weight below 0": (lambda: cpo_loss(means(), 0.1, -1.0), "nll_weight is -1.0"),
    "simpo beta 0": (lambda: simpo_loss(means(), 0.0), "beta is 0.0"),
    "simpo gamma below 0": (lambda: simpo_loss(means(), 2.0, -0.1), "gamma is -0.1"),
}


def kto(desirable: Tensor | None = None, **settings: float) -> Tensor:
    """KTO on the random pairs' chosen."""
    policy, reference = pairs()
    wanted = torch.ones(6, dtype=torch.bool) if desirable is None else desirable
    return kto_loss(policy.chosen, reference.chosen, wanted, torch.tensor(0.1), **settings)


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_value_out_of_range_is_refused_with_its_name_and_value(name: str) -> None:
    call, said = BAD_VALUES[name]
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_nan_or_an_infinity_is_never_silent(value: float) -> None:
    """As the mean over a row that is masked altogether would give: 0 / 0."""
    (policy, reference), spoilt = pairs(), pairs()[0]
    spoilt.chosen[2] = value
    single = torch.ones(6, dtype=torch.bool), torch.tensor(0.1).double()
    calls: list[Callable[[], Tensor]] = [
        lambda: dpo_loss(spoilt, reference),
        lambda: ipo_loss(spoilt, reference),
        lambda: orpo_loss(spoilt),
        lambda: cpo_loss(spoilt),
        lambda: simpo_loss(spoilt),
    ]
    if math.isnan(value):  # KTO's loss of an impossible response is finite: its weight
        calls.append(lambda: kto_loss(spoilt.chosen, reference.chosen, *single))
        calls.append(lambda: kto_loss(policy.chosen, reference.chosen, single[0], torch.tensor(math.nan)))
    for call in calls:
        with pytest.raises(ValueError, match=r"rows \["):
            call()


def test_equal_responses_give_the_loss_of_a_margin_of_zero_and_teach_nothing() -> None:
    same = means().chosen.requires_grad_()
    pair = PairLogps(same, same)
    reference = PairLogps(*torch.full((2, 6), -2.0).double())
    for loss, expected in (
        (dpo_loss(pair, reference), math.log(2)),
        (ipo_loss(pair, reference, 0.5), 1.0),
        (simpo_loss(pair, 2.0, 0.0), math.log(2)),
        (cpo_loss(pair, 0.1, 0.0), math.log(2)),
    ):
        assert loss.detach().tolist() == pytest.approx([expected] * 6)
        (slope,) = torch.autograd.grad(loss.sum(), same)
        assert slope.abs().max() < 1e-12


def test_per_token_divides_each_side_by_its_own_length_and_refuses_an_empty_response() -> None:
    summed = PairLogps(torch.tensor([-6.0, -8.0]), torch.tensor([-9.0, -2.0]))
    mean = per_token(summed, PairLogps(torch.tensor([3, 4]), torch.tensor([9, 1])))
    assert mean.chosen.tolist() == [-2.0, -2.0] and mean.rejected.tolist() == [-1.0, -2.0]
    with pytest.raises(ValueError, match=r"pairs \[1\] have a response without a token"):
        per_token(summed, PairLogps(torch.tensor([3, 4]), torch.tensor([9, 0])))


# ---- trl, on the same batch of the same model
PROMPTS = ("The old bear", "The small bee", "The small cow", "The small camel")
CHOSEN = (" sleeps in the garden at night.", " sings by the river.", " walks in the kitchen.", " sleeps near the door.")
REJECTED = (
    " eats by the river.",
    " waits at the market in the morning.",
    " eats.",
    " waits in the garden in the evening.",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`tiny`, a policy that differs from it, a tokenizer that ends texts as scenes do, and what trl's configs share."""
    reference, tokenizer = models.load("tiny", "cpu")
    policy = copy.deepcopy(reference)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = scenes.END
    common = {
        "output_dir": str(tmp_path_factory.mktemp("trl")), "use_cpu": True, "report_to": "none", "bf16": False,
        "gradient_checkpointing": False, "disable_tqdm": True, "remove_unused_columns": False,
    }  # fmt: skip
    return {"policy": policy, "reference": reference, "tokenizer": tokenizer, "common": common}


def rows_of(world: dict[str, Any], responses: Sequence[str], prompts: Sequence[str] = PROMPTS) -> text.Batch:
    """Prompts and responses as our padded batch."""
    tokenizer = world["tokenizer"]
    return text.pad(
        [scenes.encode(tokenizer, p, r) for p, r in zip(prompts, responses, strict=True)], tokenizer.pad_token_id
    )


def ours_of(world: dict[str, Any]) -> tuple[PairLogps, PairLogps, PairLogps]:
    """The policy's and the reference's summed log-probabilities of the pairs, and the responses' tokens."""
    batches = [rows_of(world, responses) for responses in (CHOSEN, REJECTED)]
    with torch.no_grad():
        policy, reference = (
            PairLogps(*(logprobs.sequence_logprobs(world[side], *batch) for batch in batches))
            for side in ("policy", "reference")
        )
    return policy, reference, PairLogps(*(batch.response_mask.sum(-1) for batch in batches))


def trainer_of(
    world: dict[str, Any], trainer: Any, config: Any, columns: Mapping[str, Sequence[Any]], **settings: Any
) -> Any:
    """One of trl's trainers on the same policy, and the batch that it would train on."""
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = (
            {"ref_model": copy.deepcopy(world["reference"])}
            if "DPO" in config.__name__ or "KTO" in config.__name__
            else {}
        )
        built = trainer(
            model=copy.deepcopy(world["policy"]), processing_class=world["tokenizer"],
            args=config(per_device_train_batch_size=len(columns["prompt"]), **settings, **world["common"]),
            train_dataset=Dataset.from_dict({name: list(values) for name, values in columns.items()}), **reference,
        )  # fmt: skip
    built.model.eval()
    return built, built.data_collator([built.train_dataset[i] for i in range(len(built.train_dataset))])


PAIRS = {"prompt": PROMPTS, "chosen": CHOSEN, "rejected": REJECTED}


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "robust"])
def test_dpo_ipo_and_smoothed_dpo_equal_trls(world: dict[str, Any], loss_type: str) -> None:
    from trl import DPOConfig, DPOTrainer

    settings = {"label_smoothing": 0.2} if loss_type == "robust" else {}
    trainer, batch = trainer_of(world, DPOTrainer, DPOConfig, PAIRS, loss_type=loss_type, beta=0.3, **settings)
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, batch, False).item()
    policy, reference, tokens = ours_of(world)
    if loss_type == "ipo":
        ours = ipo_loss(per_token(policy, tokens), per_token(reference, tokens), 0.3)
        assert abs(ipo_loss(policy, reference, 0.3).mean().item() - theirs) > 1e-3  # the sum is another loss
    elif loss_type == "robust":  # the same two terms as cDPO, subtracted and rescaled (Chowdhury et al., 2024)
        plain, smooth = dpo_loss(policy, reference, 0.3), dpo_loss(policy, reference, 0.3, 0.2)
        flipped = (smooth - 0.8 * plain) / 0.2
        ours = (0.8 * plain - 0.2 * flipped) / 0.6
    else:
        ours = dpo_loss(policy, reference, 0.3)
    assert ours.mean().item() == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("clamped", [False, True])
def test_kto_equals_trls_with_its_shifted_batch_as_reference_point(world: dict[str, Any], clamped: bool) -> None:
    from trl import KTOConfig, KTOTrainer

    sides = ("reference", "policy") if clamped else ("policy", "reference")  # the other way round the mean is negative
    turned = {**world, "policy": world[sides[0]], "reference": world[sides[1]]}
    labels = [True, False, True, False]
    columns = {"prompt": PROMPTS, "completion": CHOSEN, "label": labels}
    trainer, batch = trainer_of(
        turned, KTOTrainer, KTOConfig, columns, beta=0.3, desirable_weight=1.0, undesirable_weight=1.5
    )
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, batch, False).item()
        matched, shifted = rows_of(world, CHOSEN), rows_of(world, (CHOSEN[-1], *CHOSEN[:-1]))
        policy, reference, policy_kl, reference_kl = (
            logprobs.sequence_logprobs(turned[side], *rows)
            for rows in (matched, shifted)
            for side in ("policy", "reference")
        )
    kl = (policy_kl - reference_kl).mean()
    ours = kto_loss(policy, reference, torch.tensor(labels), kl, 0.3, 1.0, 1.5)
    assert ours.mean().item() == pytest.approx(theirs, abs=1e-5)
    assert trainer._metrics["eval"]["kl"] == [pytest.approx(max(0.0, kl.item()), abs=1e-4)]


def test_orpo_equals_trls(world: dict[str, Any]) -> None:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    trainer, batch = trainer_of(world, ORPOTrainer, ORPOConfig, PAIRS, beta=0.3, max_length=64)
    with torch.no_grad():
        theirs = trainer.get_batch_loss_metrics(trainer.model, batch)[0].item()
        rows = rows_of(world, CHOSEN)
        whole = rows._replace(response_mask=rows.attention_mask)  # trl's SFT term counts the prompt's tokens too
        values = logprobs.token_logprobs(world["policy"], *whole)
        nll = -values.sum() / whole.response_mask[:, 1:].sum()
    policy, _, tokens = ours_of(world)
    assert orpo_loss(per_token(policy, tokens), 0.3, nll=nll).mean().item() == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("kind", ["cpo", "simpo", "cpo and simpo", "smoothed"])
def test_cpo_and_simpo_equal_trls(world: dict[str, Any], kind: str) -> None:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    settings: dict[str, dict[str, Any]] = {
        "cpo": {"beta": 0.3, "cpo_alpha": 0.7},
        "simpo": {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 0.5, "cpo_alpha": 0.0},
        "cpo and simpo": {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 0.5, "cpo_alpha": 0.7},
        "smoothed": {"beta": 0.3, "label_smoothing": 0.2, "cpo_alpha": 0.0},
    }
    trainer, batch = trainer_of(world, CPOTrainer, CPOConfig, PAIRS, max_length=64, **settings[kind])
    with torch.no_grad():
        theirs = trainer.get_batch_loss_metrics(trainer.model, batch)[0].item()
    policy, _, tokens = ours_of(world)
    nll = -policy.chosen.sum() / tokens.chosen.sum()  # a mean over the batch's tokens
    none = PairLogps(torch.zeros(4), torch.zeros(4))
    ours = {
        "cpo": lambda: cpo_loss(policy, 0.3, 0.7, nll=nll),
        "simpo": lambda: simpo_loss(per_token(policy, tokens), 2.0, 0.5),
        "cpo and simpo": lambda: simpo_loss(per_token(policy, tokens), 2.0, 0.5) + 0.7 * nll,
        "smoothed": lambda: dpo_loss(policy, none, 0.3, 0.2),
    }[kind]()
    assert ours.mean().item() == pytest.approx(theirs, abs=1e-5)
