"""DoLa, Chuang et al. (2023): score tokens by what the last layer adds to an earlier one.

Knows the contrast and how to read a model at its layers; nothing about how the next token is then chosen.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alignlab.transformer import Transformer


@torch.inference_mode()
def layer_logits(model: nn.Module, input_ids: Tensor, layers: Sequence[int], last: int) -> Tensor:
    """What the model would say if it stopped after each of these layers, (len(layers), B, last, V), float32.

    input_ids: (B, T), no padding. layers: how many layers are run, 0 (the embeddings) to all of them. last: how many
    positions at the end are read. An early state goes through the final norm and the output matrix, as the last does.
    """
    decoder = Transformer.view(model)
    if not layers or not 0 <= min(layers) <= max(layers) <= len(decoder.layers):
        raise ValueError(f"layers are {list(layers)}; give some from 0 to {len(decoder.layers)}")
    states: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, out, at=at: states.__setitem__(at, out[:, -last:]))
        for at, block in enumerate(decoder.layers, 1)
        if at in layers
    ]
    try:
        decoder.hidden(input_ids)
    finally:
        for hook in hooks:
            hook.remove()
    states[0] = decoder.embed_tokens(input_ids)[:, -last:]
    return torch.stack([decoder.lm_head(decoder.norm(states[at])).float() for at in layers])


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence of softmax(a) and softmax(b), logits (..., V): (...), nats, 0 to log 2."""
    log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
    log_mean = torch.logaddexp(log_a, log_b) - math.log(2)
    return ((log_a.exp() * (log_a - log_mean)).sum(-1) + (log_b.exp() * (log_b - log_mean)).sum(-1)) / 2


def dola(final: Tensor, early: Tensor, alpha: float = 0.1) -> tuple[Tensor, Tensor]:
    """log q_N(x) - log q_M(x) where q_N(x) >= alpha max q_N, elsewhere -inf, Chuang et al. (2023), eq. 3-6.

    final: the last layer's logits (..., V). early: those of the candidate layers, (J, ..., V); the one that is farthest
    from the last by Jensen-Shannon divergence is M. alpha: above 0, at most 1.
    Returns scores (..., V), to be used as logits, and which candidate was taken, (...).
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must be above 0 and at most 1")
    taken = jensen_shannon(final[None], early).argmax(0)
    premature = early.gather(0, taken[None, ..., None].expand(1, *final.shape))[0]
    log_final = final.log_softmax(-1)
    plausible = log_final >= math.log(alpha) + log_final.amax(-1, keepdim=True)
    return (log_final - premature.log_softmax(-1)).masked_fill(~plausible, -torch.inf), taken
