"""Losses that learn from preferences: DPO and its family. They know log-probabilities, and no model.

Each is the formula of its paper, returns one value per example, and raises where that value would be NaN or infinite.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class PairLogps(NamedTuple):
    """Log-probabilities (nats) of the chosen and of the rejected responses, each (batch,).

    Summed over the response's tokens, unless a loss asks for the mean per token (see per_token).
    """

    chosen: Tensor
    rejected: Tensor


def dpo_loss(policy: PairLogps, reference: PairLogps, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    r"""Direct preference optimization, Rafailov et al. (2023), eq. 7; conservative DPO, Mitchell (2023).

    policy, reference: summed response log-probabilities (nats) of the chosen and the rejected responses, each (batch,).
    beta: inverse temperature of the implicit reward, > 0.
    label_smoothing: the share of pairs whose label is taken to be swapped, 0 <= label_smoothing < 0.5.
    Returns the loss of each pair, (batch,), in nats. ValueError for a value out of range, or a loss that is not finite.
    """
    _positive("beta", beta, usual=0.1)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 0.5")
    margin = (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected)
    loss = -(1 - label_smoothing) * F.logsigmoid(beta * margin) - label_smoothing * F.logsigmoid(-beta * margin)
    return _finite(loss)


def ipo_loss(policy: PairLogps, reference: PairLogps, tau: float = 0.1) -> Tensor:
    r"""Identity preference optimization, Azar et al. (2023), eq. 17: the margin is to be 1 / (2 tau), and no more.

    policy, reference: as in dpo_loss, summed, as the paper writes it; trl (and, its authors say, the paper's
    experiments) use the mean per token instead: give per_token of both.
    tau: strength of the regularization, > 0. Returns the loss of each pair, (batch,), in squared nats.
    """
    _positive("tau", tau, usual=0.1)
    margin = (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected)
    return _finite((margin - 1 / (2 * tau)).square())


def kto_loss(
    policy: Tensor,
    reference: Tensor,
    desirable: Tensor,
    kl: Tensor,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    r"""Kahneman-Tversky optimization, Ethayarajh et al. (2024), section 4.1: lambda_y - v(x, y), without pairs.

    policy, reference: summed log-probabilities (nats) of single responses, (batch,).
    desirable: whether each response is a good one, bool, (batch,).
    kl: the reference point z_0 in nats, a scalar or (batch,): the mean of log pi/pi_ref over prompts with responses of
    *other* prompts. It is clamped at 0, as a KL divergence is never negative, and passes no gradient on.
    beta: > 0. desirable_weight, undesirable_weight: lambda_D and lambda_U, > 0.
    Returns the loss of each response, (batch,), between 0 and its weight (no unit).
    """
    _positive("beta", beta, usual=0.1)
    _positive("desirable_weight", desirable_weight, usual=1.0)
    _positive("undesirable_weight", undesirable_weight, usual=1.0)
    if desirable.dtype != torch.bool:
        raise ValueError(f"desirable holds {desirable.dtype}; give booleans (True for a desirable response)")
    gain = beta * (policy - reference - kl.detach().clamp(min=0))
    # lambda - lambda sigmoid(u) = lambda sigmoid(-u), which keeps small losses exact
    return _finite(
        torch.where(desirable, desirable_weight * torch.sigmoid(-gain), undesirable_weight * torch.sigmoid(gain))
    )


def orpo_loss(policy: PairLogps, beta: float = 0.1, nll: Tensor | None = None) -> Tensor:
    r"""Odds ratio preference optimization, Hong et al. (2024), eqs. 6 and 7: SFT on chosen, plus the odds ratio.

    policy: log-probabilities per token (nats, the mean over the response's tokens), each (batch,). No reference.
    beta: weight of the odds ratio term, lambda in the paper, > 0.
    nll: negative log-likelihood of chosen, (batch,) or a scalar; -policy.chosen unless given (trl's counts the prompt).
    Returns the loss of each pair, (batch,), in nats.
    """
    _positive("beta", beta, usual=0.1)
    log_odds_ratio = log_odds(policy.chosen) - log_odds(policy.rejected)
    return _finite((-policy.chosen if nll is None else nll) - beta * F.logsigmoid(log_odds_ratio))


def cpo_loss(policy: PairLogps, beta: float = 0.1, nll_weight: float = 1.0, nll: Tensor | None = None) -> Tensor:
    r"""Contrastive preference optimization, Xu et al. (2024), section 3: DPO with a uniform reference, plus SFT.

    (Constrained policy optimization, Achiam et al. (2017), has the same initials and is another thing.)
    policy: summed log-probabilities (nats), each (batch,). No reference.
    beta: > 0. nll_weight: weight of the SFT term, >= 0; the paper has 1.
    nll: negative log-likelihood of chosen, (batch,) or a scalar; -policy.chosen unless given (trl's is per token).
    Returns the loss of each pair, (batch,), in nats.
    """
    _positive("beta", beta, usual=0.1)
    if nll_weight < 0:
        raise ValueError(f"nll_weight is {nll_weight}; it must not be negative")
    margin = policy.chosen - policy.rejected
    return _finite(-F.logsigmoid(beta * margin) + nll_weight * (-policy.chosen if nll is None else nll))


def simpo_loss(policy: PairLogps, beta: float = 2.0, gamma: float = 0.5) -> Tensor:
    r"""Simple preference optimization, Meng et al. (2024), eq. 6.

    policy: log-probabilities per token (nats, the mean over the response's tokens), each (batch,). No reference.
    beta: > 0. gamma: by how much the reward beta * policy.chosen is to exceed the other, >= 0, in units of reward.
    Returns the loss of each pair, (batch,), in nats.
    """
    _positive("beta", beta, usual=2.0)
    if gamma < 0:
        raise ValueError(f"gamma is {gamma}; it must not be negative (0.5 is usual)")
    return _finite(-F.logsigmoid(beta * (policy.chosen - policy.rejected) - gamma))


def implicit_rewards(policy: PairLogps, reference: PairLogps, beta: float = 0.1) -> PairLogps:
    r"""The reward that a policy implies, \beta log(pi/pi_ref), Rafailov et al. (2023), eq. 5 up to beta log Z(x).

    Returns the rewards of the chosen and of the rejected responses, each (batch,).
    """
    return PairLogps(
        beta * (policy.chosen - reference.chosen),
        beta * (policy.rejected - reference.rejected),
    )


def per_token(logps: PairLogps, tokens: PairLogps) -> PairLogps:
    """Summed log-probabilities divided by the number of response tokens: the mean per token (nats), each (batch,).

    ValueError where a response has no token: 0 / 0 would be a silent NaN.
    """
    empty = ((tokens.chosen == 0) | (tokens.rejected == 0)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"pairs {empty} have a response without a token; drop them, or lengthen what was cut")
    return PairLogps(logps.chosen / tokens.chosen, logps.rejected / tokens.rejected)


def log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) of probabilities given as logarithms (nats), any shape; exact for tiny p and for p near 1.

    Hong et al. (2024), eq. 4. A p nearer to 1 than the precision is taken as 1 - eps, so that odds stay finite.
    ValueError for a logarithm above 0: that is no probability.
    """
    if (logp > 1e-4).any():
        raise ValueError(f"a log-probability is {logp.max().item():.4g}; it must not be above 0")
    below_zero = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return below_zero - torch.log(-torch.expm1(below_zero))


def _positive(name: str, value: float, usual: float) -> None:
    if not value > 0:  # so that NaN is refused too
        raise ValueError(f"{name} is {value}; it must be positive ({usual} is usual)")


def _finite(losses: Tensor) -> Tensor:
    """The losses (batch,) as they are, or a ValueError that names the rows that would spoil the mean in silence."""
    if not losses.isfinite().all():
        rows = (~losses.detach().isfinite()).nonzero().flatten().tolist()
        raise ValueError(
            f"rows {rows} have a loss that is not finite: a log-probability in them is NaN or infinite. "
            "Look for a response without tokens, a prompt that fills the context, or weights that have diverged"
        )
    return losses
