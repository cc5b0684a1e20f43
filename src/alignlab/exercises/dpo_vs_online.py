"""Exercises of the lab ch03_dpo_vs_online: baseline, RLOO's loss, a push-down, tokens, the frontier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

REWARDS = torch.tensor([[2.0, 0.5, 1.0, -1.0], [0.0, 0.0, 3.0, 0.0], [1.5, 1.0, 1.5, 2.5]], dtype=torch.float64)
"""Rewards of four responses to each of three prompts, (3, 4)."""

LOGPS = torch.tensor(
    [[-6.0, -7.5, -5.0, -9.0], [-8.0, -6.5, -7.0, -5.5], [-4.0, -6.0, -5.5, -7.0]], dtype=torch.float64
)
REF_LOGPS = LOGPS - torch.tensor([[0.5, -1.0, 2.0, 0.0], [1.0, -0.5, 0.5, 0.25], [-2.0, 1.0, 0.75, 0.0]]).double()
LOGITS = torch.tensor([1.4, 0.2, -0.6, -2.8], dtype=torch.float64)
REF_PROBS = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
FRONTIER_REWARDS = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=torch.float64)


# ---- solutions
def leave_one_out(rewards: Tensor) -> Tensor:
    """Each response's reward minus the mean reward of the others to the same prompt."""
    group = rewards.shape[1]
    others = (rewards.sum(1, keepdim=True) - rewards) / (group - 1)
    return rewards - others


