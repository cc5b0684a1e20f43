"""Exercises of the lab ch03_preference_family: IPO, KTO's reference point, log-odds, SimPO, an exact win rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

MARGINS = torch.tensor([-3.0, 0.0, 1.0, 4.0, 9.0], dtype=torch.float64)
MISMATCHED = (
    torch.tensor([-9.0, -14.0, -6.0, -8.5], dtype=torch.float64),
    torch.tensor([-10.0, -12.0, -9.0, -9.5], dtype=torch.float64),
)
"""Log-probabilities of other prompts' responses: the policy's and the reference's; one log-ratio is negative."""
LOGPS = torch.tensor([-69.0, -3.0, -0.5, -0.1, -1e-7], dtype=torch.float64)
SUMS = [torch.tensor(values, dtype=torch.float64) for values in ([-6.0, -12.0, -20.0], [-9.0, -10.0, -16.0])]
TOKENS = [torch.tensor(values, dtype=torch.float64) for values in ([4.0, 8.0, 10.0], [9.0, 5.0, 16.0])]
SIMPO_GIVEN = (SUMS[0], SUMS[1], TOKENS[0], TOKENS[1])
POLICY = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
REWARD = torch.tensor([2.0, 1.0, 1.0, 0.0], dtype=torch.float64)


# ---- solutions
def ipo(margin: Tensor, tau: float) -> Tensor:
    """The margin is pulled to 1 / (2 tau), from below and from above."""
    return (margin - 1 / (2 * tau)) ** 2


def reference_point(policy: Tensor, reference: Tensor) -> Tensor:
    """The mean log-ratio over mismatched responses, not below 0, and a constant for the gradient."""
    return (policy - reference).mean().clamp(min=0).detach()


def log_odds(logp: Tensor) -> Tensor:
    """log p - log(1 - p); expm1 keeps what 1 - exp would round away."""
    return logp - torch.log(-torch.expm1(logp))


def simpo(
    chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, beta: float, gamma: float
) -> Tensor:
    """Each sum is divided by its own length; gamma is in units of reward."""
    return -F.logsigmoid(beta * (chosen / chosen_tokens - rejected / rejected_tokens) - gamma)


def win_rate(policy: Tensor, reference: Tensor, reward: Tensor) -> Tensor:
    """A double sum over what the policy says and what the reference says; a tie is half a win."""
    better = (reward[:, None] > reward[None]).double() + 0.5 * (reward[:, None] == reward[None]).double()
    return policy @ better @ reference


# ---- wrong answers
def ipo_hinge(margin: Tensor, tau: float) -> Tensor:
    return (1 / (2 * tau) - margin).clamp(min=0) ** 2


def ipo_whole(margin: Tensor, tau: float) -> Tensor:
    return (margin - 1 / tau) ** 2


def ipo_turned(margin: Tensor, tau: float) -> Tensor:
    return (margin - tau / 2) ** 2


def ipo_sign(margin: Tensor, tau: float) -> Tensor:
    return (margin + 1 / (2 * tau)) ** 2


def ipo_absolute(margin: Tensor, tau: float) -> Tensor:
    return (margin - 1 / (2 * tau)).abs()


def point_unclamped(policy: Tensor, reference: Tensor) -> Tensor:
    return (policy - reference).mean().detach()


def point_clamped_early(policy: Tensor, reference: Tensor) -> Tensor:
    return (policy - reference).clamp(min=0).mean().detach()


def point_attached(policy: Tensor, reference: Tensor) -> Tensor:
    return (policy - reference).mean().clamp(min=0)


def point_reversed(policy: Tensor, reference: Tensor) -> Tensor:
    return (reference - policy).mean().clamp(min=0).detach()


def point_per_row(policy: Tensor, reference: Tensor) -> Tensor:
    return (policy - reference).clamp(min=0).detach()


def odds_naive(logp: Tensor) -> Tensor:
    p = logp.float().exp()
    return torch.log(p / (1 - p)).double()


def odds_added(logp: Tensor) -> Tensor:
    return logp + torch.log(-torch.expm1(logp))


def odds_of_log(logp: Tensor) -> Tensor:
    return logp - torch.log(1 - logp)


def odds_plain(logp: Tensor) -> Tensor:
    return (logp - torch.log(-torch.expm1(logp))).exp()


def simpo_summed(
    chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, beta: float, gamma: float
) -> Tensor:
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def simpo_one_length(
    chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, beta: float, gamma: float
) -> Tensor:
    return -F.logsigmoid(beta * (chosen - rejected) / (chosen_tokens + rejected_tokens) - gamma)


def simpo_gamma_inside(
    chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, beta: float, gamma: float
) -> Tensor:
    return -F.logsigmoid(beta * (chosen / chosen_tokens - rejected / rejected_tokens - gamma))


