"""Exercises of the lab ch03_dpo_derivation: the optimum, its beta, the reward in a policy, all pairs, rankings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, same

REFERENCE = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
"""Probabilities of four responses under the reference."""

REWARD = torch.tensor([0.2, -1.0, 1.5, 0.7], dtype=torch.float64)
POLICY = torch.tensor([0.3, 0.1, 0.45, 0.15], dtype=torch.float64)
GAINS = torch.tensor([0.4, 1.1, -0.8, 0.1], dtype=torch.float64)
PREFS = torch.tensor(
    [[0.5, 0.7, 0.2, 0.45], [0.3, 0.5, 0.35, 0.1], [0.8, 0.65, 0.5, 0.9], [0.55, 0.9, 0.1, 0.5]], dtype=torch.float64
)


# ---- solutions
def optimal_policy(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """The reference, tilted by e^(r / beta), divided by its sum Z."""
    tilted = reference * (reward / beta).exp()
    return tilted / tilted.sum()


def beta_for(p: float, target: float) -> float:
    """A reward of 1 multiplies the odds by e^(1 / beta); solve for beta."""
    odds = (target / (1 - target)) / (p / (1 - p))
    return 1 / math.log(odds)


def recover_reward(policy: Tensor, reference: Tensor, beta: float, anchor: float) -> Tensor:
    """The implicit reward, shifted so that response 0 has the reward that is known."""
    implicit = beta * (policy - reference)
    return implicit - implicit[0] + anchor


def expected_loss(policy: Tensor, reference: Tensor, prefs: Tensor, beta: float) -> Tensor:
    """Each pair i < j with both labels: i chosen as often as prefs[i, j], j as often as prefs[j, i]."""
    gain = beta * (policy - reference)
    losses = prefs * -F.logsigmoid(gain[:, None] - gain[None, :])
    pairs = len(policy) * (len(policy) - 1) / 2
    return (losses.sum() - losses.diagonal().sum()) / pairs


def ranking_loss(gains: Tensor, beta: float) -> Tensor:
    """Minus the log-probability of the ranking: each place is a softmax over those that are left."""
    rewards = beta * gains
    return sum((rewards[k:].logsumexp(0) - rewards[k] for k in range(len(gains) - 1)), torch.zeros_like(rewards[0]))


# ---- wrong answers
def not_normalized(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    return reference * (reward / beta).exp()


def beta_multiplied(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    return optimal_policy(reference, reward, 1 / beta)


def without_reference(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    return (reward / beta).softmax(-1)


def reference_as_logit(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    return (reference + reward / beta).softmax(-1)


def greedy(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    return F.one_hot(reward.argmax(), len(reward)).double()


def beta_inverted(p: float, target: float) -> float:
    return 1 / beta_for(p, target)


def beta_of_probabilities(p: float, target: float) -> float:
    return 1 / math.log(target / p)


def beta_of_target_alone(p: float, target: float) -> float:
    return 1 / abs(math.log(target / (1 - target)) or math.inf)


def beta_without_log(p: float, target: float) -> float:
    return (p / (1 - p)) / (target / (1 - target))


def no_anchor(policy: Tensor, reference: Tensor, beta: float, anchor: float) -> Tensor:
    return beta * (policy - reference)


def anchor_added(policy: Tensor, reference: Tensor, beta: float, anchor: float) -> Tensor:
    return beta * (policy - reference) + anchor


def recovered_without_beta(policy: Tensor, reference: Tensor, beta: float, anchor: float) -> Tensor:
    return recover_reward(policy, reference, 1.0, anchor)


def recovered_from_policy(policy: Tensor, reference: Tensor, beta: float, anchor: float) -> Tensor:
    return recover_reward(policy, torch.zeros_like(reference), beta, anchor)


def recovered_reversed(policy: Tensor, reference: Tensor, beta: float, anchor: float) -> Tensor:
    return recover_reward(reference, policy, beta, anchor)


def with_diagonal(policy: Tensor, reference: Tensor, prefs: Tensor, beta: float) -> Tensor:
    gain = beta * (policy - reference)
    return (prefs * -F.logsigmoid(gain[:, None] - gain[None, :])).sum() / (len(policy) * (len(policy) - 1) / 2)


def mean_of_ordered(policy: Tensor, reference: Tensor, prefs: Tensor, beta: float) -> Tensor:
    return expected_loss(policy, reference, prefs, beta) / 2


def one_label(policy: Tensor, reference: Tensor, prefs: Tensor, beta: float) -> Tensor:
    return expected_loss(policy, reference, prefs.triu(1), beta)


def swapped_prefs(policy: Tensor, reference: Tensor, prefs: Tensor, beta: float) -> Tensor:
    return expected_loss(policy, reference, prefs.T, beta)


def majority(policy: Tensor, reference: Tensor, prefs: Tensor, beta: float) -> Tensor:
    return expected_loss(policy, reference, (prefs > 0.5).to(prefs), beta)


def without_preferences(policy: Tensor, reference: Tensor, prefs: Tensor, beta: float) -> Tensor:
    return expected_loss(policy, reference, torch.full_like(prefs, 0.5), beta)


def first_place_only(gains: Tensor, beta: float) -> Tensor:
    rewards = beta * gains
    return rewards.logsumexp(0) - rewards[0]


def everyone_stays(gains: Tensor, beta: float) -> Tensor:
    rewards = beta * gains
    return (rewards.logsumexp(0) - rewards)[:-1].sum()


def all_pairs(gains: Tensor, beta: float) -> Tensor:
    rewards = beta * gains
    chosen, rejected = torch.triu_indices(len(gains), len(gains), 1)
    return -F.logsigmoid(rewards[chosen] - rewards[rejected]).sum()


def worst_first(gains: Tensor, beta: float) -> Tensor:
    return ranking_loss(gains.flip(0), beta)


def ranked_without_beta(gains: Tensor, beta: float) -> Tensor:
    return ranking_loss(gains, 1.0)


def log_likelihood(gains: Tensor, beta: float) -> Tensor:
    return -ranking_loss(gains, beta)


# ---- graders
def _grade_optimal_policy(answer: Callable[..., Any]) -> None:
    for beta in (0.5, 2.0):
        given = REFERENCE, REWARD, beta
        mistakes = {
            "These do not sum to 1: divide by their sum, the partition function Z.": not_normalized(*given),
            "You multiplied the reward by beta; it is divided, so that a high price of KL means little change.": (
                beta_multiplied(*given)
            ),
            "The reference is missing: this is the optimum for a uniform reference.": without_reference(*given),
            "The reference's probabilities stand in the exponent; they multiply e^(r / beta).": reference_as_logit(
                *given
            ),
            "All probability is on the best response: that is the optimum without the KL term.": greedy(*given),
        }
        got = answer(REFERENCE.clone(), REWARD.clone(), beta)
        same(got, optimal_policy(*given), f"your optimum at beta {beta}", mistakes=mistakes)


def _grade_beta_for(answer: Callable[..., Any]) -> None:
    for p, target in ((0.0217, 0.6), (0.3, 0.9)):
        mistakes = {
            "This is 1 / beta: the factor of the odds is e^(1 / beta), not e^beta.": beta_inverted(p, target),
            "You compared probabilities. The tilt multiplies the odds p / (1 - p).": beta_of_probabilities(p, target),
            "The reference's p is missing: what counts is by how much the odds must grow.": beta_of_target_alone(
                p, target
            ),
            "The logarithm is missing: beta stands in the exponent.": beta_without_log(p, target),
        }
        same(answer(p, target), beta_for(p, target), f"your beta for p = {p}, target {target}", mistakes=mistakes)


def _grade_recover_reward(answer: Callable[..., Any]) -> None:
    for beta, anchor in ((0.5, 2.0), (0.1, -0.3)):
        given = POLICY.log(), REFERENCE.log(), beta, anchor
        mistakes = {
            "The constant is missing: the implicit reward is the reward less beta log Z.": no_anchor(*given),
            "You added the anchor to all; first make the implicit reward of response 0 zero.": anchor_added(*given),
            "Beta is missing: a log-ratio is in nats, a reward is beta times that.": recovered_without_beta(*given),
            "The reference is missing: a response may be likely because it always was.": recovered_from_policy(*given),
            "Policy and reference are swapped: yours pays what became less likely.": recovered_reversed(*given),
        }
        got = answer(POLICY.log(), REFERENCE.log(), beta, anchor)
        same(got, recover_reward(*given), f"your reward at beta {beta}, anchor {anchor}", mistakes=mistakes)


def _grade_expected_loss(answer: Callable[..., Any]) -> None:
    for beta in (0.5, 2.0):
        given = POLICY.log(), REFERENCE.log(), PREFS, beta
        mistakes = {
            "The diagonal is in your sum: a response is not compared with itself.": with_diagonal(*given),
            "You divided by N (N - 1); that counts each pair twice, so your loss is half of it.": mean_of_ordered(
                *given
            ),
            "Only one of each pair's two labels is counted: j may win too, with prefs[j, i].": one_label(*given),
            "prefs is read the wrong way round: prefs[i, j] is how often i is the chosen one.": swapped_prefs(*given),
            "You gave each pair the label of the majority; the loss weighs both labels by how often they occur.": (
                majority(*given)
            ),
            "prefs is missing: your loss holds both labels to be equally likely.": without_preferences(*given),
        }
        got = answer(POLICY.log(), REFERENCE.log(), PREFS.clone(), beta)
        same(got, expected_loss(*given), f"your loss at beta {beta}", mistakes=mistakes)


def _grade_ranking_loss(answer: Callable[..., Any]) -> None:
    for gains, beta in ((GAINS, 0.5), (GAINS[:3], 2.0)):
        mistakes = {
            "That is the first place alone; the second is a choice among those left, and so on.": first_place_only(
                gains, beta
            ),
            "Who has a place must leave the sum: the k-th place is chosen among responses k to K.": everyone_stays(
                gains, beta
            ),
            "These are K (K - 1) / 2 separate comparisons; Plackett-Luce makes K - 1 choices.": all_pairs(gains, beta),
            "Your ranking runs from worst to best; gains stand best first.": worst_first(gains, beta),
            "Beta is missing: the rewards are beta times the gains.": ranked_without_beta(gains, beta),
            "The sign is flipped: this is the log-likelihood, the loss is its negative.": log_likelihood(gains, beta),
        }
        same(
            answer(gains.clone(), beta),
            ranking_loss(gains, beta),
            f"your loss of {len(gains)} at beta {beta}",
            mistakes=mistakes,
        )
    pair = GAINS[:2]
    same(answer(pair.clone(), 0.5), -F.logsigmoid(0.5 * (pair[0] - pair[1])), "your loss of two responses")


EXERCISES = [
    Exercise(
        name="dpo_derivation.optimal_policy",
        task="Turn reference probabilities (N,), rewards (N,) and beta into the optimum of reward minus beta KL, (N,).",
        difficulty=1,
        minutes=5,
        grade=_grade_optimal_policy,
        solution=optimal_policy,
        wrong=[
            Wrong(not_normalized, "do not sum to 1"),
            Wrong(beta_multiplied, "multiplied the reward by beta"),
            Wrong(without_reference, "reference is missing"),
            Wrong(reference_as_logit, "stand in the exponent"),
            Wrong(greedy, "without the KL term"),
        ],
        hint="Tilt the reference by `e^(r / beta)`, then make it a distribution.",
    ),
    Exercise(
        name="dpo_derivation.beta_for",
        task="Give the beta at which the optimum gives the right answer probability `target`, if the reference gives "
        "it `p`, and the reward is 1 for it and 0 for all else.",
        difficulty=2,
        minutes=6,
        grade=_grade_beta_for,
        solution=beta_for,
        wrong=[
            Wrong(beta_inverted, "not e^beta"),
            Wrong(beta_of_probabilities, "compared probabilities"),
            Wrong(beta_of_target_alone, "reference's p is missing"),
            Wrong(beta_without_log, "logarithm is missing"),
        ],
        hint="By which factor does a reward of 1 multiply the odds of the right answer against all others?",
    ),
    Exercise(
        name="dpo_derivation.recover_reward",
        task="Recover the rewards (N,) from the log-probabilities (N,) of a policy and its reference, beta, and the "
        "reward of response 0.",
        difficulty=2,
        minutes=8,
        grade=_grade_recover_reward,
        solution=recover_reward,
        wrong=[
            Wrong(no_anchor, "constant is missing"),
            Wrong(anchor_added, "added the anchor to all"),
            Wrong(recovered_without_beta, "Beta is missing"),
            Wrong(recovered_from_policy, "reference is missing"),
            Wrong(recovered_reversed, "swapped"),
        ],
        hint="Up to one number per prompt the reward is `beta * (policy - reference)`. One known reward gives it.",
    ),
    Exercise(
        name="dpo_derivation.expected_loss",
        task="Give the mean DPO loss over all pairs of distinct responses, each counted with both labels as often as "
        "prefs (N, N) says.",
        difficulty=3,
        minutes=12,
        grade=_grade_expected_loss,
        solution=expected_loss,
        wrong=[
            Wrong(with_diagonal, "diagonal"),
            Wrong(mean_of_ordered, "counts each pair twice"),
            Wrong(one_label, "one of each pair's two labels"),
            Wrong(swapped_prefs, "wrong way round"),
            Wrong(majority, "label of the majority"),
            Wrong(without_preferences, "prefs is missing"),
        ],
        hint="A matrix of losses, i chosen and j rejected, times prefs. Which entries are no pairs?",
    ),
    Exercise(
        name="dpo_derivation.ranking_loss",
        task="Give the DPO loss of a ranking under Plackett-Luce, from the gains (K,) on the reference, best first.",
        difficulty=3,
        minutes=10,
        grade=_grade_ranking_loss,
        solution=ranking_loss,
        wrong=[
            Wrong(first_place_only, "first place alone"),
            Wrong(everyone_stays, "must leave the sum"),
            Wrong(all_pairs, "separate comparisons"),
            Wrong(worst_first, "worst to best"),
            Wrong(ranked_without_beta, "Beta is missing"),
            Wrong(log_likelihood, "sign is flipped"),
        ],
        hint="A product of K - 1 softmax probabilities, each over fewer responses than the one before.",
    ),
]
