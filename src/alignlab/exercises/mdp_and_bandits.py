"""Exercises on decision processes and bandits: an index, a chain, its long run, a lasting loss, a judgement."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, same

PULLS, WINS = torch.tensor([4.0, 9.0, 1.0]), torch.tensor([1.0, 6.0, 1.0])
TRANSITIONS = torch.tensor(
    [[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], [[0.1, 0.9, 0.0], [0.3, 0.0, 0.7]], [[1.0, 0.0, 0.0], [0.2, 0.2, 0.6]]]
).double()
POLICY = torch.tensor([[0.8, 0.2], [0.25, 0.75], [0.5, 0.5]]).double()
CHAIN = torch.tensor([[0.75, 0.25, 0.0], [0.3, 0.2, 0.5], [0.6, 0.0, 0.4]]).double()
MEANS = torch.tensor([0.2, 0.7, 0.4, 0.5]).double()
BEHAVIOUR = torch.tensor([[-1.0, -0.5, -2.0], [-0.3, -1.2, -9.0], [-0.7, -0.4, -0.6], [-2.0, -8.0, -8.0]]).double()
TARGET = torch.tensor([[-0.6, -0.4, -1.5], [-0.9, -1.6, -0.1], [-0.5, -0.9, -0.3], [-1.1, -0.2, -0.4]]).double()
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).double()
REWARDS = torch.tensor([1.0, 0.0, 0.5, 1.0]).double()


# ---- solutions
def ucb_index(pulls: Tensor, wins: Tensor) -> Tensor:
    """Average plus sqrt(2 log t / pulls), t the number of all pulls."""
    return wins / pulls + (2 * pulls.sum().log() / pulls).sqrt()


def chain(transitions: Tensor, policy: Tensor) -> Tensor:
    """Average the transitions over the policy's actions."""
    return torch.einsum("sa,sat->st", policy, transitions)


def stationary(matrix: Tensor) -> Tensor:
    """Solve mu P = mu together with sum mu = 1."""
    size = len(matrix)
    equations = torch.cat([matrix.T - torch.eye(size, dtype=matrix.dtype), torch.ones(1, size, dtype=matrix.dtype)])
    wanted = torch.zeros(size + 1, 1, dtype=matrix.dtype)
    wanted[-1] = 1.0
    return torch.linalg.lstsq(equations, wanted).solution[:, 0]


def lasting_loss(means: Tensor, epsilon: float) -> Tensor:
    """A random arm is pulled with probability epsilon, and loses the mean gap."""
    return epsilon * (means.max() - means).mean()