def rloo_loss(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """A loss whose gradient is minus the policy gradient: the advantage is a constant."""
    penalized = rewards - beta * (logps - ref_logps)
    others = (penalized.sum(1, keepdim=True) - penalized) / (penalized.shape[1] - 1)
    return -((penalized - others).detach() * logps).mean()


def push_down(logits: Tensor, token: int, step: float) -> Tensor:
    """One gradient step that lowers log p(token), taken on the logits: (V,) -> the new probabilities (V,)."""
    direction = -logits.softmax(-1)
    direction[token] += 1.0  # the gradient of log p(token) is e_token - p
    return (logits - step * direction).softmax(-1)


def tokens(pairs: int, epochs: int, prompt: int, response: int) -> tuple[int, int, int]:
    """Tokens that offline DPO generates, scores with the reference (once), and trains on."""
    row = prompt + response
    return 2 * pairs * response, 2 * pairs * row, 2 * pairs * row * epochs


def frontier(ref_probs: Tensor, rewards: Tensor, beta: float) -> tuple[float, float]:
    """KL(pi* || pi_ref) in nats and expected reward of the KL-regularized optimum."""
    best = ref_probs * (rewards / beta).exp()
    best = best / best.sum()
    return (best * (best / ref_probs).log()).sum().item(), (best * rewards).sum().item()


# ---- wrong answers
def with_itself(rewards: Tensor) -> Tensor:
    return rewards - rewards.mean(1, keepdim=True)


def batch_baseline(rewards: Tensor) -> Tensor:
    return rewards - rewards.mean()


def no_baseline(rewards: Tensor) -> Tensor:
    return rewards.clone()


def divided_by_all(rewards: Tensor) -> Tensor:
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / rewards.shape[1]


def scaled(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)


def across_prompts(rewards: Tensor) -> Tensor:
    return leave_one_out(rewards.T).T


def advantage_with_gradient(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return -(leave_one_out(rewards - beta * (logps - ref_logps)) * logps).mean()


def ascent_lost(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return -rloo_loss(logps, ref_logps, rewards, beta)


def penalty_flipped(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return rloo_loss(logps, ref_logps, rewards, -beta)


def penalty_in_the_loss(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return -(leave_one_out(rewards) * logps).mean() + beta * (logps - ref_logps).mean()


def no_penalty(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return rloo_loss(logps, ref_logps, rewards, 0.0)


def summed(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return rloo_loss(logps, ref_logps, rewards, beta) * rewards.numel()


def pushed_up(logits: Tensor, token: int, step: float) -> Tensor:
    return push_down(logits, token, -step)


def logit_alone(logits: Tensor, token: int, step: float) -> Tensor:
    lowered = logits.clone()
    lowered[token] -= step
    return lowered.softmax(-1)


def shared_out(logits: Tensor, token: int, step: float) -> Tensor:
    after, before = push_down(logits, token, step), logits.softmax(-1)
    kept = before * (1 - after[token]) / (1 - before[token])
    kept[token] = after[token]
    return kept


def new_logits(logits: Tensor, token: int, step: float) -> Tensor:
    direction = -logits.softmax(-1)
    direction[token] += 1.0
    return logits - step * direction


def one_response(pairs: int, epochs: int, prompt: int, response: int) -> tuple[int, int, int]:
    generated, scored, trained = tokens(pairs, epochs, prompt, response)
    return generated // 2, scored // 2, trained // 2


def prompts_generated(pairs: int, epochs: int, prompt: int, response: int) -> tuple[int, int, int]:
    _, scored, trained = tokens(pairs, epochs, prompt, response)
    return scored, scored, trained


def prompts_free(pairs: int, epochs: int, prompt: int, response: int) -> tuple[int, int, int]:
    return tokens(pairs, epochs, 0, response)


def scored_every_epoch(pairs: int, epochs: int, prompt: int, response: int) -> tuple[int, int, int]:
    generated, scored, trained = tokens(pairs, epochs, prompt, response)
    return generated, scored * epochs, trained


def generated_every_epoch(pairs: int, epochs: int, prompt: int, response: int) -> tuple[int, int, int]:
    generated, scored, trained = tokens(pairs, epochs, prompt, response)
    return generated * epochs, scored, trained


def temperature_flipped(ref_probs: Tensor, rewards: Tensor, beta: float) -> tuple[float, float]:
    return frontier(ref_probs, rewards, 1 / beta)


def reference_forgotten(ref_probs: Tensor, rewards: Tensor, beta: float) -> tuple[float, float]:
    best = (rewards / beta).softmax(-1)
    return (best * (best / ref_probs).log()).sum().item(), (best * rewards).sum().item()


def reverse_kl(ref_probs: Tensor, rewards: Tensor, beta: float) -> tuple[float, float]:
    best = ref_probs * (rewards / beta).exp()
    best = best / best.sum()
    return (ref_probs * (ref_probs / best).log()).sum().item(), (best * rewards).sum().item()


def not_normalized(ref_probs: Tensor, rewards: Tensor, beta: float) -> tuple[float, float]:
    best = ref_probs * (rewards / beta).exp()
    return (best * (best / ref_probs).log()).sum().item(), (best * rewards).sum().item()


def swapped(ref_probs: Tensor, rewards: Tensor, beta: float) -> tuple[float, float]:
    return frontier(ref_probs, rewards, beta)[::-1]


# ---- graders
def _grade_leave_one_out(answer: Callable[..., Any]) -> None:
    mistakes = {
        "The mean includes the response itself: every advantage shrinks by (G - 1) / G. Leave it out.": with_itself(
            REWARDS
        ),
        "Your baseline is the mean of the whole batch; prompts differ in difficulty, so stay within a row.": (
            batch_baseline(REWARDS)
        ),
        "There is no baseline: these are the bare rewards.": no_baseline(REWARDS),
        "The sum of the others is right, but they are G - 1, not G.": divided_by_all(REWARDS),
        "You divided by the standard deviation: that is GRPO's advantage; RLOO leaves the scale alone.": scaled(
            REWARDS
        ),
        "Rows and columns are swapped: a group is one row, the responses to one prompt.": across_prompts(REWARDS),
    }
    same(answer(REWARDS.clone()), leave_one_out(REWARDS), "your advantage", mistakes=mistakes)


def _gradient(loss: Callable[..., Any], beta: float) -> Any:
    logps = LOGPS.clone().requires_grad_()
    value = loss(logps, REF_LOGPS.clone(), REWARDS.clone(), beta)
    require(isinstance(value, Tensor) and value.dim() == 0, "return one number, a tensor without axes: the loss")
    require(
        value.requires_grad, "Your loss has no gradient: only the advantage is a constant, not the log-probability."
    )
    return torch.autograd.grad(value, logps)[0]


def _grade_rloo_loss(answer: Callable[..., Any]) -> None:
    for beta in (0.5, 0.2):
        mistakes = {
            "A gradient flows through your advantage: it is a constant, so detach it.": _gradient(
                advantage_with_gradient, beta
            ),
            "The sign of the loss is flipped: descending it makes rewarded responses rarer.": _gradient(
                ascent_lost, beta
            ),
            "The sign of the penalty is flipped: yours pays for leaving the reference.": _gradient(
                penalty_flipped, beta
            ),
            "The penalty stands in the loss, where its expected gradient is zero; it belongs into the reward.": (
                _gradient(penalty_in_the_loss, beta)
            ),
            "The KL penalty is missing: nothing holds the policy near the reference.": _gradient(no_penalty, beta),
            "You summed over the responses; take the mean.": _gradient(summed, beta),
        }
        same(_gradient(answer, beta), _gradient(rloo_loss, beta), "the gradient of your loss", mistakes=mistakes)


def _grade_push_down(answer: Callable[..., Any]) -> None:
    for token, step in ((3, 1.0), (0, 0.5)):
        mistakes = {
            "The token went up: you added the gradient of log p(token); to push down, subtract it.": pushed_up(
                LOGITS, token, step
            ),
            "You lowered one logit alone. The gradient of log p(token) is e_token - p: it moves every logit.": (
                logit_alone(LOGITS, token, step)
            ),
            "You shared the lost probability out in proportion; the step on the logits favours the likely ones.": (
                shared_out(LOGITS, token, step)
            ),
            "These are the new logits; a softmax makes them probabilities.": new_logits(LOGITS, token, step),
        }
        same(answer(LOGITS.clone(), token, step), push_down(LOGITS, token, step), "your probability", mistakes=mistakes)


def _grade_tokens(answer: Callable[..., Any]) -> None:
    for given in ((100, 3, 5, 8), (64, 2, 40, 10)):
        mistakes = {
            "A pair has two responses; you counted one.": one_response(*given),
            "Prompts are given, not generated: count the response tokens alone in the first number.": prompts_generated(
                *given
            ),
            "The model reads the prompt too: a row that is scored or trained on holds both.": prompts_free(*given),
            "The reference never changes: score each row once, before the first epoch.": scored_every_epoch(*given),
            "Offline pairs are sampled once, however many epochs follow.": generated_every_epoch(*given),
        }
        same(answer(*given), tokens(*given), "your count", mistakes=mistakes)


def _grade_frontier(answer: Callable[..., Any]) -> None:
    for beta in (0.5, 2.0):
        given = REF_PROBS, FRONTIER_REWARDS, beta
        mistakes = {
            "The reward is multiplied by beta; divide: a high price of KL keeps you near the reference.": (
                temperature_flipped(*given)
            ),
            "The reference is missing from the optimum: it is pi_ref times exp(r / beta).": reference_forgotten(*given),
            "That is KL(pi_ref || pi*); the expectation belongs under the optimum.": reverse_kl(*given),
            "Your optimum does not sum to one: divide by Z.": not_normalized(*given),
            "The order is KL first, then reward.": swapped(*given),
        }
        same(
            answer(REF_PROBS.clone(), FRONTIER_REWARDS.clone(), beta), frontier(*given), "your pair", mistakes=mistakes
        )


EXERCISES = [
    Exercise(
        name="dpo_vs_online.leave_one_out",
        task="Turn the rewards of G responses to each of P prompts, (P, G), into leave-one-out advantages, (P, G).",
        difficulty=1,
        minutes=5,
        grade=_grade_leave_one_out,
        solution=leave_one_out,
        wrong=[
            Wrong(with_itself, "includes the response itself"),
            Wrong(batch_baseline, "mean of the whole batch"),
            Wrong(no_baseline, "bare rewards"),
            Wrong(divided_by_all, "G - 1, not G"),
            Wrong(scaled, "GRPO's advantage"),
            Wrong(across_prompts, "Rows and columns are swapped"),
        ],
        hint="The mean of the others is (sum of the row - the response's own reward) / (G - 1).",
    ),
    Exercise(
        name="dpo_vs_online.rloo_loss",
        task="From log-probabilities, reference log-probabilities and rewards, each (P, G), and beta, return a loss "
        "whose gradient is minus the policy gradient of the KL-regularized objective.",
        difficulty=3,
        minutes=10,
        grade=_grade_rloo_loss,
        solution=rloo_loss,
        wrong=[
            Wrong(advantage_with_gradient, "flows through your advantage"),
            Wrong(ascent_lost, "rewarded responses rarer"),
            Wrong(penalty_flipped, "pays for leaving"),
            Wrong(penalty_in_the_loss, "expected gradient is zero"),
            Wrong(no_penalty, "KL penalty is missing"),
            Wrong(summed, "take the mean"),
        ],
        hint="Penalize the reward first, subtract the leave-one-out baseline, detach, weigh the log-probabilities.",
    ),
    Exercise(
        name="dpo_vs_online.push_down",
        task="Take one gradient step of a given size on the logits (V,) that lowers log p(token); return the new "
        "probabilities (V,).",
        difficulty=2,
        minutes=6,
        grade=_grade_push_down,
        solution=push_down,
        wrong=[
            Wrong(pushed_up, "The token went up"),
            Wrong(logit_alone, "lowered one logit alone"),
            Wrong(shared_out, "in proportion"),
            Wrong(new_logits, "These are the new logits"),
        ],
        hint="The gradient of log softmax(z)[token] by z is e_token - softmax(z).",
    ),
    Exercise(
        name="dpo_vs_online.tokens",
        task="Offline DPO: from pairs, epochs, prompt tokens and response tokens, return how many tokens are "
        "generated, scored by the reference (once, kept) and trained on.",
        difficulty=1,
        minutes=5,
        grade=_grade_tokens,
        solution=tokens,
        wrong=[
            Wrong(one_response, "you counted one"),
            Wrong(prompts_generated, "Prompts are given"),
            Wrong(prompts_free, "reads the prompt too"),
            Wrong(scored_every_epoch, "reference never changes"),
            Wrong(generated_every_epoch, "sampled once"),
        ],
        hint="Two responses a pair; a row is prompt and response; only training repeats with the epochs.",
    ),
    Exercise(
        name="dpo_vs_online.frontier",
        task="From the reference's probabilities (K,), rewards (K,) and beta, return KL (nats) and expected reward of "
        "the KL-regularized optimum.",
        difficulty=2,
        minutes=6,
        grade=_grade_frontier,
        solution=frontier,
        wrong=[
            Wrong(temperature_flipped, "multiplied by beta"),
            Wrong(reference_forgotten, "reference is missing"),
            Wrong(reverse_kl, "KL(pi_ref || pi*)"),
            Wrong(not_normalized, "sum to one"),
            Wrong(swapped, "KL first"),
        ],
        hint="pi* = pi_ref exp(r / beta) / Z. Both numbers are sums over the K responses.",
    ),
]
