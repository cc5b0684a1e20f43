"""Losses that learn from pairs of a chosen and a rejected response. They know log-probabilities, and no model."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class PairLogps(NamedTuple):
    """Summed log-probabilities (nats) of the chosen and of the rejected responses, each (batch,)."""

    chosen: Tensor
    rejected: Tensor


def dpo_loss(policy: PairLogps, reference: PairLogps, beta: float = 0.1) -> Tensor:
    r"""Direct preference optimization, Rafailov et al. (2023), eq. 7.

    policy, reference: summed response log-probabilities (nats) of the chosen and the rejected responses, each (batch,).
    beta: inverse temperature of the implicit reward, > 0.
    Returns the loss of each pair, (batch,), in nats.
    """
    if beta <= 0:
        raise ValueError(f"beta is {beta}; it must be positive (0.1 is usual)")
    margin = (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected)
    return -F.logsigmoid(beta * margin)


def implicit_rewards(policy: PairLogps, reference: PairLogps, beta: float = 0.1) -> PairLogps:
    r"""The reward that a policy implies, \beta log(pi/pi_ref), Rafailov et al. (2023), eq. 5 up to beta log Z(x).

    Returns the rewards of the chosen and of the rejected responses, each (batch,).
    """
    return PairLogps(
        beta * (policy.chosen - reference.chosen),
        beta * (policy.rejected - reference.rejected),
    )