def weighted_estimate(behaviour: Tensor, target: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    """Weights are ratios of whole answers; divide by their sum."""
    weights = ((target - behaviour) * mask).sum(-1).exp()
    return (weights * rewards).sum() / weights.sum()


# ---- wrong answers
def lower_bound(pulls: Tensor, wins: Tensor) -> Tensor:
    return wins / pulls - (2 * pulls.sum().log() / pulls).sqrt()


def no_root(pulls: Tensor, wins: Tensor) -> Tensor:
    return wins / pulls + 2 * pulls.sum().log() / pulls


def own_log(pulls: Tensor, wins: Tensor) -> Tensor:
    return wins / pulls + (2 * pulls.log() / pulls).sqrt()


def without_two(pulls: Tensor, wins: Tensor) -> Tensor:
    return wins / pulls + (pulls.sum().log() / pulls).sqrt()


def wins_alone(pulls: Tensor, wins: Tensor) -> Tensor:
    return wins + (2 * pulls.sum().log() / pulls).sqrt()


def equal_actions(transitions: Tensor, policy: Tensor) -> Tensor:
    return transitions.mean(1)


def likeliest_action(transitions: Tensor, policy: Tensor) -> Tensor:
    return transitions[torch.arange(len(policy)), policy.argmax(-1)]


def turned(transitions: Tensor, policy: Tensor) -> Tensor:
    return chain(transitions, policy).T


def policy_of_the_next(transitions: Tensor, policy: Tensor) -> Tensor:
    return torch.einsum("ta,sat->st", policy, transitions)


def uniform(matrix: Tensor) -> Tensor:
    return torch.full((len(matrix),), 1 / len(matrix), dtype=matrix.dtype)


def column_vector(matrix: Tensor) -> Tensor:
    return stationary(matrix) * len(matrix)


def one_step(matrix: Tensor) -> Tensor:
    return uniform(matrix) @ matrix


def squared(matrix: Tensor) -> Tensor:
    mu = stationary(matrix)
    return mu / mu.norm()


def best_counts_not(means: Tensor, epsilon: float) -> Tensor:
    gap = means.max() - means
    return epsilon * gap.sum() / (len(means) - 1)


def summed_gaps(means: Tensor, epsilon: float) -> Tensor:
    return epsilon * (means.max() - means).sum()


def without_epsilon(means: Tensor, epsilon: float) -> Tensor:
    return (means.max() - means).mean()


def earned(means: Tensor, epsilon: float) -> Tensor:
    return (1 - epsilon) * means.max() + epsilon * means.mean()


def ordinary(behaviour: Tensor, target: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    return (((target - behaviour) * mask).sum(-1).exp() * rewards).mean()


def inverted(behaviour: Tensor, target: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    return weighted_estimate(target, behaviour, mask, rewards)


def mask_forgotten(behaviour: Tensor, target: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    return weighted_estimate(behaviour, target, torch.ones_like(mask), rewards)


def per_token_mean(behaviour: Tensor, target: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    weights = (((target - behaviour) * mask).sum(-1) / mask.sum(-1)).exp()
    return (weights * rewards).sum() / weights.sum()


def naive(behaviour: Tensor, target: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    return rewards.mean()


def log_weights(behaviour: Tensor, target: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    weights = ((target - behaviour) * mask).sum(-1)
    return (weights * rewards).sum() / weights.sum()


# ---- graders
def _grade_ucb(answer: Callable[..., Any]) -> None:
    mistakes = {
        "You subtracted the width: that is the lower end, which never tries what it does not know.": lower_bound(
            PULLS, WINS
        ),
        "The square root is missing: the width is sqrt(2 log t / pulls).": no_root(PULLS, WINS),
        "The logarithm is of all pulls together, not of each arm's own.": own_log(PULLS, WINS),
        "The factor 2 under the root is missing.": without_two(PULLS, WINS),
        "The first term is the average: wins divided by pulls.": wins_alone(PULLS, WINS),
    }
    same(answer(PULLS.clone(), WINS.clone()), ucb_index(PULLS, WINS), "your index", mistakes=mistakes)


def _grade_chain(answer: Callable[..., Any]) -> None:
    mistakes = {
        "You took all actions equally often; weigh them by the policy.": equal_actions(TRANSITIONS, POLICY),
        "You took the likeliest action alone; the policy takes each with its probability.": likeliest_action(
            TRANSITIONS, POLICY
        ),
        "Your matrix is transposed: row s holds the probabilities of where s leads.": turned(TRANSITIONS, POLICY),
        "You weighed by the policy in the next state; the action is chosen in the present one.": policy_of_the_next(
            TRANSITIONS, POLICY
        ),
    }
    same(answer(TRANSITIONS.clone(), POLICY.clone()), chain(TRANSITIONS, POLICY), "your matrix", mistakes=mistakes)


def _grade_stationary(answer: Callable[..., Any]) -> None:
    mistakes = {
        "That is uniform: the right eigenvector, P v = v, or a guess. Mu stands on the left: mu P = mu.": uniform(
            CHAIN
        ),
        "Your numbers sum to the number of states; a distribution sums to 1.": column_vector(CHAIN),
        "That is one step from the uniform distribution; go on until nothing changes.": one_step(CHAIN),
        "You normalized by the length of the vector; divide by the sum.": squared(CHAIN),
    }
    same(answer(CHAIN.clone()), stationary(CHAIN), "your distribution", mistakes=mistakes)


def _grade_lasting(answer: Callable[..., Any]) -> None:
    for epsilon in (0.1, 0.4):
        mistakes = {
            "A random pull may also hit the best arm: the mean is over all K arms.": best_counts_not(MEANS, epsilon),
            "You added the gaps up; a random pull hits one arm, so take their mean.": summed_gaps(MEANS, epsilon),
            "Random pulls come with probability epsilon only.": without_epsilon(MEANS, epsilon),
            "That is what it earns; the loss is what is missing to the best arm.": earned(MEANS, epsilon),
        }
        same(answer(MEANS.clone(), epsilon), lasting_loss(MEANS, epsilon), "your loss", mistakes=mistakes)


def _grade_weighted(answer: Callable[..., Any]) -> None:
    given = BEHAVIOUR, TARGET, MASK, REWARDS
    mistakes = {
        "You divided by the number of answers: that is the ordinary estimate; divide by the sum of the weights.": (
            ordinary(*given)
        ),
        "Your weights are upside down: target over behaviour.": inverted(*given),
        "Padding counts in your weights: multiply by the mask before you sum.": mask_forgotten(*given),
        "You took the mean over tokens; the probability of an answer is the product of all its tokens.": per_token_mean(
            *given
        ),
        "There are no weights: that is what the behaviour earns.": naive(*given),
        "Your weights are log-ratios; take the exponential.": log_weights(*given),
    }
    same(answer(*(x.clone() for x in given)), weighted_estimate(*given), "your estimate", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="mdp_and_bandits.ucb_index",
        task="From pulls (K,), each at least 1, and wins (K,), return UCB1's index of every arm, (K,).",
        difficulty=1,
        minutes=5,
        grade=_grade_ucb,
        solution=ucb_index,
        wrong=[
            Wrong(lower_bound, "subtracted the width"),
            Wrong(no_root, "square root is missing"),
            Wrong(own_log, "all pulls together"),
            Wrong(without_two, "factor 2"),
            Wrong(wins_alone, "first term is the average"),
        ],
        hint="wins / pulls + sqrt(2 log t / pulls), with t = pulls.sum().",
    ),
    Exercise(
        name="mdp_and_bandits.chain",
        task="From transitions (S, A, S) and a policy (S, A), return the matrix (S, S) of the Markov chain left.",
        difficulty=1,
        minutes=5,
        grade=_grade_chain,
        solution=chain,
        wrong=[
            Wrong(equal_actions, "all actions equally often"),
            Wrong(likeliest_action, "likeliest action alone"),
            Wrong(turned, "transposed"),
            Wrong(policy_of_the_next, "present one"),
        ],
        hint="P(s' | s) is the sum over a of pi(a | s) p(s' | s, a): torch.einsum says it in one line.",
    ),
    Exercise(
        name="mdp_and_bandits.stationary",
        task="From a chain's matrix (S, S), rows summing to 1, return its stationary distribution (S,).",
        difficulty=2,
        minutes=8,
        grade=_grade_stationary,
        solution=stationary,
        wrong=[
            Wrong(uniform, "That is uniform"),
            Wrong(column_vector, "sum to the number of states"),
            Wrong(one_step, "one step from the uniform"),
            Wrong(squared, "length of the vector"),
        ],
        hint="Add the equation sum mu = 1 to mu P = mu, or multiply by the matrix a thousand times.",
    ),
    Exercise(
        name="mdp_and_bandits.lasting_loss",
        task="From the arms' chances (K,) and epsilon, return what epsilon-greedy loses per pull once it knows the "
        "best arm: one number.",
        difficulty=2,
        minutes=6,
        grade=_grade_lasting,
        solution=lasting_loss,
        wrong=[
            Wrong(best_counts_not, "also hit the best arm"),
            Wrong(summed_gaps, "added the gaps up"),
            Wrong(without_epsilon, "probability epsilon only"),
            Wrong(earned, "what it earns"),
        ],
        hint="With probability epsilon any of the K arms is pulled, all equally likely. What is lost on average?",
    ),
    Exercise(
        name="mdp_and_bandits.weighted_estimate",
        task="From log-probabilities (N, T) of sampled tokens under the behaviour and under the target, a mask (N, T) "
        "and rewards (N,), return the weighted importance sampling estimate of the target's expected reward.",
        difficulty=3,
        minutes=10,
        grade=_grade_weighted,
        solution=weighted_estimate,
        wrong=[
            Wrong(ordinary, "ordinary estimate"),
            Wrong(inverted, "upside down"),
            Wrong(mask_forgotten, "Padding counts"),
            Wrong(per_token_mean, "mean over tokens"),
            Wrong(naive, "no weights"),
            Wrong(log_weights, "take the exponential"),
        ],
        hint="Sum the masked differences over tokens, take the exponential, then a weighted mean of the rewards.",
    ),
]
