"""Log-probabilities of tokens and sequences, entropy, and estimators of the KL divergence. All in nats.

Knows tensors and a decoder's hidden states; nothing about losses.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alignlab.transformer import Transformer


def token_logprobs(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Tensor:
    """log p(token t+1 | tokens up to t) where token t+1 belongs to the response, 0 elsewhere: (B, T-1).

    input_ids, attention_mask, response_mask: (B, T), see text.pad. The output layer runs on response positions alone:
    logits of (response tokens, V) instead of (B, T, V).
    """
    decoder = Transformer.view(model)
    targets, wanted = input_ids[:, 1:], response_mask[:, 1:].bool()
    states = decoder.hidden(input_ids, attention_mask)[:, :-1][wanted]  # (response tokens, hidden)
    values = selected_logprobs(output_logits(decoder, states), targets[wanted])
    return values.new_zeros(targets.shape).masked_scatter(wanted, values)


def sequence_logprobs(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Tensor:
    """log p(response | prompt), the sum over the response's tokens: (B,). Arguments as in token_logprobs.

    ValueError where a row has no response token: its log-probability would be 0, and a loss would learn from nothing.
    """
    empty = (response_mask[:, 1:].sum(-1) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"rows {empty} have no response token; drop them, or lengthen what was cut")
    return token_logprobs(model, input_ids, attention_mask, response_mask).sum(-1)


def pair_logprobs(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """As sequence_logprobs for B chosen rows and then their B rejected, each pair's common prompt computed once.

    A pair is one row, a tree: the prompt, then both responses, of which neither sees the other. Prefix sharing, Wang
    and Hegde (2024). input_ids, attention_mask, response_mask: (2B, T). Returns the log-probabilities (nats) of the
    chosen and of the rejected responses, each (B,). ValueError where a pair's rows do not begin with the same prompt.
    """
    pairs, odd = divmod(len(input_ids), 2)
    if odd or not pairs:
        raise ValueError(f"{len(input_ids)} rows are no pairs; give B chosen rows, then their B rejected rows")
    tokens = [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
    responses = [row[mask.bool()].tolist() for row, mask in zip(response_mask, attention_mask, strict=True)]
    prompts = [row.index(1) if 1 in row else 0 for row in responses]
    bad = [i for i in range(pairs) if not 0 < prompts[i] == prompts[i + pairs]]
    bad += [i for i in range(pairs) if i not in bad and tokens[i][: prompts[i]] != tokens[i + pairs][: prompts[i]]]
    if bad:
        raise ValueError(f"pairs {bad} do not begin with the same prompt, or one has no response token after it")
    width = max(len(tokens[i]) + len(tokens[i + pairs]) - prompts[i] for i in range(pairs))
    ids = input_ids.new_zeros(pairs, width)
    tree = torch.eye(width, dtype=torch.bool).repeat(pairs, 1, 1)
    picked: list[tuple[int, int, int, int]] = []  # row of the tree, position that predicts, position predicted, output
    for i in range(pairs):
        prompt, fork, end = prompts[i], len(tokens[i]), len(tokens[i]) + len(tokens[i + pairs]) - prompts[i]
        ids[i, :end] = input_ids.new_tensor(tokens[i] + tokens[i + pairs][prompt:])
        tree[i, :end, :end] = torch.ones(end, end).tril().bool()
        tree[i, fork:end, prompt:fork] = False
        for position in range(prompt, end):
            output, offset = (i, 0) if position < fork else (i + pairs, prompt - fork)
            if responses[output][position + offset]:
                picked.append((i, prompt - 1 if position == fork else position - 1, position, output))
    rows, before, at, outputs = torch.tensor(picked, device=input_ids.device).T
    decoder = Transformer.view(model)
    with _attention_of(width, ids.device):
        states = decoder.hidden(ids, tree=tree.to(ids.device))[rows, before]
    values = selected_logprobs(output_logits(decoder, states), ids[rows, at])
    chosen, rejected = values.new_zeros(2 * pairs).index_add(0, outputs, values).chunk(2)
    return chosen, rejected


def _attention_of(width: int, device: torch.device) -> AbstractContextManager[None]:
    """The kernel of attention that is quickest for training on rows of this width.

    Of short rows on a processor and in bfloat16, torch's attention in blocks goes backward at half the speed of the
    plain one; from 256 positions on it is the quicker one.
    """
    short = width <= 128 and device.type == "cpu" and torch.is_autocast_enabled("cpu")
    plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH) if short else nullcontext()
    return plain


def output_logits(decoder: Transformer, states: Tensor) -> Tensor:
    """Logits (..., V) of hidden states (..., hidden) in float32, computed in the output layer's own precision."""
    with torch.autocast(states.device.type, enabled=False):  # bfloat16 rounds a logit of 20 by up to 0.06 nats
        return decoder.lm_head(states.to(decoder.lm_head.weight.dtype)).float()


def selected_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target] in float32. logits: (..., V); targets: (...) -> (...)."""
    logits = logits.float()
    return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)


def entropy(logits: Tensor) -> Tensor:
    """-sum p log p over the last axis: (..., V) -> (...), between 0 and log V. Logits of -inf count as p = 0."""
    logprobs = logits.float().log_softmax(-1)
    return -(logprobs.exp() * logprobs.masked_fill(logprobs.isneginf(), 0.0)).sum(-1)


def kl_divergence(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(p || q) = sum p (log p - log q) over the vocabulary, exactly: (..., V), (..., V) -> (...)."""
    p, q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    return (p.exp() * (p - q).masked_fill(p.isneginf(), 0.0)).sum(-1)


def kl_k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Estimate of KL(policy || reference) from samples of the policy, Schulman (2020): log p - log q.

    Unbiased; single values may be negative. logp, ref_logp: log-probabilities of the same samples, any shape.
    """
    return logp - ref_logp


def kl_k2(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Schulman (2020): (log p - log q)^2 / 2. Biased, low variance, never negative.

    Its gradient, averaged over samples of the policy, is the KL's; those of k1 and k3 are not (Tang and Munos, 2025).
    """
    return (logp - ref_logp).square() / 2


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Schulman (2020): (r - 1) - log r with r = q / p. Unbiased and never negative.

    The ratio is reference over policy, since the samples come from the policy: E_p[q/p - 1] = 0.
    """
    log_ratio = ref_logp - logp
    return log_ratio.exp() - 1 - log_ratio