def simpo_gamma_added(
    chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, beta: float, gamma: float
) -> Tensor:
    return -F.logsigmoid(beta * (chosen / chosen_tokens - rejected / rejected_tokens) + gamma)


def simpo_averaged(
    chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, beta: float, gamma: float
) -> Tensor:
    return simpo(chosen, rejected, chosen_tokens, rejected_tokens, beta, gamma).mean()


def wins_without_ties(policy: Tensor, reference: Tensor, reward: Tensor) -> Tensor:
    return policy @ (reward[:, None] > reward[None]).double() @ reference


def wins_with_ties(policy: Tensor, reference: Tensor, reward: Tensor) -> Tensor:
    return policy @ (reward[:, None] >= reward[None]).double() @ reference


def wins_of_reference(policy: Tensor, reference: Tensor, reward: Tensor) -> Tensor:
    return 1 - win_rate(policy, reference, reward)


def difference_of_means(policy: Tensor, reference: Tensor, reward: Tensor) -> Tensor:
    return (policy - reference) @ reward


def unweighted(policy: Tensor, reference: Tensor, reward: Tensor) -> Tensor:
    return (policy * reward > reference * reward).double().mean()


# ---- graders
def _grade_ipo(answer: Callable[..., Any]) -> None:
    for tau in (0.25, 0.1):
        mistakes = {
            "Beyond the target your loss is 0; IPO's square pulls a margin that is too large back.": ipo_hinge(
                MARGINS, tau
            ),
            "Your target is 1 / tau; the paper's is half of it.": ipo_whole(MARGINS, tau),
            "Your target is tau / 2: a stronger regularization would then ask for a larger margin.": ipo_turned(
                MARGINS, tau
            ),
            "The sign is flipped: yours asks for a negative margin, so for the rejected response.": ipo_sign(
                MARGINS, tau
            ),
            "That is the distance to the target; the loss is its square.": ipo_absolute(MARGINS, tau),
        }
        same(answer(MARGINS.clone(), tau), ipo(MARGINS, tau), f"your loss at tau {tau}", mistakes=mistakes)


def _grade_reference_point(answer: Callable[..., Any]) -> None:
    up, down = MISMATCHED
    for policy, reference in ((up, down), (down, up)):
        given = policy.clone().requires_grad_(), reference.clone()
        got = answer(*given)
        mistakes = {
            "It is negative; a KL divergence is not, so clamp the mean at 0.": point_unclamped(policy, reference),
            "You clamped each log-ratio before averaging: that is biased upwards. Average first.": point_clamped_early(
                policy, reference
            ),
            "The ratio is reversed: the KL divergence from policy to reference has the policy on top.": point_reversed(
                policy, reference
            ),
            "There is one reference point for the batch; yours has one for each row.": point_per_row(policy, reference),
        }
        same(got, reference_point(policy, reference), "your reference point", mistakes=mistakes)
        require(
            not getattr(got, "requires_grad", False),
            "The value is right, but it carries a gradient: detach it, or the loss moves the reference point too.",
        )


def _grade_log_odds(answer: Callable[..., Any]) -> None:
    middle, got = LOGPS[1:-1], answer(LOGPS[1:-1].clone())
    mistakes = {
        "log(1 - p) is added; dividing by 1 - p subtracts its logarithm.": odds_added(middle),
        "You took 1 - log p; it is 1 - p that is wanted, with p = exp(logp).": odds_of_log(middle),
        "These are the odds; take their logarithm.": odds_plain(middle),
    }
    same(got, log_odds(middle), "your log-odds", mistakes=mistakes)
    ends = LOGPS[[0, -1]].float()
    with_care, got = log_odds(LOGPS[[0, -1]]), torch.as_tensor(answer(ends.clone())).double()
    require(
        got.isfinite().all() and (got - with_care).abs().max() < 0.05,
        f"At p = e^-69 and p = 1 - 1e-7 in float32 you get {[round(v, 3) for v in got.tolist()]}, and it should be "
        f"{[round(v, 3) for v in with_care.tolist()]}: 1 - exp(logp) loses its digits. Use torch.expm1.",
    )


def _grade_simpo(answer: Callable[..., Any]) -> None:
    for beta, gamma in ((2.0, 0.5), (3.0, 1.2)):
        mistakes = {
            "You compare sums: divide each by its number of tokens, or the shorter response wins.": simpo_summed(
                *SIMPO_GIVEN, beta=beta, gamma=gamma
            ),
            "Both sums are divided by the same length; each has its own.": simpo_one_length(
                *SIMPO_GIVEN, beta=beta, gamma=gamma
            ),
            "Gamma stands inside the parentheses, so it is multiplied by beta; it is in units of reward.": (
                simpo_gamma_inside(*SIMPO_GIVEN, beta=beta, gamma=gamma)
            ),
            "Gamma is added: that makes the task easier. Subtract it.": simpo_gamma_added(
                *SIMPO_GIVEN, beta=beta, gamma=gamma
            ),
            "That is the mean over the batch; return one loss for each pair.": simpo_averaged(
                *SIMPO_GIVEN, beta=beta, gamma=gamma
            ),
        }
        got = answer(*(values.clone() for values in SIMPO_GIVEN), beta, gamma)
        same(
            got,
            simpo(*SIMPO_GIVEN, beta=beta, gamma=gamma),
            f"your loss at beta {beta}, gamma {gamma}",
            mistakes=mistakes,
        )


