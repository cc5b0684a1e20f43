"""Exercises of the lab ch01_mixture_of_experts: weights, the mixture, balance, capacity, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

LOGITS = torch.tensor(
    [[2.0, 1.0, 0.0, -1.0], [0.3, 0.1, 0.8, 0.2], [-0.5, 1.5, 1.1, 0.4], [0.0, -2.0, 0.6, 3.0]], dtype=torch.float64
)
TOKENS = torch.tensor([[1.0, -0.5, 2.0], [0.3, 0.8, -1.0], [-1.2, 0.1, 0.4], [0.7, 0.7, 0.2]], dtype=torch.float64)
MATRICES = torch.tensor(
    [
        [[1.0, 0.2, 0.0], [0.0, -1.0, 0.5], [0.3, 0.0, 1.0]],
        [[0.5, 0.0, -0.4], [1.2, 0.3, 0.0], [0.0, 0.7, 0.1]],
        [[-0.3, 0.6, 0.2], [0.1, 0.1, 0.9], [0.8, -0.2, 0.0]],
        [[0.0, 1.0, 0.3], [-0.7, 0.0, 0.2], [0.4, 0.5, -0.6]],
    ],
    dtype=torch.float64,
)
CHOICES = torch.tensor([[0, 1], [2, 0], [1, 2], [3, 2]])
WEIGHTS = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.55, 0.45], [0.9, 0.1]], dtype=torch.float64)
QUEUE = torch.tensor([0, 2, 0, 0, 1, 2, 0, 2, 2, 1])


# ---- solutions
def top_weights(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Softmax over all experts, the k largest, divided by their sum."""
    kept, experts = logits.softmax(-1).topk(k, dim=-1)
    return experts, kept / kept.sum(-1, keepdim=True)


