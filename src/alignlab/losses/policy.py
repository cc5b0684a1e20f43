"""Losses that learn from rewards: the policy gradient, and the two terms that usually stand beside it.

They know log-probabilities, advantages and values; no model and no environment. Each returns one value per action.
"""

import torch
from torch import Tensor

from alignlab.logprobs import entropy


def policy_gradient_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    r"""The loss whose gradient is minus the policy gradient, Williams (1992); Sutton et al. (1999), theorem 1.

    logprobs: log pi(a_t | s_t) of the actions that were taken, nats, any shape, with gradient.
    advantages: how much better each action was than expected, same shape, reward units. A return serves too. It is a
    constant of the loss: no gradient passes through it.
    Returns -advantage * logprob, same shape. ValueError where shapes differ, which would broadcast.
    """
    _same_shape("logprobs", logprobs, "advantages", advantages)
    return -advantages.detach() * logprobs


def value_loss(values: Tensor, targets: Tensor) -> Tensor:
    r"""Half the squared error of the critic; its gradient by the value is the error itself.

    values: V(s_t), any shape, with gradient. targets: returns or bootstrapped returns, same shape, held constant: a
    gradient through a target that holds V again would pull the target towards the value.
    Returns (value - target)^2 / 2, same shape. ValueError where shapes differ.
    """
    _same_shape("values", values, "targets", targets)
    return (values - targets.detach()).square() / 2


def entropy_bonus(logits: Tensor) -> Tensor:
    r"""Minus the entropy of softmax(logits) in nats: as a loss, it rewards a policy that stays undecided.

    logits: (..., actions). Returns (...), between -log(actions) and 0. Mnih et al. (2016), section 4.
    """
    return -entropy(logits)


def _same_shape(name: str, one: Tensor, other_name: str, other: Tensor) -> None:
    if one.shape != other.shape:
        raise ValueError(
            f"{name} are {tuple(one.shape)} and {other_name} {tuple(other.shape)}; give one of each for every action"
        )
    if torch.is_grad_enabled() and not one.requires_grad:
        raise ValueError(f"{name} carry no gradient, so nothing would be learned; compute them with gradients on")