def _grade_win_rate(answer: Callable[..., Any]) -> None:
    given = POLICY, REFERENCE, REWARD
    mistakes = {
        "Ties count nothing in yours; a tie is half a win, or a policy would lose against itself.": wins_without_ties(
            *given
        ),
        "Ties are whole wins in yours; a tie is half a win.": wins_with_ties(*given),
        "That is the reference's win rate: rows and columns are swapped.": wins_of_reference(*given),
        "That is the difference of expected rewards; a win asks only which of two rewards is larger.": (
            difference_of_means(*given)
        ),
        "Yours compares the two models response by response; sum over all *pairs* of responses.": unweighted(*given),
    }
    got = answer(*(values.clone() for values in given))
    same(got, win_rate(*given), "your win rate", mistakes=mistakes)
    itself = answer(POLICY.clone(), POLICY.clone(), REWARD.clone())
    same(itself, 0.5, "a policy's win rate against itself")


EXERCISES = [
    Exercise(
        name="preference_family.ipo",
        task="Turn each pair's margin (B,) into IPO's loss (B,), at strength tau.",
        difficulty=1,
        minutes=4,
        grade=_grade_ipo,
        solution=ipo,
        wrong=[
            Wrong(ipo_hinge, "Beyond the target"),
            Wrong(ipo_whole, "target is 1 / tau"),
            Wrong(ipo_turned, "tau / 2"),
            Wrong(ipo_sign, "sign is flipped"),
            Wrong(ipo_absolute, "its square"),
        ],
        hint="A regression: which margin does IPO want? The smaller tau, the larger it is.",
    ),
    Exercise(
        name="preference_family.reference_point",
        task="KTO's reference point, one number, from the policy's and the reference's log-probabilities (B,) of "
        "responses that belong to other prompts.",
        difficulty=2,
        minutes=6,
        grade=_grade_reference_point,
        solution=reference_point,
        wrong=[
            Wrong(point_unclamped, "It is negative"),
            Wrong(point_clamped_early, "before averaging"),
            Wrong(point_attached, "carries a gradient"),
            Wrong(point_reversed, "ratio is reversed"),
            Wrong(point_per_row, "one for each row"),
        ],
        hint="An estimate of a KL divergence: a mean of log-ratios. It cannot be negative, and it is not trained.",
    ),
    Exercise(
        name="preference_family.log_odds",
        task="log(p / (1 - p)) from log p, any shape; right in float32 for p = e^-69 and for p = 1 - 1e-7 too.",
        difficulty=2,
        minutes=8,
        grade=_grade_log_odds,
        solution=log_odds,
        wrong=[
            Wrong(odds_naive, "loses its digits"),
            Wrong(odds_added, "is added"),
            Wrong(odds_of_log, "1 - log p"),
            Wrong(odds_plain, "These are the odds"),
        ],
        hint="log p is given. For log(1 - p): torch.expm1(x) is exp(x) - 1 without the loss of digits.",
    ),
    Exercise(
        name="preference_family.simpo",
        task="SimPO's loss (B,) from summed log-probabilities and lengths of chosen and rejected, each (B,).",
        difficulty=2,
        minutes=6,
        grade=_grade_simpo,
        solution=simpo,
        wrong=[
            Wrong(simpo_summed, "compare sums"),
            Wrong(simpo_one_length, "same length"),
            Wrong(simpo_gamma_inside, "multiplied by beta"),
            Wrong(simpo_gamma_added, "Gamma is added"),
            Wrong(simpo_averaged, "mean over the batch"),
        ],
        hint="Two mean log-probabilities per token, their difference times beta, less gamma.",
    ),
    Exercise(
        name="preference_family.win_rate",
        task="The exact probability that the policy's response beats the reference's, ties half, from the "
        "probabilities (N,) that each gives to N responses, and their rewards (N,).",
        difficulty=3,
        minutes=10,
        grade=_grade_win_rate,
        solution=win_rate,
        wrong=[
            Wrong(wins_without_ties, "Ties count nothing"),
            Wrong(wins_with_ties, "whole wins"),
            Wrong(wins_of_reference, "rows and columns"),
            Wrong(difference_of_means, "difference of expected rewards"),
            Wrong(unweighted, "response by response"),
        ],
        hint="A table (N, N) of 1, 0.5 and 0; its rows weighted by one model, its columns by the other.",
    ),
]