def mixture(tokens: Tensor, matrices: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    """For each token the weighted sum of what its chosen experts make of it."""
    output = torch.zeros_like(tokens)
    for t in range(len(tokens)):
        for expert, weight in zip(experts[t], weights[t], strict=True):
            output[t] += weight * (matrices[expert] @ tokens[t])
    return output


def balance_loss(logits: Tensor, experts: Tensor) -> Tensor:
    """E times the sum over experts of their share of tokens, times their mean probability."""
    num_experts = logits.shape[-1]
    share = torch.bincount(experts, minlength=num_experts) / len(experts)
    return num_experts * (share * logits.softmax(-1).mean(0)).sum()


def kept(experts: Tensor, limit: int) -> Tensor:
    """A token is kept where fewer than `limit` before it chose the same expert."""
    before = torch.tensor([int((experts[:t] == experts[t]).sum()) for t in range(len(experts))])
    return before < limit


def sizes(d: int, width: int, routed: int, active: int, shared: int) -> tuple[int, int]:
    """All experts and the router are stored; active and shared experts and the router are computed."""
    expert, router = 3 * d * width, d * routed
    return (routed + shared) * expert + router, (active + shared) * expert + router


# ---- wrong answers
def not_renormalized(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    probs, experts = logits.softmax(-1).topk(k, dim=-1)
    return experts, probs


def logits_shared(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best, experts = logits.topk(k, dim=-1)
    return experts, best / best.sum(-1, keepdim=True)


def evenly(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    experts = logits.topk(k, dim=-1).indices
    return experts, torch.full(experts.shape, 1 / k, dtype=logits.dtype)


def smallest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    probs, experts = logits.softmax(-1).topk(k, dim=-1, largest=False)
    return experts, probs / probs.sum(-1, keepdim=True)


def detached(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    experts, weights = top_weights(logits, k)
    return experts, weights.detach()


def unweighted(tokens: Tensor, matrices: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    return mixture(tokens, matrices, experts, torch.ones_like(weights))


def mean_of_experts(tokens: Tensor, matrices: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    return mixture(tokens, matrices, experts, torch.full_like(weights, 1 / weights.shape[-1]))


def first_only(tokens: Tensor, matrices: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    return mixture(tokens, matrices, experts[:, :1], weights[:, :1])


def by_rank(tokens: Tensor, matrices: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    return mixture(tokens, matrices, torch.arange(experts.shape[1]).expand_as(experts), weights)


def weights_first(tokens: Tensor, matrices: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    return mixture(tokens, matrices.transpose(1, 2), experts, weights)


def without_factor(logits: Tensor, experts: Tensor) -> Tensor:
    return balance_loss(logits, experts) / logits.shape[-1]


def squares_of_means(logits: Tensor, experts: Tensor) -> Tensor:
    return logits.shape[-1] * logits.softmax(-1).mean(0).square().sum()


def squares_of_shares(logits: Tensor, experts: Tensor) -> Tensor:
    share = torch.bincount(experts, minlength=logits.shape[-1]) / len(experts)
    return logits.shape[-1] * share.square().sum().to(logits)


def counts_for_shares(logits: Tensor, experts: Tensor) -> Tensor:
    return balance_loss(logits, experts) * len(experts)


def own_probability(logits: Tensor, experts: Tensor) -> Tensor:
    return logits.softmax(-1).gather(-1, experts[:, None]).mean()


def one_too_few(experts: Tensor, limit: int) -> Tensor:
    return kept(experts, limit - 1)


def one_too_many(experts: Tensor, limit: int) -> Tensor:
    return kept(experts, limit + 1)


def last_come(experts: Tensor, limit: int) -> Tensor:
    return kept(experts.flip(0), limit).flip(0)


def overfull_emptied(experts: Tensor, limit: int) -> Tensor:
    return torch.bincount(experts)[experts] <= limit


def all_active(d: int, width: int, routed: int, active: int, shared: int) -> tuple[int, int]:
    stored, _ = sizes(d, width, routed, active, shared)
    return stored, stored


def shared_forgotten(d: int, width: int, routed: int, active: int, shared: int) -> tuple[int, int]:
    return sizes(d, width, routed, active, 0)


def two_matrices(d: int, width: int, routed: int, active: int, shared: int) -> tuple[int, int]:
    expert, router = 2 * d * width, d * routed
    return (routed + shared) * expert + router, (active + shared) * expert + router


def router_forgotten(d: int, width: int, routed: int, active: int, shared: int) -> tuple[int, int]:
    stored, computed = sizes(d, width, routed, active, shared)
    return stored - d * routed, computed - d * routed


def router_of_active(d: int, width: int, routed: int, active: int, shared: int) -> tuple[int, int]:
    stored, computed = sizes(d, width, routed, active, shared)
    return stored, computed - d * (routed - active)


# ---- graders
def _grade_top_weights(answer: Callable[..., Any]) -> None:
    for k in (2, 3):
        logits = LOGITS.clone().requires_grad_()
        got = answer(logits, k)
        require(isinstance(got, tuple | list) and len(got) == 2, "return two tensors: the experts and their weights")
        same(
            got[0],
            top_weights(LOGITS, k)[0],
            "your experts",
            mistakes={"You chose the experts with the smallest scores.": smallest(LOGITS, k)[0]},
        )
        mistakes = {
            "Your weights do not sum to 1: divide the kept probabilities by their sum.": not_renormalized(LOGITS, k)[1],
            "You divided the logits by their sum; a logit may be negative. Take the softmax first.": (
                logits_shared(LOGITS, k)[1]
            ),
            "All your weights are alike: then the router decides who works, and not how much each counts.": (
                evenly(LOGITS, k)[1]
            ),
        }
        same(got[1], top_weights(LOGITS, k)[1], "your weights", mistakes=mistakes)
        require(
            isinstance(got[1], Tensor) and got[1].requires_grad,
            "The router's gradient is lost: the weights are the only way from the loss back to it: do not detach.",
        )


def _grade_mixture(answer: Callable[..., Any]) -> None:
    given = TOKENS, MATRICES, CHOICES, WEIGHTS
    mistakes = {
        "The weights are missing: an expert's output is multiplied by the router's weight for it.": unweighted(*given),
        "You took the plain mean of the chosen experts; each counts by its weight.": mean_of_experts(*given),
        "Only each token's first expert is there; add the others.": first_only(*given),
        "You used the place in the list as the expert's number: token t's j-th expert is experts[t, j].": by_rank(
            *given
        ),
        "Your matrix stands on the wrong side: expert e makes matrices[e] @ token.": weights_first(*given),
    }
    same(answer(*(x.clone() for x in given)), mixture(*given), "your output", mistakes=mistakes)


def _grade_balance_loss(answer: Callable[..., Any]) -> None:
    experts = torch.tensor([0, 2, 0, 3])  # not the argmax everywhere, so that shares and means differ
    mistakes = {
        "The factor E is missing: with it an even load costs 1, however many experts there are.": without_factor(
            LOGITS, experts
        ),
        "You squared the mean probabilities; one factor is the share of tokens that were sent.": squares_of_means(
            LOGITS, experts
        ),
        "You squared the shares. They are counts, without a gradient: one factor must be the mean probability.": (
            squares_of_shares(LOGITS, experts)
        ),
        "You used counts of tokens in place of shares: the loss would grow with the batch.": counts_for_shares(
            LOGITS, experts
        ),
        "That is the mean probability of the chosen expert: it asks how sure the router is, not how even.": (
            own_probability(LOGITS, experts)
        ),
    }
    same(answer(LOGITS.clone(), experts), balance_loss(LOGITS, experts), "your loss", mistakes=mistakes)


def _grade_kept(answer: Callable[..., Any]) -> None:
    for limit in (2, 3):
        mistakes = {
            "You drop one token too early: `limit` tokens find room.": one_too_few(QUEUE, limit),
            "You let one token too many in: token number limit + 1 finds no room.": one_too_many(QUEUE, limit),
            "You kept those who came last. A causal model must not let later tokens decide over earlier ones.": (
                last_come(QUEUE, limit)
            ),
            "You dropped everyone who chose an expert that is too full; the first ones still find room.": (
                overfull_emptied(QUEUE, limit)
            ),
        }
        same(answer(QUEUE.clone(), limit), kept(QUEUE, limit), "your mask", mistakes=mistakes)


def _grade_sizes(answer: Callable[..., Any]) -> None:
    for given in ((64, 32, 16, 2, 1), (4096, 14_336, 8, 2, 0), (7168, 2048, 256, 8, 1)):
        mistakes = {
            "You count all experts as active; a token passes only the chosen and the shared ones.": all_active(*given),
            "The shared experts are missing: they are stored, and every token uses them.": shared_forgotten(*given),
            "An expert with a gate (SwiGLU) has three matrices.": two_matrices(*given),
            "The router is missing: a d x E matrix, stored and always used.": router_forgotten(*given),
            "The router scores all E experts before it can choose: it is active as a whole.": router_of_active(*given),
        }
        same(answer(*given), sizes(*given), "your pair (stored, active)", 1e-9, mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="mixture_of_experts.top_weights",
        task="From router logits (n, E) give the k best experts (n, k), best first, and their weights, which sum to 1.",
        difficulty=1,
        minutes=4,
        grade=_grade_top_weights,
        solution=top_weights,
        wrong=[
            Wrong(not_renormalized, "do not sum to 1"),
            Wrong(logits_shared, "divided the logits"),
            Wrong(evenly, "All your weights are alike"),
            Wrong(smallest, "smallest scores"),
            Wrong(detached, "gradient is lost"),
        ],
        hint="softmax, topk, then divide by the sum of what was kept.",
    ),
    Exercise(
        name="mixture_of_experts.mixture",
        task="Each expert e is a matrix. Give each token's weighted sum of its experts' outputs, in a plain loop.",
        difficulty=1,
        minutes=5,
        grade=_grade_mixture,
        solution=mixture,
        wrong=[
            Wrong(unweighted, "weights are missing"),
            Wrong(mean_of_experts, "plain mean"),
            Wrong(first_only, "first expert is there"),
            Wrong(by_rank, "place in the list"),
            Wrong(weights_first, "wrong side"),
        ],
        hint="output[t] = sum over j of weights[t, j] * (matrices[experts[t, j]] @ tokens[t]).",
    ),
    Exercise(
        name="mixture_of_experts.balance_loss",
        task="Give the load-balance loss of router logits (n, E) and the chosen experts (n,): E times sum of f_i P_i.",
        difficulty=2,
        minutes=6,
        grade=_grade_balance_loss,
        solution=balance_loss,
        wrong=[
            Wrong(without_factor, "factor E is missing"),
            Wrong(squares_of_means, "squared the mean probabilities"),
            Wrong(squares_of_shares, "squared the shares"),
            Wrong(counts_for_shares, "counts of tokens in place of shares"),
            Wrong(own_probability, "how sure the router is"),
        ],
        hint="f_i = share of tokens sent to i (torch.bincount), P_i = mean of column i of the softmax.",
    ),
    Exercise(
        name="mixture_of_experts.kept",
        task="Tokens choose one expert each, (n,). An expert takes the first `limit` of them: who is kept?",
        difficulty=2,
        minutes=6,
        grade=_grade_kept,
        solution=kept,
        wrong=[
            Wrong(one_too_few, "one token too early"),
            Wrong(one_too_many, "one token too many"),
            Wrong(last_come, "those who came last"),
            Wrong(overfull_emptied, "dropped everyone"),
        ],
        hint="Token t is kept if fewer than `limit` of the tokens before it chose the same expert.",
    ),
    Exercise(
        name="mixture_of_experts.sizes",
        task="From width d, width of an expert, routed, active and shared experts give (stored, active) parameters of "
        "the layer: SwiGLU experts and a router without bias.",
        difficulty=2,
        minutes=5,
        grade=_grade_sizes,
        solution=sizes,
        wrong=[
            Wrong(all_active, "all experts as active"),
            Wrong(shared_forgotten, "shared experts are missing"),
            Wrong(two_matrices, "three matrices"),
            Wrong(router_forgotten, "router is missing"),
            Wrong(router_of_active, "active as a whole"),
        ],
        hint="One expert has 3 d f parameters, the router d E.",
    ),
]
